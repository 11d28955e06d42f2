"""The network of several tasks: encoder, quantiser, shared features, and a head for each task."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.decoders import ContextBlock
from ..models.efficientnet import separable
from ..models.onnx_network import OnnxNetwork
from ..models.quantizers import residual_codes
from .settings import Tokens
from .yolox import CHANNELS, Heads

TOKEN_STRIDE = 16
"""Pixels from one token to the next."""
_STEM_CHANNELS = 32
"""Of the detector's layer at 4 pixels."""


class Seen(NamedTuple):
    """What the vehicle's frozen trunk sees in N frames."""

    stem: Tensor
    """At 4 pixels, float (N, 32, H/4, W/4)."""
    pyramid: list[Tensor]
    """What the detector's heads take, at 8, 16 and 32 pixels."""


class Sent(NamedTuple):
    """What reaches the receiver of N frames."""

    vectors: Tensor
    """Quantised, (N, dim, h, w)."""
    indices: Tensor
    """Tokens, int64 (N, h, w, levels), -1 where a level was dropped."""
    commitment: Tensor
    """Loss; zero where vectors were not quantised."""


class Outputs(NamedTuple):
    """What the receiver makes of the tokens of N frames."""

    logits: Tensor
    """Of the semantic task at 2 pixels, float (N, classes, H/2, W/2)."""
    pyramid: list[Tensor]
    """What stands for the detector's features."""
    boxes: list[Tensor]
    """Of the detector's heads, see :class:`.yolox.Heads`."""
    sent: Sent
    """What they were made of."""
    picture: Tensor | None = None
    """What the experts looked at, float (N, 3, H, W), where the receiver draws."""


class TrunkWithDetails(nn.Module):
    """A detector's trunk, frozen, joined with details that it does not keep.

    Frames uint8 or float (N, H, W, 3) RGB, sides divisible by 32, to vectors
    (N, dim, H/16, W/16). What is frozen was trained on far more pictures than there are here, so
    it responds on streets never seen as on those trained on.
    """

    stride = TOKEN_STRIDE

    def __init__(self, trunk: OnnxNetwork, dim: int, width: int) -> None:
        """Make it.

        Args:
            trunk: pixels to the detector's stem and pyramid, see :func:`.yolox.trunk_of`.
            dim: numbers of a vector.
            width: channels of what makes all features vectors.
        """
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.details2 = _convolution(3, 12, 3, 2)
        self.details4 = _convolution(12, 24, 3, 2)
        self.join4 = _convolution(24 + _STEM_CHANNELS, 32)
        self.details8 = _convolution(32, 48, 3, 2)
        self.join8 = _convolution(48 + CHANNELS[0], 64)
        self.narrow4 = nn.Conv2d(32, 8, 1, bias=False)
        self.narrow32 = nn.Conv2d(CHANNELS[2], 64, 1, bias=False)
        self.project = nn.Sequential(
            _convolution(8 * 16 + 64 * 4 + CHANNELS[1] + 64, width),
            separable(width, width, 5),
            nn.Conv2d(width, dim, 1, bias=False),
            nn.BatchNorm2d(dim, affine=False),
        )

    def train(self, mode: bool = True) -> TrunkWithDetails:
        super().train(mode)
        self.trunk.eval()
        return self

    def see(self, frames: Tensor) -> Seen:
        """Return what the trunk sees."""
        pixels = frames.permute(0, 3, 1, 2).float().flip(1)
        stem, *pyramid = self.trunk(pixels)
        return Seen(stem, pyramid)

    def forward(self, frames: Tensor, seen: Seen | None = None) -> Tensor:
        """Return the vectors; `seen` where the trunk has looked at the frames before."""
        stem, (stride8, stride16, stride32) = seen or self.see(frames)
        pixels = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        fine = self.join4(torch.cat([self.details4(self.details2(pixels)), stem], 1))
        middle = self.join8(torch.cat([self.details8(fine), stride8], 1))
        parts = [
            F.pixel_unshuffle(self.narrow4(fine), 4),
            F.pixel_unshuffle(middle, 2),
            stride16,
            F.interpolate(self.narrow32(stride32), scale_factor=2.0, mode="nearest"),
        ]
        return self.project(torch.cat(parts, 1))


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Features(nn.Module):
    """Quantised vectors (N, dim, h, w) to the features that all heads share (N, width, h, w)."""

    def __init__(self, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(dim, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ContextBlock(width) for _ in range(blocks)))
        self.leave = nn.BatchNorm2d(width)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.leave(self.blocks(self.enter(vectors)))


class SemanticHead(nn.Module):
    """Features (N, width, h, w) to logits at 2 pixels, (N, classes, 8h, 8w)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(width, 48 * 16, 1)
        self.refine = _convolution(48, 48, 3)
        self.classify = nn.Conv2d(48, classes * 4, 1)

    def forward(self, features: Tensor) -> Tensor:
        fine = self.refine(F.relu(F.pixel_shuffle(self.widen(features), 4)))
        return F.pixel_shuffle(self.classify(fine), 2)

    @torch.no_grad()
    def add(self, offsets: Tensor) -> None:
        """Add offsets, (classes,), to the logits from now on."""
        self.classify.bias.add_(offsets.repeat_interleave(4))


class DepthHead(nn.Module):
    """Features (N, width, h, w) to depths at 2 pixels, (N, 8h, 8w), in what it was trained on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = SemanticHead(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return to_depth(self.layers(features))


def to_depth(made: Tensor) -> Tensor:
    """Return (N, 1, h, w) of any range as depths, (N, h, w)."""
    # Exponential, so that errors are relative; from 0.4 to 400, around 12.
    return (made[:, 0] + 2.5).clamp(-1, 6).exp()


class DetectionHead(nn.Module):
    """Features (N, width, h, w) to the detector's pyramid, from which its own heads go on."""

    def __init__(self, width: int, heads: Heads) -> None:
        super().__init__()
        eight, sixteen, thirty_two = CHANNELS
        self.stride8 = nn.Sequential(
            nn.Conv2d(width, eight * 4, 1), nn.PixelShuffle(2), nn.ReLU(), _last(eight, eight, 3)
        )
        self.stride16 = _last(width, sixteen, 3)
        self.stride32 = nn.Sequential(
            _convolution(width, sixteen, 3, 2), _last(sixteen, thirty_two, 3)
        )
        self.heads = heads.requires_grad_(False)

    def pyramid(self, features: Tensor) -> list[Tensor]:
        """Return what stands for the detector's features at 8, 16 and 32 pixels."""
        return [self.stride8(features), self.stride16(features), self.stride32(features)]

    def forward(self, features: Tensor) -> list[Tensor]:
        return self.heads(*self.pyramid(features))


def _last(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class TokenSender(nn.Module):
    """Encoder and residual quantiser; what a receiver makes of the tokens is up to subclasses.

    Residual levels are dropped at random in training, so that every prefix of them decodes
    (SoundStream, Zeghidour et al. 2021, section III-C).
    """

    def __init__(self, tokens: Tokens, trunk: OnnxNetwork, rare: float) -> None:
        """Make it; see :class:`TaskNetwork`."""
        super().__init__()
        self.encoder = TrunkWithDetails(trunk, tokens.dim, tokens.width)
        self.quantizer = residual_codes(tokens.levels, tokens.codes, tokens.dim, rare)

    def codebooks(self) -> Tensor:
        """Return the codebooks, float (levels, codes, dim)."""
        return self.quantizer.codebooks

    def send(self, frames: Tensor, seen: Seen | None = None, quantize: bool = True) -> Sent:
        """Encode and quantise frames, uint8 (N, H, W, 3) RGB."""
        vectors = self.encoder(frames, seen)
        if not quantize:
            return Sent(vectors, torch.empty(0, dtype=torch.long), vectors.new_zeros(()))
        with torch.autocast(vectors.device.type, enabled=False):
            flat, indices, losses = self.quantizer(vectors.float().flatten(2).mT)
        grid = vectors.shape[2:]
        return Sent(flat.mT.unflatten(2, grid), indices.unflatten(1, grid), losses.sum())

    def receive(self, sent: Sent) -> Outputs:
        """Return what the receiver makes of the tokens."""
        raise NotImplementedError

    def forward(self, frames: Tensor, seen: Seen | None = None, quantize: bool = True) -> Outputs:
        """Encode, quantise and decode frames, uint8 (N, H, W, 3) RGB."""
        return self.receive(self.send(frames, seen, quantize))


class TaskNetwork(TokenSender):
    """Tokens to features, and these to each task by a head."""

    def __init__(
        self, tokens: Tokens, classes: int, trunk: OnnxNetwork, heads: Heads, rare: float
    ) -> None:
        """Make it.

        Args:
            tokens: its description.
            classes: of the semantic task.
            trunk: pixels to the detector's stem and pyramid.
            heads: the detector's pyramid to its boxes.
            rare: vectors of a batch with fewer of which a code is restarted.
        """
        super().__init__(tokens, trunk, rare)
        self.features = Features(tokens.dim, tokens.features, tokens.blocks)
        self.semantic = SemanticHead(tokens.features, classes)
        self.detection = DetectionHead(tokens.features, heads)

    def receive(self, sent: Sent) -> Outputs:
        features = self.features(sent.vectors)
        pyramid = self.detection.pyramid(features)
        boxes = self.detection.heads(*pyramid)
        return Outputs(self.semantic(features), pyramid, boxes, sent)
