"""What a configuration of several tasks says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from ..config import Prior, Schedule
from ..data.datasets import load_dataset
from ..data.samples import Dataset, Part
from ..strict import Size, Strict


class Source(Strict):
    """One split of one dataset, of which only the frames are looked at."""

    split: str
    views: PositiveInt = 1
    """Random views of each frame."""
    every: PositiveInt = 1
    """Frames from one that is taken to the next."""

    def load(self, path: Path) -> Dataset:
        """Return the frames of the dataset at `path`; raise DataError where that fails."""
        return load_dataset(path, self.split, part=Part(self.every))


class Tokens(Strict):
    """The network: residual levels of `codes` vectors with `dim` numbers each."""

    levels: PositiveInt
    codes: PositiveInt
    dim: PositiveInt
    width: PositiveInt = 192
    """Channels of what makes features vectors, in the vehicle."""
    features: PositiveInt = 224
    """Channels of what the heads share, at the receiver."""
    blocks: NonNegativeInt = 6
    """Of the receiver, that make these of vectors."""


class Losses(Strict):
    """Weights of the terms that the tokens are trained by."""

    imitation: NonNegativeFloat = 1.0
    """Jensen-Shannon divergence to the segmenter's output (GOS-VAE, equation 3)."""
    distillation: NonNegativeFloat = 2.0
    """Kullback-Leibler divergence from the segmenter's output."""
    labels: NonNegativeFloat = 0.5
    """Cross entropy and Dice against the segmenter's labels."""
    features: NonNegativeFloat = 0.5
    """Share of the variance of the detector's features that is left unexplained."""
    objects: NonNegativeFloat = 0.5
    """Cross entropy of the detector's objectness and classes, for each object."""
    boxes: NonNegativeFloat = 0.5
    """Mean absolute difference of offsets and log sizes where the detector sees an object."""


class Config(Strict):
    """Everything that decides what a bundle of several tasks holds."""

    name: str = Field(min_length=1)
    seed: NonNegativeInt
    input_size: Size
    """Of the frames that the encoder takes; both divide by 32."""
    train: Mapping[str, Source]
    """Datasets by the names given to ``--data``."""
    val: Mapping[str, Source]
    tokens: Tokens
    losses: Losses = Losses()
    codec: Schedule
    """Its crop is the input size."""
    inertia: tuple[NonNegativeFloat, ...] = ()
    prior: Prior = Prior()
    notes: str = ""

    def names(self) -> list[str]:
        """Return the names of all datasets, each once, in order."""
        return list(dict.fromkeys([*self.train, *self.val]))

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        if any(side % 32 for side in self.input_size):
            raise ValueError(f"input_size {self.input_size}: both sides have to divide by 32")
        if self.codec.crop != self.input_size:
            raise ValueError(
                f"codec.crop {self.codec.crop}: has to be input_size, {self.input_size}"
            )
        if self.inertia and len(self.inertia) != self.tokens.levels:
            raise ValueError(
                f"inertia: {len(self.inertia)} numbers for {self.tokens.levels} levels"
            )
        return self
