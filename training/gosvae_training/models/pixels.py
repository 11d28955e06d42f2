"""Convolutional encoder and decoder of a VQ-VAE at any stride, and VQ-GAN's critic.

After van den Oord et al. 2017 with the residual blocks of Esser et al. 2021 (VQGAN, appendix A).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet import pad_to_stride


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after group norm and SiLU, beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _group_norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            _group_norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _widths(stride: int, width: int) -> list[int]:
    """Widths from stride 2 to `stride`, doubling up to four times `width`."""
    return [width * min(2**step, 4) for step in range(stride.bit_length() - 1)]


class ConvolutionalEncoder(nn.Module):
    """Frames -> (N, dim, h, w) with h and w a `stride`-th of the frame's, rounded up.

    `width` channels at stride 2 and `blocks` residual blocks at every stride from there on.
    """

    def __init__(self, dim: int, stride: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stride = stride
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in _widths(stride, width):
            layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))
            layers += [ResidualBlock(outputs) for _ in range(blocks)]
            inputs = outputs
        layers += [_group_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, dim, 1)]
        # As for the other encoder: k-means and restarts want vectors of one scale.
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(dim, affine=False))

    def forward(self, frames: Tensor) -> Tensor:
        h, w = (-(-side // self.stride) for side in frames.shape[1:3])
        x = pad_to_stride(frames, self.stride).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.layers(x)[:, :, :h, :w]


class PixelDecoder(nn.Module):
    """Quantised vectors to RGB: (N, dim, h, w) -> float (N, 3, h * stride, w * stride), 0 to 255.

    Values may overshoot that range; :func:`to_frames` clips them.
    """

    stride = 1

    def __init__(self, dim: int, token_stride: int, width: int, blocks: int) -> None:
        super().__init__()
        widths = _widths(token_stride, width)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(dim, widths[0], 3, padding=1)]
        for inputs, outputs in zip(widths, [*widths[1:], width], strict=True):
            layers += [ResidualBlock(inputs) for _ in range(blocks)]
            layers += [nn.Conv2d(inputs, outputs * 4, 1), nn.PixelShuffle(2)]
        layers += [_group_norm(width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.layers(vectors) * 127.5 + 127.5

    def embed(self, vectors: Tensor) -> Tensor:
        """Return the pixels, which are what an expert sees."""
        return self(vectors)


def to_frames(pixels: Tensor) -> Tensor:
    """Return float (N, 3, H, W) of any range as frames, float (N, H, W, 3), 0 to 255."""
    return pixels.float().clamp(0, 255).permute(0, 2, 3, 1)


class Critic(nn.Module):
    """PatchGAN (Isola et al. 2017): float (N, 3, H, W), 0 to 255 -> scores of patches.

    :meth:`losses` gives both sides' terms, so that one backward pass trains both.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width * 2, 4, stride=2, padding=1),
            _group_norm(width * 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width * 2, width * 4, 4, stride=2, padding=1),
            _group_norm(width * 4),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width * 4, 1, 3, padding=1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels / 127.5 - 1)

    def losses(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generator's loss, blind to the critic's weights, and the critic's hinge."""
        fixed = {name: value.detach() for name, value in self.named_parameters()}
        generator = -torch.func.functional_call(self, fixed, (made,)).mean()
        hinge = F.relu(1 - self(real)).mean() + F.relu(1 + self(made.detach())).mean()
        return generator, hinge
