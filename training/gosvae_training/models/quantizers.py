"""Quantisers: the vectors of an encoder to codes of a codebook."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ


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


class LabelsThenCodes(nn.Module):
    """Labels as the first level, codes of what is beside them as the further ones.

    Takes (N, tokens, classes + dim), logits of labels first, and gives the greatest one's one-hot
    vector in their place. The first codebook has a vector for each class, the others are 0 there,
    so that a receiver adds levels as it does for residual codes. All further levels are left out
    for some frames in training.
    """

    FAR = 100.0
    """Of what stands in the first codebook behind the classes: no label is near it."""

    def __init__(self, classes: int, codes: ResidualVQ) -> None:
        """Put labels of `classes` before `codes`, of which each level has as many or more."""
        super().__init__()
        self.classes, self.codes = classes, codes

    @property
    def codebooks(self) -> Tensor:
        """Float (levels, codes, classes + dim)."""
        further = F.pad(self.codes.codebooks, (self.classes, 0))
        first = torch.full_like(further[:1], self.FAR)
        first[:, : self.classes] = torch.eye(self.classes, further.shape[2])
        return torch.cat([first, further])

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index = vectors[..., : self.classes].argmax(-1)
        labels = F.one_hot(index, self.classes).to(vectors.dtype)
        made, indices, losses = self.codes(vectors[..., self.classes :])
        if self.training:
            alone = torch.rand(len(vectors), 1, 1, device=vectors.device) < 1 / (
                indices.shape[-1] + 1
            )
            made, indices = made.masked_fill(alone, 0), indices.masked_fill(alone, -1)
        return torch.cat([labels, made], -1), torch.cat([index[..., None], indices], -1), losses


RARE = 0.5
"""Vectors of a batch, on average, with fewer of which a code is restarted in training."""


def rare_use(vectors: float, codes: int) -> float:
    """Return RARE, or less where a batch has few `vectors` for many codes.

    No more than a few can then be expected for each.
    """
    return min(RARE, 0.1 * vectors / codes)


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
