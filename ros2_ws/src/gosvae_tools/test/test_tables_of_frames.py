"""Recordings of packets as tables, and what is found in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from drives import write_drive
from pyarrow import parquet

from gosvae_bringup import cli
from gosvae_codec import Decoder, ModelBundle
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.boxes import boxes_of
from gosvae_common.messages import from_packet_message
from gosvae_tools.bags import packets, reading

FRAMES = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    path = tmp_path_factory.mktemp("models") / "tiny"
    return ModelBundle.load(write_tiny_bundle(path, tasks=("semantic", "detection", "depth")))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, bundle: ModelBundle) -> Path:
    folder = tmp_path_factory.mktemp("drive")
    write_drive(folder / "street", FRAMES, (120, 160))
    path = folder / "packets.mcap"
    assert gosvae("encode", folder / "street", "-o", path, "--bundle", bundle.path) == 0
    return path


def gosvae(*arguments: object) -> int:
    return cli.main([str(each) for each in arguments])


def decode(encoded: Path, bundle: ModelBundle, output: Path) -> Path:
    arguments = ("--bundle", bundle.path, "--min-score", 0)
    assert gosvae("decode", encoded, "-o", output, *arguments) == 0
    return output


def test_a_row_says_what_its_frame_holds(
    encoded: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    path = decode(encoded, bundle, tmp_path / "drive.parquet")
    rows = parquet.read_table(path).to_pylist()
    assert len(rows) == FRAMES and {row["recording"] for row in rows} == {"packets.mcap"}
    decoder, boxes = Decoder(bundle, min_score=0.0), 0
    with reading(encoded) as reader:
        for row, each in zip(rows, packets(reader), strict=True):
            decoded = decoder.decode([from_packet_message(each.message)])
            stamp = each.message.header.stamp
            assert row["stamp_ns"] == stamp.sec * 10**9 + stamp.nanosec
            assert row["camera"] == "camera" and row["coverage"] == 1
            assert row["sequence"] == decoded.sequence
            for label in bundle.labels.labels:
                share = (decoded.mask == label.id).mean()
                assert row["semantic"][label.name] == pytest.approx(share, abs=1e-6)
            found = boxes_of(decoded.tasks["detection"], bundle.tasks["detection"].labels)
            assert [box["name"] for box in row["detection"]] == [box.name for box in found]
            assert row["depth"]["median"] == pytest.approx(
                float(np.median(decoded.tasks["depth"].depth)), rel=1e-5
            )
            boxes += len(found)
    assert boxes


def test_a_class_is_found_when_it_was_seen(
    encoded: Path, bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    rows = parquet.read_table(decode(encoded, bundle, folder / "a.parquet")).to_pylist()
    shares = {
        label.name: [row["semantic"][label.name] for row in rows] for label in bundle.labels.labels
    }
    name = max(shares, key=lambda each: min(shares[each]))
    assert min(shares[name]) > 0.01
    capsys.readouterr()
    assert gosvae("find", name, folder, "--json") == 0
    (seen,) = (each for each in json.loads(capsys.readouterr().out) if each["task"] == "semantic")
    assert seen["frames"] == FRAMES and seen["camera"] == "camera"
    assert seen["most"] == pytest.approx(max(shares[name]), abs=1e-6)
    assert (seen["begin_ns"], seen["end_ns"]) == (rows[0]["time_ns"], rows[-1]["time_ns"])
    # Only of the frames with more of it than the median.
    middle = float(np.median(shares[name]))
    assert gosvae("find", name, folder, "--share", middle, "--json") == 0
    found = [e for e in json.loads(capsys.readouterr().out) if e["task"] == "semantic"]
    assert sum(each["frames"] for each in found) == sum(s >= middle for s in shares[name])
    # Boxes by their score.
    best = {}
    for box in (box for row in rows for box in row["detection"]):
        best[box["name"]] = max(best.get(box["name"], 0), box["score"])
    kind, score = max(best.items(), key=lambda each: each[1])
    assert gosvae("find", kind, folder, "--score", score - 1e-6, "--share", 1, "--json") == 0
    boxes = [e for e in json.loads(capsys.readouterr().out) if e["task"] == "detection"]
    assert boxes and max(each["most"] for each in boxes) == pytest.approx(score)
    assert gosvae("find", name, folder, "--share", 1, "--score", 1) == 0
    assert "0 frames, 0 times" in capsys.readouterr().out


def test_the_example_of_the_documentation_runs(
    encoded: Path,
    bundle: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[4] / "docs/tasks.md").read_text()
    *_, example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "archive").mkdir()
    rows = parquet.read_table(decode(encoded, bundle, tmp_path / "archive" / "a.parquet"))
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {}
    exec(example, given)
    shares = [row["semantic"]["road"] for row in rows.to_pylist()]
    made = given["table"].to_pydict()
    assert made["road"] == pytest.approx(shares) and len(set(made["minute"])) == 1
    assert "road_mean" in capsys.readouterr().out


def test_what_cannot_be_searched_is_told(
    encoded: Path, bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(message: str, *arguments: object) -> None:
        assert gosvae("find", *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1

    (tmp_path / "empty").mkdir()
    refuse("has no tables; write some with", "road", tmp_path / "empty")
    (tmp_path / "text.parquet").write_text("text")
    refuse("text.parquet: not a table of decoded frames", "road", tmp_path / "text.parquet")
    path = decode(encoded, bundle, tmp_path / "drive.parquet")
    capsys.readouterr()
    refuse("class 'unicorn': never seen; the tables know", "unicorn", path)
    refuse("nowhere.parquet: no such file", "road", tmp_path / "nowhere.parquet")
