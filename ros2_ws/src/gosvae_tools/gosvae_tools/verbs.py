"""Verbs of the command `gosvae` that this package provides, and what a verb is.

A verb's parser is made without what its work imports: rclpy, av, readers of bags and their like
take a second, which `--help`, completion and the other verbs do without. Handlers import them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gosvae_codec.sender import SETTINGS, Settings
from gosvae_common.errors import UsageError


class Verb(NamedTuple):
    """One verb of the command line.

    `summary` is its line in the list of verbs, `description` heads its own help. `handle` takes
    the parsed options and returns the exit status; it may raise GosvaeError or OSError, which the
    command reports in one line.
    """

    name: str
    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    handle: Callable[[argparse.Namespace], int]


def names(text: str) -> tuple[str, ...]:
    """Return the names in a list separated by commas, without the empty ones."""
    return tuple(name for each in text.split(",") if (name := each.strip()))


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of verbs that run networks in this process."""
    parser.add_argument("--bundle", default="", metavar="DIR", help="model bundle, as for `run`")
    parser.add_argument(
        "--providers",
        type=names,
        default=("cpu",),
        metavar="NAMES",
        help="where networks run, most wanted first, separated by commas: tensorrt, cuda, cpu "
        "(default: cpu)",
    )


def _add_coding_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle_arguments(parser)
    parser.add_argument(
        "--threads", type=int, default=0, help="of one inference; 0: as many as cores (default)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", type=Path, metavar="INPUT", help="rosbag2, video, or folder of images"
    )
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="PATH",
        help="FILE.mcap, or another name for a rosbag2 folder",
    )
    parser.add_argument(
        "--cameras",
        type=names,
        default=("camera",),
        metavar="NAMES",
        help="base names of the topics, separated by commas (default: camera)",
    )
    parser.add_argument(
        "--topics",
        type=names,
        default=(),
        metavar="NAMES",
        help="the bag's image topic of each camera, where that is not clear",
    )
    for setting in SETTINGS:
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            type=type(setting.default),
            default=setting.default,
            metavar="NUMBER",
            help=f"{setting.description} (default: {setting.default:g})",
        )
    _add_coding_arguments(parser)


def _encode(options: argparse.Namespace) -> int:
    from .transcode import Coding, encode

    try:
        settings = Settings(**{each.name: getattr(options, each.name) for each in SETTINGS})
    except ValueError as error:
        raise UsageError(str(error)) from error
    coding = Coding(options.bundle, options.providers, options.threads)
    figures = encode(
        options.input, options.output, coding, settings, options.cameras, options.topics
    )
    return _report("encoded", figures, options.json)


def _add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="BAG", help="with packets")
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="PATH",
        help="FILE.mcap, or a folder for PNG files of label ids, named by stamp",
    )
    parser.add_argument("--color", action="store_true", help="colours instead of label ids")
    _add_coding_arguments(parser)


def _decode(options: argparse.Namespace) -> int:
    from .transcode import Coding, decode

    coding = Coding(options.bundle, options.providers, options.threads)
    figures = decode(options.input, options.output, coding, options.color)
    return _report("decoded", figures, options.json)


def _report(title: str, figures: Mapping[str, Any], as_json: bool) -> int:
    from .tables import Table, show, show_json

    if as_json:
        show_json(figures)
    else:
        show([Table.of(title, figures)])
    return 0


def _add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="bundle, bag or packet")
    parser.add_argument("--packets", action="store_true", help="list a bag's packets one by one")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def _inspect(options: argparse.Namespace) -> int:
    from .inspect import inspect
    from .tables import show, show_json

    found = inspect(options.path, options.packets)
    if options.json:
        show_json(found.values)
    else:
        show(found.tables)
    return 0


VERBS = (
    Verb(
        "encode",
        "encode a drive to a bag of packets",
        """\
Encodes a drive without nodes, as fast as the networks run: what the transmitter would send goes to
a bag that `gosvae decode` reads, and that `ros2 bag play` plays to a receiver. Stamps and frame_ids
are the drive's own. A file loses nothing, so frames are predicted between intra frames.
""",
        _add_encode_arguments,
        _encode,
    ),
    Verb(
        "decode",
        "decode a bag of packets to masks",
        """\
Decodes the packets of a bag, made by `gosvae encode` or recorded on a link, without nodes. What was
lost on the link is concealed as the receiver does it, and counted.
""",
        _add_decode_arguments,
        _decode,
    ),
    Verb(
        "inspect",
        "tell what a bundle or bag holds",
        """\
Tells what is in PATH: a model bundle (fingerprint, sizes, labels), a bag (frames, their kinds,
bytes, rates and loss of each camera, and all topics), or a file that holds one packet as CDR. Of a
bundle every file is checked by its SHA-256.
""",
        _add_inspect_arguments,
        _inspect,
    ),
)
