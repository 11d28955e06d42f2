"""The transmitter node."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from gosvae_codec import Encoder, ImageConverter
from gosvae_codec.rate import Report
from gosvae_codec.sender import SETTINGS, Feedback, Sender, Settings, datagram_size
from gosvae_common import topics
from gosvae_common.health import (
    ERROR,
    OK,
    WARN,
    Findings,
    LossMeter,
    Threshold,
    explain_silence,
    fallback_text,
    mismatch_text,
    share,
)
from gosvae_common.messages import from_header_message, to_packet_message
from gosvae_common.meters import Complaints, Meter
from gosvae_common.node import ConfigurationError, PipelineNode
from gosvae_common.worker import FrameWorker
from gosvae_msgs.msg import Feedback as FeedbackMessage
from gosvae_msgs.msg import TokenPacket

FEEDBACK_SECONDS = 5.0
"""How long a receiver's word counts."""


class _Camera:
    """One camera's publisher, and what is known of its stream since activation."""

    def __init__(self, node: Transmitter, name: str) -> None:
        self.topic, self.type = node.image_topic(name)
        self.images: Subscription | None = None
        self.begin(node)
        self.packets = node.create_lifecycle_publisher(
            TokenPacket,
            f"{name}/{topics.PACKETS}",
            node.qos("packet_qos"),
            event_callbacks=PublisherEventCallbacks(matched=lambda _: node.follow_demand(name)),
            qos_overriding_options=node.overridable,
        )
        self.feedbacks = node.create_subscription(
            FeedbackMessage,
            f"{name}/{topics.FEEDBACK}",
            self._listen,
            node.qos("packet_qos"),
            qos_overriding_options=node.overridable,
        )

    def begin(self, node: Transmitter) -> None:
        """Begin a new stream, with all figures at their start."""
        self.sender = Sender(node.make_encoder())
        self.converter = ImageConverter()
        self.feedback: FeedbackMessage | None = None
        self.heard = 0.0
        self.begun = math.inf
        """When the first frame was sent."""
        self.frames = self.intra_frames = self.packet_count = 0
        self.arrivals, self.bytes, self.encode_ms = Meter(), Meter(), Meter()
        self.link_bytes, self.levels, self.parity = Meter(), Meter(), Meter()
        self.distance, self.intra, self.skips = Meter(), Meter(), Meter()
        self.loss = LossMeter()
        self.failures = Complaints(
            lambda reason: node.get_logger().error(f"{self.topic}: {reason}")
        )

    def _listen(self, message: FeedbackMessage) -> None:
        self.feedback = message
        self.heard = time.monotonic()
        if message.fingerprint != self.sender.encoder.bundle.fingerprint:
            return
        usable = message.has_acknowledged and not message.request_intra
        report = Report(
            message.packets_received,
            message.packets_lost,
            message.newest,
            message.newest_arrival_us,
        )
        acknowledged = message.acknowledged if usable else None
        self.sender.on_feedback(Feedback(message.stream, acknowledged, report))


class Transmitter(PipelineNode):
    """Encodes the newest frames of its cameras and publishes them as packets."""

    live = frozenset(setting.name for setting in SETTINGS)
    thresholds = (
        Threshold("silence_s", "Seconds without a frame of the camera", 1.0, 5.0, 3600.0),
        Threshold("feedback_s", "Seconds of sending without feedback", 5.0, 0.0, 3600.0),
        Threshold("loss", "Share of packets lost, as the receiver tells", 0.15, 0.5, 1.0),
        Threshold("drops", "Share of frames dropped before the network", 0.05, 0.5, 1.0),
        Threshold("frames_per_s", "Frames sent a second", 0.0, 0.0, 1000.0, below=True),
    )

    def __init__(self) -> None:
        super().__init__("gosvae_tx")
        self.declare_image_input("the frames")
        for name, default, limits, description in SETTINGS:
            self.declare(name, default, description, limits)
        self.declare("lazy", True, "Take frames only while somebody listens to the packets.")
        self.declare_qos("image_qos", "sensor_data", "the camera's frames")
        self.declare_qos("packet_qos", "packets", "packets and feedback")
        self._streams: dict[str, _Camera] = {}
        self._worker: FrameWorker[Image | CompressedImage] | None = None

    def check_live(self, parameter: Parameter) -> None:
        """See :class:`PipelineNode`."""
        if parameter.name != "levels":
            return
        if self.bundle is not None and parameter.value > self.bundle.levels:
            raise ConfigurationError(
                f"levels {parameter.value}: {self.bundle.name} has 1 to {self.bundle.levels}"
            )

    def make_encoder(self) -> Encoder:
        """Return an encoder with a new stream number."""
        assert self.bundle is not None
        return Encoder(self.bundle, self.providers, self.value("threads"))

    def setup(self) -> None:
        """Load the encoder and make a packet publisher for each camera."""
        self.check_live(self.get_parameter("levels"))
        for name in self.cameras:
            camera = _Camera(self, name)
            self._streams[name] = camera
            # Once for nothing: a wrong QoS override shows here, not when a receiver comes.
            self._subscribe(camera, lambda _: None)
            self._unsubscribe(camera)

    def start(self) -> None:
        """Begin a new stream for each camera."""
        for camera in self._streams.values():
            camera.begin(self)
        self._worker = FrameWorker(
            self.cameras, self.value("queue_depth"), self._encode, self._fail
        )
        for name in self.cameras:
            self.follow_demand(name)

    def stop(self) -> None:
        """Leave the cameras alone."""
        worker, self._worker = self._worker, None
        for camera in self._streams.values():
            self._unsubscribe(camera)
        if worker is not None:
            worker.stop()

    def teardown(self) -> None:
        """Withdraw the publishers."""
        for camera in self._streams.values():
            self.destroy_lifecycle_publisher(camera.packets)
            self.destroy_subscription(camera.feedbacks)
        self._streams = {}

    def follow_demand(self, name: str) -> None:
        """Subscribe to a camera while its packets are wanted, and only then."""
        camera, worker = self._streams.get(name), self._worker
        if camera is None or worker is None:
            return
        wanted = not self.value("lazy") or camera.packets.get_subscription_count() > 0
        if wanted and camera.images is None:
            # Until now nobody expected any.
            camera.arrivals = Meter()

            def queue(message: Image | CompressedImage) -> None:
                camera.arrivals.add(1)
                worker.put(name, message)

            self._subscribe(camera, queue)
        elif not wanted:
            self._unsubscribe(camera)

    def _subscribe(self, camera: _Camera, callback: Any) -> None:
        camera.images = self.create_subscription(
            camera.type,
            camera.topic,
            callback,
            self.qos("image_qos"),
            qos_overriding_options=self.overridable,
        )

    def _unsubscribe(self, camera: _Camera) -> None:
        if camera.images is not None:
            self.destroy_subscription(camera.images)
            camera.images = None

    def _encode(self, frames: Mapping[str, Image | CompressedImage]) -> None:
        ((name, message),) = frames.items()
        camera = self._streams[name]
        begin = time.perf_counter()
        settings = Settings(**{each.name: self.value(each.name) for each in SETTINGS})
        header = from_header_message(message.header)
        packets = camera.sender.send(camera.converter.to_rgb(message), header, settings)
        if not packets:
            camera.skips.add(1)
            return
        for packet in packets:
            camera.packets.publish(to_packet_message(packet))
        camera.encode_ms.add((time.perf_counter() - begin) * 1e3)
        camera.bytes.add(sum(packet.serialized_size() for packet in packets))
        camera.link_bytes.add(sum(map(datagram_size, packets)))
        camera.begun = min(camera.begun, time.monotonic())
        camera.frames += 1
        camera.packet_count += len(packets)
        first = packets[0]
        camera.levels.add(first.levels)
        camera.parity.add(len(packets) - first.slice_count)
        if first.reference == 0:
            camera.intra.add(1)
            camera.intra_frames += 1
        else:
            camera.distance.add(first.reference)

    def _fail(self, name: str, error: Exception) -> None:
        self._streams[name].failures.add(str(error) or type(error).__name__)

    def report(self, camera: str) -> tuple[bytes, str, Mapping[str, Any]]:
        """See :class:`PipelineNode`."""
        stream, now = self._streams[camera], time.monotonic()
        encoder, control = stream.sender.encoder, stream.sender.control
        limit, intra = self.value("max_kbit_per_s"), stream.intra.rate()
        values: dict[str, Any] = {
            "provider": encoder.session.provider,
            "listeners": stream.packets.get_subscription_count(),
            "levels": stream.levels.mean(),
            "frames": stream.frames,
            "intra frames": stream.intra_frames,
            "predicted frames": stream.frames - stream.intra_frames,
            "reference distance": stream.distance.mean(),
            "packets": stream.packet_count,
            "frames/s": stream.bytes.rate(),
            "bytes/frame": stream.bytes.mean(),
            "kbit/s": stream.bytes.sum_rate() * 8 / 1000,
            "kbit/s with headers": stream.link_bytes.sum_rate() * 8 / 1000,
            "max kbit/s": limit or "none",
            "target kbit/s": control.target / 1000 if math.isfinite(control.target) else "none",
            "rate control": control.state(now),
            "queue on the way ms": control.queue * 1e3,
            "skipped": control.skipped,
            "skipped/s": stream.skips.rate(),
            "intra spacing s": 1 / intra if intra else math.nan,
            "parity/frame": stream.parity.mean(),
            "encode ms p50": stream.encode_ms.percentile(0.5),
            "encode ms p95": stream.encode_ms.percentile(0.95),
            "dropped": self._worker.dropped(camera) if self._worker else 0,
            "failed": stream.failures.count,
            "last failure": stream.failures.last,
        }
        if self._worker is None:
            return WARN, "inactive", values
        findings = Findings()
        feedback = stream.feedback if now - stream.heard < FEEDBACK_SECONDS else None
        if feedback is not None:
            values["receiver fingerprint"] = f"{feedback.fingerprint:016x}"
            values["receiver lost"] = feedback.packets_lost
            values["loss"] = control.loss
            values["receiver rejected"] = feedback.packets_rejected
            if feedback.fingerprint != encoder.bundle.fingerprint:
                text = mismatch_text("receiver", feedback.fingerprint)
                findings.add(self.level("bundle_mismatch"), text)
            stream.loss.update(feedback.packets_lost, feedback.packets_received)
            loss = stream.loss.value()
            findings.add(
                self.judge("loss", loss),
                f"{loss:.0%} of the packets are lost: lower max_kbit_per_s or raise "
                "parity, or better the link",
            )
        if stream.images is None:
            return *findings.summary("waiting for a receiver"), values
        rate, silence = stream.bytes.rate(), stream.arrivals.silence()
        if (level := self.judge("silence_s", silence)) != OK:
            remedy = "set cameras, image_topics and image_transport, or remap"
            why = explain_silence(self, stream.images, [Image, CompressedImage], remedy)
            findings.add(level, f"no frames for {silence:.0f} s: {why}")
        elif stream.skips.rate() > 0 and rate == 0:
            text = f"max_kbit_per_s {limit:g} leaves no room for a single frame: raise it"
            findings.add(ERROR, text)
        elif stream.failures.meter.rate() > 0:
            level = WARN if rate > 0 else ERROR
            findings.add(level, f"frames that cannot be encoded: {stream.failures.last}")
        elif stream.frames:
            text = f"{rate:.1f} frames sent a second, fewer than asked for"
            findings.add(self.judge("frames_per_s", rate), text)
        if rate > 0:
            unanswered = now - max(stream.heard, stream.begun)
            findings.add(
                self.judge("feedback_s", unanswered),
                f"no feedback for {unanswered:.0f} s, so no frame is predicted: is the receiver "
                f"active, and does {stream.feedbacks.topic_name} come back over the link?",
            )
        drops = share(self._worker.drop_rate(camera), rate)
        findings.add(
            self.judge("drops", drops),
            f"{drops:.0%} of the frames are dropped: they come faster than the network runs; "
            "lower the camera's rate, or raise threads",
        )
        if encoder.session.fell_back:
            text = fallback_text(encoder.session.provider, self.value("providers"))
            findings.add(self.level("provider_fallback"), text)
        return *findings.summary("sending"), values
