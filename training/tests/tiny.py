"""Networks and configurations small enough for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gosvae_codec import CAMVID

SIZE = (64, 96)
SCHEDULE: dict[str, Any] = {
    "steps": 4,
    "batch": 2,
    "crop": [64, 64],
    "learning_rate": 1e-3,
    "backbone_learning_rate": 1e-4,
    "frozen_blocks": 3,
}
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "input_size": list(SIZE),
    "expert": SCHEDULE,
    "tokens": {"levels": 2, "codes": 16, "dim": 8},
    "codec": {**SCHEDULE, "steps": 20},
    "prior": {"views": 2, "steps": 30},
}
"""The default architecture: what takes its time is exporting it."""
CHANNELS = [label.name for label in CAMVID.labels]
SMALL: dict[str, Any] = {
    **CONFIG,
    "expert": {
        **SCHEDULE,
        "network": {"kind": "torch", "factory": "tiny:expert", "channels": CHANNELS},
    },
    "tokens": {
        "levels": 2,
        "codes": 16,
        "dim": 8,
        "encoder": {"kind": "convolutional", "stride": 16, "width": 8, "blocks": 0},
        "decoder": {"kind": "masks", "width": 16, "blocks": 1},
    },
}
"""The same with networks that train and export in a moment."""
PIXELS: dict[str, Any] = {
    **SMALL,
    "tokens": {
        **SMALL["tokens"],
        "levels": 1,
        "encoder": {"kind": "convolutional", "stride": 4, "width": 8, "blocks": 0},
        "decoder": {"kind": "pixels", "width": 8, "blocks": 0},
    },
    "losses": {"distillation": 0.0, "supervised": 0.0, "pixels": 1.0},
}
"""The same by way of pixels."""


class TinyExpert(nn.Module):
    """Float (N, 3, H, W) to logits (N, 11, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, len(CHANNELS), 1)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def expert() -> nn.Module:
    """Return the same tiny expert every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyExpert()
