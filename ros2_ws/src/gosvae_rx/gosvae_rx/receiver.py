"""The receiver node: its parameters, topics, worker and timers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from rclpy.subscription import Subscription

from gosvae_codec import (
    DecodedFrame,
    Decoder,
    EncodedFrame,
    ModelBundle,
    Reconstructor,
    decode_together,
)
from gosvae_codec.tasks import MIN_SCORE
from gosvae_common import topics
from gosvae_common.diagnostics import Report
from gosvae_common.graph import explain_silence
from gosvae_common.health import DROPS, Threshold
from gosvae_common.node import PipelineNode
from gosvae_common.worker import FrameWorker
from gosvae_msgs.msg import Feedback, TokenPacket

from .outputs import Outputs
from .stream import Conditions, Stream


class _Camera:
    """One camera's topics, and its stream since activation."""

    def __init__(self, node: Receiver, name: str, bundle: ModelBundle) -> None:
        self.packets: Subscription | None = None
        self.stream = node.make_stream(name)
        self.outputs = Outputs(node, name, bundle)
        self.feedback = node.create_lifecycle_publisher(
            Feedback,
            f"{name}/{topics.FEEDBACK}",
            node.qos("packet_qos"),
            qos_overriding_options=node.overridable,
        )


class Receiver(PipelineNode):
    """Decodes packets and publishes what the bundle's tasks make of them.

    Each result has its frame's own stamp and frame_id. Features are computed once a frame, and each
    head runs only while somebody listens to what it makes.
    """

    thresholds = (
        Threshold("silence_s", "Seconds without a packet", 1.0, 5.0, 3600.0),
        Threshold("mask_age_ms", "Age of 95% of the masks in ms", 500.0, 2000.0, 1e7),
        Threshold("loss", "Share of packets lost", 0.15, 0.5, 1.0),
        DROPS,
        Threshold("frames_per_s", "Masks a second", 0.0, 0.0, 1000.0, below=True),
    )

    def __init__(self) -> None:
        super().__init__("gosvae_rx")
        self.declare_image_input("the overlay's frames")
        self.declare(
            "slice_timeout",
            0.3,
            "Seconds to wait after a slice for the next slice of its frame, unless newer frames "
            "arrive before; a full packet takes 0.3 s on a link of 40 kbit/s.",
            (0.0, 10.0),
        )
        self.declare(
            "feedback_rate",
            5.0,
            "Feedback messages a second while packets arrive and no frame is decoded.",
            (0.1, 100.0),
        )
        self.declare(
            "batch",
            1,
            "Largest number of cameras whose frames share one inference; more than 1 is for GPUs.",
            (1, 64),
        )
        self.declare(
            "min_score",
            MIN_SCORE,
            "Least score of a published box; less finds more objects, and more that are none.",
            (0.0, 1.0),
        )
        self.declare_qos("packet_qos", "packets", "packets and feedback")
        self.declare_qos("mask_qos", "sensor_data", "what tasks make, and pictures")
        self.declare_qos("image_qos", "sensor_data", "the overlay's frames")
        self._cameras: dict[str, _Camera] = {}
        self._reconstructor: Reconstructor | None = None
        self._worker: FrameWorker[EncodedFrame] | None = None
        self._ticks: list[Any] = []

    def make_stream(self, camera: str) -> Stream:
        """Return a new stream, whose decoder has no reference yet."""
        assert self.bundle is not None

        def log(reason: str) -> None:
            self.get_logger().error(f"{camera}: {reason}")

        threads, batch = self.value("threads"), self.value("batch")
        decoder = Decoder(
            self.bundle, self.providers, threads, batch, min_score=self.value("min_score")
        )
        return Stream(decoder, log, self.keys)

    def setup(self) -> None:
        """Load the networks, create publishers for each camera and latch the label info."""
        assert self.bundle is not None
        self.qos("image_qos")
        if self.bundle.reconstructs:
            self._reconstructor = Reconstructor(self.bundle, self.providers, self.value("threads"))
        for name in self.cameras:
            self._cameras[name] = _Camera(self, name, self.bundle)

    def start(self) -> None:
        """Subscribe to packets."""
        self._worker = FrameWorker(
            self.cameras,
            self.value("queue_depth"),
            self._decode,
            self._on_error,
            self.value("batch"),
        )
        for name, camera in self._cameras.items():
            camera.stream = self.make_stream(name)
            camera.packets = self.create_subscription(
                TokenPacket,
                f"{name}/{topics.PACKETS}",
                partial(self._on_packet, name),
                self.qos("packet_qos"),
                qos_overriding_options=self.overridable,
            )
            camera.outputs.start()
        self._ticks = [
            self.every(max(self.value("slice_timeout") / 4, 0.01), self._expire),
            self.every(1 / self.value("feedback_rate"), self._repeat_feedback),
        ]

    def stop(self) -> None:
        """Unsubscribe from packets."""
        worker, self._worker = self._worker, None
        for timer in self._ticks:
            self.destroy_timer(timer)
        self._ticks = []
        for camera in self._cameras.values():
            if camera.packets is not None:
                self.destroy_subscription(camera.packets)
                camera.packets = None
            camera.outputs.stop()
        if worker is not None:
            worker.stop()

    def teardown(self) -> None:
        """Destroy the publishers."""
        for camera in self._cameras.values():
            camera.outputs.destroy()
            self.destroy_lifecycle_publisher(camera.feedback)
        self._cameras = {}
        self._reconstructor = None

    def _on_packet(self, name: str, message: TokenPacket) -> None:
        self._queue(name, self._cameras[name].stream.on_packet(message))

    def _on_error(self, name: str, error: Exception) -> None:
        self._cameras[name].stream.on_error(error)

    def _queue(self, name: str, frames: list[EncodedFrame]) -> None:
        if self._worker is not None:
            for frame in frames:
                self._worker.put(name, frame)

    def _expire(self) -> None:
        before = time.monotonic() - self.value("slice_timeout")
        for name, camera in self._cameras.items():
            self._queue(name, camera.stream.expire(before))

    def _decode(self, frames: Mapping[str, EncodedFrame]) -> None:
        cameras = [self._cameras[name] for name in frames]
        begin = time.perf_counter()
        results = decode_together(
            [
                (camera.stream.decoder, frame.packets)
                for camera, frame in zip(cameras, frames.values(), strict=True)
            ],
            [camera.outputs.wanted for camera in cameras],
        )
        milliseconds = (time.perf_counter() - begin) * 1e3
        for camera, frame, result in zip(cameras, frames.values(), results, strict=True):
            if isinstance(result, DecodedFrame):
                now = self.get_clock().now().nanoseconds
                camera.outputs.publish(result)
                camera.stream.on_mask(frame, result, milliseconds, now)
                self._send_feedback(camera)
                camera.outputs.publish_pictures(result, self._reconstructor)
            else:
                camera.stream.on_error(result)
                self._send_feedback(camera)

    def _repeat_feedback(self) -> None:
        for camera in self._cameras.values():
            if camera.stream.is_feedback_due(0.9 / self.value("feedback_rate")):
                self._send_feedback(camera)

    def _send_feedback(self, camera: _Camera) -> None:
        message = camera.stream.feedback()
        message.header.stamp = self.get_clock().now().to_msg()
        camera.stream.seal(message)
        camera.feedback.publish(message)

    def report(self, camera: str) -> Report:
        """See :class:`PipelineNode`."""
        each, worker = self._cameras[camera], self._worker
        packets = each.packets

        def explain() -> str:
            assert packets is not None
            remedy = "start the transmitter with the same cameras, domain and discovery range"
            return explain_silence(self, packets, [TokenPacket], remedy)

        conditions = Conditions(
            judge=self.judge,
            providers=self.value("providers"),
            transmitters=packets.get_publisher_count() if packets is not None else 0,
            listeners=each.outputs.listeners,
            dropped=worker.dropped(camera) if worker else 0,
            drop_rate=worker.drop_rate(camera) if worker else 0.0,
            clock_stands=self.get_clock().now().nanoseconds == 0,
            explain_silence=explain if packets is not None and worker is not None else None,
        )
        return each.stream.report(conditions)

    def clock_jumped(self) -> None:
        """See :class:`PipelineNode`."""
        for camera in self._cameras.values():
            camera.stream.on_clock_jump()
