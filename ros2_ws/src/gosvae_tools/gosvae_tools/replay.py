"""Node `gosvae_replay`: plays a drive in place of its cameras.

Topics are those of the cameras, and `/clock`. Playing begins when every camera has a subscriber,
and when the nodes that `wait_for` names receive from each other.

Frames are played at the pace of their recording. A pause longer than `max_gap` is announced and cut
to it, whether a camera began late or a time is wrong; `/clock` follows the stamps, so that it jumps
ahead over such a pause. Static transforms are latched from the start, all in one message, for
subscribers that come later.

A looping replay never turns time back: each round goes on where the last one ended, in `/clock` and
in all stamps, since a clock that jumps back resets receivers, transform buffers and synchronisers.
The first round's messages of a bag are published exactly as they were recorded; later rounds differ
from them in their stamps alone.

With `restamp` the drive happens now, as for live cameras: all stamps are moved to the system's
clock, and there is no `/clock`, which at its rate would be most of what crosses a thin link.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from gosvae_codec.draft import draft
from gosvae_codec.errors import GosvaeError
from gosvae_common.messages import to_image
from gosvae_common.parameters import ParameterNode
from gosvae_common.process import running, spinning
from gosvae_common.qos import qos_profile
from gosvae_common.topics import DIAGNOSTICS

from .drives import Channel, Message, SourceError, open_source
from .drives.prefetch import prefetch
from .limits import RATE_LIMITS
from .readiness import Readiness
from .static_transforms import StaticTransforms, transforms_at
from .timeline import SECOND, STAMP_LIMIT, Pace, Placed, Timeline, moved

AHEAD = 8
"""Messages that are read and decoded ahead."""
STALL = SECOND // 2
"""Lateness in ns after which playing goes on from where it is, rather than in a burst."""
SETTLED = SECOND // 2
"""Time in ns without a new subscriber after which playing begins. DDS discovery is not symmetric:
a publisher knows of its subscriber some time before that subscriber can receive from it."""
STAMP_SKEW = 3600 * SECOND
"""How far in ns a stamp may be from the time of recording; others are replaced, not moved."""
LOG_PERIOD = 5 * SECOND
"""Time in ns between two log lines; in a loop it doubles with each line."""
LOOP_LOG_PERIOD = 600 * SECOND
"""Longest time in ns between two log lines of a loop."""


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
    (
        "max_gap",
        5.0,
        "Longest pause between frames in seconds of the input, at least two frames' time; a longer "
        "one is announced and cut to it.",
        (0.0, 1e7),
    ),
    (
        "wait_for",
        [""],
        "Names of the transmitter, receiver and recording that must hear each other before "
        "playing begins, as they tell on /diagnostics; empty: none.",
        None,
    ),
    (
        "ready_timeout",
        300.0,
        "Seconds after which the replay fails if these nodes are not ready; 0: never.",
        (0.0, 1e6),
    ),
)
"""Name, default, description and range of each parameter."""
LIVE = ("rate", "loop")
"""Parameters that can change while it plays."""


class NotReadyError(GosvaeError):
    """The nodes of the pipeline do not hear each other in time."""


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
        for note in self.source.notes:
            self.get_logger().warning(note)
        self._outputs = dict(self._make_outputs())
        self._static = self._latch_static_transforms()
        self._clock_publisher = self.create_publisher(Clock, "/clock", 1)
        self._restamp = self.value("restamp")
        # Taken once: what belongs together shares its stamp to the nanosecond.
        self._epoch = time.time_ns() - time.monotonic_ns()
        clock_rate = 0.0 if self._restamp else self.value("clock_rate")
        self._clock_period = round(SECOND / clock_rate) if clock_rate else 0
        self._next_clock = self._clock_position = 0
        self._pace = Pace(self.value("rate"), 0, time.monotonic_ns())
        self._played = 0, self.source.start
        """Position and clock of the message played last."""
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
            qos = QoSProfile(depth=100 if channel.role == "tf" else 10)
            if channel.role == "tf_static":
                qos = qos_profile("latched")
            yield (
                channel,
                self.create_publisher(
                    msgtype,
                    channel.topic,
                    qos,
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                ),
            )

    def _latch_static_transforms(self) -> StaticTransforms:
        """Publish the static transforms of the input to all who come."""
        transforms = StaticTransforms()
        for channel, publisher in self._outputs.items():
            if channel.role == "tf_static":
                path, start = self.source.path, self.source.start
                transforms = transforms_at(path, channel.topic, start)
                publisher.publish(transforms.message())
                self.get_logger().info(f"latched {len(transforms)} static transforms")
        return transforms

    def play(self, stop: Event) -> None:
        """Wait until all who are to hear it do, then play to the end, or until `stop` is set.

        Raises:
            SourceError: the input cannot be read on, or ends before `start_offset`.
            NotReadyError: the nodes that `wait_for` names are not ready within `ready_timeout`.
        """
        messages = prefetch(self._rounds(), AHEAD)
        try:
            if self._wait_until_ready(stop):
                self._play(messages, stop)
        finally:
            messages.close()
        if self.source.losses:
            count, first = len(self.source.losses), self.source.losses[0].reason
            self.get_logger().warning(f"could not play {count} messages, as {first}")

    def write_report(self) -> None:
        """Write which frames were sent when, if the parameter `report` says where to."""
        if not self.value("report"):
            return
        cameras = {
            camera: {"transport": self.source.transport[camera], "frames": frames}
            for camera, frames in self._sent.items()
        }
        report = Path(self.value("report"))
        report.parent.mkdir(parents=True, exist_ok=True)
        with draft(report, replace=True) as path:
            path.write_text(json.dumps({"input": self.value("input"), "cameras": cameras}))

    def _wait_until_ready(self, stop: Event) -> bool:
        """Wait until all are ready and no new subscribers come; return False for `stop`.

        Raises:
            NotReadyError: after `ready_timeout`, which holds while there are nodes to wait for.
        """
        readiness = self._make_readiness()
        limit = self.value("ready_timeout") if readiness else 0.0
        started = changed = time.monotonic_ns()
        next_log = started + LOG_PERIOD
        counts: list[int] = []
        while True:
            now = time.monotonic_ns()
            before, counts = (
                counts,
                [each.get_subscription_count() for each in self._outputs.values()],
            )
            changed = changed if counts == before else now
            missing = [
                f"a subscriber of {channel.topic}"
                for channel, count in zip(self._outputs, counts, strict=True)
                if channel.role == "image" and not count
            ]
            if readiness:
                missing += readiness.missing()
            if not missing and now - changed >= SETTLED:
                return True
            if missing and limit and now - started > limit * SECOND:
                raise NotReadyError(
                    f"not ready within {limit:g} s, waiting for {'; '.join(missing)}; see the log "
                    "of that node, or raise ready_timeout"
                )
            if missing and now >= next_log:
                next_log += LOG_PERIOD
                self.get_logger().info(f"waiting for {'; '.join(missing)}")
            if stop.wait(0.02):
                return False

    def _make_readiness(self) -> Readiness | None:
        """Listen to the nodes to wait for; return None if there are none."""
        nodes = [name for name in self.value("wait_for") if name]
        if not nodes:
            return None
        labels = {
            channel.camera: channel.topic.removeprefix(f"{channel.camera}/")
            for channel in self._outputs
            if channel.role == "label"
        }
        cameras = {camera: labels.get(camera, "") for camera in self.source.cameras}
        readiness = Readiness(nodes, cameras)
        self.create_subscription(DiagnosticArray, DIAGNOSTICS, readiness.take, 10)
        return readiness

    def _rounds(self) -> Iterator[Placed]:
        """Yield the input's messages, and again while `loop` is set, always later."""
        offset = round(self.value("start_offset") * SECOND)
        timeline = Timeline(self.source, round(self.value("max_gap") * SECOND))
        while True:
            nothing = True
            for placed in timeline.round(self.source.messages(offset)):
                nothing = False
                yield placed
            if nothing:
                raise SourceError(
                    f"start_offset {offset / SECOND:g} s is after the end of "
                    f"{self.source.path}, {self.source.duration / SECOND:.1f} s"
                )
            if not self.value("loop"):
                return

    def _play(self, messages: Iterable[Placed], stop: Event) -> None:
        count = latest = position = 0
        # Without a report nothing may grow: a loop goes on for days.
        reported = bool(self.value("report"))
        self._pace = Pace(self.value("rate"), 0, time.monotonic_ns())
        period, next_log = LOG_PERIOD, time.monotonic_ns() + LOG_PERIOD
        for placed in messages:
            if (publisher := self._outputs.get(placed.message.channel)) is None:
                continue
            if placed.note:
                self.get_logger().info(placed.note)
            recorded, position = placed.message.stamp, placed.position
            message = self._restamped(placed)
            outgoing = self._to_ros(message)
            if not self._wait_until(position, stop):
                break
            self._played = position, placed.clock
            if message.channel.role == "image":
                self._publish_clock(placed.clock)
                sent = {"stamp": message.stamp, "recorded": recorded, "wall": time.time_ns()}
                latest = max(latest, time.monotonic_ns() - self._pace.wall(position))
                publisher.publish(outgoing)
                if reported:
                    self._sent[message.channel.camera].append(sent)
                count += 1
            elif message.channel.role == "tf_static":
                if self._static.add(bytes(outgoing)):
                    publisher.publish(self._static.message())
            elif publisher.get_subscription_count():
                publisher.publish(outgoing)
            if time.monotonic_ns() >= next_log:
                if count > len(self.source):
                    period = min(2 * period, LOOP_LOG_PERIOD)
                next_log += period
                self.get_logger().info(f"played {count} frames; the input has {len(self.source)}")
        else:
            # The last frame lasts as long as any other; then it has also arrived.
            self._wait_until(position + self.source.interval, stop)
        self.get_logger().info(f"played {count} frames, at most {latest / 1e6:.1f} ms late")

    def _wait_until(self, position: int, stop: Event) -> bool:
        """Wait for the playing time `position`, with `/clock` going; return False for `stop`."""
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
                    since, clock = self._played
                    self._publish_clock(clock + self._pace.time() - since)
                    self._next_clock = max(self._next_clock + self._clock_period, now)
                nap = min(nap, self._next_clock - now)
            if stop.wait(nap / SECOND):
                return False

    def _publish_clock(self, clock: int) -> None:
        if self._clock_period and self._clock_position < clock < STAMP_LIMIT:
            self._clock_position = clock
            self._clock_publisher.publish(Clock(clock=_to_time(clock)))

    def _restamped(self, placed: Placed) -> Message:
        """Return the message as if recorded now, where that is asked for."""
        message = placed.message
        if not self._restamp or message.channel.role == "tf_static":
            return message
        now = self._pace.wall(placed.position) + self._epoch
        # What belongs together has one stamp, and one distance from its time of recording.
        far = abs(message.stamp - message.time) > STAMP_SKEW
        return moved(message, now - (message.stamp if far else message.time))

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
        except (SourceError, NotReadyError, ParameterException, OSError) as error:
            get_logger("gosvae_replay").fatal(str(error))
            return 1
    return 0
