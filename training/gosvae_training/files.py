"""Folders that are written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which replaces `folder` when the block ends without an error.

    The draft is ``.<name>.new`` beside it. What `folder` held before is deleted.
    """
    folder = folder.resolve()
    new, before = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    # An earlier run stopped between its two renames.
    if before.exists() and not folder.exists():
        before.rename(folder)
    for each in (new, before):
        shutil.rmtree(each, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(before)
        try:
            new.rename(folder)
        except OSError:
            if before.exists():
                before.rename(folder)
            raise
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
