"""Bags and videos as datasets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard
from tqdm import tqdm

from gosvae_codec.labels import CITYSCAPES, UNLABELLED, LabelSpace, translate
from gosvae_tools.drives import AmbiguousTopicsError, Source, SourceError, open_source
from gosvae_tools.drives.bag_files import is_bag_folder

from .samples import WHOLE, DataError, Part, Sample

MOST_BYTES = 6_000_000_000
"""Memory that the frames of one drive may take."""
OWN_TERMS = "{}: under its own terms"


def is_drive(path: Path) -> bool:
    """Tell whether a path is of a bag or a video, not of a folder of images."""
    return path.is_file() or is_bag_folder(path)


def _open(path: Path, topic: str) -> Source:
    """Return a drive that can be read; raise DataError where there is none."""
    try:
        return open_source(path, topics=[topic] if topic else [])
    except AmbiguousTopicsError as error:
        raise DataError(f"{error}: name it with `topic`") from error
    except SourceError as error:
        raise DataError(str(error)) from error


def count_frames(path: Path, topic: str = "") -> int:
    """Return how many frames a bag or video says to have; raise DataError where it is none."""
    return len(_open(path, topic))


class _Packed(NamedTuple):
    """A uint8 array without loss, in half of its memory."""

    data: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: npt.NDArray[np.uint8]) -> _Packed:
        return cls(zstandard.compress(array.tobytes(), 1), array.shape)

    def unpack(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(bytearray(zstandard.decompress(self.data)), np.uint8).reshape(
            self.shape
        )


class Drive:
    """Frames of a bag or video, read in order once and kept in memory without loss.

    A bag's labels have Cityscapes' train ids, or those of `space`.
    """

    def __init__(
        self, path: Path, labels: LabelSpace, part: Part = WHOLE, space: LabelSpace = CITYSCAPES
    ) -> None:
        """Read what `part` takes of it.

        Raises:
            DataError: it cannot be read, has no such frames, or too many for memory.
        """
        self.title, self.terms = path.name, OWN_TERMS.format(path.name)
        table = translate(space, labels)
        self._packed: list[tuple[_Packed, _Packed | None]] = []
        source = _open(path, part.topic)
        try:
            chosen, kept = part.of(len(source)), 0
            wanted = set(chosen)
            frames = tqdm(
                source.frames(),
                desc=f"read {path.name}",
                unit="frame",
                total=len(source),
                leave=False,
            )
            for place, frame in enumerate(frames):
                if place in wanted:
                    image = _Packed.of(frame.image)
                    mask = None if frame.label is None else _Packed.of(table[frame.label])
                    self._packed.append((image, mask))
                    kept += len(image.data)
                    if kept > MOST_BYTES:
                        raise DataError(
                            f"{path}: {len(chosen)} frames take too much memory; take fewer with "
                            "`every` or `range`"
                        )
                elif chosen and place > chosen[-1]:
                    break
        except SourceError as error:
            raise DataError(str(error)) from error
        for loss in source.losses:
            tqdm.write(f"left out: {loss.reason}", file=sys.stderr)
        if not self._packed:
            raise DataError(f"{path}: no frame of {len(source)} is in {part}")
        if len(self._packed) < len(source):
            self.title = f"{len(self._packed)} of {len(source)} frames of {path.name}"
        if not any(mask for _, mask in self._packed):
            self.title += ", unlabelled"

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> Sample:
        frame, mask = (each and each.unpack() for each in self._packed[index])
        assert frame is not None
        return Sample(
            frame, np.full(frame.shape[:2], UNLABELLED, np.uint8) if mask is None else mask
        )
