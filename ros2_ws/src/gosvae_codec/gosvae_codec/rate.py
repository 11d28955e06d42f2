"""Rate control: what a stream may send now, given its budget and its receivers' reports.

The budget holds over any second. Below it, :mod:`.congestion` estimates what the way to each
receiver carries, and the slowest decides. The controller has no clock of its own: all times are
arguments.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque

from .congestion import QUEUE_SECONDS, Congestion, Report, Sent

DATAGRAM_OVERHEAD_BYTES = 14 + 20 + 8 + 72
"""Bytes of a datagram besides the CDR message: Ethernet, IPv4, UDP, and the headers of a
best-effort DDS message (RTPS header 20, INFO_DST 16, INFO_TS 12, DATA 24)."""

WINDOW = 1.0
"""Length in seconds of the sliding window in which the budget holds."""
PACING_SHARE = 0.9
"""Share of the budget that is spent evenly; the rest is reserved for larger frames."""
SILENCE_SECONDS = 1.0
"""Time without a report, after a first one, until the link counts as interrupted."""
SILENCE_SHARE = 0.25
"""Share of the target that is sent while the link is interrupted."""
LEAVE_SECONDS = 2.0
"""Time without a report after which a receiver is forgotten while another one reports."""
MAX_RECEIVERS = 8
"""Number of receivers that are remembered; a further one replaces that heard longest ago."""
REMEMBERED = 256
"""Number of sent frames for which reports are evaluated."""


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
        self.receivers: dict[int, Congestion] = {}
        """The receivers that report, by the number that each has drawn."""
        self._window: deque[tuple[float, int]] = deque()
        self._window_bytes = 0
        self._backlog, self._backlog_at = 0.0, -math.inf
        self._interval = 0.1
        self._offered: float | None = None
        self._sent: OrderedDict[int, Sent] = OrderedDict()
        self._bytes = 0
        self._first_unreported: float | None = None

    @property
    def target(self) -> float:
        """Pacing rate in bit/s: what the slowest link appears to carry, within the budget."""
        return min([PACING_SHARE * self.limit, *(each.target for each in self._all())])

    @property
    def queue(self) -> float:
        """Longest recent queueing delay on the way to a receiver in seconds, as reports show."""
        return max((each.queue for each in self._all()), default=0.0)

    @property
    def loss(self) -> float:
        """Share of the slices lost recently, 0 to 1, on the way that loses the most."""
        return max((each.loss for each in self._all()), default=0.0)

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
        if any(now < each.held_until for each in self._all()):
            return "backing off"
        return "recovering" if self.target < PACING_SHARE * self.limit else "at the limit"

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
                next frame would not have to wait long for them.
            now: as for :meth:`ready`.
        """
        if size > self._room(now):
            return False
        spent = self._wait(now) + size * 8 / self._pace(now)
        return minimal or spent <= self._interval + self.latency / 2

    def skip(self, now: float) -> None:
        """Record that a frame was skipped."""
        self.skipped += 1

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
        self._sent[sequence] = Sent(now, max(sizes), self._bytes, self._bytes + size)
        self._bytes += size
        if self._first_unreported is None:
            self._first_unreported = now
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def on_feedback(self, report: Report, now: float, receiver: int = 0) -> None:
        """Process the report of a receiver."""
        found = self.receivers.setdefault(receiver, Congestion())
        self._first_unreported = None
        found.on_report(report, self._sent, self._bytes, self._pace(now), now)
        if found.target >= self.limit:
            found.target = math.inf
        for number, each in list(self.receivers.items()):
            if now - each.reported_at > LEAVE_SECONDS:
                del self.receivers[number]
        while len(self.receivers) > MAX_RECEIVERS:
            heard = {number: each.reported_at for number, each in self.receivers.items()}
            del self.receivers[min(heard, key=heard.__getitem__)]

    def _all(self) -> list[Congestion]:
        # Copied, as diagnostics read them from another thread.
        return list(self.receivers.values())

    def _pace(self, now: float) -> float:
        return self.target * (SILENCE_SHARE if self._silent(now) else 1.0)

    def _silent(self, now: float) -> bool:
        if not self.receivers or self._first_unreported is None:
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
        return max(drained - now, 0.0, *(each.free_at - now for each in self._all()))
