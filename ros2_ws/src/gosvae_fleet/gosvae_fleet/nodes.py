"""Entry points of the nodes: ``ros2 run gosvae_fleet uplink``, ``downlink`` and ``results``."""

from __future__ import annotations

import sys

from gosvae_common.errors import UsageError
from gosvae_common.signals import import_and_run

from .extras import need


def uplink() -> int:
    """Run the vehicle's node, and return the exit status."""
    return _run("uplink")


def downlink() -> int:
    """Run the node that publishes packets, and return the exit status."""
    return _run("downlink")


def results() -> int:
    """Run the node that publishes what the service makes, and return the exit status."""
    return _run("results")


def _run(name: str) -> int:
    try:
        need("uplink")
    except UsageError as error:
        print(f"gosvae_{name}: {error}", file=sys.stderr)
        return 1
    return import_and_run(f"gosvae_fleet.{name}")
