"""Node `gosvae_results`: what a fleet's service makes, as ROS topics.

They are the topics that zenoh-plugin-ros2dds makes of the service's keys, with what label ids mean
beside them: ``/gosvae/<vehicle>/<camera>/semantic/mask`` and so on, as those of a receiver, so that
RViz, planners and `gosvae view` take them as they are. Only what somebody listens to crosses the
link, and only then does the service make it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import zenoh
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType

from gosvae_codec import ModelBundle
from gosvae_common import topics
from gosvae_common.diagnostics import Report
from gosvae_common.health import OK
from gosvae_common.meters import Meter
from gosvae_common.qos import qos_profile
from gosvae_common.shipped import find_bundle
from gosvae_common.task_messages import latched_of, outputs_of
from gosvae_msgs.msg import Feedback

from . import keys
from .carrier import Carrier, run
from .certificates import BACKEND
from .vehicles import load_vehicles

DEMAND_SECONDS = 0.5
"""Between looks at what is listened to."""


class Results(Carrier):
    """Publishes what is made of all vehicles' frames, the service's feedback and diagnostics.

    Raises:
        BundleError: as :meth:`ModelBundle.load` does.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("gosvae_results", **options)
        self.declare("vehicles", "", "File vehicles.yaml.", read_only=True)
        self.declare(
            "bundle", "", "Folder of the bundle that the vehicles use, for labels.", read_only=True
        )
        self._fleet = load_vehicles(Path(self.value("vehicles"))).values()
        bundle = ModelBundle.load(find_bundle(self.value("bundle")))
        self._received = Meter()
        self._out: dict[str, tuple[Any, type]] = {}
        """Publishers by key, each with its type."""
        self._taken: dict[str, Any] = {}
        """Subscribers by key of what somebody listens to."""
        self._kept: list[Any] = []
        for vehicle in self._fleet:
            for camera in vehicle.cameras:
                self._offer(bundle, partial(keys.key, vehicle.name), camera)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DEMAND_SECONDS, self._follow_demand, clock=clock)
        self.start(BACKEND)

    def _offer(self, bundle: ModelBundle, key: Any, camera: str) -> None:
        """Create the publishers of one camera."""
        stamp = self.get_clock().now().to_msg()
        for task in bundle.tasks.values():
            for output in outputs_of(task):
                self._add(key(f"{camera}/{output.topic}"), output.kind, "sensor_data")
            for topic, message in latched_of(bundle, task, stamp).items():
                name = f"/{key(f'{camera}/{topic}')}"
                latched = self.create_publisher(type(message), name, qos_profile("latched"))
                latched.publish(message)
                self._kept.append(latched)
        self._add(key(f"{camera}/{topics.FEEDBACK}"), Feedback, "packets")

    def _add(self, key: str, kind: type, qos: str) -> None:
        """Offer the topic of a key."""
        self._out[key] = self.create_publisher(kind, f"/{key}", qos_profile(qos)), kind

    def _follow_demand(self) -> None:
        """Take from the link what somebody listens to."""
        if self.session is None:
            return
        for key, (publisher, kind) in self._out.items():
            wanted = publisher.get_subscription_count() > 0
            if wanted and key not in self._taken:
                take = partial(self._take, publisher, kind)
                self._taken[key] = self.session.declare_subscriber(key, take)
            elif not wanted and key in self._taken:
                self._taken.pop(key).undeclare()

    def carry(self, session: zenoh.Session) -> None:
        """See :class:`Carrier`."""
        for vehicle in self._fleet:
            take = partial(self._take, self._status, DiagnosticArray)
            self._kept.append(session.declare_subscriber(keys.status_key(vehicle.name), take))

    def _take(self, publisher: Any, kind: type, sample: Any) -> None:
        if self.republish(publisher, sample.payload.to_bytes(), kind):
            self._received.add(1)

    def report(self) -> Report:
        """See :class:`Carrier`."""
        values = {
            "messages/s": self._received.rate(),
            "topics listened to": len(self._taken),
            "rejected": self.errors.count,
            "last rejection": self.errors.last,
        }
        cameras = sum(len(each.cameras) for each in self._fleet)
        return Report(OK, f"{cameras} cameras", values)


def main() -> int:
    """Run the node until a signal, and return the exit status."""
    return run(Results)
