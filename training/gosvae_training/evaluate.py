"""Measure a bundle as it runs, packets and all: ``python -m gosvae_training.evaluate``."""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from gosvae_codec import Decoder, Encoder, Expert, GosvaeError, LabelSpace, ModelBundle, Packet
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.packets import MAX_SERIALIZED_BYTES

from .data import DataError, Dataset, describe, iterate, load_dataset

INTRA_FRAMES = 15
"""Frames from one intra frame to the next: a second of CamVid's `val`."""
LABEL_SCALES = (4, 8)
"""Parts of the frame's sides at which labels are sent for comparison."""
# The preset's own dictionary of 64 MB takes longer to clear than a label map to compress.
LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 16}]


def fixed_length(bundle: ModelBundle, levels: int) -> int:
    """Return the bytes that a frame took with codes of fixed length in wire format 1.

    Its packets had 64 bytes beside the payload.
    """
    bits = levels * bundle.grid[0] * bundle.grid[1] * (bundle.codes - 1).bit_length()
    payload = -(-bits // 8)
    return payload + 64 * -(-payload // (MAX_SERIALIZED_BYTES - 64))


def _size(packets: list[Packet]) -> int:
    return sum(packet.serialized_size() for packet in packets)


def send_labels(
    mask: npt.NDArray[np.uint8], scale: int, labels: LabelSpace
) -> tuple[int, npt.NDArray[np.uint8]]:
    """Return what a label sender costs and its receiver gets.

    The mask is shrunk by majority, compressed with LZMA2, and enlarged smoothly, class by class:
    the best that a receiver can do with it.

    Args:
        mask: uint8 (H, W) label ids.
        scale: part of the sides that is sent.
        labels: the ids that occur.

    Returns:
        Compressed bytes, no header counted, and the received mask, uint8 (H, W).
    """
    height, width = mask.shape
    small = (-(-width // scale), -(-height // scale))
    planes = [(mask == label).astype(np.float32) for label in labels.ids]
    sent = np.argmax([cv2.resize(each, small, interpolation=cv2.INTER_AREA) for each in planes], 0)
    packed = lzma.compress(sent.astype(np.uint8).tobytes(), lzma.FORMAT_RAW, filters=LZMA)
    soft = [
        cv2.resize((sent == index).astype(np.float32), (width, height))
        for index in range(len(labels))
    ]
    return len(packed), labels.ids[np.argmax(soft, 0)]


def evaluate(bundle: ModelBundle, samples: Dataset, distance: int = 1) -> dict[str, Any]:
    """Return the figures of a bundle on labelled frames.

    mIoU is over all pixels of all frames, the mean over the labels that occur; agreement is mIoU
    with the expert's masks for truth; bytes are serialised packets, CDR included: of intra frames,
    and as sent at the samples' frame rate, every frame predicted from the one `distance` before but
    for one in INTRA_FRAMES. Milliseconds are the median of whole frames in one thread on the CPU,
    all levels sent. The figures at the top are those with all levels, ``levels`` has those of fewer
    too, and ``labels`` those of a vehicle that runs the expert and sends its labels, each frame by
    itself, packet header included. MACs are the manifest's, null where it has none.
    """
    expert, encoder = Expert(bundle), Encoder(bundle)
    truth_expert = ConfusionMatrix()
    by_level = [
        (Encoder(bundle), Decoder(bundle), ConfusionMatrix(), ConfusionMatrix(), [], [])
        for _ in range(bundle.levels)
    ]
    by_scale = [(ConfusionMatrix(), []) for _ in LABEL_SCALES]
    vehicle, receiver, alone = [], [], []
    progress = tqdm(
        iterate(samples),
        desc=f"evaluate {bundle.name}",
        unit="frame",
        total=len(samples),
        leave=False,
    )
    for index, sample in enumerate(progress):
        start = time.perf_counter()
        wanted = expert.segment(sample.frame)
        alone.append(time.perf_counter() - start)
        truth_expert.add(sample.mask, wanted)
        for level, (stream, decoder, truth, agreement, intra, sent) in enumerate(by_level, 1):
            single = encoder.encode(sample.frame, levels=level)
            intra.append(_size(single))
            start = time.perf_counter()
            packets = stream.encode(sample.frame, levels=level, intra=index % INTRA_FRAMES == 0)
            middle = time.perf_counter()
            decoded = decoder.decode(packets)
            if level == bundle.levels:
                vehicle.append(middle - start)
                receiver.append(time.perf_counter() - middle)
            older = decoded.sequence - distance + 1
            stream.acknowledge(older if older >= 0 else None)
            sent.append(_size(packets))
            truth.add(sample.mask, decoded.mask)
            agreement.add(wanted, decoded.mask)
        header = single[0].serialized_size() - len(single[0].payload)
        for scale, (truth, sizes) in zip(LABEL_SCALES, by_scale, strict=True):
            size, mask = send_labels(wanted, scale, bundle.labels)
            truth.add(sample.mask, mask)
            sizes.append(size + header)
    names = {label.id: label.name for label in bundle.labels.labels}

    def per_class(matrix: ConfusionMatrix) -> dict[str, float]:
        return {names.get(k, str(k)): round(v, 4) for k, v in matrix.iou().items()}

    def milliseconds(seconds: list[float]) -> float:
        return round(1e3 * float(np.median(seconds)), 1)

    levels = [
        {
            "levels": level,
            "fixed_length_bytes": fixed_length(bundle, level),
            "intra_bytes": round(float(np.mean(intra)), 1),
            "bytes_per_frame": round(float(np.mean(sent)), 1),
            "miou": round(truth.miou(), 4),
            "share_of_expert": round(truth.miou() / truth_expert.miou(), 4),
            "agreement": round(agreement.miou(), 4),
            "per_class": per_class(truth),
        }
        for level, (_, _, truth, agreement, intra, sent) in enumerate(by_level, 1)
    ]
    full, compute = levels[-1], bundle.manifest.get("compute", {})
    return {
        "data": describe(samples),
        "date": str(date.today()),
        "machine": platform.machine(),
        "miou": full["miou"],
        "expert_miou": round(truth_expert.miou(), 4),
        "agreement": full["agreement"],
        "per_class": full["per_class"],
        "expert_per_class": per_class(truth_expert),
        "bytes_per_frame": full["bytes_per_frame"],
        "vehicle_macs": compute.get("vehicle_macs"),
        "receiver_macs": compute.get("receiver_macs"),
        "expert_macs": compute.get("expert_macs"),
        "vehicle_ms": milliseconds(vehicle),
        "receiver_ms": milliseconds(receiver),
        "expert_ms": milliseconds(alone),
        "levels": levels,
        "labels": [
            {
                "scale": scale,
                "bytes_per_frame": round(float(np.mean(sizes)), 1),
                "miou": round(truth.miou(), 4),
            }
            for scale, (truth, sizes) in zip(LABEL_SCALES, by_scale, strict=True)
        ],
    }


def table(figures: dict[str, Any], kind: str = "tokens") -> str:
    """Return the figures as a Markdown table; bytes a frame, `kind` the bundle's."""
    lines = [
        "| what is sent | fixed length | intra | predicted | mIoU | of the expert's | agreement |"
        " vehicle GMACs | receiver GMACs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    vehicle, receiver, expert = (
        "unknown" if macs is None else f"{macs / 1e9:.2f}"
        for macs in (figures[f"{who}_macs"] for who in ("vehicle", "receiver", "expert"))
    )
    for row in figures["levels"]:
        lines.append(
            f"| {kind}, {row['levels']} level{'s' if row['levels'] > 1 else ''} | "
            f"{row['fixed_length_bytes']} | {row['intra_bytes']:.0f} | "
            f"{row['bytes_per_frame']:.0f} | {row['miou']:.3f} | {row['share_of_expert']:.3f} | "
            f"{row['agreement']:.3f} | {vehicle} | {receiver} |"
        )
    for row in figures["labels"]:
        share = row["miou"] / figures["expert_miou"]
        lines.append(
            f"| the expert's labels, 1/{row['scale']} of the sides | | "
            f"{row['bytes_per_frame']:.0f} | | {row['miou']:.3f} | {share:.3f} | | {expert} | 0 |"
        )
    lines.append(
        f"| frames, no codec | | | | {figures['expert_miou']:.3f} | 1 | 1 | 0 | {expert} |"
    )
    return "\n".join(lines)


def classes_table(figures: dict[str, Any]) -> str:
    """Return the IoU of each class, bundle and expert, as a Markdown table."""
    lines = ["| class | IoU | expert's |", "|---|---|---|"]
    for name, value in figures["per_class"].items():
        lines.append(f"| {name} | {value:.3f} | {figures['expert_per_class'][name]:.3f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print a bundle's figures on one split of a dataset."""
    parser = argparse.ArgumentParser(prog="gosvae_training.evaluate", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument(
        "--data", type=Path, required=True, help="a dataset, see gosvae_training.data"
    )
    parser.add_argument("--split", default="val", help="train, val or test")
    parser.add_argument("--distance", type=int, default=1, help="frames back to the reference")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        bundle = ModelBundle.load(options.bundle)
        samples = load_dataset(options.data, options.split, bundle.labels)
        figures = evaluate(bundle, samples, options.distance)
    except (GosvaeError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    kind = bundle.manifest.get("kind", "tokens")
    rows = table(figures, kind)
    print(f"{figures['data']}, {figures['date']}\n\n{rows}\n\n{classes_table(figures)}")
    print(
        f"\nmilliseconds a frame, one thread of the CPU: vehicle {figures['vehicle_ms']}, "
        f"receiver {figures['receiver_ms']}, expert {figures['expert_ms']}"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
