"""Results of decoded frames as files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from gosvae_codec import DecodedFrame, DepthResult, SemanticResult, Task
from gosvae_codec.masks import colorize
from gosvae_codec.tasks import Result
from gosvae_common.boxes import boxes_of

from .bag_writer import BagWriteError

_SUFFIXES = {"semantic": ".png", "detection": ".json", "depth": ".tiff"}
"""By kind of task."""


class DecodedFiles:
    """A folder with ``<seconds>.<nanoseconds>`` and a suffix for each result.

    Masks are PNG of 8 bits, boxes JSON, a list of objects with name, score and sides in pixels,
    depths TIFF of 32-bit floats. Where there are several cameras each has a folder, and where there
    are several tasks each has one below. The second frame of a stamp ends in ``_2``, and so on.
    """

    def __init__(self, path: Path, tasks: Mapping[str, Task], color: bool, several: bool) -> None:
        """Write to the folder `path`, which need not exist.

        Args:
            path: of the folder.
            tasks: that have results, by name.
            color: colours of masks instead of label ids.
            several: whether there are several cameras.
        """
        self._path, self._tasks, self._color, self._several = path, tasks, color, several
        self._stamps: Counter[tuple[str, str]] = Counter()

    def write(self, camera: str, _: int, decoded: DecodedFrame) -> None:
        """Write the results of a camera's frame.

        Raises:
            BagWriteError, OSError: a file cannot be written.
        """
        # A bag may call its topics anything.
        folder = self._path / camera.replace("..", "_") if self._several else self._path
        name = f"{decoded.header.sec}.{decoded.header.nanosec:09d}"
        self._stamps[camera, name] += 1
        place = self._stamps[camera, name]
        for task, result in decoded.tasks.items():
            into = folder / task if len(self._tasks) > 1 else folder
            into.mkdir(parents=True, exist_ok=True)
            stem = name if place == 1 else f"{name}_{place}"
            self._save(into / f"{stem}{_SUFFIXES[self._tasks[task].kind]}", task, result)

    def _save(self, file: Path, task: str, result: Result) -> None:
        if isinstance(result, SemanticResult):
            pixels = result.mask
            if self._color:
                colors = colorize(pixels, self._tasks[task].labels)
                pixels = np.asarray(cv2.cvtColor(colors, cv2.COLOR_RGB2BGR), np.uint8)
            done = cv2.imwrite(str(file), pixels)
        elif isinstance(result, DepthResult):
            done = cv2.imwrite(str(file), result.depth)
        else:
            boxes = [each._asdict() for each in boxes_of(result, self._tasks[task].labels)]
            done = file.write_text(json.dumps(boxes, indent=1) + "\n") > 0
        if not done:
            raise BagWriteError(f"{file} cannot be written")

    def check(self) -> None:
        """Raise BagWriteError where there are not as many files as were written."""
        wanted = self._stamps.total() * len(self._tasks)
        found = sum(1 for path in self._path.rglob("*") if path.is_file())
        if found != wanted:
            raise BagWriteError(f"{wanted} results were written, but there are {found} files")
