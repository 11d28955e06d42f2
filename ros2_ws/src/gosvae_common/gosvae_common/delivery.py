"""Frames that a camera sent and that were not received, from the gaps between stamps."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import deque
from collections.abc import Sequence
from threading import Lock

WINDOW = 10.0
"""Seconds of arrivals that are looked at."""
MIN_GAPS = 24
"""Smallest number of gaps from which a share is computed."""
PAUSE = 10
"""Periods from which a gap is a pause of the camera, not a row of lost frames."""
MAX_RESIDUAL = 0.15
"""Largest typical distance of gaps from whole periods, as a share of the period. Where it is
larger, the camera has no steady period."""
MIN_SINGLE_GAPS = 0.1
"""Smallest share of gaps of one period, without which the period is another one."""
MIN_LONG_GAPS = 0.05
"""Smallest share of gaps of three periods or more. Loss at random makes them; throttling to any
part of the rate makes gaps of at most two adjacent lengths."""


class DeliveryMeter:
    """Share of a camera's frames that were lost on their way, from their stamps alone.

    Stamps of a camera are whole periods apart. Frames that are lost at random leave gaps of one,
    two, three and more periods in between one another. Arrival times are of no use: a replay may
    run at another rate, and a busy executor takes frames in bursts.
    """

    def __init__(self) -> None:
        self._stamps: deque[tuple[float, int]] = deque()
        self._lock = Lock()

    def add(self, stamp: int) -> None:
        """Record the stamp, in ns, of a frame that has just been received."""
        now = time.monotonic()
        with self._lock:
            self._stamps.append((now, stamp))
            while self._stamps[0][0] < now - WINDOW:
                self._stamps.popleft()

    def lost_share(self) -> float:
        """Return the share of frames lost lately, 0 to 1; nan if the stamps do not tell."""
        with self._lock:
            stamps = [stamp for _, stamp in self._stamps]
        gaps = [after - before for before, after in itertools.pairwise(stamps)]
        gaps = [gap for gap in gaps if gap > 0]
        if len(gaps) < MIN_GAPS:
            return math.nan
        period = _period(gaps)
        middle = len(gaps) // 2
        # Both halves must show the loss: a camera that changes its rate shows it in one at most.
        if not all(_lost_share(half, period) for half in (gaps[:middle], gaps[middle:])):
            return 0.0
        return _lost_share(gaps, period)


def _period(gaps: Sequence[int]) -> float:
    """Return the period: the typical one of the shortest gaps."""
    shortest = sorted(gaps)[len(gaps) // 10]
    return statistics.median(gap for gap in gaps if 0.75 * shortest <= gap < 1.5 * shortest)


def _lost_share(gaps: Sequence[int], period: float) -> float:
    """Return the share of frames lost in these gaps; 0 if they do not look like random loss."""
    periods = [gap / period for gap in gaps if gap < PAUSE * period]
    counts = [max(round(each), 1) for each in periods]
    if not counts:
        return 0.0
    residual = statistics.median(
        abs(each - count) for each, count in zip(periods, counts, strict=True)
    )
    single, long = counts.count(1) / len(counts), sum(count >= 3 for count in counts) / len(counts)
    if residual > MAX_RESIDUAL or single < MIN_SINGLE_GAPS or long < MIN_LONG_GAPS:
        return 0.0
    return 1 - len(counts) / sum(counts)
