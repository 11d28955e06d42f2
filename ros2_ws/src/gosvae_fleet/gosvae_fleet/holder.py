"""A holder of streams: unsealing, reassembly, entropy decoding and feedback; an actor of Ray.

A stream is state that lives here and nowhere else. It may be lost: the next holder has no
reference, says so in its first feedback, and the vehicle sends an intra frame.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import serialize_message

from gosvae_codec import EncodedFrame, ModelBundle, Packet, PacketError
from gosvae_codec.errors import KeyFileError
from gosvae_codec.keys import KeyFile
from gosvae_codec.unpacking import UnpackedFrame, Unpacker
from gosvae_common.diagnostics import to_status
from gosvae_common.meters import Meter
from gosvae_common.reception import Reception
from gosvae_common.task_messages import outputs_of

from . import keys
from .figures import Figures, to_report
from .link import has_listeners, result_publisher, token_publisher
from .network import Job

SLICE_SECONDS = 0.3
"""How long to wait after a slice for the next slice of its frame."""
FEEDBACK_SECONDS = 0.2
"""Between messages of feedback while packets arrive and no frame is complete."""
STATUS_SECONDS = 1.0
"""Between messages of diagnostics."""
ANSWER_SECONDS = 1.0
"""How long after its last packet a stream is answered."""
REMEMBERED_EVENTS = 100

Place = tuple[str, str]
"""Vehicle and camera."""


class Waiting:
    """The newest frame of each stream that waits for a network; the oldest stream is first."""

    def __init__(self) -> None:
        self._jobs: dict[Stream, Job] = {}
        self._changed = asyncio.Event()

    def put(self, stream: Stream, job: Job) -> None:
        """Add a frame in the place of an older one, which is skipped."""
        stream.skipped += stream in self._jobs
        self._jobs[stream] = job
        self._changed.set()

    async def take(self, batch: int) -> list[tuple[Stream, Job]]:
        """Return the next frames, one at least and `batch` at most, as soon as there are any."""
        while not self._jobs:
            self._changed.clear()
            await self._changed.wait()
        names = list(self._jobs)[:batch]
        return [(each, self._jobs.pop(each)) for each in names]


class Stream:
    """One camera's stream."""

    def __init__(self, holder: Holder, place: Place, bundle: ModelBundle) -> None:
        self._holder, self._place = holder, place
        self.skipped = self.failed = 0
        self._heard = self._told = 0.0
        self._frame_bytes = Meter()
        self._status = result_publisher(holder.session, keys.status_key(place[0]))
        self._feedback = token_publisher(holder.session, keys.feedback_key(*place))
        self._results: Counter[str] = Counter()
        self._begin(bundle)

    def _begin(self, bundle: ModelBundle) -> None:
        log, place = self._holder.log, "/".join(self._place)
        self.reception = Reception(bundle, lambda text: log(f"{place}: {text}"), self._holder.keys)
        self._unpacker = Unpacker(bundle)
        self._waiting = self._holder.network(bundle)
        vehicle, camera = self._place
        self._publishers = {
            topic: result_publisher(self._holder.session, keys.key(vehicle, f"{camera}/{topic}"))
            for topic in self._holder.topics(bundle)
        }

    def on_packet(self, data: bytes) -> None:
        """Process a packet as CDR. None raises an error."""
        self._heard = time.monotonic()
        try:
            packet = Packet.from_bytes(data)
        except PacketError as error:
            self.reception.reject(error)
            return
        other = self._holder.bundles.get(packet.fingerprint)
        if other is not None and other is not self.reception.bundle:
            self._begin(other)
        self._unpack(self.reception.receive(packet))

    def on_tick(self, now: float) -> None:
        """Release frames that wait for a slice, and repeat feedback; `now` is monotonic."""
        self._unpack(self.reception.expire(now - SLICE_SECONDS))
        if now - self._heard >= ANSWER_SECONDS:
            return  # a stream that went to another holder is answered there
        if self.reception.is_feedback_due(FEEDBACK_SECONDS):
            self._answer()
        if now - self._told >= STATUS_SECONDS:
            self._told = now
            self._tell()

    def on_result(self, frame: UnpackedFrame, messages: Mapping[str, bytes]) -> None:
        """Publish what was made of a frame, CDR by topic."""
        for topic, data in messages.items():
            if topic in self._publishers:  # the vehicle may have another bundle now
                self._publishers[topic].put(data)
                self._results[topic] += 1
        self.reception.on_result(frame.header, frame.coverage, time.time_ns())

    def _unpack(self, frames: Sequence[EncodedFrame]) -> None:
        """Unpack frames, also those of which nothing will be made: later ones refer to them."""
        for frame in frames:
            try:
                unpacked = self._unpacker.unpack(frame.packets)
            except Exception as error:  # of this frame; the next one is processed
                self.reception.on_error(error)
            else:
                self._frame_bytes.add(sum(packet.serialized_size() for packet in frame.packets))
                self.reception.on_unpacked(frame.packets[0].stream, unpacked)
                self._pass_on(unpacked)
            self._answer()

    def _pass_on(self, frame: UnpackedFrame) -> None:
        """Let networks make what somebody listens to."""
        wanted = [topic for topic, each in self._publishers.items() if has_listeners(each)]
        if wanted:
            self._waiting.put(self, Job(frame, wanted))
        else:
            self.on_result(frame, {})

    def _answer(self) -> None:
        message = self.reception.feedback()
        message.header.stamp = _now()
        self.reception.seal(message)
        self._feedback.put(serialize_message(message))

    def _tell(self) -> None:
        """Publish what ``/diagnostics`` shows."""
        camera = keys.key(*self._place)
        message = DiagnosticArray(
            status=[to_status(to_report(self.figures()), "gosvae_fleet", camera)]
        )
        message.header.stamp = _now()
        self._status.put(serialize_message(message))

    def figures(self) -> Figures:
        """Return what is known of it."""
        each = self.reception
        return Figures(
            *self._place,
            bundle=each.bundle.name,
            packets=each.packets,
            frames=each.frames,
            frames_per_s=each.results.rate(),
            age_ms_p50=each.age_ms.percentile(0.5),
            age_ms_p95=each.age_ms.percentile(0.95),
            last_frame_s=each.results.silence() if each.frames else math.inf,
            results=dict(self._results),
            bytes_per_frame=self._frame_bytes.mean(),
            kbit_per_s=each.bytes.sum_rate() * 8 / 1e3,
            lost=each.reassembler.lost,
            skipped=self.skipped,
            failed=self.failed,
            without_reference=each.undecodable,
            rejected=dict(each.rejected),
            problem=each.rejections.last if each.rejections.meter.rate() else "",
        )


class Report(NamedTuple):
    """What a holder says of itself."""

    process: int
    streams: list[Figures]
    batches: Mapping[int, int]
    """Calls of networks by their number of frames."""
    events: list[str]
    """What was to be logged since the report before."""


class Holder:
    """The streams of some cameras. Methods run in one event loop, one at a time."""

    def __init__(
        self,
        session: Any,
        bundles: Sequence[ModelBundle],
        networks: Mapping[int, Any],
        batch: int = 1,
        calls: int = 2,
        keys: KeyFile | None = None,
    ) -> None:
        """Hold streams of `bundles`, the first of which answers packets of unknown ones.

        Args:
            session: of Zenoh, which feedback and results are published with.
            bundles: that vehicles may use.
            networks: by fingerprint, what makes messages of jobs, as :class:`Network` does:
                ``remote(jobs)`` to be awaited.
            batch: largest number of frames a call.
            calls: of one bundle's network that may run at once.
            keys: with which packets must be sealed.
        """
        self.session, self.keys = session, keys
        self.bundles = {each.fingerprint: each for each in bundles}
        for each in bundles:
            _ = each.coder  # compiled now rather than at the first packet
        self._default = bundles[0]
        self._networks, self._batch, self._calls = networks, batch, calls
        self._streams: dict[Place, Stream] = {}
        self._waiting: dict[int, Waiting] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._batches: Counter[int] = Counter()
        self._key_problem = ""
        self._events: deque[str] = deque(maxlen=REMEMBERED_EVENTS)
        self.log = self._events.append

    async def push(self, packets: Sequence[tuple[str, str, bytes]]) -> None:
        """Process packets, each with its vehicle and camera."""
        if not self._tasks:
            self._tasks.append(asyncio.create_task(self._tick()))
        for vehicle, camera, data in packets:
            place = vehicle, camera
            if place not in self._streams:
                self._streams[place] = Stream(self, place, self._default)
            self._streams[place].on_packet(data)

    async def report(self) -> Report:
        """Return figures of all streams and what was logged since the last report."""
        events = list(self._events)
        self._events.clear()
        streams = [each.figures() for each in self._streams.values()]
        return Report(os.getpid(), streams, dict(self._batches), events)

    async def ready(self) -> int:
        """Return the number of this process, as soon as it can take packets."""
        return os.getpid()

    def topics(self, bundle: ModelBundle) -> list[str]:
        """Return what can be made of a bundle's frames, below a camera's base name."""
        return [each.topic for task in bundle.tasks.values() for each in outputs_of(task)]

    def network(self, bundle: ModelBundle) -> Waiting:
        """Return where frames of a bundle wait for its network."""
        fingerprint = bundle.fingerprint
        if fingerprint not in self._waiting:
            waiting = self._waiting[fingerprint] = Waiting()
            network = self._networks[fingerprint]
            for _ in range(self._calls):
                self._tasks.append(asyncio.create_task(self._serve(waiting, network)))
        return self._waiting[fingerprint]

    async def _serve(self, waiting: Waiting, network: Any) -> None:
        while True:
            taken = await waiting.take(self._batch)
            self._batches[len(taken)] += 1
            try:
                made = await network.remote([job for _, job in taken])
            except Exception as error:  # its replica died; others, or the next one, go on
                for stream, _ in taken:
                    stream.failed += 1
                self.log(f"network of bundle: {_first_line(error)}")
                continue
            for (stream, job), messages in zip(taken, made, strict=True):
                stream.on_result(job.frame, messages)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(FEEDBACK_SECONDS / 4)
            now = time.monotonic()
            self._refresh_keys()
            for stream in list(self._streams.values()):
                stream.on_tick(now)

    def _refresh_keys(self) -> None:
        """Read the key file again if it has changed."""
        problem = ""
        try:
            if self.keys is not None and self.keys.refresh():
                self.log(f"key file {self.keys.path} holds keys {self.keys.ids}")
        except KeyFileError as error:
            problem = f"{error}; the keys before it are still in use"
        if problem and problem != self._key_problem:
            self.log(problem)
        self._key_problem = problem


def _now() -> Time:
    nanoseconds = time.time_ns()
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
