"""The command `gosvae`: the pipeline where only rclpy is installed, its view, the demo, tools.

Results go to stdout, as tables on a terminal and as tab-separated lines elsewhere; progress,
warnings and errors go to stderr, an error in one line that says what to do.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import argcomplete

from gosvae_codec.errors import GosvaeError
from gosvae_common.errors import UsageError
from gosvae_tools.link.channel import LinkError

from .pipeline import ARGUMENTS, Pipeline, describe, describe_view, split_names
from .processes import DRAIN_SECONDS, Processes, stop_signals

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
ENCODE = """\
Encodes a drive without nodes, as fast as the networks run: what the transmitter would send goes to
a bag that `gosvae decode` reads, and that `ros2 bag play` plays to a receiver. Stamps and frame_ids
are the drive's own. A file loses nothing, so frames are predicted between intra frames.
"""
DECODE = """\
Decodes the packets of a bag, made by `gosvae encode` or recorded on a link, without nodes. What was
lost on the link is concealed as the receiver does it, and counted.
"""
INSPECT = """\
Tells what is in PATH: a model bundle (fingerprint, sizes, labels), a bag (frames, their kinds,
bytes, rates and loss of each camera, and all topics), or a file that holds one packet as CDR. Of a
bundle every file is checked by its SHA-256.
"""
DOCTOR = """\
Looks at what the pipeline needs of this machine: Python, ROS, the nodes, GPU and ONNX Runtime, the
bundle, shared memory, network, discovery and clock; and says what to do where something lacks. The
exit status is 1 where something is broken; a warning alone leaves it 0.
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
    argcomplete.autocomplete(parser)
    options = parser.parse_args(_as_options(sys.argv[1:] if argv is None else argv))
    handle: Callable[[argparse.Namespace], int] = options.handle
    try:
        return handle(options)
    except (UsageError, LinkError) as error:
        print(f"gosvae {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does; Python must not flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (GosvaeError, OSError) as error:
        print(f"gosvae {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"gosvae {options.command}: stopped", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="gosvae",
        description="GOS-VAE perception offloading over ROS 2.",
        epilog='Completion in bash: eval "$(register-python-argcomplete gosvae)"',
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, handle: Callable[[argparse.Namespace], int], help: str, description: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(handle=handle)
        return command

    _add_run_arguments(add("run", run, "start the pipeline", RUN))
    _add_view_arguments(add("view", view, "show a running pipeline in the browser", VIEW))
    _add_demo_arguments(add("demo", _demo, "play a drive through the pipeline and report", DEMO))
    _add_encode_arguments(add("encode", _encode, "encode a drive to a bag of packets", ENCODE))
    _add_decode_arguments(add("decode", _decode, "decode a bag of packets to masks", DECODE))
    _add_inspect_arguments(add("inspect", _inspect, "tell what a bundle or bag holds", INSPECT))
    _add_doctor_arguments(add("doctor", _doctor, "check this machine, with remedies", DOCTOR))
    return parser


def _add_run_arguments(run: argparse.ArgumentParser) -> None:
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


def _add_view_arguments(view: argparse.ArgumentParser) -> None:
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


def _add_demo_arguments(demo: argparse.ArgumentParser) -> None:
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


def _add_encode_arguments(encode: argparse.ArgumentParser) -> None:
    encode.add_argument(
        "input", type=Path, metavar="INPUT", help="rosbag2, video, or folder of images"
    )
    encode.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="PATH",
        help="FILE.mcap, or another name for a rosbag2 folder",
    )
    encode.add_argument(
        "--cameras",
        type=_names,
        default=("camera",),
        metavar="NAMES",
        help="base names of the topics, separated by commas (default: camera)",
    )
    encode.add_argument(
        "--topics",
        type=_names,
        default=(),
        metavar="NAMES",
        help="the bag's image topic of each camera, where that is not clear",
    )
    encode.add_argument("--levels", type=int, default=0, help="residual levels; 0: all (default)")
    encode.add_argument(
        "--intra-period",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="after which a frame refers to no other; 0: every frame (default: 1.0)",
    )
    encode.add_argument(
        "--slices", type=int, default=1, help="least slices of a frame (default: 1)"
    )
    encode.add_argument("--parity", type=int, default=0, help="parity packets a frame (default: 0)")
    encode.add_argument(
        "--max-kbit-per-s",
        type=float,
        default=0.0,
        metavar="RATE",
        help="budget over any second, headers down to Ethernet's included; 0: none (default)",
    )
    _add_coding_arguments(encode)


def _add_decode_arguments(decode: argparse.ArgumentParser) -> None:
    decode.add_argument("input", type=Path, metavar="BAG", help="with packets")
    decode.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="PATH",
        help="FILE.mcap, or a folder for PNG files of label ids, named by stamp",
    )
    decode.add_argument("--color", action="store_true", help="colours instead of label ids")
    _add_coding_arguments(decode)


def _add_coding_arguments(command: argparse.ArgumentParser) -> None:
    _add_bundle_arguments(command)
    command.add_argument(
        "--threads", type=int, default=0, help="of one inference; 0: as many as cores (default)"
    )
    command.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_bundle_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--bundle", default="", metavar="DIR", help="model bundle, as for `run`")
    command.add_argument(
        "--providers",
        type=_names,
        default=("cpu",),
        metavar="NAMES",
        help="where networks run, most wanted first, separated by commas: tensorrt, cuda, cpu "
        "(default: cpu)",
    )


def _add_inspect_arguments(inspect: argparse.ArgumentParser) -> None:
    inspect.add_argument("path", type=Path, metavar="PATH", help="bundle, bag or packet")
    inspect.add_argument("--packets", action="store_true", help="list a bag's packets one by one")
    inspect.add_argument("--json", action="store_true", help="print what was found as JSON")


def _add_doctor_arguments(doctor: argparse.ArgumentParser) -> None:
    _add_bundle_arguments(doctor)
    doctor.add_argument("--json", action="store_true", help="print the checks as JSON")


def _names(text: str) -> tuple[str, ...]:
    return tuple(split_names(text))


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


# The commands below import what they need themselves: rclpy, onnxruntime, av and rosbags take a
# second, which `run`, --help and completion do without.


def _demo(options: argparse.Namespace) -> int:
    from .demo.demo import Options, demo

    given = {
        name: value for name, value in vars(options).items() if name in Options.__annotations__
    }
    return demo(Options(**given))


def _encode(options: argparse.Namespace) -> int:
    from gosvae_codec.sender import Settings
    from gosvae_tools.transcode import Coding, encode

    for name, least in (("levels", 0), ("intra_period", 0), ("slices", 1), ("parity", 0)):
        if getattr(options, name) < least:
            raise UsageError(
                f"{name.replace('_', '-')} is {getattr(options, name)}; give {least} or more"
            )
    settings = Settings(
        levels=options.levels,
        intra_period=options.intra_period,
        slices=options.slices,
        parity=options.parity,
        max_kbit_per_s=options.max_kbit_per_s,
    )
    coding = Coding(options.bundle, options.providers, options.threads)
    figures = encode(
        options.input, options.output, coding, settings, options.cameras, options.topics
    )
    return _report("encoded", figures, options.json)


def _decode(options: argparse.Namespace) -> int:
    from gosvae_tools.transcode import Coding, decode

    coding = Coding(options.bundle, options.providers, options.threads)
    figures = decode(options.input, options.output, coding, options.color)
    return _report("decoded", figures, options.json)


def _report(title: str, figures: Mapping[str, Any], as_json: bool) -> int:
    from gosvae_tools.tables import Table, show, show_json

    if as_json:
        show_json(figures)
    else:
        show([Table.of(title, figures)])
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from gosvae_tools.inspect import inspect
    from gosvae_tools.tables import show, show_json

    found = inspect(options.path, options.packets)
    if options.json:
        show_json(found.values)
    else:
        show(found.tables)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from gosvae_tools.tables import show, show_json

    from .doctor import examine, table

    checks = list(examine(options.bundle, options.providers))
    if options.json:
        show_json([check._asdict() for check in checks])
    else:
        show([table(checks)])
    return int(any(check.status == "fail" for check in checks))


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
