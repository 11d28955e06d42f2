"""RViz layouts for any cameras, made from those that ship."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from gosvae_common.topics import DEPTH, IMAGE, OVERLAY


def write_layout(
    folder: Path, cameras: Sequence[str], topics: Sequence[str] | None, depth: bool = False
) -> Path:
    """Write RViz's layout for these cameras, from one that ships, to the user's cache.

    Remapping is no way to do it: RViz takes the transport from the end of a topic's name, and
    enables all displays that the layout has a window for. Names stay relative, so that RViz
    resolves them in its node's namespace.

    The file has the hash of its content in its name, and is read-only: RViz offers to save a
    changed layout under another name, for `rviz_config`.

    Args:
        folder: of the layouts that ship.
        cameras: base names of their topics; the first four are shown.
        topics: image topic of each camera; None: without their frames and overlays.
        depth: whether a single camera's depths are shown as well.

    Returns:
        The file's path.

    Raises:
        OSError: the cache cannot be written.
    """
    name = "one_camera" if len(cameras) == 1 else "four_cameras"
    layout = yaml.safe_load((folder / f"{name}.rviz").read_text())
    manager = layout["Visualization Manager"]
    displays = []
    if depth and len(cameras) == 1:
        (mask,) = (each for each in manager["Displays"] if each["Name"] == "Mask")
        topic = {**mask["Topic"], "Value": f"camera/{DEPTH}"}
        manager["Displays"].append({**mask, "Name": "Depth", "Topic": topic})
    for display in manager["Displays"]:
        place, _, topic = display["Topic"]["Value"].partition("/")
        number = int(place.partition("_")[2] or 1) - 1
        if number >= len(cameras) or (topics is None and topic in (IMAGE, OVERLAY)):
            continue
        name_of_topic = f"{cameras[number]}/{topic}"
        if topics is not None and topic == IMAGE:
            name_of_topic = topics[number]
        display["Topic"]["Value"] = name_of_topic
        displays.append(display)
    manager["Displays"] = displays
    return _cached(yaml.safe_dump(layout), name)


def _cached(layout: str, name: str) -> Path:
    """Return the read-only file of the user's cache that holds the layout."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gosvae" / "rviz"
    path = cache / f"{name}-{hashlib.sha256(layout.encode()).hexdigest()[:12]}.rviz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(layout)
        draft.chmod(0o444)
        draft.replace(path)
    return path
