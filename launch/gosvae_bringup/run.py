"""`gosvae run` and `gosvae view`: the pipeline's processes, where only rclpy is installed."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence

from gosvae_common.signals import stop_signals
from gosvae_tools.verbs import Verb

from .arguments import ARGUMENTS
from .pipeline import Node, Pipeline, describe, describe_view
from .processes import DRAIN_SECONDS, RESPAWN_SECONDS, Processes


def run(options: argparse.Namespace) -> int:
    """Start the pipeline, wait for its end, and return the exit status.

    Raises:
        GosvaeError: the arguments do not describe a pipeline, or a node is not built.
    """
    names = [argument.name for argument in ARGUMENTS]
    values = {name: value for name in names if (value := getattr(options, name)) is not None}
    return _run(_with(describe(values, options.side), options.ros_args), "run")


def view(options: argparse.Namespace) -> int:
    """Show a running pipeline until a signal, and return the exit status.

    Raises:
        GosvaeError: the arguments make no sense, or something is not installed.
    """
    names = ("cameras", "save", "port", "frames", "browser")
    pipeline = describe_view(**{name: getattr(options, name) for name in names})
    return _run(_with(pipeline, options.ros_args), "view")


def _with(pipeline: Pipeline, ros_args: Sequence[str]) -> Pipeline:
    """Return the pipeline with ROS arguments of the user for all nodes."""
    nodes = (dataclasses.replace(node, more=tuple(ros_args)) for node in pipeline.nodes)
    return dataclasses.replace(pipeline, nodes=tuple(nodes))


def _run(pipeline: Pipeline, command: str) -> int:
    for warning in pipeline.warnings:
        print(f"gosvae {command}: {warning}", file=sys.stderr)
    with stop_signals() as stop, Processes(pipeline.environment) as processes:
        for node in pipeline.nodes:
            processes.start(node)
        stop_at = float("inf")
        again: list[tuple[float, Node]] = []
        while not stop.wait(0.05) and time.monotonic() < stop_at:
            for ended in processes.ended():
                if ended.means in ("failure", "respawn"):
                    print(f"gosvae {command}: {ended}", file=sys.stderr)
                if ended.means == "failure":
                    return ended.status or 1
                if ended.means == "respawn":
                    again.append((time.monotonic() + RESPAWN_SECONDS, ended.node))
                if ended.means == "end of drive":
                    stop_at = time.monotonic() + DRAIN_SECONDS
            while again and time.monotonic() >= again[0][0]:
                processes.start(again.pop(0)[1])
    return 0


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--side",
        choices=("both", "tx", "rx"),
        default="both",
        help="the vehicle's half (tx), the other one (rx), or both on one machine (default)",
    )
    for argument in ARGUMENTS:
        default = f" (default: {argument.default})" if argument.default else ""
        switch = argument.choices == ("true", "false")
        parser.add_argument(
            f"--{argument.name.replace('_', '-')}",
            dest=argument.name,
            metavar="|".join(argument.choices) or argument.name.upper(),
            nargs="?" if switch else None,
            const="true" if switch else None,
            default=None,
            help=argument.description.replace("%", "%%") + default,
        )
    _add_ros_arguments(parser)


def _add_view_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cameras", default="camera", help="as for `run` (default: camera)")
    parser.add_argument("--save", default="", metavar="FILE", help="write FILE.rrd for Rerun, too")
    parser.add_argument("--port", default="9090", help="of the page (default: 9090), and the next")
    parser.add_argument(
        "--no-frames",
        dest="frames",
        action="store_false",
        help="without the cameras' own frames, which cross the link to the far side",
    )
    parser.add_argument(
        "--no-browser", dest="browser", action="store_false", help="only say where the page is"
    )
    _add_ros_arguments(parser)


def _add_ros_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="...",
        help="ROS arguments for all nodes, up to the end of the line, as for `ros2 run`: "
        "-r FROM:=TO remaps a topic, -p NAME:=VALUE sets a parameter",
    )


RUN = Verb(
    "run",
    "start the pipeline",
    """\
Starts the nodes that `ros2 launch gosvae_bringup pipeline.launch.py` starts, with the same
arguments, as `--bag drive.mcap` or as `bag:=drive.mcap`. They stop at Ctrl-C, at the end of the
bag, or when one of them fails, whose status is then this command's.
""",
    _add_run_arguments,
    run,
)

VIEW = Verb(
    "view",
    "show a running pipeline in the browser",
    """\
Shows a pipeline that runs in the browser: frames, masks with the names of their classes, overlays,
bytes, rates, age, loss and coverage. `gosvae run --view` starts both together. The data are served
to this machine alone; from another one, forward the page's port and the next, as in
`ssh -L 9090:localhost:9090 -L 9091:localhost:9091 EDGE`.
""",
    _add_view_arguments,
    view,
)
