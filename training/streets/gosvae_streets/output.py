"""Frames on disk in the layout of Cityscapes, with instances, depth, camera and poses beside it.

    leftImg8bit/<split>/<city>/<city>_<drive>_<frame>_leftImg8bit.png    RGB
    gtFine/<split>/<city>/..._gtFine_labelIds.png, _labelTrainIds.png, _color.png, _instanceIds.png
    depth/<split>/<city>/..._depth.png      uint16, 256 times the depth in m; 0 for the sky and
                                            beyond 255.99 m
    camera/<split>/<city>/..._camera.json   intrinsics, poses and time; written last

The city is `streets` and the seed, so that sets of several seeds can share a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from . import labels
from .mesh import Array
from .scene import MOVING, Scene


class OutputError(Exception):
    """A folder holds something else than what is to be written, or read."""


@dataclass(frozen=True)
class Place:
    """Where the files of one frame go."""

    root: Path
    split: str
    seed: int
    drive: int
    frame: int

    @property
    def city(self) -> str:
        """Name of the folder of all drives of a seed."""
        return f"streets{self.seed:04d}"

    def file(self, folder: str, ending: str) -> Path:
        """Return the path of one of the frame's files."""
        name = f"{self.city}_{self.drive:06d}_{self.frame:06d}_{ending}"
        return self.root / folder / self.split / self.city / name

    @property
    def image(self) -> Path:
        """The picture."""
        return self.file("leftImg8bit", "leftImg8bit.png")

    @property
    def camera(self) -> Path:
        """What is written last: if it is there, so is the rest."""
        return self.file("camera", "camera.json")

    def ground_truth(self, kind: str) -> Path:
        """Return the path of "labelIds", "labelTrainIds", "color" or "instanceIds"."""
        return self.file("gtFine", f"gtFine_{kind}.png")


def write_frame(
    place: Place, scene: Scene, time: float, image: Array, index: Array, depth: Array
) -> None:
    """Write all files of a frame, each whole or not at all.

    Args:
        place: where.
        scene: what was rendered.
        time: of the frame in s.
        image: uint8 (H, W, 3) RGB.
        index: int (H, W), object indices.
        depth: float (H, W) in m.

    Raises:
        OSError: something cannot be written.
    """
    names = [thing.label for thing in scene.things]
    ids = labels.label_ids(index, names)
    near = np.where(depth < 65535 / 256, depth, 0.0)
    height, width = ids.shape
    pictures = {
        place.image: image[..., ::-1],
        place.ground_truth("labelIds"): ids,
        place.ground_truth("labelTrainIds"): labels.train_ids(ids),
        place.ground_truth("color"): labels.colors(ids)[..., ::-1],
        place.ground_truth("instanceIds"): labels.instance_ids(index, names, MOVING),
        place.file("depth", "depth.png"): np.rint(near * 256).astype(np.uint16),
    }
    for path, picture in pictures.items():
        _, data = cv2.imencode(".png", np.ascontiguousarray(picture))
        _write(path, data.tobytes())
    camera = {
        "time": time,
        "width": width,
        "height": height,
        "intrinsics": scene.intrinsics(width, height).tolist(),
        "camera_to_world": scene.camera(time).tolist(),
        "vehicle_to_world": scene.ego(time).tolist(),
        "sky": scene.sky.kind,
    }
    _write(place.camera, (json.dumps(camera, indent=1) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def claim(root: Path, settings: dict[str, Any]) -> None:
    """Note in a folder how frames of a split are made, or see that it was noted so before.

    Raises:
        OutputError: the split's frames are made in another way.
    """
    note = root / f"streets-{settings['split']}.json"
    if note.exists():
        before = json.loads(note.read_text())
        differing = [key for key in settings if before.get(key) != settings[key]]
        if differing:
            key = differing[0]
            raise OutputError(
                f"{root}: {settings['split']} was begun with {key} {before.get(key)!r}, not "
                f"{settings[key]!r}; give the same, or another folder"
            )
        return
    if root.exists() and any(root.iterdir()) and not any(root.glob("streets-*.json")):
        raise OutputError(
            f"{root} is not empty, and has no streets-SPLIT.json; give another folder"
        )
    _write(note, (json.dumps(settings, indent=1) + "\n").encode())


def drive(root: Path, split: str, number: int) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the frames of a drive that are on disk, in order, each with its camera file's content.

    Raises:
        OutputError: there are none.
    """
    files = sorted(root.glob(f"camera/{split}/streets*/*_{number:06d}_*_camera.json"))
    if not files:
        raise OutputError(f"{root} has no frames of drive {number} in {split}")
    for file in files:
        _, _, frame, _ = file.name.split("_")
        seed = int(file.parent.name.removeprefix("streets"))
        place = Place(root, split, seed, number, int(frame))
        yield place, json.loads(file.read_text())
