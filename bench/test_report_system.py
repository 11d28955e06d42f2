"""The pipeline's tables say what its results say, and the pages what the committed ones say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gosvae_bench.report_system import (
    PAGE,
    RESULTS,
    breakdown,
    plot,
    render,
    soak,
    summary,
    sustained,
)

STAGES = {"convert": 0.1, "encoder network": 20.0, "publish mask": 0.2, "colour": 0.5}
THEIRS = {"JPEG encoding": 3.0, "JPEG decoding": 2.0, "expert network": 60.0}


def row(transport: str, p50: float | None, **more: Any) -> dict[str, Any]:
    return {
        **{"transport": transport, "size": "480x360", "cameras": 1, "rate": 15},
        **{"seconds": 10.0, "camera_rate": 10.0, "frames": 100, "masks": 99, "drops": 0.01},
        "latency_ms": {"p50": p50, "p95": 60.0, "p99": 70.0},
        **{"sent_ms": 20.0, "received_ms": 10.0},
        "cpu": {"edge": 0.5, "camera": 0.02, "listener": 0.01, "vehicle": 0.3},
        "cpu_of_others": 0.01,
        "rss_mb": {"edge": [100.0, 101.0], "camera": [1.0, 1.0]},
        **more,
    }


def some_results() -> dict[str, Any]:
    return {
        **{"bundle": "b", "expert": "e", "data": {"name": "d", "sha256": "ab" * 32}},
        **{"machine": {"cpu": "a CPU", "cores": 2}, "versions": {"rmw": "x"}, "date": "today"},
        "runs": [row("tokens", 50.0), row("jpeg", 80.0), row("raw", None)],
        "sustained": [
            {**row("tokens", 50.0, rate=31.5), "trials": []},
            {"transport": "raw", "size": "480x360", "rate": 0.0, "trials": []},
        ],
        "soak": {
            **{"size": "480x360", "rate": 5, "seconds": 180.0, "frames": 900, "masks": 899},
            **{"step_s": 30.0, "rss_mb": {"edge": [90.0, 99.0, 100.0, 100.5, 101.0, 101.5]}},
        },
        "stages": {"480x360": STAGES},
        "references": {"480x360": THEIRS},
    }


def test_what_stages_leave_over_is_dds_and_waiting() -> None:
    results = some_results()
    parts = breakdown(results, "tokens", "480x360")
    assert parts is not None and "colour" not in parts
    assert parts["DDS, queues and waiting"] == pytest.approx(50 - 20.3)
    parts = breakdown(results, "jpeg", "480x360")
    assert parts is not None
    assert sum(parts.values()) == pytest.approx(80) and parts["JPEG encoding"] == 3
    assert breakdown(results, "raw", "480x360") is None
    assert breakdown(results, "tokens", "1024x512") is None


def test_tables_hold_the_figures() -> None:
    results = some_results()
    assert "| tokens | 480x360 | 31.5 | 1.0% | 50 | 60 | 70 | 30% | 50% |" in sustained(results)
    assert "| raw | 480x360 | 0 | - |" in sustained(results)
    assert "| tokens | 1.0% | 50 | 60 | 70 | 30% | 50% | 31.5 |" in summary(results)
    # From the third value on, half a megabyte in each half minute.
    assert "| edge | 90.0 | 100.0 | 101.5 | 1.5 | +60.0 |" in soak(results)
    assert soak({**results, "soak": None}) == "Not measured."


def test_pages_are_filled_between_their_marks(tmp_path: Path) -> None:
    text = "a\n<!-- pipeline: rows -->\nold\n<!-- end -->\nb\n"
    filled = render(text, some_results())
    assert "old" not in filled and "| jpeg | 480x360 | 1 | 15 | 100 | 1.0% | 80 |" in filled
    assert render(filled, some_results()) == filled
    with pytest.raises(KeyError, match="nonsense"):
        render(text.replace("rows", "nonsense"), some_results())
    plot(some_results(), tmp_path / "latency.png")
    assert (tmp_path / "latency.png").stat().st_size > 10_000


def test_the_page_says_what_the_committed_results_say() -> None:
    text = PAGE.read_text()
    assert re.search(r"<!-- pipeline: \w+ -->", text)
    results = json.loads(RESULTS.read_text())
    assert render(text, results) == text, "run python -m gosvae_bench.report_system in bench/"
