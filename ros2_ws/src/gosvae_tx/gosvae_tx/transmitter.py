"""The transmitter node."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from gosvae_codec import Encoder
from gosvae_codec.images import to_rgb
from gosvae_codec.redundancy import parity_for
from gosvae_msgs.msg import Feedback, TokenPacket
from gosvae_node.messages import from_header_message, to_packet_message
from gosvae_node.meters import Complaints, Meter
from gosvae_node.node import ERROR, OK, WARN, ConfigurationError, PipelineNode, run
from gosvae_node.worker import FrameWorker

FEEDBACK_SECONDS = 5.0
"""How long a receiver's word counts."""
LOSS_SECONDS = 2.0
"""Over how long the share of lost packets is taken."""
AUTOMATIC = -1
"""Value of `parity` for as many packets as the loss asks for."""


class _Camera:
    """One camera's publisher, and what is known of its stream since activation."""

    def __init__(self, node: Transmitter, name: str) -> None:
        self.topic, self.type = node.image_topic(name)
        self.images: Subscription | None = None
        self.begin(node)
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
            self._listen,
            node.qos("packet_qos"),
            qos_overriding_options=node.overridable,
        )

    def begin(self, node: Transmitter) -> None:
        """Begin a new stream, with all figures at their start."""
        self.encoder = node.make_encoder()
        self.feedback: Feedback | None = None
        self.heard = 0.0
        self.intra_at = -math.inf
        self.slices = 1
        self.loss = 0.0
        """Share of the slices that were lost lately, 0 to 1, as the receiver counts them."""
        self._counts: deque[tuple[float, int, int]] = deque()
        self.frames = self.intra_frames = self.packet_count = 0
        self.arrivals, self.bytes, self.encode_ms = Meter(), Meter(), Meter()
        self.distance = Meter()
        self.failures = Complaints(
            lambda reason: node.get_logger().error(f"{self.topic}: {reason}")
        )

    def _listen(self, message: Feedback) -> None:
        self.feedback = message
        self.heard = time.monotonic()
        encoder = self.encoder
        if (message.stream, message.fingerprint) != (encoder.stream, encoder.bundle.fingerprint):
            return
        usable = message.has_acknowledged and not message.request_intra
        encoder.acknowledge(message.acknowledged if usable else None)
        self._counts.append((self.heard, message.packets_received, message.packets_lost))
        while self._counts[0][0] < self.heard - LOSS_SECONDS:
            self._counts.popleft()
        _, received, lost = self._counts[0]
        # Both wrap around, and what came late is no longer lost.
        received = (message.packets_received - received) % (1 << 32)
        lost = (message.packets_lost - lost) % (1 << 32)
        self.loss = lost / (received + lost) if 0 < lost < 1 << 31 else 0.0


class Transmitter(PipelineNode):
    """Encodes the newest frames of its cameras and publishes them as packets."""

    live = frozenset({"levels", "intra_period", "slices", "parity"})

    def __init__(self) -> None:
        super().__init__("gosvae_tx")
        self.declare_image_transport("frames")
        self.declare("levels", 0, "Residual levels to send; 0: all that the bundle has.", (0, 255))
        self.declare(
            "intra_period",
            1.0,
            "Seconds after which a frame is sent that refers to no other; 0: every frame.",
            (0.0, 60.0),
        )
        self.declare(
            "slices",
            1,
            "Least slices of a frame: more cost bytes, but a lost one costs less of the frame.",
            (1, 64),
        )
        self.declare(
            "parity",
            0,
            "Packets to add to each frame so that as many lost ones cost nothing of it; "
            "-1: as many as the loss asks for that the receiver tells.",
            (-1, 64),
        )
        self.declare("lazy", True, "Take frames only while somebody listens to the packets.")
        self.declare_qos("image_qos", "sensor_data", "the camera's frames")
        self.declare_qos("packet_qos", "packets", "packets and feedback")
        self._streams: dict[str, _Camera] = {}
        self._worker: FrameWorker[Image | CompressedImage] | None = None

    def check_live(self, parameter: Parameter) -> None:
        """See :class:`PipelineNode`."""
        if parameter.name != "levels" or self.bundle is None:
            return
        if parameter.value > self.bundle.levels:
            raise ConfigurationError(
                f"levels {parameter.value}: {self.bundle.name} has 1 to {self.bundle.levels}"
            )

    def make_encoder(self) -> Encoder:
        """Return an encoder with a new stream number."""
        assert self.bundle is not None
        return Encoder(self.bundle, self.value("providers"), self.value("threads"))

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

    def _encode(self, name: str, message: Image | CompressedImage) -> None:
        camera = self._streams[name]
        begin = time.perf_counter()
        intra = begin - camera.intra_at >= self.value("intra_period")
        parity = self.value("parity")
        if parity == AUTOMATIC:
            parity = parity_for(camera.loss, camera.slices)
        packets = camera.encoder.encode(
            to_rgb(message),
            from_header_message(message.header),
            self.value("levels") or None,
            intra,
            self.value("slices"),
            parity,
        )
        for packet in packets:
            camera.packets.publish(to_packet_message(packet))
        camera.encode_ms.add((time.perf_counter() - begin) * 1e3)
        camera.bytes.add(sum(packet.serialized_size() for packet in packets))
        camera.frames += 1
        camera.packet_count += len(packets)
        camera.slices = packets[0].slice_count
        if packets[0].reference == 0:
            camera.intra_at = begin
            camera.intra_frames += 1
        else:
            camera.distance.add(packets[0].reference)

    def _fail(self, name: str, error: Exception) -> None:
        self._streams[name].failures.add(str(error) or type(error).__name__)

    def report(self, camera: str) -> tuple[bytes, str, Mapping[str, Any]]:
        """See :class:`PipelineNode`."""
        stream, encoder = self._streams[camera], self._streams[camera].encoder
        values: dict[str, Any] = {
            "provider": encoder.session.provider,
            "listeners": stream.packets.get_subscription_count(),
            "levels": self.value("levels") or encoder.bundle.levels,
            "frames": stream.frames,
            "intra frames": stream.intra_frames,
            "predicted frames": stream.frames - stream.intra_frames,
            "reference distance": stream.distance.mean(),
            "packets": stream.packet_count,
            "frames/s": stream.bytes.rate(),
            "bytes/frame": stream.bytes.mean(),
            "kbit/s": stream.bytes.sum_rate() * 8 / 1000,
            "encode ms p50": stream.encode_ms.percentile(0.5),
            "encode ms p95": stream.encode_ms.percentile(0.95),
            "dropped": self._worker.dropped(camera) if self._worker else 0,
            "failed": stream.failures.count,
            "last failure": stream.failures.last,
        }
        if self._worker is None:
            return WARN, "inactive", values
        feedback = stream.feedback if time.monotonic() - stream.heard < FEEDBACK_SECONDS else None
        if feedback is not None:
            values["receiver fingerprint"] = f"{feedback.fingerprint:016x}"
            values["receiver lost"] = feedback.packets_lost
            values["loss"] = stream.loss
            values["receiver rejected"] = feedback.packets_rejected
            if feedback.fingerprint != encoder.bundle.fingerprint:
                text = (
                    f"the receiver has another bundle, {feedback.fingerprint:016x}: "
                    "give both nodes the same folder"
                )
                return ERROR, text, values
        if stream.images is None:
            return OK, "waiting for a receiver", values
        if stream.arrivals.rate() == 0:
            return WARN, f"no frames on {stream.images.topic_name}", values
        if stream.failures.meter.rate() > 0:
            level = WARN if stream.bytes.rate() > 0 else ERROR
            return level, f"frames that cannot be encoded: {stream.failures.last}", values
        if self._worker.drop_rate(camera) > 0:
            return WARN, "frames dropped: they come faster than the network runs", values
        if encoder.session.fell_back:
            return WARN, f"running on {encoder.session.provider}, not as asked", values
        return OK, "sending", values


def main() -> None:
    """Entry point of ``ros2 run gosvae_tx transmitter``."""
    run(Transmitter)
