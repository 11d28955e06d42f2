"""What the receiver publishes of one camera, most of it only while somebody subscribes to it."""

from __future__ import annotations

from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo

from gosvae_codec import DecodedFrame, ModelBundle, Reconstructor
from gosvae_common import topics
from gosvae_common.messages import to_header_message, to_image
from gosvae_common.node import PipelineNode

from .overlay import Overlay
from .publishers import Publishers, listeners
from .task_outputs import TaskOutputs


class Outputs:
    """Publishers of one camera, and the subscriptions to the camera that some of them need."""

    def __init__(self, node: PipelineNode, camera: str, bundle: ModelBundle) -> None:
        """Create the publishers, and publish what is latched."""
        self._node = node
        self._active = False
        self._publishers = Publishers(node, camera)
        self._image_topic, _ = node.image_topic(camera)
        self._calibrations: Subscription | None = None
        self._calibration: CameraInfo | None = None
        self._tasks = {
            name: TaskOutputs(self._publishers, bundle, task, self.follow_demand)
            for name, task in bundle.tasks.items()
        }
        self._overlay = Overlay(self._publishers, bundle)
        self._reconstruction = (
            self._publishers.add(topics.RECONSTRUCTION) if bundle.reconstructs else None
        )

    def start(self) -> None:
        """Begin to follow demand."""
        self._active = True
        self.follow_demand()

    def stop(self) -> None:
        """Unsubscribe from the camera."""
        self._active = False
        self._overlay.follow_demand(False)
        self._unsubscribe_calibrations()

    def destroy(self) -> None:
        """Destroy the publishers."""
        self._publishers.destroy()

    def follow_demand(self) -> None:
        """Subscribe to the camera's frames and calibration while they are needed, and only then."""
        if not self._active:
            return
        self._overlay.follow_demand(True)
        if not any(listeners(each.camera_info) for each in self._tasks.values()):
            self._unsubscribe_calibrations()
        elif self._calibration is None and self._calibrations is None:
            topic = topics.camera_info_topic(self._image_topic)
            self._calibrations = self._node.create_subscription(
                CameraInfo, topic, self._on_calibration, self._node.qos("image_qos")
            )

    def _unsubscribe_calibrations(self) -> None:
        if self._calibrations is not None:
            self._node.destroy_subscription(self._calibrations)
        self._calibrations = self._calibration = None

    def _on_calibration(self, message: CameraInfo) -> None:
        # One is enough: all of them would be most of what crosses the link.
        self._unsubscribe_calibrations()
        self._calibration = message

    @property
    def listeners(self) -> dict[str, int]:
        """Subscribers of what each task makes, by its name."""
        return {name: each.listeners for name, each in self._tasks.items()}

    @property
    def wanted(self) -> set[str]:
        """Names of the tasks whose heads have to run."""
        return {name for name, count in self.listeners.items() if count} | self._overlay.tasks

    def publish(self, decoded: DecodedFrame) -> None:
        """Publish what was made of a frame, and the calibration with its header."""
        header = to_header_message(decoded.header)
        calibration = self._calibration
        for name, each in self._tasks.items():
            if calibration is not None and each.camera_info is not None:
                calibration.header = header
                each.camera_info.publish(calibration)
            if name in decoded.tasks:
                each.publish(decoded.tasks[name], header)

    def publish_pictures(self, decoded: DecodedFrame, network: Reconstructor | None) -> None:
        """Publish what people look at, which has more time."""
        header = to_header_message(decoded.header)
        for name, result in decoded.tasks.items():
            self._tasks[name].publish(result, header, for_people=True)
        self._overlay.add(decoded)
        if network and self._reconstruction is not None and listeners(self._reconstruction):
            self._reconstruction.publish(to_image(network.reconstruct(decoded), "rgb8", header))
