"""Fit what codes a finished bundle's tokens anew: ``python -m gosvae_training.bundle.refit``.

That is the prior, and where asked for how the encoder chooses tokens. No network is trained.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.manifest import ENCODER, MANIFEST, PRIOR, int8, record

from ..config import Prior
from ..data.datasets import load_dataset
from ..data.samples import DataError, describe
from ..files import whole_folder
from ..prior import fit_prior
from .bit_cost import add_bit_cost, set_inertia
from .manifest import write_manifest
from .write import report


def refit(
    folder: Path,
    data: Path,
    bit_cost: float | None = None,
    inertia: Sequence[float] | None = None,
) -> None:
    """Replace ``prior.npz``, manifest and model card of the bundle in `folder`; weights stay.

    It is written whole or not at all, then measured.

    Args:
        folder: of the bundle.
        data: what it was trained on.
        bit_cost: squared distance that a bit is worth; None to leave the encoder as it is.
        inertia: likewise, of each level.

    Raises:
        DataError: the dataset cannot be read, or is not all that the bundle was trained on, or
            `inertia` has not a number for each level.
        BundleError: what was made is no bundle.
    """
    manifest = yaml.safe_load((folder / MANIFEST).read_text())
    for name in ("provenance", "figures", "compute"):
        if name not in manifest:
            raise DataError(f"{folder / MANIFEST}: has no `{name}`: not written by this project")
    labels = ModelBundle.load(folder).labels
    train, val = (load_dataset(data, split, labels) for split in ("train", "val"))
    if manifest["provenance"]["data"] != describe(train):
        raise DataError(
            f"{data}: not {manifest['provenance']['data']}, which the bundle comes from"
        )
    config = Prior(**manifest["provenance"].get("prior", {}))
    levels, seed = manifest["levels"], manifest["provenance"]["seed"]
    if inertia is not None and len(inertia) != levels:
        raise DataError(f"inertia {list(inertia)}: {folder.name} has {levels} levels")
    with whole_folder(folder) as draft:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        files = manifest["files"]
        if inertia is not None:
            files.update(set_inertia(draft, inertia))
            manifest["inertia"] = list(inertia)
        if bit_cost is not None:
            files.update(add_bit_cost(draft, train, manifest["codes"], bit_cost, seed))
            manifest["provenance"]["bit_cost"] = bit_cost
        # What the prior before it learned of the codes stands for the codebooks.
        codebooks = np.load(folder / PRIOR)["embedding_0"].astype(np.float32)
        fit_prior(draft, codebooks, train, config, seed)
        manifest["provenance"]["prior"] = config.model_dump()
        files[PRIOR] = record(draft / PRIOR)
        # Figures in float stay where a folder does not hold the float encoder any more.
        stays = ["tokens_kept_by_float16"]
        if (bit_cost, inertia) == (None, None) or int8(ENCODER) not in files:
            stays += ["float16_miou", "float16_agreement"]
        figures = manifest["figures"]
        manifest["figures"] = {name: figures[name] for name in stays if name in figures}
        write_manifest(draft, manifest)
        ModelBundle.load(draft)
    report(folder, val)


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give 0 or more")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Refit one bundle."""
    parser = argparse.ArgumentParser(prog="gosvae_training.bundle.refit", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", type=Path, required=True, help="what it was trained on")
    parser.add_argument(
        "--bit-cost",
        type=_not_negative,
        metavar="DISTANCE",
        help="squared distance that a bit of the first level is worth; the encoder's own if absent",
    )
    parser.add_argument(
        "--inertia",
        type=_not_negative,
        nargs="+",
        metavar="DISTANCE",
        help="squared distance within which a token is kept, of each level; likewise",
    )
    options = parser.parse_args(arguments)
    try:
        refit(options.bundle, options.data, options.bit_cost, options.inertia)
    except (DataError, GosvaeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
