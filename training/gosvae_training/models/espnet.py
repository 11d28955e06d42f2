"""ESPNet (Mehta et al. 2018, ECCV): names of modules are those in its authors' weight files."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DILATIONS = (1, 2, 4, 8, 16)


class _Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation=dilation, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _NormAct(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))


class _ConvNormAct(_NormAct):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(outputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


class _Pyramid(nn.Module):
    """Efficient spatial pyramid: reduce, dilate in parallel, add up, join (section 3)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = outputs // 5
        self.c1 = _Conv(inputs, width, kernel, stride)
        for dilation in _DILATIONS:
            own = outputs - 4 * width if dilation == 1 else width
            self.add_module(f"d{dilation}", _Conv(width, own, 3, dilation=dilation))

    def join(self, x: Tensor) -> Tensor:
        reduced = self.c1(x)
        first, *others = (getattr(self, f"d{dilation}")(reduced) for dilation in _DILATIONS)
        # Added up from the least dilated, against gridding.
        sums = [others[0]]
        for other in others[1:]:
            sums.append(sums[-1] + other)
        return torch.cat([first, *sums], 1)


class _Down(_Pyramid):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=3, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.join(x)))


class _Block(_Pyramid):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=1, stride=1)
        self.bn = _NormAct(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.join(x)
        return self.bn(x + y if x.shape == y.shape else y)


class _Encoder(nn.Module):
    """ESPNet-C: strides 2, 4 and 8, the picture itself joined in at the first two."""

    def __init__(self, classes: int, p: int, q: int) -> None:
        super().__init__()
        self.level1 = _ConvNormAct(3, 16, stride=2)
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1)
        self.b1 = _NormAct(16 + 3)
        self.level2_0 = _Down(16 + 3, 64)
        self.level2 = nn.ModuleList(_Block(64, 64) for _ in range(p))
        self.b2 = _NormAct(128 + 3)
        self.level3_0 = _Down(128 + 3, 128)
        self.level3 = nn.ModuleList(_Block(128, 128) for _ in range(q))
        self.b3 = _NormAct(256)
        self.classifier = _Conv(256, classes, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = self.shrink(pixels)
        stride2 = self.level1(pixels)
        first = y = self.level2_0(self.b1(torch.cat([stride2, half], 1)))
        for block in self.level2:
            y = block(y)
        stride4 = self.b2(torch.cat([y, first, self.shrink(half)], 1))
        first = y = self.level3_0(stride4)
        for block in self.level3:
            y = block(y)
        return stride2, stride4, self.classifier(self.b3(torch.cat([first, y], 1)))


class EspNet(nn.Module):
    """Float (N, 3, H, W) to logits (N, classes, H, W)."""

    def __init__(self, classes: int, p: int, q: int) -> None:
        """Make the network.

        Args:
            classes: channels of the output.
            p: blocks at stride 4.
            q: blocks at stride 8.
        """
        super().__init__()

        def up() -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False)

        self.encoder = _Encoder(classes, p, q)
        self.level3_C = _Conv(128 + 3, classes, 1)
        self.br = nn.BatchNorm2d(classes, eps=1e-3)
        self.up_l3 = nn.Sequential(up())
        self.combine_l2_l3 = nn.Sequential(_NormAct(2 * classes), _Block(2 * classes, classes))
        self.up_l2 = nn.Sequential(up(), _NormAct(classes))
        self.conv = _ConvNormAct(16 + classes, classes)
        self.classifier = up()

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        pixels = F.pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate")
        stride2, stride4, stride8 = self.encoder(pixels)
        deep = self.up_l3(self.br(stride8))
        middle = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(stride4), deep], 1)))
        logits = self.classifier(self.conv(torch.cat([middle, stride2], 1)))
        return logits[:, :, :height, :width]
