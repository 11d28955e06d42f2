from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).with_name("setup_environment.py")
ANSWER = (
    '{{"executable": "{path}", "version": [{version}], "cpython": true, '
    '"venv": {venv}, "header": {header}, "ros": {ros}}}'
)


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool as if it stood in a repository of its own, on a machine without ROS."""
    repository = tmp_path / "repository"
    for folder in ("tools", "ros2_ws/src/one"):
        (repository / folder).mkdir(parents=True)
    copy = repository / "tools" / SOURCE.name
    shutil.copy(SOURCE, copy)
    specification = importlib.util.spec_from_file_location("setup_under_test", copy)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for name in (*module._OF_ROS, *module._OF_PYTHON, "PYTHON"):
        monkeypatch.delenv(name, raising=False)
    return module


def write_python(
    path: Path, version: str = "3, 11, 2", venv: bool = True, header: bool = True, ros: bool = False
) -> Path:
    """Write a stand-in for a Python that answers the probe."""
    flags = {name: str(value).lower() for name, value in locals().items() if value in (True, False)}
    answer = ANSWER.format(path=path, version=version, **flags)
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_interpreter_in_a_virtual_environment_answers_for_its_base(setup: ModuleType) -> None:
    found = setup.inspect_interpreter(sys.executable)
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert not Path(found.executable).is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ({"version": "3, 9, 2"}, "is Python 3.9.2, but CPython 3.10 to 3.13 is needed"),
        ({"version": "3, 14, 0"}, "is Python 3.14.0, but CPython 3.10 to 3.13 is needed"),
        ({"venv": False}, "sudo apt install python3.11-venv"),
        ({"header": False}, "sudo apt install python3.11-dev"),
    ],
)
def test_unsuitable_interpreter_is_named_with_the_remedy(
    setup: ModuleType, tmp_path: Path, python: dict, message: str
) -> None:
    path = write_python(tmp_path / "bin" / "python3", **python)
    with pytest.raises(setup.SetupError, match=message) as caught:
        setup.choose_interpreter(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_named_interpreter_that_does_not_run(setup: ModuleType) -> None:
    with pytest.raises(setup.SetupError, match="PYTHON=nonsense does not run"):
        setup.choose_interpreter("nonsense")


@pytest.mark.parametrize("version", ["3, 12, 1", "3, 10, 4"])
def test_blender_fits_one_python(setup: ModuleType, tmp_path: Path, version: str) -> None:
    path = write_python(tmp_path / "bin" / "python3", version=version)
    with pytest.raises(setup.SetupError, match=r"fits CPython 3\.11 alone, and PYTHON=") as caught:
        setup.make_streets_environment(str(path))
    assert "\n" not in str(caught.value)


def test_another_interpreter_on_path_steps_in(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_python(tmp_path / "bin" / "python3", version="3, 9, 2")
    suitable = write_python(tmp_path / "bin" / "python3.12", version="3, 12, 1")
    monkeypatch.setattr(setup.sys, "executable", str(old))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(setup, "_on_path", lambda names: [str(old), str(suitable)])
    assert setup.choose_interpreter("").executable == str(suitable)


def test_interpreter_of_the_ros_installation_goes_first(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write_python(tmp_path / "bin" / "python3")
    ros = write_python(tmp_path / "bin" / "python3.12", version="3, 12, 3", ros=True)
    monkeypatch.setattr(setup, "_on_path", lambda names: [str(plain), str(ros)])
    assert setup.choose_interpreter("").ros


def test_lacking_package_is_reported_before_a_wrong_version(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_python(tmp_path / "bin" / "python3", version="3, 9, 2")
    bare = write_python(tmp_path / "bin" / "python3.11", venv=False)
    monkeypatch.setattr(setup, "_on_path", lambda names: [str(old), str(bare)])
    with pytest.raises(setup.SetupError, match=r"python3\.11-venv"):
        setup.choose_interpreter("")


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), "no C\\+\\+ compiler, no cmake, no make"),
        (("cmake", "make"), "no C\\+\\+ compiler:"),
        (("c++", "make"), "no cmake:"),
    ],
)
def test_missing_build_tools(
    setup: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    present: tuple[str, ...],
    message: str,
) -> None:
    for name in present:
        write_python(tmp_path / "bin" / name)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(setup.SetupError, match=message):
        setup.check_machine(ros=True)


def test_wheels_need_x86_64(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.platform, "machine", lambda: "aarch64")
    with pytest.raises(setup.SetupError, match="Linux on aarch64"):
        setup.check_machine(ros=False)


def test_path_with_a_space(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "ROOT", Path("/home/some one/gosvae"))
    with pytest.raises(setup.SetupError, match="contains ' '"):
        setup.check_machine(ros=True)


def test_full_disk(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")(1.25e9)
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(setup.SetupError, match=r"1\.2 GB free .* about 2 GB are needed"):
        setup.check_space(2e9)


def test_cmake_files_of_the_wheels_are_repaired(setup: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "std_msgs" / "cmake" / "targets.cmake"
    file.parent.mkdir(parents=True)
    builder = "/opt/python/cp312-cp312"
    file.write_text(
        f'"{builder}/include/python3.12;'
        f'{builder}/lib/python3.12/site-packages/numpy/_core/include;${{_PREFIX}}/include"'
    )
    assert setup.repair_cmake(tmp_path, "/usr/include/python3.12", "/venv/site-packages") == 1
    assert file.read_text() == (
        '"/usr/include/python3.12;/venv/site-packages/numpy/_core/include;${_PREFIX}/include"'
    )
    assert setup.repair_cmake(tmp_path, "/usr/include/python3.12", "/venv/site-packages") == 0


def test_one_build_of_onnxruntime(setup: ModuleType) -> None:
    requirements = ["numpy>=1", "onnxruntime>=1.19,<2"]
    assert setup.choose_onnxruntime(requirements, gpu=False) == requirements
    assert setup.choose_onnxruntime(requirements, gpu=True)[1] == "onnxruntime-gpu>=1.19,<2"


def test_another_distribution_does_not_leak_in(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = setup.ROOT / "ros2_ws" / "install" / "one"
    monkeypatch.setenv("ROS_DISTRO", "humble")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{own}:/opt/ros/humble")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{own}/lib:/opt/ros/humble/lib:/opt/cuda/lib")
    monkeypatch.setenv("PATH", "/opt/ros/humble/bin:/usr/bin")
    wheels, installation = setup.clean_environment(False), setup.clean_environment(True)
    assert "ROS_DISTRO" not in wheels and "AMENT_PREFIX_PATH" not in wheels
    assert (wheels["LD_LIBRARY_PATH"], wheels["PATH"]) == ("/opt/cuda/lib", "/usr/bin")
    assert installation["AMENT_PREFIX_PATH"] == "/opt/ros/humble"
    assert installation["LD_LIBRARY_PATH"] == "/opt/ros/humble/lib:/opt/cuda/lib"


def test_environment_of_someone_else_is_left_alone(setup: ModuleType) -> None:
    venv = setup.VirtualEnvironment(".venv")
    (venv.path / "lib").mkdir(parents=True)
    with pytest.raises(setup.SetupError, match="was not made by this set-up"):
        venv.begin({"ros": False}, 0)
    assert (venv.path / "lib").is_dir()


def test_unfinished_environment_is_not_used(setup: ModuleType) -> None:
    venv = setup.VirtualEnvironment(".venv")
    venv.python.parent.mkdir(parents=True)
    venv.python.touch()
    assert venv.stamp() == {}
    venv.finish({"python": "x"}, "content")
    assert venv.stamp() == {"identity": {"python": "x"}, "content": "content"}
    venv.python.unlink()
    assert venv.stamp() == {}


def test_what_the_benchmark_needs_is_added_once(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = []

    def install(_: object, title: str, requirements: list[str], env: dict[str, str]) -> None:
        installed.append(requirements)

    monkeypatch.setattr(setup.VirtualEnvironment, "install", install)
    folder = setup.ROOT / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    setup.write_stamp(folder / "ready.json", {"identity": {"ros": False}, "content": ""})
    (setup.ROOT / "bench").mkdir()
    setup.BENCH_REQUIREMENTS.write_text("# Compared with.\none>=1\n")
    for _ in range(2):
        setup.add_benchmark()
    assert installed == [["one>=1"]]
    setup.BENCH_REQUIREMENTS.write_text("two>=1\n")
    setup.add_benchmark()
    assert installed[1:] == [["two>=1"]]


def test_workspace_depends_on_names_and_on_what_is_compiled(setup: ModuleType) -> None:
    workspace = setup.Workspace()
    package = workspace.path / "src" / "one"
    (package / "node.py").write_text("1")
    (package / "package.xml").write_text("<a/>")
    before = workspace.sources()
    (package / "node.py").write_text("2")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "node.pyc").touch()
    assert workspace.sources() == before
    (package / "package.xml").write_text("<b/>")
    changed = workspace.sources()
    assert changed != before
    (package / "other.py").touch()
    assert workspace.sources() != changed


def test_command_behind_a_line_of_progress(
    setup: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    command = ["sh", "-c", "echo fine; echo 'ERROR: no such package'; echo bye; exit 3"]
    assert not setup.run_step("packages", command, log, dict(os.environ), tmp_path)
    assert capsys.readouterr() == ("", "  packages ... failed\n")
    assert setup.find_error(log) == "ERROR: no such package"
    assert setup.run_step("nothing", ["true"], log, dict(os.environ), tmp_path)


def test_second_set_up_waits(setup: ModuleType) -> None:
    script = f"import runpy\nwith runpy.run_path({setup.__file__!r})['only_one'](): print('done')"
    with setup.only_one():
        other = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert other.stderr is not None
        assert b"waiting for another set-up" in other.stderr.readline()
        assert other.poll() is None
    assert other.communicate(timeout=30)[0] == b"done\n"


def test_lock_is_given_back(setup: ModuleType) -> None:
    with setup.only_one():
        pass
    with open(setup.__file__) as source:
        fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
