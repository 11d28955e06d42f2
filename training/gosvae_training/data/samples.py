"""What all datasets are: samples that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gosvae_codec.labels import UNLABELLED


class DataError(Exception):
    """A dataset folder is missing, incomplete or contradicts itself."""


class Sample(NamedTuple):
    """One frame: uint8 (H, W, 3) RGB and its mask, uint8 (H, W) of label ids."""

    frame: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float16] | None = None
    """An expert's, float16 (H/4, W/4, classes), where it was asked before."""
    boxes: npt.NDArray[np.float32] | None = None
    """Of detectors, where they were asked before; see :mod:`.boxes`."""


class Dataset(Protocol):
    """A sequence of samples that are decoded when they are asked for."""

    @property
    def title(self) -> str:
        """Name for people."""

    @property
    def terms(self) -> str:
        """What weights trained on it inherit."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Part(NamedTuple):
    """Which frames of a dataset are taken."""

    every: int = 1
    """One in so many."""
    range: tuple[float, float] = (0.0, 1.0)
    """From which share of the frames to which."""
    topic: str = ""
    """Of a bag with several image topics."""

    def of(self, count: int) -> list[int]:
        """Return the indices taken of so many frames."""
        return list(range(round(self.range[0] * count), round(self.range[1] * count), self.every))


WHOLE = Part()


@dataclass(frozen=True)
class Selection:
    """Some samples of a dataset."""

    whole: Dataset
    indices: Sequence[int]

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{len(self.indices)} of {self.whole.title}"

    @property
    def terms(self) -> str:
        """What weights trained on it inherit."""
        return self.whole.terms

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.indices[index]]


def describe(dataset: Dataset) -> str:
    """Return what a dataset holds, for instance ``CamVid val, 101 frames at 480x360``.

    Only its first and last frames are looked at.
    """
    height, width = dataset[0].mask.shape
    same = dataset[len(dataset) - 1].mask.shape == (height, width)
    size = f"at {width}x{height}" if same else "of several sizes"
    return f"{dataset.title}, {len(dataset)} frames {size}"


def iterate(dataset: Dataset, at_most: int | None = None) -> Iterator[Sample]:
    """Yield the samples of a dataset in order, or about `at_most` evenly spaced ones."""
    step = 1 if at_most is None else max(len(dataset) // at_most, 1)
    for index in range(0, len(dataset), step):
        yield dataset[index]


def is_labelled(dataset: Dataset) -> bool:
    """Return whether some of about ten evenly spaced samples have a label."""
    return any((sample.mask != UNLABELLED).any() for sample in iterate(dataset, 10))


class Judged:
    """Samples with the masks that an expert gives them, for what nobody has labelled."""

    def __init__(
        self, samples: Dataset, segment: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
    ) -> None:
        """Ask for the mask of each frame when it is first wanted; `segment` returns label ids."""
        self.title, self.terms = samples.title, samples.terms
        self._samples, self._segment = samples, segment
        self._masks: dict[int, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[index]
        if index not in self._masks:
            self._masks[index] = self._segment(sample.frame)
        return sample._replace(mask=self._masks[index])
