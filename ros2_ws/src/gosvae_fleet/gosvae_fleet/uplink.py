"""Node `gosvae_uplink`: carries a vehicle's packets to a router, and feedback back.

Payload and keys are those of zenoh-plugin-ros2dds. Packets are sent best effort and at once: what
the link cannot take is dropped, never queued.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import zenoh

from gosvae_common import topics
from gosvae_common.diagnostics import Report
from gosvae_common.health import OK, WARN
from gosvae_common.meters import Meter
from gosvae_common.qos import qos_profile
from gosvae_msgs.msg import Feedback, TokenPacket

from . import keys
from .carrier import Carrier, run
from .link import has_listeners, token_publisher
from .presence import Presence


class Uplink(Carrier):
    """Carries packets up and feedback down, for the cameras of one vehicle."""

    def __init__(self, **options: Any) -> None:
        super().__init__("gosvae_uplink", **options)
        self.declare("vehicle", "", "Name of this vehicle, and of its certificate.", read_only=True)
        self.declare(
            "cameras", ["camera"], "Base names that the cameras' topics hang under.", read_only=True
        )
        self.vehicle = keys.vehicle_name(self.value("vehicle"))
        self._sent, self._received = Meter(), Meter()
        self._cameras = [each.strip("/") for each in self.value("cameras")]
        self._up: dict[str, zenoh.Publisher] = {}
        """By camera, once there is a session."""
        self._kept: list[Any] = []
        """What Zenoh would undeclare when nothing refers to it."""
        self._presence: Presence | None = None
        packets = qos_profile("packets")
        self._down = {
            camera: self.create_publisher(Feedback, f"{camera}/{topics.FEEDBACK}", packets)
            for camera in self._cameras
        }
        for camera in self._cameras:
            take = partial(self._on_packet, camera)
            self.create_subscription(
                TokenPacket, f"{camera}/{topics.PACKETS}", take, packets, raw=True
            )
        self.start(self.vehicle)

    def carry(self, session: zenoh.Session) -> None:
        """See :class:`Carrier`."""
        own = keys.alive_key(self.vehicle, str(session.info.zid()))
        self._kept.append(session.liveliness().declare_token(own))
        self._presence = Presence(session, self.vehicle, self.get_logger().error)
        for camera in self._cameras:
            answer = partial(self._on_feedback, camera)
            feedback = self._key(f"{camera}/{topics.FEEDBACK}")
            self._kept.append(session.declare_subscriber(feedback, answer))
            self._up[camera] = token_publisher(session, self._key(f"{camera}/{topics.PACKETS}"))

    def _key(self, topic: str) -> str:
        return keys.key(self.vehicle, self.resolve_topic_name(topic))

    def _on_packet(self, camera: str, data: bytes) -> None:
        publisher = self._up.get(camera)
        if publisher is not None:
            self._sent.add(len(data))
            publisher.put(data)

    def _on_feedback(self, camera: str, sample: Any) -> None:
        if self.republish(self._down[camera], sample.payload.to_bytes(), Feedback):
            self._received.add(1)

    def report(self) -> Report:
        """See :class:`Carrier`."""
        assert self._presence is not None
        values = {
            "packets/s": self._sent.rate(),
            "kbit/s": self._sent.sum_rate() * 8 / 1000,
            "feedback/s": self._received.rate(),
            "rejected": self.errors.count,
            "last rejection": self.errors.last,
        }
        if twice := self._presence.twice():
            text = f"vehicle {twice[0]} is connected twice: give each a name and a certificate"
            return Report(WARN, text, values)
        deaf = [name for name, up in self._up.items() if not has_listeners(up)]
        if deaf:
            text = (
                f"connected, but nobody listens to {', '.join(deaf)}: is the downlink running, and "
                f"are {self.vehicle} and its cameras in its vehicles.yaml?"
            )
            return Report(WARN, text, values)
        return Report(OK, f"connected as {self.vehicle}", values)


def main() -> int:
    """Run the node until a signal, and return the exit status."""
    return run(Uplink)
