"""Splits of CamVid by drive: whether a network generalises shows only on streets never seen.

``train`` and ``val`` together have three drives, of which ``train`` has frames of all. Names of
frames begin with their drive's: ``0016E5_08640.png`` is of ``0016E5``. Leaving one out gives two
splits, here for ``0006R0``:

==================  =========================================================
split               frames of ``train`` and ``val``
==================  =========================================================
``without-0006R0``  of all other drives: for training
``only-0006R0``     of that drive: for validation
==================  =========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ONLY, WITHOUT = "only-", "without-"
FOLDERS = ("train", "val")
"""Of which a split by drive takes frames."""


def is_by_drive(split: str) -> bool:
    """Return whether a split is named after a drive."""
    return split.startswith((ONLY, WITHOUT))


def drive_of(frame: Path) -> str:
    """Return the drive that a frame is of, which its name begins with."""
    return frame.stem.partition("_")[0]


def select(frames: Sequence[Path], split: str) -> list[Path]:
    """Return those of `frames` that are in a split by drive, in the order of their names.

    Args:
        frames: of all drives.
        split: ``only-DRIVE`` or ``without-DRIVE``.

    Raises:
        ValueError: no frame is of that drive, or all are and none is left.
    """
    wanted = split.startswith(ONLY)
    drive = split.removeprefix(ONLY if wanted else WITHOUT)
    drives = sorted({drive_of(frame) for frame in frames})
    if drive not in drives:
        raise ValueError(f"split {split!r}: no drive {drive!r}; there are {', '.join(drives)}")
    chosen = [frame for frame in frames if (drive_of(frame) == drive) == wanted]
    if not chosen:
        raise ValueError(f"split {split!r}: all frames are of {drive!r}, the only drive")
    return sorted(chosen, key=lambda frame: frame.name)
