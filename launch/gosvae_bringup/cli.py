"""The command `gosvae`: the pipeline where only rclpy is installed, its view, and the demo."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from gosvae_codec.errors import GosvaeError

from .link import LinkError
from .pipeline import ARGUMENTS, Pipeline, PipelineError, describe, describe_view
from .supervisor import DRAIN_SECONDS, Processes, stop_signals

RUN = """\
Starts the nodes that `ros2 launch gosvae_bringup pipeline.launch.py` starts, with the same
arguments, as `--bag drive.mcap` or as `bag:=drive.mcap`. They stop at Ctrl-C, at the end of the
bag, or when one of them fails, whose status is then this command's.
"""
DEMO = """\
Plays a drive through the pipeline over DDS, and reports what crossed, how fast and how well:
figures, a video, a contact sheet and the recorded bag.

Every frame whose mask came is scored. A frame without one is not, but makes the run fail: its exit
status is 1. mIoU is over the bundle's classes: pixels whose true class the bundle lacks are left
out. Agreement, mIoU with the expert's own masks as the truth, needs no labels and is always given.
"""


VIEW = """\
Shows a pipeline that runs in the browser: frames, masks with the names of their classes, overlays,
bytes, rates, age, loss and coverage. `gosvae run --view` starts both together. The data are served
to this machine alone; from another one, forward the page's port and the next, as in
`ssh -L 9090:localhost:9090 -L 9091:localhost:9091 EDGE`.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status.

    Returns:
        0, 1 for a failure, 2 for bad arguments, 130 after Ctrl-C, or a failed node's status.
    """
    parser = make_parser()
    options = parser.parse_args(_as_options(sys.argv[1:] if argv is None else argv))
    try:
        return {"run": run, "view": view, "demo": _demo}[options.command](options)
    except (PipelineError, LinkError) as error:
        print(f"gosvae {options.command}: {error}", file=sys.stderr)
        return 2
    except (GosvaeError, OSError) as error:
        print(f"gosvae {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"gosvae {options.command}: stopped", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(prog="gosvae", description="GOS-VAE perception offloading over ROS 2.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="start the pipeline",
        description=RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "--side",
        choices=("both", "tx", "rx"),
        default="both",
        help="the vehicle's half (tx), the other one (rx), or both on one machine (default)",
    )
    for argument in ARGUMENTS:
        default = f" (default: {argument.default})" if argument.default else ""
        switch = argument.choices == ("true", "false")
        run.add_argument(
            f"--{argument.name.replace('_', '-')}",
            dest=argument.name,
            metavar="|".join(argument.choices) or argument.name.upper(),
            nargs="?" if switch else None,
            const="true" if switch else None,
            default=None,
            help=argument.description.replace("%", "%%") + default,
        )

    view = commands.add_parser(
        "view",
        help="show a running pipeline in the browser",
        description=VIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    view.add_argument("--cameras", default="camera", help="as for `run` (default: camera)")
    view.add_argument("--save", default="", metavar="FILE", help="write FILE.rrd for Rerun, too")
    view.add_argument("--port", default="9090", help="of the page (default: 9090), and the next")
    view.add_argument(
        "--no-frames",
        dest="frames",
        action="store_false",
        help="without the cameras' own frames, which cross the link to the far side",
    )
    view.add_argument(
        "--no-browser", dest="browser", action="store_false", help="only say where the page is"
    )

    demo = commands.add_parser(
        "demo",
        help="play a drive through the pipeline and report",
        description=DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--input",
        default="",
        metavar="PATH",
        help="rosbag2, video, or folder of images in Cityscapes or CamVid layout "
        "(default: the rendered drive that ships)",
    )
    demo.add_argument(
        "--topic", default="", metavar="NAME", help="the bag's image topic, if it has several"
    )
    demo.add_argument(
        "--link",
        default="",
        metavar="SPEC",
        help='a bad link between two network namespaces, as "loss=10%% delay=50ms rate=128kbit"; '
        "also jitter, burst, reorder, queue and seed; needs root",
    )
    demo.add_argument("--json", default="", metavar="FILE", help="write the figures there, too")
    demo.add_argument(
        "--output",
        default="",
        metavar="DIR",
        help="folder to make (default: out/demo-<date>-<time>)",
    )
    demo.add_argument("--rate", default="1.0", help="speed as a factor (default: 1.0)")
    demo.add_argument("--bundle", default="", metavar="DIR", help="model bundle, as for `run`")
    demo.add_argument("--providers", default="", help="where networks run, as for `run`")
    return parser


def run(options: argparse.Namespace) -> int:
    """Start the pipeline, wait for its end, and return the exit status.

    Raises:
        GosvaeError: the arguments do not describe a pipeline, or a node is not built.
    """
    names = [argument.name for argument in ARGUMENTS]
    values = {name: value for name in names if (value := getattr(options, name)) is not None}
    return _run(describe(values, options.side), "run")


def view(options: argparse.Namespace) -> int:
    """Show a pipeline that runs, until a signal, and return the exit status.

    Raises:
        GosvaeError: the arguments make no sense, or something is not installed.
    """
    names = ("cameras", "save", "port", "frames", "browser")
    return _run(describe_view(**{name: getattr(options, name) for name in names}), "view")


def _run(pipeline: Pipeline, command: str) -> int:
    for warning in pipeline.warnings:
        print(f"gosvae {command}: {warning}", file=sys.stderr)
    with stop_signals() as stop, Processes(pipeline.environment) as processes:
        for node in pipeline.nodes:
            processes.start(node)
        stop_at = float("inf")
        while not stop.wait(0.05) and time.monotonic() < stop_at:
            for ended in processes.ended():
                if ended.means == "failure":
                    print(f"gosvae {command}: {ended}", file=sys.stderr)
                    return ended.status or 1
                if ended.means == "end of drive":
                    stop_at = time.monotonic() + DRAIN_SECONDS
    return 0


def _demo(options: argparse.Namespace) -> int:
    # rclpy, onnxruntime and av, which `run` and --help do without.
    from .demo import Options, demo

    given = {name: value for name, value in vars(options).items() if name != "command"}
    return demo(Options(**given))


def _as_options(argv: Sequence[str]) -> list[str]:
    """Turn ROS launch's `name:=value` into `--name=value`."""
    return [
        f"--{match[1].replace('_', '-')}={match[2]}"
        if (match := re.fullmatch(r"([a-z_]+):=(.*)", word, re.DOTALL))
        else word
        for word in argv
    ]


if __name__ == "__main__":
    sys.exit(main())
