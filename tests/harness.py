"""Real nodes in processes of their own, and a probe that talks to them over DDS."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gosvae_common.messages import to_image
from gosvae_common.qos import qos_profile
from gosvae_msgs.msg import TokenPacket

DEADLINE = 90.0
"""Seconds after which what is waited for counts as never coming."""

PROFILE = Path(get_package_share_directory("gosvae_bringup")) / "config" / "fastdds.xml"
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(PROFILE)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Away from the default domain, and from that of a test run beside this one.
DOMAINS = itertools.cycle(range(1 + os.getpid() % 10 * 10, 11 + os.getpid() % 10 * 10))


class Process:
    """One executable of a ROS package, its output kept."""

    def __init__(self, folder: Path, domain: int, package: str, executable: str, *args: str):
        path = Path(get_package_prefix(package)) / "lib" / package / executable
        self.log = folder / f"{executable}-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.popen = subprocess.Popen(
                [path, *args],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"},
            )

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def output(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        if self.running:
            self.popen.send_signal(signal.SIGINT)
        return self.popen.wait(DEADLINE)


class Pipeline:
    """The nodes of one test, in a DDS domain of their own, and a probe node in this process."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder = folder
        self.bundle = bundle
        self.domain = next(DOMAINS)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node("probe", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.processes: list[Process] = []
        self.status: dict[str, DiagnosticStatus] = {}
        self.collect(DiagnosticArray, "/diagnostics", "default", self._note)
        self._frames = itertools.count(1)
        self._publishers: dict[str, Any] = {}

    def _note(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.status[status.name] = status

    def start(self, package: str, executable: str, *args: str) -> Process:
        process = Process(self.folder, self.domain, package, executable, *args)
        self.processes.append(process)
        return process

    def node_arguments(self, **parameters: Any) -> list[str]:
        parameters = {"bundle": self.bundle, "diagnostics_period": 0.2, **parameters}
        pairs = [f"{name}:={value}" for name, value in parameters.items()]
        return ["--ros-args", *(word for pair in pairs for word in ("-p", pair))]

    def transmitter(self, **parameters: Any) -> Process:
        return self.start("gosvae_tx", "transmitter", *self.node_arguments(**parameters))

    def receiver(self, **parameters: Any) -> Process:
        return self.start("gosvae_rx", "receiver", *self.node_arguments(**parameters))

    def collect(
        self, kind: type, topic: str, qos: str = "sensor_data", take: Any = None
    ) -> list[Any]:
        messages: list[Any] = []
        profile = qos_profile(qos)
        profile.depth = max(profile.depth, 50) if qos != "latched" else 1
        self.node.create_subscription(kind, topic, take or messages.append, profile)
        return messages

    def masks(self, camera: str = "camera", topic: str = "mask") -> list[Image]:
        return self.collect(Image, f"{camera}/semantic/{topic}")

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
        """Spin until `condition` holds; fail with the nodes' output when it never does."""
        end = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > end:
                logs = "\n".join(f"--- {p.log.name}\n{p.output()}" for p in self.processes)
                pytest.fail(f"waited {seconds:.0f} s in vain for {what}\n{logs}")
            self.executor.spin_once(timeout_sec=0.02)
        return result

    def publish(self, frame: np.ndarray, camera: str = "camera", **header: Any) -> Time:
        """Publish a frame with a stamp of its own, once somebody subscribes, and return it."""
        stamp = header.setdefault("stamp", Time(sec=1000, nanosec=next(self._frames)))
        message = to_image(frame, "rgb8", Header(**{"frame_id": f"{camera}_frame", **header}))
        publisher = self.publisher(Image, f"{camera}/image_raw", "default")
        self.wait("a subscription to the camera", lambda: publisher.get_subscription_count() > 0)
        publisher.publish(message)
        return stamp

    def publisher(self, kind: type, topic: str, qos: str) -> Any:
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, qos_profile(qos))
        return self._publishers[topic]

    def packet_publisher(self) -> Any:
        """Return what stands in for a transmitter, once the receiver listens to it."""
        publisher = self.publisher(TokenPacket, "camera/image_raw/gosvae", "packets")
        self.wait("the receiver", lambda: publisher.get_subscription_count() > 0)
        return publisher

    def send(self, frame: np.ndarray, masks: list[Image], camera: str = "camera") -> Image:
        """Publish a frame until its mask comes back; best effort may lose the first ones.

        A writer that has matched may still be unknown to its reader for a moment.
        """
        end = time.monotonic() + DEADLINE
        stamps: list[Time] = []

        def answered() -> Image | None:
            return next((mask for mask in masks if mask.header.stamp in stamps), None)

        while time.monotonic() < end:
            stamps.append(self.publish(frame, camera))
            again = time.monotonic() + 0.5
            mask = self.wait("a mask", lambda: answered() or time.monotonic() > again)  # noqa: B023
            if isinstance(mask, Image):
                return mask
        return self.wait("a mask", answered, 0.1)

    def figures(self, name: str) -> dict[str, str]:
        status = self.status.get(name)
        return {pair.key: pair.value for pair in status.values} if status else {}

    def close(self) -> None:
        # Asked, not killed, as far as possible: killed ones leave their shared memory behind.
        for process in self.processes:
            if process.running:
                process.popen.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.popen.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


def random_frame(seed: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A frame of coarse random patches, so that its tokens differ from place to place."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    rows = np.arange(size[0]) * 4 // size[0]
    columns = np.arange(size[1]) * 6 // size[1]
    return np.ascontiguousarray(patches[rows][:, columns])


def pixels(message: Image) -> np.ndarray:
    shape = (message.height, message.width, -1)[: 2 if message.encoding == "mono8" else 3]
    return np.frombuffer(message.data, np.uint8).reshape(shape)
