"""Node `gosvae_record`: writes packets, feedback, masks and boxes to a rosbag2 MCAP.

For each camera the packets, feedback, masks, detections, label info and, where there are any, true
labels; and `/diagnostics`. A message's time in the bag is the wall clock's at its arrival, even
with simulated time, so that it compares with the times in the replay's report.

What has arrived is on the disk within a second, in chunks that can be read without the index at the
end of the file: a recording that is cut off lacks its last second alone. Diagnostics tell how many
publishers each topic has, so that a replay can wait until the recording hears all of them.

On two machines each records what it makes itself: DDS sends a packet once more for every process
that listens to it, and the recording would cost as much of the link as what it records.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.subscription import Subscription
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from sensor_msgs.msg import CompressedImage, Image

from gosvae_codec.errors import GosvaeError
from gosvae_common import topics
from gosvae_common.detections import detections_type
from gosvae_common.messages import type_name
from gosvae_common.parameters import ParameterNode
from gosvae_common.process import running
from gosvae_common.topics import Side
from gosvae_msgs.msg import Feedback, LabelInfo, TokenPacket

from .bag_writer import BagWriteError, check_counts, flush, message_types

WAITING = 500
"""Messages that may wait to be written; where the disk is slower, DDS drops what follows."""
FLUSH_SECONDS = 0.5
"""Time after which messages are written to the disk, unless there are more than 1 MiB before."""
STATUS_SECONDS = 0.5
"""Time between diagnostics."""

_FOREVER = QosTime(9223372036, 854775807)


class RecordError(GosvaeError):
    """The output cannot be written."""


class Topic(NamedTuple):
    """What to subscribe to, and how."""

    name: str
    side: Side
    msgtype: Any
    depth: int
    reliable: bool = False
    latched: bool = False

    @property
    def qos(self) -> QoSProfile:
        """The subscription's profile."""
        reliability, durability = QoSReliabilityPolicy, QoSDurabilityPolicy
        return QoSProfile(
            depth=self.depth,
            reliability=reliability.RELIABLE if self.reliable else reliability.BEST_EFFORT,
            durability=durability.TRANSIENT_LOCAL if self.latched else durability.VOLATILE,
        )


TOPICS = (
    Topic(topics.PACKETS, "tx", TokenPacket, 200),
    Topic(topics.FEEDBACK, "rx", Feedback, 50),
    Topic(topics.MASK, "rx", Image, 50),
    Topic(topics.LABEL_INFO, "rx", LabelInfo, 10, reliable=True, latched=True),
    Topic(topics.DETECTIONS, "rx", detections_type(), 50),
    Topic(f"{topics.DETECTIONS}/label_info", "rx", LabelInfo, 10, reliable=True, latched=True),
    Topic(topics.LABEL, "tx", Image, 50, reliable=True),
    Topic(topics.COMPRESSED_LABEL, "tx", CompressedImage, 50, reliable=True),
)
"""What is recorded of each camera, and on which side it is made."""

DIAGNOSTICS = Topic(topics.DIAGNOSTICS, "both", DiagnosticArray, 50, reliable=True)


class Record(ParameterNode):
    """Records what arrives while :meth:`run` runs; then :meth:`close` finishes the bag.

    Raises:
        RecordError: `output` is empty, exists already, or cannot be made, or there is no such
            `side`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("gosvae_record", **options)
        for name, default, description in (
            ("output", "", "Folder of the bag to write; must not exist."),
            ("cameras", ["camera"], "Base names that the cameras' topics hang under."),
            ("side", "both", "Record what is made in the vehicle, tx; at the other end, rx; both."),
        ):
            self.declare(name, default, description, read_only=True)
        if not self.value("output"):
            raise RecordError("no output given; set `output` to the folder to write")
        side = self.value("side")
        if side not in ("both", "tx", "rx"):
            raise RecordError(f"side is {side!r}; it can be both, tx, rx")
        path = Path(self.value("output")).expanduser()
        if path.exists():
            raise RecordError(f"output {path} exists already; remove it or name another")
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        try:
            self._writer.open()
        except OSError as error:
            raise RecordError(f"output {path} cannot be written: {error}") from error
        self._typestore = message_types()
        self._arrived: Queue[tuple[Topic, str, int, bytes] | None] = Queue(WAITING)
        self._error: Exception | None = None
        self._count = 0
        self._thread = Thread(target=self._write, name="write", daemon=True)
        self._thread.start()
        self._record(DIAGNOSTICS, "")
        cameras = [camera.strip("/") for camera in self.value("cameras")]
        self._recorded = {
            camera: {
                topic.name: self._record(topic, camera)
                for topic in TOPICS
                if side in ("both", topic.side)
            }
            for camera in cameras
        }
        self._status = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, 10)
        self.create_timer(
            STATUS_SECONDS, self._publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self.get_logger().info(f"recording to {path}")

    def run(self, stop: Event) -> None:
        """Record until `stop` is set, or writing fails."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        while not stop.is_set() and self._error is None:
            executor.spin_once(timeout_sec=0.1)
        # What has arrived by now belongs to the recording, taken or not.
        before = -1
        while before != self._count:
            before = self._count
            executor.spin_once(timeout_sec=0)
        executor.shutdown()

    def close(self) -> None:
        """Write what has arrived and finish the bag.

        Raises:
            RecordError: writing failed; what was written before is in the folder, unfinished.
        """
        self._arrived.put(None)
        self._thread.join()
        if self._error is None:
            try:
                self._writer.close()
                check_counts(self._writer.path, self._writer)
                written = sum(self._writer.counts.values())
                if written != self._count:
                    raise BagWriteError(f"{self._count} messages arrived, {written} were written")
            except (OSError, BagWriteError) as error:
                self._error = error
        if self._error is not None:
            self._writer.abort()
            raise RecordError(f"{self._writer.path} is incomplete: {self._error}") from self._error
        self.get_logger().info(f"recorded {self._count} messages to {self._writer.path}")

    def _record(self, topic: Topic, camera: str) -> Subscription:
        def keep(data: bytes) -> None:
            self._count += 1
            self._arrived.put((topic, subscription.topic_name, time.time_ns(), data))

        name = f"{camera}/{topic.name}" if camera else topic.name
        subscription: Subscription = self.create_subscription(
            topic.msgtype, name, keep, topic.qos, raw=True
        )
        return subscription

    def _publish_status(self) -> None:
        """Publish how many publishers the topics of each camera have."""
        node = self.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        for camera, subscriptions in self._recorded.items():
            counts = {name: each.get_publisher_count() for name, each in subscriptions.items()}
            message.status.append(
                DiagnosticStatus(
                    level=DiagnosticStatus.OK,
                    name=f"{node}: {camera}",
                    message=f"recorded {self._count} messages of all cameras",
                    hardware_id=camera,
                    values=[
                        KeyValue(key=f"publishers of {name}", value=str(count))
                        for name, count in counts.items()
                    ],
                )
            )
        self._status.publish(message)

    def _messages(self) -> Iterator[tuple[Topic, str, int, bytes]]:
        """Yield what arrives until the end is asked for, and have the disk keep it."""
        flushed, written = time.monotonic(), False
        while True:
            remaining = flushed + FLUSH_SECONDS - time.monotonic()
            if remaining <= 0:
                if written:
                    flush(self._writer)
                flushed, written = time.monotonic(), False
                continue
            try:
                arrived = self._arrived.get(timeout=remaining)
            except Empty:
                continue
            if arrived is None:
                return
            yield arrived
            written = True

    def _write(self) -> None:
        connections: dict[str, Connection] = {}
        try:
            for topic, name, at, data in self._messages():
                if name not in connections:
                    connections[name] = self._writer.add_connection(
                        name,
                        type_name(topic.msgtype),
                        typestore=self._typestore,
                        offered_qos_profiles=[_offered(topic)],
                    )
                self._writer.write(connections[name], at, data)
        except Exception as error:  # a full disk, above all; it ends the process
            self._error = error
            while self._arrived.get() is not None:
                pass


def _offered(topic: Topic) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        topic.depth,
        QosReliability.RELIABLE if topic.reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if topic.latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


def main() -> int:
    """Run the node until a signal; return 0 when the bag is complete, else 1."""
    with running() as stop:
        try:
            node = Record()
            try:
                node.run(stop)
            finally:
                node.close()
        except (RecordError, ParameterException) as error:
            get_logger("gosvae_record").fatal(str(error))
            return 1
    return 0
