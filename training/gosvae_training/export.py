"""Write a model bundle from a finished run: ``python -m gosvae_training.export``."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

import yaml

from gosvae_codec import GosvaeError
from gosvae_codec.manifest import MANIFEST

from .bundle.onnx_export import ExportError
from .bundle.write import export, export_expert
from .config import load_config
from .data.datasets import parse_folders
from .data.samples import DataError
from .evaluate import table
from .strict import ConfigError
from .train import STAGES, Material


def main(arguments: list[str] | None = None) -> int:
    """Export one configuration's run."""
    parser = argparse.ArgumentParser(prog="gosvae_training.export", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file that the run was trained with")
    parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="as the run was trained with"
    )
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument(
        "--stage",
        choices=STAGES,
        default=STAGES[-1],
        help="expert: it alone, for receivers of pictures, instead of a bundle",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run lies")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where bundles go")
    options = parser.parse_intermixed_args(arguments)
    # The exporter warns of a torchvision that nothing here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        config = load_config(options.config, options.overrides)
        material = Material.load(config, parse_folders(config.data.names(), options.data))
        write = export_expert if options.stage == "expert" else export
        folder = write(material, options.runs, options.models)
    except (ConfigError, DataError, ExportError, GosvaeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {folder}")
    if options.stage == "codec":
        manifest = yaml.safe_load((folder / MANIFEST).read_text())
        if "levels" in manifest["figures"]:
            print(table(manifest["figures"], manifest["kind"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
