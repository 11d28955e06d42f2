from __future__ import annotations

from pathlib import Path

import pytest

from gosvae_codec.draft import draft


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), draft(tmp_path / "it") as path:
        path.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_block_that_succeeds_leaves_its_output_alone(tmp_path: Path, folder: bool) -> None:
    with draft(tmp_path / "it") as path:
        if folder:
            path.mkdir()
            path = path / "inside"
        path.write_text("whole")
        assert not (tmp_path / "it").exists()
    found = tmp_path / "it" / "inside" if folder else tmp_path / "it"
    assert found.read_text() == "whole"
    assert [each.name for each in tmp_path.iterdir()] == ["it"]


def test_an_output_that_exists_is_kept_or_replaced(tmp_path: Path) -> None:
    output = tmp_path / "it"
    output.write_text("old")
    with pytest.raises(FileExistsError, match="it exists already"), draft(output):
        pass
    with pytest.raises(RuntimeError), draft(output, replace=True) as path:
        path.write_text("half")
        raise RuntimeError
    assert output.read_text() == "old"
    with draft(output, replace=True) as path:
        path.write_text("new")
    assert output.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["it"]


def test_the_parent_must_be_a_folder(tmp_path: Path) -> None:
    output = tmp_path / "nowhere" / "it"
    with pytest.raises(NotADirectoryError, match="nowhere is not a folder"), draft(output):
        pass
