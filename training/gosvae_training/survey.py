"""What is asked of an adaptation, and what its drives and expert turn out to be."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gosvae_codec.labels import LabelSpace, label_space
from gosvae_codec.tasks import TASK_NAME

from .config import SEMANTIC
from .data.datasets import load_dataset
from .data.drive import count_frames, is_drive
from .data.samples import DataError, Part, iterate
from .models import settings
from .models.experts import build_expert
from .models.guess import CERTAIN, PICTURES, rank_pictures
from .models.onnx_detector import USUAL_PICTURES, Layout, probe_detector
from .models.onnx_expert import OnnxExpert
from .strict import ConfigError, parse

FRAMES = 600
"""Of all drives that are used at the most, evenly spaced."""
LOOKS = 8
"""Frames by which the pictures that an expert takes are told."""


@dataclass(frozen=True)
class Wanted:
    """What somebody asked for."""

    drives: tuple[str, ...]
    experts: tuple[str, ...]
    labels: tuple[str, ...]
    """Of each expert."""
    start: str
    budget: str
    minutes: float
    output: Path
    pictures: tuple[str, ...]
    """What each expert takes; one for all of them, or none where it is to be found out."""
    order: tuple[str, ...]
    """Of their colours, likewise."""
    topic: str

    def __post_init__(self) -> None:
        count = len(self.experts)
        if len(self.labels) != count:
            raise ConfigError(
                f"{count} experts and {len(self.labels)} files of labels: give one for each, in "
                "their order"
            )
        for name, values in (("pictures", self.pictures), ("order", self.order)):
            if len(values) not in (0, 1, count):
                raise ConfigError(f"{name}: {len(values)} for {count} experts; give one for each")

    def tasks(self) -> list[str]:
        """Return the names of the experts' tasks: the first one's, then of the labels' files.

        Raises:
            ConfigError: two are the same, or one is no name for a task.
        """
        names = [SEMANTIC]
        for labels in self.labels[1:]:
            name = Path(labels).stem.lower().replace("-", "_").replace(" ", "_")
            if not TASK_NAME.fullmatch(name) or name in names:
                raise ConfigError(
                    f"{labels}: its task would be called {name!r}, which is taken or no name; "
                    "rename the file"
                )
            names.append(name)
        return names

    @property
    def runs(self) -> Path:
        """Where checkpoints and the configuration go."""
        return Path("runs")

    @property
    def config_file(self) -> Path:
        """The configuration that is written, and read again when a stopped run goes on."""
        return self.runs / self.output.name / "adapt.yaml"

    @property
    def folders(self) -> dict[str, Path]:
        """The drives by the names that they have in the configuration."""
        return {f"drive{place}": Path(each) for place, each in enumerate(self.drives, 1)}

    def command(self) -> str:
        """Return the command that was given."""
        words = ["python", "-m", "gosvae_training.adapt", "--drive", *self.drives]
        words += ["--expert", *self.experts, "--labels", *self.labels]
        several = {"pictures": self.pictures, "order": self.order}
        words += [word for name, some in several.items() if some for word in (f"--{name}", *some)]
        given = {"start": self.start, "topic": self.topic, "budget": self.budget}
        words += [word for name, value in given.items() if value for word in (f"--{name}", value)]
        return shlex.join([*words, "--minutes", f"{self.minutes:g}", "--output", str(self.output)])


@dataclass(frozen=True)
class Look:
    """What is known of the drives before any of them is read whole."""

    parts: Mapping[str, Part]
    """What is used of each."""
    frames: int
    """Used of all."""
    few: Sequence[np.ndarray]
    """Some frames of the first drive, uint8 (H, W, 3)."""


def look_at(wanted: Wanted) -> Look:
    """Count the frames of the drives, and read a few; raise DataError where that fails."""
    labels, counts = label_space(wanted.labels[0]), {}
    for name, path in wanted.folders.items():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        is_whole = is_drive(path)
        counts[name] = (
            count_frames(path, wanted.topic) if is_whole else len(load_dataset(path, "all", labels))
        )
    total = sum(counts.values())
    if total < 10:
        raise DataError(f"{total} frames in {', '.join(wanted.drives)}: give ten or more")
    every = max(-(-total // FRAMES), 1)
    name, path = next(iter(wanted.folders.items()))
    some = Part(max(counts[name] // LOOKS, 1), topic=wanted.topic)
    few = [sample.frame for sample in iterate(load_dataset(path, "all", labels, some))]
    used = sum(-(-count // every) for count in counts.values())
    return Look({each: Part(every, topic=wanted.topic) for each in counts}, used, few[:LOOKS])


def describe_expert(
    wanted: Wanted, place: int, labels: LabelSpace, frames: Sequence[np.ndarray]
) -> settings.Onnx | settings.Detector:
    """Return how an expert is fed; what pictures a network of masks takes is told by trying.

    Raises:
        ConfigError: it cannot be read, is neither a network of masks nor a detector of so many
            classes, or a detector is the first.
    """
    path = wanted.experts[place]
    boxes = probe_detector(Path(path), len(labels))
    if boxes is not None:
        return _describe_detector(wanted, place, labels, boxes.layout)
    pictures, order = (_one_of(each, place) for each in (wanted.pictures, wanted.order))
    values: dict[str, Any] = {
        "kind": "onnx",
        "path": path,
        "channels": [label.name for label in labels.labels],
    }
    size = frames[0].shape[:2]
    expert = build_expert(parse(settings.Onnx, values, path), labels)
    assert isinstance(expert, OnnxExpert)
    if expert.size is None:
        # Networks of free size want sides that their strides divide.
        values["size"] = [max(round(side / 32), 1) * 32 for side in size]
        expert = build_expert(parse(settings.Onnx, values, path), labels)
        assert isinstance(expert, OnnxExpert)
    if pictures:
        picture = PICTURES[pictures].model_copy(update={"order": order or "rgb"})
    else:
        with torch.inference_mode():
            guesses = rank_pictures(expert, frames, size)
        if order:
            guesses = [each for each in guesses if each.picture.order == order]
        best, second = guesses[0], guesses[1] if len(guesses) > 1 else None
        lead = best.information - second.information if second else 1.0
        print(f"{Path(path).name} takes pictures {best.name}, as its masks of them are the surest")
        if second and lead < CERTAIN:
            print(
                f"but {second.name} is as likely; look at the contact sheet, or say with "
                f"PICTURES= ({', '.join(PICTURES)}) and ORDER= (rgb, bgr) what it takes"
            )
        picture = best.picture
    values["picture"] = picture.model_dump()
    return parse(settings.Onnx, values, path)


def _describe_detector(
    wanted: Wanted, place: int, labels: LabelSpace, layout: Layout
) -> settings.Detector:
    path = wanted.experts[place]
    if place == 0:
        raise ConfigError(
            f"{path}: a detector; the first expert has to make masks, and detectors come after it"
        )
    pictures, order = (_one_of(each, place) for each in (wanted.pictures, wanted.order))
    picture = PICTURES[pictures] if pictures else USUAL_PICTURES[layout]
    return settings.Detector(
        kind="detector",
        path=path,
        channels=[label.name for label in labels.labels],
        picture=picture.model_copy(update={"order": order} if order else {}),
    )


def _one_of(values: Sequence[str], place: int) -> str:
    """Return the value at `place`, the only one for all places, or none."""
    return values[place if len(values) > 1 else 0] if values else ""
