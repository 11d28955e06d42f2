"""Output files and folders that are written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft(output: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a path to write to, a file or folder that becomes `output` when the block succeeds.

    When the block raises, nothing is left of it, and what was there before stays.

    Args:
        output: the file or folder to write; its parent must exist.
        replace: whether a file that exists is replaced.

    Raises:
        FileExistsError: `output` exists, and is not to be replaced.
        NotADirectoryError: its parent is not a folder.
    """
    output = output.expanduser().absolute()
    if output.exists() and not replace:
        raise FileExistsError(f"output {output} exists already; remove it or name another")
    if not output.parent.is_dir():
        raise NotADirectoryError(
            f"output: {output.parent} is not a folder; make it, or name another"
        )
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield folder / output.name
        (folder / output.name).replace(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a draft, which replaces `path` when the block ends without an error.

    The folder of `path` is made if there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path, replace=True) as new:
        yield new


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; make its folder if there is none."""
    with whole_file(path) as new:
        new.write_text(text)
