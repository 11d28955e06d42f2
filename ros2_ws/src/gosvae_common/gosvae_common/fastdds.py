"""The profile of Fast DDS, and what it needs of the machine."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
"""Where Fast DDS 2, the one of ROS 2 Jazzy, takes the path of its profile from."""

SHARED_MEMORY = Path("/dev/shm")


def shared_memory_problem(profile: Path, processes: int) -> str:
    """Return what to do where shared memory has no room for the nodes; empty where it has.

    Args:
        profile: of Fast DDS, which says how much each process takes; one that cannot be read or
            does not say it needs none.
        processes: how many there will be.
    """
    try:
        sizes = ElementTree.parse(profile).iterfind(".//{*}segment_size")
        needed = processes * sum(int(size.text or 0) for size in sizes)
        free = shutil.disk_usage(SHARED_MEMORY).free
    except (OSError, ValueError, ElementTree.ParseError):
        return ""
    if free >= needed:
        return ""
    return (
        f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free, {processes} processes take "
        f"{needed / 1e6:.0f} MB; without them images go by UDP, where many are lost: start "
        f"containers with --shm-size={-(-2 * needed >> 20)}m, and clear what killed processes left "
        "with `fastdds shm clean`"
    )
