"""`gosvae demo`: a drive through the whole pipeline over DDS, with a report."""

from __future__ import annotations

import argparse

from gosvae_tools.verbs import Verb, add_damage_argument


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        default="",
        metavar="PATH",
        help="rosbag2, video, or folder of images in Cityscapes or CamVid layout "
        "(default: the rendered drive that ships)",
    )
    parser.add_argument(
        "--topic", default="", metavar="NAME", help="the bag's image topic, if it has several"
    )
    parser.add_argument(
        "--labels",
        default="",
        metavar="SPACE",
        help="what ids in the drive's labels mean: cityscapes (the default), camvid, ade20k or a "
        "YAML file; a folder of images/ and masks/ may have labels.yaml",
    )
    parser.add_argument(
        "--link",
        default="",
        metavar="SPEC",
        help='a bad link between two network namespaces, as "loss=10%% delay=50ms rate=128kbit"; '
        "also jitter, burst, reorder, queue and seed; needs root",
    )
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--output",
        default="",
        metavar="DIR",
        help="folder to make (default: out/demo-<date>-<time>)",
    )
    parser.add_argument("--rate", default="1.0", help="speed as a factor (default: 1.0)")
    parser.add_argument("--bundle", default="", metavar="DIR", help="model bundle, as for `run`")
    parser.add_argument("--providers", default="", help="where networks run, as for `run`")
    add_damage_argument(parser, "frames")


def _demo(options: argparse.Namespace) -> int:
    # rclpy, av and readers of bags take a second, which --help does without.
    from .demo import demo
    from .prepare import Options

    given = {
        name: value for name, value in vars(options).items() if name in Options.__annotations__
    }
    return demo(Options(**given))


DEMO = Verb(
    "demo",
    "play a drive through the pipeline and report",
    """\
Plays a drive through the pipeline over DDS, and reports what crossed, how fast and how well:
figures, a video, a contact sheet and the recorded bag.

Every frame whose mask came is scored. A frame without one is not, but makes the run fail: its exit
status is 1. Classes are matched by name: pixels whose true class the bundle lacks are left out of
mIoU, and the classes compared are listed. Agreement, mIoU with the expert's own masks as the truth,
needs no labels and is always given.
""",
    _add_arguments,
    _demo,
)
