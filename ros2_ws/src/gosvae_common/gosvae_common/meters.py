"""Statistics over the last seconds, for diagnostics."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from threading import Lock


class Meter:
    """Values with their arrival times over a sliding window; safe to use from several threads."""

    def __init__(self, window: float = 10.0) -> None:
        """Keep the values of the last `window` seconds, measured by the monotonic clock."""
        self._window = window
        self._start = self._newest = time.monotonic()
        self._values: deque[tuple[float, float]] = deque()
        self._lock = Lock()

    def add(self, value: float) -> None:
        """Record one value, now."""
        with self._lock:
            self._newest = time.monotonic()
            self._values.append((self._newest, value))
            self._forget()

    def _forget(self) -> float:
        now = time.monotonic()
        while self._values and self._values[0][0] < now - self._window:
            self._values.popleft()
        return max(min(now - self._start, self._window), 1e-3)

    def silence(self) -> float:
        """Return the seconds since the last value, or since the beginning."""
        return time.monotonic() - self._newest

    def rate(self) -> float:
        """Return values per second."""
        with self._lock:
            seconds = self._forget()
            return len(self._values) / seconds

    def total(self) -> float:
        """Return the sum of the values."""
        with self._lock:
            self._forget()
            return sum(value for _, value in self._values)

    def sum_rate(self) -> float:
        """Return the sum of values per second."""
        with self._lock:
            seconds = self._forget()
            return sum(value for _, value in self._values) / seconds

    def mean(self) -> float:
        """Return the mean; nan without any value."""
        with self._lock:
            self._forget()
            values = [value for _, value in self._values]
        return sum(values) / len(values) if values else math.nan

    def percentile(self, share: float) -> float:
        """Return the value that `share` (0 to 1) of the values do not exceed; nan without any."""
        with self._lock:
            self._forget()
            ordered = sorted(value for _, value in self._values)
        if not ordered:
            return math.nan
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


class CounterRate(Meter):
    """Increase of a counter over a sliding window; one that decreases has been reset."""

    def __init__(self, window: float = 10.0) -> None:
        super().__init__(window)
        self._count = 0

    def update(self, count: int) -> None:
        """Record the value of the counter now."""
        self.add(max(count - self._count, 0))
        self._count = count


class ErrorLog:
    """Counts errors and logs them, one line every few seconds at most."""

    def __init__(self, log: Callable[[str], object], period: float = 5.0) -> None:
        """Pass texts on to `log`, at most one every `period` seconds."""
        self.count = 0
        """Errors so far."""
        self.last = ""
        """Text of the last error."""
        self.meter = Meter()
        self._log = log
        self._period = period
        self._logged = -math.inf
        self._lock = Lock()

    def add(self, error: Exception | str) -> None:
        """Count an error, and log it if the last line was logged long enough ago."""
        text = str(error) or type(error).__name__
        now = time.monotonic()
        with self._lock:
            self.count += 1
            self.last = text
            due = now - self._logged >= self._period
            if due:
                self._logged = now
        self.meter.add(1)
        if due:
            self._log(text)
