"""QoS profiles by name."""

from __future__ import annotations

from collections.abc import Mapping

from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

_PROFILES: Mapping[str, tuple[int, QoSReliabilityPolicy, QoSDurabilityPolicy]] = {
    "sensor_data": (5, QoSReliabilityPolicy.BEST_EFFORT, QoSDurabilityPolicy.VOLATILE),
    "packets": (50, QoSReliabilityPolicy.BEST_EFFORT, QoSDurabilityPolicy.VOLATILE),
    "default": (10, QoSReliabilityPolicy.RELIABLE, QoSDurabilityPolicy.VOLATILE),
    "latched": (1, QoSReliabilityPolicy.RELIABLE, QoSDurabilityPolicy.TRANSIENT_LOCAL),
}

QOS_NAMES = tuple(_PROFILES)


def qos_profile(name: str) -> QoSProfile:
    """Return a new profile: ``sensor_data``, ``packets``, ``default`` or ``latched``.

    ``packets`` is ``sensor_data`` with a queue for the slices of several frames.

    Raises:
        ValueError: there is no profile of that name; the message lists the names.
    """
    if name not in _PROFILES:
        raise ValueError(f"QoS profile {name!r}: choose one of {', '.join(QOS_NAMES)}")
    depth, reliability, durability = _PROFILES[name]
    return QoSProfile(depth=depth, reliability=reliability, durability=durability)
