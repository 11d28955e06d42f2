"""DDS domain and profiles of the demo, which keep its processes to their machine."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from pathlib import Path

from gosvae_common.fastdds import LOOPBACK, PROFILE_VARIABLE, profile
from gosvae_common.topics import Side
from gosvae_tools.link import emulator as link_emulator
from gosvae_tools.link.emulator import EDGE, VEHICLE, EmulatedLink


def network(
    environment: Mapping[str, str], folder: Path, link: EmulatedLink | None = None
) -> tuple[dict[str, str], dict[Side, dict[str, str]]]:
    """Return `environment` with what keeps a process to its machine, in a domain of its own.

    A profile that the user has set is left as it is: `environment` has none then.

    Args:
        environment: of the pipeline.
        folder: for the profiles of Fast DDS.
        link: between the two sides, if there is one.

    Returns:
        The environment of all processes, and for each side what the processes that are known
        across the link have on top. These are few, as each pair of processes that discover each
        other sends about 20 kB over the link.
    """
    private = dict(environment)
    far: dict[Side, dict[str, str]] = {"tx": {}, "rx": {}}
    if link is not None:
        private["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
    elif "ROS_DOMAIN_ID" not in os.environ:
        private["ROS_DOMAIN_ID"] = str(_free_domain())
    if PROFILE_VARIABLE in private:
        # Not by ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, with which images are lost where /dev/shm
        # is as small as in containers; the profile explains why.
        path = folder / "fastdds.xml"
        path.write_text(profile([LOOPBACK], thin_link=link is not None))
        private[PROFILE_VARIABLE] = str(path)
        if link is not None:
            sides: tuple[tuple[Side, link_emulator.Side], ...] = (("tx", VEHICLE), ("rx", EDGE))
            for side, name in sides:
                path = folder / f"fastdds-{name}.xml"
                addresses = [LOOPBACK, link.address(name)]
                path.write_text(profile(addresses, thin_link=True, announcement=3.0))
                far[side][PROFILE_VARIABLE] = str(path)
    return private, far


def _free_domain() -> int:
    """Return a DDS domain from 1 to 101 whose first participant's ports nobody uses."""
    domains = random.sample(range(1, 102), 101)
    for domain in domains:
        # Multicast and unicast discovery, by the formula of the DDSI-RTPS specification.
        ports = [7400 + 250 * domain, 7410 + 250 * domain]
        if all(_is_free(port) for port in ports):
            return domain
    return domains[0]


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
