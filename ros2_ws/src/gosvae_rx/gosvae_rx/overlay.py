"""The overlay: the camera's own frames with what was found in them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias, TypeVar

import cv2
import numpy as np
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from gosvae_codec import DecodedFrame, DetectionResult, Header, ModelBundle, SemanticResult
from gosvae_codec.masks import colorize
from gosvae_common import topics
from gosvae_common.boxes import boxes_of, draw_boxes
from gosvae_common.messages import from_header_message, to_image

from .publishers import Publishers, listeners

_KEPT = 16
"""Frames and results that wait for each other."""

_Frame: TypeAlias = Image | CompressedImage
_Item = TypeVar("_Item")


class Overlay:
    """Frames with masks and boxes of one camera, while somebody listens."""

    def __init__(self, publishers: Publishers, bundle: ModelBundle) -> None:
        """Create the publisher."""
        self._node, self._camera, self._bundle = publishers.node, publishers.camera, bundle
        self._topic, self._type = self._node.image_topic(self._camera)
        self._converter = self._node.image_converter()
        self._active = False
        self._images: Subscription | None = None
        masks = [name for name, task in bundle.tasks.items() if task.kind == "semantic"]
        boxes = [name for name, task in bundle.tasks.items() if task.kind == "detection"]
        self._tasks = frozenset(masks[:1] + boxes)
        self._begin()
        self._publisher = publishers.add(
            topics.OVERLAY, matched=lambda _: self.follow_demand(self._active)
        )

    @property
    def tasks(self) -> frozenset[str]:
        """Names of the tasks that it needs now."""
        return self._tasks if self._images is not None else frozenset()

    def follow_demand(self, active: bool) -> None:
        """Subscribe to the camera's frames while they are needed, and only then."""
        self._active = active
        if not active or not listeners(self._publisher):
            if self._images is not None:
                self._node.destroy_subscription(self._images)
                self._images = None
            self._begin()
        elif self._images is None:
            self._images = self._node.create_subscription(
                self._type, self._topic, self._on_image, self._node.qos("image_qos")
            )

    def _begin(self) -> None:
        # Frames and results arrive in either order. New dictionaries, as the thread that decodes
        # may be filling the old ones.
        self._frames: OrderedDict[Header, _Frame] = OrderedDict()
        self._results: OrderedDict[Header, DecodedFrame] = OrderedDict()

    def _on_image(self, message: _Frame) -> None:
        header = from_header_message(message.header)
        _remember(self._frames, header, message)
        self._publish(header)

    def add(self, decoded: DecodedFrame) -> None:
        """Publish a frame's overlay, or keep what was found until the frame comes."""
        # Somebody may have come since the frame was decoded, without the tasks.
        if self._images is not None and self._tasks <= set(decoded.tasks):
            _remember(self._results, decoded.header, decoded)
            self._publish(decoded.header)

    def _publish(self, header: Header) -> None:
        if header not in self._frames:
            return
        # The thread that takes the result publishes: frames and results come in threads of their
        # own.
        decoded = self._results.pop(header, None)
        image = self._frames.pop(header, None) if decoded is not None else None
        if image is None or decoded is None:
            return
        try:
            frame = self._converter.to_rgb(image)
            if frame.shape[:2] != decoded.size:
                raise ValueError(f"frame {frame.shape[:2]} but mask {decoded.size}")
            picture = self._draw(frame, decoded)
        except Exception as error:  # of any frame; the next one has its overlay
            reason = f"{self._camera}: no overlay: {error}"
            self._node.get_logger().error(reason, throttle_duration_sec=5.0)
            return
        self._publisher.publish(to_image(picture, "rgb8", image.header))

    def _draw(self, frame: np.ndarray, decoded: DecodedFrame) -> np.ndarray:
        picture = frame.copy()
        for name, result in decoded.tasks.items():
            labels = self._bundle.tasks[name].labels
            if name in self._tasks and isinstance(result, SemanticResult):
                color = colorize(result.mask, labels)
                picture = np.asarray(cv2.addWeighted(picture, 0.5, color, 0.5, 0.0), np.uint8)
        for name, result in decoded.tasks.items():
            if isinstance(result, DetectionResult):
                labels = self._bundle.tasks[name].labels
                draw_boxes(picture, boxes_of(result, labels), labels)
        return picture


def _remember(items: OrderedDict[Header, _Item], header: Header, item: _Item) -> None:
    items[header] = item
    while len(items) > _KEPT:
        items.popitem(last=False)
