"""A small generator of pictures from label maps, in place of GESCO's diffusion model.

The label map is what is sent; the receiver draws a picture of it in a few steps of a rectified
flow (Liu et al. 2023; Lipman et al. 2023), conditioned as in GESCO (Pezone et al. 2023) on the
one-hot map, and segments the picture. The network gives the picture, from which the velocity
follows: noise has more dimensions than so small a network can pass on, pictures do not (Li and He
2025, arXiv 2511.13720).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gosvae_codec.labels import UNLABELLED

from .pixels import ResidualBlock

PATCH = 4
"""Pictures are drawn in patches of 4x4 pixels, folded into channels."""


class _Stage(nn.Module):
    """Residual block that sees the labels and the time."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.labels = nn.Conv2d(classes, width, 3, padding=1)
        self.time = nn.Linear(width, width)
        self.block = ResidualBlock(width)

    def forward(self, x: Tensor, labels: Tensor, time: Tensor) -> Tensor:
        labels = F.interpolate(labels, size=x.shape[2:], mode="area")
        return self.block(x + self.labels(labels) + self.time(time)[:, :, None, None])


class LabelFlow(nn.Module):
    """Picture from noise and labels: U-Net of three scales over patches of pixels."""

    def __init__(self, classes: int, width: int = 96, steps: int = 8) -> None:
        """Make the network.

        Args:
            classes: channels of the label map.
            width: channels, even.
            steps: Euler steps that :meth:`draw` takes.
        """
        super().__init__()
        self.classes, self.width, self.steps = classes, width, steps
        self.enter = nn.Conv2d(3 * PATCH**2, width, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.down = nn.ModuleList(_Stage(width, classes) for _ in range(3))
        self.middle = _Stage(width, classes)
        self.join = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(3))
        self.up = nn.ModuleList(_Stage(width, classes) for _ in range(3))
        self.leave = nn.Conv2d(width, 3 * PATCH**2, 3, padding=1)

    def _picture(self, x: Tensor, labels: Tensor, time: Tensor) -> Tensor:
        frequencies = torch.exp(
            torch.arange(self.width // 2, device=x.device) * (-math.log(1e4) / (self.width // 2))
        )
        angles = time[:, None] * 1000 * frequencies
        embedded = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        y, kept = self.enter(x), []
        for stage in self.down:
            y = stage(y, labels, embedded)
            kept.append(y)
            y = F.avg_pool2d(y, 2, ceil_mode=True)
        y = self.middle(y, labels, embedded)
        for stage, join in zip(self.up, self.join, strict=True):
            y = F.interpolate(y, size=kept[-1].shape[2:])
            y = stage(join(torch.cat([y, kept.pop()], 1)), labels, embedded)
        return self.leave(y)

    def one_hot(self, target: Tensor) -> Tensor:
        """Return int64 (N, H, W) of channels or 255 as float (N, classes, H, W); zeros for 255."""
        known = target != UNLABELLED
        hot = F.one_hot(target.clamp(max=self.classes - 1), self.classes) * known[..., None]
        return hot.permute(0, 3, 1, 2).float()

    def forward(self, frames: Tensor, labels: Tensor) -> Tensor:
        """Return the flow matching loss of frames (N, H, W, 3) drawn from labels (N, H/4, W/4)."""
        picture = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        picture = F.pixel_unshuffle(picture, PATCH)
        noise = torch.randn_like(picture)
        time = torch.rand(len(picture), device=picture.device)
        share = time[:, None, None, None]
        mixed = noise + share * (picture - noise)
        drawn = self._picture(mixed, self.one_hot(labels), time).float()
        return F.mse_loss(drawn, picture)

    @torch.no_grad()
    def draw(self, labels: Tensor, seed: int = 0) -> Tensor:
        """Return pictures of labels (N, h, w): float (N, 3, 4h, 4w), 0 to 255."""
        generator = torch.Generator().manual_seed(seed)
        size = (len(labels), 3 * PATCH**2, *labels.shape[1:])
        x = torch.randn(size, generator=generator).to(labels.device)
        hot = self.one_hot(labels)
        for step in range(self.steps):
            time = torch.full((len(x),), step / self.steps, device=x.device)
            x = x + (self._picture(x, hot, time) - x) / (self.steps - step)
        return F.pixel_shuffle(x, PATCH) * 127.5 + 127.5
