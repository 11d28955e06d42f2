"""Views of frames at the encoder's size, with what the segmenter says of each, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from gosvae_codec.draft import whole_file
from gosvae_codec.labels import LabelSpace

from ..data.augment import Items, recolor
from ..data.mixture import Ends
from ..data.samples import Dataset, Sample, describe

Frame = npt.NDArray[np.uint8]
Segment = Callable[[Frame], npt.NDArray[np.float32]]
"""Frames uint8 (H, W, 3) RGB to probabilities float (h, w, classes)."""
_SMALLEST = 0.5
"""Least side of a view, as a share of the largest that fits."""
_STRETCH = 0.15
"""Largest deviation of a view's aspect ratio, as a logarithm."""


class Views:
    """Random views of a dataset's frames.

    Frames are uint8 (views, H, W, 3); targets uint8 (views, classes, H/2, W/2), 255 times the
    segmenter's probabilities. Both lie in files, which are written if they do not exist.
    """

    def __init__(
        self,
        samples: Dataset,
        views: int,
        size: tuple[int, int],
        segment: Segment,
        expert: str,
        folder: Path,
        seed: int,
    ) -> None:
        """Make the views, or open those made before.

        Args:
            samples: frames; masks are not looked at.
            views: of each frame.
            size: height and width of a view.
            segment: the segmenter.
            expert: what tells segmenters apart.
            folder: for the files.
            seed: of the views.
        """
        text = f"{describe(samples)} {views} {size} {expert} {seed}"
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.title = samples.title
        frames, targets = folder / f"{name}-frames.npy", folder / f"{name}-targets.npy"
        if not targets.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._make(samples, views, size, segment, (frames, targets), seed)
        self.frames = np.load(frames, mmap_mode="r")
        self.targets = np.load(targets, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.frames)

    @staticmethod
    def _make(
        samples: Dataset,
        views: int,
        size: tuple[int, int],
        segment: Segment,
        files: tuple[Path, Path],
        seed: int,
    ) -> None:
        count, half = len(samples) * views, (size[1] // 2, size[0] // 2)
        progress = tqdm(total=count, desc=f"views of {samples.title}", unit="view")
        with whole_file(files[0]) as first, whole_file(files[1]) as second, progress:
            frames = np.lib.format.open_memmap(first, "w+", np.uint8, (count, *size, 3))
            targets = None
            for index in range(len(samples)):
                frame = samples[index].frame
                for view in range(views):
                    place = index * views + view
                    rng = np.random.default_rng((seed, place))
                    part = random_view(frame, size[1] / size[0], rng)
                    said = cv2.resize(segment(part), half, interpolation=cv2.INTER_AREA)
                    if targets is None:
                        shape = (count, said.shape[2], *half[::-1])
                        targets = np.lib.format.open_memmap(second, "w+", np.uint8, shape)
                    frames[place] = cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA)
                    targets[place] = np.rint(said.transpose(2, 0, 1) * 255)
                    progress.update()
            frames.flush()
            if targets is not None:
                targets.flush()


def random_view(frame: Frame, aspect: float, rng: np.random.Generator) -> Frame:
    """Return a part of a frame, uint8 (h, w, 3), that is about `aspect` times as wide as high."""
    height, width = frame.shape[:2]
    aspect *= np.exp(rng.uniform(-_STRETCH, _STRETCH))
    largest = min(height, width / aspect)
    rows = max(round(largest * rng.uniform(_SMALLEST, 1.0) ** 0.5), 1)
    columns = min(max(round(rows * aspect), 1), width)
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    return np.ascontiguousarray(frame[top : top + rows, left : left + columns])


class LabelledViews:
    """Views as a dataset, whose masks are the labels that the segmenter finds most likely."""

    terms = ""

    def __init__(self, views: Views, labels: LabelSpace) -> None:
        self.title = views.title
        self._views, self._labels = views, labels

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> Sample:
        mask = self._labels.ids[self._views.targets[index].argmax(0)]
        return Sample(np.array(self._views.frames[index]), mask.repeat(2, 0).repeat(2, 1))


class ViewItems(Items):
    """All items of a run in their order: views of several datasets, recoloured and mirrored.

    Items are (uint8 (H, W, 3), uint8 (classes, H/2, W/2)).
    """

    def __init__(self, parts: Sequence[Views], length: int, seed: int) -> None:
        self._parts, self._length, self._seed = parts, length, seed
        self._ends = Ends(parts)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        epoch, place = divmod(index, len(self._ends))
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._ends))
        rng = np.random.default_rng((self._seed, epoch, place))
        part, chosen = self._ends.find(int(order[place]))
        views = self._parts[part]
        frame, target = np.asarray(views.frames[chosen]), np.asarray(views.targets[chosen])
        if rng.random() < 0.5:
            frame, target = frame[:, ::-1], target[:, :, ::-1]
        return (
            torch.from_numpy(recolor(np.ascontiguousarray(frame), rng)),
            torch.from_numpy(target.copy()),
        )
