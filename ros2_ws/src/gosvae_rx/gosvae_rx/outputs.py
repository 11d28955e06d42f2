"""What the receiver publishes of one camera, most of it only while somebody subscribes to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecyclePublisher
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import DecodedFrame, Header, ModelBundle, Reconstructor
from gosvae_codec.masks import Mask, colorize
from gosvae_common import topics
from gosvae_common.legend import legend
from gosvae_common.messages import (
    from_header_message,
    to_header_message,
    to_image,
    to_label_info,
    to_vision_label_info,
)
from gosvae_common.node import PipelineNode
from gosvae_common.qos import qos_profile

try:
    import vision_msgs.msg as vision_messages
except ImportError:
    vision_messages = None

_KEPT = 16
"""Frames and masks that wait for each other, for the overlay."""
_LEGEND_WIDTH = 480

Frame: TypeAlias = Image | CompressedImage
Item = TypeVar("Item")


class Outputs:
    """Publishers of one camera, and the subscriptions to the camera that some of them need."""

    def __init__(self, node: PipelineNode, camera: str, bundle: ModelBundle) -> None:
        """Create the publishers, and publish what is latched."""
        self._node, self._camera, self._bundle = node, camera, bundle
        self._image_topic, self._image_type = node.image_topic(camera)
        self._converter = node.image_converter()
        self._active = False
        self._images: Subscription | None = None
        self._calibrations: Subscription | None = None
        self._calibration: CameraInfo | None = None
        self._begin_overlay()
        self._mask = self._publisher(topics.MASK)
        self._color = self._publisher(topics.COLOR)
        self._overlay = self._publisher(topics.OVERLAY, matched=lambda _: self.follow_demand())
        self._camera_info = self._publisher(
            topics.SEMANTIC_CAMERA_INFO, CameraInfo, matched=lambda _: self.follow_demand()
        )
        self._reconstruction = (
            self._publisher(topics.RECONSTRUCTION) if bundle.reconstructs else None
        )
        self._latched = [self._publish_latched(*each) for each in self._labels()]

    def _publisher(self, topic: str, kind: type = Image, **events: Any) -> LifecyclePublisher:
        publisher: LifecyclePublisher = self._node.create_lifecycle_publisher(
            kind,
            f"{self._camera}/{topic}",
            self._node.qos("mask_qos"),
            event_callbacks=PublisherEventCallbacks(**events),
            qos_overriding_options=self._node.overridable,
        )
        return publisher

    def _labels(self) -> list[tuple[str, Any]]:
        """Return the meaning of label ids, as messages by topic."""
        now = self._node.get_clock().now().to_msg()
        picture = legend(self._bundle.labels, _LEGEND_WIDTH)
        found = [
            (topics.LABEL_INFO, to_label_info(self._bundle, now)),
            (topics.LEGEND, to_image(picture, "rgb8", HeaderMessage(stamp=now))),
        ]
        if vision_messages is not None:
            message = to_vision_label_info(self._bundle, now, vision_messages)
            found.append((topics.VISION_LABEL_INFO, message))
        return found

    def _publish_latched(self, topic: str, message: Any) -> Any:
        name, qos = f"{self._camera}/{topic}", qos_profile("latched")
        publisher = self._node.create_publisher(type(message), name, qos)
        publisher.publish(message)
        return publisher

    def start(self) -> None:
        """Begin to follow demand."""
        self._active = True
        self.follow_demand()

    def stop(self) -> None:
        """Unsubscribe from the camera."""
        self._active = False
        self._unsubscribe_images()
        self._unsubscribe_calibrations()

    def destroy(self) -> None:
        """Destroy the publishers."""
        pictures = (self._mask, self._color, self._overlay, self._reconstruction)
        for publisher in (*pictures, self._camera_info):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)
        for publisher in self._latched:
            self._node.destroy_publisher(publisher)

    def follow_demand(self) -> None:
        """Subscribe to the camera's frames and calibration while they are needed, and only then."""
        if not self._active:
            return
        if self._overlay.get_subscription_count() == 0:
            self._unsubscribe_images()
        elif self._images is None:
            self._images = self._subscribe(self._image_type, self._image_topic, self._on_image)
        if self._camera_info.get_subscription_count() == 0:
            self._unsubscribe_calibrations()
        elif self._calibration is None and self._calibrations is None:
            topic = topics.camera_info_topic(self._image_topic)
            self._calibrations = self._subscribe(CameraInfo, topic, self._on_calibration)

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None]) -> Subscription:
        return self._node.create_subscription(kind, topic, callback, self._node.qos("image_qos"))

    def _unsubscribe_images(self) -> None:
        if self._images is not None:
            self._node.destroy_subscription(self._images)
            self._images = None
        self._begin_overlay()

    def _begin_overlay(self) -> None:
        # Frames and masks arrive in either order. New dictionaries, as the thread that decodes may
        # be filling the old ones.
        self._frames: OrderedDict[Header, Frame] = OrderedDict()
        self._masks: OrderedDict[Header, Mask] = OrderedDict()

    def _unsubscribe_calibrations(self) -> None:
        if self._calibrations is not None:
            self._node.destroy_subscription(self._calibrations)
        self._calibrations = self._calibration = None

    def _on_calibration(self, message: CameraInfo) -> None:
        # One is enough: all of them would be most of what crosses the link.
        self._unsubscribe_calibrations()
        self._calibration = message

    def _on_image(self, message: Frame) -> None:
        header = from_header_message(message.header)
        _remember(self._frames, header, message)
        self._publish_overlay(header)

    @property
    def mask_listeners(self) -> int:
        """Subscribers of the masks."""
        return int(self._mask.get_subscription_count())

    def publish_mask(self, decoded: DecodedFrame) -> None:
        """Publish a frame's mask, and the calibration with its header."""
        header = to_header_message(decoded.header)
        calibration = self._calibration
        if calibration is not None:
            calibration.header = header
            self._camera_info.publish(calibration)
        self._mask.publish(to_image(decoded.mask, "mono8", header))

    def publish_pictures(self, decoded: DecodedFrame, network: Reconstructor | None) -> None:
        """Publish what of colour, overlay and reconstruction has subscribers."""
        header = to_header_message(decoded.header)
        if self._color.get_subscription_count() > 0:
            color = colorize(decoded.mask, self._bundle.labels)
            self._color.publish(to_image(color, "rgb8", header))
        if self._images is not None:
            _remember(self._masks, decoded.header, decoded.mask)
            self._publish_overlay(decoded.header)
        publisher = self._reconstruction
        if publisher and network and publisher.get_subscription_count() > 0:
            publisher.publish(to_image(network.reconstruct(decoded), "rgb8", header))

    def _publish_overlay(self, header: Header) -> None:
        if header not in self._frames:
            return
        # The thread that takes the mask publishes: frames and masks come in threads of their own.
        mask = self._masks.pop(header, None)
        image = self._frames.pop(header, None) if mask is not None else None
        if image is None or mask is None:
            return
        try:
            frame = self._converter.to_rgb(image)
            if frame.shape[:2] != mask.shape:
                raise ValueError(f"frame {frame.shape[:2]} but mask {mask.shape}")
        except Exception as error:  # of any frame; the next one has its overlay
            reason = f"{self._camera}: no overlay: {error}"
            self._node.get_logger().error(reason, throttle_duration_sec=5.0)
            return
        color = colorize(mask, self._bundle.labels)
        blended = np.asarray(cv2.addWeighted(frame, 0.5, color, 0.5, 0.0), np.uint8)
        self._overlay.publish(to_image(blended, "rgb8", image.header))


def _remember(items: OrderedDict[Header, Item], header: Header, item: Item) -> None:
    items[header] = item
    while len(items) > _KEPT:
        items.popitem(last=False)
