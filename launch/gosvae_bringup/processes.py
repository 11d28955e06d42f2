"""Nodes as processes of this one: started from the ament index, watched, and stopped together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from gosvae_common.errors import UsageError

from .pipeline import Node

GRACE = ((signal.SIGTERM, 13.0), (signal.SIGKILL, 3.0))
"""Signals that stop a process, each with the seconds to wait before the next one. Not SIGINT, for
which Python prints a traceback while it still imports a node."""

DRAIN_SECONDS = 2.0
"""Time for which nodes go on after the end of a drive, for packets that are still on their way."""

RESPAWN_SECONDS = 2.0
"""After which a failed node is started again, where that is asked for."""


class Ended(NamedTuple):
    """A process that ended; `status` is that of a shell, 128 + number for a signal."""

    node: Node
    status: int

    @classmethod
    def of(cls, node: Node, returncode: int) -> Ended:
        """Return the end of a process by Python's return code, negative for a signal."""
        return cls(node, returncode if returncode >= 0 else 128 - returncode)

    @property
    def means(self) -> Literal["failure", "respawn", "end of drive", "nothing"]:
        """What follows: all stop, it starts again, all stop after draining, or nothing."""
        if self.node.lifetime == "viewer":
            return "nothing"
        if self.node.lifetime == "drive" and not self.status:
            return "end of drive"
        return "respawn" if self.node.respawn else "failure"

    def __str__(self) -> str:
        with suppress(ValueError):  # no signal has that number
            return f"{self.node.name} died of {signal.Signals(self.status - 128).name}"
        return f"{self.node.name} ended with status {self.status}"


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Let Linux send SIGTERM when the parent ends, as one killed by SIGKILL cannot do it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


class Processes:
    """Processes that stop at the latest when the `with` block ends.

    Args:
        environment: on top of this process's own.
        logs: folder for one file of output per node; None: this process's own output.
    """

    def __init__(self, environment: Mapping[str, str], logs: Path | None = None) -> None:
        self._environment = {**os.environ, **environment}
        self.logs = logs
        self._running: list[tuple[Node, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, node: Node, prefix: Sequence[str] = ()) -> int:
        """Start a node, which ends with the calling thread at the latest.

        Args:
            node: what to start.
            prefix: a command that becomes the one that follows it, as `env` and `nsenter` do.

        Returns:
            The number of its process.

        Raises:
            UsageError: it is not built.
        """
        command = [
            *prefix,
            *(str(find_executable(node.package, node.executable)), *node.arguments),
            *("--ros-args", *node.ros_arguments),
        ]
        output = None if self.logs is None else self.log(node).open("wb")
        try:
            # In a session of its own, so that Ctrl-C in a terminal reaches it through us alone.
            process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output and subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        finally:
            if output is not None:
                output.close()
        self._running.append((node, process))
        return process.pid

    def log(self, node: Node) -> Path:
        """Return the file of the node's output; only where there is a folder for them."""
        assert self.logs is not None
        return self.logs / f"{node.name}.log"

    def ended(self) -> list[Ended]:
        """Return the processes that ended since the last call."""
        ended = []
        running = []
        for node, process in self._running:
            status = process.poll()
            if status is None:
                running.append((node, process))
            else:
                ended.append(Ended.of(node, status))
        self._running = running
        return ended

    def stop(self) -> list[Ended]:
        """Stop all that still run, and return how they ended."""
        ended: list[Ended] = []
        for number, seconds in GRACE:
            for _, process in self._running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + seconds
            while self._running and time.monotonic() < deadline:
                ended += self.ended()
                time.sleep(0.02)
        return ended


def find_executable(package: str, executable: str) -> Path:
    """Return the path of a package's executable.

    Raises:
        UsageError: package or executable are not installed.
    """
    try:
        path = Path(get_package_prefix(package)) / "lib" / package / executable
    except PackageNotFoundError:
        path = None
    if path is None or not os.access(path, os.X_OK):
        raise UsageError(
            f"{executable} of {package} is not installed: "
            "build the workspace and source its install/setup.bash"
        )
    return path
