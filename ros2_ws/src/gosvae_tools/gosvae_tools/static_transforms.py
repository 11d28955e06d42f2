"""The static transforms of a bag as one latched message, as tf2's static broadcaster has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_typestore

from .bags import reading
from .drives.source import TF_MESSAGE

_TYPES = get_typestore(Stores.ROS2_JAZZY)


class StaticTransforms:
    """The newest static transform to each frame."""

    def __init__(self) -> None:
        self._transforms: dict[str, Any] = {}

    def add(self, data: bytes, replace: bool = True) -> bool:
        """Add a serialised ``tf2_msgs/TFMessage``; return whether anything changed.

        Args:
            data: the message; one that is cut off changes nothing.
            replace: whether its transforms replace others to the same frames.
        """
        try:
            content: Any = _TYPES.deserialize_cdr(data, TF_MESSAGE)
        except Exception:  # rosbags raises exceptions of many types for a message that is cut off
            return False
        changed = False
        for transform in content.transforms:
            known = self._transforms.get(transform.child_frame_id)
            if known is None or (replace and known != transform):
                self._transforms[transform.child_frame_id] = transform
                changed = True
        return changed

    def message(self) -> bytes:
        """Return all transforms as one serialised message."""
        kind: Any = _TYPES.types[TF_MESSAGE]
        return bytes(_TYPES.serialize_cdr(kind(list(self._transforms.values())), TF_MESSAGE))

    def __len__(self) -> int:
        return len(self._transforms)


def transforms_at(path: Path, topic: str, start: int) -> StaticTransforms:
    """Return the static transforms that a bag has on a topic at a time in ns.

    A frame that has none yet gets its first one, as latched topics are to be complete at once.

    Raises:
        SourceError: the bag cannot be read.
    """
    found = StaticTransforms()
    with reading(path) as reader:
        connections = [
            each
            for each in reader.connections
            if each.topic == topic and each.msgtype == TF_MESSAGE
        ]
        # Of no connections there would be all messages.
        for _, time, data in reader.messages(connections) if connections else ():
            found.add(bytes(data), replace=time <= start)
    return found
