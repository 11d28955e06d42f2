"""What of a network of several tasks goes into each ONNX file."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .network import DetectionHead, TaskNetwork
from .yolox import decode_maps


class FeaturesGraph(nn.Module):
    """int32 (N, levels, h, w) -> float (N, width, h, w); index `codes` adds nothing."""

    tables: Tensor
    first: Tensor

    def __init__(self, network: TaskNetwork) -> None:
        super().__init__()
        self.features = network.features
        codebooks = network.codebooks().detach()
        levels, self.codes, dim = codebooks.shape
        absent = torch.zeros(levels, 1, dim)
        self.register_buffer("tables", torch.cat([codebooks, absent], 1).flatten(0, 1))
        self.register_buffer("first", torch.arange(levels)[:, None, None] * (self.codes + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        vectors = self.tables[tokens.long() + self.first].sum(1)
        return self.features(vectors.permute(0, 3, 1, 2))


class BoxesGraph(nn.Module):
    """Features -> boxes before suppression, see :func:`..bundle.detection.with_suppression`.

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
