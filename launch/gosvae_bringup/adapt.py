"""`gosvae adapt`: hands its arguments to the training package, in the environment of that one."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gosvae_common.errors import UsageError
from gosvae_tools.verbs import Verb

_SETUP = "tools/environment.py"
_DESCRIPTION = """\
Makes a bundle for your camera and your networks, one of masks and what others you have. No labels
are needed: what the networks make is learnt. See docs/bring-your-own.md.

Training has an environment of its own, .venv-training, which is set up in the repository at the
first call.
"""
_SEVERAL = {
    "pictures": "what each takes, imagenet, 0..255, 0..1 or -1..1 (default: told by trying)",
    "order": "of its colours, rgb or bgr (default: told by trying)",
}
_OPTIONAL = {
    "start": "folder of a bundle whose encoder is trained further",
    "budget": "of the vehicle: base (default) or tiny",
    "minutes": "that it may take in all (default: 10)",
    "output": "folder of the bundle (default: models/mine)",
    "topic": "of a bag with several image topics",
    "json": "file for agreement, bytes_per_frame and bundle",
}
"""Arguments of the training package that are passed on where given; the former for each expert."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--drive", nargs="+", required=True, metavar="PATH", help="bags, videos, folders of images"
    )
    parser.add_argument(
        "--expert",
        nargs="+",
        required=True,
        metavar="FILE",
        help="networks of masks and, after the first, detectors, as ONNX: a task each",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        required=True,
        metavar="SPACE",
        help="a YAML file of each one's classes, or camvid, cityscapes, ade20k or coco",
    )
    for name, text in _SEVERAL.items():
        parser.add_argument(f"--{name}", nargs="+", metavar=name.upper(), default=[], help=text)
    for name, text in _OPTIONAL.items():
        parser.add_argument(f"--{name}", metavar=name.upper(), default="", help=text)


def _handle(options: argparse.Namespace) -> int:
    """Become the training command.

    Raises:
        UsageError: this is not run from a checkout of the repository.
    """
    for folder in Path(__file__).resolve().parents:
        if (folder / _SETUP).is_file():
            words = []
            for name in ("drive", "expert", "labels", *_SEVERAL):
                if values := getattr(options, name):
                    words += [f"--{name}", *values]
            for name in _OPTIONAL:
                if value := getattr(options, name):
                    words += [f"--{name}", value]
            command = ["python", "-m", "gosvae_training.adapt", *words]
            setup = [sys.executable, str(folder / _SETUP), "training", "--exec"]
            os.execv(sys.executable, [*setup, *command])
    raise UsageError(
        f"no {_SETUP} around {__file__}: training runs from a checkout; use make adapt"
    )


ADAPT = Verb(
    "adapt",
    "make a bundle for your camera and your segmentation network",
    _DESCRIPTION,
    _add_arguments,
    _handle,
)
