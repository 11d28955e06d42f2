"""Processes that :mod:`gosvae_bench.system` starts: a camera, and the nodes of JPEG and raw images.

Each prints a line when it is ready, and ends when its standard input is closed. The nodes work like
ours: one thread puts messages into queues of the same depth, another processes them, with the same
QoS.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import Expert, ModelBundle
from gosvae_codec.images import resize_frame, to_rgb
from gosvae_common import topics
from gosvae_common.messages import to_image
from gosvae_common.process import spinning
from gosvae_common.qos import qos_profile
from gosvae_common.worker import FrameWorker
from gosvae_tools.drives import open_source

from .stages import encode_jpeg, to_compressed

FRAMES = 10
"""Number of frames of the drive that the cameras repeat."""
QUEUE = 4
"""Frames that may wait; the default of our nodes."""


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def play_cameras(cameras: list[str], drive: Path) -> None:
    """Publish frames on command: a line ``[height, width, rate]`` starts, any other line stops.

    All cameras publish at the same time, as triggered cameras do. When stopped, the process prints
    the stamps in ns; each is taken when the cameras start to publish.
    """
    node = rclpy.create_node("camera")
    publishers = [
        node.create_publisher(Image, f"{name}/{topics.IMAGE}", qos_profile("sensor_data"))
        for name in cameras
    ]
    images = [frame.image for frame in islice(open_source(drive).frames(), FRAMES)]
    _say("ready")
    for line in sys.stdin:
        height, width, rate = json.loads(line)
        frames = [
            to_image(resize_frame(image, (height, width)), "rgb8", HeaderMessage())
            for image in images
        ]
        stamps: list[int] = []
        begin = time.monotonic()
        while not select.select([sys.stdin], [], [], _until(begin + len(stamps) / rate))[0]:
            message = frames[len(stamps) % len(frames)]
            now = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
            for name, publisher in zip(cameras, publishers, strict=True):
                message.header.frame_id = name
                publisher.publish(message)
            stamps.append(now)
        sys.stdin.readline()
        _say(stamps)


def _until(due: float) -> float:
    return max(due - time.monotonic(), 0)


def send_jpeg(cameras: list[str]) -> None:
    """Publish each raw image as JPEG, as image_transport does."""
    node = rclpy.create_node("vehicle")

    def encode(publisher: Any, message: Image) -> None:
        data = encode_jpeg(to_rgb(message))
        publisher.publish(to_compressed(data, message.header))

    _work(node, cameras, (Image, topics.IMAGE), (CompressedImage, topics.COMPRESSED_IMAGE), encode)


def segment(cameras: list[str], kind: type, topic: str, bundle: Path) -> None:
    """Run the expert on each image and publish its mask."""
    node = rclpy.create_node("edge")
    expert = Expert(ModelBundle.load(bundle))

    def decode(publisher: Any, message: Any) -> None:
        mask = expert.segment(to_rgb(message))
        publisher.publish(to_image(mask, "mono8", message.header))

    _work(node, cameras, (kind, topic), (Image, topics.MASK), decode)


def _work(
    node: Node,
    cameras: list[str],
    taken: tuple[type, str],
    given: tuple[type, str],
    handle: Callable[[Any, Any], None],
) -> None:
    """Handle messages of the topic `taken`, and publish on `given`, until standard input closes."""

    def publisher(name: str) -> Any:
        return node.create_publisher(given[0], f"{name}/{given[1]}", qos_profile("sensor_data"))

    def work(messages: Mapping[str, Any]) -> None:
        for name, message in messages.items():
            handle(publishers[name], message)

    def failed(name: str, error: Exception) -> None:
        node.get_logger().error(f"{name}: {error}")

    publishers = {name: publisher(name) for name in cameras}
    worker: FrameWorker[Any] = FrameWorker(cameras, QUEUE, work, failed)
    for name in cameras:
        topic = f"{name}/{taken[1]}"
        callback = partial(worker.put, name)
        node.create_subscription(taken[0], topic, callback, qos_profile("sensor_data"))
    with spinning(node):
        _say("ready")
        sys.stdin.read()
    worker.stop()


def main() -> None:
    """Run one of the processes until standard input is closed."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.baseline_nodes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("role", choices=("camera", "jpeg-vehicle", "jpeg-edge", "raw-edge"))
    parser.add_argument("cameras", nargs="+")
    parser.add_argument("--drive", type=Path, help="drive that the cameras publish")
    parser.add_argument("--bundle", type=Path, help="bundle whose expert the edge runs")
    options = parser.parse_args()
    # Ctrl-C is for the process that started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    if options.role == "camera":
        play_cameras(options.cameras, options.drive)
    elif options.role == "jpeg-vehicle":
        send_jpeg(options.cameras)
    elif options.role == "jpeg-edge":
        segment(options.cameras, CompressedImage, topics.COMPRESSED_IMAGE, options.bundle)
    else:
        segment(options.cameras, Image, topics.IMAGE, options.bundle)
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
