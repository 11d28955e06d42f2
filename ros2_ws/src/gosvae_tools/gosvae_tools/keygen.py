"""`gosvae keygen`: keys that seal packets."""

from __future__ import annotations

from pathlib import Path

from gosvae_codec.draft import draft
from gosvae_codec.errors import KeyFileError
from gosvae_codec.keys import Key, KeyFile, generate


def keygen(path: Path, add: bool = False, name: str = "") -> Key:
    """Write a new key to a file that only its owner may read, and return it.

    Args:
        path: the key file; it is written whole or not at all.
        add: whether the file exists, and gets the key at its end.
        name: of the key, beside it in the file.

    Raises:
        KeyFileError: with `add`, the file is no key file; `name` is not one line.
        OSError: it exists without `add`, or cannot be written.
    """
    before = ""
    if add:
        if not path.exists():
            raise KeyFileError(f"key file {path} does not exist; leave out --add to make it")
        KeyFile(path)
        before = path.expanduser().read_text()
        before += "" if before.endswith("\n") else "\n"
    key, line = generate(name)
    with draft(path, replace=add) as new:
        new.touch(mode=0o600)
        new.write_text(f"{before}{line}\n")
        if key.id not in KeyFile(new).keys:
            raise KeyFileError(f"key file {path} was not written as it should be")
    return key
