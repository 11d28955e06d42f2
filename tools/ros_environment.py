#!/usr/bin/env python3
"""Make the environment of the ROS workspace, once, and run a command in it.

    ros_environment.py --exec COMMAND ...                    runtime packages, ROS 2, ros2_ws built
    ros_environment.py --with view,dev --exec COMMAND ...    the same with more dependency groups

It is the virtual environment .venv and the colcon workspace built with it. A sourced ROS 2 Jazzy
is used; elsewhere ROS 2 comes from wheels.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from environment import (
    ROOT,
    SetupError,
    VirtualEnvironment,
    digest,
    main,
    probe,
    read_stamp,
    run,
    tell,
    write_stamp,
)

WHEELS = ROOT / "tools" / "ros2-jazzy-wheels.txt"
WORKSPACE = ROOT / "ros2_ws"
STAMP = WORKSPACE / "install" / "ready.json"
BUILT_FROM = r"(package\.xml|setup\.(py|cfg)|pyproject\.toml|CMakeLists\.txt|.+\.(msg|srv|action))"
NOT_SOURCES = r"^\.|^__pycache__$|\.egg-info$"


def find_ros() -> str:
    """Return the Python of the sourced ROS 2 Jazzy, or an empty string where none is sourced.

    Raises:
        SetupError: It is sourced, but no Python here imports its rclpy.
    """
    distro, wanted = os.environ.get("ROS_DISTRO", ""), os.environ.get("PYTHON", "")
    if distro != "jazzy":
        if distro:
            tell(f"ROS 2 {distro} is sourced, Jazzy is needed: using wheels instead")
        return ""
    for python in [os.path.expanduser(wanted)] if wanted else ["/usr/bin/python3", sys.executable]:
        if "rclpy" in probe(python).get("modules", ()):
            return python
    raise SetupError(
        "no Python here imports rclpy of the sourced ROS 2: name one with PYTHON=/path/to/python"
    )


def check_machine(ros: bool) -> None:
    """Raise SetupError where the workspace cannot be built."""
    if not ros and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            f"the ROS 2 wheels are for Linux on x86_64, not on {platform.machine()}: install "
            "ROS 2 Jazzy and source its setup.bash first"
        )
    missing = [tool for tool in ("cmake", "make") if not shutil.which(tool)]
    if not any(map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))):
        missing.insert(0, "C++ compiler")
    if missing:
        raise SetupError(f"no {', no '.join(missing)}: sudo apt install build-essential cmake")
    odd = re.search(r"[^\w./+@~-]", str(ROOT))
    if odd:
        raise SetupError(f"colcon cannot handle {odd[0]!r} in {str(ROOT)!r}: move the repository")


def repair_cmake(share: Path, include: str, site: str) -> None:
    """Put this machine's paths into CMake files of the wheels, which carry their builder's."""
    builder = r"/opt/python/cp3\d+-cp3\d+"
    for path in share.rglob("*.cmake"):
        old = path.read_text()
        new = re.sub(builder + r"/include/python3\.\d+", lambda _: include, old)
        new = re.sub(builder + r"/lib/python3\.\d+/site-packages", lambda _: site, new)
        if new != old:
            path.unlink()  # uv may have linked it to its cache
            path.write_text(new)


def digest_sources() -> str:
    """Return a digest of names, as Python files and data are linked, and of what is compiled."""
    total = hashlib.sha256()
    for top in (WORKSPACE / "src", ROOT / "models", ROOT / "drives"):
        for folder, folders, files in os.walk(str(top), followlinks=True):
            folders[:] = sorted(name for name in folders if not re.search(NOT_SOURCES, name))
            for path in (Path(folder, name) for name in sorted(files)):
                total.update(str(path.relative_to(ROOT)).encode() + b"\0")
                if re.fullmatch(BUILT_FROM, path.name):
                    total.update(digest(path).encode())
    return total.hexdigest()


def describe_build(identity: dict[str, Any], sources: str) -> dict[str, Any]:
    """Return what the workspace is built from; another tool's colcon makes for another `build`."""
    latest = WORKSPACE / "log" / "latest_build"
    build = os.readlink(str(latest)) if latest.is_symlink() else ""
    return {"identity": identity, "sources": sources, "build": build}


def build(venv: VirtualEnvironment) -> None:
    """Build the workspace unless it is built from the present sources in the present environment.

    Raises:
        SetupError: A package does not build.
    """
    # Those from before the build: a change during it asks for another one.
    sources, old = digest_sources(), read_stamp(STAMP)
    if old == describe_build(venv.identity, sources):
        return
    made = [WORKSPACE / "build", WORKSPACE / "install"]
    if old.get("identity") == venv.identity:
        STAMP.unlink()
        # setup.py would take links to files that are gone for data to install.
        for path in (path for folder in made for path in folder.rglob("*")):
            if path.is_symlink() and not path.exists():
                path.unlink()
    else:
        for folder in made:
            shutil.rmtree(str(folder), ignore_errors=True)
    log = WORKSPACE / "log" / "setup.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("")
    command = [venv.python, "-m", "colcon", "build", "--base-paths", "src", "--symlink-install"]
    command += ["--cmake-args", f"-DPython3_EXECUTABLE={venv.python}"]
    run("ROS packages of ros2_ws", command, log, variables(venv), WORKSPACE)
    write_stamp(STAMP, describe_build(venv.identity, sources))


def variables(venv: VirtualEnvironment) -> dict[str, str]:
    """Return the environment variables of processes that run in it, but for the workspace's."""
    env = dict(venv.variables(), COLCON_HOME=str(venv.path / "colcon"))
    if venv.identity["ros"]:
        # `ros2 launch` and apt's colcon run the installation's Python, not this one.
        parts = [*map(str, venv.path.glob("lib/python3*/site-packages")), env.get("PYTHONPATH", "")]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, parts))
        return env
    libraries = [venv.path / "lib", *venv.path.glob("lib/python3*/site-packages/ros_*.libs")]
    parts = [*map(str, libraries), env.get("LD_LIBRARY_PATH", "")]
    env["AMENT_PREFIX_PATH"] = env["CMAKE_PREFIX_PATH"] = str(venv.path)
    env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, parts))
    # The wheels start every Python twice to set that variable, unless this one is set.
    env["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    return env


def prepare(options: argparse.Namespace) -> dict[str, str]:
    """Make environment and workspace as far as needed; return the variables to run in them.

    Raises:
        SetupError: This machine lacks something.
    """
    ros = find_ros()
    gpu = platform.machine() == "x86_64" and bool(shutil.which("nvidia-smi"))
    venv = VirtualEnvironment("", ros, gpu=gpu, wheels=digest(WHEELS))
    groups = ["runtime", "gpu" if gpu else "cpu", "build", *filter(None, options.groups.split(","))]
    if not venv.stamp() or not STAMP.exists():
        check_machine(bool(ros))
    if venv.ensure(groups, "", *([] if ros else ["--requirements", WHEELS])):
        found = probe(venv.python)
        if not ros:
            repair_cmake(venv.path / "share", found["include"], found["site"])
        if "rclpy" not in found["modules"]:
            raise SetupError(f"{venv.python} cannot import rclpy (log: {venv.log})")
        venv.finish()
    build(venv)
    if options.exec:
        source = ["bash", "-c", '. "$0" && exec "$@"', str(WORKSPACE / "install" / "setup.bash")]
        options.exec = [*source, *options.exec]
    own = [path for path in WORKSPACE.glob("install/*/lib/*") if path.name == path.parts[-3]]
    env = variables(venv)
    return dict(env, PATH=os.pathsep.join([*map(str, own), env["PATH"]]))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--with", dest="groups", default="", help="more groups, as view,dev")
    sys.exit(main(prepare, arguments))
