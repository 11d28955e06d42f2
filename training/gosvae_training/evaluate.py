"""Measure a bundle as it runs, packets and all: ``python -m gosvae_training.evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gosvae_codec import Decoder, Encoder, Expert, GosvaeError, ModelBundle
from gosvae_codec.metrics import ConfusionMatrix

from .data import DataError, Dataset, iterate, load_dataset


def evaluate(bundle: ModelBundle, samples: Dataset) -> dict[str, Any]:
    """Return the figures of a bundle on labelled frames, by number of residual levels sent.

    mIoU is over all pixels of all frames, the mean over the labels that occur; agreement is mIoU
    with the expert's masks for truth; bytes are serialised packets, CDR included.
    """
    expert, encoder, decoder = Expert(bundle), Encoder(bundle), Decoder(bundle)
    truth_expert = ConfusionMatrix()
    by_level = [(ConfusionMatrix(), ConfusionMatrix(), []) for _ in range(bundle.levels)]
    for sample in tqdm(
        iterate(samples),
        desc=f"evaluate {bundle.name}",
        unit="frame",
        total=len(samples),
        leave=False,
    ):
        wanted = expert.segment(sample.frame)
        truth_expert.add(sample.mask, wanted)
        for level, (truth, agreement, sizes) in enumerate(by_level, 1):
            packets = encoder.encode(sample.frame, levels=level)
            mask = decoder.decode(packets).mask
            truth.add(sample.mask, mask)
            agreement.add(wanted, mask)
            sizes.append(sum(packet.serialized_size() for packet in packets))
    names = {label.id: label.name for label in bundle.labels.labels}
    return {
        "expert_miou": round(truth_expert.miou(), 4),
        "levels": [
            {
                "levels": level,
                "bytes_per_frame": round(float(np.mean(sizes)), 1),
                "miou": round(truth.miou(), 4),
                "share_of_expert": round(truth.miou() / truth_expert.miou(), 4),
                "agreement": round(agreement.miou(), 4),
                "per_class": {names.get(k, str(k)): round(v, 4) for k, v in truth.iou().items()},
            }
            for level, (truth, agreement, sizes) in enumerate(by_level, 1)
        ],
    }


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| levels | bytes a frame | mIoU | share of the expert | agreement with the expert |",
        "|---|---|---|---|---|",
    ]
    for row in figures["levels"]:
        lines.append(
            f"| {row['levels']} | {row['bytes_per_frame']:.0f} | {row['miou']:.3f} | "
            f"{row['share_of_expert']:.3f} | {row['agreement']:.3f} |"
        )
    lines.append(f"| expert, no codec | | {figures['expert_miou']:.3f} | 1 | 1 |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print a bundle's figures on one split of CamVid."""
    parser = argparse.ArgumentParser(prog="gosvae_training.evaluate", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", type=Path, required=True, help="root of CamVid")
    parser.add_argument("--split", default="val", help="train, val or test")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        bundle = ModelBundle.load(options.bundle)
        figures = evaluate(bundle, load_dataset(options.data, options.split, bundle.labels))
    except (GosvaeError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
