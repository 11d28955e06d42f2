"""Where the files are that ship with the package gosvae_bringup: bundles, drives, profiles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from .errors import UsageError

PACKAGE = "gosvae_bringup"
BUNDLE = "road"
BUNDLE_VARIABLE = "GOSVAE_BUNDLE"
DRIVE = "street.mcap"


def find_profile() -> Path:
    """Return the absolute path of the Fast DDS profile that ships.

    Raises:
        UsageError: this package is not installed.
    """
    return share_folder() / "config" / "fastdds.xml"


def find_bundle(path: str = "") -> Path:
    """Return the absolute path of the bundle `path`, or of the one to use where it is empty.

    Raises:
        UsageError: there is none; the message names the places.
    """
    if path:
        return existing("bundle", path)
    if BUNDLE_VARIABLE in os.environ:
        return existing(BUNDLE_VARIABLE, os.environ[BUNDLE_VARIABLE])
    return _shipped(f"models/{BUNDLE}", f"give `bundle`, or set {BUNDLE_VARIABLE}")


def find_drive() -> Path:
    """Return the absolute path of the labelled drive that ships, an MCAP file.

    Raises:
        UsageError: it is not there; the message names the places.
    """
    return _shipped(f"drives/{DRIVE}", "give `input`")


def _shipped(name: str, remedy: str) -> Path:
    places = list(dict.fromkeys(_places(name)))
    for place in places:
        if place.exists():
            return place
    folders = " or ".join(str(place.parent) for place in places)
    raise UsageError(f"no {places[0].name} in {folders}; {remedy}")


def _places(name: str) -> Iterator[Path]:
    """Yield where something that ships may be: installed, or in the repository around this file."""
    yield share_folder() / name
    for start in (Path(__file__).resolve(), share_folder()):
        for folder in start.parents:
            if (folder / "ros2_ws").is_dir():
                yield folder / name


def share_folder() -> Path:
    """Return the installed share folder of gosvae_bringup; raise UsageError where there is none."""
    try:
        return Path(get_package_share_directory(PACKAGE)).resolve()
    except PackageNotFoundError as error:
        raise UsageError(
            f"{PACKAGE} is not installed in {os.environ.get('AMENT_PREFIX_PATH', '')!r}: "
            "build the workspace and source its install/setup.bash"
        ) from error


def absolute(path: str) -> Path:
    """Return a path made absolute, with ``~`` expanded."""
    return Path(os.path.abspath(Path(path).expanduser()))


_REMEDIES = {
    "bag": "give a rosbag2 folder or file, a video or a folder of images, or leave it empty for "
    "cameras that are there",
    "bundle": "give a folder like models/road, or leave it empty for the one that ships",
    BUNDLE_VARIABLE: "name a folder like models/road, or unset it",
    "params_file": "copy config/pipeline.yaml of this package, and name the copy",
    "key_file": "make one with `gosvae keygen`, or copy that of the other side",
    "rviz_config": "give a layout that RViz saved, or leave it empty for one that is made",
}


def existing(name: str, path: str) -> Path:
    """Return the absolute path that argument `name` gives; raise UsageError if it is missing."""
    file = absolute(path)
    if not file.exists():
        raise UsageError(f"{name}: {file} does not exist; {_REMEDIES[name]}")
    return file
