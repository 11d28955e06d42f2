"""Simulated vehicles that publish their packets over DDS, encoded before, all in one process.

Packets, times and output are those of ``gosvae_fleet.simulation --recorded``, without a router.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from typing import Any

import rclpy

from gosvae_codec import Encoder, ModelBundle
from gosvae_common import topics
from gosvae_common.process import running
from gosvae_common.qos import qos_profile
from gosvae_common.shipped import find_drive
from gosvae_fleet import keys
from gosvae_fleet.simulation import CAMERA, Recorded, drive, read_frames
from gosvae_msgs.msg import TokenPacket
from gosvae_tools.verbs import split_names


class _Topic:
    """A publisher of serialised packets, in the place of one of Zenoh."""

    def __init__(self, node: Any, topic: str) -> None:
        self._publisher = node.create_publisher(TokenPacket, topic, qos_profile("packets"))

    def put(self, data: bytes) -> None:
        self._publisher.publish(data)


class OverDds(Recorded):
    """A vehicle that publishes its packets on a topic."""

    def __init__(self, name: str, node: Any, topic: str) -> None:
        self.name = name
        self._packets = _Topic(node, topic)
        self._stream, self._sequence = secrets.randbits(32), 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--vehicles", type=split_names, required=True, help="v01,v02,...")
    parser.add_argument("--rate", type=float, required=True, help="frames a second of each")
    parser.add_argument("--bundle", required=True)
    parser.add_argument(
        "--on-board", action="store_true", help="topics as on a vehicle, not as `gosvae downlink`'s"
    )
    options = parser.parse_args(arguments)
    encoder = Encoder(ModelBundle.load(options.bundle))
    frames = [encoder.encode(frame, intra=True) for frame in read_frames(find_drive())]
    with running() as stop:
        node = rclpy.create_node("vehicles")
        vehicles = []
        for name in options.vehicles:
            packets = f"{CAMERA}/{topics.PACKETS}"
            topic = packets if options.on_board else f"/{keys.key(name, packets)}"
            vehicles.append(OverDds(name, node, topic))
        drive(vehicles, frames, options.rate, stop)
        node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
