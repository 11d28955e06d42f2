"""Node `gosvae_replay`: plays a drive as if its cameras were here.

Topics are those of the cameras, and `/clock`. A looping replay never turns time back: each round
goes on where the last one ended, in `/clock` and in all stamps, since a clock that jumps back
resets receivers, transform buffers and synchronisers. The first round's messages of a bag are
published exactly as they were recorded; later rounds differ from them in their stamps alone.

With `restamp` the drive happens now, as for live cameras: all stamps are moved to the system's
clock, and there is no `/clock`, which at its rate would be most of what crosses a thin link.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any

from builtin_interfaces.msg import Time
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from gosvae_common.messages import to_image
from gosvae_common.parameters import ParameterNode
from gosvae_common.process import running, spinning

from .drives import Channel, Message, SourceError, open_source
from .drives.prefetch import prefetch
from .drives.stamps import shifted
from .limits import RATE_LIMITS

SECOND = 1_000_000_000
AHEAD = 8
"""Messages that are read and decoded ahead."""
STALL = SECOND // 2
"""Lateness in ns after which playing goes on from where it is, rather than in a burst."""
SETTLED = SECOND // 2
"""Time in ns without a new subscriber after which playing begins. DDS discovery is not symmetric:
a publisher knows of its subscriber some time before that subscriber can receive from it."""
LOG_PERIOD = 5 * SECOND
"""Time in ns between two log lines."""


PARAMETERS: tuple[tuple[str, Any, str, tuple[float, float] | None], ...] = (
    ("input", "", "Bag, video, or folder of images.", None),
    ("cameras", ["camera"], "Base names that the cameras' topics hang under.", None),
    ("topics", [""], "The bag's image topic of each camera; empty: choose.", None),
    ("fps", 15.0, "Frames per second of a folder.", (0.01, 1000.0)),
    ("start_offset", 0.0, "Seconds of the input to skip.", (0.0, 1e7)),
    ("clock_rate", 40.0, "Hz of /clock; 0: none.", (0.0, 1000.0)),
    ("restamp", False, "Stamps of the system's clock instead of /clock.", None),
    ("report", "", "JSON file to write at the end; empty: none.", None),
    ("rate", 1.0, "Speed as a factor.", RATE_LIMITS),
    ("loop", False, "Begin again at the end.", None),
)
"""Name, default, description and range of each parameter."""
LIVE = ("rate", "loop")
"""Parameters that can change while it plays."""


@dataclass(frozen=True)
class Pace:
    """How the input's time follows the monotonic clock: both in ns, and exact over any length."""

    rate: float
    position: int
    since: int

    def time(self) -> int:
        """Return the input's time now."""
        return self.position + round((time.monotonic_ns() - self.since) * self.rate)

    def wall(self, position: int) -> int:
        """Return the monotonic clock's time at which the input's time is `position`."""
        return self.since + round((position - self.position) / self.rate)


class Replay(ParameterNode):
    """Plays one input once, or in a loop; see :meth:`play`.

    Raises:
        SourceError: the input cannot be played.
        ParameterException: a parameter is out of its range.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("gosvae_replay", **options)
        for name, default, description, limits in PARAMETERS:
            self.declare(name, default, description, limits, read_only=name not in LIVE)
        if not self.value("input"):
            raise SourceError(
                "no input given; set `input` to a bag, a video, or a folder of images"
            )
        self.source = open_source(
            self.value("input"),
            self.value("cameras"),
            [topic for topic in self.value("topics") if topic],
            self.value("fps"),
        )
        self.get_logger().info(self.source.description)
        self._outputs = dict(self._make_outputs())
        self._clock_publisher = self.create_publisher(Clock, "/clock", 1)
        self._restamp = self.value("restamp")
        # Taken once: what belongs together shares its stamp to the nanosecond.
        self._epoch = time.time_ns() - time.monotonic_ns()
        clock_rate = 0.0 if self._restamp else self.value("clock_rate")
        self._clock_period = round(SECOND / clock_rate) if clock_rate else 0
        self._next_clock = self._clock_position = 0
        self._pace = Pace(self.value("rate"), self.source.start, time.monotonic_ns())
        self._sent: dict[str, list[dict[str, int]]] = {each: [] for each in self.source.cameras}
        self.add_on_set_parameters_callback(self._on_parameters)

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "rate":
                self._pace = Pace(parameter.value, self._pace.time(), time.monotonic_ns())
        return SetParametersResult(successful=True)

    def _make_outputs(self) -> Iterator[tuple[Channel, Publisher]]:
        for channel in self.source.channels:
            package, _, name = channel.msgtype.split("/")
            try:
                msgtype = getattr(import_module(f"{package}.msg"), name)
            except ImportError:
                self.get_logger().warning(
                    f"not playing {channel.topic}: {package} is not installed"
                )
                continue
            qos = QoSProfile(depth=100 if channel.role in ("tf", "tf_static") else 10)
            if channel.role == "tf_static":
                qos.durability = QoSDurabilityPolicy.TRANSIENT_LOCAL
            yield (
                channel,
                self.create_publisher(
                    msgtype,
                    channel.topic,
                    qos,
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                ),
            )

    def play(self, stop: Event) -> None:
        """Wait for subscribers, then play to the end, or until `stop` is set.

        Raises:
            SourceError: the input cannot be read on, or ends before `start_offset`.
        """
        messages = prefetch(self._rounds(), AHEAD)
        try:
            if self._wait_for_subscribers(stop):
                self._play(messages, stop)
        finally:
            messages.close()

    def write_report(self) -> None:
        """Write which frames were sent when, if the parameter `report` says where to."""
        if not self.value("report"):
            return
        cameras = {
            camera: {"transport": self.source.transport[camera], "frames": frames}
            for camera, frames in self._sent.items()
        }
        path = Path(self.value("report"))
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps({"input": self.value("input"), "cameras": cameras}))
        draft.replace(path)

    def _wait_for_subscribers(self, stop: Event) -> bool:
        """Wait until every image topic has subscribers, and no new ones come; False for `stop`."""
        counts: list[int] = []
        changed = time.monotonic_ns()
        next_log = changed + LOG_PERIOD
        while True:
            now = time.monotonic_ns()
            before, counts = (
                counts,
                [each.get_subscription_count() for each in self._outputs.values()],
            )
            changed = changed if counts == before else now
            missing = [
                channel.topic
                for channel, count in zip(self._outputs, counts, strict=True)
                if channel.role == "image" and not count
            ]
            if not missing and now - changed >= SETTLED:
                return True
            if missing and now >= next_log:
                next_log += LOG_PERIOD
                self.get_logger().info(f"waiting for a subscriber of {', '.join(missing)}")
            if stop.wait(0.02):
                return False

    def _rounds(self) -> Iterator[Message]:
        """Yield the input's messages, and again while `loop` is set, always later."""
        offset = round(self.value("start_offset") * SECOND)
        shift = 0
        while True:
            first = last = None
            for message in self.source.messages(offset):
                first, last = first or message, message
                if shift == 0:
                    yield message
                elif message.channel.role != "tf_static":
                    yield shifted(message, shift)
            if first is None or last is None:
                raise SourceError(
                    f"start_offset {offset / SECOND:g} s is after the end of "
                    f"{self.source.path}, {self.source.duration / SECOND:.1f} s"
                )
            if not self.value("loop"):
                return
            shift += last.time - first.time + self.source.interval

    def _play(self, messages: Iterable[Message], stop: Event) -> None:
        count = latest = next_log = end = 0
        # Without a report nothing may grow: a loop goes on for days.
        reported = bool(self.value("report"))
        for message in messages:
            if (publisher := self._outputs.get(message.channel)) is None:
                continue
            if end == 0:
                self._pace = Pace(self.value("rate"), message.time, time.monotonic_ns())
                next_log = time.monotonic_ns() + LOG_PERIOD
            end = message.time + self.source.interval
            recorded = message.stamp
            message = self._restamped(message)
            outgoing = self._to_ros(message)
            if not self._wait_until(message.time, stop):
                break
            if message.channel.role == "image":
                self._publish_clock(message.time)
                sent = {"stamp": message.stamp, "recorded": recorded, "wall": time.time_ns()}
                latest = max(latest, time.monotonic_ns() - self._pace.wall(message.time))
                publisher.publish(outgoing)
                if reported:
                    self._sent[message.channel.camera].append(sent)
                count += 1
            elif publisher.get_subscription_count():
                publisher.publish(outgoing)
            if time.monotonic_ns() >= next_log:
                next_log += LOG_PERIOD
                length = self.source.duration + self.source.interval
                done = (message.time - self.source.start) % length
                self.get_logger().info(
                    f"{done / SECOND:.1f} of {length / SECOND:.1f} s, {count} frames"
                )
        else:
            # The last frame lasts as long as any other; then it has also arrived.
            self._wait_until(end, stop)
        self.get_logger().info(f"played {count} frames, at most {latest / 1e6:.1f} ms late")

    def _wait_until(self, position: int, stop: Event) -> bool:
        """Wait until the input's time is `position`, keeping `/clock` going; False for `stop`."""
        while True:
            now = time.monotonic_ns()
            remaining = self._pace.wall(position) - now
            if remaining < -STALL:
                self._pace = Pace(self._pace.rate, position, now)
                self.get_logger().warning(
                    f"{-remaining / SECOND:.1f} s late, as reading or the machine was too slow; "
                    "going on from here"
                )
            if remaining <= 0:
                return True
            nap = min(remaining, SECOND // 10)
            if self._clock_period:
                if now >= self._next_clock:
                    self._publish_clock(self._pace.time())
                    self._next_clock = max(self._next_clock + self._clock_period, now)
                nap = min(nap, self._next_clock - now)
            if stop.wait(nap / SECOND):
                return False

    def _publish_clock(self, position: int) -> None:
        if self._clock_period and position > self._clock_position:
            self._clock_position = position
            self._clock_publisher.publish(Clock(clock=_to_time(position)))

    def _restamped(self, message: Message) -> Message:
        """Return the message as if recorded now, where that is asked for."""
        if not self._restamp or message.channel.role == "tf_static":
            return message
        now = self._pace.wall(message.time) + self._epoch
        # `time` stays, as that is what the pace goes by.
        return shifted(message, now - message.time)._replace(time=message.time)

    def _to_ros(self, message: Message) -> Any:
        if isinstance(message.data, bytes):
            return message.data
        frame_id = f"{message.channel.camera.replace('/', '_')}_optical_frame"
        header = Header(stamp=_to_time(message.stamp), frame_id=frame_id)
        return to_image(message.data, "rgb8" if message.data.ndim == 3 else "mono8", header)


def _to_time(nanoseconds: int) -> Time:
    seconds, rest = divmod(nanoseconds, SECOND)
    return Time(sec=seconds, nanosec=rest)


def main() -> int:
    """Run the node; return 0 when it played or a signal ended it, 1 when it could not."""
    with running() as stop:
        try:
            node = Replay()
            with spinning(node):
                try:
                    node.play(stop)
                finally:
                    node.write_report()
        except (SourceError, ParameterException, OSError) as error:
            get_logger("gosvae_replay").fatal(str(error))
            return 1
    return 0
