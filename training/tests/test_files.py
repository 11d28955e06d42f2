"""Files and folders written whole or not at all, and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from gosvae_codec.draft import whole_file, write_text
from gosvae_training.files import whole_folder
from gosvae_training.tables import markdown_table


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "figures.json"
    write_text(path, "old")
    with pytest.raises(ValueError, match="stopped"), whole_file(path) as draft:
        draft.write_text("half of the n")
        raise ValueError("stopped")
    assert path.read_text() == "old" and names(path.parent) == {"figures.json"}
    write_text(path, "new")
    assert path.read_text() == "new" and names(path.parent) == {"figures.json"}


def test_a_draft_keeps_the_ending_that_libraries_go_by(tmp_path: Path) -> None:
    with whole_file(tmp_path / "logits.npz") as draft:
        assert draft.suffix == ".npz"
        draft.write_bytes(b"")


def write_folder(folder: Path, *files: str) -> None:
    with whole_folder(folder) as draft:
        for name in files:
            (draft / name).write_text(name)


def test_a_folder_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_folder(folder, "a", "b")
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as draft:
        (draft / "c").write_text("c")
        raise KeyboardInterrupt
    assert names(folder) == {"a", "b"} and names(tmp_path) == {"bundle"}
    write_folder(folder, "c")
    assert names(folder) == {"c"} and names(tmp_path) == {"bundle"}


def test_a_folder_that_cannot_take_its_place_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    write_folder(folder, "a")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == ".bundle.new":
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no space"):
        write_folder(folder, "b")
    assert names(folder) == {"a"} and names(tmp_path) == {"bundle"}


def test_what_a_killed_run_left_between_its_renames_is_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_folder(folder, "a")
    folder.rename(tmp_path / ".bundle.old")
    (tmp_path / ".bundle.new").mkdir()
    (tmp_path / ".bundle.new" / "half").write_text("")
    with pytest.raises(ValueError, match="again"), whole_folder(folder) as draft:
        assert names(draft) == set()
        raise ValueError("again")
    assert names(folder) == {"a"} and names(tmp_path) == {"bundle"}


def test_a_folder_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    write_folder(tmp_path / "disk" / "bundle", "a")
    link = tmp_path / "bundle"
    link.symlink_to(tmp_path / "disk" / "bundle")
    write_folder(link, "b")
    assert link.is_symlink() and names(link) == {"b"}
    assert names(tmp_path / "disk") == {"bundle"}


def test_a_table_has_a_line_for_each_row() -> None:
    table = markdown_table(["name", "mIoU", ""], [("a", 0.5, ""), ("", 1, "x")])
    assert table == "| name | mIoU | |\n|---|---|---|\n| a | 0.5 | |\n| | 1 | x |"
    assert markdown_table(["a"], []) == "| a |\n|---|"
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2"):
        markdown_table(["a", "b"], [("c",)])
