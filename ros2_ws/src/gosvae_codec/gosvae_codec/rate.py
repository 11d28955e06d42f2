"""Rate control: what a stream may send now, from its budget and from what the receiver reports.

Delay-based, as real-time media on unmanaged links is: a queue that stands or grows on the way, as
one-way delays above their recent least show it (LEDBAT, RFC 6817; SCReAM, RFC 8298), takes the
target down to a share of what arrives; then it rises again gently (Google Congestion Control,
draft-ietf-rmcat-gcc-02). Loss alone takes it down only where it is well above what the link loses
anyway. Pure arithmetic on the times it is told.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import NamedTuple

DATAGRAM_OVERHEAD_BYTES = 14 + 20 + 8 + 72
"""What a datagram takes beside its CDR message: Ethernet, IPv4, UDP, and what DDS puts before a
best-effort message (RTPS header 20, INFO_DST 16, INFO_TS 12, DATA 24)."""

WINDOW = 1.0
"""Seconds over any of which the budget holds."""
PACING_SHARE = 0.9
"""Share of the budget that is spent evenly; the rest is for frames larger than others."""
MIN_BITRATE = 8e3
"""bit/s below which the target is never taken by what the receiver reports."""
QUEUE_SECONDS = 0.05
"""How long a standing queue may be, beside the time that one packet takes at the target."""
AHEAD_SECONDS = 0.3
"""How far ahead a queue's growth is looked at."""
BACK_OFF = 0.85
"""Share of what arrives that is sent while a queue drains (GCC's beta)."""
GROWTH, GROWTH_BITS = 0.05, 1e3
"""What a second without a queue adds to the target: this share of it, and bit/s."""
HOLD_SECONDS = 0.5
"""For how long, and a round trip, the target stands after it was taken down."""
BASE_SECONDS = 60.0
"""Over how long the least one-way delay is taken: clocks drift, and routes change."""
TREND_SAMPLES = 8
LOSS_SECONDS = 2.0
"""Over how long the share of lost packets is taken."""
LOSS_MARGIN = 0.15
"""By how much loss must exceed what is usual and what chance explains to mean congestion."""
LOSS_USUAL_SECONDS = 10.0
"""Time constant of what loss is usual."""
SILENCE_SECONDS = 1.0
"""After that long without a report, where there was one, the link is taken for interrupted."""
SILENCE_SHARE = 0.25
"""Share of the target that is sent then."""
DRAINS = 2
"""After how many times in a row that a queue is let drain it is taken for a longer way."""
SHIFT_SECONDS = 10.0
"""A delay that changes by more is another clock, not a queue."""
REMEMBERED = 256
"""Frames whose reports are made use of."""


class Report(NamedTuple):
    """What of a receiver's feedback on a stream matters here."""

    received: int
    """Slices received, modulo 2^32."""
    lost: int
    """Slices missing, modulo 2^32."""
    newest: int
    """Sequence number of the newest frame of which a packet arrived."""
    arrival_us: int
    """When its first packet did, by the receiver's steady clock in microseconds, modulo 2^32."""


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
    """Keeps one stream within a budget and a latency; times are seconds of any steady clock."""

    def __init__(self) -> None:
        self.limit = math.inf
        """Budget in bit/s, :data:`DATAGRAM_OVERHEAD_BYTES` of each packet included; can change.

        inf: nothing is controlled, and every frame may be sent at once.
        """
        self.latency = 0.1
        """Seconds that a frame may have to wait for what was sent before; can change."""
        self.skipped = 0
        """Frames that were not sent."""
        self.queue = 0.0
        """Seconds that packets waited on the way lately, as far as reports show."""
        self.loss = 0.0
        """Share of the slices lost lately, 0 to 1."""
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
        self._heard: float | None = None
        self._held_until = -math.inf
        self._before = math.inf
        self._lowered = 0
        """Times in a row that the target was lowered for a queue that never drained."""
        self._free_at = -math.inf
        self._unheard: float | None = None

    @property
    def target(self) -> float:
        """bit/s that are spent evenly: what the link seems to carry, and at most what it may."""
        return min(self._target, PACING_SHARE * self.limit)

    @property
    def congested(self) -> bool:
        """Whether what is lost is no reason to send more: packets queue, or hardly any arrive."""
        return self.queue > QUEUE_SECONDS or self.loss > 0.5

    def state(self, now: float) -> str:
        """Return in one word or two what the controller does."""
        if math.isinf(self.limit):
            return "unlimited"
        if self._silent(now):
            return "no feedback"
        if now < self._held_until:
            return "backing off"
        return "recovering" if self._target < PACING_SHARE * self.limit else "at the limit"

    def ready(self, now: float) -> bool:
        """Return whether a frame that comes now may be sent at all; if not, it is skipped.

        To be asked once for every frame, before work is put into it.
        """
        if self._offered is not None:
            self._interval += 0.1 * (min(now - self._offered, 1.0) - self._interval)
        self._offered = now
        ready = self._wait(now) <= self.latency and self._room(now) > 0
        if not ready:
            self.skip(now)
        return ready

    def fits(self, size: int, minimal: bool, now: float) -> bool:
        """Return whether a frame of `size` bytes, overhead included, may be sent now.

        Args:
            size: of all its packets.
            minimal: whether it is the least that can be made of the frame. More is sent only where
                the next frame need not wait for it, or not long, and none was skipped lately.
            now: as for :meth:`ready`.
        """
        if size > self._room(now):
            return False
        spent = self._wait(now) + size * 8 / self._pace(now)
        rests = spent <= self._interval + self.latency / 2
        return minimal or (rests and now - self._skipped_at > WINDOW)

    def skip(self, now: float) -> None:
        """Take in that nothing of a frame fits."""
        self.skipped += 1
        self._skipped_at = now

    def sent(self, sequence: int, sizes: list[int], now: float) -> None:
        """Take in that a frame's packets of these sizes, overhead included, are sent."""
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
        if self._unheard is None:
            self._unheard = now
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def on_feedback(self, report: Report, now: float) -> None:
        """Take in what the receiver said."""
        elapsed = 0.0 if self._heard is None else min(now - self._heard, 1.0)
        self._heard, self._unheard = now, None
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
                # It was let drain, and still it stands: not a queue, but a longer way.
                self._target = self._before
                self._begin_anew()
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
        if self._heard is None or self._unheard is None:
            return False
        return now - self._unheard > SILENCE_SECONDS

    def _room(self, now: float) -> float:
        """Return the bytes that the budget has left of the last second."""
        while self._window and self._window[0][0] < now - WINDOW:
            self._window_bytes -= self._window.popleft()[1]
        return self.limit * WINDOW / 8 - self._window_bytes

    def _wait(self, now: float) -> float:
        """Return for how many seconds a packet sent now would wait."""
        if math.isinf(self.limit):
            return 0.0
        drained = self._backlog_at + self._backlog / self._pace(now)
        return max(self._free_at - now, drained - now, 0.0)

    def _measure(self, report: Report, sent: _Sent, now: float) -> None:
        arrival = self._unwrapped(report.arrival_us)
        delay = arrival - sent.time
        if self._base and abs(delay - self._base[-1][1]) > SHIFT_SECONDS:
            self._begin_anew()
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
            # What stood before that frame has been draining since, and what was sent after it, too.
            after = (self._bytes - sent.after) * 8 / self._pace(now)
            self._free_at = sent.time + min(self.queue + after, 1.0)

    def _unwrapped(self, arrival_us: int) -> float:
        """Return an arrival in seconds, of which later ones do not wrap around."""
        if self._clock is None:
            self._clock = arrival_us, 0.0
        last, time = self._clock
        step = (arrival_us - last + (1 << 31)) % (1 << 32) - (1 << 31)
        self._clock = arrival_us, time + step / 1e6
        return self._clock[1]

    def _standing(self) -> float:
        """Return the queue that there will be soon: what stands now, and how it grows."""
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
        """Return the bit/s that arrive, by the newest samples."""
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

    def _begin_anew(self) -> None:
        """Forget all delays."""
        self._base.clear()
        self._samples.clear()
        self._clock = None
        self.queue, self._free_at, self._lowered = 0.0, -math.inf, 0

    def _count(self, report: Report, now: float, elapsed: float) -> bool:
        """Take in what is lost, and return whether that is well above what is usual."""
        counts = self._counts
        counts.append((now, report.received, report.lost))
        while counts[0][0] < now - LOSS_SECONDS:
            counts.popleft()
        received = (report.received - counts[0][1]) % (1 << 32)
        # What came late is no longer lost.
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
