"""What pictures an ONNX expert takes, where its file does not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gosvae_codec.images import resize_frame

from . import settings
from .onnx_expert import Feed, Form, OnnxExpert

PICTURES: dict[str, settings.Picture] = {
    "imagenet": settings.Picture(),
    "0..255": settings.Picture(mean=(0, 0, 0), std=(1, 1, 1)),
    "0..1": settings.Picture(mean=(0, 0, 0), std=(255, 255, 255)),
    "-1..1": settings.Picture(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)),
}
"""Usual pictures by name."""
CERTAIN = 0.05
"""Information in nats by which the best picture has to lead, to be called certain."""


class Guess(NamedTuple):
    """A kind of pictures, and what it is worth."""

    name: str
    picture: settings.Picture
    information: float
    """In nats; see :func:`information`."""


def information(first: Tensor, second: Tensor) -> float:
    """Return the mutual information of the classes of the same places seen in two ways, in nats.

    Great where predictions are certain, varied, and the same in both (invariant information
    clustering, Ji et al. 2019): what a network says of pictures of the kind it was trained on.

    Args:
        first: probabilities (N, classes, h, w).
        second: the same of the other way.
    """
    joint = torch.einsum("nchw,ndhw->cd", first, second)
    joint = (joint + joint.T) / joint.sum() / 2
    alone = joint.sum(0)
    expected = (alone[:, None] * alone).clamp(min=1e-12)
    return float((joint * (joint.clamp(min=1e-12) / expected).log()).sum())


def rank_pictures(
    expert: OnnxExpert, frames: Sequence[npt.NDArray[np.uint8]], size: tuple[int, int]
) -> list[Guess]:
    """Return the usual kinds of pictures, the likeliest of an expert first.

    All are tried on two of the frames, the best three on all of them.

    Args:
        expert: its own picture does not matter.
        frames: some of the camera's, uint8 (H, W, 3); eight tell the order of colours well.
        size: at which frames are shown to an expert that takes any.
    """
    resized = [resize_frame(frame, expert.size or size) for frame in frames]
    few, guesses = resized[:: max(len(resized) // 2, 1)], list(_kinds(expert.form))
    for some in (few, resized):
        tried = [each._replace(information=_information(expert, each, some)) for each in guesses]
        guesses = sorted(tried, key=lambda each: -each.information)[:3]
    return guesses


def _information(
    expert: OnnxExpert, guess: Guess, frames: Sequence[npt.NDArray[np.uint8]]
) -> float:
    """Return what an expert's masks of frames tell of its masks of them mirrored and darker."""
    feed = Feed(guess.picture, expert.form.dtype, expert.form.channels_last, expert.size)
    ways: list[list[Tensor]] = [[], []]
    for frame in frames:
        taken = torch.from_numpy(frame)[None]
        for way, seen in zip(ways, (taken, (taken.flip(2) * 0.8).to(torch.uint8)), strict=True):
            shares = expert.after(expert.network(feed(seen))).softmax(1)
            way.append(F.interpolate(shares, size=(64, 64), mode="area"))
    return information(torch.cat(ways[0]), torch.cat(ways[1]).flip(3))


def _kinds(form: Form) -> Iterator[Guess]:
    """Yield what could be meant; networks of uint8 normalise pictures themselves."""
    for order in ("rgb", "bgr"):
        if form.dtype == torch.uint8:
            yield Guess(order, settings.Picture(order=order), 0.0)
            continue
        for name, picture in PICTURES.items():
            yield Guess(f"{name} {order}", picture.model_copy(update={"order": order}), 0.0)
