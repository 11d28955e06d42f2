"""Measure a bundle as it runs, packets and all: ``python -m gosvae_training.evaluate``."""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import sys
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from gosvae_codec import (
    Decoder,
    Encoder,
    Expert,
    GosvaeError,
    Header,
    LabelSpace,
    ModelBundle,
    Packet,
)
from gosvae_codec.draft import write_text
from gosvae_codec.masks import enlarge_labels, shrink_labels
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.packets import MAX_SERIALIZED_BYTES
from gosvae_codec.tasks import Result, SemanticResult

from .data.datasets import default_split, load_dataset
from .data.samples import DataError, Dataset, Part, Sample, describe, iterate
from .tables import markdown_table
from .task_meters import AgreementMeter, task_figures, task_meters

HEADER = Header(0, 0, "camera")
"""Of every frame: as in the benchmark, so that both measure the same bytes."""
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

    The mask is shrunk and enlarged as in the benchmark, and compressed with LZMA2, which the
    standard library has; the benchmark's JPEG XL takes about 5% fewer bytes.

    Args:
        mask: uint8 (H, W) label ids.
        scale: part of the sides that is sent.
        labels: the ids that occur.

    Returns:
        Compressed bytes, no header counted, and the received mask, uint8 (H, W).
    """
    sent = shrink_labels(mask, scale, labels)
    packed = lzma.compress(sent.tobytes(), lzma.FORMAT_RAW, filters=LZMA)
    return len(packed), enlarge_labels(sent, mask.shape, labels)


class _Stream:
    """A bundle's frames sent with one number of levels, and what arrives."""

    def __init__(self, bundle: ModelBundle, levels: int) -> None:
        self.levels = levels
        self._single, self._encoder = Encoder(bundle), Encoder(bundle)
        self._decoder = Decoder(bundle, min_score=0.0)
        self.truth = ConfusionMatrix()
        self.meters = task_meters(bundle)
        masks = self.meters[bundle.semantic.name]
        assert isinstance(masks, AgreementMeter)
        self.agreement = masks.matrix
        self.intra_bytes: list[int] = []
        self.bytes: list[int] = []
        self.vehicle_seconds: list[float] = []
        self.receiver_seconds: list[float] = []
        self.header_bytes = 0
        """Of an intra frame's first packet, beside its payload."""

    def send(
        self, sample: Sample, wanted: Mapping[str, Result], intra: bool, distance: int
    ) -> None:
        """Encode and decode one frame; `wanted` is what the experts make of it, by task."""
        single = self._single.encode(sample.frame, HEADER, self.levels)
        self.intra_bytes.append(_size(single))
        self.header_bytes = single[0].serialized_size() - len(single[0].payload)
        start = time.perf_counter()
        packets = self._encoder.encode(sample.frame, HEADER, self.levels, intra)
        middle = time.perf_counter()
        decoded = self._decoder.decode(packets)
        self.vehicle_seconds.append(middle - start)
        self.receiver_seconds.append(time.perf_counter() - middle)
        older = decoded.sequence - distance + 1
        self._encoder.acknowledge(older if older >= 0 else None)
        self.bytes.append(_size(packets))
        self.truth.add(sample.mask, decoded.mask)
        for name, meter in self.meters.items():
            meter.add(wanted[name], decoded.tasks[name])


def evaluate(bundle: ModelBundle, samples: Dataset, distance: int = 1) -> dict[str, Any]:
    """Return the figures of a bundle on frames.

    mIoU is over all pixels of all frames, the mean over the labels that occur; agreement is mIoU
    with the expert's masks as truth. Without a label mIoU and what is derived from it are None,
    and ``per_class`` is of agreement, as ``metric`` says. Bytes are serialised packets, CDR
    included: of intra frames, and as sent at the samples' frame rate, every frame predicted from
    the one `distance` before but for one in INTRA_FRAMES. Milliseconds are the median of whole
    frames in one thread on the CPU
    with all levels. The figures at the top are those with all levels, ``levels`` has those of fewer
    too, and ``labels`` those of a vehicle that runs the expert and sends its labels, each frame by
    itself, packet header included. ``tasks`` compares each task with its expert, see
    :mod:`gosvae_training.task_meters`. MACs are the manifest's, null where it has none.
    """
    experts = {
        name: Expert(bundle, task=name)
        for name, task in bundle.tasks.items()
        if "expert" in task.record or task is bundle.semantic
    }
    expert_truth, expert_seconds = ConfusionMatrix(), []
    streams = [_Stream(bundle, level) for level in range(1, bundle.levels + 1)]
    scales = {scale: (ConfusionMatrix(), ConfusionMatrix(), list[int]()) for scale in LABEL_SCALES}
    progress = tqdm(
        iterate(samples),
        desc=f"evaluate {bundle.name}",
        unit="frame",
        total=len(samples),
        leave=False,
    )
    for index, sample in enumerate(progress):
        start = time.perf_counter()
        results = {name: expert.apply(sample.frame) for name, expert in experts.items()}
        expert_seconds.append(time.perf_counter() - start)
        masks = results[bundle.semantic.name]
        assert isinstance(masks, SemanticResult)
        wanted = masks.mask
        expert_truth.add(sample.mask, wanted)
        for stream in streams:
            stream.send(sample, results, index % INTRA_FRAMES == 0, distance)
        for scale, (truth, agreement, sizes) in scales.items():
            size, mask = send_labels(wanted, scale, bundle.labels)
            truth.add(sample.mask, mask)
            agreement.add(wanted, mask)
            sizes.append(size + streams[-1].header_bytes)
    levels = [_level_figures(bundle, stream, expert_truth.miou()) for stream in streams]
    full, compute = levels[-1], bundle.manifest.get("compute", {})
    return {
        "data": describe(samples),
        "date": str(date.today()),
        "machine": platform.machine(),
        "metric": "agreement" if full["miou"] is None else "mIoU",
        "miou": full["miou"],
        "expert_miou": _rounded(expert_truth.miou()),
        "agreement": full["agreement"],
        "agreeing_pixels": full["agreeing_pixels"],
        "per_class": full["per_class"],
        "expert_per_class": _per_class(bundle, expert_truth),
        "bytes_per_frame": full["bytes_per_frame"],
        "vehicle_macs": compute.get("vehicle_macs"),
        "receiver_macs": compute.get("receiver_macs"),
        "expert_macs": compute.get("expert_macs"),
        "vehicle_ms": _milliseconds(streams[-1].vehicle_seconds),
        "receiver_ms": _milliseconds(streams[-1].receiver_seconds),
        "expert_ms": _milliseconds(expert_seconds),
        "levels": levels,
        "tasks": task_figures({stream.levels: stream.meters for stream in streams}),
        "labels": [
            {
                "scale": scale,
                "bytes_per_frame": round(float(np.mean(sizes)), 1),
                "miou": _rounded(truth.miou()),
                "agreement": _rounded(agreement.miou()),
            }
            for scale, (truth, agreement, sizes) in scales.items()
        ],
    }


def _level_figures(bundle: ModelBundle, stream: _Stream, expert_miou: float) -> dict[str, Any]:
    miou = _rounded(stream.truth.miou())
    of_expert = None if miou is None else share(stream.truth.miou(), expert_miou)
    return {
        "levels": stream.levels,
        "fixed_length_bytes": fixed_length(bundle, stream.levels),
        "intra_bytes": round(float(np.mean(stream.intra_bytes)), 1),
        "bytes_per_frame": round(float(np.mean(stream.bytes)), 1),
        "miou": miou,
        "share_of_expert": None if of_expert is None else round(of_expert, 4),
        "agreement": round(stream.agreement.miou(), 4),
        "agreeing_pixels": round(stream.agreement.accuracy(), 4),
        "per_class": _per_class(bundle, stream.agreement if miou is None else stream.truth),
    }


def _rounded(miou: float) -> float | None:
    """Return a figure to four digits, None where there is none."""
    return None if np.isnan(miou) else round(miou, 4)


def _per_class(bundle: ModelBundle, matrix: ConfusionMatrix) -> dict[str, float]:
    names = {label.id: label.name for label in bundle.labels.labels}
    return {names.get(k, str(k)): round(v, 4) for k, v in matrix.iou().items()}


def _milliseconds(seconds: list[float]) -> float:
    return round(1e3 * float(np.median(seconds)), 1)


def share(part: float, whole: float) -> float:
    """Return `part` of `whole`; nan where `whole` is 0."""
    return part / whole if whole else float("nan")


def gigamacs(macs: int | None) -> str:
    """Return multiply-accumulates in 10^9, ``unknown`` where a manifest does not have them."""
    return "unknown" if macs is None else f"{macs / 1e9:.2f}"


def table(figures: dict[str, Any], kind: str = "tokens") -> str:
    """Return the figures as a Markdown table; bytes a frame, `kind` the bundle's.

    Without labels there are no columns of mIoU.
    """
    vehicle, receiver, expert = (
        gigamacs(figures[f"{who}_macs"]) for who in ("vehicle", "receiver", "expert")
    )
    labelled = figures["miou"] is not None
    header = ["what is sent", "fixed length", "intra", "predicted"]
    header += ["mIoU", "of the expert's"] * labelled + ["agreement"]

    def quality(row: Mapping[str, Any]) -> list[str]:
        miou = []
        if labelled:
            of_expert = share(row["miou"], figures["expert_miou"])
            miou = [f"{row['miou']:.3f}", f"{of_expert:.3f}"]
        return [*miou, f"{row['agreement']:.3f}" if "agreement" in row else ""]

    rows: list[list[object]] = [
        [
            f"{kind}, {row['levels']} level{'s' if row['levels'] > 1 else ''}",
            row["fixed_length_bytes"],
            f"{row['intra_bytes']:.0f}",
            f"{row['bytes_per_frame']:.0f}",
            *quality(row),
            vehicle,
            receiver,
        ]
        for row in figures["levels"]
    ]
    for row in figures["labels"]:
        sent = f"the expert's labels, 1/{row['scale']} of the sides"
        rows.append([sent, "", f"{row['bytes_per_frame']:.0f}", "", *quality(row), expert, 0])
    ceiling = [f"{figures['expert_miou']:.3f}", 1] if labelled else []
    rows.append(["frames, no codec", "", "", "", *ceiling, 1, 0, expert])
    return markdown_table([*header, "vehicle GMACs", "receiver GMACs"], rows)


def classes_table(figures: dict[str, Any]) -> str:
    """Return the IoU of each class, bundle and expert, as a Markdown table.

    Without labels the expert's masks are the truth.
    """
    if figures["miou"] is None:
        rows = [(name, f"{iou:.3f}") for name, iou in figures["per_class"].items()]
        return markdown_table(["class", "IoU with the expert's"], rows)
    theirs = figures["expert_per_class"]
    return markdown_table(
        ["class", "IoU", "expert's"],
        [(name, f"{iou:.3f}", f"{theirs[name]:.3f}") for name, iou in figures["per_class"].items()],
    )


def main(arguments: list[str] | None = None) -> int:
    """Print a bundle's figures on a drive, or on one split of a dataset."""
    parser = argparse.ArgumentParser(prog="gosvae_training.evaluate", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a dataset, bag, video or folder of images, see gosvae_training.data.datasets",
    )
    parser.add_argument(
        "--split", help="train, val (the default) or test; of drives and without labels all"
    )
    parser.add_argument("--every", type=int, default=1, help="take one frame in so many")
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("FROM", "TO"),
        help="which share of the frames, as 0.8 1",
    )
    parser.add_argument("--topic", default="", help="of a bag with several image topics")
    parser.add_argument("--distance", type=int, default=1, help="frames back to the reference")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        bundle = ModelBundle.load(options.bundle)
        split = options.split or default_split(options.data)
        part = Part(max(options.every, 1), tuple(options.range), options.topic)
        samples = load_dataset(options.data, split, bundle.labels, part)
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
        write_text(options.json, json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
