"""Rate control: what a stream may send now, given its budget and the receiver's reports.

Delay-based, as usual for real-time media on unmanaged links. A standing or growing queue, seen as
one-way delays above their recent minimum (LEDBAT, RFC 6817; SCReAM, RFC 8298), reduces the target
to a share of the arriving rate; afterwards it rises slowly (Google Congestion Control,
draft-ietf-rmcat-gcc-02). Loss alone reduces the target only if it is well above the link's usual
loss. The controller has no clock of its own: all times are arguments.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import NamedTuple

DATAGRAM_OVERHEAD_BYTES = 14 + 20 + 8 + 72
"""Bytes of a datagram besides the CDR message: Ethernet, IPv4, UDP, and the headers of a
best-effort DDS message (RTPS header 20, INFO_DST 16, INFO_TS 12, DATA 24)."""

WINDOW = 1.0
"""Length in seconds of the sliding window in which the budget holds."""
PACING_SHARE = 0.9
"""Share of the budget that is spent evenly; the rest is reserved for larger frames."""
MIN_BITRATE = 8e3
"""Smallest target in bit/s that reports can lead to."""
QUEUE_SECONDS = 0.05
"""Tolerated standing queue, in addition to the time of one packet at the target."""
AHEAD_SECONDS = 0.3
"""Time over which a queue's growth is extrapolated."""
BACK_OFF = 0.85
"""Share of the arriving rate that is sent while a queue drains (GCC's beta)."""
GROWTH, GROWTH_BITS = 0.05, 1e3
"""Increase of the target in each second without a queue: a share of it, plus bit/s."""
HOLD_SECONDS = 0.5
"""Time, plus one round trip, for which the target is held after it was reduced."""
BASE_SECONDS = 60.0
"""Window of the minimum one-way delay: clocks drift, and routes change."""
TREND_SAMPLES = 8
LOSS_SECONDS = 2.0
"""Window of the share of lost packets."""
LOSS_MARGIN = 0.15
"""Loss above the usual and what chance explains that indicates congestion."""
LOSS_USUAL_SECONDS = 10.0
"""Time constant of the usual loss."""
SILENCE_SECONDS = 1.0
"""Time without a report, after a first one, until the link counts as interrupted."""
SILENCE_SHARE = 0.25
"""Share of the target that is sent while the link is interrupted."""
DRAINS = 2
"""Consecutive reductions without effect after which a queue counts as a longer route."""
SHIFT_SECONDS = 10.0
"""Change of delay above which the receiver's clock has changed."""
REMEMBERED = 256
"""Number of sent frames for which reports are evaluated."""


class Report(NamedTuple):
    """The part of a receiver's feedback that rate control uses."""

    received: int
    """Slices received, modulo 2^32."""
    lost: int
    """Slices missing, modulo 2^32."""
    newest: int
    """Sequence number of the newest frame of which a packet arrived."""
    arrival_us: int
    """Arrival of its first packet by the receiver's monotonic clock, in µs modulo 2^32."""


class _Sent(NamedTuple):
    time: float
    packet: int
    """Bytes of its largest packet."""
    before: int
    """Bytes sent before it."""
    after: int
    """Bytes sent with it."""


class _Sample(NamedTuple):
    arrival: float
    before: int
    queue: float


class RateController:
    """Keeps one stream within a bit rate and a latency; times are monotonic seconds."""

    def __init__(self) -> None:
        self.limit = math.inf
        """Budget in bit/s, including :data:`DATAGRAM_OVERHEAD_BYTES` for each packet; can change.

        inf: no rate control, every frame may be sent at once.
        """
        self.latency = 0.1
        """Largest time in seconds that a frame may wait for those sent before; can change."""
        self.skipped = 0
        """Number of frames that were skipped."""
        self.queue = 0.0
        """Recent queueing delay on the link in seconds, as far as reports show."""
        self.loss = 0.0
        """Share of the slices lost recently, 0 to 1."""
        self._target = math.inf
        self._window: deque[tuple[float, int]] = deque()
        self._window_bytes = 0
        self._backlog, self._backlog_at = 0.0, -math.inf
        self._interval = 0.1
        self._skipped_at = -math.inf
        self._offered: float | None = None
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._bytes = 0
        self._base: deque[tuple[float, float]] = deque()
        self._clock: tuple[int, float] | None = None
        self._samples: deque[_Sample] = deque(maxlen=TREND_SAMPLES)
        self._usual_loss: float | None = None
        self._counts: deque[tuple[float, int, int]] = deque()
        self._last_report: float | None = None
        self._held_until = -math.inf
        self._before = math.inf
        self._lowered = 0
        """Consecutive reductions of the target for a queue that did not drain."""
        self._free_at = -math.inf
        self._first_unreported: float | None = None

    @property
    def target(self) -> float:
        """Pacing rate in bit/s: what the link appears to carry, within the budget."""
        return min(self._target, PACING_SHARE * self.limit)

    @property
    def congested(self) -> bool:
        """Whether parity would make loss worse: packets queue up, or most of them are lost."""
        return self.queue > QUEUE_SECONDS or self.loss > 0.5

    def state(self, now: float) -> str:
        """Return the controller's state in one or two words."""
        if math.isinf(self.limit):
            return "unlimited"
        if self._silent(now):
            return "no feedback"
        if now < self._held_until:
            return "backing off"
        return "recovering" if self._target < PACING_SHARE * self.limit else "at the limit"

    def ready(self, now: float) -> bool:
        """Return whether a frame that arrives now may be sent at all; if not, it counts as skipped.

        Call it once for each frame, before encoding it.
        """
        if self._offered is not None:
            self._interval += 0.1 * (min(now - self._offered, 1.0) - self._interval)
        self._offered = now
        ready = self._wait(now) <= self.latency and self._room(now) > 0
        if not ready:
            self.skip(now)
        return ready

    def fits(self, size: int, minimal: bool, now: float) -> bool:
        """Return whether a frame of `size` bytes, including overhead, may be sent now.

        Args:
            size: sum over all its packets.
            minimal: whether it is the frame's smallest candidate. Larger ones are sent only if the
                next frame would not have to wait long for them, and none was skipped recently.
            now: as for :meth:`ready`.
        """
        if size > self._room(now):
            return False
        spent = self._wait(now) + size * 8 / self._pace(now)
        rests = spent <= self._interval + self.latency / 2
        return minimal or (rests and now - self._skipped_at > WINDOW)

    def skip(self, now: float) -> None:
        """Record that a frame was skipped."""
        self.skipped += 1
        self._skipped_at = now

    def sent(self, sequence: int, sizes: list[int], now: float) -> None:
        """Record that a frame's packets of these sizes, including overhead, are sent."""
        size = sum(sizes)
        if math.isfinite(self.limit):
            self._backlog = self._wait(now) * self._pace(now) + size * 8
        else:
            self._backlog = 0.0
        self._backlog_at = now
        self._window.append((now, size))
        self._window_bytes += size
        self._sent[sequence] = _Sent(now, max(sizes), self._bytes, self._bytes + size)
        self._bytes += size
        if self._first_unreported is None:
            self._first_unreported = now
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def on_feedback(self, report: Report, now: float) -> None:
        """Process a receiver's report."""
        elapsed = 0.0 if self._last_report is None else min(now - self._last_report, 1.0)
        self._last_report, self._first_unreported = now, None
        congested = self._count(report, now, elapsed)
        sent = self._sent.get(report.newest)
        if sent is None or sent.time > now:
            return
        self._measure(report, sent, now)
        if math.isinf(self.limit):
            self._target = math.inf
            return
        if now < self._held_until:
            return
        if self._standing() > QUEUE_SECONDS + sent.packet * 8 / self.target:
            if self._lowered == 0:
                self._before = self._target
            self._lowered += 1
            if self._lowered > DRAINS:
                # Reducing the rate did not drain it: the route is longer, there is no queue.
                self._target = self._before
                self._discard_delays()
                return
            self._lower(min(self._target, self._arriving()) * BACK_OFF, sent, now)
        elif congested:
            self._lower(min(self._target, self._arriving()), sent, now)
        elif self._target < self.limit:
            self._target += (GROWTH * self._target + GROWTH_BITS) * elapsed
            if self._target >= self.limit:
                self._target = math.inf

    def _pace(self, now: float) -> float:
        return self.target * (SILENCE_SHARE if self._silent(now) else 1.0)

    def _silent(self, now: float) -> bool:
        if self._last_report is None or self._first_unreported is None:
            return False
        return now - self._first_unreported > SILENCE_SECONDS

    def _room(self, now: float) -> float:
        """Return the bytes left in the budget of the last second."""
        while self._window and self._window[0][0] < now - WINDOW:
            self._window_bytes -= self._window.popleft()[1]
        return self.limit * WINDOW / 8 - self._window_bytes

    def _wait(self, now: float) -> float:
        """Return the seconds that a packet sent now would wait."""
        if math.isinf(self.limit):
            return 0.0
        drained = self._backlog_at + self._backlog / self._pace(now)
        return max(self._free_at - now, drained - now, 0.0)

    def _measure(self, report: Report, sent: _Sent, now: float) -> None:
        arrival = self._unwrapped(report.arrival_us)
        delay = arrival - sent.time
        if self._base and abs(delay - self._base[-1][1]) > SHIFT_SECONDS:
            self._discard_delays()
            return
        while self._base and self._base[-1][1] >= delay:
            self._base.pop()
        self._base.append((now, delay))
        while self._base[0][0] < now - BASE_SECONDS:
            self._base.popleft()
        queue = delay - self._base[0][1]
        if not self._samples or sent.before > self._samples[-1].before:
            self._samples.append(_Sample(arrival, sent.before, queue))
            self.queue = min(each.queue for each in list(self._samples)[-3:])
            if self.queue < QUEUE_SECONDS:
                self._lowered = 0
            # The queue at that frame has been draining since, as has what was sent after it.
            after = (self._bytes - sent.after) * 8 / self._pace(now)
            self._free_at = sent.time + min(self.queue + after, 1.0)

    def _unwrapped(self, arrival_us: int) -> float:
        """Return an arrival in seconds, without the wrap-around of the 32 bits."""
        if self._clock is None:
            self._clock = arrival_us, 0.0
        last, time = self._clock
        step = (arrival_us - last + (1 << 31)) % (1 << 32) - (1 << 31)
        self._clock = arrival_us, time + step / 1e6
        return self._clock[1]

    def _standing(self) -> float:
        """Return the extrapolated queue in seconds: its present length and its growth."""
        samples = list(self._samples)
        if len(samples) < 3:
            return 0.0
        times = [each.arrival - samples[0].arrival for each in samples]
        mean, level = sum(times) / len(times), sum(each.queue for each in samples) / len(samples)
        spread = sum((time - mean) ** 2 for time in times)
        slope = sum(
            (time - mean) * (each.queue - level) for time, each in zip(times, samples, strict=True)
        )
        slope = slope / spread if spread > 0 else 0.0
        return self.queue + min(max(slope, 0.0), 1.0) * AHEAD_SECONDS if self.queue > 0 else 0.0

    def _arriving(self) -> float:
        """Return the arriving rate in bit/s, from the newest samples."""
        if len(self._samples) < 2:
            return self._target
        first, last = self._samples[0], self._samples[-1]
        seconds = last.arrival - first.arrival
        if seconds <= 0:
            return self._target
        return (last.before - first.before) * 8 * (1 - self.loss) / seconds

    def _lower(self, target: float, sent: _Sent, now: float) -> None:
        self._target = max(target, MIN_BITRATE)
        self._held_until = now + (now - sent.time) + HOLD_SECONDS

    def _discard_delays(self) -> None:
        """Discard all delay measurements."""
        self._base.clear()
        self._samples.clear()
        self._clock = None
        self.queue, self._free_at, self._lowered = 0.0, -math.inf, 0

    def _count(self, report: Report, now: float, elapsed: float) -> bool:
        """Update the loss, and return whether it is well above the usual."""
        counts = self._counts
        counts.append((now, report.received, report.lost))
        while counts[0][0] < now - LOSS_SECONDS:
            counts.popleft()
        received = (report.received - counts[0][1]) % (1 << 32)
        # Packets that arrive late are subtracted again, so the difference can be negative.
        lost = (report.lost - counts[0][2] + (1 << 31)) % (1 << 32) - (1 << 31)
        total = received + max(lost, 0)
        if total >= 1 << 31:
            counts.clear()
            return False
        self.loss = max(lost, 0) / total if total else 0.0
        if now - counts[0][0] < LOSS_SECONDS / 2 or not total:
            return False
        if self._usual_loss is None:
            self._usual_loss = self.loss
        usual = self._usual_loss
        self._usual_loss += (self.loss - usual) * min(elapsed / LOSS_USUAL_SECONDS, 1.0)
        pooled = (self.loss + usual) / 2
        chance = 3 * math.sqrt(pooled * (1 - pooled) / total)
        return self.loss > usual + chance + LOSS_MARGIN
