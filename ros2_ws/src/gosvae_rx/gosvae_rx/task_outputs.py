"""What the receiver publishes of each task, by its kind, as far as somebody listens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.lifecycle import LifecyclePublisher
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import DepthResult, DetectionResult, ModelBundle, SemanticResult, Task
from gosvae_codec.masks import colorize
from gosvae_common.boxes import boxes_of
from gosvae_common.detections import (
    MARKERS,
    VISION,
    detections_type,
    to_detections,
    to_marker,
)
from gosvae_common.legend import legend
from gosvae_common.messages import to_image, to_label_info, to_vision_label_info
from gosvae_common.topics import task_base

from .publishers import Publishers, listeners

_LEGEND_WIDTH = 480


class TaskOutputs(ABC):
    """One task's publishers. Results come with all their frames, in the order of the stream."""

    camera_info: LifecyclePublisher | None = None
    """Of the camera's calibration with each result's header, where the kind has one."""

    def __init__(
        self,
        publishers: Publishers,
        bundle: ModelBundle,
        task: Task,
        follow_demand: Callable[[], None],
    ) -> None:
        """Create the publishers, and publish what is latched.

        Args:
            publishers: of the camera.
            bundle: whose task it is.
            task: what is published.
            follow_demand: called when somebody begins or ceases to listen to `camera_info`.
        """
        self.task, self._base = task, task_base(task.name)
        self._follow_demand = follow_demand
        self._publishers = publishers
        if "labels" in task.record:
            self._latch_labels(bundle)

    def _latch_labels(self, bundle: ModelBundle) -> None:
        now = self._publishers.node.get_clock().now().to_msg()
        labels, latch = self.task.labels, self._publishers.latch
        latch(f"{self._base}/label_info", to_label_info(bundle, labels, now))
        picture = to_image(legend(labels, _LEGEND_WIDTH), "rgb8", HeaderMessage(stamp=now))
        latch(f"{self._base}/legend", picture)
        if VISION is not None:
            message = to_vision_label_info(labels, now, VISION)
            latch(f"{self._base}/label_info_vision", message)

    def _add(self, topic: str, *kind: type) -> LifecyclePublisher:
        return self._publishers.add(f"{self._base}/{topic}", *kind)

    def _add_camera_info(self) -> LifecyclePublisher:
        return self._publishers.add(
            f"{self._base}/camera_info", CameraInfo, matched=lambda _: self._follow_demand()
        )

    @property
    @abstractmethod
    def listeners(self) -> int:
        """Subscribers of what needs the head."""

    @abstractmethod
    def publish(self, result: Any, header: HeaderMessage) -> None:
        """Publish what must be early."""

    def publish_pictures(self, result: Any, header: HeaderMessage) -> None:
        """Publish what people look at."""
        return


class SemanticOutputs(TaskOutputs):
    """Masks, their colours and their confidence."""

    def __init__(self, *given: Any) -> None:
        """See :class:`TaskOutputs`."""
        super().__init__(*given)
        self._mask, self._color = self._add("mask"), self._add("color")
        self._confidence = self._add("confidence")
        self.camera_info = self._add_camera_info()

    @property
    def listeners(self) -> int:
        """See :class:`TaskOutputs`."""
        return listeners(self._mask, self._color, self._confidence)

    def publish(self, result: SemanticResult, header: HeaderMessage) -> None:
        """Publish the mask."""
        if listeners(self._mask):
            self._mask.publish(to_image(result.mask, "mono8", header))

    def publish_pictures(self, result: SemanticResult, header: HeaderMessage) -> None:
        """Publish confidence and colours."""
        if listeners(self._confidence):
            self._confidence.publish(to_image(result.confidence, "mono8", header))
        if listeners(self._color):
            color = colorize(result.mask, self.task.labels)
            self._color.publish(to_image(color, "rgb8", header))


class DetectionOutputs(TaskOutputs):
    """Boxes, and markers of them where visualization_msgs is installed."""

    def __init__(self, *given: Any) -> None:
        """See :class:`TaskOutputs`."""
        super().__init__(*given)
        self._boxes = self._publishers.add(self._base, detections_type())
        self._markers = None
        if MARKERS is not None:
            self._markers = self._add("markers", MARKERS.ImageMarker)

    @property
    def listeners(self) -> int:
        """See :class:`TaskOutputs`."""
        return listeners(self._boxes, self._markers)

    def publish(self, result: DetectionResult, header: HeaderMessage) -> None:
        """Publish the boxes."""
        labels = self.task.labels
        boxes = boxes_of(result, labels)
        if listeners(self._boxes):
            self._boxes.publish(to_detections(boxes, labels, header))
        if self._markers is not None and listeners(self._markers):
            self._markers.publish(to_marker(boxes, labels, header, MARKERS))


class DepthOutputs(TaskOutputs):
    """Depths, with the calibration that point clouds need."""

    def __init__(self, *given: Any) -> None:
        """See :class:`TaskOutputs`."""
        super().__init__(*given)
        self._image = self._add("image")
        self.camera_info = self._add_camera_info()

    @property
    def listeners(self) -> int:
        """See :class:`TaskOutputs`."""
        return listeners(self._image)

    def publish(self, result: DepthResult, header: HeaderMessage) -> None:
        """Publish the depths."""
        if listeners(self._image):
            self._image.publish(to_image(result.depth, "32FC1", header))


OUTPUTS: Mapping[str, type[TaskOutputs]] = {
    "semantic": SemanticOutputs,
    "detection": DetectionOutputs,
    "depth": DepthOutputs,
}
"""By kind of task."""
