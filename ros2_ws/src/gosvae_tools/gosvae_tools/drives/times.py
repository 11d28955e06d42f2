"""Times of messages, where single ones may be absurd."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median_low

_APART = 600_000_000_000
"""Gap in ns beyond which a few messages are apart from the others."""
_DEFAULT_INTERVAL = 66_666_667


def span(times: Sequence[int]) -> tuple[int, int]:
    """Return the first time and the time from it to the last one, all in ns; 0, 0 of none.

    Groups that a gap of more than ten minutes sets apart do not count if they have less than a
    quarter of the largest group's messages, or only one: clocks that were not set yet, converters
    that write 0, times that overflowed.
    """
    ordered = sorted(times)
    if not ordered:
        return 0, 0
    groups = [[ordered[0], ordered[0], 0]]
    for time in ordered:
        if time - groups[-1][1] > _APART:
            groups.append([time, time, 0])
        groups[-1][1] = time
        groups[-1][2] += 1
    largest = max(groups, key=lambda group: group[2])
    least = max(2.0, largest[2] / 4)
    kept = [group for group in groups if group is largest or group[2] >= least]
    return kept[0][0], kept[-1][1] - kept[0][0]


def typical_interval(times: Sequence[int]) -> int:
    """Return the median time in ns from one message to the next; 1/15 s if there are not two."""
    ordered = sorted(times)
    steps = [later - earlier for earlier, later in pairwise(ordered) if later > earlier]
    return median_low(steps) if steps else _DEFAULT_INTERVAL
