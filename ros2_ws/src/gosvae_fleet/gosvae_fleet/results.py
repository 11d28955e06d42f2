"""Node `gosvae_results`: the masks of a fleet's service as ROS topics.

They are the topics that zenoh-plugin-ros2dds makes of the service's keys, with what label ids
mean beside them: ``/gosvae/<vehicle>/<camera>/semantic/mask`` and ``label_info``, as those of
a receiver, so that RViz, planners and `gosvae view` take them as they are.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import zenoh
from sensor_msgs.msg import Image

from gosvae_codec import ModelBundle
from gosvae_common import topics
from gosvae_common.diagnostics import Report
from gosvae_common.health import OK
from gosvae_common.messages import to_label_info
from gosvae_common.meters import Meter
from gosvae_common.qos import qos_profile
from gosvae_common.shipped import find_bundle
from gosvae_msgs.msg import LabelInfo

from . import keys
from .carrier import Carrier, run
from .certificates import BACKEND
from .vehicles import load_vehicles


class Results(Carrier):
    """Publishes the masks of all vehicles.

    Raises:
        BundleError: as :meth:`ModelBundle.load` does.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("gosvae_results", **options)
        self.declare("vehicles", "", "File vehicles.yaml.", read_only=True)
        self.declare(
            "bundle", "", "Folder of the bundle that made the masks, for labels.", read_only=True
        )
        fleet = load_vehicles(Path(self.value("vehicles"))).values()
        bundle = ModelBundle.load(find_bundle(self.value("bundle")))
        self._received = Meter()
        self._kept: list[Any] = []
        """Publishers of labels, and subscribers of the session."""
        self._out: dict[str, Any] = {}
        """Publishers by the key of a camera's masks."""
        stamp = self.get_clock().now().to_msg()
        for vehicle in fleet:
            for camera in vehicle.cameras:
                name = keys.mask_key(vehicle.name, camera)
                self._out[name] = self.create_publisher(
                    Image, f"/{name}", qos_profile("sensor_data")
                )
                topic = f"/{keys.key(vehicle.name, f'{camera}/{topics.LABEL_INFO}')}"
                labels = self.create_publisher(LabelInfo, topic, qos_profile("latched"))
                labels.publish(to_label_info(bundle, bundle.labels, stamp))
                self._kept.append(labels)
        self.start(BACKEND)

    def carry(self, session: zenoh.Session) -> None:
        """See :class:`Carrier`."""
        for name, publisher in self._out.items():
            take = partial(self._on_mask, publisher)
            self._kept.append(session.declare_subscriber(name, take))

    def _on_mask(self, publisher: Any, sample: Any) -> None:
        if self.republish(publisher, sample.payload.to_bytes(), Image):
            self._received.add(1)

    def report(self) -> Report:
        """See :class:`Carrier`."""
        values = {
            "masks/s": self._received.rate(),
            "rejected": self.errors.count,
            "last rejection": self.errors.last,
        }
        return Report(OK, f"{len(self._out)} cameras", values)


def main() -> int:
    """Run the node until a signal, and return the exit status."""
    return run(Results)
