"""Networks for a light vehicle: an encoder that is the expert's beginning, a decoder its end."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .networks import EfficientNetLite, Expert, Variant, pad_to_stride, separable


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
        _freeze_depthwise(self.backbone)
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


def _freeze_depthwise(network: nn.Module) -> None:
    """Keep pretrained depthwise filters: their gradients take half of a step's time on a CPU."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            part.requires_grad_(False)


def _to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge to `size`; a single vector needs no more than copying."""
    if x.shape[2:] == (1, 1):
        return x.expand(-1, -1, *size)
    return F.interpolate(x, size=tuple(size), mode="bilinear")


class LabelDecoder(nn.Module):
    """One-hot labels as the logits that they stand for."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


class UpperDecoder(nn.Module):
    """Vectors to the expert's features of strides 4 and 8, from which the expert goes on.

    (N, dim, h, w) -> (N, classes, H/4, W/4); starts with the expert's weights from stride 16 on.
    """

    stride = 4

    def __init__(self, dim: int, expert: Expert, token_stride: int, width: int) -> None:
        """Make it.

        Args:
            dim: numbers of a vector.
            expert: whose upper part is copied.
            token_stride: pixels from one vector to the next, 8, 16 or 32.
            width: channels before the expert's features.
        """
        super().__init__()
        self._multiple = 32 // token_stride
        self.enter = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.widen = nn.ModuleList()
        for channels, stride in zip(expert.backbone.channels, (4, 8), strict=False):
            up = token_stride // stride
            self.widen.append(
                nn.Sequential(nn.Conv2d(width, channels * up * up, 1), nn.PixelShuffle(up))
            )
        self.expert = copy.deepcopy(expert).requires_grad_(True)
        self.expert.backbone.forget(8)
        _freeze_depthwise(self.expert)

    @property
    def classifier(self) -> nn.Conv2d:
        """The last layer."""
        return self.expert.classifier

    def forward(self, vectors: Tensor) -> Tensor:
        rows, columns = (-side % self._multiple for side in vectors.shape[2:])
        # Features of even and odd sides lie differently; see networks.pad_to_stride.
        vectors = F.pad(vectors, (0, columns, 0, rows), mode="replicate")
        x = self.enter(vectors)
        stride4, stride8 = (widen(x) for widen in self.widen)
        coarser = self.expert.backbone.resume(stride8, 8)
        return self.expert.decode([stride4, stride8, *coarser])
