"""YOLOX-nano (Ge et al. 2021) as an expert: its trunk, its heads, and its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gosvae_codec.labels import CITYSCAPES, Label, LabelSpace
from gosvae_codec.tasks import DetectionResult

from ..models.onnx_detector import STRIDES
from ..models.onnx_network import OnnxNetwork
from ..models.suppression import OVERLAP

SIDE = 416
"""Of the square that the detector is trained for."""
CHANNELS = (64, 128, 256)
"""Of the features that the heads take at each stride."""
_PIXELS, _STEM, _PYRAMID = "images", "721", ("956", "990", "1024")
_MAPS = (("1062", "1063", "1045"), ("1104", "1105", "1087"), ("1146", "1147", "1129"))
"""Offsets and log sizes, objectness, classes; the latter two before the sigmoid."""

CLASSES = {
    "person": 0,
    "bicycle": 1,
    "car": 2,
    "motorcycle": 3,
    "bus": 5,
    "train": 6,
    "truck": 7,
    "traffic light": 9,
    "stop sign": 11,
}
"""Those of COCO's 80 classes that matter on a road, and their channels."""
CHANNEL_NAMES = [{v: k for k, v in CLASSES.items()}.get(channel, "") for channel in range(80)]
"""Of all channels; empty for those that do not matter."""
_COLORS = {label.name: label.color for label in CITYSCAPES.labels}
OBJECTS = LabelSpace(
    "objects",
    tuple(
        Label(index, name, _COLORS.get(name, _COLORS["traffic sign"]))
        for index, name in enumerate(CLASSES)
    ),
)
"""CLASSES in their order, with the colours of Cityscapes."""


def trunk_of(path: Path) -> OnnxNetwork:
    """Return the trunk: float (N, 3, H, W) BGR, 0 to 255, to the stem at 4 pixels and the pyramid.

    The pyramid is what the heads take, at each of STRIDES. H and W divide by 32.
    """
    return OnnxNetwork(path, [_PIXELS], [_STEM, *_PYRAMID])


class Heads(nn.Module):
    """The heads: the pyramid to a map for each of STRIDES, float (N, 5 + classes, h, w).

    Channels are the offset of a box's centre from its cell, x and y in cells; the logarithms of its
    width and height in cells; and the logits of objectness and of CLASSES.
    """

    def __init__(self, path: Path) -> None:
        """Read them; raise ConfigError where that fails."""
        super().__init__()
        self.network = OnnxNetwork(path, _PYRAMID, [name for names in _MAPS for name in names])
        self._channels = list(CLASSES.values())

    def forward(self, *pyramid: Tensor) -> list[Tensor]:
        made = self.network(*pyramid)
        return [
            torch.cat([boxes, objectness, classes[:, self._channels]], 1)
            for boxes, objectness, classes in zip(made[::3], made[1::3], made[2::3], strict=True)
        ]


def decode_maps(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the boxes that the heads' maps stand for.

    Args:
        maps: as :class:`Heads` makes them.

    Returns:
        Corners in pixels of the input, float (N, cells, 4), and scores of CLASSES, float
        (N, classes, cells).
    """
    corners, scores = [], []
    for values, stride in zip(maps, STRIDES, strict=True):
        height, width = values.shape[2:]
        row = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
        column = torch.arange(width, dtype=torch.float32)[None].expand(height, width)
        center = (values[:, :2] + torch.stack([column, row])) * stride
        half = values[:, 2:4].clamp(max=8).exp() * (stride / 2)
        corners.append(torch.cat([center - half, center + half], 1).flatten(2).mT)
        scores.append((values[:, 4:5].sigmoid() * values[:, 5:].sigmoid()).flatten(2))
    return torch.cat(corners, 1), torch.cat(scores, 2)


def select_boxes(
    corners: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], confident: float
) -> DetectionResult:
    """Return the boxes of one frame after non-maximum suppression, class by class; pixels.

    Args:
        corners: (cells, 4).
        scores: (classes, cells).
        confident: least score of a box.
    """
    found: list[tuple[int, int]] = []
    for index, each in enumerate(scores):
        likely = np.flatnonzero(each >= confident)
        if not likely.size:
            continue
        left_top = corners[likely, :2]
        sizes = corners[likely, 2:] - left_top
        kept = cv2.dnn.NMSBoxes(
            np.concatenate([left_top, sizes], 1).tolist(), each[likely].tolist(), confident, OVERLAP
        )
        found += [(index, int(likely[place])) for place in np.asarray(kept).ravel()]
    found.sort(key=lambda pair: -scores[pair])
    classes = np.array([index for index, _ in found], np.int64)
    cells = np.array([cell for _, cell in found], np.int64)
    return DetectionResult(corners[cells].reshape(-1, 4), scores[classes, cells], classes)
