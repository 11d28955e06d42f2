"""Encoders: frames, uint8 or float (N, H, W, 3) RGB, to vectors (N, dim, h, w)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bit_cost import BitCost, count_costs
from .efficientnet import (
    EfficientNetLite,
    Variant,
    freeze_depthwise,
    pad_to_stride,
    separable,
)
from .expert import Expert


def _projection(inputs: int, width: int, dim: int) -> nn.Sequential:
    """Return what makes features vectors, (N, inputs, h, w) -> (N, dim, h, w) of variance 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        separable(width, width, 5),
        nn.Conv2d(width, dim, 1, bias=False),
        nn.BatchNorm2d(dim, affine=False),
    )


class TokenEncoder(nn.Module):
    """Expert's backbone to one vector per 16x16 pixels: frames -> (N, dim, h, w).

    h and w are H/16 and W/16 rounded up. Detail reaches the vectors from strides 4 and 8 by
    space-to-depth, context from stride 32 by upsampling.
    """

    stride = 16

    def __init__(self, dim: int, width: int = 256, variant: Variant = "lite0") -> None:
        super().__init__()
        self.backbone = EfficientNetLite(variant)
        stride4, stride8, stride16, stride32 = self.backbone.channels
        channels = stride4 * 16 + stride8 * 4 + stride16 + stride32
        self.project = _projection(channels, width, dim)

    def forward(self, frames: Tensor) -> Tensor:
        h, w = (-(-side // 16) for side in frames.shape[1:3])
        stride4, stride8, stride16, stride32 = self.backbone(pad_to_stride(frames))
        parts = [
            stride16,
            F.interpolate(stride32, size=stride16.shape[2:], mode="bilinear"),
            F.pixel_unshuffle(stride8, 2),
            F.pixel_unshuffle(stride4, 4),
        ]
        return self.project(torch.cat(parts, 1))[:, :, :h, :w]


class PatchConv(nn.Conv2d):
    """Convolution of patches beside each other: its stride is its kernel's side."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__(inputs, outputs, side, side, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        # The same, as oneDNN (of PyTorch 2.13, with AMX) takes bfloat16 of 16 or 24 channels in
        # patches of 4x4 or more for something else altogether.
        patches = F.pixel_unshuffle(x, self.kernel_size[0])
        return F.conv2d(patches, self.weight.flatten(1)[:, :, None, None])


class LightEncoder(nn.Module):
    """The first blocks of EfficientNet-Lite on a smaller frame: frames -> (N, outputs, h, w).

    h and w are H/stride and W/stride rounded up. Features of finer strides join by strided
    convolution, those of coarser ones from the top down (FPN, Lin et al. 2017) with the mean of
    the coarsest as context.
    """

    def __init__(
        self,
        outputs: int,
        stride: int,
        shrink: int,
        blocks: int,
        width: int,
        variant: Variant = "lite0",
        normalize: bool = True,
    ) -> None:
        """Make it.

        Args:
            outputs: numbers of a vector.
            stride: pixels from one vector to the next.
            shrink: pixels of a side that are averaged first.
            blocks: of the backbone that are kept.
            width: channels of what joins the features.
            variant: of the backbone.
            normalize: whether vectors have mean 0 and variance 1, number by number.

        Raises:
            ValueError: `stride` is finer than what the first block gives.
        """
        super().__init__()
        self.stride, self._shrink = stride, shrink
        self.backbone = EfficientNetLite(variant, blocks)
        freeze_depthwise(self.backbone)
        channels = self.backbone.all_channels
        strides = [shrink << 1 + index for index in range(len(channels))]
        if stride < strides[0]:
            raise ValueError(f"stride {stride} is finer than the finest, {strides[0]}")
        self._deepest = max(stride, strides[-1])
        self._fine = sum(each < stride for each in strides)
        self.details = nn.ModuleList(
            PatchConv(each, width, stride // step)
            for each, step in zip(channels[: self._fine], strides, strict=False)
        )
        self.context = nn.Linear(channels[-1], width)
        self.laterals = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels[self._fine :])
        # At stride 4 more than that would take most of a light vehicle's operations.
        self.smooth = nn.ModuleList(
            separable(width, width) if step > 4 else nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
            for step in (strides[self._fine :] or [stride])
        )
        self.classifier = nn.Conv2d(width, outputs, 1)
        self.normalize = nn.BatchNorm2d(outputs, affine=False) if normalize else nn.Identity()

    def forward(self, frames: Tensor) -> Tensor:
        h, w = (-(-side // self.stride) for side in frames.shape[1:3])
        return self.normalize(self.classifier(self.embed(frames)))[:, :, :h, :w]

    def embed(self, frames: Tensor) -> Tensor:
        """Return what the classifier sees, (N, width, h, w); a little of it padding."""
        pixels = pad_to_stride(frames, self._deepest).permute(0, 3, 1, 2).float()
        if self._shrink > 1:
            pixels = F.avg_pool2d(pixels, self._shrink)
        maps = self.backbone.pyramid(pixels)
        size = [side * self._shrink // self.stride for side in pixels.shape[2:]]
        x = F.relu(self.context(maps[-1].mean((2, 3))))[:, :, None, None]
        fine, coarse = maps[: self._fine], maps[self._fine :]
        for each, lateral, smooth in zip(
            coarse[:0:-1], self.laterals[:0:-1], self.smooth[:0:-1], strict=True
        ):
            x = smooth(lateral(each) + _to(x, each.shape[2:]))
        x = _to(x, size)
        if coarse:
            x = x + self.laterals[0](coarse[0])
        for each, detail in zip(fine, self.details, strict=True):
            x = x + detail(each)
        return self.smooth[0](x)


def _to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge to `size`; a single vector needs no more than copying."""
    if x.shape[2:] == (1, 1):
        return x.expand(-1, -1, *size)
    return F.interpolate(x, size=tuple(size), mode="bilinear")


class TrunkEncoder(nn.Module):
    """What a trained segmenter's classifier sees, to vectors: frames -> (N, dim, h, w).

    h and w are H/stride and W/stride rounded up. The segmenter's normalisation keeps its
    statistics. With labels, the segmenter's logits stand before the vectors:
    (N, classes + dim, h, w).
    """

    def __init__(
        self,
        dim: int,
        segmenter: Expert | LightEncoder,
        width: int,
        narrow: int | None = None,
        stride: int = 16,
        labels: bool = False,
    ) -> None:
        """Make it.

        Args:
            dim: numbers of a vector.
            segmenter: has `embed`, `classifier` and `stride`; copied.
            width: channels of what makes its features vectors.
            narrow: channels that its features are brought down to first, at their own stride.
            stride: pixels from one vector to the next.
            labels: whether to make the segmenter's logits too, which then learns nothing more.
        """
        super().__init__()
        self.stride, self._labels = stride, labels
        self._classes: int = segmenter.classifier.out_channels
        self._bit_cost: BitCost | None = None
        self.segmenter = copy.deepcopy(segmenter).eval()
        channels = segmenter.classifier.in_channels
        if labels:
            self.segmenter.requires_grad_(False)
        else:
            del self.segmenter.classifier
        self.narrow = nn.Conv2d(channels, narrow, 1, bias=False) if narrow else nn.Identity()
        self._down = stride // segmenter.stride
        self.project = _projection((narrow or channels) * self._down**2, width, dim)

    def train(self, mode: bool = True) -> TrunkEncoder:
        super().train(mode)
        self.segmenter.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        seen = self._embed(frames)
        vectors = self.project(F.pixel_unshuffle(self.narrow(seen), self._down))
        if not self._labels:
            return vectors
        logits = self._logits(seen)
        if self._bit_cost is not None:
            # As far from a label's one-hot vector as this, but for what all labels have in common.
            distances = -2 * logits.float().permute(0, 2, 3, 1)
            logits = self._bit_cost(distances).permute(0, 3, 1, 2) / -2
        return torch.cat([logits.to(vectors.dtype), vectors], 1)

    def _embed(self, frames: Tensor) -> Tensor:
        h, w = (-(-side // self.stride) for side in frames.shape[1:3])
        # Cropped first, as the padding of deep segmenters takes a seventh of the work.
        return self.segmenter.embed(frames)[:, :, : h * self._down, : w * self._down]

    def _logits(self, seen: Tensor) -> Tensor:
        return F.avg_pool2d(self.segmenter.classifier(seen), self._down)

    @torch.no_grad()
    def weigh_bits(self, frames: Iterable[Tensor], weight: float) -> None:
        """Let labels cost bits from now on, as in a bundle that is exported with ``bit_cost``.

        Args:
            frames: to count the labels of, uint8 (1, H, W, 3), all of one size.
            weight: squared distance that a bit is worth.
        """
        labels = torch.cat([self._logits(self._embed(frame)).argmax(1) for frame in frames])
        costs = count_costs(labels.cpu().numpy(), self._classes)
        self._bit_cost = BitCost(costs, weight).to(labels.device)
