"""The transmitter node: its parameters, topics and worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from gosvae_codec import Encoder
from gosvae_codec.sender import SETTINGS, Settings
from gosvae_common import topics
from gosvae_common.diagnostics import Report
from gosvae_common.errors import UsageError
from gosvae_common.graph import explain_silence
from gosvae_common.health import DROPS, Threshold
from gosvae_common.messages import to_packet_message
from gosvae_common.node import ConfigurationError, PipelineNode
from gosvae_common.shipped import find_profile
from gosvae_common.worker import FrameWorker
from gosvae_msgs.msg import Feedback, TokenPacket

from .stream import Conditions, Stream

Frame: TypeAlias = Image | CompressedImage


class _Camera:
    """One camera's topics, and its stream since activation."""

    def __init__(self, node: Transmitter, name: str) -> None:
        self.topic, self.type = node.image_topic(name)
        self.images: Subscription | None = None
        self.stream = node.make_stream(self.topic)
        self.packets = node.create_lifecycle_publisher(
            TokenPacket,
            f"{name}/{topics.PACKETS}",
            node.qos("packet_qos"),
            event_callbacks=PublisherEventCallbacks(matched=lambda _: node.follow_demand(name)),
            qos_overriding_options=node.overridable,
        )
        self.feedbacks = node.create_subscription(
            Feedback,
            f"{name}/{topics.FEEDBACK}",
            lambda message: self.stream.on_feedback(message),
            node.qos("packet_qos"),
            qos_overriding_options=node.overridable,
        )


class Transmitter(PipelineNode):
    """Encodes the newest frames of its cameras and publishes them as packets."""

    live = frozenset(setting.name for setting in SETTINGS)
    thresholds = (
        Threshold("silence_s", "Seconds without a frame of the camera", 1.0, 5.0, 3600.0),
        Threshold("feedback_s", "Seconds of sending without feedback", 5.0, 0.0, 3600.0),
        Threshold("loss", "Share of packets lost, from the receiver's feedback", 0.15, 0.5, 1.0),
        Threshold("undelivered", "Share of the camera's frames that do not arrive", 0.3, 0.0, 1.0),
        DROPS,
        Threshold("frames_per_s", "Frames sent a second", 0.0, 0.0, 1000.0, below=True),
    )

    def __init__(self) -> None:
        super().__init__("gosvae_tx")
        self.declare_image_input("the frames")
        for name, default, limits, description in SETTINGS:
            self.declare(name, default, description, limits)
        self.declare("lazy", True, "Subscribe to frames only while packets have a subscriber.")
        self.declare_qos("image_qos", "sensor_data", "the camera's frames")
        self.declare_qos("packet_qos", "packets", "packets and feedback")
        self._cameras: dict[str, _Camera] = {}
        self._worker: FrameWorker[Frame] | None = None

    def check_live(self, parameter: Parameter) -> None:
        """See :class:`PipelineNode`."""
        if parameter.name != "levels":
            return
        if self.bundle is not None and parameter.value > self.bundle.levels:
            raise ConfigurationError(
                f"levels {parameter.value}: {self.bundle.name} has 1 to {self.bundle.levels}"
            )

    def make_stream(self, topic: str) -> Stream:
        """Return a new stream for the frames of a topic."""
        assert self.bundle is not None

        def log(reason: str) -> None:
            self.get_logger().error(f"{topic}: {reason}")

        encoder = Encoder(self.bundle, self.providers, self.value("threads"))
        return Stream(encoder, self.image_converter(), log, self.keys)

    def setup(self) -> None:
        """Load the encoder and create a packet publisher for each camera."""
        self.check_live(self.get_parameter("levels"))
        for name in self.cameras:
            camera = _Camera(self, name)
            self._cameras[name] = camera
            # A wrong QoS override shows here rather than when a receiver comes.
            self._subscribe(camera, lambda _: None)
            self._unsubscribe(camera)

    def start(self) -> None:
        """Begin a new stream for each camera."""
        for camera in self._cameras.values():
            camera.stream = self.make_stream(camera.topic)
        self._worker = FrameWorker(
            self.cameras, self.value("queue_depth"), self._encode, self._on_error
        )
        for name in self.cameras:
            self.follow_demand(name)

    def stop(self) -> None:
        """Unsubscribe from the cameras."""
        worker, self._worker = self._worker, None
        for camera in self._cameras.values():
            self._unsubscribe(camera)
        if worker is not None:
            worker.stop()

    def teardown(self) -> None:
        """Destroy the publishers."""
        for camera in self._cameras.values():
            self.destroy_lifecycle_publisher(camera.packets)
            self.destroy_subscription(camera.feedbacks)
        self._cameras = {}

    def follow_demand(self, name: str) -> None:
        """Subscribe to a camera while its packets have subscribers, and only then."""
        camera, worker = self._cameras.get(name), self._worker
        if camera is None or worker is None:
            return
        wanted = not self.value("lazy") or camera.packets.get_subscription_count() > 0
        if wanted and camera.images is None:
            camera.stream.expect_frames()

            def queue(message: Frame) -> None:
                camera.stream.on_frame(message)
                worker.put(name, message)

            self._subscribe(camera, queue)
        elif not wanted:
            self._unsubscribe(camera)

    def _subscribe(self, camera: _Camera, callback: Callable[[Frame], None]) -> None:
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

    def _encode(self, frames: Mapping[str, Frame]) -> None:
        ((name, message),) = frames.items()
        camera = self._cameras[name]
        settings = Settings(**{each.name: self.value(each.name) for each in SETTINGS})
        for packet in camera.stream.encode(message, settings):
            camera.packets.publish(to_packet_message(packet))

    def _on_error(self, name: str, error: Exception) -> None:
        self._cameras[name].stream.on_error(error)

    def report(self, camera: str) -> Report:
        """See :class:`PipelineNode`."""
        each, worker = self._cameras[camera], self._worker
        images = each.images

        def explain() -> str:
            assert images is not None
            remedy = "name it in image_topics, set cameras and image_transport, or remap"
            return explain_silence(self, images, [Image, CompressedImage], remedy)

        conditions = Conditions(
            judge=self.judge,
            providers=self.value("providers"),
            max_kbit_per_s=self.value("max_kbit_per_s"),
            camera_publishers=images.get_publisher_count() if images is not None else 0,
            listeners=each.packets.get_subscription_count(),
            dropped=worker.dropped(camera) if worker else 0,
            drop_rate=worker.drop_rate(camera) if worker else 0.0,
            feedback_topic=each.feedbacks.topic_name,
            profile=_profile(),
            explain_silence=explain if images is not None else None,
        )
        return each.stream.report(conditions, worker is not None)


def _profile() -> str:
    """Return where the Fast DDS profile is that ships with gosvae_bringup."""
    try:
        return str(find_profile())
    except UsageError:
        return "fastdds.xml, which ships with gosvae_bringup"
