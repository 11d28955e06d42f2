"""The pipeline as a system: latency, rate, CPU and memory over DDS, beside JPEG and raw images.

    python bench/pipeline.py --json docs/pipeline.json

Vehicle and edge are one process each, their networks of one thread; camera and measuring run in two
more on the same machine. *tokens* are the project's nodes with their defaults. *jpeg* is a vehicle
that publishes ``sensor_msgs/CompressedImage`` and an edge that runs the expert on it; *raw* is that
edge on the camera's own images. Latency is from an image's stamp, taken as it is published, to its
mask. It goes on where an earlier run with the same file stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import psutil
import rclpy
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rich.progress import Progress
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_bringup.sources import open_source
from gosvae_codec import Expert, GosvaeError, ModelBundle
from gosvae_codec.images import resize_frame, to_rgb
from gosvae_node.messages import to_image
from gosvae_node.qos import qos_profile
from gosvae_node.worker import FrameWorker

SIZES = {"480x360": (360, 480), "1024x512": (512, 1024), "2048x1024": (1024, 2048)}
STREAMS = ("tokens", "jpeg", "raw")
JPEG_QUALITY = 80
"""Default of image_transport."""
QUEUE = 4
"""Frames that may wait, the default of the project's nodes."""
LADDER = (10, 15, 20, 25, 30, 35, 40, 50, 60)
"""Rates in Hz, tried upwards until more than DROPS are lost."""
DROPS = 0.01
DEADLINE = 180.0
"""Seconds after which a first mask counts as never coming."""


@dataclass(frozen=True)
class Run:
    """One measurement: how frames cross, their size, cameras, and rate of each in Hz."""

    stream: str
    size: str
    cameras: int
    rate: float


def runs() -> list[Run]:
    """Return what is measured: each stream and size, then rates and numbers of cameras."""
    found = [Run(stream, size, 1, 15) for stream in STREAMS for size in SIZES]
    found += [Run("tokens", "480x360", 1, rate) for rate in (10, 30)]
    found += [Run("tokens", "480x360", cameras, 10) for cameras in (2, 4)]
    return found


# --- processes of their own


def _names(cameras: int) -> list[str]:
    return [f"camera{index}" for index in range(cameras)]


def _spin(node: Any) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        executor.spin()


def play_camera(run: Run, drive: Path, stamps: Path) -> None:
    """Publish frames of a drive until told to stop, and write the stamps of all."""
    cv2.setNumThreads(1)
    node = rclpy.create_node("camera")
    publishers = [
        node.create_publisher(Image, f"{name}/image_raw", qos_profile("sensor_data"))
        for name in _names(run.cameras)
    ]
    frames = [
        to_image(resize_frame(frame.image, SIZES[run.size]), "rgb8", HeaderMessage())
        for frame in islice(open_source(drive).frames(), 20)
    ]
    sent: list[int] = []
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)
    begin = time.monotonic()
    index = 0
    while not stopped:
        for place, publisher in enumerate(publishers):
            # Cameras of a vehicle take turns, unless they are triggered together.
            due = begin + (index + place / run.cameras) / run.rate
            time.sleep(max(due - time.monotonic(), 0))
            message = frames[index % len(frames)]
            now = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
            message.header.frame_id = f"camera{place}"
            publisher.publish(message)
            sent.append(now)
        index += 1
    stamps.write_text(json.dumps(sent))


def run_jpeg_vehicle(cameras: int) -> None:
    """Publish each image as JPEG, as image_transport does."""
    cv2.setNumThreads(1)
    node = rclpy.create_node("vehicle")
    publishers = {
        name: node.create_publisher(
            CompressedImage, f"{name}/image_raw/compressed", qos_profile("sensor_data")
        )
        for name in _names(cameras)
    }

    def encode(name: str, message: Image) -> None:
        bgr = cv2.cvtColor(to_rgb(message), cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        compressed = CompressedImage(header=message.header, format="rgb8; jpeg compressed bgr8")
        compressed.data.frombytes(data.tobytes())
        publishers[name].publish(compressed)

    _work(node, cameras, Image, "image_raw", encode)


def run_edge(cameras: int, kind: type, topic: str, folder: Path) -> None:
    """Run the expert on each image and publish its mask."""
    cv2.setNumThreads(1)
    node = rclpy.create_node("edge")
    expert = Expert(ModelBundle.load(folder))
    publishers = {
        name: node.create_publisher(Image, f"{name}/semantic/mask", qos_profile("sensor_data"))
        for name in _names(cameras)
    }

    def segment(name: str, message: Any) -> None:
        mask = expert.segment(to_rgb(message))
        publishers[name].publish(to_image(mask, "mono8", message.header))

    _work(node, cameras, kind, topic, segment)


def _work(
    node: Any, cameras: int, kind: type, topic: str, handle: Callable[[str, Any], None]
) -> None:
    """Take images into a queue, as the project's nodes do, and work it off until told to stop."""

    def failed(name: str, error: Exception) -> None:
        node.get_logger().error(f"{name}: {error}")

    worker = FrameWorker(_names(cameras), QUEUE, handle, failed)
    for name in _names(cameras):
        node.create_subscription(
            kind,
            f"{name}/{topic}",
            lambda message, name=name: worker.put(name, message),
            qos_profile("sensor_data"),
        )
    _spin(node)
    worker.stop()


# --- measuring


class System:
    """Vehicle and edge of one stream, running, and a node that takes the masks."""

    def __init__(self, stream: str, cameras: int, bundle: Path, folder: Path) -> None:
        self._stream, self._cameras, self._bundle, self._folder = stream, cameras, bundle, folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.masks: dict[tuple[str, int], int] = {}
        """Time of arrival by camera and stamp, in ns."""
        self._node = rclpy.create_node("probe")
        for name in _names(cameras):
            self._node.create_subscription(
                Image,
                f"{name}/semantic/mask",
                lambda message, name=name: self._take(name, message),
                qos_profile("sensor_data"),
            )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _take(self, name: str, message: Image) -> None:
        stamp = message.header.stamp
        self.masks[name, stamp.sec * 10**9 + stamp.nanosec] = time.time_ns()

    def start(self) -> None:
        """Start the processes."""
        own = [sys.executable, __file__, "--bundle", str(self._bundle)]
        own += ["--cameras", str(self._cameras), "--role"]
        commands: dict[str, list[str]] = {}
        if self._stream == "tokens":
            names = ", ".join(f"'{name}'" for name in _names(self._cameras))
            for who, package, executable in (
                ("vehicle", "gosvae_tx", "transmitter"),
                ("edge", "gosvae_rx", "receiver"),
            ):
                path = Path(get_package_prefix(package)) / "lib" / package / executable
                parameters = (f"bundle:={self._bundle}", f"cameras:=[{names}]")
                words = [word for each in parameters for word in ("-p", each)]
                commands[who] = [str(path), "--ros-args", *words]
        else:
            if self._stream == "jpeg":
                commands["vehicle"] = [*own, "jpeg-vehicle"]
            commands["edge"] = [*own, f"{self._stream}-edge"]
        for who, command in commands.items():
            self._processes[who] = self._popen(who, command)

    def _popen(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def measure(self, run: Run, drive: Path, seconds: float) -> dict[str, Any]:
        """Return the figures of a run.

        Raises:
            GosvaeError: no mask comes; the message holds the processes' last words.
        """
        stamps = self._folder / "stamps.json"
        stamps.unlink(missing_ok=True)
        self.masks.clear()
        command = [sys.executable, __file__, "--role", "camera", "--size", run.size]
        command += ["--cameras", str(run.cameras), "--rate", str(run.rate)]
        camera = self._popen("camera", [*command, "--data", str(drive), "--stamps", str(stamps)])
        try:
            end = time.monotonic() + DEADLINE
            while len({name for name, _ in list(self.masks)}) < run.cameras:
                if time.monotonic() > end or camera.poll() is not None:
                    raise GosvaeError(f"{run}: no masks\n{self._last_words()}")
                time.sleep(0.05)
            time.sleep(1)
            begin, before = time.time_ns(), self._cpu()
            time.sleep(seconds)
            after, done = self._cpu(), time.time_ns()
            memory = self._memory()
            # What is on its way arrives, while the camera goes on.
            time.sleep(1)
        finally:
            camera.send_signal(signal.SIGINT)
            camera.wait()
        sent = [stamp for stamp in json.loads(stamps.read_text()) if begin <= stamp < done]
        came = {stamp: time for (_, stamp), time in self.masks.items() if begin <= stamp < done}
        ages = [(time - stamp) / 1e6 for stamp, time in came.items()] or [float("nan")]
        wall = (done - begin) / 1e9
        return {
            **asdict(run),
            "seconds": round(wall, 1),
            "sent": len(sent),
            "sent_per_s": round(len(sent) / wall / run.cameras, 2),
            "delivered": round(len(came) / max(len(sent), 1), 4),
            "latency_ms": {
                f"p{share}": round(float(np.percentile(ages, share)), 1) for share in (50, 95, 99)
            },
            "cpu": {
                who: round((after[who] - before[who]) / wall, 3) if who in after else None
                for who in ("vehicle", "edge")
            },
            "memory_mb": memory,
        }

    def _cpu(self) -> dict[str, float]:
        times = {w: psutil.Process(p.pid).cpu_times() for w, p in self._processes.items()}
        return {who: each.user + each.system for who, each in times.items()}

    def _memory(self) -> dict[str, float]:
        return {
            who: round(psutil.Process(process.pid).memory_info().rss / 1e6, 1)
            for who, process in self._processes.items()
        }

    def soak(self, run: Run, drive: Path, seconds: float) -> dict[str, Any]:
        """Return the memory of both processes every 30 s, from a minute on."""
        figures: dict[str, list[float]] = {"vehicle": [], "edge": []}
        masks = 0
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            result = self.measure(run, drive, 25)
            masks += len(self.masks)
            if time.monotonic() - begin > 60 or seconds < 60:
                for who, value in result["memory_mb"].items():
                    figures[who].append(value)
        return {**asdict(run), "seconds": seconds, "masks": masks, "memory_mb": figures}

    def _last_words(self) -> str:
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs)

    def stop(self) -> None:
        """Stop the processes."""
        for process in self._processes.values():
            process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()


@contextmanager
def running(stream: str, cameras: int, bundle: Path) -> Iterator[System]:
    """Run vehicle and edge of a stream."""
    with tempfile.TemporaryDirectory(prefix="gosvae-pipeline-") as folder:
        system = System(stream, cameras, bundle, Path(folder))
        try:
            system.start()
            yield system
        finally:
            system.stop()


def sustained(
    system: System, stream: str, size: str, drive: Path, seconds: float
) -> dict[str, Any]:
    """Return the highest rate of LADDER at which hardly anything is lost, 0 if none."""
    best = 0.0
    for rate in LADDER:
        result = system.measure(Run(stream, size, 1, rate), drive, seconds)
        # A camera that does not keep its rate proves nothing.
        if result["delivered"] < 1 - DROPS or result["sent_per_s"] < 0.95 * rate:
            break
        best = rate
    return {"stream": stream, "size": size, "rate": best}


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(path)


def measure_all(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure what is missing, writing the file after each."""
    rclpy.init()
    done = [Run(**{k: each[k] for k in Run.__annotations__}) for each in results["runs"]]
    todo = [run for run in runs() if run not in done]
    climbed = [each["stream"] for each in results["sustained"]]
    climbs = [stream for stream in STREAMS if stream not in climbed]
    with Progress() as progress:
        bar = progress.add_task("pipeline", total=len(todo) + len(climbs) + bool(options.soak))
        for stream, cameras in dict.fromkeys((run.stream, run.cameras) for run in todo):
            with running(stream, cameras, options.bundle) as system:
                for run in todo:
                    if (run.stream, run.cameras) == (stream, cameras):
                        result = system.measure(run, options.data, options.seconds)
                        results["runs"].append(result)
                        write(options.json, results)
                        progress.advance(bar)
        for stream in climbs:
            with running(stream, 1, options.bundle) as system:
                result = sustained(system, stream, "480x360", options.data, options.seconds / 2)
                results["sustained"].append(result)
                write(options.json, results)
                progress.advance(bar)
        if options.soak:
            with running("tokens", 1, options.bundle) as system:
                run = Run("tokens", "480x360", 1, 10)
                results["soak"] = system.soak(run, options.data, options.soak)
                write(options.json, results)
                progress.advance(bar)
    rclpy.shutdown()


def play_role(options: argparse.Namespace) -> None:
    """Be one of the other processes."""
    rclpy.init()
    if options.role == "camera":
        run = Run("", options.size, options.cameras, options.rate)
        play_camera(run, options.data, options.stamps)
    elif options.role == "jpeg-vehicle":
        run_jpeg_vehicle(options.cameras)
    elif options.role == "jpeg-edge":
        run_edge(options.cameras, CompressedImage, "image_raw/compressed", options.bundle)
    else:
        run_edge(options.cameras, Image, "image_raw", options.bundle)
    rclpy.try_shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, or be one of the other processes."""
    parser = argparse.ArgumentParser(prog="pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("out/pipeline.json"), help="results")
    parser.add_argument("--bundle", type=Path, default=Path("models/camvid-f16"))
    parser.add_argument("--data", type=Path, default=Path("drives/street.mcap"), help="a drive")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--soak", type=float, default=0.0, help="seconds to watch memory for")
    parser.add_argument(
        "--role",
        choices=("camera", "jpeg-vehicle", "jpeg-edge", "raw-edge"),
        help=argparse.SUPPRESS,
    )
    parser.add_argument("--cameras", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--size", default="480x360", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=15.0, help=argparse.SUPPRESS)
    parser.add_argument("--stamps", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    profile = Path(get_package_share_directory("gosvae_bringup")) / "config" / "fastdds.xml"
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Away from the default domain, and from that of a run beside this one.
    os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 100))
    try:
        if options.role:
            play_role(options)
            return 0
        # Late, as the other processes start much sooner without all codecs.
        from benchmark import machine, versions

        results: dict[str, Any] = {"runs": [], "sustained": [], "soak": None}
        about = {"machine": machine(), "versions": versions(), "bundle": options.bundle.name}
        if options.json.exists():
            results = json.loads(options.json.read_text())
            different = [name for name, value in about.items() if results[name] != value]
            if different:
                raise GosvaeError(
                    f"{options.json} has results of other {', '.join(different)}: remove it"
                )
        measure_all(options, results | about | {"date": str(date.today())})
    except (GosvaeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
