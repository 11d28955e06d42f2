"""The sender of one stream: frames to packets under rate control, with the receiver's feedback."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple, cast

from .congestion import Report
from .encoder import LEAST, Candidate, Encoder
from .images import Frame
from .packets import REFERENCES, Header, Packet
from .rate import DATAGRAM_OVERHEAD_BYTES, RateController
from .redundancy import parity_for
from .sealing import SEAL_BYTES, PacketSealer

AUTOMATIC = -1
"""Value of `parity` for as many packets as the loss requires, none if the link is congested."""
STALE_SECONDS = 0.5
"""Time without a frame after which any frame is better than none."""


class Setting(NamedTuple):
    """One field of :class:`Settings`, as nodes declare parameters and commands declare options."""

    name: str
    default: int | float
    limits: tuple[int | float, int | float]
    """Smallest and largest value."""
    description: str

    def problem(self, value: float) -> str:
        """Return why `value` is impossible; empty if it is not."""
        low, high = self.limits
        return "" if low <= value <= high else f"{self.name} is {value:g}: give {low:g} to {high:g}"


def _setting(default: Any, limits: tuple[int | float, int | float], description: str) -> Any:
    return field(default=default, metadata={"limits": limits, "description": description})


@dataclass(frozen=True)
class Settings:
    """Settings of a stream; may differ for each frame. :data:`SETTINGS` describes the fields.

    Raises:
        ValueError: a value is out of its range.
    """

    levels: int = _setting(
        0, (0, 255), "Largest number of residual levels to send; 0: all that the bundle has."
    )
    intra_period: float = _setting(
        1.0,
        (0.0, 60.0),
        "Seconds after which a frame is sent that refers to no other, or up to twice that if the "
        "budget has no room for it; 0: every frame.",
    )
    slices: int = _setting(
        1,
        (1, 64),
        "Smallest number of slices of a frame: more slices cost bytes, but a lost one affects "
        "less of the frame.",
    )
    parity: int = _setting(
        0,
        (AUTOMATIC, 64),
        "Parity packets added to each frame, each of which replaces one lost packet; -1: as many "
        "as the loss in the receiver's feedback requires, if the budget has room.",
    )
    max_kbit_per_s: float = _setting(
        0.0,
        (0.0, 1e6),
        "Budget of each camera's packets over any second, including Ethernet, IP, UDP and DDS "
        "headers. Less is sent if the link appears to carry less; 0: no rate control.",
    )
    max_latency_ms: float = _setting(
        100.0,
        (0.0, 10e3),
        "A frame is skipped if it would wait longer than this for those sent before it.",
    )

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            if problem := setting.problem(getattr(self, setting.name)):
                raise ValueError(problem)


SETTINGS = tuple(
    Setting(each.name, cast("int | float", each.default), **each.metadata)
    for each in dataclasses.fields(Settings)
)
"""The fields of :class:`Settings`: the only declaration of names, defaults, ranges and help."""


class Feedback(NamedTuple):
    """The part of ``gosvae_msgs/Feedback`` that a sender uses."""

    stream: int
    acknowledged: int | None
    """Frame that may be referred to; None: none, or an intra frame is requested."""
    report: Report
    receiver: int = 0
    """Number that the receiver has drawn."""


class Sender:
    """Encodes one stream within its settings, one call of :meth:`send` for each frame.

    One stream serves all receivers that send feedback: frames refer only to what each of them has
    acknowledged, the slowest decides the rate, and an intra frame that one requests goes to all.
    """

    def __init__(
        self,
        encoder: Encoder,
        clock: Callable[[], float] = time.monotonic,
        sealer: PacketSealer | None = None,
    ) -> None:
        """Start a stream; `clock` returns monotonic seconds, `sealer` seals what is sent."""
        self.encoder = encoder
        self._sealer = sealer
        encoder.reserved = SEAL_BYTES if sealer else 0
        self.control = RateController()
        self._clock = clock
        self._lock = Lock()
        self._slices = 1
        self._intra_at = self._sent_at = -math.inf
        self._spacing = 0.0
        self._acknowledged: dict[int, deque[int]] = {}
        """What each receiver has acknowledged, the newest last."""

    def send(self, frame: Frame, header: Header, settings: Settings) -> Sequence[Packet]:
        """Return the packets of a frame to send now; none if it is skipped.

        Raises:
            ImageError, PacketError, ValueError: as :meth:`Encoder.candidates` does.
        """
        control = self.control
        with self._lock:
            control.limit = settings.max_kbit_per_s * 1e3 or math.inf
            control.latency = settings.max_latency_ms / 1e3
            if not control.ready(self._clock()):
                return []
            parity = settings.parity
            if parity == AUTOMATIC:
                parity = 0 if control.congested else parity_for(control.loss, self._slices)

        levels = settings.levels or None
        due, overdue = self._is_intra_due(settings.intra_period)
        least = LEAST if self._clock() - self._sent_at < STALE_SECONDS else 0.0
        chosen = None
        # An intra frame without room may wait for as long again, while a predicted one has room.
        for intra in [True, False] if due and not overdue else [due]:
            candidates = self.encoder.candidates(
                frame, header, levels, intra, settings.slices, parity, least
            )
            chosen = chosen or next(filter(self._fits, candidates), None)
        now = self._clock()
        with self._lock:
            if chosen is None:
                control.skip(now)
                return []
            packets = chosen.packets
            control.sent(packets[0].sequence, self._sizes(packets), now)
        self.encoder.commit(chosen)
        self._slices = packets[0].slice_count
        self._spacing = min(now - self._sent_at, 1.0)
        self._sent_at = now
        if packets[0].reference == 0:
            self._intra_at = now
        # Only now: a nonce must not be used for several candidates.
        return [self._sealer.seal(each) for each in packets] if self._sealer else packets

    def on_feedback(self, feedback: Feedback) -> None:
        """Process feedback from the receiver.

        May be called from another thread than :meth:`send`. Feedback on other streams is ignored.
        """
        if feedback.stream != self.encoder.stream:
            return
        control, receiver = self.control, feedback.receiver
        with self._lock:
            control.on_feedback(feedback.report, self._clock(), receiver)
            held = self._acknowledged.setdefault(receiver, deque(maxlen=REFERENCES))
            if feedback.acknowledged is None:
                held.clear()
            elif feedback.acknowledged not in held:
                held.append(feedback.acknowledged)
            self._acknowledged = {each: self._acknowledged[each] for each in control.receivers}
            others = self._acknowledged.values()
            common = (each for each in reversed(held) if all(each in other for other in others))
            self.encoder.acknowledge(next(common, None))

    def _fits(self, candidate: Candidate) -> bool:
        size = sum(self._sizes(candidate.packets))
        with self._lock:
            return self.control.fits(size, candidate.minimal, self._clock())

    def _sizes(self, packets: Sequence[Packet]) -> list[int]:
        return [datagram_size(each) + self.encoder.reserved for each in packets]

    def _is_intra_due(self, period: float) -> tuple[bool, bool]:
        """Return whether the period ends before the next frame is expected, and a second one."""
        elapsed = self._clock() - self._intra_at + 0.9 * self._spacing
        return elapsed > period, elapsed > 2 * period


def datagram_size(packet: Packet) -> int:
    """Return the size of a packet on Ethernet in bytes, with all headers that DDS implies."""
    return packet.serialized_size() + DATAGRAM_OVERHEAD_BYTES
