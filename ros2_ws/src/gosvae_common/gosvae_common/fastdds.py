"""The profile of Fast DDS: one template for one machine and for thin links, and what it needs."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from string import Template

PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
"""Where Fast DDS 2, the one of ROS 2 Jazzy, takes the path of its profile from."""

SHARED_MEMORY = Path("/dev/shm")
LOOPBACK = "127.0.0.1"
SEGMENT_BYTES = 64 << 20
ETHERNET_UDP_BYTES = 1472
"""Largest UDP payload that fits one Ethernet frame of 1,500 bytes."""

_ONE_MACHINE = """\
Transports and discovery of Fast DDS for the pipeline; FASTRTPS_DEFAULT_PROFILES_FILE names it.

By default Fast DDS gives a participant half a megabyte of shared memory, less than one camera
image. A best-effort image that does not fit is lost without an error. This profile makes room for
ten images of 6 MB; each process takes it from /dev/shm at its start. A process that cannot get it
reports an error and uses UDP, except with ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, where ROS adds
half a megabyte of shared memory of its own. Containers need a larger /dev/shm for that."""

_THIN_LINK = """\
Fast DDS over a thin, lossy link. The second address below is that of this machine on the link; the
file that ships has a placeholder there, which docs/deployment.md replaces.

Only transmitter and receiver use the address on the link. All other processes of both machines use
127.0.0.1 in its place, so that they do not know of the link: each pair of processes that discover
each other sends about 20 kB over it."""

_TEMPLATE = Template("""\
<?xml version="1.0" encoding="UTF-8" ?>
<!--
$about
-->
<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <profiles>
    <transport_descriptors>
      <transport_descriptor>
        <transport_id>gosvae_shm</transport_id>
        <type>SHM</type>
        <segment_size>$segment_bytes</segment_size>
$shared_memory\
      </transport_descriptor>
      <transport_descriptor>
        <transport_id>gosvae_udp</transport_id>
        <type>UDPv4</type>
        <!-- The kernel limits both to net.core.wmem_max and net.core.rmem_max. -->
        <sendBufferSize>4194304</sendBufferSize>
        <receiveBufferSize>4194304</receiveBufferSize>
$message_size\
        <!-- Processes on one host that find each other without multicast. -->
        <maxInitialPeersRange>32</maxInitialPeersRange>
$interfaces\
      </transport_descriptor>
    </transport_descriptors>
    <participant profile_name="gosvae" is_default_profile="true">
      <rtps>
        <userTransports>
          <transport_id>gosvae_shm</transport_id>
          <transport_id>gosvae_udp</transport_id>
        </userTransports>
        <useBuiltinTransports>false</useBuiltinTransports>
        <builtin>
          <discovery_config>
            <!-- Processes that miss each other's first announcement find each other at the next
                 one. The default is 3 s; on a thin link a shorter time costs too much. -->
            <leaseAnnouncement>
              <sec>$seconds</sec>
              <nanosec>$nanoseconds</nanosec>
            </leaseAnnouncement>
          </discovery_config>
        </builtin>
      </rtps>
    </participant>
  </profiles>
</dds>
""")


def profile(
    addresses: Sequence[str] = (), thin_link: bool = False, announcement: float = 0.5
) -> str:
    """Return a profile of Fast DDS as XML.

    Args:
        addresses: IPv4 addresses of the interfaces that UDP may use; none: all.
        thin_link: whether to limit messages to one Ethernet frame. Of larger ones, cut into up to
            45 frames, none passes a short queue. Shared memory gets the same limit, and so needs
            more room for messages.
        announcement: seconds between two announcements of a process to the others.
    """
    shared_memory = message_size = interfaces = ""
    if thin_link:
        shared_memory = (
            "        <!-- Messages are limited as over UDP: room for those of a whole image. -->\n"
            "        <port_queue_capacity>8192</port_queue_capacity>\n"
        )
        message_size = (
            "        <!-- One Ethernet frame; of the default of 64 kB all 45 must arrive. -->\n"
            f"        <maxMessageSize>{ETHERNET_UDP_BYTES}</maxMessageSize>\n"
        )
    if addresses:
        listed = "".join(f"          <address>{address}</address>\n" for address in addresses)
        interfaces = f"        <interfaceWhiteList>\n{listed}        </interfaceWhiteList>\n"
    seconds = int(announcement)
    return _TEMPLATE.substitute(
        about=_THIN_LINK if thin_link else _ONE_MACHINE,
        segment_bytes=SEGMENT_BYTES,
        shared_memory=shared_memory,
        message_size=message_size,
        interfaces=interfaces,
        seconds=seconds,
        nanoseconds=round((announcement - seconds) * 1e9),
    )


def shipped_profiles() -> dict[str, str]:
    """Return the profiles that gosvae_bringup ships in its folder config, by file name."""
    return {
        "fastdds.xml": profile(),
        "fastdds-link.xml": profile((LOOPBACK, "@ADDRESS@"), thin_link=True, announcement=3.0),
    }


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
