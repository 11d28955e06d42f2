"""RViz layouts for any cameras, made from those that ship."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from gosvae_common.topics import IMAGE, OVERLAY

CAMERAS_OWN = (IMAGE, OVERLAY)
"""Topics of a camera that take its own frames."""


def write_layout(folder: Path, cameras: Sequence[str], frames: bool, compressed: bool) -> Path:
    """Write RViz's layout for these cameras, from one that ships, to a temporary file.

    Remapping would not do: RViz tells from a topic's name whether it is compressed, and enables
    every display that the layout has a window for.

    Args:
        folder: of the layouts that ship.
        cameras: base names of their topics; the first four are shown.
        frames: whether to show the cameras' own frames, and overlays.
        compressed: whether frames come compressed.

    Returns:
        The file's path.
    """
    name = "one_camera" if len(cameras) == 1 else "four_cameras"
    layout = yaml.safe_load((folder / f"{name}.rviz").read_text())
    manager = layout["Visualization Manager"]
    displays = []
    for display in manager["Displays"]:
        place, _, topic = display["Topic"]["Value"].lstrip("/").partition("/")
        number = int(place.partition("_")[2] or 1) - 1
        if number >= len(cameras) or (not frames and topic in CAMERAS_OWN):
            continue
        if compressed and topic == IMAGE:
            topic += "/compressed"
        display["Topic"]["Value"] = f"/{cameras[number].strip('/')}/{topic}"
        displays.append(display)
    manager["Displays"] = displays
    with tempfile.NamedTemporaryFile("w", prefix="gosvae-", suffix=".rviz", delete=False) as file:
        yaml.safe_dump(layout, file)
    return Path(file.name)
