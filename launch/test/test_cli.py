"""`gosvae run` with scripts in place of nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gosvae_bringup import cli
from gosvae_bringup import processes as module
from gosvae_bringup import run as run_module
from gosvae_bringup.arguments import ARGUMENTS
from gosvae_bringup.pipeline import Node, Pipeline
from gosvae_bringup.processes import Ended, Processes, find_executable
from gosvae_common.errors import UsageError

LOOP = "echo started >> $LOG; while :; do sleep 0.02; done"
FOREVER = f"trap 'echo stopped >> $LOG; exit 0' TERM; {LOOP}"

Script = Callable[..., Node]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Return a function that installs a shell script as a node of the package `stubs`."""
    prefix = tmp_path / "prefix"
    marker = prefix / "share/ament_index/resource_index/packages/stubs"
    marker.parent.mkdir(parents=True)
    marker.touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))

    def install(name: str, body: str, **more: str) -> Node:
        path = prefix / "lib/stubs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return Node("stubs", name, name, **more)

    return install


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs nodes as `gosvae run` does."""

    def run(*nodes: Node, warnings: tuple[str, ...] = ()) -> int:
        pipeline = Pipeline(nodes, {"ADDED": "yes"}, warnings)
        monkeypatch.setattr(run_module, "describe", lambda values, side: pipeline)
        return cli.main(["run"])

    return run


def log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().split()


def test_a_failing_node_ends_the_run_with_its_status(
    script: Script, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = "while ! grep -q started $LOG 2>/dev/null; do sleep 0.02; done; exit 3"
    assert run(script("good", FOREVER), script("bad", fails)) == 3
    assert capsys.readouterr().err == "gosvae run: bad ended with status 3\n"
    assert log(tmp_path) == ["started", "stopped"]


def test_a_node_that_just_leaves_is_a_failure(
    script: Script, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script("gone", "exit 0")) == 1
    assert "gone ended with status 0" in capsys.readouterr().err


def test_a_crash_is_named(
    script: Script, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script("crash", "kill -SEGV $$")) == 128 + signal.SIGSEGV
    assert "crash died of SIGSEGV" in capsys.readouterr().err


def test_the_end_of_the_drive_is_the_end(
    script: Script,
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_module, "DRAIN_SECONDS", 0.1)
    waits = "while ! grep -q started $LOG 2>/dev/null; do sleep 0.02; done"
    drive = script("drive", waits, lifetime="drive")
    viewer = script("viewer", "exit 1", lifetime="viewer")
    assert run(script("good", FOREVER), drive, viewer, warnings=("mind the gap",)) == 0
    assert capsys.readouterr().err == "gosvae run: mind the gap\n"
    assert log(tmp_path) == ["started", "stopped"]


def test_a_view_that_ends_by_itself_is_a_failure(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {}

    def describe_view(**values: object) -> Pipeline:
        given.update(values)
        return Pipeline((script("gosvae_view", "exit 1"),), {})

    monkeypatch.setattr(run_module, "describe_view", describe_view)
    assert cli.main(["view", "--cameras", "front", "--save", "a.rrd", "--no-browser"]) == 1
    assert capsys.readouterr().err == "gosvae view: gosvae_view ended with status 1\n"
    assert given == {
        **{"cameras": "front", "save": "a.rrd", "port": "9090", "frames": True},
        "browser": False,
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_all_nodes(
    script: Script, run: Callable[..., int], tmp_path: Path, number: signal.Signals
) -> None:
    def interrupt() -> None:
        while not (tmp_path / "log").exists() or log(tmp_path) != ["started"] * 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run(script("one", FOREVER), script("two", FOREVER)) == 0
    assert log(tmp_path) == ["started"] * 2 + ["stopped"] * 2


def test_a_deaf_node_is_killed(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = (signal.SIGTERM, signal.SIGKILL)
    monkeypatch.setattr(module, "GRACE", tuple((each, 0.3) for each in signals))
    with Processes({}) as processes:
        processes.start(script("deaf", f"trap '' INT TERM; {LOOP}"))
        while not (tmp_path / "log").exists():
            time.sleep(0.02)
        (ended,) = processes.stop()
    assert str(ended) == "deaf died of SIGKILL"


def test_nodes_end_when_their_parent_is_killed(script: Script, tmp_path: Path) -> None:
    script("good", FOREVER)
    code = """
import sys, time
from gosvae_bringup.pipeline import Node
from gosvae_bringup.processes import Processes
Processes({}).start(Node("stubs", "good", "good"))
time.sleep(60)
"""
    deadline = time.monotonic() + 30
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        while not (tmp_path / "log").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        parent.kill()
    while log(tmp_path) != ["started", "stopped"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("lifetime", "status", "means"),
    [
        ("run", 0, "failure"),
        ("run", -signal.SIGSEGV, "failure"),
        ("drive", 0, "end of drive"),
        ("drive", 1, "failure"),
        ("viewer", 1, "nothing"),
    ],
)
def test_what_the_end_of_a_node_means(lifetime: str, status: int, means: str) -> None:
    assert Ended.of(Node("p", "e", "n", lifetime=lifetime), status).means == means


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (-signal.SIGKILL, "n died of SIGKILL"),
        (128 + signal.SIGKILL, "n died of SIGKILL"),
        (128, "n ended with status 128"),
        (255, "n ended with status 255"),
        (2, "n ended with status 2"),
    ],
)
def test_how_a_node_ended_is_said(status: int, text: str) -> None:
    assert str(Ended.of(Node("p", "e", "n"), status)) == text


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (OSError(28, "No space left on device"), 1, "gosvae run: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, "gosvae run: stopped"),
    ],
)
def test_errors_of_the_system_take_one_line(
    error: BaseException,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def describe(values: dict[str, str], side: str) -> Pipeline:
        raise error

    monkeypatch.setattr(run_module, "describe", describe)
    assert cli.main(["run"]) == status
    err = capsys.readouterr().err
    assert err.startswith(text)
    assert err.count("\n") == 1


def test_nodes_get_arguments_and_environment(script: Script, tmp_path: Path) -> None:
    node = script("tell", 'echo "$ADDED" "$@"')
    told = Node("stubs", "tell", "tell", parameters={"rate": 2.0}, arguments=("-d", "x"))
    assert node.executable == told.executable
    with Processes({"ADDED": "yes"}, logs=tmp_path) as processes:
        processes.start(told, ["env", "ADDED=indeed"])
        while not processes.ended():
            time.sleep(0.02)
    assert processes.log(told).read_text() == "indeed -d x --ros-args -p rate:=2.0\n"
    with Processes({"ADDED": "yes"}, logs=tmp_path) as processes:
        processes.start(node)
        while not processes.ended():
            time.sleep(0.02)
    assert processes.log(node).read_text() == "yes --ros-args\n"


def test_what_is_not_built_is_named(script: Script) -> None:
    script("there", "")
    with pytest.raises(UsageError, match="transmitter of gosvae_tx is not installed: build"):
        find_executable("gosvae_tx", "transmitter")
    with pytest.raises(UsageError, match="other of stubs is not installed"):
        find_executable("stubs", "other")


def test_arguments_in_both_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def describe(values: dict[str, str], side: str) -> Pipeline:
        seen.append((values, side))
        raise UsageError("enough")

    monkeypatch.setattr(run_module, "describe", describe)
    assert cli.main(["run", "bag:=a b.mcap", "image_transport:=raw", "rviz:=true"]) == 2
    assert cli.main(["run", "--bag", "a b.mcap", "--image-transport=raw", "--rviz"]) == 2
    assert seen == [({"bag": "a b.mcap", "image_transport": "raw", "rviz": "true"}, "both")] * 2


def test_ros_arguments_go_to_all_nodes_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = Pipeline((Node("p", "e", "one"), Node("p", "e", "two", parameters={"a": 1})), {})
    monkeypatch.setattr(run_module, "describe", lambda values, side: pipeline)
    started = []

    def run(pipeline: Pipeline, command: str) -> int:
        started.extend(node.ros_arguments for node in pipeline.nodes)
        return 0

    monkeypatch.setattr(run_module, "_run", run)
    rules = ["-r", "image:=/zed/image", "-r", "zed/image_raw:=/x", "-p", "levels:=2"]
    assert cli.main(["run", "cameras:=zed", "--ros-args", *rules]) == 0
    assert started == [rules, ["-p", "a:=1", *rules]]
    monkeypatch.setattr(run_module, "describe_view", lambda **_: pipeline)
    assert cli.main(["view", "--no-browser", "--ros-args", "-r", "__ns:=/robot1"]) == 0
    assert started[2] == ["-r", "__ns:=/robot1"]


def test_a_failed_node_starts_again_where_that_is_asked_for(
    script: Script,
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_module, "RESPAWN_SECONDS", 0.1)
    monkeypatch.setattr(run_module, "DRAIN_SECONDS", 0.1)
    fails = "echo started >> $LOG; exit 3"
    waits = "while [ $(grep -c started $LOG 2>/dev/null || echo 0) -lt 3 ]; do sleep 0.02; done"
    again, drive = script("again", fails, respawn=True), script("drive", waits, lifetime="drive")
    assert run(again, drive) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= 3 and set(said) == {"gosvae run: again ended with status 3"}


def test_nodes_that_still_start_leave_no_traceback(script: Script, tmp_path: Path) -> None:
    ready, node = tmp_path / "ready", script("slow", "")
    path = find_executable("stubs", "slow")
    # As while modules are imported: the interpreter has its own handlers.
    path.write_text(
        f"#!{sys.executable}\nimport pathlib, time\n"
        f"pathlib.Path('{ready}').touch()\ntime.sleep(60)\n"
    )
    with Processes({}, logs=tmp_path) as processes:
        processes.start(node)
        while not ready.exists():
            time.sleep(0.02)
        (ended,) = processes.stop()
    assert str(ended) == "slow died of SIGTERM"
    assert processes.log(node).read_text() == ""


@pytest.mark.parametrize("delay", [0.02, 0.08, 0.2, 0.4])
def test_an_interrupt_while_the_command_starts_leaves_no_traceback(delay: float) -> None:
    code = (
        "import sys; from gosvae_bringup.__main__ import main; print('ready', flush=True); "
        "sys.argv = ['gosvae', 'inspect', '.']; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err


@pytest.mark.parametrize("argv", [[], ["sing"], ["run", "--no-such"], ["demo", "extra"]])
def test_bad_arguments_take_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(argv)
    assert exit.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_names_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["run", "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{each.name.replace('_', '-')}" in text for each in ARGUMENTS)


def test_the_table_of_verbs_is_light() -> None:
    code = (
        "import sys; from gosvae_bringup import cli; cli.make_parser(); "
        "print(*sorted({'rclpy', 'av', 'rich', 'rerun', 'gosvae_tools.encode', "
        "'gosvae_tools.decode', 'gosvae_tools.restamp', "
        "'gosvae_tools.drives', 'gosvae_bringup.demo.demo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_verbs_are_told_apart() -> None:
    names = [verb.name for verb in cli.VERBS]
    assert len(set(names)) == len(names)
    assert {"run", "view", "demo", "encode", "decode", "inspect", "doctor"} <= set(names)
