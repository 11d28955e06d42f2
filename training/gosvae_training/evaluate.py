"""Measure a bundle as it runs, packets and all: ``python -m gosvae_training.evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gosvae_codec import Decoder, Encoder, Expert, GosvaeError, ModelBundle, Packet
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.packets import MAX_SERIALIZED_BYTES

from .data import DataError, Sample, load_camvid

INTRA_FRAMES = 15
"""Frames from one intra frame to the next: a second of CamVid's `val`."""


def fixed_length(bundle: ModelBundle, levels: int) -> int:
    """Return the bytes that a frame took with codes of fixed length in wire format 1.

    Its packets had 64 bytes beside the payload.
    """
    bits = levels * bundle.grid[0] * bundle.grid[1] * (bundle.codes - 1).bit_length()
    payload = -(-bits // 8)
    return payload + 64 * -(-payload // (MAX_SERIALIZED_BYTES - 64))


def _size(packets: list[Packet]) -> int:
    return sum(packet.serialized_size() for packet in packets)


def evaluate(bundle: ModelBundle, samples: list[Sample], distance: int = 1) -> dict[str, Any]:
    """Return the figures of a bundle on labelled frames, by number of residual levels sent.

    mIoU is over all pixels of all frames, the mean over the labels that occur; agreement is mIoU
    with the expert's masks for truth; bytes are serialised packets, CDR included: of intra frames,
    and as sent at the samples' frame rate, every frame predicted from the one `distance` before but
    for one in INTRA_FRAMES.
    """
    expert, encoder = Expert(bundle), Encoder(bundle)
    truth_expert = ConfusionMatrix()
    by_level = [
        (Encoder(bundle), Decoder(bundle), ConfusionMatrix(), ConfusionMatrix(), [], [])
        for _ in range(bundle.levels)
    ]
    progress = tqdm(samples, desc=f"evaluate {bundle.name}", unit="frame", leave=False)
    for index, sample in enumerate(progress):
        wanted = expert.segment(sample.frame)
        truth_expert.add(sample.mask, wanted)
        for level, (stream, decoder, truth, agreement, intra, sent) in enumerate(by_level, 1):
            intra.append(_size(encoder.encode(sample.frame, levels=level)))
            packets = stream.encode(sample.frame, levels=level, intra=index % INTRA_FRAMES == 0)
            decoded = decoder.decode(packets)
            older = decoded.sequence - distance + 1
            stream.acknowledge(older if older >= 0 else None)
            sent.append(_size(packets))
            truth.add(sample.mask, decoded.mask)
            agreement.add(wanted, decoded.mask)
    names = {label.id: label.name for label in bundle.labels.labels}
    return {
        "expert_miou": round(truth_expert.miou(), 4),
        "levels": [
            {
                "levels": level,
                "fixed_length_bytes": fixed_length(bundle, level),
                "intra_bytes": round(float(np.mean(intra)), 1),
                "bytes_per_frame": round(float(np.mean(sent)), 1),
                "miou": round(truth.miou(), 4),
                "share_of_expert": round(truth.miou() / truth_expert.miou(), 4),
                "agreement": round(agreement.miou(), 4),
                "per_class": {names.get(k, str(k)): round(v, 4) for k, v in truth.iou().items()},
            }
            for level, (_, _, truth, agreement, intra, sent) in enumerate(by_level, 1)
        ],
    }


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a Markdown table; bytes a frame."""
    lines = [
        "| levels | fixed length | intra | predicted | mIoU | of the expert's | agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in figures["levels"]:
        lines.append(
            f"| {row['levels']} | {row['fixed_length_bytes']} | {row['intra_bytes']:.0f} | "
            f"{row['bytes_per_frame']:.0f} | {row['miou']:.3f} | "
            f"{row['share_of_expert']:.3f} | {row['agreement']:.3f} |"
        )
    lines.append(f"| expert, no codec | | | | {figures['expert_miou']:.3f} | 1 | 1 |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print a bundle's figures on one split of CamVid."""
    parser = argparse.ArgumentParser(prog="gosvae_training.evaluate", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", type=Path, required=True, help="root of CamVid")
    parser.add_argument("--split", default="val", help="train, val or test")
    parser.add_argument("--distance", type=int, default=1, help="frames back to the reference")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        figures = evaluate(
            ModelBundle.load(options.bundle),
            load_camvid(options.data, options.split),
            options.distance,
        )
    except (GosvaeError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
