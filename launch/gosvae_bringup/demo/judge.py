"""Scores and pictures of a run: the drive is read again and compared with the recorded masks."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import NamedTuple

import cv2
import numpy as np
from rich.progress import Progress

from gosvae_codec.labels import CITYSCAPES, LabelSpace, translate
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_tools.drives import Frame

from .delivery import Delivery, FrameReport, Mask, Masks
from .pictures import SHEET_FRAMES, Found, Panels, Video, contact_sheet, panels
from .play import DemoError, Interrupted
from .prepare import Run

SHEET_PANEL = 470
"""Width in pixels of a picture of the contact sheet."""


class Quality:
    """Quality of the masks, over the frames whose mask came.

    True labels are matched by name; pixels whose class the networks do not have do not count.

    Attributes:
        frames: number of frames counted.
        labelled: number of these that have true labels.
    """

    def __init__(self, labels: LabelSpace, truth: LabelSpace = CITYSCAPES) -> None:
        """Take the classes of the networks' masks, and those of true labels."""
        self.frames = self.labelled = 0
        self._labels = labels
        self._known = translate(truth, labels, fallbacks={})
        self._truth = ConfusionMatrix()
        self._expert_truth = ConfusionMatrix()
        self._expert = ConfusionMatrix()

    def add(self, frame: Frame, mask: Mask, expert_mask: Mask) -> None:
        """Count one frame; all masks are uint8 (H, W) label ids of the frame's size.

        Raises:
            ValueError: the masks differ in size.
        """
        self._expert.add(expert_mask, mask)
        self.frames += 1
        if frame.label is not None:
            self.labelled += 1
            truth = self._known[frame.label]
            self._truth.add(truth, mask)
            self._expert_truth.add(truth, expert_mask)

    @property
    def compared(self) -> list[str]:
        """Names of the classes that mIoU against true labels is the mean of."""
        occurs = self._truth.iou()
        return [label.name for label in self._labels.labels if label.id in occurs]

    @property
    def miou(self) -> float | None:
        """mIoU of the masks against true labels; None without labels."""
        return _miou(self._truth)

    @property
    def expert_miou(self) -> float | None:
        """mIoU of the expert's own masks against true labels; None without labels."""
        return _miou(self._expert_truth)

    @property
    def agreement(self) -> float | None:
        """mIoU of the masks with the expert's as the truth; None where no mask came."""
        return _miou(self._expert)


def _miou(matrix: ConfusionMatrix) -> float | None:
    value = matrix.miou()
    return None if np.isnan(value) else value


class Counts(NamedTuple):
    """Numbers of the drive's frames, as read again after playing.

    Attributes:
        read: frames that decode.
        damaged: frames that do not.
        unsent: frames of `read` that the replay did not send.
        undecodable: frames that were sent but are not in `read`, so that they have no mask.
    """

    read: int = 0
    damaged: int = 0
    unsent: int = 0
    undecodable: int = 0


def judge(
    run: Run, delivery: Delivery, progress: Progress, stop: Event
) -> tuple[Quality, Counts, dict[str, str]]:
    """Read the drive again beside its masks: score them, and draw the pictures.

    Frames that do not decode are left out and counted.

    Returns:
        Quality of the masks, numbers of frames, and the paths of the files written, by kind.

    Raises:
        DemoError: none of the frames that were sent decodes, or a picture cannot be written.
        SourceError: no frame decodes.
        Interrupted: `stop` was set.
    """
    labels = run.bundle.labels
    outputs = {
        "video": str(run.folder / "demo.mp4"),
        "contact_sheet": str(run.folder / "contact_sheet.png"),
        "bag": str(delivery.bags[-1]),
    }
    title = f"{run.source.path.name}, {run.bundle.name}"
    reports = dict(delivery.frames())
    picked = set(np.linspace(0, len(reports) - 1, SHEET_FRAMES).astype(int).tolist())
    sheet: list[tuple[str, Panels]] = []
    quality = Quality(labels, run.source.labels)
    masks = Masks(delivery)
    read = unsent = 0
    task = progress.add_task("scored and filmed", total=len(reports))
    with Video(Path(outputs["video"]), labels, title, _frame_rate(run)) as video:
        for frame in run.source.frames():
            if stop.is_set():
                raise Interrupted
            read += 1
            report = reports.pop(frame.stamp, None)
            if report is None:
                unsent += 1
                continue
            mask = masks.take(frame.stamp)
            if mask is not None:
                quality.add(frame, mask, run.expert.segment(frame.image))
            found = _found(run, delivery, frame.stamp)
            video.add(frame.image, mask, _caption(report), found)
            if progress.tasks[task].completed in picked:
                pictures = panels(frame.image, mask, labels, SHEET_PANEL, found)
                sheet.append((_caption(report), pictures))
            progress.advance(task)
    if not sheet:
        raise DemoError(f"none of the {len(reports)} frames that were sent is in {run.source.path}")
    _save(Path(outputs["contact_sheet"]), contact_sheet(sheet, labels, title))
    return quality, Counts(read, run.source.lost, unsent, len(reports)), outputs


def _found(run: Run, delivery: Delivery, stamp: int) -> Found | None:
    task = run.bundle.tasks.get("detection")
    if task is None or stamp not in delivery.boxes:
        return None
    return Found(delivery.boxes[stamp], task.labels)


def _frame_rate(run: Run) -> Fraction:
    """Return the video's rate: that of the frames as played, 1 to 60 a second."""
    return Fraction(min(max(run.rate * 1e9 / run.source.interval, 1), 60)).limit_denominator(1001)


def _caption(report: FrameReport) -> str:
    age = "no mask" if math.isnan(report.mask_age_ms) else f"mask after {report.mask_age_ms:.0f} ms"
    return f"{report.bytes:,} bytes   {report.kbit_per_s:.0f} kbit/s   {age}"


def _save(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise DemoError(f"{path} cannot be written")
