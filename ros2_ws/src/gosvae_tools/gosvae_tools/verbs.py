"""Verbs of the command `gosvae` that this package provides, and what a verb is.

A verb's parser is made without what its work imports: rclpy, av, readers of bags and their like
take a second, which `--help`, completion and the other verbs do without. Handlers import them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gosvae_codec.sender import SETTINGS, Settings
from gosvae_codec.tasks import MIN_SCORE
from gosvae_common.errors import UsageError

from .optional import need_pyarrow
from .outcome import MAX_DAMAGED, Outcome


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


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a list separated by commas, without the empty ones."""
    return tuple(name for each in text.split(",") if (name := each.strip()))


def share(text: str) -> float:
    """Return a number from 0 to 1; raise ValueError or ArgumentTypeError for anything else."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range; give a number from 0 to 1")
    return value


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of verbs that run networks in this process."""
    parser.add_argument("--bundle", default="", metavar="DIR", help="model bundle, as for `run`")
    parser.add_argument(
        "--providers",
        type=split_names,
        default=("cpu",),
        metavar="NAMES",
        help="where networks run, most wanted first, separated by commas: tensorrt, cuda, cpu "
        "(default: cpu)",
    )


def add_damage_argument(parser: argparse.ArgumentParser, damaged: str) -> None:
    """Add the option that says how many of `damaged`, such as frames, make a verb fail."""
    parser.add_argument(
        "--max-damaged",
        type=share,
        default=MAX_DAMAGED,
        metavar="SHARE",
        help=f"share of damaged {damaged}, from 0 to 1, above which the exit status is 1; they are "
        f"left out and counted in any case (default: {MAX_DAMAGED:g})",
    )


def _add_coding_arguments(parser: argparse.ArgumentParser, damaged: str) -> None:
    add_bundle_arguments(parser)
    add_damage_argument(parser, damaged)
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
        type=split_names,
        default=("camera",),
        metavar="NAMES",
        help="base names of the topics, separated by commas (default: camera)",
    )
    parser.add_argument(
        "--topics",
        type=split_names,
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
    _add_coding_arguments(parser, "frames")


def _encode(options: argparse.Namespace) -> int:
    from .coding import Coding
    from .encode import encode

    try:
        settings = Settings(**{each.name: getattr(options, each.name) for each in SETTINGS})
    except ValueError as error:
        raise UsageError(str(error)) from error
    coding = Coding(options.bundle, options.providers, options.threads)
    outcome = encode(
        options.input,
        options.output,
        coding,
        settings,
        options.cameras,
        options.topics,
        options.max_damaged,
    )
    return report("encode", outcome, options.json)


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of verbs that decode: which tasks, which boxes, and the key."""
    parser.add_argument(
        "--tasks",
        type=split_names,
        metavar="NAMES",
        help="tasks of the bundle, separated by commas (default: all)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=MIN_SCORE,
        metavar="NUMBER",
        help=f"least score of a box, 0 to 1 (default: {MIN_SCORE:g})",
    )
    parser.add_argument("--key-file", default="", metavar="FILE", help="opens sealed packets")


def min_score(options: argparse.Namespace) -> float:
    """Return the least score of a box; raise UsageError where it is none."""
    value: float = options.min_score
    if not 0 <= value <= 1:
        raise UsageError(f"--min-score {value:g}: give a number from 0 to 1")
    return value


def _add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="BAG", help="with packets")
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="PATH",
        help="FILE.mcap; FILE.parquet, a table of what is seen, for `gosvae find`; or a folder for "
        "files named by stamp: PNG of label ids, JSON of boxes, TIFF of depths",
    )
    add_result_arguments(parser)
    parser.add_argument("--color", action="store_true", help="colours instead of label ids")
    _add_coding_arguments(parser, "packets")


def _decode(options: argparse.Namespace) -> int:
    from .coding import Coding
    from .decode import decode

    coding = Coding(options.bundle, options.providers, options.threads)
    outcome = decode(
        options.input,
        options.output,
        coding,
        options.tasks,
        options.color,
        options.max_damaged,
        options.key_file,
        min_score(options),
    )
    return report("decode", outcome, options.json)


def _add_find_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="CLASS", help="as the bundle calls it")
    parser.add_argument("tables", type=Path, nargs="+", metavar="PATH", help="tables, or folders")
    parser.add_argument(
        "--share",
        type=share,
        default=0.001,
        metavar="NUMBER",
        help="least share of a mask's pixels, 0 to 1 (default: 0.001)",
    )
    parser.add_argument(
        "--score",
        type=share,
        default=0.5,
        metavar="NUMBER",
        help="least score of a box, 0 to 1 (default: 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _find(options: argparse.Namespace) -> int:
    need_pyarrow()
    from datetime import datetime, timezone

    from .find import find
    from .tables import Table, show, show_json

    found = find(options.tables, options.name, options.share, options.score)
    if options.json:
        show_json([each.values() for each in found])
        return 0
    rows = [
        (
            each.recording,
            each.camera,
            each.task,
            f"{datetime.fromtimestamp(each.begin_ns / 1e9, timezone.utc):%Y-%m-%d %H:%M:%S}",
            f"{(each.end_ns - each.begin_ns) / 1e9:.1f}",
            each.frames,
            f"{each.most:.3f}",
        )
        for each in found
    ]
    title = f"{options.name}: {sum(each.frames for each in found)} frames, {len(found)} times"
    columns = ("recording", "camera", "task", "from (UTC)", "seconds", "frames", "most")
    show([Table(title, columns, rows)])
    return 0


def _add_restamp_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help="rosbag2 folder or file")
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="PATH",
        help="FILE.mcap, FILE.db3, or another name for a rosbag2 folder",
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="HZ",
        help="space the images of each topic evenly, and change the times of recording as well "
        "(default: the times of recording)",
    )
    parser.add_argument(
        "--start",
        type=float,
        metavar="SECONDS",
        help="stamp of the first image, and time of its recording (default: as recorded)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _restamp(options: argparse.Namespace) -> int:
    from .restamp import restamp

    outcome = restamp(options.input, options.output, options.rate, options.start)
    return report("restamp", outcome, options.json)


def _add_keygen_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="key file to make")
    parser.add_argument(
        "--add", action="store_true", help="add the key at the end of a key file that exists"
    )
    parser.add_argument("--name", default="", help="that stands beside the key, as a vehicle's")


def _keygen(options: argparse.Namespace) -> int:
    from .keygen import keygen

    key = keygen(options.file, options.add, options.name)
    print(f"key {key.id:08x} is in {options.file}")
    return 0


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD", help="bundle of format 2")
    parser.add_argument("new", type=Path, metavar="NEW", help="folder to write")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _convert(options: argparse.Namespace) -> int:
    from .convert_bundle import convert

    return report("convert-bundle", convert(options.old, options.new), options.json)


def _add_head_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="it is not changed")
    parser.add_argument("head", type=Path, metavar="HEAD", help="ONNX file, on its features")
    parser.add_argument("output", type=Path, metavar="NEW", help="folder to write")
    parser.add_argument("--name", required=True, help="of the task; one of that name is replaced")
    parser.add_argument("--kind", required=True, help="semantic, detection or depth")
    parser.add_argument(
        "--labels",
        default="",
        metavar="NAME",
        help="label space, or a YAML file of labels, of channels or classes in order",
    )
    parser.add_argument("--unit", default="", help="of depths: metres or relative")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_head(options: argparse.Namespace) -> int:
    from .add_head import add_head

    outcome = add_head(
        options.bundle,
        options.head,
        options.output,
        options.name,
        options.kind,
        options.labels,
        options.unit,
    )
    return report("add-head", outcome, options.json)


def report(command: str, outcome: Outcome, as_json: bool) -> int:
    """Print what a command read and wrote; return the exit status, 1 where it has problems."""
    from .tables import Table, show, show_json

    if as_json:
        show_json(outcome.figures)
    else:
        show([Table.of(command, outcome.figures)])
    for line in (*outcome.notes, *outcome.problems):
        print(f"gosvae {command}: {line}", file=sys.stderr)
    return int(bool(outcome.problems))


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
    for note in found.values.get("notes", ()):
        print(f"gosvae inspect: {note}", file=sys.stderr)
    return 0


VERBS = (
    Verb(
        "encode",
        "encode a drive to a bag of packets",
        """\
Encodes a drive without nodes, as fast as the networks run: what the transmitter would send goes to
a bag that `gosvae decode` reads, and that `ros2 bag play` plays to a receiver. Frames are taken in
the order of recording; stamps and frame_ids are the drive's own, whatever they are. A file loses
nothing, so frames are predicted between intra frames. Damaged frames are left out and counted.
""",
        _add_encode_arguments,
        _encode,
    ),
    Verb(
        "decode",
        "decode a bag of packets to masks, boxes and depths",
        """\
Decodes the packets of a bag, made by `gosvae encode` or recorded on a link, without nodes, in
whatever order they were recorded. What was lost on the link is concealed as the receiver does it,
and counted. A bundle with the same fingerprint and other heads, as `gosvae add-head` makes it,
reads old recordings as well.
""",
        _add_decode_arguments,
        _decode,
    ),
    Verb(
        "find",
        "tell when a class was seen in decoded recordings",
        """\
Searches the tables that `gosvae decode -o FILE.parquet` writes for frames that show a class, in
masks or as boxes. Frames of a camera that are less than two seconds apart are one row; `most` is
the greatest share of a mask's pixels in them, or the greatest score of a box.
""",
        _add_find_arguments,
        _find,
    ),
    Verb(
        "restamp",
        "copy a bag with stamps in the order of recording",
        """\
Copies a bag, with the time of recording as the header stamp of each message: for bags whose stamps
are zero, repeat, or jump. What shared the stamp of an image, as its label and camera_info do,
shares its new one. Transforms are stamped too. Topics, types, QoS profiles, storage and compression
stay, and the messages read and written are compared.
""",
        _add_restamp_arguments,
        _restamp,
    ),
    Verb(
        "inspect",
        "tell what a bundle or bag holds",
        """\
Tells what is in PATH: a model bundle (fingerprint, sizes, tasks), a bag (frames, their kinds,
bytes, rates and loss of each camera, and all topics), or a file that holds one packet as CDR. Of a
bundle every file is checked by its SHA-256.
""",
        _add_inspect_arguments,
        _inspect,
    ),
    Verb(
        "keygen",
        "make a key that seals packets",
        """\
Makes a file with a random key, which only its owner may read, for the parameter key_file of both
nodes. Give each vehicle a key of its own, and the receiver a file with those of all its vehicles.
The first key of a file seals, all of them open. To replace a key without a gap: add one with --add
in both files, then move its line to the top in the vehicle's, then remove the old one.
""",
        _add_keygen_arguments,
        _keygen,
    ),
    Verb(
        "add-head",
        "add a task to a bundle at the receiver",
        """\
Writes a bundle with one more task, or with another head for one. Encoder, prior and features stay,
and so does the fingerprint: the receiver takes the new bundle, vehicles keep theirs, and recordings
of packets can be decoded with it. A head of another bundle is refused.
""",
        _add_head_arguments,
        _add_head,
    ),
    Verb(
        "convert-bundle",
        "convert a bundle of format 2 to format 3",
        """\
Writes a model bundle of format 2, of earlier releases, as one of format 3: its network for masks
becomes one for features and a head. Masks and packets stay as they were but for the fingerprint, so
convert the bundle on both sides. Needs the package onnx.
""",
        _add_convert_arguments,
        _convert,
    ),
)
