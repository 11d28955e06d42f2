"""The pipeline's description as actions of ROS launch; what all launch files share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import List  # noqa: UP035

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node as NodeAction
from launch_ros.parameter_descriptions import Parameter

from gosvae_common.topics import Side

from .arguments import ARGUMENTS, Argument
from .pipeline import Node, Value, describe
from .processes import DRAIN_SECONDS, RESPAWN_SECONDS, Ended


class NodeFailure(Exception):
    """A node that is required has ended; `ros2 launch` shuts down with status 1."""


def launch_description(side: Side) -> LaunchDescription:
    """Return the launch description of one side, with all arguments declared.

    One that has no meaning on that side is accepted, as a parent may pass the same to both.
    """
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    argument.name,
                    default_value=argument.default,
                    # The choices are checked by describe(), which takes True for true.
                    description=" ".join((argument.description, *_notes(argument))),
                )
                for argument in ARGUMENTS
            ),
            OpaqueFunction(function=partial(_actions, side)),
        ]
    )


def _notes(argument: Argument) -> Iterator[str]:
    if argument.choices:
        yield f"One of: {', '.join(argument.choices)}."
    if argument.side != "both":
        yield f"For side {argument.side}."


def _actions(side: Side, context: LaunchContext) -> list[Action]:
    """Return the actions for the arguments' values; raises as :func:`.pipeline.describe` does."""
    values = {
        argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS
    }
    pipeline = describe(values, side)
    return [
        *(LogInfo(msg=f"warning: {warning}") for warning in pipeline.warnings),
        *(SetEnvironmentVariable(name, value) for name, value in pipeline.environment.items()),
        *(_node(node) for node in pipeline.nodes),
    ]


def _node(node: Node) -> NodeAction:
    """Return the action that starts a node.

    launch_ros puts what a parent sets (SetParameter) between `ros_arguments` and `parameters`: it
    wins over the files that ship, and arguments that were given win over it.
    """
    return NodeAction(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace or None,
        arguments=list(node.arguments),
        ros_arguments=node.first_arguments,
        parameters=[_parameter(name, value) for name, value in node.parameters.items()],
        remappings=[rule for rule in node.remappings if rule[0] != "__node"],
        respawn=node.respawn,
        respawn_delay=RESPAWN_SECONDS,
        output="screen",
        on_exit=partial(_on_exit, node),
    )


def _parameter(name: str, value: Value) -> Parameter:
    if isinstance(value, Sequence) and not isinstance(value, str):
        # launch_ros knows typing's names of lists only.
        return Parameter(name, list(value), value_type=List[str])  # noqa: UP006
    return Parameter(name, value, value_type=type(value))


def _on_exit(node: Node, event: ProcessExited, context: LaunchContext) -> list[Action]:
    """Return what follows from a node's end; the same as for `gosvae run`.

    Raises:
        NodeFailure: a required node failed. Of an exception launch makes a shutdown with status 1;
            a Shutdown event would give status 0.
    """
    ended = Ended.of(node, event.returncode)
    if context.is_shutdown or ended.means in ("nothing", "respawn"):
        return []
    if ended.means == "failure":
        raise NodeFailure(str(ended))
    return [
        TimerAction(period=DRAIN_SECONDS, actions=[EmitEvent(event=Shutdown(reason=str(ended)))])
    ]
