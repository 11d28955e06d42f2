"""Drives to replay: bags, videos and folders of images, all read through one small interface.

    source = open_source("drive.mcap", cameras=["front"])
    for message in source.messages(): ...    # what to publish, in the order of time
    for frame in source.frames(): ...        # the same frames as arrays, with labels

Both read the file anew and keep little in memory. The stamps that they give are the same in every
run: those of a bag's messages, and for inputs without stamps :data:`EPOCH` plus the video's
presentation time, or plus index / fps for a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .bag import Bag
from .bag_files import is_bag_folder, is_storage
from .folder import Folder
from .source import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    EPOCH,
    IMAGE,
    AmbiguousTopicsError,
    Channel,
    Frame,
    Loss,
    Message,
    Source,
    SourceError,
)
from .video import Video

__all__ = [
    "CAMERA_INFO",
    "COMPRESSED_IMAGE",
    "EPOCH",
    "IMAGE",
    "AmbiguousTopicsError",
    "Channel",
    "Frame",
    "Loss",
    "Message",
    "Source",
    "SourceError",
    "is_storage",
    "open_source",
]


def open_source(
    path: str | Path,
    cameras: Sequence[str] = ("camera",),
    topics: Sequence[str] = (),
    fps: float = 15.0,
) -> Source:
    """Open a bag (folder, .mcap, .db3), a video, or a folder of images.

    Args:
        path: a rosbag2 folder or storage file, ``.zstd`` included; any video file; ``leftImg8bit``
            of Cityscapes, a split or city in it, or the folder above; a CamVid split with
            ``<split>annot`` beside it; or any folder with images.
        cameras: base names that the frames go by; one for anything but a bag.
        topics: the bag's image topic of each camera. If empty, ``/<camera>/image_raw`` or
            ``/<camera>/image_raw/compressed``, else all image topics in sorted order if they are
            as many as the cameras.
        fps: frames per second of a folder.

    Raises:
        AmbiguousTopicsError: the bag's image topics have to be named.
        SourceError: with one line that names the path or topic, and the remedy.
    """
    path = Path(path).expanduser()
    try:
        return _open(path, cameras, topics, fps)
    except OSError as error:
        raise SourceError(f"input {path} cannot be read: {error}") from error


def _open(path: Path, cameras: Sequence[str], topics: Sequence[str], fps: float) -> Source:
    if not path.exists():
        raise SourceError(f"input {path} does not exist")
    cameras = [camera.strip("/") for camera in cameras]
    if not cameras or not all(cameras) or len(set(cameras)) != len(cameras):
        raise SourceError(f"cameras are {cameras}; give different, non-empty names")
    if path.is_dir():
        if is_bag_folder(path):
            return Bag(path, cameras, topics)
    elif is_storage(path):
        return Bag(path, cameras, topics)
    if topics:
        raise SourceError(f"{path} is not a bag and has no topics; leave `topics` empty")
    if len(cameras) > 1:
        raise SourceError(
            f"{path} has one stream of frames, {len(cameras)} cameras were asked for: "
            f"{', '.join(cameras)}; give one camera, or a bag"
        )
    if path.is_dir():
        return Folder(path, cameras[0], fps)
    return Video(path, cameras[0])
