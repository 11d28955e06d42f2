"""Node `gosvae_downlink`: the uplinks' other end, packets of all vehicles as ROS topics.

The topics hang under ``/gosvae/<vehicle>/<camera>``, as with zenoh-plugin-ros2dds without a
namespace, and a receiver's feedback on them goes back to the vehicle.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import zenoh

from gosvae_common.diagnostics import Report
from gosvae_common.health import OK, WARN
from gosvae_common.meters import Meter
from gosvae_common.qos import qos_profile
from gosvae_msgs.msg import Feedback, TokenPacket

from . import keys
from .carrier import Carrier, run
from .certificates import BACKEND
from .link import token_publisher
from .presence import Answering, Presence
from .vehicles import load_vehicles


class Downlink(Carrier):
    """Carries packets of all vehicles to receivers, and their feedback back."""

    def __init__(self, **options: Any) -> None:
        super().__init__("gosvae_downlink", **options)
        self.declare("vehicles", "", "File vehicles.yaml.", read_only=True)
        fleet = load_vehicles(Path(self.value("vehicles"))).values()
        self._cameras = [(each.name, camera) for each in fleet for camera in each.cameras]
        self._received, self._answered = Meter(), Meter()
        self._back: dict[tuple[str, str], zenoh.Publisher] = {}
        """Publishers of feedback by vehicle and camera, once there is a session."""
        self._kept: list[Any] = []
        self._presence: Presence | None = None
        self._answering: Answering | None = None
        qos = qos_profile("packets")
        self._out = {
            each: self.create_publisher(TokenPacket, f"/{keys.packets_key(*each)}", qos)
            for each in self._cameras
        }
        for each in self._cameras:
            topic = f"/{keys.feedback_key(*each)}"
            answer = partial(self._on_feedback, each)
            self.create_subscription(Feedback, topic, answer, qos, raw=True)
        self.start(BACKEND)

    def carry(self, session: zenoh.Session) -> None:
        """See :class:`Carrier`."""
        self._presence = Presence(session, log=self.get_logger().error)
        self._answering = Answering(session, "downlink", self.get_logger().error)
        self._answering.answer(self._cameras)
        for each in self._cameras:
            self._back[each] = token_publisher(session, keys.feedback_key(*each))
            take = partial(self._on_packet, self._out[each])
            # Of each camera by its own key: vehicles need not learn each other's names.
            self._kept.append(session.declare_subscriber(keys.packets_key(*each), take))

    def _on_packet(self, publisher: Any, sample: Any) -> None:
        if self.republish(publisher, sample.payload.to_bytes(), TokenPacket):
            self._received.add(1)

    def _on_feedback(self, camera: tuple[str, str], data: bytes) -> None:
        publisher = self._back.get(camera)
        if publisher is not None:
            self._answered.add(1)
            publisher.put(data)

    def report(self) -> Report:
        """See :class:`Carrier`."""
        assert self._presence is not None and self._answering is not None
        there, twice = sorted(self._presence.vehicles()), self._presence.twice()
        self._answering.twice()
        values = {
            "vehicles": ", ".join(there),
            "packets/s": self._received.rate(),
            "feedback/s": self._answered.rate(),
            "rejected": self.errors.count,
            "last rejection": self.errors.last,
        }
        if twice:
            text = f"vehicle {twice[0]} is connected twice: give each a name and a certificate"
            return Report(WARN, text, values)
        if self._answering.problem:
            return Report(WARN, self._answering.problem, values)
        return Report(OK, f"{len(there)} vehicles are connected", values)


def main() -> int:
    """Run the node until a signal, and return the exit status."""
    return run(Downlink)
