"""A head of kind depth on what a bundle's receiver makes of tokens, by exact depth of streets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.augment import recolor
from ..models.token_network import resize_logits as resize
from ..studies.depth import FAR, NEAR, DepthFrames, depth_errors, typical_depth
from .network import DepthHead
from .receiver import Examples, Receiver, collect_examples, fit_head


def make_depth_examples(receiver: Receiver, frames: DepthFrames, views: int, seed: int) -> Examples:
    """Return each frame `views` times, recoloured and half of them mirrored, and its metres.

    Frames are whole: what a crop shows is as far away as before, but larger.
    """

    def look(
        sample: tuple[Tensor, Tensor], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
        frame, metres = (each.numpy() for each in sample)
        step = -1 if rng.random() < 0.5 else 1
        seen = recolor(np.ascontiguousarray(frame[:, ::step]), rng)
        return seen, metres[::2, ::2][:, ::step].astype(np.float16)

    return collect_examples(receiver, frames, views, seed, frames.__getitem__, look)


def depth_loss(made: Tensor, metres: Tensor) -> Tensor:
    """Return the mean absolute difference of logarithms where depth is known, NEAR to FAR."""
    made = resize(made[:, None], metres.shape[1:])[:, 0]
    known = (metres > NEAR) & (metres < FAR)
    error = (made.log() - metres.clamp(min=NEAR).log()).abs()
    return (error * known).sum() / known.sum().clamp(min=1)


def train_depth_head(examples: Examples, steps: int, batch: int, seed: int) -> DepthHead:
    """Return a head trained on the examples of :func:`make_depth_examples`."""
    torch.manual_seed(seed)
    head = DepthHead(examples.features.shape[1])

    def loss(chosen: npt.NDArray[np.int64], made: Tensor) -> Tensor:
        return depth_loss(made, torch.from_numpy(examples.target[chosen].astype(np.float32)))

    fit_head(head, examples, loss, steps, batch, seed)
    return head


def depth_report(receiver: Receiver, head: DepthHead, root: Path, splits: tuple[str, str]) -> str:
    """Return errors on the second split for each number of levels, and of guesses from the first.

    The guesses see nothing: the mean depth of each place, and of each row, of the frames of the
    first split.
    """
    train, val = (DepthFrames(root, split, receiver.bundle.input_size) for split in splits)

    def seen(levels: int) -> Callable[[Tensor], Tensor]:
        return lambda frames: head(torch.from_numpy(receiver.features(frames[0].numpy(), levels)))

    place = typical_depth(train)
    row = place.log().mean(2, keepdim=True).exp().expand_as(place)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        **{f"{levels} levels": seen(levels) for levels in range(1, receiver.bundle.levels + 1)},
        "mean of each place": lambda _: place,
        "mean of each row": lambda _: row,
    }
    lines = []
    for name, network in ways.items():
        figures = depth_errors(network, val)
        lines.append(
            f"{name}: absolute relative error {figures['abs_rel']:.3f}, "
            f"within 1.25 {figures['delta1']:.3f}"
        )
    return "\n".join(lines)
