"""The optional packages behind the uplink."""

from __future__ import annotations

from importlib.util import find_spec

from gosvae_common.errors import UsageError

MODULES = {
    "uplink": ("zenoh", "cryptography"),
    "fleet": ("zenoh", "cryptography", "prometheus_client", "ray", "pyarrow", "pandas"),
}
"""Modules by the name of an extra, which is that of a dependency group as well."""


def missing(extra: str) -> str:
    """Return why an extra cannot be used; empty if it can."""
    absent = [name for name in MODULES[extra] if find_spec(name) is None]
    if not absent:
        return ""
    return (
        f"{', '.join(absent)} not installed: python3 tools/ros_environment.py --with {extra}, or "
        f"pip install 'gosvae_fleet[{extra}]'"
    )


def need(extra: str) -> None:
    """Raise UsageError where an extra cannot be used."""
    if reason := missing(extra):
        raise UsageError(reason)
