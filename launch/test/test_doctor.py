"""What `gosvae doctor` finds, and how results are printed."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from gosvae_bringup import cli, doctor
from gosvae_bringup.doctor import Check
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.fastdds import PROFILE_VARIABLE
from gosvae_common.shipped import find_profile
from gosvae_tools import tables
from gosvae_tools.tables import Table, show, show_json


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY"),
        *("ROS_STATIC_PEERS", PROFILE_VARIABLE),
    ):
        monkeypatch.delenv(name, raising=False)


def test_this_interpreter_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_python().status == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    assert doctor.check_python().status == "fail"


def test_this_workspace_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_ros().status == "ok"
    assert doctor.check_packages().status == "ok"
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    check = doctor.check_packages()
    assert check.status == "fail"
    assert "transmitter of gosvae_tx is not installed" in check.found


def test_a_foreign_middleware_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import rclpy

    monkeypatch.setattr(rclpy, "get_rmw_implementation_identifier", lambda: "rmw_cyclonedds_cpp")
    check = doctor.check_ros()
    assert check.status == "warn" and "unset RMW_IMPLEMENTATION" in check.remedy


def test_a_gpu_without_its_onnxruntime_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import onnxruntime

    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    check = doctor.check_gpu()
    assert check.status == "warn"
    assert "GPU 0: NVIDIA L4" in check.found and "install onnxruntime-gpu" in check.remedy
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    assert doctor.check_gpu().status == "ok"
    tool.write_text("#!/bin/sh\necho 'driver mismatch' >&2; exit 9\n")
    assert "driver mismatch" in doctor.check_gpu().found


def test_the_bundle_is_tried(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "tiny")
    check = doctor.check_bundle(str(path), ("cpu",))
    assert check.status == "ok" and "ms to encode" in check.found
    check = doctor.check_bundle(str(path), ("cuda", "cpu"))
    assert check.status == "warn" and "cuda was asked for" in check.found
    (path / "features.onnx").unlink()
    found = {check.name: check for check in doctor.examine(str(path))}
    assert found["bundle"].status == "fail"
    assert "copy the bundle again" in found["bundle"].found
    assert len(found) == 11


def test_profiles_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    check = doctor.check_profile()
    assert check.status == "warn" and "a camera driver started here" in check.found
    assert check.remedy.endswith(f"export {PROFILE_VARIABLE}={find_profile()}")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    check = doctor.check_profile()
    assert (check.status, check.found) == ("ok", "not used by rmw_cyclonedds_cpp")
    monkeypatch.delenv("RMW_IMPLEMENTATION")
    monkeypatch.setenv(PROFILE_VARIABLE, str(find_profile()))
    assert doctor.check_profile().status == "ok"
    mine = tmp_path / "mine.xml"
    monkeypatch.setenv(PROFILE_VARIABLE, str(mine))
    check = doctor.check_profile()
    assert check.status == "fail" and str(find_profile()) in check.remedy
    mine.write_text("<dds/>")
    check = doctor.check_profile()
    assert check.status == "warn" and "segment_size" in check.remedy


def test_shared_memory_and_buffers_are_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    check = doctor.check_shared_memory()
    assert check.status == "warn" and "/dev/shm has 1 MB free" in check.found
    assert "--shm-size" in check.remedy
    monkeypatch.setattr(doctor, "UDP_BUFFER", tmp_path / "rmem_max")
    (tmp_path / "rmem_max").write_text("212992\n")
    check = doctor.check_udp_buffers()
    assert check.status == "warn"
    assert "sysctl -w net.core.rmem_max=4194304" in check.remedy
    (tmp_path / "rmem_max").write_text("4194304\n")
    assert doctor.check_udp_buffers().status == "ok"


@pytest.mark.parametrize(
    ("variables", "status", "remedy"),
    [
        ({"ROS_DOMAIN_ID": "150"}, "fail", "set ROS_DOMAIN_ID to 0 to 101"),
        ({"ROS_DOMAIN_ID": "seven"}, "fail", "set ROS_DOMAIN_ID to 0 to 101"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, "warn", "unset ROS_AUTOMATIC"),
        ({"ROS_LOCALHOST_ONLY": "1"}, "warn", "ROS_LOCALHOST_ONLY"),
        ({}, "warn", "ROS_STATIC_PEERS"),
        ({"ROS_STATIC_PEERS": "10.0.0.2"}, "ok", ""),
        (
            {"ROS_STATIC_PEERS": "10.0.0.2", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
            *("ok", ""),
        ),
    ],
)
def test_network(
    variables: dict[str, str], status: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "_multicasts", lambda interface: False)
    check = doctor.check_network()
    assert check.status == status and remedy in check.remedy
    if not variables:
        monkeypatch.setattr(doctor, "_multicasts", lambda interface: True)
        assert doctor.check_network().status == "ok"


def test_two_nodes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    check = doctor.check_discovery()
    assert check.status == "ok" and "no transmitter or receiver seen" in check.found
    assert PROFILE_VARIABLE not in os.environ
    monkeypatch.setattr(doctor, "DISCOVERY_SECONDS", 0.0)
    check = doctor.check_discovery()
    assert check.status == "fail" and "239.255.0.1" in check.remedy


@pytest.mark.parametrize(("state", "status"), [(0, "ok"), (5, "warn"), (-1, "warn")])
def test_the_kernel_is_asked_about_its_clock(
    state: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.check_clock().status in ("ok", "warn")
    library = SimpleNamespace(adjtimex=lambda _: state)
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda *_, **__: library)
    assert doctor.check_clock().status == status


@pytest.mark.parametrize(("statuses", "status"), [(("ok", "warn"), 0), (("ok", "fail", "warn"), 1)])
def test_what_is_broken_shows_in_the_exit_status(
    statuses: tuple[Any, ...],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = [Check(f"check {each}", each, "found", "remedy") for each in statuses]
    monkeypatch.setattr(doctor, "examine", lambda bundle, providers: iter(checks))
    assert cli.main(["doctor"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "check\tstatus\tfound\twhat to do"
    assert lines[2] == "check ok\tok\tfound\tremedy"
    assert cli.main(["doctor", "--json"]) == status
    assert [each["status"] for each in json.loads(capsys.readouterr().out)] == list(statuses)


TABLE = Table("it", ("name", "size"), [("a\tb", 1.5), ("c", None), ("d", math.nan)])


def test_tables_are_plain_where_they_are_piped(capsys: pytest.CaptureFixture[str]) -> None:
    show([TABLE, Table.of("pairs", {"some_name": 12345.6})])
    assert capsys.readouterr().out == (
        "# it\nname\tsize\na b\t1.5\nc\t-\nd\t-\n# pairs\nsome name\t12346\n"
    )


def test_tables_have_boxes_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(tables.sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    show([Table("checks", ("name", "status"), [("a [thing]", "ok")])])
    text = terminal.getvalue()
    assert "│" in text and "a [thing]" in text and "\t" not in text


def test_json_has_null_for_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": [math.nan, (1, {"b": math.nan})]})
    assert json.loads(capsys.readouterr().out) == {"a": [None, [1, {"b": None}]]}


def test_commands_and_options_complete(tmp_path: Path) -> None:
    def complete(line: str) -> list[str]:
        output = tmp_path / "completions"
        environment = {
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(output),
            "_ARGCOMPLETE_IFS": "\n",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        code = "from gosvae_bringup.cli import main; main()"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        return [each.strip() for each in output.read_text().split("\n")]

    assert complete("gosvae in") == ["inspect"]
    assert complete("gosvae run --side ") == ["both", "tx", "rx"]
    assert "--max-kbit-per-s" in complete("gosvae encode --m")


def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import sys; from gosvae_bringup import cli; from gosvae_tools import tables; "
        "show = lambda options: tables.show_json(list(range(100000))) or 0; "
        "cli.VERBS = [each._replace(handle=show) for each in cli.VERBS]; "
        "sys.exit(cli.main(['inspect', '.']))"
    )
    command = f'{sys.executable} -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[\n", "")
