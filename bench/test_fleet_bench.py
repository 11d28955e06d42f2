"""What the fleet's benchmarks make of what they measured; nothing is started."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("zenoh", reason="the extra uplink is not installed")
pytest.importorskip("ray", reason="the extra fleet is not installed")

from gosvae_bench import fleet, fleet_flood, fleet_memory, fleet_parts, uplink
from gosvae_bench.fleet_trials import Trials, fastest_held, is_held, most_held


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 37, 64, 100])
def test_the_most_is_found_in_few_trials(limit: int) -> None:
    tried: list[int] = []

    def holds(count: int) -> bool:
        tried.append(count)
        return count <= limit

    assert most_held(holds) == min(limit, 64)
    assert len(tried) == len(set(tried)) <= 12


@pytest.mark.parametrize(("held", "limit"), [(1, 10), (1, 13), (1, 19), (2, 12), (3, 10), (20, 10)])
def test_the_rate_is_found_below_that_of_one_more_stream(held: int, limit: int) -> None:
    tried: list[int] = []

    def holds(rate: int) -> bool:
        tried.append(rate)
        return rate <= limit

    assert fastest_held(holds, held) == limit
    assert all(rate > 10 and held * rate < 10 * (held + 1) for rate in tried)


@pytest.mark.parametrize(
    ("lost", "ages", "held"),
    [
        (0.01, {"p50": 90.0, "p95": 200.0}, True),
        (0.011, {"p50": 90.0, "p95": 100.0}, False),
        (0.0, {"p50": 90.0, "p95": 201.0}, False),
        (1.0, {}, False),
        (0.0, {}, False),
    ],
)
def test_held_means_few_lost_and_all_young(lost: float, ages: dict[str, float], held: bool) -> None:
    assert is_held({"lost": lost, "age_ms": ages}) is held


class Pretended(Trials):
    """Trials of something that makes `limit` masks a second, and no more."""

    def __init__(self, limit: float, names: list[str]) -> None:
        self.limit, self.made, self.names, self.others = limit, [], names, 0.0

    def measure(self, streams: int, rate: float, seconds: float) -> fleet.Figures:
        wanted = streams * rate
        made = min(wanted, self.limit)
        lost = 1 - made / wanted
        ages = {"p50": 80.0, "p95": 120.0 if made == wanted else 400.0}
        figures = {"streams": streams, "frames_per_s": made, "age_ms": ages, "lost": lost}
        figures |= {"cpu_ms": {"all": 2000 / made}, "cpu_of_others": self.others}
        self.others = 0.0
        self.made.append({**figures, "rate_hz": rate})
        return self.made[-1]


def test_found_are_streams_their_highest_rate_and_the_masks_at_saturation() -> None:
    found = Pretended(25.0, []).find(1.0, 8)
    assert (found["streams"], found["frames_per_s"], found["lost"]) == (2, 20.0, 0.0)
    assert found["held_per_s"] == 24 and found["saturated_per_s"] == 25.0
    assert all(set(each) >= {"streams", "rate_hz", "lost"} for each in found["trials"])
    nothing = Pretended(3.0, []).find(1.0, 8)
    assert (nothing["streams"], nothing["held_per_s"], nothing["saturated_per_s"]) == (0, 0, 3.0)
    assert Pretended(1000.0, []).find(1.0, 8)["streams"] == 8


def test_a_trial_that_fails_beside_other_load_is_repeated_once() -> None:
    pretended = Pretended(5.0, [])
    pretended.others = 0.5
    assert pretended.find(1.0, 1)["streams"] == 0 and len(pretended.made) == 2
    undisturbed = Pretended(5.0, [])
    undisturbed.find(1.0, 1)
    assert len(undisturbed.made) == 1


def row(who: str, held: float, saturated: float, **more: Any) -> fleet.Figures:
    return {
        "who": who,
        "streams": int(held // 10),
        "frames_per_s": held,
        "age_ms": {"p50": 80.0, "p95": 120.0},
        "lost": 0.0,
        "held_per_s": held,
        "saturated_per_s": saturated,
        "cpu_ms": {"networks": 50.0, who: 10.0 if who == fleet.SERVICE else 0.0},
        **more,
    }


ROWS = [
    row(fleet.SERVICE, 12, 14.0, replicas=1),
    row(fleet.SERVICE, 22, 24.0, replicas=2),
    row(fleet.DOWNLINK, 20, 23.0, threads=1),
    row(fleet.DOWNLINK, 25, 22.0, threads=2),
    row(fleet.RECEIVER, 0, 0.0, threads=2),
]


def test_report_compares_the_last_service_with_the_best_of_each_receiver() -> None:
    found = fleet.report(ROWS)
    assert (found["streams"], found["frames_per_s"], found["saturated_per_s"]) == (2, 22, 24.0)
    assert found["beside"] == {
        fleet.DOWNLINK: {"held_per_s": -0.12, "saturated_per_s": 0.043, "cpu_ms": 0.2},
        fleet.RECEIVER: {"held_per_s": None, "saturated_per_s": None, "cpu_ms": 0.2},
    }
    assert found["rows"] == ROWS


def test_a_floods_cost_is_a_ratio_to_what_it_is_compared_with() -> None:
    ages = {"nothing": [100.0] * 20, "its quota": [120.0] * 20, "valid": [126.0] * 20}
    ages["forged"] = [100.0] * 18 + [150.0] * 2
    found = fleet_flood.cost(ages)
    assert found["nothing"]["ratio"] == {"p50": 1.0, "p95": 1.0}
    assert found["valid"]["ratio"] == {"p50": 1.05, "p95": 1.05}
    assert found["forged"]["ratio"] == {"p50": 1.0, "p95": 1.5} and found["forged"]["masks"] == 20


def test_a_flood_is_a_hundred_times_the_quota_and_comes_beside_its_baselines() -> None:
    phases = {name: (kind, rate) for name, kind, rate in fleet_flood.schedule(7.0)}
    assert phases["nothing"][1] == 0.0 and phases["its quota"] == ("valid", 7.0)
    assert {phases[kind] for kind in fleet_flood.KINDS} == {
        (kind, 700.0) for kind in ("another's name", "valid", "forged", "malformed")
    }


def test_growth_is_that_of_the_second_half() -> None:
    flat = [*np.linspace(50, 100, 30), *[100.0] * 31]
    assert fleet_memory.growth(flat, 60.0) == pytest.approx(0.0, abs=0.1)
    rising = [100 + 0.5 * minute for minute in range(61)]
    assert fleet_memory.growth(rising, 60.0) == pytest.approx(30.0)


def test_memory_of_a_process_is_read_and_its_own_is_part_of_it() -> None:
    memory = fleet_memory.Memory({"this": [os.getpid()], "twice": [os.getpid()] * 2}, 1.0)
    memory.read()
    # Pages of its own: an array may lie where others were freed.
    with mmap.mmap(-1, 30_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as kept:
        kept[:: mmap.PAGESIZE] = bytes([1]) * -(-len(kept) // mmap.PAGESIZE)
        memory.read()
    before, after = memory.own["this"]
    assert 20 < after - before < 45
    assert memory.resident["this"][1] >= after
    assert memory.own["twice"][1] == pytest.approx(2 * after, rel=0.05)


def test_cpu_time_is_told_by_part_and_frame() -> None:
    assert fleet_parts.part_of("ray::ServeReplica:0a:network.__call__") == "networks"
    assert fleet_parts.part_of("ray::holder 0:HolderActor.__init__") == "holders"
    assert fleet_parts.part_of("ray::ServeController") == fleet_parts.RAY
    assert fleet_parts.part_of("python -m gosvae_fleet.simulation --rate 1") == "vehicles"
    assert fleet_parts.part_of("sleep 1") == ""
    spent = {"gateway": 1.0, "networks": 5.0}
    assert fleet_parts.cpu_ms({"gateway": 0.5}, spent, 100) == {"gateway": 5.0, "networks": 50.0}
    sum(range(3_000_000))
    assert fleet_parts.cpu_seconds()[fleet_parts.SELF] > 0


def test_json_has_the_figures_of_the_issue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flood = {name: [100.0] * 9 for name, *_ in fleet_flood.schedule(10.0)}
    phases = {
        name: {**each, "packets_per_s": 5, "cores": {"gateway": 0.125}}
        for name, each in fleet_flood.cost(flood).items()
    }

    class Part:
        def __init__(self, held: float) -> None:
            self.fleet = Pretended(0.0, ["v01"] * 8)
            self.find = Pretended(held, []).find

        def recover(self, streams: int) -> dict[str, int]:
            assert streams == 1
            return {"replica": 100, "holder": 2000, "gateway": 5000}

    def part(held: float) -> Any:
        @contextmanager
        def made(*_: object, **__: object) -> Iterator[Part]:
            yield Part(held)

        return made

    monkeypatch.setattr(fleet.Bench, "service", part(22.0))
    monkeypatch.setattr(fleet.Bench, "receiver", part(25.0))
    monkeypatch.setattr(fleet_flood, "measure", lambda *_: {"phases": phases})
    path = tmp_path / "out" / "fleet.json"
    assert fleet.main(["--quick", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert (written["streams"], written["frames_per_s"], written["lost"]) == (2, 20.0, 0.0)
    assert written["age_ms"] == {"p50": 80.0, "p95": 120.0}
    assert written["recovery_ms"] == {"replica": 100, "holder": 2000, "gateway": 5000}
    rates = {"held_per_s": -0.083, "saturated_per_s": -0.12, "cpu_ms": 0.0}
    assert written["beside"][fleet.DOWNLINK] == rates
    assert written["flood"]["phases"]["forged"]["ratio"] == {"p50": 1.0, "p95": 1.0}
    shown = capsys.readouterr().out
    assert f"{fleet.RECEIVER}\t{os.cpu_count()}\t2\t20.0\t80\t120\t24\t25.0" in shown
    assert fleet.main(["--flood", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["flood"] == written["flood"]
    again = capsys.readouterr().out
    assert "forged\t0.12" in again and again in shown


def test_packets_that_arrive_late_count_and_others_are_lost() -> None:
    ages = {stamp: 50.0 + stamp for stamp in range(0, 100, 2)}
    found = uplink.figures(range(100), {**ages, 1000: 9.0})
    assert found == {
        "packets": 100,
        "arrived": 0.5,
        "age_ms": {"p50": 99.0, "p95": 143.1, "p99": 147.0},
    }
    assert uplink.figures([1, 2], {}) == {"packets": 2, "arrived": 0.0, "age_ms": {}}
