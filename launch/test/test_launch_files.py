"""The launch files, imported and resolved as `ros2 launch` does it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# Not `launch`, which the folder of this package is taken for where ROS launch is not installed.
pytest.importorskip("launch_ros", reason="needs ROS launch, which is not installed")

import launch
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    TimerAction,
)
from launch.events.process import ProcessExited
from launch.launch_description_sources import (
    get_launch_description_from_python_launch_file,
)
from launch_ros.actions import Node as NodeAction

from gosvae_bringup.launch_description import _on_exit
from gosvae_bringup.pipeline import Node, arguments_of
from gosvae_common.errors import UsageError
from gosvae_common.shipped import BUNDLE_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
SIDES = {"pipeline": "both", "tx": "tx", "rx": "rx"}
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


@pytest.mark.parametrize("name", SIDES)
def test_arguments_are_declared_and_documented(name: str) -> None:
    description = get_launch_description_from_python_launch_file(str(ROOT / f"{name}.launch.py"))
    declared = {
        each.name: each for each in description.entities if isinstance(each, DeclareLaunchArgument)
    }
    assert set(declared) == {argument.name for argument in arguments_of(SIDES[name])}
    for argument in arguments_of(SIDES[name]):
        assert argument.description in declared[argument.name].description
        assert all(each in declared[argument.name].description for each in argument.choices)


@pytest.mark.parametrize("name", SIDES)
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
        ("run", 0, [EmitEvent]),
        ("run", -signal.SIGSEGV, [EmitEvent]),
        ("drive", 0, [TimerAction]),
        ("drive", 1, [EmitEvent]),
        ("viewer", 1, []),
    ],
)
def test_the_end_of_a_node_means_what_it_means_for_gosvae_run(
    lifetime: str, status: int, kinds: list[type]
) -> None:
    event = ProcessExited(
        action=None, name="n", cmd=[], cwd=None, env=None, pid=1, returncode=status
    )
    node = Node("package", "executable", "name", lifetime=lifetime)
    assert [type(each) for each in _on_exit(node, event, launch.LaunchContext())] == kinds
