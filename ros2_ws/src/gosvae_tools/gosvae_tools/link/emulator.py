"""Two network namespaces on one machine, joined by a thin, lossy link in user space.

    with EmulatedLink(LinkSpec.parse("loss=10% delay=50ms")) as link, link.inside(EDGE):
        subprocess.run([*link.command(VEHICLE), "ping", "-c", "3", link.address(EDGE)])

Each side has an Ethernet device of its own, a TAP, and a process here applies a
:class:`.link.Channel` to every frame in each direction. That needs no netem in the kernel, but
root. A side also has a /dev/shm of its own, or else DDS would go past the link through shared
memory.

Nothing has a name on the machine, and nothing is left behind however this process ends: a namespace
lasts as long as processes are in it, a TAP as long as it is open, and the processes that keep them
end with the pipe to their parent.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import fcntl
import heapq
import itertools
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from .channel import Channel, Counters, LinkError, LinkSpec

Side = Literal["vehicle", "edge"]
VEHICLE: Side = "vehicle"
EDGE: Side = "edge"
SIDES = (VEHICLE, EDGE)

DEVICE = "link"
"""Name of each side's end of the link."""

_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWNET = 0x00000200, 0x00020000, 0x40000000
_FRAME_BYTES = 65536

# IPv6 would send router solicitations and multicast reports of its own over the link.
_KEEP = """
mount -t tmpfs -o mode=1777 gosvae /dev/shm || exit
if [ -e /proc/sys/net/ipv6 ]; then echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; fi
echo; exec cat
"""


class EmulatedLink:
    """The link and its two sides, while the ``with`` block lasts.

    Args:
        spec: what each direction does, with random numbers of its own.

    Raises:
        LinkError: on entering: this process is not root, or the machine cannot do it.
    """

    def __init__(self, spec: LinkSpec) -> None:
        self.spec = spec
        self._keepers: dict[Side, subprocess.Popen[str]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> EmulatedLink:
        if reason := unavailable():
            raise LinkError(reason)
        with ExitStack() as stack:
            for side in SIDES:
                command = ["unshare", "--net", "--mount", "sh", "-c", _KEEP]
                self._keepers[side] = stack.enter_context(_child(command))
                _answer(self._keepers[side], f"the {side}'s namespaces cannot be made")
            taps = [os.fdopen(self._open_tap(side), "r+b", 0) for side in SIDES]
            with taps[0], taps[1]:
                numbers = [str(tap.fileno()) for tap in taps]
                command = [sys.executable, "-m", __name__, *numbers]
                command.append(json.dumps(dataclasses.asdict(self.spec)))
                self._relay = stack.enter_context(_child(command, map(int, numbers)))
            self.counters()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def address(self, side: Side) -> str:
        """Return the IPv4 address of a side's end of the link."""
        return f"10.0.0.{1 + SIDES.index(side)}"

    def command(self, side: Side) -> list[str]:
        """Return what goes before a command so that it runs on that side."""
        return ["nsenter", "--target", str(self._keepers[side].pid), "--net", "--mount"]

    def counters(self) -> dict[Side, Counters]:
        """Return what became so far of the Ethernet frames that each side sent.

        Raises:
            LinkError: the relay has died.
        """
        assert self._relay.stdin is not None
        with suppress(BrokenPipeError):  # what was amiss shows in the missing answer
            self._relay.stdin.write("\n")
            self._relay.stdin.flush()
        answer = json.loads(_answer(self._relay, "the relay has died"))
        return {side: Counters(**answer[side]) for side in SIDES}

    @contextmanager
    def inside(self, side: Side) -> Iterator[None]:
        """Put the calling thread, and the threads and processes it starts, on that side."""
        kinds = (("net", _CLONE_NEWNET), ("mnt", _CLONE_NEWNS))
        folder = Path.cwd()

        def enter(namespaces: Sequence[IO[bytes]]) -> None:
            # Mount namespaces are for threads that share no working directory with others.
            _call("unshare", _CLONE_FS)
            for namespace, (_, kind) in zip(namespaces, kinds, strict=True):
                _call("setns", namespace.fileno(), kind)
            os.chdir(folder)

        with ExitStack() as stack:
            outside = [stack.enter_context(_namespace("thread-self", name)) for name, _ in kinds]
            pid = str(self._keepers[side].pid)
            there = [stack.enter_context(_namespace(pid, name)) for name, _ in kinds]
            try:
                enter(there)
                yield
            finally:
                enter(outside)

    def _open_tap(self, side: Side) -> int:
        """Open a new TAP, and make it the side's end of the link."""
        tap = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        try:
            name = f"gosvae{os.getpid() % 10**7}{side[0]}"
            request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
            fcntl.ioctl(tap, _TUNSETIFF, request)
            _ip([], f"link set dev {name} netns {self._keepers[side].pid}")
            place = SIDES.index(side)
            other = SIDES[1 - place]
            _ip(
                self.command(side),
                "link set dev lo up",
                f"link set dev {name} name {DEVICE} address 02:00:00:00:00:0{place}",
                f"address add {self.address(side)}/24 brd + dev {DEVICE}",
                f"link set dev {DEVICE} up",
                f"route add 224.0.0.0/4 dev {DEVICE}",
                # Links of this kind repeat lost address resolutions sooner than ARP's one second.
                f"neighbour add {self.address(other)} lladdr 02:00:00:00:00:0{1 - place} "
                f"dev {DEVICE} nud permanent",
            )
        except BaseException:
            os.close(tap)
            raise
        return tap


def unavailable() -> str:
    """Return in one line why this process cannot emulate a link; empty if it can."""
    if os.geteuid() != 0:
        return "a link between network namespaces needs root: run it with sudo"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"a link needs {_TUN}: run `modprobe tun`, or give the container that device"
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            return f"a link needs the command {tool}: apt install {package}"
    return ""


def relay(taps: Sequence[int], channels: Sequence[Channel], control: int, answers: IO[str]) -> None:
    """Carry Ethernet frames from each TAP to the other, until `control` is closed.

    Args:
        taps: descriptors that do not block.
        channels: what happens to the frames from each.
        control: descriptor; each byte from it is answered with the counters in one line of JSON.
        answers: where to.
    """
    under_way: list[tuple[float, int, int, bytes]] = []
    order = itertools.count()
    while True:
        timeout = max(under_way[0][0] - time.monotonic(), 0) if under_way else None
        ready, _, _ = select.select([*taps, control], [], [], timeout)
        for place, (tap, channel) in enumerate(zip(taps, channels, strict=True)):
            with suppress(BlockingIOError):
                while tap in ready:
                    frame = os.read(tap, _FRAME_BYTES)
                    arrival = channel.send(time.monotonic(), len(frame))
                    if arrival is not None:
                        heapq.heappush(under_way, (arrival, next(order), taps[1 - place], frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, tap, frame = heapq.heappop(under_way)
            with suppress(OSError):  # a side that is going down, or has no room
                os.write(tap, frame)
        if control in ready:
            if not (asked := os.read(control, 64)):
                return
            counts = [dataclasses.asdict(channel.counters) for channel in channels]
            line = json.dumps(dict(zip(SIDES, counts, strict=True)))
            answers.write(f"{line}\n" * len(asked))
            answers.flush()


def _child(command: Sequence[str], descriptors: Iterator[int] | Sequence[int] = ()) -> _Child:
    return _Child(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=tuple(descriptors),
        # Ctrl-C in a terminal is for the parent, which still needs these for a while.
        start_new_session=True,
    )


class _Child(subprocess.Popen[str]):
    """A process that ends when its input does: with this block, or with this process."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(BrokenPipeError):
            self.communicate()


def _answer(child: subprocess.Popen[str], problem: str) -> str:
    """Return the line that a child says next; raise LinkError where it has ended instead."""
    assert child.stdout is not None and child.stderr is not None
    if not (line := child.stdout.readline()):
        words = child.stderr.read().strip().splitlines()
        raise LinkError(f"{problem}: {words[-1] if words else 'without a word'}")
    return line


def _ip(prefix: Sequence[str], *lines: str) -> None:
    done = subprocess.run(
        [*prefix, "ip", "-batch", "-"],
        input="\n".join(lines),
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise LinkError(f"the link cannot be made: {done.stderr.strip().splitlines()[0]}")


_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: int) -> None:
    if getattr(_LIBC, function)(*arguments):
        number = ctypes.get_errno()
        raise LinkError(f"{function}{arguments}: {os.strerror(number)}")


def _namespace(process: str, kind: str) -> IO[bytes]:
    return open(f"/proc/{process}/ns/{kind}", "rb")


def main() -> None:
    """Run the relay: descriptors of the two TAPs, and the specification as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("taps", type=int, nargs=2)
    parser.add_argument("spec", type=json.loads)
    arguments = parser.parse_args()
    # A millisecond late is late for the link, and it takes hardly any time itself.
    with suppress(OSError):  # not every container lets root have it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    channels = [Channel(LinkSpec(**arguments.spec), side) for side in SIDES]
    relay(arguments.taps, channels, sys.stdin.fileno(), sys.stdout)


if __name__ == "__main__":
    main()
