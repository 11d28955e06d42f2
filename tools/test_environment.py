"""The set-up on machines that lack something, in parts; CI runs it whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import environment  # noqa: E402
import ros_environment  # noqa: E402

SetupError = environment.SetupError


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the tools believe that they stand in an empty repository, on a machine without ROS."""
    root = tmp_path / "repository"
    (root / "ros2_ws" / "src" / "one").mkdir(parents=True)
    (root / "training" / "streets").mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock", "training/streets/requirements.lock"):
        (root / name).write_text("")
    for module in (environment, ros_environment):
        monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(ros_environment, "WORKSPACE", root / "ros2_ws")
    monkeypatch.setattr(ros_environment, "STAMP", root / "ros2_ws" / "install" / "ready.json")
    for name in ("PYTHON", "PYTHONPATH", "ROS_DISTRO", "AMENT_PREFIX_PATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    return root


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Collect commands instead of running them; `uv venv` makes a stand-in for a Python."""
    ran: list[list[str]] = []

    def run(title: str, command: list[Any], log: Path, *_: object, **__: object) -> None:
        ran.append(list(map(str, command)))
        if "venv" in ran[-1]:
            write_python(Path(ran[-1][-1]) / "bin" / "python")

    monkeypatch.setattr(environment, "run", run)
    return ran


def made(commands: list[list[str]]) -> list[list[str]]:
    """Return the commands by which uv made a virtual environment."""
    return [words for words in commands if words[0].endswith("uv") and "venv" in words]


def write_python(path: Path, **answers: object) -> Path:
    """Write a stand-in for a Python that answers the probe."""
    found = {"minor": 11, "include": "/i", "site": "/s", "header": True, "modules": ["rclpy"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{json.dumps({**found, **answers})}'\n")
    path.chmod(0o755)
    return path


def test_probe_of_this_python() -> None:
    found = environment.probe(sys.executable)
    assert found["minor"] == sys.version_info[1]
    assert found["header"] and "numpy" in found["modules"]
    assert environment.probe("/nowhere/python") == {}


@pytest.mark.parametrize(
    ("name", "answers", "message"),
    [
        ("", {"minor": 9}, r"is Python 3\.9, but >=3\.10,<3\.14 is needed: install one, or name"),
        ("training", {"minor": 14}, r"is Python 3\.14, but >=3\.10,<3\.14 is needed"),
        ("streets", {"minor": 12}, r"is Python 3\.12, but >=3\.11,<3\.12 is needed"),
        ("", {"header": False, "minor": 13}, r"lacks Python\.h: sudo apt install python3\.13-dev"),
    ],
)
def test_unsuitable_python_is_named_with_the_remedy(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    commands: list[list[str]],
    name: str,
    answers: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setenv("PYTHON", str(write_python(repository / "old", **answers)))
    with pytest.raises(SetupError, match=message) as caught:
        environment.VirtualEnvironment(name).ensure(["runtime"], "")
    assert "\n" not in str(caught.value)
    assert not commands


def test_named_python_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON", "nonsense")
    with pytest.raises(SetupError, match="nonsense does not run: install one, or name one"):
        environment.VirtualEnvironment("").ensure(["runtime"], "")


def test_python_of_the_ros_installation_is_used(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = write_python(repository / "bare", modules=[])
    ros = write_python(repository / "ros", modules=["rclpy", "numpy"])
    assert ros_environment.find_ros() == ""
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("PYTHON", str(ros))
    assert ros_environment.find_ros() == str(ros)
    monkeypatch.setenv("PYTHON", str(bare))
    with pytest.raises(SetupError, match="name one with PYTHON="):
        ros_environment.find_ros()


def test_another_distribution_is_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert ros_environment.find_ros() == ""
    assert "ROS 2 humble is sourced, Jazzy is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), "no C\\+\\+ compiler, no cmake, no make: sudo apt install build-essential cmake"),
        (("cmake", "make"), "no C\\+\\+ compiler:"),
        (("c++", "make"), "no cmake:"),
        (("g++", "cmake"), "no make:"),
    ],
)
def test_missing_build_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...], message: str
) -> None:
    for name in present:
        write_python(tmp_path / "bin" / name)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(SetupError, match=message):
        ros_environment.check_machine(ros=True)


def test_wheels_need_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_environment.platform, "machine", lambda: "aarch64")
    with pytest.raises(SetupError, match="not on aarch64: install ROS 2 Jazzy"):
        ros_environment.check_machine(ros=False)
    ros_environment.check_machine(ros=True)


@pytest.mark.parametrize("name", ["some one", "a'b", "50%", "{x}"])
def test_odd_path(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(ros_environment, "ROOT", Path("/home") / name)
    with pytest.raises(SetupError, match=r"colcon cannot handle .* move the repository"):
        ros_environment.check_machine(ros=True)


def test_full_disk(monkeypatch: pytest.MonkeyPatch, commands: list[list[str]]) -> None:
    usage = namedtuple("usage", "free")(1.25e9)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SetupError, match=r"1\.2 GB free .* 8 GB are needed: make room"):
        environment.VirtualEnvironment("training").ensure(["training"], "")
    assert not commands


def test_groups_add_up_and_are_installed_once(commands: list[list[str]], repository: Path) -> None:
    def install(*groups: str) -> list[str]:
        del commands[:]
        venv = environment.VirtualEnvironment("")
        if venv.ensure(groups, "", "--requirements", "wheels"):
            venv.finish()
        return [word.rpartition(":")[2] for words in commands for word in words if ":" in word]

    assert install("runtime", "cpu") == ["cpu", "runtime"]
    assert install("runtime", "cpu") == install("runtime") == []
    assert install("runtime", "dev") == ["cpu", "dev", "runtime"]
    assert not made(commands)
    assert install("runtime") == []
    (repository / "requirements.lock").write_text("numpy==2.2\n")
    assert install("runtime") == ["cpu", "dev", "runtime"]


def test_packages_of_a_ros_installation_stay(repository: Path, commands: list[list[str]]) -> None:
    ros = write_python(repository / "ros", modules=["rclpy", "numpy"])
    environment.VirtualEnvironment("", str(ros)).ensure(["runtime"], "")
    (venv,) = made(commands)
    assert "--system-site-packages" in venv
    excludes = commands[-1][commands[-1].index("--excludes") + 1]
    assert Path(excludes).read_text().split() == ["numpy"]


def test_environment_of_someone_else_is_left_alone(commands: list[list[str]]) -> None:
    venv = environment.VirtualEnvironment("")
    (venv.path / "lib").mkdir(parents=True)
    with pytest.raises(SetupError, match="was not made by this set-up: move it away first"):
        venv.ensure(["runtime"], "")
    assert (venv.path / "lib").is_dir() and not commands


def test_interrupted_set_up_is_made_again(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = environment.VirtualEnvironment("")
    assert venv.ensure(["runtime"], "")
    (venv.path / "half").mkdir()
    del commands[:]
    again = environment.VirtualEnvironment("")
    assert again.stamp() == {}
    assert again.ensure(["runtime"], "")
    assert made(commands)
    assert not (venv.path / "half").exists()
    again.finish()
    assert again.stamp()["groups"] == ["runtime"]
    again.python.unlink()
    assert again.stamp() == {}


def test_another_python_makes_it_anew(
    repository: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def python() -> str:
        venv = environment.VirtualEnvironment("")
        if venv.ensure(["runtime"], ""):
            venv.finish()
        return str(venv.stamp()["identity"]["wanted"])

    assert python() == ""
    (repository / ".venv" / "ready.json").write_text('{"identity": {"python": "of old"}}')
    (repository / ".venv" / "lib64").symlink_to("lib")
    first, second = (str(write_python(repository / name)) for name in ("first", "second"))
    for name in (first, second):
        monkeypatch.setenv("PYTHON", name)
        assert python() == name
    monkeypatch.delenv("PYTHON")
    assert python() == second
    assert len(made(commands)) == 3


def test_cmake_files_of_the_wheels_are_repaired(tmp_path: Path) -> None:
    file, cached = tmp_path / "std_msgs" / "cmake" / "targets.cmake", tmp_path / "cache"
    file.parent.mkdir(parents=True)
    builder = "/opt/python/cp312-cp312"
    original = (
        f'"{builder}/include/python3.12;'
        f'{builder}/lib/python3.12/site-packages/numpy/_core/include;${{_PREFIX}}/include"'
    )
    cached.write_text(original)
    os.link(cached, file)
    for _ in range(2):
        ros_environment.repair_cmake(tmp_path, "/usr/include/python3.12", "/venv/site")
        assert file.read_text() == (
            '"/usr/include/python3.12;/venv/site/numpy/_core/include;${_PREFIX}/include"'
        )
    assert cached.read_text() == original


def test_another_installation_does_not_leak_in(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = repository / "ros2_ws" / "install" / "one"
    monkeypatch.setenv("ROS_DISTRO", "humble")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{own}:/opt/ros/humble")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{own}/lib:/opt/ros/humble/lib:/opt/cuda/lib")
    monkeypatch.setenv("PATH", "/opt/ros/humble/bin:/usr/bin")
    wheels, sourced = environment.clean_variables(), environment.clean_variables(ros=True)
    assert "ROS_DISTRO" not in wheels and "AMENT_PREFIX_PATH" not in wheels
    assert (wheels["LD_LIBRARY_PATH"], wheels["PATH"]) == ("/opt/cuda/lib", "/usr/bin")
    assert sourced["AMENT_PREFIX_PATH"] == "/opt/ros/humble"
    assert sourced["LD_LIBRARY_PATH"] == "/opt/ros/humble/lib:/opt/cuda/lib"


def test_settings_of_pip_hold_for_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels  /more")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    env = environment.clean_variables()
    assert env["UV_FIND_LINKS"] == "/wheels,/more" and "PIP_TARGET" not in env
    monkeypatch.setenv("UV_FIND_LINKS", "/mine")
    assert environment.clean_variables()["UV_FIND_LINKS"] == "/mine"


def test_workspace_depends_on_names_and_on_what_is_compiled(repository: Path) -> None:
    package = repository / "ros2_ws" / "src" / "one"
    (package / "node.py").write_text("1")
    (package / "package.xml").write_text("<a/>")
    before = ros_environment.digest_sources()
    (package / "node.py").write_text("2")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "node.pyc").touch()
    assert ros_environment.digest_sources() == before
    (package / "package.xml").write_text("<b/>")
    changed = ros_environment.digest_sources()
    assert changed != before
    (package / "other.py").touch()
    assert ros_environment.digest_sources() != changed


def test_command_behind_a_line_of_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, env = tmp_path / "log", dict(os.environ)
    command = ["sh", "-c", "echo fine; echo 'ERROR: no such package'; echo bye; exit 3"]
    with pytest.raises(SetupError) as caught:
        environment.run("packages", command, log, env, remedy="do this")
    assert str(caught.value) == f"packages: ERROR: no such package; do this (log: {log})"
    assert capsys.readouterr() == ("", "  packages ... failed\n")
    environment.run("nothing", ["true"], log, env)


def test_second_set_up_waits() -> None:
    folder = str(ROOT / "tools")
    script = f"import sys; sys.path.insert(0, {folder!r}); import environment\n"
    script += "with environment.only_one(): print('done')"
    with environment.only_one():
        other = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert other.stderr is not None
        assert b"waiting for another set-up" in other.stderr.readline()
        assert other.poll() is None
    assert other.communicate(timeout=30)[0] == b"done\n"


def test_lock_holds_every_dependency_with_hashes_and_names_no_index() -> None:
    locks = (ROOT / "requirements.lock", ROOT / "training" / "streets" / "requirements.lock")
    lock = "".join(path.read_text() for path in locks)
    pins = re.findall(r"^([\w.-]+)==[^\n]*\\\n    --hash=sha256:", lock, re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text()
    groups = project.partition("[dependency-groups]")[2].partition("\n[")[0]
    wanted = re.findall(r'"([^"]+)"', re.sub(r"include-group = \S+", "", groups))
    wanted += (ROOT / "tools" / "ros2-jazzy-wheels.txt").read_text().splitlines()
    names = [match[0] for each in wanted if (match := re.match(r"[a-z][\w.-]*", each, re.I))]
    assert len(names) > 50
    missing = {name.lower() for name in names} - set(pins)
    own = {f"gosvae-{name}" for name in ("codec", "common", "streets", "tools", "training")}
    assert missing <= own
    assert "://" not in lock
