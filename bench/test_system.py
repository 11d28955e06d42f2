"""The pipeline's figures worked out by hand, and all three transports over real DDS, untimed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gosvae_bench.system import LADDER, PRECISION, highest, main
from gosvae_bench.system_nodes import System, figures, pinned, private_network
from gosvae_bench.system_results import SIZES, Results, Run, runs
from gosvae_codec import GosvaeError
from gosvae_codec.testing import write_tiny_bundle

DRIVE = Path(__file__).resolve().parent.parent / "drives" / "street.mcap"
MS = 10**6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny")


def test_quick_runs_come_first_and_none_twice() -> None:
    quick, every = runs(True), runs(False)
    assert every[: len(quick)] == quick
    assert len(set(every)) == len(every) == 3 * 3 * 3 * 3


@given(st.floats(0.1, 500))
def test_the_highest_rate_lies_closely_below_what_is_possible(possible: float) -> None:
    best = highest(lambda rate: rate <= possible)
    if possible < LADDER[0]:
        assert best == 0
    else:
        limit = min(possible, LADDER[1])
        assert best <= limit < best * PRECISION * 1.03  # rates are rounded to 0.1 Hz


def test_figures_of_two_cameras() -> None:
    stamps = [0, 100 * MS, 200 * MS]
    masks = {("a", 0): 20 * MS, ("b", 0): 40 * MS, ("a", 100 * MS): 130 * MS, ("a", 7): 8}
    crossed = {("a", 0): 15 * MS, ("b", 0): 30 * MS, ("b", 200 * MS): 201 * MS}
    found = figures(stamps, masks, crossed, 2)
    assert (found["frames"], found["masks"], found["drops"]) == (6, 3, 0.5)
    assert found["latency_ms"]["p50"] == 30.0
    assert (found["sent_ms"], found["received_ms"]) == (22.5, 7.5)


def test_figures_of_nothing() -> None:
    found = figures([1], {}, {}, 1)
    assert found["drops"] == 1 and found["latency_ms"]["p99"] is None and found["sent_ms"] is None
    assert figures([], {}, {}, 1)["drops"] is None


def test_results_go_on_where_they_stopped(tmp_path: Path) -> None:
    path, about = tmp_path / "results.json", {"bundle": "b", "date": "today"}
    results = Results(path, about)
    run = Run("tokens", "480x360", 1, 10)
    results.add({**vars(run), "cpu_of_others": 0.1})
    results.found["sustained"].append({"transport": "raw", "size": "480x360"})
    results.write()
    again = Results(path, {**about, "date": "tomorrow"})
    assert again.todo([run, Run("tokens", "480x360", 2, 10)]) == [Run("tokens", "480x360", 2, 10)]
    assert again.climbs([("raw", "480x360"), ("jpeg", "480x360")]) == [("jpeg", "480x360")]
    again.add({**vars(run), "cpu_of_others": 0.3})
    assert again.todo([run]) == []
    with pytest.raises(GosvaeError, match="other bundle: remove it"):
        Results(path, {**about, "bundle": "c"})
    path.write_text("[]")
    with pytest.raises(GosvaeError, match="holds no results"):
        Results(path, about)


def test_a_disturbed_row_is_measured_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", {})
    first, second = Run("tokens", "480x360", 1, 10), Run("tokens", "480x360", 1, 15)
    for run, others in ((second, 0.0), (first, 0.9), (first, 0.5)):
        results.add({**vars(run), "cpu_of_others": others})
    assert results.todo([first, second]) == [first]
    results.add({**vars(first), "cpu_of_others": 0.1})
    assert results.todo([first, second]) == []
    assert [row["rate"] for row in results.found["runs"]] == [10, 15]


def test_a_missing_drive_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", str(bundle), "--data", str(tmp_path / "none")]
    assert main([*arguments, "--json", str(tmp_path / "results.json")]) == 1
    assert "none" in capsys.readouterr().err


def test_pinning_is_undone() -> None:
    before = os.sched_getaffinity(0)
    with pinned(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


@pytest.mark.dds
@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tokens", "jpeg", "raw"])
def test_masks_come_by_every_transport(transport: str, bundle: Path) -> None:
    size = next(iter(SIZES))
    with private_network(), System(transport, 2, bundle, DRIVE) as system:
        result = system.measure(size, 2, 3.0)
        soak: dict[str, Any] = system.soak(size, 2, 1.0) if transport == "tokens" else {}
    assert result["masks"] > 0
    assert result["latency_ms"]["p50"] > 0
    assert (result["sent_ms"] is None) == (transport == "raw")
    processes = {"edge", "camera", "listener"} | ({"vehicle"} if transport != "raw" else set())
    assert set(result["cpu"]) == processes
    assert json.loads(json.dumps(result)) == result
    if soak:
        assert len(soak["rss_mb"]["edge"]) == 2 and soak["masks"] > 0
