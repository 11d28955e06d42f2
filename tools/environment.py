#!/usr/bin/env python3
"""Make a virtual environment of dependency groups with uv, once, and run a command in it.

    environment.py training --exec COMMAND ...      in .venv-training, with that group
    environment.py streets --exec COMMAND ...       in .venv-streets

uv installs the groups, which pyproject.toml declares, at the versions of requirements.lock. A
stamp, removed first and written last, says what an environment was made from: one that an
interruption left unfinished is made again.

Needs the standard library of Python 3.8 or later. PYTHON names the interpreter to use.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
PACKAGES = {"numpy": "numpy", "cv2": "opencv-python-headless"}
NEEDS = {"": (10, 13, 2), "training": (10, 13, 8), "streets": (11, 11, 3)}
"""First and last Python 3 and the gigabytes of each environment; Blender's bpy fits one Python."""
SEARCH_PATHS = "AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PATH"
INSTALL_PYTHON = "install one, or name one with PYTHON=/path/to/python"
CHECK_INDEX = "is the package index within reach?"
PROBE = """
import importlib.util, json, os, sys, sysconfig
include, site = sysconfig.get_path("include"), sysconfig.get_path("purelib")
print(json.dumps({
    "minor": sys.version_info[1], "include": include, "site": site,
    "header": os.path.exists(os.path.join(include, "Python.h")),
    "modules": [name for name in ("rclpy", "numpy", "cv2") if importlib.util.find_spec(name)],
}))
"""


class SetupError(Exception):
    """The environment cannot be made; the message is one line with the remedy."""


def tell(line: str, end: str = "\n") -> None:
    """Write to stderr: stdout belongs to the command."""
    sys.stderr.write(line + end)
    sys.stderr.flush()


def clean_variables(ros: bool = False) -> dict[str, str]:
    """Return this process's environment without other builds and, unless `ros`, without ROS."""
    unwanted = r"PIP_(PREFIX|ROOT|TARGET|USER)|PYTHONHOME|VIRTUAL_ENV|_ROS_WHEELS_\w+"
    foreign = [str(ROOT)]
    if not ros:
        unwanted += r"|ROS_(DISTRO|(PYTHON_)?VERSION)|RMW_IMPLEMENTATION|PYTHONPATH"
        foreign += filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    env = {name: text for name, text in os.environ.items() if not re.fullmatch(unwanted, name)}
    for name in (*SEARCH_PATHS.split(), "PYTHONPATH"):
        parts = [
            part
            for part in env.pop(name, "").split(os.pathsep)
            if part and not any(f"{part}/".startswith(f"{each}/") for each in foreign)
        ]
        if parts:
            env[name] = os.pathsep.join(parts)
    for pip, uv in (("PIP_FIND_LINKS", "UV_FIND_LINKS"), ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")):
        if pip in env:  # uv does not read the settings of pip
            env.setdefault(uv, ",".join(env[pip].split()))
    return env


def digest(*paths: Path) -> str:
    """Return a SHA-256 over the contents of files."""
    parts = (hashlib.sha256(each.read_bytes()).digest() for each in paths)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def read_stamp(path: Path) -> dict[str, Any]:
    """Return what a part was made from; empty if it was never finished."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def write_stamp(path: Path, stamp: dict[str, Any]) -> None:
    """Write a stamp whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(stamp, indent=1))
    draft.replace(path)


def run(
    title: str,
    command: Sequence[Any],
    log: Path,
    env: dict[str, str],
    cwd: Path = ROOT,
    remedy: str = "see the log",
) -> None:
    """Run a command with its output in `log`; print its title and duration.

    Raises:
        SetupError: It failed; the message has the remedy and the first line that tells of an error.
    """
    tell(f"  {title} ... ", end="")
    started = time.monotonic()
    with log.open("a+") as sink:
        begin = sink.tell()
        words = list(map(str, command))
        status = subprocess.call(words, cwd=str(cwd), env=env, stdout=sink, stderr=sink)
        sink.seek(begin)
        lines = [line.strip() for line in sink if line.strip()]
    tell("failed" if status else f"{time.monotonic() - started:.0f} s")
    if status:
        errors = [each for each in lines if re.search(r"error\b|No space left", each, re.I)]
        reason = (errors or lines[-1:] or [f"status {status}"])[0]
        raise SetupError(f"{title}: {reason}; {remedy} (log: {log})")


def probe(python: Any) -> dict[str, Any]:
    """Return a Python's version, folders and some modules; empty if it does not run."""
    try:
        output = subprocess.check_output([str(python), "-c", PROBE], stderr=subprocess.DEVNULL)
        return dict(json.loads(output))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return {}


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Let one set-up of this repository work at a time; others wait for it."""
    with open(__file__, "r+") as own_source:
        try:
            fcntl.flock(own_source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another set-up of this repository to finish")
            fcntl.flock(own_source, fcntl.LOCK_EX)
        yield


class VirtualEnvironment:
    """A virtual environment of this repository, and the stamp that says it is whole.

    Args:
        name: The group whose environment it is; empty for that of the workspace.
        ros_python: The Python of a ROS installation that it stands on, if any.
        identity: What else makes it anew when it differs.
    """

    def __init__(self, name: str, ros_python: str = "", **identity: Any) -> None:
        self.path = ROOT / (f".venv-{name}" if name else ".venv")
        self.python, self.log = self.path / "bin" / "python", self.path / "setup.log"
        self._stamp = self.path / "ready.json"
        self._oldest, self._newest, self._gigabytes = NEEDS[name]
        self._lock = ROOT / ("training/streets" if name == "streets" else "") / "requirements.lock"
        self._range = f">=3.{self._oldest},<3.{self._newest + 1}"
        # Without the variable it keeps the Python it has, whatever comes first on PATH today.
        known = self.stamp().get("identity", {}).get("wanted", "")
        wanted = os.path.expanduser(os.environ.get("PYTHON", "")) or known
        self.identity = dict(identity, root=str(ROOT), uv=UV, ros=ros_python, wanted=wanted)

    def stamp(self) -> dict[str, Any]:
        """Return its identity, groups and content; empty unless it is whole."""
        return read_stamp(self._stamp) if self.python.exists() else {}

    def ensure(self, groups: Sequence[str], content: str, *arguments: Any) -> bool:
        """Install groups, and what other arguments of uv name, unless they are there.

        Args:
            groups: Names of dependency groups, added to those that are there.
            content: A digest of what else the packages depend on.
            arguments: Further arguments of `uv pip install`.

        Returns:
            Whether anything was installed; `finish` has to be called then.

        Raises:
            SetupError: The name is taken, this machine lacks something, or uv failed.
        """
        old = self.stamp()
        keep = old.get("identity") == self.identity
        names = sorted({*groups, *(old["groups"] if keep else [])})
        pyproject = ROOT / "pyproject.toml"
        self._new = {"identity": self.identity, "groups": names}
        self._new["content"] = content + digest(pyproject, self._lock)
        if old == self._new:
            return False
        tell(f"setting up {self.path.name}")
        self._make(keep)
        wanted = [word for name in names for word in ("--group", f"{pyproject}:{name}")]
        # These of a ROS installation stay: its messages and cv_bridge are compiled with them.
        provided = probe(self.identity["ros"]).get("modules", ()) if self.identity["ros"] else ()
        excludes = self.path / "excludes.txt"
        excludes.write_text("\n".join(PACKAGES[each] for each in provided if each in PACKAGES))
        wanted += ["--constraints", self._lock, "--excludes", excludes, *arguments]
        wanted += ["--python", self.python]
        self._uv(f"packages: {', '.join(names)}", CHECK_INDEX, "pip", "install", *wanted)
        return True

    def finish(self) -> None:
        """Declare it whole."""
        write_stamp(self._stamp, self._new)

    def _make(self, keep: bool) -> None:
        """Open it to changes: empty, unless it can be kept."""
        entries = list(self.path.iterdir()) if self.path.exists() else []
        if entries and self.log not in entries:
            raise SetupError(f"{self.path} was not made by this set-up: move it away first")
        if self._stamp.exists():
            self._stamp.unlink()
        if keep:
            return
        python = self.identity["ros"] or self.identity["wanted"]
        if python:
            self._check(python)
        else:
            python = self._range
        free = shutil.disk_usage(str(ROOT)).free / 1e9
        if free < self._gigabytes:
            raise SetupError(
                f"{free:.1f} GB free at {ROOT}, but {self._gigabytes} GB are needed: make room, "
                "or move the repository to a larger disk"
            )
        # The log stays: after an interruption it says that the rest is ours.
        for entry in (each for each in entries if each not in (self.log, self._stamp)):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(str(entry))
            else:
                entry.unlink()
        self.path.mkdir(exist_ok=True)
        self.log.write_text("")
        options = ["--system-site-packages"] if self.identity["ros"] else []
        options += ["--allow-existing", "--no-python-downloads", "--python", python]
        self._uv(f"Python {python}", INSTALL_PYTHON, "venv", *options, self.path)
        self._check(self.python)

    def _check(self, python: Any) -> None:
        """Raise SetupError unless a Python can be used."""
        found = probe(python)
        if not found:
            raise SetupError(f"{python} does not run: {INSTALL_PYTHON}")
        if not self._oldest <= found["minor"] <= self._newest:
            raise SetupError(
                f"{python} is Python 3.{found['minor']}, but {self._range} is needed: "
                f"{INSTALL_PYTHON}"
            )
        if not found["header"]:
            package = f"python3.{found['minor']}-dev"
            raise SetupError(f"{found['include']} lacks Python.h: sudo apt install {package}")

    def _uv(self, title: str, remedy: str, *arguments: Any) -> None:
        """Run uv, which pip installs first where needed."""
        home, env = ROOT / ".uv", dict(clean_variables(), PIP_USER="0")
        if not (home / UV).exists():
            home.mkdir(exist_ok=True)
            pip = [sys.executable, "-m", "pip", "install", "--upgrade", "--target", str(home)]
            if not importlib.util.find_spec("pip"):
                venv = [sys.executable, "-m", "venv", "--clear", str(home)]
                run("pip", venv, self.log, env, remedy="sudo apt install python3-venv")
                pip = [str(home / "bin" / "python"), "-m", "pip", "install"]
            run("uv", [*pip, UV], self.log, env, remedy=CHECK_INDEX)
            (home / UV).touch()
        run(title, [home / "bin" / "uv", *arguments], self.log, env, remedy=remedy)

    def variables(self) -> dict[str, str]:
        """Return the environment variables of processes that run in it."""
        env = clean_variables(self.identity["ros"])
        path = os.pathsep.join([str(self.python.parent), env.get("PATH", os.defpath)])
        return dict(env, VIRTUAL_ENV=str(self.path), PATH=path)


def main(
    prepare: Callable[[argparse.Namespace], dict[str, str]], parser: argparse.ArgumentParser
) -> int:
    """Prepare an environment, and become the command that follows --exec, if there is one."""
    parser.add_argument("--exec", nargs=argparse.REMAINDER, default=[], help="the command")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with only_one():
            env = prepare(options)
        if options.exec:
            os.execvpe(options.exec[0], options.exec, env)
    except (SetupError, OSError) as error:
        tell(f"set-up: {error}")
        return 1
    except KeyboardInterrupt:
        tell("\nset-up: interrupted; the next run continues it")
        return 130
    return 0


def standalone(options: argparse.Namespace) -> dict[str, str]:
    """Make the environment of one group; return the variables to run in it."""
    packages = (path for path in ROOT.glob("training/**/pyproject.toml"))
    venv = VirtualEnvironment(options.group)
    if venv.ensure([options.group], digest(*sorted(packages))):
        venv.finish()
    return venv.variables()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("group", choices=[name for name in NEEDS if name])
    sys.exit(main(standalone, arguments))
