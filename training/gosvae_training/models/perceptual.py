"""Distances between pictures as a network trained on ImageNet sees them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..strict import ConfigError
from .efficientnet import EfficientNetLite, pad_to_stride


class FeatureDistance(nn.Module):
    """LPIPS's distance without its learnt weights (Zhang et al. 2018, equation 1).

    Features of a frozen EfficientNet-Lite0 at strides 4 to 32, normalised along channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = EfficientNetLite()
        self.backbone.load_imagenet()
        self.requires_grad_(False).eval()

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return the mean distance of frames (N, H, W, 3), 0 to 255; `theirs` get no gradient."""
        with torch.no_grad():
            wanted = self.backbone(pad_to_stride(theirs))
        pairs = zip(self.backbone(pad_to_stride(ours)), wanted, strict=True)
        return sum(
            (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
            for a, b in pairs
        )


class LearnedDistance(nn.Module):
    """LPIPS itself (Zhang et al. 2018) from PyPI's ``lpips``, with its AlexNet."""

    def __init__(self) -> None:
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise ConfigError(
                f"losses.perceptual_network: lpips cannot be imported ({error}): "
                "pip install lpips torchvision, or choose efficientnet"
            ) from error
        self.network = lpips.LPIPS(net="alex", verbose=False)
        self.requires_grad_(False).eval()

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return the mean distance of frames (N, H, W, 3), 0 to 255."""
        pair = [frames.permute(0, 3, 1, 2).float() / 127.5 - 1 for frames in (ours, theirs)]
        return self.network(*pair).mean()


PERCEPTUAL = {"efficientnet": FeatureDistance, "lpips": LearnedDistance}
"""Distances by name."""
