"""Key files: the secrets that seal packets and feedback, see :mod:`.sealing`.

A key file is text with one key a line, 64 hexadecimal digits and optionally a name; empty lines and
those that begin with # are ignored. The first key seals, and all of them open, so that a key is
replaced without a gap: add the new one at the end on both sides, then move it to the top in the
vehicle, then remove the old one.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .errors import KeyFileError

KEY_BYTES = 32
_LINE = re.compile(r"([0-9A-Fa-f]{64})(?:\s+(\S.*))?")


class Key(NamedTuple):
    """A secret, and what it is called."""

    id: int
    """Tells keys apart in packets: 32 bits of HMAC-SHA256 of the secret, which reveal nothing."""
    secret: bytes
    name: str

    def __repr__(self) -> str:
        """Return the id alone, so that no log shows the secret."""
        return f"Key({self.id:08x})"


def make_key(secret: bytes, name: str = "") -> Key:
    """Return the key of a secret of 32 bytes."""
    digest = hmac.digest(secret, b"gosvae key id", hashlib.sha256)
    return Key(int.from_bytes(digest[:4], "big"), secret, name)


def generate(name: str = "") -> tuple[Key, str]:
    """Return a new random key and its line in a key file.

    Raises:
        KeyFileError: `name` has a line break or begins with a space.
    """
    key = make_key(secrets.token_bytes(KEY_BYTES), name)
    line = f"{key.secret.hex()} {name}".rstrip()
    if not _LINE.fullmatch(line):
        raise KeyFileError(f"name {name!r}: give one line of text")
    return key, line


class KeyFile:
    """The keys of a file, which are read again when it changes."""

    def __init__(self, path: str | Path) -> None:
        """Read the file.

        Raises:
            KeyFileError: it cannot be read, holds no key, something else or the same key twice,
                others may read it, or the package cryptography is missing.
        """
        if importlib.util.find_spec("cryptography") is None:
            raise KeyFileError(
                "sealed packets need the package cryptography: pip install 'gosvae_codec[seal]', "
                "or apt install python3-cryptography"
            )
        self.path = Path(path).expanduser()
        self.keys: Mapping[int, Key] = {}
        """All keys by their id, in the order of the file."""
        self._state: object = None
        self.refresh()

    @property
    def first(self) -> Key:
        """The key that seals."""
        return next(iter(self.keys.values()))

    @property
    def ids(self) -> str:
        """The ids of all keys, for messages."""
        return ", ".join(f"{each:08x}" for each in self.keys)

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether it had.

        Raises:
            KeyFileError: as the constructor does; the keys stay as they were.
        """
        try:
            about = self.path.stat()
            state = about.st_mtime_ns, about.st_size, about.st_ino
            if state == self._state:
                return False
            if os.name == "posix" and stat.S_IMODE(about.st_mode) & stat.S_IROTH:
                raise KeyFileError(
                    f"key file {self.path}: everyone may read it; chmod 600 {self.path}"
                )
            text = self.path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise KeyFileError(
                f"key file {self.path} cannot be read: {reason}; make one with `gosvae keygen`"
            ) from error
        self.keys = _parse(text, self.path)
        self._state = state
        return True


def _parse(text: str, path: Path) -> dict[int, Key]:
    keys: dict[int, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            # Not the line itself, as it may be most of a secret.
            raise KeyFileError(
                f"key file {path}, line {number}: not 64 hexadecimal digits and a name"
            )
        key = make_key(bytes.fromhex(match[1]), match[2] or "")
        if key.id in keys:
            raise KeyFileError(f"key file {path}, line {number}: key {key.id:08x} is there twice")
        keys[key.id] = key
    if not keys:
        raise KeyFileError(f"key file {path} holds no key; make one with `gosvae keygen`")
    return keys
