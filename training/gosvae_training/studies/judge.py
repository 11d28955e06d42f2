"""What frozen experts see in whole frames, and how far something else agrees with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from tqdm import tqdm

from gosvae_codec.images import resize_frame
from gosvae_codec.masks import colorize
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.tasks import DetectionResult

from ..average_precision import AveragePrecision
from ..bundle.macs import graph_macs
from ..data.samples import Dataset, iterate
from ..models.onnx_expert import open_session
from ..models.suppression import LEAST_SCORE, with_least_score
from ..tasks.expert_graphs import detector_graph
from ..tasks.segmenter import LABELS, RoadSegmenter
from ..tasks.train import DETECTOR, SEGMENTER
from ..tasks.yolox import CLASSES, SIDE
from .depth import FAR, NEAR

Frame = npt.NDArray[np.uint8]
Shape = tuple[int, int]
_TILE = (240, 180)


class Made(NamedTuple):
    """What is made of one frame; None where a task was not trained for."""

    mask: npt.NDArray[np.uint8] | None
    """Label ids (H, W)."""
    boxes: DetectionResult | None
    """In pixels of (H, W)."""
    picture: Frame | None = None
    """What the experts looked at, where the receiver draws."""


class Experts:
    """Segmenter and detector as they come, asked about frames of any size.

    Attributes:
        detector_macs: multiply-accumulates of the detector; None where they are not known.
    """

    def __init__(self, folder: Path) -> None:
        """Read them; raise ConfigError where that fails."""
        self._segmenter = RoadSegmenter(folder / SEGMENTER)
        self.detector_macs = graph_macs(onnx.load(folder / DETECTOR), (1, 3, SIDE, SIDE))
        graph = detector_graph(folder / DETECTOR)
        self._sure, self._unsure = (
            open_session(each.SerializeToString())
            for each in (graph, with_least_score(graph, LEAST_SCORE))
        )

    def look(self, frame: Frame, shape: Shape, sure: bool = False) -> Made:
        """Return mask and boxes of a frame, uint8 (h, w, 3) RGB, for frames of `shape`.

        Args:
            frame: what is looked at.
            shape: height and width of mask and boxes.
            sure: whether boxes are those that count as truth, not all that average precision ranks.
        """
        said = cv2.resize(self._segmenter.segment(frame), shape[::-1])
        return Made(LABELS.ids[said.argmax(-1)], self.boxes(frame, shape, sure))

    def boxes(self, frame: Frame, shape: Shape, sure: bool = False) -> DetectionResult:
        """Return the boxes alone; see :meth:`look`."""
        session = self._sure if sure else self._unsure
        shares, scores, classes, _ = session.run(None, {"pixels": frame[None]})
        return DetectionResult(shares * sides(shape), scores, classes)


def sides(shape: Shape) -> npt.NDArray[np.float32]:
    """Return what shares of a frame's sides are to be multiplied by, for boxes in pixels."""
    return np.array([shape[1], shape[0], shape[1], shape[0]], np.float32)


class Judge:
    """A dataset's whole frames, as the encoder takes them, and what experts see in the originals.

    Attributes:
        frames: uint8 (h, w, 3) RGB each.
        shapes: height and width of each original.
        seen: what the experts see.
    """

    def __init__(self, samples: Dataset, experts: Experts, size: Shape) -> None:
        """Look at all frames once."""
        self.frames: list[Frame] = []
        self.shapes: list[Shape] = []
        self.seen: list[Made] = []
        desc = f"experts on {samples.title}"
        for sample in tqdm(iterate(samples), desc=desc, total=len(samples), mininterval=5):
            shape = sample.frame.shape[:2]
            self.frames.append(resize_frame(sample.frame, size))
            self.shapes.append(shape)
            self.seen.append(experts.look(sample.frame, shape, sure=True))

    def figures(self, make: Callable[[Frame, Shape], Made]) -> dict[str, float]:
        """Return ``agreement`` (mIoU with the segmenter) and ``ap50``, of tasks that are made."""
        agreement, precision = ConfusionMatrix(), AveragePrecision(list(CLASSES))
        for frame, shape, seen in zip(self.frames, self.shapes, self.seen, strict=True):
            made = make(frame, shape)
            if made.mask is not None:
                agreement.add(seen.mask, made.mask)
            if made.boxes is not None:
                precision.add(seen.boxes, made.boxes)
        figures = {}
        if made.mask is not None:
            figures["agreement"] = round(agreement.miou(), 4)
        if made.boxes is not None:
            figures["ap50"] = round(precision.mean(), 4)
        return figures

    def busiest(self) -> int:
        """Return which frame has most boxes."""
        return int(np.argmax([len(each.boxes.scores) for each in self.seen if each.boxes]))


def panel(made: Made, metres: npt.NDArray[np.float32], shape: Shape) -> Frame:
    """Return boxes on the picture, or on white, above mask and depth: uint8 (540, 240, 3) RGB.

    Boxes are those that count as sure or nearly so; near is bright.
    """
    white = np.full((*shape, 3), 255, np.uint8)
    canvas = white if made.picture is None else resize_frame(made.picture, shape)
    canvas = canvas.copy()
    for box, score in zip(*made.boxes[:2], strict=True) if made.boxes else ():
        if score >= _SHOWN:
            left, top, right, bottom = (round(float(each)) for each in box)
            cv2.rectangle(canvas, (left, top), (right, bottom), (255, 0, 0), 2)
    mask = white if made.mask is None else colorize(made.mask, LABELS)
    near = 1 - np.log(np.clip(metres, NEAR, FAR) / NEAR) / np.log(FAR / NEAR)
    depth = np.repeat(np.rint(near * 255).astype(np.uint8)[..., None], 3, 2)
    parts = (canvas, mask, depth)
    return np.concatenate([cv2.resize(p, _TILE, interpolation=cv2.INTER_AREA) for p in parts])


_SHOWN = 0.2
"""Least score of a box that is drawn, as receivers publish them."""
