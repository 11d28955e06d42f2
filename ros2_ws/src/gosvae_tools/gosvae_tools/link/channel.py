"""A thin, lossy link as a model: when a packet arrives, or that it never does.

    spec = LinkSpec.parse("loss=10% delay=50ms rate=128kbit")
    arrival = Channel(spec).send(time=0.0, size=1442)  # seconds; None: lost

Pure arithmetic on the times it is told, so that the same seed gives the same link in a simulation,
which waits for nothing, and in :mod:`.emulator`, which carries real Ethernet frames.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from gosvae_codec.errors import GosvaeError

QUEUE_SECONDS = 0.3
QUEUE_BYTES = 3000
"""Least queue where none is given: two full Ethernet frames, however slow the link."""
DETOUR_SECONDS = 0.01

_TIME = {"ms": 1e-3, "s": 1.0}
_SHARE = {"%": 1e-2, "": 1.0}
_RATE = {"kbit": 1e3, "mbit": 1e6}
_SIZE = {"B": 1.0, "kB": 1e3}
_COUNT = {"": 1.0}
_UNITS: Mapping[str, tuple[Mapping[str, float], str]] = {
    "delay": (_TIME, "50ms"),
    "jitter": (_TIME, "5ms"),
    "loss": (_SHARE, "10%"),
    "burst": (_COUNT, "3"),
    "reorder": (_SHARE, "1%"),
    "rate": (_RATE, "128kbit"),
    "queue": (_SIZE | _TIME, "64kB or 300ms"),
    "seed": (_COUNT, "1"),
}


class LinkError(GosvaeError):
    """A link is described wrongly, or cannot be made on this machine."""


@dataclass(frozen=True)
class LinkSpec:
    """What one direction of a link does to packets.

    Attributes:
        delay: one-way propagation time in seconds.
        jitter: by how many seconds the delay varies, uniformly, either way. It changes no order.
        loss: share of the packets lost in the air, 0 to 1.
        burst: mean number of packets lost in a row, at least 1: the simple Gilbert channel, that is
            Gilbert-Elliott's with nothing lost in the good state and everything in the bad one
            (Haßlinger and Hohlfeld, "The Gilbert-Elliott Model for Packet Loss in Real Time
            Services on the Internet", 2008). None: packets are lost independently.
        reorder: share of the packets that take twice the delay, at least 10 ms more, so that later
            ones overtake them.
        rate: bit/s, lost packets included; None: unlimited.
        queue: bytes that may wait for their turn, besides the packet being sent; a packet without
            room is dropped. None: what is sent in 300 ms, at least 3,000 bytes.
        seed: of all that is random.

    Raises:
        LinkError: a value is impossible.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    burst: float | None = None
    reorder: float = 0.0
    rate: float | None = None
    queue: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("loss", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise LinkError(f"{name} is {getattr(self, name):.0%}; give 0% to 100%")
        if self.delay < 0 or not 0 <= self.jitter <= self.delay:
            raise LinkError(
                f"jitter is {self.jitter * 1e3:g}ms and delay {self.delay * 1e3:g}ms; "
                "give a jitter from 0 to the delay"
            )
        if self.burst is not None and self.burst < max(1, self.loss * (1 + self.burst)):
            raise LinkError(
                f"burst is {self.burst:g}; at a loss of {self.loss:.0%}, give at least 1, and at "
                "least loss / (1 - loss)"
            )
        if self.rate is not None and self.rate <= 0:
            raise LinkError(f"rate is {self.rate / 1e3:g}kbit; give more than 0")

    @classmethod
    def parse(cls, text: str) -> LinkSpec:
        """Read ``"loss=10% delay=50ms rate=128kbit jitter=5ms burst=3 queue=64kB seed=1"``.

        All are optional, in any order, with spaces or commas between them.

        Raises:
            LinkError: an entry is none of these; the message lists what there is.
        """
        values: dict[str, float] = {}
        queue_unit = ""
        for entry in re.split(r"[\s,]+", text.strip()):
            key, _, value = entry.partition("=")
            if key not in _UNITS:
                known = " ".join(f"{name}={form}" for name, (_, form) in _UNITS.items())
                raise LinkError(f"link has no {entry!r}; it can be: {known}")
            units, example = _UNITS[key]
            match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([a-zA-Z%]*)", value)
            if not match or match[2] not in units:
                raise LinkError(f"link: {entry!r} is no number with its unit, as {key}={example}")
            if key in values:
                raise LinkError(f"link: {key} is given twice")
            values[key] = float(match[1]) * units[match[2]]
            queue_unit = match[2] if key == "queue" else queue_unit
        if queue_unit in _TIME:
            if "rate" not in values:
                raise LinkError("link: a queue in ms needs a rate; give one, or the queue in kB")
            values["queue"] *= values["rate"] / 8
        seed, queue = int(values.pop("seed", 0)), values.pop("queue", None)
        return cls(**values, queue=None if queue is None else round(queue), seed=seed)


@dataclass
class Counters:
    """Packets and bytes that a channel was given, and what became of them.

    Attributes:
        packets, bytes: given.
        dropped: packets that found no room in the queue.
        lost: packets lost in the air.
        carried, carried_bytes: packets and bytes that arrive.
    """

    packets: int = 0
    bytes: int = 0
    dropped: int = 0
    lost: int = 0
    carried: int = 0
    carried_bytes: int = 0


class Channel:
    """One direction of a link: a queue, then a sender of limited rate, then the air.

    Each effect has random numbers of its own: the same packets get lost whatever the delay is, and
    more loss loses the same packets and others (unless in bursts).
    """

    def __init__(self, spec: LinkSpec, direction: str = "") -> None:
        """Begin with an idle link; `direction` sets its random numbers apart from the other's."""
        self.spec = spec
        self.counters = Counters()
        self._loss, self._jitter, self._reorder = (
            Random(f"{spec.seed} {direction} {effect}") for effect in ("loss", "jitter", "reorder")
        )
        self._now = self._idle_at = self._latest = -1e300
        self._waiting: deque[tuple[float, int]] = deque()
        self._waiting_bytes = 0
        self._bad = spec.burst is not None and self._loss.random() < spec.loss
        self._queue = spec.queue
        if self._queue is None and spec.rate is not None:
            self._queue = max(QUEUE_BYTES, int(spec.rate / 8 * QUEUE_SECONDS))

    def send(self, time: float, size: int) -> float | None:
        """Return when a packet of `size` bytes sent at `time` arrives; None if it is lost.

        Args:
            time: seconds, of any clock, not before that of the call before.
            size: bytes.

        Raises:
            ValueError: `time` is before that of the call before.
        """
        if time < self._now:
            raise ValueError(f"time {time} is before {self._now}, that of the packet before")
        self._now = time
        self.counters.packets += 1
        self.counters.bytes += size
        sent = self._transmit(time, size)
        if sent is None:
            self.counters.dropped += 1
            return None
        if self._is_lost():
            self.counters.lost += 1
            return None
        self.counters.carried += 1
        self.counters.carried_bytes += size
        spec = self.spec
        arrival = sent + spec.delay + spec.jitter * self._jitter.uniform(-1, 1)
        if self._reorder.random() < spec.reorder:
            return arrival + max(spec.delay, DETOUR_SECONDS)
        self._latest = max(self._latest, arrival)
        return self._latest

    def _transmit(self, time: float, size: int) -> float | None:
        """Return when the packet's last bit leaves; None where the queue is full."""
        if self.spec.rate is None or self._queue is None:
            return time
        while self._waiting and self._waiting[0][0] <= time:
            self._waiting_bytes -= self._waiting.popleft()[1]
        begin = max(time, self._idle_at)
        if begin > time:
            if self._waiting_bytes + size > self._queue:
                return None
            self._waiting.append((begin, size))
            self._waiting_bytes += size
        self._idle_at = begin + size * 8 / self.spec.rate
        return self._idle_at

    def _is_lost(self) -> bool:
        draw, spec = self._loss.random(), self.spec
        if spec.burst is None:
            return draw < spec.loss
        lost = self._bad
        # Mean stay in the bad state is `burst` packets, and its share of all packets is `loss`.
        change = 1 / spec.burst
        if not self._bad:
            change *= spec.loss / (1 - spec.loss)
        self._bad ^= draw < change
        return lost
