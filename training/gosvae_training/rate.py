"""What tokens will cost, learnt beside them: training saves bits where they buy little."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INTRA = 0.15
"""Share of the crops whose tokens are predicted without a reference."""


def moved(frames: Tensor) -> Tensor:
    """Return what a moving camera might have seen a moment before, float32 (N, H, W, 3).

    Like :func:`gosvae_training.prior.make_pair`, but of crops on the device: shifted by a
    log-uniform amount, zoomed, a little brighter or darker, and with noise.

    Args:
        frames: (N, H, W, 3), 0 to 255.
    """
    count, height, width = frames.shape[:3]
    chance = {"device": frames.device}
    amount = torch.exp(torch.empty(count, **chance).uniform_(-0.22, 2.48))
    zoom = 1 - 0.004 * amount * torch.rand(count, **chance) * 2
    matrix = torch.zeros(count, 2, 3, **chance)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom
    matrix[:, 0, 2] = torch.randn(count, **chance) * amount * 2 / width
    matrix[:, 1, 2] = torch.randn(count, **chance) * amount / height
    grid = F.affine_grid(matrix, [count, 3, height, width], align_corners=False)
    pixels = frames.permute(0, 3, 1, 2).float()
    seen = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    seen = seen * (1 + 0.01 * torch.randn(count, 1, 1, 1, **chance))
    return (seen + 2 * torch.randn_like(seen)).clamp(0, 255).permute(0, 2, 3, 1)


class _Level(nn.Module):
    """Logits of one level's codes, (N, codes, h, w), from one-hot tokens of all levels."""

    def __init__(self, level: int, codes: int, width: int) -> None:
        super().__init__()
        self.own = slice(level * codes, (level + 1) * codes)
        self.before = nn.Conv2d(codes, width, 5, padding=2)
        self.below = nn.Conv2d(self.own.start, width, 3, padding=1) if level else None
        self.reference = nn.Conv2d(self.own.stop, width, 3, padding=1)
        self.mix = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU())
        self.code = nn.Conv2d(width, codes, 1)
        self.same = nn.Conv2d(width, 1, 1)
        causal = torch.ones(5, 5)
        causal[2, 2:] = causal[3:] = 0
        self.register_buffer("causal", causal, persistent=False)

    def forward(self, current: Tensor, past: Tensor) -> Tensor:
        kernel = self.before
        x = F.conv2d(current[:, self.own], kernel.weight * self.causal, kernel.bias, padding=2)
        x = x + self.reference(past[:, : self.own.stop])
        if self.below is not None:
            x = x + self.below(current[:, : self.own.start])
        x = self.mix(x)
        return self.code(x) + self.same(x) * past[:, self.own]


class TrainingPrior(nn.Module):
    """Bits of each level's tokens, given those before them and those of an earlier frame.

    The contexts are those of the codec's own prior (:mod:`gosvae_training.prior`), seen by
    convolutions. Its gradient moves the vectors towards codes that are cheap where they stand
    (entropy-constrained vector quantisation, Chou et al. 1989): each vector's choice is softened
    to the posterior of a mixture of Gaussians as wide as the quantisation error.
    """

    def __init__(self, levels: int, codes: int, width: int = 64) -> None:
        super().__init__()
        self.codes = codes
        self.levels = nn.ModuleList(_Level(level, codes, width) for level in range(levels))

    def costs(self, indices: Tensor, reference: Tensor) -> list[Tensor]:
        """Return what each code would cost in each place, in bits.

        Args:
            indices: int64 (N, h, w, levels), -1 where the level was dropped.
            reference: likewise, of an earlier frame, -1 where there is none.

        Returns:
            Float (N, h, w, codes) of each level that was not dropped.
        """
        present = int((indices >= 0).flatten(0, 2).all(0).sum())
        current, past = (self._one_hot(each[..., :present]) for each in (indices, reference))
        logits = [level(current, past).float() for level in self.levels[:present]]
        return [-F.log_softmax(each, 1).permute(0, 2, 3, 1) / math.log(2) for each in logits]

    def forward(
        self, vectors: Tensor, codebooks: Tensor, indices: Tensor, reference: Tensor
    ) -> list[Tensor]:
        """Return the mean bits of a token of each level that was not dropped.

        Args:
            vectors: (N, dim, h, w), before they were quantised.
            codebooks: (levels, codes, dim).
            indices: see :meth:`costs`.
            reference: see :meth:`costs`.
        """
        residual, bits = vectors.permute(0, 2, 3, 1).float(), []
        for level, costs in enumerate(self.costs(indices, reference)):
            codebook, index = codebooks[level].detach(), indices[..., level]
            distances = torch.cdist(residual.flatten(0, 2), codebook).square().view_as(costs)
            error = distances.detach().amin(-1).mean() / codebook.shape[1]
            soft = torch.softmax(-distances / (2 * error), -1)
            # Worth what was chosen, with the gradient of what was not as well.
            choice = F.one_hot(index, self.codes) + soft - soft.detach()
            bits.append((choice * costs).sum(-1).mean())
            residual = residual - codebook[index]
        return bits

    def _one_hot(self, indices: Tensor) -> Tensor:
        """(N, h, w, levels) -> (N, levels * codes, h, w); nothing is 1 where an index is -1."""
        hot = F.one_hot(indices.clamp(min=0), self.codes) * (indices >= 0)[..., None]
        return hot.flatten(3).permute(0, 3, 1, 2).float()
