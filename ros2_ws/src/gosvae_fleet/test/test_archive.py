"""Folders of recordings to tables, with Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("ray.data", reason="the extra fleet is not installed")

from drives import write_drive
from pyarrow import parquet

from gosvae_bringup import cli
from gosvae_codec import ModelBundle
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.errors import UsageError
from gosvae_fleet.archive import recordings, tables


def gosvae(*arguments: object) -> int:
    return cli.main([str(each) for each in arguments])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    path = tmp_path_factory.mktemp("models") / "tiny"
    return ModelBundle.load(write_tiny_bundle(path, tasks=("semantic", "detection")))


@pytest.fixture
def month(tmp_path: Path, bundle: ModelBundle) -> Path:
    """A folder of two MCAP files of 12 frames each, one below another folder."""
    write_drive(tmp_path / "street", 12, (120, 160))
    folder = tmp_path / "month"
    (folder / "day 1").mkdir(parents=True)
    packets = folder / "day 1" / "a.mcap"
    assert gosvae("encode", tmp_path / "street", "-o", packets, "--bundle", bundle.path) == 0
    shutil.copy(packets, folder / "b.mcap")
    return folder


def test_recordings_become_tables_once(
    month: Path, bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (month / "broken.mcap").write_text("text")
    output = tmp_path / "archive"
    command = ("archive", month, "-o", output, "--bundle", bundle.path)
    # What cannot be read fails the command, and costs the others nothing.
    assert gosvae(*command) == 1
    told = capsys.readouterr()
    assert "decoded\t2" in told.out and "frames\t24" in told.out
    assert "broken.mcap" in told.err and "neither an MCAP" in told.err
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.parquet"))
    assert files == ["b.mcap.parquet", "day 1/a.mcap.parquet"]
    rows = parquet.read_table(output / "b.mcap.parquet").to_pylist()
    assert len(rows) == 12 and rows[0]["recording"] == "b.mcap"
    names = [label.name for label in bundle.labels.labels]
    seen = max(names, key=lambda name: rows[0]["semantic"][name])
    assert gosvae("find", seen, output) == 0
    assert "a.mcap" in capsys.readouterr().out
    # A second run leaves tables as they are, and starts nothing where all are there.
    (month / "broken.mcap").unlink()
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    assert gosvae(*command) == 0
    assert "with a table before\t2" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")} == before


def test_a_folder_with_metadata_is_one_recording(tmp_path: Path, month: Path) -> None:
    write_drive(tmp_path / "bags" / "whole", 2, (120, 160))
    assert list(recordings(tmp_path / "bags")) == [tmp_path / "bags" / "whole"]
    assert [path.name for path in recordings(month)] == ["b.mcap", "a.mcap"]


def test_what_cannot_become_an_archive_is_told(month: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        tables([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: no recording"):
        tables([tmp_path / "empty"], tmp_path / "out")
    shutil.copytree(month, tmp_path / "again")
    with pytest.raises(UsageError, match=r"would both have the table .*b\.mcap\.parquet"):
        tables([month, tmp_path / "again"], tmp_path / "out")
