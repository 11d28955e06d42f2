"""Start the nodes of one transport, publish frames, and measure what arrives."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from gosvae_bringup.demo.network import network
from gosvae_bringup.pipeline import describe
from gosvae_bringup.processes import Processes
from gosvae_codec import GosvaeError
from gosvae_common.process import spinning
from gosvae_common.qos import qos_profile
from gosvae_common.topics import IMAGE, MASK

from .system_results import SIZES, TRANSPORTS, Run

DEADLINE = 180.0
"""Seconds to wait for a process or a first mask."""
SETTLE = 1.5
"""Seconds from the first masks to the start of a measurement, in which queues fill."""
DRAIN = 10.0
"""Seconds to wait at the end for a mask of a later frame, after which no earlier one comes."""
SOAK_STEP = 10.0

_BENCH = str(Path(__file__).resolve().parents[1])
"""The folder where other processes find this package."""


def python_of(module: str) -> list[str]:
    """Return the command that runs a module of this package."""
    return [sys.executable, "-m", f"gosvae_bench.{module}"]


def environment() -> dict[str, str]:
    """Return this process's environment, extended so that Python finds this package."""
    paths = [_BENCH, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def figures(
    stamps: Sequence[int],
    masks: Mapping[tuple[str, int], int],
    crossed: Mapping[tuple[str, int], int],
    cameras: int,
) -> dict[str, Any]:
    """Return the figures of the frames with some stamps, all in ns.

    Args:
        stamps: of the frames, the same for each camera.
        masks: arrival of the mask of a frame, by camera and stamp.
        crossed: arrival of the vehicle's last message of a frame; empty if it sends none.
        cameras: number of cameras.

    Returns:
        ``frames`` and ``masks``; ``drops``, the share lost; ``latency_ms``, stamp to mask; and the
        median's two parts, ``sent_ms``, stamp to what the vehicle sends, and ``received_ms``, from
        there to the mask. nan of nothing is None.
    """
    wanted = set(stamps)
    came = {key: when for key, when in masks.items() if key[1] in wanted}
    ages = [(when - stamp) / 1e6 for (_, stamp), when in came.items()]
    both = [key for key in came if key in crossed]
    sent = len(stamps) * cameras
    return {
        "frames": sent,
        "masks": len(came),
        "drops": round(1 - len(came) / sent, 4) if sent else None,
        "latency_ms": {f"p{share}": _percentile(ages, share) for share in (50, 95, 99)},
        "sent_ms": _percentile([(crossed[key] - key[1]) / 1e6 for key in both], 50),
        "received_ms": _percentile([(came[key] - crossed[key]) / 1e6 for key in both], 50),
    }


def _percentile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 1) if values else None


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run the processes that the block starts on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Listener:
    """A node that records the arrival of masks and of the vehicle's messages.

    Messages stay serialised; only the stamp is read.
    """

    def __init__(self, cameras: Sequence[str], transport: str) -> None:
        self.masks: dict[tuple[str, int], int] = {}
        """Time of arrival by camera and stamp, in ns."""
        self.crossed: dict[tuple[str, int], int] = {}
        """The same for the last message that the vehicle sends of a frame."""
        self._cameras = cameras
        self.node = rclpy.create_node("listener")
        topics = [(MASK, Image, self.masks)]
        between = TRANSPORTS[transport]
        if between is not None:
            topics.append((*between, self.crossed))
        self._topics = [topic for topic, *_ in topics]
        for name, (topic, kind, arrivals) in product(cameras, topics):
            callback = partial(self._note, arrivals, name)
            qos = qos_profile("packets")
            self.node.create_subscription(kind, f"{name}/{topic}", callback, qos, raw=True)

    @staticmethod
    def _note(arrivals: dict[tuple[str, int], int], name: str, message: bytes) -> None:
        # CDR: four bytes of encapsulation, then the header's stamp.
        seconds, nanoseconds = struct.unpack_from("<iI", message, 4)
        arrivals[name, seconds * 10**9 + nanoseconds] = time.time_ns()

    def missing(self) -> str:
        """Return a topic that lacks a publisher or a subscriber; empty if none does."""
        for name in self._cameras:
            for topic in self._topics:
                if not self.node.count_publishers(f"{name}/{topic}"):
                    return f"publisher of {name}/{topic}"
            if not self.node.count_subscribers(f"{name}/{IMAGE}"):
                return f"listener to {name}/{IMAGE}"
        return ""

    def masks_of(self, since: int) -> set[str]:
        """Return the cameras with a mask of a frame at or after that stamp."""
        return {name for name, stamp in list(self.masks) if stamp >= since}


@contextmanager
def private_network() -> Iterator[None]:
    """Give the processes that the block starts a DDS network of their own on this machine."""
    with tempfile.TemporaryDirectory(prefix="gosvae-network-") as folder:
        before = dict(os.environ)
        os.environ.update(network(describe({}).environment, Path(folder))[0])
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


class System:
    """Context of cameras, vehicle and edge, each a process, and a listener.

    To be used inside :func:`private_network`.
    """

    def __init__(self, transport: str, cameras: int, bundle: Path, drive: Path) -> None:
        self._transport = transport
        self._names = [f"camera{index}" for index in range(cameras)]
        self._bundle, self._drive = bundle.absolute(), drive.absolute()
        self._processes: dict[str, psutil.Process] = {}
        self._stack = ExitStack()

    def __enter__(self) -> System:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        """Start the processes, and wait until all are connected."""
        temporary = tempfile.TemporaryDirectory(prefix="gosvae-pipeline-")
        self._folder = Path(self._stack.enter_context(temporary))
        cores = sorted(os.sched_getaffinity(0))
        vehicle, edge = cores[0], cores[-1]
        values = {"bundle": str(self._bundle), "cameras": ",".join(self._names)}
        if self._transport == "tokens":
            nodes = self._stack.enter_context(Processes({}, self._folder))
            for node in describe(values).nodes:
                who, core = ("vehicle", vehicle) if node.side == "tx" else ("edge", edge)
                with pinned(core):
                    self._processes[who] = psutil.Process(nodes.start(node))
        else:
            expert = ("--bundle", str(self._bundle))
            if self._transport == "jpeg":
                self._reference("vehicle", vehicle, "jpeg-vehicle")
            self._reference("edge", edge, f"{self._transport}-edge", *expert)
        self._camera = self._reference("camera", vehicle, "camera", "--drive", str(self._drive))
        with pinned(edge):
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
            self._stack.callback(rclpy.try_shutdown)
            self.listener = Listener(self._names, self._transport)
            self._stack.enter_context(spinning(self.listener.node))
        self._await(lambda: not self.listener.missing(), self.listener.missing)

    def _reference(self, who: str, core: int, role: str, *options: str) -> subprocess.Popen[str]:
        """Start a process of :mod:`gosvae_bench.baseline_nodes`, and wait until it is ready."""
        command = [*python_of("baseline_nodes"), role, *self._names, *options]
        with pinned(core), (self._folder / f"{who}.log").open("w") as log:
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment()
            )
        self._stack.callback(_end, process)
        self._processes[who] = psutil.Process(process.pid)
        assert process.stdout is not None
        if process.stdout.readline() != '"ready"\n':
            raise GosvaeError(f"{who} does not start\n{self._last_words()}")
        return process

    def _await(self, done: Callable[[], bool], lacking: Callable[[], str]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not done():
            if time.monotonic() > deadline:
                raise GosvaeError(
                    f"{self._transport}, {len(self._names)} cameras: no {lacking()} within "
                    f"{DEADLINE:.0f} s\n{self._last_words()}"
                )
            time.sleep(0.05)

    def _last_words(self) -> str:
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs)

    @contextmanager
    def playing(self, size: str, rate: float, stamps: list[int]) -> Iterator[None]:
        """Publish frames during the block, which starts after first masks; fill in `stamps`."""
        assert self._camera.stdin is not None and self._camera.stdout is not None
        self.listener.masks.clear()
        self.listener.crossed.clear()
        since = time.time_ns()
        try:
            print(json.dumps([*SIZES[size], rate]), file=self._camera.stdin, flush=True)
            names = set(self._names)
            self._await(lambda: self.listener.masks_of(since) == names, lambda: "mask")
            time.sleep(SETTLE)
            yield
        finally:
            with suppress(BrokenPipeError):
                print("stop", file=self._camera.stdin, flush=True)
            stamps += json.loads(self._camera.stdout.readline() or "[]")

    def measure(self, size: str, rate: float, seconds: float) -> dict[str, Any]:
        """Return the figures of some seconds at a rate.

        Raises:
            GosvaeError: no mask arrives; the message has the end of each process's log.
        """
        stamps: list[int] = []
        with self.playing(size, rate, stamps):
            begin, before, memory = time.time_ns(), self._cpu(), self.memory()
            busy = busy_seconds()
            time.sleep(seconds)
            busy = busy_seconds() - busy
            after, end = self._cpu(), time.time_ns()
            last, names = self.memory(), set(self._names)
            drained = time.monotonic() + DRAIN
            while self.listener.masks_of(end) != names and time.monotonic() < drained:
                time.sleep(0.02)
        inside = [stamp for stamp in stamps if begin <= stamp < end]
        wall = (end - begin) / 1e9
        found = figures(inside, self.listener.masks, self.listener.crossed, len(self._names))
        return {
            **asdict(Run(self._transport, size, len(self._names), rate)),
            "seconds": round(wall, 1),
            "camera_rate": round(len(inside) / wall, 2),
            **found,
            "cpu": {who: round((after[who] - before[who]) / wall, 3) for who in after},
            "cpu_of_others": round((busy + sum(before.values()) - sum(after.values())) / wall, 3),
            "rss_mb": {who: [memory[who], last[who]] for who in memory},
        }

    def soak(self, size: str, rate: float, seconds: float) -> dict[str, Any]:
        """Return the memory of vehicle and edge every SOAK_STEP seconds."""
        stamps: list[int] = []
        memory: list[dict[str, float]] = []
        count = 0
        with self.playing(size, rate, stamps):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                memory.append(self.memory())
                time.sleep(min(SOAK_STEP, seconds))
                # Or the listener would grow.
                count += len(self.listener.masks)
                self.listener.masks.clear()
                self.listener.crossed.clear()
            memory.append(self.memory())
        return {
            **asdict(Run(self._transport, size, len(self._names), rate)),
            "seconds": seconds,
            "frames": len(stamps) * len(self._names),
            "masks": count,
            "step_s": min(SOAK_STEP, seconds),
            "rss_mb": {who: [each[who] for each in memory] for who in ("vehicle", "edge")},
        }

    def _cpu(self) -> dict[str, float]:
        processes = {**self._processes, "listener": psutil.Process()}
        times = {who: process.cpu_times() for who, process in processes.items()}
        return {who: each.user + each.system for who, each in times.items()}

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each process in MB."""
        return {
            who: round(process.memory_info().rss / 1e6, 1)
            for who, process in self._processes.items()
        }


def busy_seconds() -> float:
    """Return the CPU seconds that all cores were busy since the machine started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
