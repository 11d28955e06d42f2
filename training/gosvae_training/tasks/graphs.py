"""What of a network of several tasks goes into each ONNX file."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..bundle.graphs import TokenGraph
from .network import DetectionHead, TaskNetwork
from .yolox import decode_maps


class FeaturesGraph(TokenGraph):
    """int32 (N, levels, h, w) -> float (N, width, h, w)."""

    def __init__(self, network: TaskNetwork) -> None:
        super().__init__(network)
        self.features = network.features

    def forward(self, tokens: Tensor) -> Tensor:
        return self.features(self.vectors(tokens))


class BoxesGraph(nn.Module):
    """Features -> boxes before suppression, see :func:`..models.suppression.with_suppression`.

    These are corners float (N, cells, 4), as shares of the frame's width and height, and scores
    float (N, classes, cells).
    """

    shape: Tensor

    def __init__(self, head: DetectionHead, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.head = head
        height, width = input_size
        self.register_buffer("shape", torch.tensor([width, height, width, height]).float())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        corners, scores = decode_maps(self.head(features))
        return corners / self.shape, scores
