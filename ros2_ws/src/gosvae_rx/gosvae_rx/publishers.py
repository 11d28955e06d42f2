"""The publishers of one camera, which are made and destroyed together."""

from __future__ import annotations

from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecyclePublisher
from sensor_msgs.msg import Image

from gosvae_common.node import PipelineNode
from gosvae_common.qos import qos_profile


class Publishers:
    """Makes publishers for topics below a camera's base name."""

    def __init__(self, node: PipelineNode, camera: str) -> None:
        self.node, self.camera = node, camera
        self._made: list[LifecyclePublisher] = []
        self._latched: list[Any] = []

    def add(self, topic: str, kind: type = Image, **events: Any) -> LifecyclePublisher:
        """Return a new publisher with the quality of service of masks, active with the node."""
        publisher: LifecyclePublisher = self.node.create_lifecycle_publisher(
            kind,
            f"{self.camera}/{topic}",
            self.node.qos("mask_qos"),
            event_callbacks=PublisherEventCallbacks(**events),
            qos_overriding_options=self.node.overridable,
        )
        self._made.append(publisher)
        return publisher

    def latch(self, topic: str, message: Any) -> None:
        """Publish a message that subscribers get whenever they come."""
        name = f"{self.camera}/{topic}"
        publisher = self.node.create_publisher(type(message), name, qos_profile("latched"))
        publisher.publish(message)
        self._latched.append(publisher)

    def destroy(self) -> None:
        """Destroy them all."""
        for publisher in self._made:
            self.node.destroy_lifecycle_publisher(publisher)
        for publisher in self._latched:
            self.node.destroy_publisher(publisher)


def listeners(*publishers: LifecyclePublisher | None) -> int:
    """Return how many subscribers the publishers have together."""
    return sum(each.get_subscription_count() for each in publishers if each is not None)
