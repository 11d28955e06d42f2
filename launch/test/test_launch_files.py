"""The launch files, imported and resolved as `ros2 launch` does it."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Not `launch`, which the folder of this package is taken for where ROS launch is not installed.
pytest.importorskip("launch_ros", reason="needs ROS launch, which is not installed")

import launch
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    TimerAction,
)
from launch.events.process import ProcessExited
from launch.launch_description_sources import (
    get_launch_description_from_python_launch_file,
)
from launch_ros.actions import Node as NodeAction

from gosvae_bringup.arguments import ARGUMENTS
from gosvae_bringup.launch_description import NodeFailure, _on_exit
from gosvae_bringup.pipeline import Node
from gosvae_common.errors import UsageError
from gosvae_common.shipped import BUNDLE_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
EXECUTABLES = {
    "pipeline": ["transmitter", "receiver"],
    "tx": ["transmitter"],
    "rx": ["receiver"],
}


def resolved(name: str, **values: str) -> list[launch.Action]:
    """Return the actions of a launch file for these arguments."""
    description = get_launch_description_from_python_launch_file(str(ROOT / f"{name}.launch.py"))
    context = launch.LaunchContext()
    context.launch_configurations.update(values)
    actions = []
    for entity in description.entities:
        made = entity.visit(context)
        if isinstance(entity, OpaqueFunction):
            actions = list(made or ())
    return actions


@pytest.mark.parametrize("name", EXECUTABLES)
def test_arguments_are_declared_and_documented(name: str) -> None:
    description = get_launch_description_from_python_launch_file(str(ROOT / f"{name}.launch.py"))
    declared = {
        each.name: each for each in description.entities if isinstance(each, DeclareLaunchArgument)
    }
    assert set(declared) == {argument.name for argument in ARGUMENTS}
    for argument in ARGUMENTS:
        assert argument.description in declared[argument.name].description
        assert all(each in declared[argument.name].description for each in argument.choices)


@pytest.mark.parametrize("name", EXECUTABLES)
def test_nodes_are_started(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BUNDLE_VARIABLE, str(tmp_path))
    nodes = [each for each in resolved(name) if isinstance(each, NodeAction)]
    assert [each.node_executable for each in nodes] == EXECUTABLES[name]


def test_choices_are_taken_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BUNDLE_VARIABLE, str(tmp_path))
    assert resolved("pipeline", rviz="False")


def test_bad_values_reach_the_user() -> None:
    with pytest.raises(UsageError, match="does not exist"):
        resolved("pipeline", bag="/nowhere")


@pytest.mark.parametrize(
    ("lifetime", "status", "kinds"),
    [
        ("drive", 0, [TimerAction]),
        ("viewer", 1, []),
    ],
)
def test_the_end_of_a_node_means_what_it_means_for_gosvae_run(
    lifetime: str, status: int, kinds: list[type]
) -> None:
    node = Node("package", "executable", "name", lifetime=lifetime)
    actions = _on_exit(node, exited(status), launch.LaunchContext())
    assert [type(each) for each in actions] == kinds


def exited(status: int) -> ProcessExited:
    return ProcessExited(
        action=None, name="n", cmd=[], cwd=None, env=None, pid=1, returncode=status
    )


@pytest.mark.parametrize(
    ("lifetime", "status"), [("run", 0), ("run", -signal.SIGSEGV), ("drive", 1)]
)
def test_a_failure_is_raised_unless_the_node_starts_again(lifetime: str, status: int) -> None:
    node = Node("package", "executable", "name", lifetime=lifetime)
    with pytest.raises(NodeFailure, match="name"):
        _on_exit(node, exited(status), launch.LaunchContext())
    again = dataclasses.replace(node, respawn=True)
    assert _on_exit(again, exited(status), launch.LaunchContext()) == []


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Return a function that launches a parent of pipeline.launch.py with scripts for nodes.

    It returns the exit status and what each node was started with.
    """
    monkeypatch.setenv(BUNDLE_VARIABLE, str(tmp_path))
    prefix = tmp_path / "prefix"
    for package, executable in (("gosvae_tx", "transmitter"), ("gosvae_rx", "receiver")):
        marker = prefix / "share/ament_index/resource_index/packages" / package
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        script = prefix / "lib" / package / executable
        script.parent.mkdir(parents=True)
        script.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/{executable}\n'
            f"until [ -e {tmp_path}/transmitter -a -e {tmp_path}/receiver ]; do sleep 0.05; done\n"
            + ("exit $STATUS\n" if executable == "transmitter" else "exec sleep 60\n")
        )
        script.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}")

    def run(parent: str, status: int = 3) -> tuple[int, dict[str, str]]:
        code = (
            "import sys, launch, launch.actions as la, launch_ros.actions as ra\n"
            "from gosvae_bringup.launch_description import launch_description\n"
            "service = launch.LaunchService(noninteractive=True)\n"
            f"service.include_launch_description(launch.LaunchDescription([{parent}]))\n"
            "sys.exit(service.run())\n"
        )
        environment = {**os.environ, "STATUS": str(status)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stdout + done.stderr
        started = {each: tmp_path / each for each in ("transmitter", "receiver")}
        return done.returncode, {name: file.read_text() for name, file in started.items()}

    return run


def test_a_node_that_fails_makes_launch_fail(stub: Any) -> None:
    status, _ = stub('launch_description("both")')
    assert status == 1


def test_what_a_parent_sets_wins_over_defaults_but_not_over_arguments(stub: Any) -> None:
    _, commands = stub(
        'ra.PushRosNamespace("fleet"), ra.SetParameter("levels", 2), '
        'ra.SetRemap("camera/image_raw", "/image_raw"), '
        'la.SetLaunchConfiguration("cameras", "a,b"), '
        'la.SetLaunchConfiguration("namespace", "robot1"), '
        'la.SetLaunchConfiguration("log_level", "warn"), launch_description("both")'
    )
    for command in commands.values():
        words = command.split()
        places = [command.index(each) for each in ("--params-file", "levels:=2", "cameras:=")]
        assert places == sorted(places)
        assert "__ns:=/fleet/robot1" in words
        assert "camera/image_raw:=/image_raw" in words
        assert words[words.index("--log-level") + 1] == "warn"
