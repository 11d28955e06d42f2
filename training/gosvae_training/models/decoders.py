"""Decoders: quantised vectors (N, dim, h, w) to logits."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet import Conv, freeze_depthwise, separable
from .expert import Expert


class ContextBlock(nn.Module):
    """Residual 5x5 depthwise block with a frame-wide context vector added in the middle."""

    def __init__(self, width: int, expand: int = 2) -> None:
        super().__init__()
        self.spatial = Conv(width, width, 5, padding=2, groups=width, bias=False)
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

    Tokens lie `token_stride` pixels apart. With classes of `boxes`, what :class:`BoxMaps` makes
    stands behind the logits.
    """

    stride = 4

    def __init__(
        self,
        dim: int,
        classes: int,
        token_stride: int = 16,
        width: int = 256,
        blocks: int = 6,
        boxes: int = 0,
    ) -> None:
        super().__init__()
        self._up = token_stride // self.stride
        self.enter = nn.Conv2d(dim, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ContextBlock(width) for _ in range(blocks)))
        self.widen = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, 64 * self._up**2, 1))
        self.refine = separable(64, 64, 5)
        self.classifier = nn.Conv2d(64, classes, 1)
        self.boxes = BoxMaps(64, boxes) if boxes else None

    def forward(self, vectors: Tensor) -> Tensor:
        features = self.embed(vectors)
        logits = self.classifier(features)
        return logits if self.boxes is None else torch.cat([logits, self.boxes(features)], 1)

    def embed(self, vectors: Tensor) -> Tensor:
        """Return what the classifier sees, (N, 64, H/4, W/4)."""
        x = self.widen(self.blocks(self.enter(vectors)))
        return self.refine(F.relu(F.pixel_shuffle(x, self._up)))


class BoxMaps(nn.Module):
    """Features at stride 4 to maps of boxes (TTFNet, Liu et al. 2020, section 3).

    (N, width, h, w) -> (N, classes + 4, h, w): logits of a class having a box's centre in the cell,
    and logarithms of the distances in cells from the cell's centre to left, top, right and bottom.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.refine = nn.Sequential(separable(width, 64, 5), separable(64, 64, 5))
        self.maps = nn.Conv2d(64, classes + 4, 1)
        # Hardly any cell is a centre, and boxes are some pixels wide.
        bias = torch.tensor([-4.0] * classes + [1.0] * 4)
        self.maps.bias = nn.Parameter(bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.maps(self.refine(features))


class LabelDecoder(nn.Module):
    """One-hot labels as the logits that they stand for."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.classifier = nn.Identity()

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors

    def embed(self, vectors: Tensor) -> Tensor:
        """Return the labels, which are their own features."""
        return vectors


class UpperDecoder(nn.Module):
    """Vectors to the expert's features of strides 4 and 8, from which the expert goes on.

    (N, dim, h, w) -> (N, classes, H/4, W/4); starts with the expert's weights from stride 16 on.
    """

    stride = 4

    def __init__(
        self,
        dim: int,
        expert: Expert,
        token_stride: int,
        width: int,
        blocks: int = 0,
        frozen: bool = False,
    ) -> None:
        """Make it.

        Args:
            dim: numbers of a vector.
            expert: whose upper part is copied.
            token_stride: pixels from one vector to the next, 8, 16 or 32.
            width: channels before the expert's features.
            blocks: context blocks before them.
            frozen: whether the expert's part keeps its weights and statistics.
        """
        super().__init__()
        self._multiple = 32 // token_stride
        self._frozen = frozen
        self.enter = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(ContextBlock(width) for _ in range(blocks)),
        )
        self.widen = nn.ModuleList()
        for channels, stride in zip(expert.backbone.channels, (4, 8), strict=False):
            up = token_stride // stride
            self.widen.append(
                nn.Sequential(nn.Conv2d(width, channels * up * up, 1), nn.PixelShuffle(up))
            )
        self.expert = copy.deepcopy(expert).requires_grad_(not frozen)
        self.expert.backbone.forget(8)
        freeze_depthwise(self.expert)

    def train(self, mode: bool = True) -> UpperDecoder:
        super().train(mode)
        if self._frozen:
            self.expert.eval()
        return self

    @property
    def classifier(self) -> nn.Conv2d:
        """The last layer."""
        return self.expert.classifier

    def forward(self, vectors: Tensor) -> Tensor:
        return self.classifier(self.embed(vectors))

    def embed(self, vectors: Tensor) -> Tensor:
        """Return what the classifier sees, (N, width, H/4, W/4)."""
        return self.expert.join(self.features(vectors))

    def features(self, vectors: Tensor) -> list[Tensor]:
        """Return what stands for the expert's features of strides 4, 8, 16 and 32."""
        rows, columns = (-side % self._multiple for side in vectors.shape[2:])
        # Features of even and odd sides lie differently; see efficientnet.pad_to_stride.
        vectors = F.pad(vectors, (0, columns, 0, rows), mode="replicate")
        x = self.enter(vectors)
        stride4, stride8 = (widen(x) for widen in self.widen)
        return [stride4, stride8, *self.expert.backbone.resume(stride8, 8)]
