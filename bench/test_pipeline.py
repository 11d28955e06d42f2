"""The pipeline's measurements run, over DDS, with a bundle that costs nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pipeline as module
import pytest
import rclpy
from ament_index_python.packages import get_package_share_directory
from pipeline import LADDER, STREAMS, Run, System, main, running, runs, sustained

from gosvae_codec.testing import write_tiny_bundle

DRIVE = Path(__file__).resolve().parent.parent / "drives" / "street.mcap"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    profile = Path(get_package_share_directory("gosvae_bringup")) / "config" / "fastdds.xml"
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.mark.parametrize("stream", STREAMS)
def test_each_stream_brings_masks(stream: str, bundle: Path, domain: None) -> None:
    with running(stream, 2, bundle) as system:
        result = system.measure(Run(stream, "480x360", 2, 5), DRIVE, 1)
    assert result["sent"] > 0
    assert result["delivered"] > 0
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    assert (result["cpu"]["vehicle"] is None) == (stream == "raw")
    assert result["memory_mb"]["edge"] > 10


def test_the_highest_rate_is_the_last_without_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_: System, run: Run, *__: object) -> dict[str, float]:
        return {"delivered": 1.0 if run.rate <= 30 else 0.98, "sent_per_s": run.rate}

    monkeypatch.setattr(System, "measure", measure)
    assert sustained(System.__new__(System), "raw", "480x360", DRIVE, 1)["rate"] == 30
    assert 30 in LADDER


def test_results_of_something_else_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure_all", lambda *_: pytest.fail("measured"))
    path = tmp_path / "pipeline.json"
    text = json.dumps({"runs": [], "machine": {}, "versions": {}, "bundle": "other"})
    path.write_text(text)
    assert main(["--json", str(path)]) == 1
    assert "remove it" in capsys.readouterr().err
    assert path.read_text() == text


def test_no_run_is_done_twice() -> None:
    assert len(set(runs())) == len(runs())
