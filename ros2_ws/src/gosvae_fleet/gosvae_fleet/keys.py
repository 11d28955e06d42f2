"""Names of vehicles, and their keys in Zenoh.

A key is what zenoh-plugin-ros2dds makes of a topic with ``namespace: /gosvae/<vehicle>``: prefix,
vehicle and the topic's full name. The official bridge and our uplink can therefore take each
other's place.
"""

from __future__ import annotations

import re

from gosvae_common import topics
from gosvae_common.errors import UsageError

PREFIX = "gosvae"
ALIVE = "alive"
"""What follows the vehicle in the key of its liveliness token, before the session's own number."""
_ANSWERED = "/answered/"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


def vehicle_name(name: object) -> str:
    """Return a vehicle's name if it is one.

    Raises:
        UsageError: it cannot be a common name and a part of a ROS name and of a key at once.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
        raise UsageError(
            f"vehicle {name!r}: give a letter, then letters, digits and underscores, 63 at most, "
            f"and not {' or '.join(RESERVED)}"
        )
    return name


RESERVED = ("authority", "backend", "router")
"""Names of certificates that are not a vehicle's."""


def key(vehicle: str, topic: str) -> str:
    """Return the key of a vehicle's topic, whose name may begin with a slash."""
    return f"{PREFIX}/{vehicle}/{topic.strip('/')}"


def packets_key(vehicle: str, camera: str) -> str:
    """Return the key of a camera's packets."""
    return key(vehicle, f"{camera}/{topics.PACKETS}")


def feedback_key(vehicle: str, camera: str) -> str:
    """Return the key of a camera's feedback."""
    return key(vehicle, f"{camera}/{topics.FEEDBACK}")


def mask_key(vehicle: str, camera: str) -> str:
    """Return the key of a camera's masks."""
    return key(vehicle, f"{camera}/{topics.MASK}")


def status_key(vehicle: str) -> str:
    """Return the key of what a service has to say on ``/diagnostics`` of a vehicle's streams."""
    return key(vehicle, topics.DIAGNOSTICS)


def alive_key(vehicle: str, session: str = "*") -> str:
    """Return the key of one session's liveliness token; by default, of all of a vehicle."""
    return key(vehicle, f"{ALIVE}/{session}")


def answered_key(vehicle: str, camera: str, who: str = "*") -> str:
    """Return the key of the liveliness token of who answers a camera; by default, of all."""
    return f"{packets_key(vehicle, camera)}{_ANSWERED}{who}"


def split_answered(text: str) -> tuple[str, str]:
    """Return vehicle and camera, as ``v01/front``, and who answers it, of the key of a token."""
    camera, _, who = text.removeprefix(f"{PREFIX}/").rpartition(f"/{topics.PACKETS}{_ANSWERED}")
    return camera, who


def split_alive(text: str) -> tuple[str, str]:
    """Return vehicle and session of the key of a liveliness token."""
    _, vehicle, _, session = text.split("/")
    return vehicle, session
