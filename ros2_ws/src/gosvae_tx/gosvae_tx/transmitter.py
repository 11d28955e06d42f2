"""The transmitter node."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from gosvae_codec import Encoder, GosvaeError
from gosvae_codec.images import to_rgb
from gosvae_msgs.msg import Feedback, TokenPacket
from gosvae_node.messages import from_header_message, to_packet_message
from gosvae_node.meters import Meter
from gosvae_node.node import ERROR, OK, WARN, PipelineNode, run
from gosvae_node.worker import FrameWorker


class _Camera:
    """One camera's stream and what is known of it."""

    def __init__(self, node: Transmitter, name: str) -> None:
        self.topic, self.type = node.image_topic(name)
        self.encoder: Encoder | None = None
        self.images: Subscription | None = None
        self.feedback: Feedback | None = None
        self.failures = 0
        self.failure = ""
        self.arrivals, self.bytes, self.encode_ms = Meter(), Meter(), Meter()
        self.frames = self.packet_count = 0
        self.packets = node.create_lifecycle_publisher(
            TokenPacket,
            f"{name}/image_raw/gosvae",
            node.qos("packet_qos"),
            event_callbacks=PublisherEventCallbacks(matched=lambda _: node.follow_demand(name)),
            qos_overriding_options=node.overridable,
        )
        self.feedbacks = node.create_subscription(
            Feedback,
            f"{name}/image_raw/gosvae/feedback",
            self._remember,
            node.qos("packet_qos"),
            qos_overriding_options=node.overridable,
        )

    def _remember(self, message: Feedback) -> None:
        self.feedback = message


class Transmitter(PipelineNode):
    """Encodes the newest frames of its cameras and publishes them as packets."""

    live = frozenset({"levels"})

    def __init__(self) -> None:
        super().__init__("gosvae_tx")
        self.declare_image_transport("frames")
        self.declare("levels", 1, "Residual levels to send; 0: all that the bundle has.", (0, 255))
        self.declare("lazy", True, "Take frames only while somebody listens to the packets.")
        self.declare_qos("image_qos", "sensor_data", "the camera's frames")
        self.declare_qos("packet_qos", "packets", "packets and feedback")
        self._streams: dict[str, _Camera] = {}
        self._worker: FrameWorker[Image | CompressedImage] | None = None

    def setup(self) -> None:
        """Load the encoder and make a packet publisher for each camera."""
        self.qos("image_qos")
        self._new_encoder()
        for name in self.cameras:
            self._streams[name] = _Camera(self, name)

    def _new_encoder(self) -> Encoder:
        assert self.bundle is not None
        return Encoder(self.bundle, self.value("providers"), self.value("threads"))

    def start(self) -> None:
        """Begin a new stream for each camera."""
        for camera in self._streams.values():
            camera.encoder = self._new_encoder()
        self._worker = FrameWorker(self.cameras, self.value("queue_depth"), self._encode)
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
        camera = self._streams.get(name)
        if camera is None or self._worker is None:
            return
        wanted = not self.value("lazy") or camera.packets.get_subscription_count() > 0
        if wanted and camera.images is None:
            worker = self._worker

            def queue(message: Image | CompressedImage) -> None:
                camera.arrivals.add(1)
                worker.put(name, message)

            camera.images = self.create_subscription(
                camera.type,
                camera.topic,
                queue,
                self.qos("image_qos"),
                qos_overriding_options=self.overridable,
            )
        elif not wanted:
            self._unsubscribe(camera)

    def _unsubscribe(self, camera: _Camera) -> None:
        if camera.images is not None:
            self.destroy_subscription(camera.images)
            camera.images = None

    def _encode(self, name: str, message: Image | CompressedImage) -> None:
        camera = self._streams[name]
        assert camera.encoder is not None and self.bundle is not None
        begin = time.perf_counter()
        # Whatever a message holds, the next one must still be encoded.
        try:
            levels = min(self.value("levels") or self.bundle.levels, self.bundle.levels)
            packets = camera.encoder.encode(
                to_rgb(message), from_header_message(message.header), levels
            )
        except GosvaeError as error:
            self._fail(camera, str(error))
            return
        except Exception as error:
            self._fail(camera, f"{type(error).__name__}: {error}")
            return
        for packet in packets:
            camera.packets.publish(to_packet_message(packet))
        camera.encode_ms.add((time.perf_counter() - begin) * 1e3)
        camera.bytes.add(sum(packet.serialized_size() for packet in packets))
        camera.frames += 1
        camera.packet_count += len(packets)

    def _fail(self, camera: _Camera, reason: str) -> None:
        camera.failures += 1
        camera.failure = reason
        self.get_logger().error(f"{camera.topic}: {reason}", throttle_duration_sec=5.0)

    def report(self, camera: str) -> tuple[bytes, str, Mapping[str, Any]]:
        """See :class:`PipelineNode`."""
        stream = self._streams[camera]
        encoder = stream.encoder
        values: dict[str, Any] = {
            "provider": encoder.session.provider if encoder else "",
            "listeners": stream.packets.get_subscription_count(),
            "frames": stream.frames,
            "packets": stream.packet_count,
            "frames/s": stream.bytes.rate(),
            "bytes/frame": stream.bytes.sum_rate() / max(stream.bytes.rate(), 1e-9),
            "kbit/s": stream.bytes.sum_rate() * 8 / 1000,
            "encode ms p50": stream.encode_ms.percentile(0.5),
            "encode ms p95": stream.encode_ms.percentile(0.95),
            "dropped": self._worker.dropped(camera) if self._worker else 0,
            "failed": stream.failures,
            "last failure": stream.failure,
        }
        level, text = OK, "sending"
        if self._worker is None or encoder is None:
            return WARN, "inactive", values
        feedback = stream.feedback
        if feedback is not None and feedback.stream == encoder.stream:
            values["receiver lost"] = feedback.packets_lost
            values["receiver rejected"] = feedback.packets_rejected
            values["receiver fingerprint"] = f"{feedback.fingerprint:016x}"
        if stream.images is None:
            text = "waiting for a receiver"
        elif stream.arrivals.rate() == 0:
            level, text = WARN, f"no frames on {stream.images.topic_name}"
        elif stream.bytes.rate() == 0:
            level, text = ERROR, f"no frame could be encoded: {stream.failure}"
        elif encoder.session.fell_back:
            level, text = WARN, f"running on {encoder.session.provider}, not as asked"
        if feedback is not None and feedback.fingerprint != encoder.bundle.fingerprint:
            level, text = ERROR, "the receiver has another bundle"
        return level, text, values


def main() -> None:
    """Entry point of ``ros2 run gosvae_tx transmitter``."""
    run(Transmitter)
