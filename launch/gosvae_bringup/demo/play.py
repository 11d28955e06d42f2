"""Playing a drive: the pipeline's processes run until the masks of all frames have come."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from types import TracebackType

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rich.progress import Progress
from sensor_msgs.msg import Image

from gosvae_codec.errors import GosvaeError
from gosvae_common.topics import DIAGNOSTICS, MASK, PACKETS
from gosvae_tools.link.emulator import EDGE, VEHICLE, EmulatedLink

from ..pipeline import Node, Pipeline
from ..processes import Ended, Processes
from .delivery import Delivery, Usage
from .network import network
from .prepare import CAMERA, Run

START_SECONDS = 120.0
"""Limit for the nodes to find each other, and then for the first mask to come."""
QUIET_SECONDS = 2.0
"""After the drive, waiting for masks ends when none came for this time."""
SETTLE_SECONDS = 0.5
"""Time for which recording goes on after the last mask."""
CODERS = ("transmitter", "receiver")
"""Executables of the nodes on both ends of a link."""


class DemoError(GosvaeError):
    """The demo could not be played to its end."""


class Interrupted(Exception):
    """A signal asked for the end."""


def play(run: Run, progress: Progress, stop: Event) -> tuple[Delivery, Mapping[str, Usage] | None]:
    """Run the pipeline until its masks have come, and read what was recorded.

    Over a link this thread, the receiver and its recording are on the edge, transmitter and replay
    in the vehicle. The link's usage is that from the first mask to the replay's end.

    Raises:
        DemoError: a node failed, the nodes did not find each other, or no mask came.
        Interrupted: `stop` was set.
    """
    replay_report, logs = run.folder / "replay.json", run.folder / "logs"
    logs.mkdir()
    replay, others = _roles(run.pipeline, replay_report)
    bags = [Path(str(each.parameters["output"])) for each in others if "output" in each.parameters]
    link = run.link
    environment, far = network(run.pipeline.environment, logs, link)
    with ExitStack() as stack:
        if link is not None:
            stack.enter_context(link)
            stack.enter_context(link.inside(EDGE))
        processes = stack.enter_context(Processes(environment, logs))
        os.environ.update({**environment, **far["rx"]})
        diagnostics = DIAGNOSTICS if link is None else f"/tx{DIAGNOSTICS}"
        watcher = stack.enter_context(_Watcher(diagnostics))
        task = progress.add_task("starting", total=None)

        def start(node: Node) -> None:
            prefix = [] if link is None or node.side != "tx" else link.command(VEHICLE)
            if node.executable in CODERS:
                prefix += ["env", *(f"{name}={value}" for name, value in far[node.side].items())]
            processes.start(node, prefix)

        for node in others:
            start(node)
        _wait_until_ready(watcher, processes, stop)
        meter = None if link is None else _Meter(link)
        start(replay)
        progress.update(task, description="masks received", total=len(run.source))

        def end_of_drive() -> int:
            if meter is not None:
                meter.stop()
            sent = len(json.loads(replay_report.read_text())["cameras"][CAMERA]["frames"])
            progress.update(task, total=sent)
            return sent

        def received(masks: int) -> None:
            progress.update(task, completed=masks)
            if meter is not None:
                meter.received(masks)

        sent = _receive(watcher, processes, stop, end_of_drive, received)
        for ended in processes.stop():
            if ended.status:
                raise DemoError(_failure(ended, processes))
    if not sent:
        raise DemoError(f"the replay sent no frame; see {processes.log(replay)}")
    usage = None if meter is None else meter.usage
    return Delivery.read(replay_report, bags, CAMERA), usage


def _roles(pipeline: Pipeline, replay_report: Path) -> tuple[Node, list[Node]]:
    """Return the replay, which is to write a report, and the other nodes."""
    replay = next(node for node in pipeline.nodes if node.lifetime == "drive")
    others = [node for node in pipeline.nodes if node is not replay]
    parameters = {**replay.parameters, "report": str(replay_report)}
    return dataclasses.replace(replay, parameters=parameters), others


def _wait_until_ready(watcher: _Watcher, processes: Processes, stop: Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    while (missing := watcher.missing()) is not None:
        _check(processes, stop)
        if time.monotonic() > deadline:
            raise DemoError(f"no {missing} within {START_SECONDS:.0f} s; see {processes.logs}")
        watcher.spin(0.05)


def _receive(
    watcher: _Watcher,
    processes: Processes,
    stop: Event,
    end_of_drive: Callable[[], int],
    received: Callable[[int], None],
) -> int:
    """Wait until the masks of all frames came, or no more come, and return the frames sent.

    Args:
        watcher: counts the masks.
        processes: the nodes, the replay among them.
        stop: set by a signal.
        end_of_drive: is called when the replay has ended, and returns the number of frames sent.
        received: is called with the number of masks so far.
    """
    deadline = time.monotonic() + START_SECONDS
    sent = None
    ended_at = math.inf
    while sent is None or watcher.masks < sent:
        if time.monotonic() - max(ended_at, watcher.last_mask) > QUIET_SECONDS:
            break
        if _check(processes, stop):
            ended_at = time.monotonic()
            sent = end_of_drive()
        if sent is None and not watcher.masks and time.monotonic() > deadline:
            raise DemoError(
                f"no mask within {START_SECONDS:.0f} s of the replay; see {processes.logs}"
            )
        watcher.spin(0.05)
        received(watcher.masks)
    watcher.spin(SETTLE_SECONDS)
    return sent or 0


class _Meter:
    """Measures the traffic of a link from the first mask until :meth:`stop`."""

    def __init__(self, link: EmulatedLink) -> None:
        self._link = link
        self._begun = False
        self.usage: Mapping[str, Usage] | None = None
        self._begin()

    def _begin(self) -> None:
        self._before, self._since = self._link.counters(), time.monotonic()

    def received(self, masks: int) -> None:
        """Begin with the first mask: the replay takes seconds to start, and sends nothing then."""
        if masks and not self._begun:
            self._begun = True
            self._begin()

    def stop(self) -> None:
        seconds = time.monotonic() - self._since
        self.usage = {}
        for side, after in self._link.counters().items():
            before = self._before[side]
            packets = max(after.packets - before.packets, 1)
            lost = after.lost + after.dropped - before.lost - before.dropped
            kbit = (after.carried_bytes - before.carried_bytes) * 8 / 1000
            self.usage[f"from_{side}"] = Usage(kbit / seconds, lost / packets)


def _check(processes: Processes, stop: Event) -> bool:
    """Return whether the drive has just ended; raise for a failure or a signal."""
    if stop.is_set():
        raise Interrupted
    ended = processes.ended()
    for each in ended:
        if each.means == "failure":
            raise DemoError(_failure(each, processes))
    return any(each.means == "end of drive" for each in ended)


def _failure(ended: Ended, processes: Processes) -> str:
    log = processes.log(ended.node)
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{ended}: {lines[-1] if lines else 'no output'}; see {log}"


class _Watcher:
    """A node that counts masks, and checks which nodes are connected."""

    def __init__(self, diagnostics: str) -> None:
        """Watch a transmitter whose diagnostics come on the topic `diagnostics`."""
        self.masks = 0
        self.last_mask = -math.inf
        self._topic = diagnostics
        self._listeners = ""

    def __enter__(self) -> _Watcher:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("gosvae_demo")
        qos = QoSProfile(depth=50, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        # Serialised: only their number matters here.
        self._node.create_subscription(Image, f"{CAMERA}/{MASK}", self._count, qos, raw=True)
        self._diagnostics: Subscription | None = self._node.create_subscription(
            DiagnosticArray, self._topic, self._learn, 10
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _count(self, _: bytes) -> None:
        self.masks += 1
        self.last_mask = time.monotonic()

    def spin(self, seconds: float) -> None:
        """Receive for that long."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=remaining)

    def _learn(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"gosvae_tx: {CAMERA}":
                self._listeners = {each.key: each.value for each in status.values}["listeners"]

    def missing(self) -> str | None:
        """Return what is missing before the drive can begin; None when all nodes are connected."""
        packets, masks = f"{CAMERA}/{PACKETS}", f"{CAMERA}/{MASK}"
        if not self._node.count_publishers(packets):
            return "transmitter"
        if not self._node.count_publishers(masks):
            return "receiver"
        # Recording and this node.
        if self._node.count_subscribers(masks) < 2:
            return "listeners of masks"
        # Recording and receiver. The transmitter must know of them, not only this node.
        if self._listeners != "2":
            return "listeners of packets"
        # Diagnostics would go on crossing a link.
        if self._diagnostics is not None:
            self._node.destroy_subscription(self._diagnostics)
            self._diagnostics = None
        return None
