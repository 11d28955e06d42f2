"""What the training of several tasks minimises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import imitation_loss, segmentation_loss, unexplained_variance
from ..models.efficientnet import EfficientNetLite
from ..objectives import Objective
from .network import Outputs, Seen, TokenSender
from .settings import Losses

_LEAST = 1 / 512
"""Least probability of a class; the targets have 8 bits."""


class TaskObjective(Objective):
    """Tokens from which the receiver's tasks are to come out as the experts'.

    ``forward(frames, target, warming_up)`` takes frames uint8 (N, H, W, 3) and the segmenter's
    probabilities uint8 (N, classes, H/2, W/2). What the detector makes of the frames is its own
    heads' output on the encoder's trunk.
    """

    network: TokenSender

    def __init__(self, network: TokenSender, losses: Losses, class_weights: Tensor) -> None:
        """Keep the network; `class_weights`, (classes,), are of the semantic task."""
        super().__init__(network)
        self.losses = losses
        self.register_buffer("class_weights", class_weights, persistent=False)

    @property
    def backbone(self) -> EfficientNetLite | None:
        return None

    @property
    def pretrained(self) -> list[nn.Module]:
        return [self.network.encoder.trunk, self.network.detection.heads]

    def forward(self, frames: Tensor, target: Tensor, warming_up: bool) -> dict[str, Tensor]:
        network, weights = self.network, self.losses
        with torch.no_grad():
            seen = network.encoder.see(frames)
        made = network(frames, seen, quantize=not warming_up)
        terms = self.terms(made, frames, seen, target)
        # What does not count is not differentiated either, which would take as long.
        counted = {name: getattr(weights, name) for name in terms if getattr(weights, name)}
        loss = sum(weight * terms[name] for name, weight in counted.items())
        return {"loss": loss + made.sent.commitment, **terms}

    def terms(self, made: Outputs, frames: Tensor, seen: Seen, target: Tensor) -> dict[str, Tensor]:
        """Return how what the receiver makes differs from what the experts say, by loss."""
        with torch.no_grad():
            wanted = self.network.detection.heads(*seen.pyramid)
        probability = (target.float() / 255).clamp(min=_LEAST)
        logits = made.logits.float()
        terms = imitation_loss(logits, probability.log())
        terms["labels"] = segmentation_loss(logits, probability.argmax(1), self.class_weights)[
            "loss"
        ]
        terms["features"] = unexplained_variance(made.pyramid, seen.pyramid)
        return terms | detection_loss(made.boxes, wanted)

    def segment(self, network: nn.Module, frames: Tensor) -> Tensor:
        return network(frames).logits


def detection_loss(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return how a detector's maps differ from another's; see :class:`.yolox.Heads`.

    Boxes count by how sure the other is of an object. Sums over all cells are divided by the number
    of cells with an object and the number of frames, so that a batch without objects does not weigh
    more than others.
    """
    objects = torch.zeros((), device=made[0].device)
    boxes, count = objects.clone(), objects.clone()
    for ours, theirs in zip(made, wanted, strict=True):
        ours, theirs = ours.float(), theirs.float()
        objectness, classes = theirs[:, 4:5].sigmoid(), theirs[:, 5:].sigmoid()
        sure = objectness * classes.amax(1, keepdim=True)
        objects = objects + _cross_entropy(ours[:, 4:5], objectness).sum()
        objects = objects + (_cross_entropy(ours[:, 5:], classes) * objectness).sum()
        boxes = boxes + ((ours[:, :4] - theirs[:, :4]).abs() * sure).sum()
        count = count + sure.sum()
    count = count + len(made[0])
    return {"objects": objects / count, "boxes": boxes / count}


def _cross_entropy(logits: Tensor, probability: Tensor) -> Tensor:
    """Return the excess over the entropy of `probability`, so that the best is 0."""
    best = F.binary_cross_entropy(probability, probability, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, probability, reduction="none") - best
