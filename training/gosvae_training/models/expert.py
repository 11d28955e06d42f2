"""The expert that is trained here: EfficientNet-Lite with a feature pyramid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet import EfficientNetLite, Variant, pad_to_stride, separable


class Expert(nn.Module):
    """EfficientNet-Lite with a feature pyramid: frames -> logits (N, classes, H/4, W/4)."""

    stride = 4

    def __init__(self, classes: int, width: int = 96, variant: Variant = "lite0") -> None:
        super().__init__()
        self.backbone = EfficientNetLite(variant)
        channels = self.backbone.channels
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.context = nn.Sequential(nn.Linear(channels[-1], width), nn.ReLU())
        self.smooth = nn.ModuleList(separable(width, width, 5) for _ in channels)
        self.merge = separable(width * len(channels), width)
        self.head = nn.Sequential(separable(width, width), nn.Dropout2d(0.1))
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, frames: Tensor) -> Tensor:
        height, width = (-(-side // 4) for side in frames.shape[1:3])
        return self.decode(self.backbone(pad_to_stride(frames)))[:, :, :height, :width]

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return the logits of the backbone's features, at stride 4."""
        return self.classifier(self.join(features))

    def embed(self, frames: Tensor) -> Tensor:
        """Return what the classifier sees, (N, width, h, w) at stride 4; a little of it padding."""
        return self.join(self.backbone(pad_to_stride(frames)))

    def join(self, features: list[Tensor]) -> Tensor:
        """Return what the classifier sees of the backbone's features, (N, width, H/4, W/4)."""
        x = self.context(features[-1].mean((2, 3)))[:, :, None, None]
        levels = []
        for feature, lateral, smooth in zip(
            reversed(features), reversed(self.laterals), reversed(self.smooth), strict=True
        ):
            x = smooth(lateral(feature) + F.interpolate(x, size=feature.shape[2:]))
            levels.append(x)
        size = levels[-1].shape[2:]
        levels = [F.interpolate(x, size=size, mode="bilinear") for x in levels]
        return self.head(self.merge(torch.cat(levels, 1)))
