"""Fit the prior of a finished bundle anew: ``python -m gosvae_training.refit``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml

from gosvae_codec import GosvaeError, Label, LabelSpace
from gosvae_codec.bundle import FORMAT, PRIOR

from .config import Prior
from .data import DataError, describe, load_dataset
from .export import measure, record
from .prior import fit_prior


def refit(folder: Path, data: Path, config: Prior) -> None:
    """Replace ``prior.npz``, manifest and model card of the bundle in `folder`; networks stay.

    Everything is made in ``.<name>.new`` beside it and renamed into place.

    Raises:
        DataError: the dataset cannot be read, or is not all that the bundle was trained on.
        BundleError: what was made is no bundle.
    """
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    # The folder need not be a bundle of today's format.
    labels = LabelSpace(
        manifest["name"],
        tuple(Label(each["id"], each["name"], tuple(each["color"])) for each in manifest["labels"]),
    )
    train, val = (load_dataset(data, split, labels) for split in ("train", "val"))
    if manifest["provenance"]["data"] != describe(train):
        raise DataError(
            f"{data}: not {manifest['provenance']['data']}, which the bundle comes from"
        )
    made = folder.parent / f".{folder.name}.new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        networks = [name for name in manifest["files"] if name != PRIOR]
        for name in networks:
            shutil.copy(folder / name, made)
        # What the prior before it learned of the codes stands for the codebooks.
        codebooks = np.load(folder / PRIOR)["embedding_0"].astype(np.float32)
        fit_prior(made, codebooks, train, config, manifest["provenance"]["seed"])
        manifest["format"] = FORMAT
        manifest["provenance"]["prior"] = config.model_dump()
        manifest["files"] = {name: record(made / name) for name in (*networks, PRIOR)}
        figures = manifest["figures"]
        known = {name: figures[name] for name in ("tokens_kept_by_float16", "float16_miou")}
        measure(made, manifest, val, known)
        # The manifest is last, as it vouches for the others.
        for name in (PRIOR, "README.md", "manifest.yaml"):
            (made / name).replace(folder / name)
    finally:
        shutil.rmtree(made)


def main(arguments: list[str] | None = None) -> int:
    """Refit one bundle."""
    parser = argparse.ArgumentParser(prog="gosvae_training.refit", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", type=Path, required=True, help="what it was trained on")
    options = parser.parse_args(arguments)
    try:
        refit(options.bundle, options.data, Prior())
    except (DataError, GosvaeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
