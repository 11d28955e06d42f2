"""What the receiver publishes of a task, as far as somebody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import ModelBundle, Task
from gosvae_common.task_messages import latched_of, outputs_of
from gosvae_common.topics import CAMERA_INFO, task_base

from .publishers import Publishers, listeners


class TaskOutputs:
    """One task's publishers. Results come with all their frames, in the order of the stream."""

    def __init__(
        self,
        publishers: Publishers,
        bundle: ModelBundle,
        task: Task,
        follow_demand: Callable[[], None],
    ) -> None:
        """Create the publishers, and publish what is latched.

        Args:
            publishers: of the camera.
            bundle: whose task it is.
            task: what is published.
            follow_demand: called when somebody begins or ceases to listen to `camera_info`.
        """
        outputs = outputs_of(task)
        self._outputs = [(each, publishers.add(each.topic, each.kind)) for each in outputs]
        self.camera_info = None
        """Publisher of the camera's calibration with each result's header, for images."""
        if any(each.kind is Image for each in outputs):
            self.camera_info = publishers.add(
                f"{task_base(task.name)}/{CAMERA_INFO}",
                CameraInfo,
                matched=lambda _: follow_demand(),
            )
        now = publishers.node.get_clock().now().to_msg()
        for topic, message in latched_of(bundle, task, now).items():
            publishers.latch(topic, message)

    @property
    def listeners(self) -> int:
        """Subscribers of what needs the head."""
        return listeners(*(publisher for _, publisher in self._outputs))

    def publish(self, result: Any, header: HeaderMessage, for_people: bool = False) -> None:
        """Publish a result: what must be early, or what people look at."""
        for output, publisher in self._outputs:
            if output.for_people == for_people and listeners(publisher):
                publisher.publish(output.make(result, header))
