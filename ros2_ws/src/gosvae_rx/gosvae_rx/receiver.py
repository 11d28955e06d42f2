"""The receiver node."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

import cv2
import numpy as np
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecyclePublisher
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import (
    DecodedFrame,
    Decoder,
    EncodedFrame,
    FingerprintError,
    Header,
    ImageConverter,
    MissingReferenceError,
    PacketError,
    Reassembler,
    Reconstructor,
    decode_together,
)
from gosvae_codec.masks import Mask, colorize
from gosvae_common import topics
from gosvae_common.health import (
    OK,
    WARN,
    Findings,
    LossMeter,
    Threshold,
    age_problem,
    explain_silence,
    fallback_text,
    mismatch_text,
    share,
)
from gosvae_common.legend import legend
from gosvae_common.messages import (
    from_header_message,
    from_packet_message,
    to_header_message,
    to_image,
    to_label_info,
)
from gosvae_common.meters import Complaints, Meter
from gosvae_common.node import PipelineNode
from gosvae_common.qos import qos_profile
from gosvae_common.topics import camera_info_topic
from gosvae_common.worker import FrameWorker
from gosvae_msgs.msg import Feedback, LabelInfo, TokenPacket

_KEPT = 16
_LEGEND_WIDTH = 480

Item = TypeVar("Item")


def _remember(items: OrderedDict[Header, Item], header: Header, item: Item) -> None:
    items[header] = item
    while len(items) > _KEPT:
        items.popitem(last=False)


class _Camera:
    """One camera's publishers, and what is known of its stream since activation."""

    def __init__(self, node: Receiver, name: str) -> None:
        assert node.bundle is not None
        self.name = name
        self.image_topic, self.image_type = node.image_topic(name)
        self.packets: Subscription | None = None
        self.images: Subscription | None = None
        self.calibrations: Subscription | None = None
        self.calibration: CameraInfo | None = None
        self.begin(node)

        def publisher(topic: str, kind: type = Image, **events: Any) -> LifecyclePublisher:
            return node.create_lifecycle_publisher(
                kind,
                f"{name}/{topic}",
                node.qos("mask_qos"),
                event_callbacks=PublisherEventCallbacks(**events),
                qos_overriding_options=node.overridable,
            )

        self.mask = publisher(topics.MASK)
        self.color = publisher(topics.COLOR)
        self.overlay = publisher(topics.OVERLAY, matched=lambda _: node.follow_demand(name))
        self.reconstruction = publisher(topics.RECONSTRUCTION) if node.bundle.reconstructs else None
        self.camera_info = publisher(
            topics.SEMANTIC_CAMERA_INFO, CameraInfo, matched=lambda _: node.follow_demand(name)
        )
        self.feedback = node.create_lifecycle_publisher(
            Feedback,
            f"{name}/{topics.FEEDBACK}",
            node.qos("packet_qos"),
            qos_overriding_options=node.overridable,
        )
        self.label_info = node.create_publisher(
            LabelInfo, f"{name}/{topics.LABEL_INFO}", qos_profile("latched")
        )
        self.legend = node.create_publisher(
            Image, f"{name}/{topics.LEGEND}", qos_profile("latched")
        )
        now = node.get_clock().now().to_msg()
        self.label_info.publish(to_label_info(node.bundle, now))
        picture = legend(node.bundle.labels, _LEGEND_WIDTH)
        self.legend.publish(to_image(picture, "rgb8", HeaderMessage(stamp=now)))

    def begin(self, node: Receiver) -> None:
        """Begin to listen, with all figures at their start."""
        self.decoder = node.make_decoder()
        self.converter = ImageConverter()
        self.reassembler = Reassembler()
        self.rejections = Complaints(
            lambda reason: node.get_logger().error(f"{self.name}: {reason}")
        )
        self.foreign: int | None = None
        self.frames = self.packet_count = 0
        self.coverage = 0.0
        self.age = math.nan
        self.acknowledged: tuple[int, int] | None = None
        """Stream and sequence of the newest frame decoded whole."""
        self.request_intra = False
        """Whether frames come that refer to one that never did."""
        self.undecodable = 0
        self.frame_id = ""
        self.said_at = -math.inf
        self.bytes, self.frame_bytes = Meter(), Meter()
        self.masks, self.decode_ms, self.age_ms = Meter(), Meter(), Meter()
        self.loss = LossMeter()
        # Frames and masks of an overlay come in either order.
        self.overlay_images: OrderedDict[Header, Image | CompressedImage] = OrderedDict()
        self.overlay_masks: OrderedDict[Header, Mask] = OrderedDict()


class Receiver(PipelineNode):
    """Decodes packets and publishes masks, each with its frame's own stamp and frame_id."""

    thresholds = (
        Threshold("silence_s", "Seconds without a packet", 1.0, 5.0, 3600.0),
        Threshold("mask_age_ms", "Age of 95% of the masks in ms", 500.0, 2000.0, 1e7),
        Threshold("loss", "Share of packets lost", 0.15, 0.5, 1.0),
        Threshold("drops", "Share of frames dropped before the network", 0.05, 0.5, 1.0),
        Threshold("frames_per_s", "Masks a second", 0.0, 0.0, 1000.0, below=True),
    )

    def __init__(self) -> None:
        super().__init__("gosvae_rx")
        self.declare_image_input("the overlay's frames")
        self.declare(
            "slice_timeout",
            0.3,
            "Seconds to wait after a slice for the frame's next one, unless newer frames come "
            "before; a full packet takes 0.3 on a link of 40 kbit/s.",
            (0.0, 10.0),
        )
        self.declare(
            "feedback_rate",
            5.0,
            "Feedback messages a second, while packets arrive but no frame is decoded.",
            (0.1, 100.0),
        )
        self.declare(
            "batch",
            1,
            "Cameras' frames that one inference takes at most, of those that wait; more than 1 is "
            "for GPUs.",
            (1, 64),
        )
        self.declare_qos("packet_qos", "packets", "packets and feedback")
        self.declare_qos("mask_qos", "sensor_data", "masks and pictures")
        self.declare_qos("image_qos", "sensor_data", "the overlay's frames")
        self._streams: dict[str, _Camera] = {}
        self._reconstructor: Reconstructor | None = None
        self._worker: FrameWorker[EncodedFrame] | None = None
        self._ticks: list[Any] = []

    def make_decoder(self) -> Decoder:
        """Return a decoder that has seen nothing yet."""
        assert self.bundle is not None
        return Decoder(self.bundle, self.providers, self.value("threads"), self.value("batch"))

    def setup(self) -> None:
        """Load the networks, make publishers for each camera and latch the label info."""
        assert self.bundle is not None
        self.qos("image_qos")
        if self.bundle.reconstructs:
            self._reconstructor = Reconstructor(self.bundle, self.providers, self.value("threads"))
        for name in self.cameras:
            self._streams[name] = _Camera(self, name)

    def start(self) -> None:
        """Listen to packets."""
        self._worker = FrameWorker(
            self.cameras, self.value("queue_depth"), self._decode, self._fail, self.value("batch")
        )
        for name, camera in self._streams.items():
            camera.begin(self)
            camera.packets = self.create_subscription(
                TokenPacket,
                f"{name}/{topics.PACKETS}",
                lambda message, camera=camera: self._receive(camera, message),
                self.qos("packet_qos"),
                qos_overriding_options=self.overridable,
            )
            self.follow_demand(name)
        self._ticks = [
            self.every(max(self.value("slice_timeout") / 4, 0.01), self._expire),
            self.every(1 / self.value("feedback_rate"), self._remind),
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
            self._forget_calibration(camera)
        if worker is not None:
            worker.stop()

    def teardown(self) -> None:
        """Withdraw the publishers."""
        for camera in self._streams.values():
            pictures = (camera.mask, camera.color, camera.overlay, camera.reconstruction)
            for each in (*pictures, camera.camera_info, camera.feedback):
                if each is not None:
                    self.destroy_lifecycle_publisher(each)
            self.destroy_publisher(camera.label_info)
            self.destroy_publisher(camera.legend)
        self._streams = {}
        self._reconstructor = None

    def follow_demand(self, name: str) -> None:
        """Subscribe to what of the camera itself is wanted, its frames and info, and only then."""
        camera = self._streams.get(name)
        if camera is None or self._worker is None:
            return
        self._follow_calibration(camera)
        wanted = camera.overlay.get_subscription_count() > 0
        if wanted and camera.images is None:

            def keep(message: Image | CompressedImage) -> None:
                header = from_header_message(message.header)
                _remember(camera.overlay_images, header, message)
                self._publish_overlay(camera, header)

            camera.images = self.create_subscription(
                camera.image_type, camera.image_topic, keep, self.qos("image_qos")
            )
        elif not wanted:
            self._forget_images(camera)

    def _follow_calibration(self, camera: _Camera) -> None:
        """Take in the camera's info once, as all of them would be most of what crosses the link."""
        if camera.camera_info.get_subscription_count() == 0:
            self._forget_calibration(camera)
        elif camera.calibration is None and camera.calibrations is None:

            def keep(message: CameraInfo) -> None:
                self._forget_calibration(camera)
                camera.calibration = message

            camera.calibrations = self.create_subscription(
                CameraInfo, camera_info_topic(camera.image_topic), keep, self.qos("image_qos")
            )

    def _forget_calibration(self, camera: _Camera) -> None:
        if camera.calibrations is not None:
            self.destroy_subscription(camera.calibrations)
        camera.calibrations = camera.calibration = None

    def _forget_images(self, camera: _Camera) -> None:
        if camera.images is not None:
            self.destroy_subscription(camera.images)
            camera.images = None
        # New ones, as the thread that decodes may be filling the old ones.
        camera.overlay_images, camera.overlay_masks = OrderedDict(), OrderedDict()

    def _receive(self, camera: _Camera, message: TokenPacket) -> None:
        assert self.bundle is not None
        try:
            packet = from_packet_message(message)
            packet.check(self.bundle.fingerprint, self.bundle.grid, self.bundle.levels)
        except Exception as error:  # whatever a packet holds, the next one is received
            camera.foreign = error.theirs if isinstance(error, FingerprintError) else None
            self._fail(camera.name, error)
            return
        camera.packet_count += 1
        camera.foreign = None
        camera.bytes.add(packet.serialized_size())
        self._queue(camera, camera.reassembler.push(packet, time.monotonic()))

    def _fail(self, name: str, error: Exception) -> None:
        self._streams[name].rejections.add(str(error) or type(error).__name__)

    def _queue(self, camera: _Camera, frames: list[EncodedFrame]) -> None:
        if self._worker is not None:
            for frame in frames:
                self._worker.put(camera.name, frame)

    def _expire(self) -> None:
        before = time.monotonic() - self.value("slice_timeout")
        for camera in self._streams.values():
            self._queue(camera, camera.reassembler.expire(before))

    def _decode(self, frames: Mapping[str, EncodedFrame]) -> None:
        cameras = [self._streams[name] for name in frames]
        begin = time.perf_counter()
        results = decode_together(
            [
                (camera.decoder, frame.packets)
                for camera, frame in zip(cameras, frames.values(), strict=True)
            ]
        )
        milliseconds = (time.perf_counter() - begin) * 1e3
        for camera, frame, result in zip(cameras, frames.values(), results, strict=True):
            if isinstance(result, MissingReferenceError):
                camera.undecodable += 1
                camera.request_intra = True
                self._send_feedback(camera)
            elif isinstance(result, PacketError):
                self._fail(camera.name, result)
            else:
                camera.decode_ms.add(milliseconds)
                self._publish(camera, frame, result)

    def _publish(self, camera: _Camera, frame: EncodedFrame, decoded: DecodedFrame) -> None:
        now = self.get_clock().now().nanoseconds
        header = to_header_message(decoded.header)
        calibration = camera.calibration
        if calibration is not None:
            calibration.header = header
            camera.camera_info.publish(calibration)
        camera.mask.publish(to_image(decoded.mask, "mono8", header))
        camera.frames += 1
        camera.masks.add(1)
        camera.frame_bytes.add(sum(packet.serialized_size() for packet in frame.packets))
        # Simulated time is zero until somebody publishes it.
        if now:
            camera.age = now / 1e6 - (decoded.header.sec * 1e3 + decoded.header.nanosec / 1e6)
            camera.age_ms.add(camera.age)
        camera.coverage = decoded.coverage
        camera.frame_id = decoded.header.frame_id
        camera.request_intra = False
        if decoded.complete:
            camera.acknowledged = (frame.packets[0].stream, decoded.sequence)
        self._send_feedback(camera)
        self._publish_pictures(camera, decoded)

    def _publish_pictures(self, camera: _Camera, decoded: DecodedFrame) -> None:
        assert self.bundle is not None
        if camera.color.get_subscription_count() > 0:
            color = colorize(decoded.mask, self.bundle.labels)
            camera.color.publish(to_image(color, "rgb8", to_header_message(decoded.header)))
        if camera.images is not None:
            _remember(camera.overlay_masks, decoded.header, decoded.mask)
            self._publish_overlay(camera, decoded.header)
        publisher, network = camera.reconstruction, self._reconstructor
        if publisher and network and publisher.get_subscription_count() > 0:
            picture = network.reconstruct(decoded)
            publisher.publish(to_image(picture, "rgb8", to_header_message(decoded.header)))

    def _publish_overlay(self, camera: _Camera, header: Header) -> None:
        assert self.bundle is not None
        if header not in camera.overlay_images:
            return
        # Whoever takes the mask publishes: frames and masks come in threads of their own.
        mask = camera.overlay_masks.pop(header, None)
        image = camera.overlay_images.pop(header, None) if mask is not None else None
        if image is None or mask is None:
            return
        try:
            frame = camera.converter.to_rgb(image)
            if frame.shape[:2] != mask.shape:
                raise ValueError(f"frame {frame.shape[:2]} but mask {mask.shape}")
        except Exception as error:  # whatever a frame holds, the next one has its overlay
            reason = f"{camera.name}: no overlay: {error}"
            self.get_logger().error(reason, throttle_duration_sec=5.0)
            return
        color = colorize(mask, self.bundle.labels)
        blended = np.asarray(cv2.addWeighted(frame, 0.5, color, 0.5, 0.0), np.uint8)
        camera.overlay.publish(to_image(blended, "rgb8", image.header))

    def _remind(self) -> None:
        due = time.monotonic() - 0.9 / self.value("feedback_rate")
        for camera in self._streams.values():
            hears = camera.bytes.rate() > 0 or camera.rejections.meter.rate() > 0
            if hears and camera.said_at <= due:
                self._send_feedback(camera)

    def _send_feedback(self, camera: _Camera) -> None:
        assert self.bundle is not None
        stream, acknowledged = camera.reassembler.stream or 0, camera.acknowledged
        message = Feedback()
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = camera.frame_id
        message.fingerprint = self.bundle.fingerprint
        message.stream = stream
        # The frame may be of a stream that was replaced while it was decoded.
        if acknowledged is not None and acknowledged[0] == stream:
            message.has_acknowledged = True
            message.acknowledged = acknowledged[1]
        message.request_intra = camera.request_intra
        message.packets_received = camera.reassembler.received % (1 << 32)
        message.packets_lost = camera.reassembler.lost % (1 << 32)
        newest = camera.reassembler.newest
        if newest is not None:
            message.newest = newest[0]
            message.newest_arrival_us = round(newest[1] * 1e6) % (1 << 32)
        message.packets_rejected = camera.rejections.count % (1 << 32)
        message.coverage = camera.coverage
        message.mask_age_ms = camera.age
        camera.said_at = time.monotonic()
        camera.feedback.publish(message)

    def report(self, camera: str) -> tuple[bytes, str, Mapping[str, Any]]:
        """See :class:`PipelineNode`."""
        stream = self._streams[camera]
        session, rejections = stream.decoder.session, stream.rejections
        stream.loss.update(stream.reassembler.lost, stream.reassembler.received)
        masks = stream.masks.rate()
        values: dict[str, Any] = {
            "provider": session.provider,
            "masks": stream.frames,
            "packets": stream.packet_count,
            "frames/s": masks,
            "bytes/frame": stream.frame_bytes.mean(),
            "kbit/s": stream.bytes.sum_rate() * 8 / 1000,
            "decode ms p50": stream.decode_ms.percentile(0.5),
            "decode ms p95": stream.decode_ms.percentile(0.95),
            "mask age ms p50": stream.age_ms.percentile(0.5),
            "mask age ms p95": stream.age_ms.percentile(0.95),
            "coverage": stream.coverage,
            "loss": stream.loss.value(),
            "lost packets": stream.reassembler.lost,
            "stale packets": stream.reassembler.stale,
            "dropped": self._worker.dropped(camera) if self._worker else 0,
            "without reference": stream.undecodable,
            "rejected": rejections.count,
            "last rejection": rejections.last,
        }
        if self._worker is None or stream.packets is None:
            return WARN, "inactive", values
        findings = Findings()
        rejected = rejections.meter.rate() > 0
        silence = min(stream.bytes.silence(), rejections.meter.silence())
        if rejected and stream.foreign is not None:
            values["sender fingerprint"] = f"{stream.foreign:016x}"
            text = mismatch_text("transmitter", stream.foreign)
            findings.add(self.level("bundle_mismatch"), text)
        elif rejected:
            findings.add(WARN, f"packets rejected: {rejections.last}")
        if (level := self.judge("silence_s", silence)) != OK:
            remedy = "start the transmitter with the same cameras, domain and discovery range"
            why = explain_silence(self, stream.packets, [TokenPacket], remedy)
            findings.add(level, f"no packets for {silence:.0f} s: {why}")
        elif masks == 0 and not rejected:
            findings.add(WARN, "packets arrive, but are older than what was decoded")
        elif masks > 0 and self.get_clock().now().nanoseconds == 0:
            findings.add(WARN, "use_sim_time is set, but nobody publishes /clock")
        age = values["mask age ms p95"]
        if problem := age_problem(values["mask age ms p50"]):
            findings.add(WARN, problem)
        else:
            findings.add(
                self.judge("mask_age_ms", age),
                f"masks are {age:.0f} ms old: decoding takes "
                f"{values['decode ms p95']:.0f} ms of it; if not there, it is the transmitter's "
                "encode ms or queue on the way ms, or clocks that differ",
            )
        findings.add(
            self.judge("loss", values["loss"]),
            f"{values['loss']:.0%} of the packets are lost: lower max_kbit_per_s or raise parity "
            "at the transmitter, or better the link",
        )
        drops = share(self._worker.drop_rate(camera), masks)
        findings.add(
            self.judge("drops", drops),
            f"{drops:.0%} of the frames are dropped: they come faster than the network runs; "
            "lower the camera's rate, or raise threads",
        )
        if stream.frames:
            text = f"{masks:.1f} masks a second, fewer than asked for"
            findings.add(self.judge("frames_per_s", masks), text)
        if session.fell_back:
            text = fallback_text(session.provider, self.value("providers"))
            findings.add(self.level("provider_fallback"), text)
        return *findings.summary("receiving"), values

    def clock_jumped(self) -> None:
        """See :class:`PipelineNode`."""
        for camera in self._streams.values():
            camera.age_ms = Meter()
