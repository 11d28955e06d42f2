"""Fit the prior of a finished bundle anew: ``python -m gosvae_training.refit``."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml

from gosvae_codec import GosvaeError
from gosvae_codec.bundle import ENCODER, FORMAT, MASK, PRIOR

from .config import Prior
from .data import DataError, describe, load_camvid
from .export import measure, record
from .prior import fit_prior


def refit(folder: Path, data: Path, config: Prior) -> None:
    """Replace ``prior.npz``, manifest and model card of the bundle in `folder`; networks stay.

    Everything is made in ``.<name>.new`` beside it and renamed into place.

    Raises:
        DataError: CamVid cannot be read.
        BundleError: what was made is no bundle.
    """
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    train, val = load_camvid(data, "train"), load_camvid(data, "val")
    if manifest["provenance"]["data"] != describe("train", train):
        raise DataError(
            f"{data}: not {manifest['provenance']['data']}, which the bundle comes from"
        )
    made = folder.parent / f".{folder.name}.new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        for name in (ENCODER, MASK):
            shutil.copy(folder / name, made)
        # What the prior before it learned of the codes stands for the codebooks.
        codebooks = np.load(folder / PRIOR)["embedding_0"].astype(np.float32)
        fit_prior(made, codebooks, train, config, manifest["provenance"]["seed"])
        manifest["format"] = FORMAT
        manifest["provenance"]["prior"] = dataclasses.asdict(config)
        manifest["files"] = {name: record(made / name) for name in (ENCODER, MASK, PRIOR)}
        measure(made, manifest, val, manifest["figures"]["tokens_kept_by_float16"])
        # The manifest is last, as it vouches for the others.
        for name in (PRIOR, "README.md", "manifest.yaml"):
            (made / name).replace(folder / name)
    finally:
        shutil.rmtree(made)


def main(arguments: list[str] | None = None) -> int:
    """Refit one bundle."""
    parser = argparse.ArgumentParser(prog="gosvae_training.refit", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", type=Path, required=True, help="root of CamVid")
    options = parser.parse_args(arguments)
    try:
        refit(options.bundle, options.data, Prior())
    except (DataError, GosvaeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
