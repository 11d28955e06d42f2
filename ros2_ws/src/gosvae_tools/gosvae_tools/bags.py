"""Bags of the pipeline's own messages, read topic by topic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rclpy.serialization import deserialize_message

from gosvae_common.messages import type_name
from gosvae_common.topics import FEEDBACK, PACKETS
from gosvae_msgs.msg import Feedback, TokenPacket

from .drives import SourceError
from .drives.recording import Recording

PACKET_TYPE = type_name(TokenPacket)


class Recorded(NamedTuple):
    """A message of a bag: its camera's base name, when it was recorded (ns), its CDR bytes."""

    camera: str
    time: int
    message: Any
    size: int


@contextmanager
def reading(path: Path) -> Iterator[Recording]:
    """Open a bag, folder or storage file.

    Raises:
        SourceError: it is not there or cannot be read.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a rosbag2 folder, an .mcap or .db3 file")
    yield Recording(path)


def packets(recording: Recording) -> Iterator[Recorded]:
    """Yield all packets in the order of recording; `message` is a ``TokenPacket``.

    What cannot be read is left out: `recording.losses` counts it, `recording.damage` says why.
    """
    return _messages(recording, PACKETS, TokenPacket)


def feedbacks(recording: Recording) -> Iterator[Recorded]:
    """Yield all feedback in the order of recording; `message` is a ``Feedback``.

    What cannot be read is left out, as by :func:`packets`.
    """
    return _messages(recording, FEEDBACK, Feedback)


def _messages(recording: Recording, ending: str, kind: type) -> Iterator[Recorded]:
    chosen = [each for each in recording.connections if each.msgtype == type_name(kind)]
    # Of no connections there would be all messages.
    for connection, time, data in recording.messages(chosen) if chosen else ():
        camera = connection.topic.removesuffix(f"/{ending}").strip("/")
        try:
            message = deserialize_message(data, kind)
        except Exception as error:  # rclpy raises what it likes
            where = f"{recording.path}, {connection.topic} at {time} ns"
            recording.losses[connection.id] += 1
            recording.damage.append(f"{where}: {len(data)} bytes are no {kind.__name__}: {error}")
            continue
        yield Recorded(camera, time, message, len(data))
