"""`gosvae adapt`: hands its arguments to the training package, in the environment of that."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gosvae_common.errors import UsageError
from gosvae_tools.verbs import Verb

_SETUP = "tools/environment.py"
_DESCRIPTION = """Make a bundle for your camera and your segmentation network.

gosvae adapt --drive my_drive.mcap --expert net.onnx --labels names.yaml --output models/mine

No labels are needed: the network's own masks are learnt. Training has an environment of its own,
.venv-training, which is set up in the repository at the first call. `gosvae adapt -- --help` lists
all arguments, docs/bring-your-own.md explains them."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of gosvae_training.adapt")


def _handle(options: argparse.Namespace) -> int:
    """Become the training command.

    Raises:
        UsageError: this is not run from a checkout of the repository.
    """
    for folder in Path(__file__).resolve().parents:
        if (folder / _SETUP).is_file():
            words = [word for word in options.arguments if word != "--"]
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
