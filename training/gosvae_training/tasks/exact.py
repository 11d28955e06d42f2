"""Compare boxes with the exact ones of rendered streets: ``python -m gosvae_training.tasks.exact``.

Prints the average precision of what bundles make of tokens, and of the detector that they imitate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tqdm import tqdm

from gosvae_codec import Decoder, Encoder, GosvaeError, ModelBundle
from gosvae_codec.tasks import DetectionResult

from ..average_precision import AveragePrecision
from ..data.samples import DataError
from ..evaluate import HEADER
from ..models.suppression import LEAST_SCORE, with_least_score
from ..strict import ConfigError
from ..tables import markdown_table
from .expert_graphs import detector_graph
from .train import DETECTOR
from .yolox import CLASSES

Detect = Callable[[npt.NDArray[np.uint8]], tuple[int | None, DetectionResult]]
"""A frame, uint8 (H, W, 3) RGB, to the bytes that were sent and the boxes found in it."""

EXACT = {
    24: "person",
    25: "person",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Cityscapes' ids of things with instances, riders included, as classes of the detector."""
SMALLEST = 8
"""Pixels that both sides of a box must have; of what is smaller hardly anything is to be seen."""


class Scene(NamedTuple):
    """A frame and the boxes of what is visible in it."""

    frame: npt.NDArray[np.uint8]
    boxes: DetectionResult


def boxes_of_instances(ids: npt.NDArray[np.uint16]) -> DetectionResult:
    """Return the boxes around the visible pixels of each instance in EXACT, of SMALLEST or more.

    Args:
        ids: (H, W), 1000 times the label id, plus a number; below 1000 without instances.
    """
    names, boxes, classes = list(CLASSES), [], []
    for each in np.unique(ids[ids >= 1000]):
        name = EXACT.get(int(each) // 1000)
        rows, columns = np.nonzero(ids == each)
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        if name is None or min(box[2] - box[0], box[3] - box[1]) < SMALLEST:
            continue
        boxes.append(box)
        classes.append(names.index(name))
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return DetectionResult(found, np.ones(len(found), np.float32), np.array(classes, np.int64))


def scenes(root: Path, split: str, every: int) -> list[Scene]:
    """Return frames of rendered streets and their exact boxes; raise DataError without any."""
    files = sorted((root / "gtFine" / split).glob("*/*_gtFine_instanceIds.png"))[::every]
    if not files:
        raise DataError(f"{root / 'gtFine' / split}: no files */*_gtFine_instanceIds.png")
    made = []
    for path in files:
        name = path.name.replace("_gtFine_instanceIds", "_leftImg8bit")
        pictured = root / "leftImg8bit" / split / path.parent.name / name
        frame = cv2.imread(str(pictured), cv2.IMREAD_COLOR)
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if frame is None or ids is None or ids.dtype != np.uint16:
            raise DataError(f"{path}: it or its frame cannot be read")
        rgb = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        made.append(Scene(rgb, boxes_of_instances(ids.astype(np.uint16))))
    return made


def detector(path: Path) -> Detect:
    """Return the detector that is imitated, on whole frames; its boxes have LEAST_SCORE or more."""
    graph = with_least_score(detector_graph(path), LEAST_SCORE)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def detect(frame: npt.NDArray[np.uint8]) -> tuple[None, DetectionResult]:
        shares, scores, classes, _ = session.run(None, {taken.name: frame[None]})
        height, width = frame.shape[:2]
        boxes = np.clip(shares, 0, 1) * np.array([width, height, width, height], np.float32)
        return None, DetectionResult(boxes, scores, classes)

    return detect


def tokens(bundle: ModelBundle, levels: int) -> Detect:
    """Return what a bundle's detections are with so many levels, of intra frames.

    Raises:
        DataError: it has none, or of other classes.
    """
    tasks = [task for task in bundle.tasks.values() if task.kind == "detection"]
    if not tasks or [label.name for label in tasks[0].labels.labels] != list(CLASSES):
        raise DataError(f"{bundle.name}: it has no boxes of {', '.join(CLASSES)}")
    name = tasks[0].name
    encoder, decoder = Encoder(bundle), Decoder(bundle, tasks=[name], min_score=0.0)

    def detect(frame: npt.NDArray[np.uint8]) -> tuple[int, DetectionResult]:
        packets = encoder.encode(frame, HEADER, levels)
        result = decoder.decode(packets).tasks[name]
        assert isinstance(result, DetectionResult)
        return sum(packet.serialized_size() for packet in packets), result

    return detect


def row(name: str, detect: Detect, given: Sequence[Scene], shown: Sequence[str]) -> list[str]:
    """Return name, bytes, AP and the AP of each class `shown`, as a table's cells."""
    precision, sizes = AveragePrecision(list(CLASSES)), []
    for scene in tqdm(given, desc=name, unit="frame"):
        size, found = detect(scene.frame)
        precision.add(scene.boxes, found)
        sizes.append(size)
    sent = "" if None in sizes else f"{np.mean(np.array(sizes, float)):.0f}"
    each = precision.per_class()
    return [name, sent, f"{precision.mean():.3f}", *(f"{each[kind]:.3f}" for kind in shown)]


def rows(bundles: Sequence[ModelBundle], expert: Path, given: Sequence[Scene]) -> Iterator[str]:
    """Yield the lines of the table."""
    count = np.bincount(np.concatenate([scene.boxes.classes for scene in given]))
    shown = [name for name, number in zip(CLASSES, count, strict=False) if number]
    lines = [row("YOLOX-nano on the uncoded frame", detector(expert), given, shown)]
    for bundle in bundles:
        for levels in range(1, bundle.levels + 1):
            name = f"{bundle.name}, {levels} of {bundle.levels} levels"
            lines.append(row(name, tokens(bundle, levels), given, shown))
    numbers = (f"{name} ({count[index]})" for index, name in enumerate(CLASSES) if name in shown)
    yield markdown_table(["boxes of", "bytes a frame", "AP50", *numbers], lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="gosvae_training.tasks.exact", description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+", help="folders of bundles with boxes")
    parser.add_argument("--data", type=Path, required=True, help="rendered streets")
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=1, help="take one frame in so many")
    parser.add_argument("--experts", type=Path, required=True, help=f"folder of {DETECTOR}")
    options = parser.parse_args(arguments)
    try:
        bundles = [ModelBundle.load(path) for path in options.bundles]
        given = scenes(options.data, options.split, max(options.every, 1))
        lines = [*rows(bundles, options.experts / DETECTOR, given)]
    except (GosvaeError, DataError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.data.name} {options.split}, {len(given)} frames, {date.today()}\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
