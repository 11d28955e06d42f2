"""How much a vehicle may send: token buckets of packets and of bytes."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST_SECONDS = 1.0
"""For how long a vehicle may send at once what it has not sent before."""


class Bucket:
    """Lets `rate` units a second pass on average, and those of a second at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._held, self._at = rate * BURST_SECONDS, clock()

    def take(self, amount: float) -> bool:
        """Return whether `amount` may pass; then it is taken."""
        now = self._clock()
        held = min(self._held + (now - self._at) * self._rate, self._rate * BURST_SECONDS)
        self._at, passes = now, amount <= held
        self._held = held - amount if passes else held
        return passes


class Quota:
    """One vehicle's packets and bytes."""

    def __init__(
        self,
        packets_per_s: float,
        kbit_per_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._packets = Bucket(packets_per_s, clock)
        self._bytes = Bucket(kbit_per_s * 1e3 / 8, clock)

    def problem(self, size: int) -> str:
        """Return what a packet of `size` bytes exceeds, ``packets`` or ``bytes``; "": it passes."""
        if not self._packets.take(1):
            return "packets"
        return "" if self._bytes.take(size) else "bytes"
