"""The receiver node."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

import cv2
import numpy as np
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecyclePublisher
from rclpy.subscription import Subscription
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image

from gosvae_codec import (
    DecodedFrame,
    Decoder,
    EncodedFrame,
    FingerprintError,
    GosvaeError,
    Header,
    PacketError,
    Reassembler,
)
from gosvae_codec.images import to_rgb
from gosvae_codec.masks import Mask, colorize
from gosvae_msgs.msg import Feedback, LabelInfo, TokenPacket
from gosvae_node.messages import (
    from_header_message,
    from_packet_message,
    to_header_message,
    to_image,
    to_label_info,
)
from gosvae_node.meters import Meter
from gosvae_node.node import ERROR, OK, WARN, PipelineNode, run
from gosvae_node.qos import qos_profile
from gosvae_node.worker import FrameWorker

_KEPT = 16

Item = TypeVar("Item")


def _remember(items: OrderedDict[Header, Item], header: Header, item: Item) -> None:
    items[header] = item
    while len(items) > _KEPT:
        items.popitem(last=False)


class _Camera:
    """One camera's stream and what is known of it."""

    def __init__(self, node: Receiver, name: str) -> None:
        assert node.bundle is not None
        self.name = name
        self.decoder: Decoder | None = None
        self.reassembler = Reassembler()
        self.rejected = 0
        self.rejection = ""
        self.foreign: int | None = None
        self.frames = self.packet_count = 0
        self.coverage = 0.0
        self.age = float("nan")
        self.acknowledged: int | None = None
        self.frame_id = ""
        self.bytes, self.masks, self.decode_ms, self.age_ms = Meter(), Meter(), Meter(), Meter()
        self.rejections = Meter()
        self.packets: Subscription | None = None
        self.images: Subscription | None = None
        # Frames and masks of an overlay come in either order.
        self.overlay_images: OrderedDict[Header, Image | CompressedImage] = OrderedDict()
        self.overlay_masks: OrderedDict[Header, Mask] = OrderedDict()

        def publisher(topic: str, **events: Any) -> LifecyclePublisher:
            return node.create_lifecycle_publisher(
                Image,
                f"{name}/semantic/{topic}",
                node.qos("mask_qos"),
                event_callbacks=PublisherEventCallbacks(**events),
                qos_overriding_options=node.overridable,
            )

        self.image_topic, self.image_type = node.image_topic(name)
        self.mask = publisher("mask")
        self.color = publisher("color")
        self.overlay = publisher("overlay", matched=lambda _: node.follow_demand(name))
        self.feedback = node.create_lifecycle_publisher(
            Feedback,
            f"{name}/image_raw/gosvae/feedback",
            node.qos("packet_qos"),
            qos_overriding_options=node.overridable,
        )
        self.label_info = node.create_publisher(
            LabelInfo, f"{name}/semantic/label_info", qos_profile("latched")
        )
        self.label_info.publish(to_label_info(node.bundle, node.get_clock().now().to_msg()))


class Receiver(PipelineNode):
    """Decodes packets and publishes masks, each with its frame's own stamp and frame_id."""

    def __init__(self) -> None:
        super().__init__("gosvae_rx")
        self.declare_image_transport("the overlay's frames")
        self.declare(
            "slice_timeout", 0.1, "Seconds to wait for a frame's missing slices.", (0.0, 10.0)
        )
        self.declare("feedback_rate", 5.0, "Feedback messages a second.", (0.1, 100.0))
        self.declare_qos("packet_qos", "packets", "packets and feedback")
        self.declare_qos("mask_qos", "sensor_data", "masks, colours and overlays")
        self._streams: dict[str, _Camera] = {}
        self._worker: FrameWorker[EncodedFrame] | None = None
        self._ticks: list[Any] = []

    def setup(self) -> None:
        """Load the mask network, make publishers for each camera and latch the label info."""
        self._new_decoder()
        for name in self.cameras:
            self._streams[name] = _Camera(self, name)

    def _new_decoder(self) -> Decoder:
        assert self.bundle is not None
        return Decoder(self.bundle, self.value("providers"), self.value("threads"))

    def start(self) -> None:
        """Listen to packets."""
        self._worker = FrameWorker(self.cameras, self.value("queue_depth"), self._decode)
        for name, camera in self._streams.items():
            camera.decoder = self._new_decoder()
            camera.reassembler = Reassembler()
            camera.packets = self.create_subscription(
                TokenPacket,
                f"{name}/image_raw/gosvae",
                lambda message, camera=camera: self._receive(camera, message),
                self.qos("packet_qos"),
                qos_overriding_options=self.overridable,
            )
            self.follow_demand(name)
        self._ticks = [
            self.every(max(self.value("slice_timeout") / 4, 0.01), self._expire),
            self.every(1 / self.value("feedback_rate"), self._send_feedback),
        ]

    def stop(self) -> None:
        """Listen no more."""
        worker, self._worker = self._worker, None
        for timer in self._ticks:
            self.destroy_timer(timer)
        self._ticks = []
        for camera in self._streams.values():
            if camera.packets is not None:
                self.destroy_subscription(camera.packets)
                camera.packets = None
            self._forget_images(camera)
        if worker is not None:
            worker.stop()

    def teardown(self) -> None:
        """Withdraw the publishers."""
        for camera in self._streams.values():
            for each in (camera.mask, camera.color, camera.overlay, camera.feedback):
                self.destroy_lifecycle_publisher(each)
            self.destroy_publisher(camera.label_info)
        self._streams = {}

    def follow_demand(self, name: str) -> None:
        """Subscribe to the camera's own frames while its overlay is wanted, and only then."""
        camera = self._streams.get(name)
        if camera is None or self._worker is None:
            return
        wanted = camera.overlay.get_subscription_count() > 0
        if wanted and camera.images is None:

            def keep(message: Image | CompressedImage) -> None:
                header = from_header_message(message.header)
                _remember(camera.overlay_images, header, message)
                self._publish_overlay(camera, header)

            camera.images = self.create_subscription(
                camera.image_type, camera.image_topic, keep, qos_profile("sensor_data")
            )
        elif not wanted:
            self._forget_images(camera)

    def _forget_images(self, camera: _Camera) -> None:
        if camera.images is not None:
            self.destroy_subscription(camera.images)
            camera.images = None
        camera.overlay_images.clear()
        camera.overlay_masks.clear()

    def _receive(self, camera: _Camera, message: TokenPacket) -> None:
        assert self.bundle is not None
        # Whatever a packet holds, the next one must still be received.
        try:
            packet = from_packet_message(message)
            packet.check(self.bundle)
        except FingerprintError as error:
            camera.foreign = error.theirs
            self._reject(camera, str(error))
            return
        except PacketError as error:
            self._reject(camera, str(error))
            return
        except Exception as error:
            self._reject(camera, f"{type(error).__name__}: {error}")
            return
        camera.packet_count += 1
        camera.foreign = None
        camera.bytes.add(packet.serialized_size())
        if packet.stream != camera.reassembler.stream:
            camera.acknowledged = None
        self._queue(camera, camera.reassembler.push(packet, time.monotonic()))

    def _reject(self, camera: _Camera, reason: str) -> None:
        camera.rejected += 1
        camera.rejection = reason
        camera.rejections.add(1)
        self.get_logger().error(f"{camera.name}: {reason}", throttle_duration_sec=5.0)

    def _queue(self, camera: _Camera, frames: list[EncodedFrame]) -> None:
        if self._worker is not None:
            for frame in frames:
                self._worker.put(camera.name, frame)

    def _expire(self) -> None:
        before = time.monotonic() - self.value("slice_timeout")
        for camera in self._streams.values():
            self._queue(camera, camera.reassembler.expire(before))

    def _decode(self, name: str, frame: EncodedFrame) -> None:
        camera = self._streams[name]
        assert camera.decoder is not None
        begin = time.perf_counter()
        try:
            decoded = camera.decoder.decode(frame.packets)
        except GosvaeError as error:
            self._reject(camera, str(error))
            return
        except Exception as error:
            self._reject(camera, f"{type(error).__name__}: {error}")
            return
        self._publish(camera, decoded)
        camera.decode_ms.add((time.perf_counter() - begin) * 1e3)
        stamp = Time(
            seconds=decoded.header.sec,
            nanoseconds=decoded.header.nanosec,
            clock_type=self.get_clock().clock_type,
        )
        camera.age = (self.get_clock().now() - stamp).nanoseconds / 1e6
        camera.age_ms.add(camera.age)
        camera.masks.add(1)
        camera.frames += 1
        camera.coverage = decoded.coverage
        camera.frame_id = decoded.header.frame_id
        if frame.complete:
            camera.acknowledged = decoded.sequence

    def _publish(self, camera: _Camera, decoded: DecodedFrame) -> None:
        assert self.bundle is not None
        header = to_header_message(decoded.header)
        camera.mask.publish(to_image(decoded.mask, "mono8", header))
        if camera.color.get_subscription_count() > 0:
            color = colorize(decoded.mask, self.bundle.labels)
            camera.color.publish(to_image(color, "rgb8", header))
        if camera.images is not None:
            _remember(camera.overlay_masks, decoded.header, decoded.mask)
            self._publish_overlay(camera, decoded.header)

    def _publish_overlay(self, camera: _Camera, header: Header) -> None:
        assert self.bundle is not None
        image = camera.overlay_images.get(header)
        # Whoever takes the mask publishes: frames and masks come in threads of their own.
        mask = camera.overlay_masks.pop(header, None) if image is not None else None
        if image is None or mask is None:
            return
        try:
            frame = to_rgb(image)
        except GosvaeError as error:
            self.get_logger().error(f"overlay: {error}", throttle_duration_sec=5.0)
            return
        if frame.shape[:2] == mask.shape:
            color = colorize(mask, self.bundle.labels)
            blended = np.asarray(cv2.addWeighted(frame, 0.5, color, 0.5, 0.0), np.uint8)
            camera.overlay.publish(to_image(blended, "rgb8", image.header))

    def _send_feedback(self) -> None:
        assert self.bundle is not None
        for camera in self._streams.values():
            if camera.packet_count == 0 and camera.rejected == 0:
                continue
            message = Feedback()
            message.header.stamp = self.get_clock().now().to_msg()
            message.header.frame_id = camera.frame_id
            message.fingerprint = self.bundle.fingerprint
            message.stream = camera.reassembler.stream or 0
            message.has_acknowledged = camera.acknowledged is not None
            message.acknowledged = camera.acknowledged or 0
            message.packets_received = camera.reassembler.received % (1 << 32)
            message.packets_lost = camera.reassembler.lost % (1 << 32)
            message.packets_rejected = camera.rejected % (1 << 32)
            message.coverage = camera.coverage
            message.mask_age_ms = camera.age
            camera.feedback.publish(message)

    def report(self, camera: str) -> tuple[bytes, str, Mapping[str, Any]]:
        """See :class:`PipelineNode`."""
        stream = self._streams[camera]
        decoder = stream.decoder
        frames = max(stream.masks.rate(), 1e-9)
        values: dict[str, Any] = {
            "provider": decoder.session.provider if decoder else "",
            "masks": stream.frames,
            "packets": stream.packet_count,
            "frames/s": stream.masks.rate(),
            "bytes/frame": stream.bytes.sum_rate() / frames,
            "kbit/s": stream.bytes.sum_rate() * 8 / 1000,
            "decode ms p50": stream.decode_ms.percentile(0.5),
            "decode ms p95": stream.decode_ms.percentile(0.95),
            "mask age ms p50": stream.age_ms.percentile(0.5),
            "mask age ms p95": stream.age_ms.percentile(0.95),
            "coverage": stream.coverage,
            "lost packets": stream.reassembler.lost,
            "stale packets": stream.reassembler.stale,
            "dropped": self._worker.dropped(camera) if self._worker else 0,
            "rejected": stream.rejected,
            "last rejection": stream.rejection,
        }
        if self._worker is None or decoder is None or stream.packets is None:
            return WARN, "inactive", values
        if stream.foreign is not None:
            values["sender fingerprint"] = f"{stream.foreign:016x}"
            return ERROR, "the transmitter has another bundle", values
        if stream.rejections.rate() > 0:
            return WARN, f"packets rejected: {stream.rejection}", values
        if stream.masks.rate() == 0:
            return WARN, f"no packets on {stream.packets.topic_name}", values
        if decoder.session.fell_back:
            return WARN, f"running on {decoder.session.provider}, not as asked", values
        return OK, "receiving", values


def main() -> None:
    """Entry point of ``ros2 run gosvae_rx receiver``."""
    run(Receiver)
