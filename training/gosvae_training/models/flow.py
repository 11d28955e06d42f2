"""A small generator of pictures from label maps, in place of GESCO's diffusion model.

The label map is what is sent; the receiver draws a quarter of a picture's sides from it in a few
steps of a rectified flow (Liu et al. 2023; Lipman et al. 2023), conditioned as in GESCO (Pezone et
al. 2023) on the one-hot map, enlarges it, and segments the picture. The network gives the picture,
from which the velocity follows: noise has more dimensions than so small a network can pass on,
pictures do not (Li and He 2025, arXiv 2511.13720). Labels are left out of some of training, and
counted more than once in drawing (classifier-free guidance, Ho and Salimans 2022).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gosvae_codec.labels import UNLABELLED

from .pixels import ResidualBlock

STRIDE = 4
"""Pixels of a side of the frame for one of the labels, and for one of what the flow draws."""
PATCH = 2
"""The flow works on patches of 2x2 of those, folded into channels."""
WITHOUT_LABELS = 0.1
"""Share of the pictures in training that are drawn from no labels."""


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
    """Picture from noise and labels: a flow at a quarter of the sides, and what enlarges it."""

    def __init__(
        self, classes: int, width: int = 96, steps: int = 8, guidance: float = 1.5
    ) -> None:
        """Make the network.

        Args:
            classes: channels of the label map.
            width: channels, a multiple of 8.
            steps: Euler steps that :meth:`draw` takes.
            guidance: how often the difference that labels make is counted in drawing; 1 is once.
        """
        super().__init__()
        self.classes, self.width, self.steps, self.guidance = classes, width, steps, guidance
        self.enter = nn.Conv2d(3 * PATCH**2, width, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.down = nn.ModuleList(_Stage(width, classes) for _ in range(3))
        self.middle = _Stage(width, classes)
        self.join = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(3))
        self.up = nn.ModuleList(_Stage(width, classes) for _ in range(3))
        self.leave = nn.Conv2d(width, 3 * PATCH**2, 3, padding=1)
        self.details = nn.Sequential(
            nn.Conv2d(3 + classes, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(3)),
            nn.Conv2d(width, 3 * STRIDE**2, 3, padding=1),
            nn.PixelShuffle(STRIDE),
        )

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

    def enlarge(self, small: Tensor, labels: Tensor) -> Tensor:
        """Return pictures float (N, 3, 4h, 4w) of small ones and one-hot labels; -1 to 1."""
        smooth = F.interpolate(small, scale_factor=STRIDE, mode="bilinear")
        return smooth + self.details(torch.cat([small, labels], 1))

    def forward(self, frames: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flow matching loss, and frames as they are enlarged from a quarter.

        Args:
            frames: (N, H, W, 3); sides divide by 8.
            labels: int64 (N, H/4, W/4).

        Returns:
            The loss, and float (N, 3, H, W), 0 to 255.
        """
        whole, hot = frames.permute(0, 3, 1, 2).float() / 127.5 - 1, self.one_hot(labels)
        small = F.avg_pool2d(whole, STRIDE)
        picture = F.pixel_unshuffle(small, PATCH)
        noise = torch.randn_like(picture)
        time = torch.rand(len(picture), device=picture.device)
        share = time[:, None, None, None]
        mixed = noise + share * (picture - noise)
        told = hot * (torch.rand_like(time) >= WITHOUT_LABELS)[:, None, None, None]
        drawn = self._picture(mixed, told, time).float()
        return F.mse_loss(drawn, picture), self.enlarge(small, hot) * 127.5 + 127.5

    @torch.no_grad()
    def draw(self, labels: Tensor, seed: int = 0) -> Tensor:
        """Return pictures of labels (N, h, w): float (N, 3, 4h, 4w), 0 to 255."""
        generator = torch.Generator().manual_seed(seed)
        hot = self.one_hot(labels)
        rows, columns = (side % PATCH for side in labels.shape[1:])
        padded = F.pad(hot, (0, columns, 0, rows), mode="replicate")
        grid = [side // PATCH for side in padded.shape[2:]]
        x = torch.randn((len(labels), 3 * PATCH**2, *grid), generator=generator).to(labels.device)
        for step in range(self.steps):
            time = torch.full((len(x),), step / self.steps, device=x.device)
            made = self._picture(x, padded, time)
            if self.guidance != 1:
                blind = self._picture(x, torch.zeros_like(padded), time)
                made = blind + self.guidance * (made - blind)
            x = x + (made - x) / (self.steps - step)
        small = F.pixel_shuffle(x, PATCH)[:, :, : labels.shape[1], : labels.shape[2]]
        return self.enlarge(small, hot) * 127.5 + 127.5
