"""Which of a bag's image topics belong to which camera."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from gosvae_common import topics as names

from .recording import Recording
from .source import COMPRESSED_IMAGE, IMAGE, AmbiguousTopicsError, SourceError

_TYPES = get_typestore(Stores.ROS2_JAZZY)

_OURS = re.compile(
    r"/label(/compressed)?$|/(semantic|detections)/|/(mask|confidence|legend|reconstruction)$"
)
_DEPTH_ENCODINGS = ("16uc1", "16sc1", "32fc1", "32sc1", "64fc1")
_PNG = b"\x89PNG\r\n\x1a\n"
_PERHAPS = "PNG of one 16-bit channel"
"""What is taken for depth where there is something else to take."""
_DEPTH_HEADER = 12
"""Bytes that compressed_depth_image_transport puts before its PNG."""
_LOOKED_AT = 5
"""Messages of a topic that are looked at to tell what is on it."""


def choose_topics(
    recording: Recording, cameras: Sequence[str], topics: Sequence[str]
) -> dict[str, Connection]:
    """Return the images of each camera.

    Args:
        recording: the bag.
        cameras: their base names.
        topics: one for each camera. If empty, ``/<camera>/image_raw`` or
            ``/<camera>/image_raw/compressed``, else all topics that hold pictures, in sorted
            order, if they are as many as the cameras.

    Raises:
        AmbiguousTopicsError: the topics have to be named.
        SourceError: a topic that was named holds no pictures, or none does.
    """
    images = {
        each.topic: each
        # The type of a topic with two that has more messages comes last, and stays.
        for each in sorted(recording.connections, key=lambda each: each.msgcount)
        if each.msgtype in (IMAGE, COMPRESSED_IMAGE) and each.msgcount
    }
    if topics:
        return dict(zip(cameras, _named(recording, images, cameras, topics), strict=True))
    depths = {topic: _depth(recording, each) for topic, each in images.items()}
    pictures = sorted(topic for topic in images if not depths[topic] and not _OURS.search(topic))
    # Pictures of a thermal camera may look like depth.
    pictures = pictures or sorted(each for each, depth in depths.items() if depth == _PERHAPS)
    if not pictures:
        raise SourceError(_no_pictures(recording, depths))
    named = {
        camera: topic
        for camera in cameras
        for ending in ("/compressed", "")
        if (topic := f"/{camera}/{names.IMAGE}{ending}") in pictures
    }
    both = {f"{topic}/compressed" for topic in pictures}
    others = [each for each in pictures if each not in both and each not in named.values()]
    unnamed = [camera for camera in cameras if camera not in named]
    if unnamed and len(others) != len(unnamed):
        raise AmbiguousTopicsError(
            f"cannot tell which images of bag {recording.path} belong to {', '.join(unnamed)}: "
            f"its image topics are: {', '.join(pictures)}; set `topics` to one for each camera"
        )
    chosen = named | dict(zip(unnamed, others, strict=False))
    return {camera: images[chosen[camera]] for camera in cameras}


def _named(
    recording: Recording,
    images: Mapping[str, Connection],
    cameras: Sequence[str],
    topics: Sequence[str],
) -> Iterator[Connection]:
    if len(topics) != len(cameras):
        raise SourceError(
            f"{len(topics)} topics given for {len(cameras)} cameras ({', '.join(cameras)}); "
            "give one for each, in the same order"
        )
    there = f"its image topics are: {', '.join(sorted(images)) or 'none'}"
    for topic in topics:
        if topic not in images:
            raise SourceError(f"bag {recording.path} has no images on {topic}; {there}")
        depth = _depth(recording, images[topic])
        if depth and depth != _PERHAPS:
            raise SourceError(
                f"bag {recording.path} has depth on {topic} ({depth}), no pictures; {there}"
            )
        yield images[topic]


def _no_pictures(recording: Recording, depths: Mapping[str, str]) -> str:
    if found := [f"{topic} ({depth})" for topic, depth in depths.items() if depth]:
        return f"bag {recording.path} has depth but no pictures: {', '.join(found)}"
    topics = sorted(each.topic for each in recording.connections if each.msgcount)
    reason = f"bag {recording.path} has no image topics, only: {', '.join(topics) or 'none'}"
    return "; ".join((reason, *recording.notes))


def _depth(recording: Recording, connection: Connection) -> str:
    """Return in which form a topic holds depth, or "" if it holds pictures."""
    for _, _, data in islice(recording.messages([connection]), _LOOKED_AT):
        try:
            message: Any = _TYPES.deserialize_cdr(data, connection.msgtype)
        except Exception:  # damaged messages make the parser raise nearly anything
            continue
        if connection.msgtype == IMAGE:
            return message.encoding if message.encoding.lower() in _DEPTH_ENCODINGS else ""
        return _compressed_depth(message.format, bytes(message.data[:64]))
    return ""


def _compressed_depth(form: str, begin: bytes) -> str:
    # "<encoding>; <codec> compressed", "<encoding>; compressedDepth <codec>", or a codec alone.
    encoding, separator, _ = form.partition(";")
    if "compresseddepth" in form.lower() or encoding.strip().lower() in _DEPTH_ENCODINGS:
        return form.strip()
    if begin[_DEPTH_HEADER:].startswith(_PNG):
        return f"{form.strip()} as compressedDepth"
    # The PNG's header has its bit depth and colour type behind its size.
    if begin.startswith(_PNG) and begin[24:26] == b"\x10\0" and not separator:
        return _PERHAPS
    return ""
