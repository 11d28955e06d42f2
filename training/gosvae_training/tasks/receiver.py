"""What heads that are trained for an existing bundle have in common."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from gosvae_codec import ModelBundle
from gosvae_codec.manifest import ENCODER, FEATURES

LEARNING_RATE = 2e-3
ONE_LEVEL = 0.3
"""Share of the examples with tokens of the first level alone."""


T = TypeVar("T")


class Shown(Sized, Protocol):
    """Frames, of which only number and name are needed here."""

    title: str


class Examples(NamedTuple):
    """What a head is trained on."""

    features: npt.NDArray[np.float16]
    """(N, C, h, w)."""
    target: npt.NDArray[Any]
    """(N, H/2, W/2) of the encoder's input: uint8 channels, 255 where there is none; or float16
    metres, 0 where they are not known."""


class Receiver:
    """A bundle's encoder and the network that its heads share, without packets in between."""

    def __init__(self, bundle: ModelBundle, threads: int) -> None:
        """Load them.

        Raises:
            BundleError: see :meth:`ModelBundle.session`.
        """
        self.bundle = bundle
        self._encoder = bundle.session(ENCODER, ("cpu",), threads)
        self._features = bundle.session(FEATURES, ("cpu",), threads)
        self._nothing = np.full((1, bundle.levels, *bundle.grid), bundle.codes, np.int32)

    def features(
        self, frame: npt.NDArray[np.uint8], levels: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the features of a frame of the encoder's size, (1, C, h, w); `levels` or all."""
        tokens = self._encoder.run(frame[None], self._nothing).copy()
        tokens[:, levels or self.bundle.levels :] = self.bundle.codes
        return np.asarray(self._features.run(tokens), np.float32)


def collect_examples(
    receiver: Receiver,
    frames: Shown,
    views: int,
    seed: int,
    read: Callable[[int], T],
    look: Callable[[T, np.random.Generator], tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]],
) -> Examples:
    """Return features and targets of random views, some of the first level alone; see ONE_LEVEL.

    Args:
        receiver: makes features.
        frames: how many there are, and what they are called.
        views: of each frame.
        seed: of chance.
        read: number of a frame to what `look` takes.
        look: makes a view, uint8 (H, W, 3) RGB of the encoder's size, and its target.
    """
    features, targets = [], []
    progress = tqdm(total=len(frames) * views, desc=f"features of {frames.title}", unit="view")
    with progress:
        for index in range(len(frames)):
            sample = read(index)
            for view in range(views):
                rng = np.random.default_rng((seed, index, view))
                frame, target = look(sample, rng)
                levels = 1 if rng.random() < ONE_LEVEL else None
                features.append(receiver.features(frame, levels)[0].astype(np.float16))
                targets.append(target)
                progress.update()
    return Examples(np.stack(features), np.stack(targets))


def fit_head(
    head: nn.Module,
    examples: Examples,
    loss: Callable[[npt.NDArray[np.int64], Tensor], Tensor],
    steps: int,
    batch: int,
    seed: int,
) -> None:
    """Train a head on examples, and leave it ready for use.

    Args:
        head: features to what `loss` takes.
        examples: for the batches.
        loss: indices of the examples in a batch, and what the head makes of these, to a scalar.
        steps: batches.
        batch: examples in each.
        seed: of their order.
    """
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    rng = np.random.default_rng(seed)
    progress = tqdm(range(steps), desc="head", unit="step")
    for _ in progress:
        chosen = rng.integers(0, len(examples.features), batch)
        features = torch.from_numpy(examples.features[chosen].astype(np.float32))
        value = loss(chosen, head(features))
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{value.item():.3f}")
    head.eval()
