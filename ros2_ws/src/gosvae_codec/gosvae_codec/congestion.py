"""Congestion of the way to one receiver, estimated from its reports.

Delay is the signal, as usual for real-time media on unmanaged links. A standing or growing queue,
seen as one-way delays above their recent minimum (LEDBAT, RFC 6817; SCReAM, RFC 8298), reduces the
target to a share of the arriving rate; afterwards the target rises slowly (Google Congestion
Control, draft-ietf-rmcat-gcc-02).

Loss is not: radio links lose packets at any rate. Loss well above the link's usual reduces the
target only if a queue comes with it. Without one, either the air has become worse, or a policer
drops what exceeds a rate (Flach et al., "An Internet-Wide Analysis of Traffic Policing", 2016).
Only the policer responds to a lower rate, so that is tried once: if the loss stays, the target is
restored, and the loss is usual from then on. BBR version 2 ignores loss below a threshold for the
same reason (draft-cardwell-iccrg-bbr-congestion-control-02).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

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
"""Number of reports from which the queue's growth is estimated."""
RATE_SAMPLES = 5
"""Number of reports from which the arriving rate is estimated."""
LOSS_SECONDS = 2.0
"""Window of the share of lost packets."""
LOSS_MARGIN = 0.15
"""Loss above the usual and what chance explains that may indicate congestion."""
LOSS_USUAL_SECONDS = 10.0
"""Time constant of the usual loss."""
DRAINS = 2
"""Consecutive reductions without effect after which a queue counts as a longer route."""
SHIFT_SECONDS = 10.0
"""Change of delay above which the receiver's clock has changed."""


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


class Sent(NamedTuple):
    """A frame that was sent."""

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


class _Trial(NamedTuple):
    """A reduction of the target that shows whether loss responds to the rate."""

    end: float
    target: float
    loss: float


class Congestion:
    """What the way to one receiver carries; times are monotonic seconds."""

    def __init__(self) -> None:
        self.target = math.inf
        """Bit rate in bit/s that the way appears to carry; inf: no limit was found."""
        self.queue = 0.0
        """Recent queueing delay in seconds."""
        self.loss = 0.0
        """Share of the slices lost recently, 0 to 1."""
        self.reported_at = -math.inf
        """Time of the last report."""
        self.held_until = -math.inf
        """Until when the target stays as it is after a reduction."""
        self.free_at = -math.inf
        """When the queue, and what was sent after it, has drained."""
        self._base: deque[tuple[float, float]] = deque()
        self._clock: tuple[int, float] | None = None
        self._samples: deque[_Sample] = deque(maxlen=TREND_SAMPLES)
        self._usual_loss: float | None = None
        self._counts: deque[tuple[float, int, int]] = deque()
        self._trial: _Trial | None = None
        self._before = math.inf
        self._queue_before = 0.0
        self._lowered = 0
        """Consecutive reductions of the target for a queue that did not drain."""

    def on_report(
        self, report: Report, sent: Mapping[int, Sent], size: int, pace: float, now: float
    ) -> None:
        """Process a report.

        Args:
            report: the receiver's.
            sent: recent frames by sequence number.
            size: bytes sent since the stream began.
            pace: present sending rate in bit/s; inf: not limited, there is no target then.
            now: time of the report.
        """
        elapsed = min(now - self.reported_at, 1.0) if math.isfinite(self.reported_at) else 0.0
        self.reported_at = now
        unusual = self._count(report, now, elapsed)
        frame = sent.get(report.newest)
        if frame is None or frame.time > now:
            return
        self._measure(report, frame, size, pace, now)
        if math.isinf(pace):
            self.target, self._trial = math.inf, None
        elif now >= self.held_until:
            self._adapt(frame, unusual, pace, elapsed, now)

    def _adapt(self, frame: Sent, unusual: bool, pace: float, elapsed: float, now: float) -> None:
        target = min(self.target, pace)
        if self._standing() > QUEUE_SECONDS + frame.packet * 8 / target:
            self._trial = None
            if self._lowered == 0:
                self._before = self.target
            # A deep queue takes long to drain, but becomes shorter.
            self._lowered += self.queue > 0.9 * self._queue_before
            self._queue_before = self.queue
            if self._lowered > DRAINS:
                # Reducing the rate did not drain it: the route is longer, there is no queue.
                self.target = self._before
                self._discard_delays()
                return
            self._lower(min(target, self._arriving()) * BACK_OFF, frame, now)
        elif unusual and self.queue > QUEUE_SECONDS / 2:
            self._lower(min(target, self._arriving()), frame, now)
        elif self._trial is not None:
            self._judge(self._trial, now)
        elif unusual:
            # Judged when all packets in the window of the loss were sent after the reduction.
            end = now + (now - frame.time) + LOSS_SECONDS
            self._trial = _Trial(end, self.target, self.loss)
            self._lower(min(target, self._arriving()), frame, now)
        else:
            self.target += (GROWTH * target + GROWTH_BITS) * elapsed

    def _judge(self, trial: _Trial, now: float) -> None:
        """Restore the target if the loss did not respond to the lower rate."""
        if now < trial.end:
            return
        if self.loss > (trial.loss + (self._usual_loss or 0.0)) / 2:
            self.target, self._usual_loss = trial.target, self.loss
        self._trial = None

    def _measure(self, report: Report, sent: Sent, size: int, pace: float, now: float) -> None:
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
            self.queue = min(each.queue for each in list(self._samples)[-2:])
            if self.queue < QUEUE_SECONDS:
                self._lowered, self._queue_before = 0, 0.0
            # The queue at that frame has been draining since, as has what was sent after it.
            after = (size - sent.after) * 8 / pace
            self.free_at = sent.time + min(self.queue + after, 1.0)

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
            return self.target
        # The older ones may have come before the link became slower.
        first, last = self._samples[-min(len(self._samples), RATE_SAMPLES)], self._samples[-1]
        seconds = last.arrival - first.arrival
        if seconds <= 0:
            return self.target
        # What is usually lost is lost in the air, after it has taken its share of the link.
        dropped = max(self.loss - (self._usual_loss or 0.0), 0.0)
        return (last.before - first.before) * 8 * (1 - dropped) / seconds

    def _lower(self, target: float, sent: Sent, now: float) -> None:
        self.target = max(target, MIN_BITRATE)
        self.held_until = now + (now - sent.time) + HOLD_SECONDS

    def _discard_delays(self) -> None:
        """Discard all delay measurements."""
        self._base.clear()
        self._samples.clear()
        self._clock = None
        self.queue, self.free_at = 0.0, -math.inf
        self._lowered, self._queue_before = 0, 0.0

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
