"""Tokens against labels of equal vehicle compute: ``python -m gosvae_training.studies.compare``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from gosvae_codec import Decoder, Encoder, Expert, GosvaeError, ModelBundle, metrics
from gosvae_codec.draft import whole_file, write_text
from gosvae_codec.images import resize_frame
from gosvae_codec.manifest import ENCODER
from gosvae_codec.metrics import ConfusionMatrix

from ..data.datasets import load_dataset
from ..data.samples import DataError, Dataset, describe, iterate
from ..evaluate import HEADER, INTRA_FRAMES
from ..tables import markdown_table

BLOCK = 10
"""Consecutive frames that are drawn together: neighbours show the same street."""
RESAMPLES = 2000
"""For each interval."""
RIVAL = "-labels"
"""What the name of a label sender has behind that of its rivals, or behind their beginning."""

Counts = npt.NDArray[np.int64]
"""Confusion matrices of frames, (frames, classes, classes)."""


def miou(counts: Counts) -> npt.NDArray[np.float64]:
    """Return the mIoU of confusion matrices (..., classes, classes), over classes that occur."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return metrics.miou(hits, counts.sum(-1), counts.sum(-2))


def blocks(frames: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return the frames of each resample, (RESAMPLES, frames), in blocks (Kuensch 1989)."""
    rng = np.random.default_rng(seed)
    block = min(BLOCK, frames)
    starts = rng.integers(0, frames - block + 1, (RESAMPLES, -(-frames // block)))
    drawn = starts[..., None] + np.arange(block)
    return drawn.reshape(RESAMPLES, -1)[:, :frames]


def resampled(counts: Counts) -> npt.NDArray[np.float64]:
    """Return the mIoU of every resample, (RESAMPLES,): the same frames for equal `len(counts)`."""
    return np.array([miou(counts[frames].sum(0)) for frames in blocks(len(counts))])


def interval(values: npt.NDArray[np.float64]) -> list[float]:
    """Return the bounds that 95% of `values` lie between."""
    return [round(float(each), 4) for each in np.percentile(values, (2.5, 97.5))]


def rival(name: str, names: Iterable[str]) -> str | None:
    """Return which of `names` sends labels at the budget of bundle `name`; it is not its own."""
    senders = [each for each in names if each.endswith(RIVAL) and each != name]
    budgets = [each for each in senders if f"{name}-".startswith(each.removesuffix(RIVAL) + "-")]
    return max(budgets, key=len, default=None)


def measure(bundle: ModelBundle, samples: Dataset, levels: int) -> tuple[dict[str, Any], Counts]:
    """Return bytes and milliseconds a frame of a bundle, and its confusion matrices.

    Frames are sent as :func:`~gosvae_training.evaluate.evaluate` sends them: predicted, but for
    one in INTRA_FRAMES. Milliseconds are the median of the encoder network alone, 8-bit where
    there is such, in ONNX Runtime on one thread.
    """
    single, stream, decoder = Encoder(bundle), Encoder(bundle), Decoder(bundle)
    session = bundle.session(ENCODER, ("cpu",), 1)
    nothing = np.full((1, bundle.levels, *bundle.grid), bundle.codes, np.int32)
    matrices, intra, sent, seconds = [], [], [], []
    for index, sample in enumerate(
        tqdm(iterate(samples), desc=f"{bundle.name}, {levels}", total=len(samples), unit="frame")
    ):
        frame = resize_frame(sample.frame, bundle.input_size)[None]
        start = time.perf_counter()
        session.run(frame, nothing)
        seconds.append(time.perf_counter() - start)
        alone = single.encode(sample.frame, HEADER, levels)
        intra.append(sum(packet.serialized_size() for packet in alone))
        packets = stream.encode(sample.frame, HEADER, levels, index % INTRA_FRAMES == 0)
        sent.append(sum(packet.serialized_size() for packet in packets))
        decoded = decoder.decode(packets)
        stream.acknowledge(decoded.sequence)
        matrices.append(_counts(bundle, sample.mask, decoded.mask))
    row = {
        "name": bundle.name,
        "kind": bundle.manifest.get("kind", "tokens"),
        "levels": levels,
        "vehicle_macs": bundle.manifest["compute"]["vehicle_macs"],
        "receiver_macs": bundle.manifest["compute"]["receiver_macs"],
        "vehicle_ms": round(1e3 * float(np.median(seconds)), 1),
        "intra_bytes": round(float(np.mean(intra)), 1),
        "bytes_per_frame": round(float(np.mean(sent)), 1),
    }
    return row, np.stack(matrices)


def _counts(bundle: ModelBundle, truth: np.ndarray, guess: np.ndarray) -> Counts:
    matrix = ConfusionMatrix()
    matrix.add(truth, guess)
    return matrix.counts[np.ix_(bundle.labels.ids, bundle.labels.ids)]


def compare(bundles: list[ModelBundle], samples: Dataset) -> dict[str, Any]:
    """Return the rows of all bundles and levels, and how rivals differ, frame by frame.

    All are to have the labels and the expert of the first.
    """
    expert = Expert(bundles[0])
    alone = np.stack(
        [
            _counts(bundles[0], sample.mask, expert.segment(sample.frame))
            for sample in tqdm(iterate(samples), desc="expert", total=len(samples), unit="frame")
        ]
    )
    best = float(miou(alone.sum(0)))
    rows, values = [], {}
    for bundle in bundles:
        for levels in range(1, bundle.levels + 1):
            row, counts = measure(bundle, samples, levels)
            values[bundle.name, levels] = resampled(counts)
            reached = float(miou(counts.sum(0)))
            row["miou"] = round(reached, 4)
            row["interval"] = interval(values[bundle.name, levels])
            row["share_of_expert"] = round(reached / best, 4)
            rows.append(row)
    by_name = {(row["name"], row["levels"]): row for row in rows}
    differences = []
    for name, levels in by_name:
        other = rival(name, (each for each, _ in by_name))
        if other is None:
            continue
        ours, theirs = by_name[name, levels], by_name[other, 1]
        ratio = ours["intra_bytes"] / theirs["intra_bytes"]
        differences.append(
            {
                "name": name,
                "levels": levels,
                "bytes_ratio": round(ratio, 3),
                "miou": round(ours["miou"] - theirs["miou"], 4),
                "interval": interval(values[name, levels] - values[other, 1]),
            }
        )
    return {
        "data": describe(samples),
        "date": str(date.today()),
        "expert_miou": round(best, 4),
        "rows": rows,
        "differences": differences,
    }


def table(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown tables."""
    header = "vehicle sends, levels, vehicle GMACs, ms, receiver GMACs, bytes intra"
    rows = []
    for row in figures["rows"]:
        low, high = row["interval"]
        rows.append(
            (
                f"{row['kind']}, {row['name']}",
                row["levels"],
                f"{row['vehicle_macs'] / 1e9:.3f}",
                f"{row['vehicle_ms']:.1f}",
                f"{row['receiver_macs'] / 1e9:.2f}",
                f"{row['intra_bytes']:.0f}",
                f"{row['bytes_per_frame']:.0f}",
                f"{row['miou']:.3f} ({low:.3f} to {high:.3f})",
                f"{row['share_of_expert']:.3f}",
            )
        )
    text = markdown_table(
        [*header.split(", "), "bytes predicted", "mIoU (95%)", "of the expert's"], rows
    )
    if not figures["differences"]:
        return text
    differences = []
    for each in figures["differences"]:
        low, high = each["interval"]
        more = f"{each['miou']:+.3f} ({low:+.3f} to {high:+.3f})"
        differences.append((each["name"], each["levels"], f"{each['bytes_ratio']:.2f}", more))
    titles = [
        "tokens against labels",
        "levels",
        "bytes intra, times the labels'",
        "mIoU more (95%)",
    ]
    return f"{text}\n\n{markdown_table(titles, differences)}"


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draw mIoU against bytes, a line for each bundle; rivals share a colour."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["name"] for row in figures["rows"]))
    budgets = [rival(name, names) or name for name in names]
    colours = {budget: f"C{index}" for index, budget in enumerate(dict.fromkeys(budgets))}
    for name, budget in zip(names, budgets, strict=True):
        rows = [row for row in figures["rows"] if row["name"] == name]
        reached = np.array([row["miou"] for row in rows])
        bounds = np.array([row["interval"] for row in rows]).T
        axes.errorbar(
            [row["intra_bytes"] for row in rows],
            reached,
            np.abs(bounds - reached),
            label=f"{name}, {rows[0]['vehicle_macs'] / 1e9:.2f} GMACs",
            color=colours[budget],
            marker="s" if rows[0]["kind"] == "labels" else "o",
            fillstyle="none" if rows[0]["kind"] == "labels" else "full",
            capsize=3,
        )
    axes.axhline(figures["expert_miou"], color="black", linestyle=":", label="expert")
    axes.set(xlabel="bytes of an intra frame", ylabel="mIoU")
    figure.legend(loc="outside right upper", fontsize="small")
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Compare bundles on one split of a dataset."""
    parser = argparse.ArgumentParser(prog="gosvae_training.studies.compare", description=__doc__)
    parser.add_argument(
        "bundles",
        nargs="+",
        type=Path,
        help="folders; X-labels is the rival of X and of X-anything",
    )
    parser.add_argument("--data", type=Path, required=True, help="a labelled dataset")
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them to this file")
    options = parser.parse_args(arguments)
    try:
        bundles = [ModelBundle.load(path) for path in options.bundles]
        samples = load_dataset(options.data, options.split, bundles[0].labels)
        figures = compare(bundles, samples)
    except (GosvaeError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{figures['data']}, {figures['date']}\n\n{table(figures)}")
    if options.json:
        write_text(options.json, json.dumps(figures, indent=2) + "\n")
    if options.plot:
        plot(figures, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
