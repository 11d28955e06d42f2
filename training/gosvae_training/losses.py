"""Losses; each returns its terms by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gosvae_codec.labels import UNLABELLED


def class_weights(frequencies: np.ndarray) -> Tensor:
    """ENet's class weights 1 / ln(1.1 + p), scaled to mean one (Paszke et al. 2016, section 5.1).

    Args:
        frequencies: share of each class among labelled pixels, (classes,).
    """
    weights = 1.0 / np.log(1.1 + frequencies)
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def segmentation_loss(logits: Tensor, target: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Weighted cross entropy plus soft Dice over the classes present; zero without any label.

    Args:
        logits: (N, classes, H, W).
        target: int64 (N, H, W), channel index or 255.
        weights: (classes,).
    """
    if not (target != UNLABELLED).any():
        nothing = logits.sum() * 0
        return {"loss": nothing, "cross_entropy": nothing, "dice": nothing}
    cross_entropy = F.cross_entropy(logits, target, weights, ignore_index=UNLABELLED)
    valid = (target != UNLABELLED)[:, None]
    truth = F.one_hot(target.clamp(max=logits.shape[1] - 1), logits.shape[1])
    truth = truth.permute(0, 3, 1, 2) * valid
    probability = logits.softmax(1) * valid
    overlap = (truth * probability).sum((0, 2, 3))
    total = (truth + probability).sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    dice = (1 - (2 * overlap + 1) / (total + 1))[present].mean()
    return {"loss": cross_entropy + 0.5 * dice, "cross_entropy": cross_entropy, "dice": dice}


def _by_task(
    logits: Tensor, expert_logits: Tensor, classes: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the logits of each task and those of its expert."""
    return zip(logits.split(classes, 1), expert_logits.split(classes, 1), strict=True)


def imitation_losses(
    logits: Tensor, expert_logits: Tensor, classes: Sequence[int]
) -> dict[str, Tensor]:
    """Return the means of :func:`imitation_loss` over tasks.

    Args:
        logits: (N, classes of all tasks, H, W).
        expert_logits: the same of their experts.
        classes: of each task, in the order of the channels.
    """
    pairs = _by_task(logits, expert_logits, classes)
    each = [imitation_loss(ours, theirs) for ours, theirs in pairs]
    return {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}


def label_losses(logits: Tensor, expert_logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the mean over tasks of :func:`segmentation_loss` against the experts' labels.

    Classes are weighted by how rare they are in the batch; see :func:`class_weights`.

    Args:
        logits: (N, classes of all tasks, H, W).
        expert_logits: the same of their experts.
        classes: of each task, in the order of the channels.
    """
    each = []
    for ours, theirs in _by_task(logits, expert_logits, classes):
        labels = theirs.argmax(1)
        counts = torch.bincount(labels.flatten(), minlength=ours.shape[1])
        weights = class_weights((counts / labels.numel()).cpu().numpy()).to(ours.device)
        each.append(segmentation_loss(ours, labels, weights)["loss"])
    return torch.stack(each).mean()


def box_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Return how maps of boxes differ from those wanted (TTFNet, Liu et al. 2020, section 3).

    The focal loss of centres (CornerNet, Law and Deng 2018, equation 1), an object, and five times
    the generalised intersection over union of boxes (Rezatofighi et al. 2019), by weight.

    Args:
        made: as :class:`.models.decoders.BoxMaps` makes them, (N, classes + 4, h, w).
        wanted: as :func:`.data.boxes.draw_maps` draws them, (N, classes + 5, h, w).
    """
    near, sides, weight = wanted[:, :-5], wanted[:, -5:-1], wanted[:, -1:]
    logits, distances = made[:, :-4].float(), made[:, -4:].float()
    found, missed = F.logsigmoid(logits), F.logsigmoid(-logits)
    focal = torch.where(
        near == 1, missed.exp().square() * found, (1 - near) ** 4 * found.exp().square() * missed
    )
    centres = -focal.sum() / (near == 1).sum().clamp(min=1)
    overlap = generalised_overlap(distances.clamp(max=8).exp(), sides)
    off = ((1 - overlap) * weight).sum() / weight.sum().clamp(min=1)
    return centres + 5 * off


def generalised_overlap(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the generalised intersection over union of boxes around the same places.

    Args:
        made: distances to left, top, right and bottom, (N, 4, h, w), above 0.
        wanted: the same; may be below 0 where the place is outside.

    Returns:
        (N, 1, h, w), from -1 to 1.
    """
    inner, outer = torch.minimum(made, wanted), torch.maximum(made, wanted)

    def area(sides: Tensor) -> Tensor:
        extent = (sides[:, :2] + sides[:, 2:]).clamp(min=0)
        return extent.prod(1, keepdim=True)

    shared, hull = area(inner), area(outer)
    union = (area(made) + area(wanted) - shared).clamp(min=1e-6)
    return shared / union - (hull - union) / hull.clamp(min=1e-6)


def imitation_loss(logits: Tensor, expert_logits: Tensor) -> dict[str, Tensor]:
    """Jensen-Shannon divergence to the expert (GOS-VAE, equation 3), and Kullback-Leibler's.

    Args:
        logits: (N, classes, H, W).
        expert_logits: (N, classes, H, W).
    """
    ours, expert = logits.log_softmax(1), expert_logits.log_softmax(1)
    middle = torch.logaddexp(ours, expert) - np.log(2)
    divergence = 0.5 * (
        (ours.exp() * (ours - middle)).sum(1) + (expert.exp() * (expert - middle)).sum(1)
    )
    distill = F.kl_div(ours, expert, log_target=True, reduction="none").sum(1).mean()
    return {"imitation": divergence.mean(), "distillation": distill}


def unexplained_variance(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the mean share of the variance of features that an imitation leaves unexplained.

    The squared error of each channel is divided by the channel's variance in the batch, so that
    channels and layers count alike, whatever their scale. The mean of every channel scores 1.

    Args:
        made: (N, channels, h, w), layer by layer.
        wanted: the same.
    """
    shares = []
    for ours, theirs in zip(made, wanted, strict=True):
        theirs = theirs.float()
        variance = theirs.var((0, 2, 3))
        # Channels that hardly ever respond would outweigh all others.
        variance = variance + 0.1 * variance.mean()
        shares.append(((ours.float() - theirs).square().mean((0, 2, 3)) / variance).mean())
    return torch.stack(shares).mean()


def frame_miou(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mIoU of each frame over the classes that occur in it, (N,); no gradient.

    Args:
        logits: (N, classes, H, W).
        target: int64 (N, H, W), channel index or 255.
    """
    classes, scores = logits.shape[1], []
    for truth, guess in zip(target, logits.argmax(1), strict=True):
        known = truth != UNLABELLED
        counts = torch.bincount(truth[known] * classes + guess[known], minlength=classes**2)
        counts = counts.reshape(classes, classes)
        hits, present = counts.diag(), counts.sum(1) > 0
        union = counts.sum(0) + counts.sum(1) - hits
        scores.append((hits[present] / union[present]).mean().nan_to_num(0.0))
    return torch.stack(scores)
