"""Fit the prior of a finished bundle anew: ``python -m gosvae_training.bundle.refit``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.manifest import MANIFEST, PRIOR, record

from ..config import Prior
from ..data.datasets import load_dataset
from ..data.samples import DataError, describe
from ..files import whole_folder
from ..prior import fit_prior
from .manifest import write_manifest
from .write import report


def refit(folder: Path, data: Path, config: Prior) -> None:
    """Replace ``prior.npz``, manifest and model card of the bundle in `folder`; networks stay.

    It is written whole or not at all, then measured.

    Raises:
        DataError: the dataset cannot be read, or is not all that the bundle was trained on.
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
    with whole_folder(folder) as draft:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        # What the prior before it learned of the codes stands for the codebooks.
        codebooks = np.load(folder / PRIOR)["embedding_0"].astype(np.float32)
        fit_prior(draft, codebooks, train, config, manifest["provenance"]["seed"])
        manifest["provenance"]["prior"] = config.model_dump()
        manifest["files"][PRIOR] = record(draft / PRIOR)
        # They are the networks', and a folder need not hold those in float any more.
        manifest["figures"] = {
            name: manifest["figures"][name]
            for name in ("tokens_kept_by_float16", "float16_miou")
            if name in manifest["figures"]
        }
        write_manifest(draft, manifest)
        ModelBundle.load(draft)
    report(folder, val)


def main(arguments: list[str] | None = None) -> int:
    """Refit one bundle."""
    parser = argparse.ArgumentParser(prog="gosvae_training.bundle.refit", description=__doc__)
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
