"""The search for the most streams that a service holds."""

from __future__ import annotations

import pytest

pytest.importorskip("zenoh", reason="the extra uplink is not installed")
pytest.importorskip("ray", reason="the extra fleet is not installed")

from gosvae_bench.fleet import most_held


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 37, 64, 100])
def test_the_most_is_found_in_few_trials(limit: int) -> None:
    tried: list[int] = []

    def holds(count: int) -> bool:
        tried.append(count)
        return count <= limit

    assert most_held(holds) == min(limit, 64)
    assert len(tried) == len(set(tried)) <= 12
