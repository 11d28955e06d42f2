"""The pipeline's description as actions of ROS launch; what all launch files share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

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

from gosvae_common.topics import Side

from .pipeline import Argument, Node, arguments_of, describe
from .processes import DRAIN_SECONDS, Ended


def launch_description(side: Side) -> LaunchDescription:
    """Return the launch description of one side, with its arguments declared."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    argument.name,
                    default_value=argument.default,
                    # The choices are checked by describe(), which takes True for true.
                    description=" ".join((argument.description, *_choices(argument))),
                )
                for argument in arguments_of(side)
            ),
            OpaqueFunction(function=partial(_actions, side)),
        ]
    )


def _choices(argument: Argument) -> Iterator[str]:
    if argument.choices:
        yield f"One of: {', '.join(argument.choices)}."


def _actions(side: Side, context: LaunchContext) -> list[Action]:
    """Return the actions for the arguments' values; raises as :func:`.pipeline.describe` does."""
    values = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in arguments_of(side)
    }
    pipeline = describe(values, side)
    return [
        *(LogInfo(msg=f"warning: {warning}") for warning in pipeline.warnings),
        *(SetEnvironmentVariable(name, value) for name, value in pipeline.environment.items()),
        *(
            NodeAction(
                package=node.package,
                executable=node.executable,
                name=node.name,
                arguments=list(node.arguments),
                ros_arguments=node.ros_arguments,
                output="screen",
                on_exit=partial(_on_exit, node),
            )
            for node in pipeline.nodes
        ),
    ]


def _on_exit(node: Node, event: ProcessExited, context: LaunchContext) -> list[Action]:
    """Return what follows from a node's end; the same as for `gosvae run`."""
    ended = Ended.of(node, event.returncode)
    if context.is_shutdown or ended.means == "nothing":
        return []
    stop = EmitEvent(event=Shutdown(reason=str(ended)))
    if ended.means == "failure":
        return [stop]
    return [TimerAction(period=DRAIN_SECONDS, actions=[stop])]
