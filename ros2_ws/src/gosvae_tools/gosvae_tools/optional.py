"""Packages that only some verbs need."""

from __future__ import annotations

from importlib.util import find_spec

from gosvae_common.errors import UsageError


def need_pyarrow() -> None:
    """Raise UsageError where tables cannot be read and written."""
    if find_spec("pyarrow") is None:
        raise UsageError("a table needs pyarrow: pip install 'pyarrow>=18,<20'")
