"""Entry points of the nodes: ``ros2 run gosvae_fleet uplink`` and ``downlink``.

The import of a node takes a second, in which a signal may come. It ends the process without a
traceback.
"""

from __future__ import annotations

import sys
from importlib import import_module

from gosvae_common.errors import UsageError
from gosvae_common.signals import stop_signals

from .extras import need


def uplink() -> int:
    """Run the vehicle's node, and return the exit status."""
    return _run("uplink")


def downlink() -> int:
    """Run the node that publishes results, and return the exit status."""
    return _run("downlink")


def _run(name: str) -> int:
    try:
        need("uplink")
    except UsageError as error:
        print(f"gosvae_{name}: {error}", file=sys.stderr)
        return 1
    with stop_signals() as stop:
        module = import_module(f"gosvae_fleet.{name}")
        status = 0 if stop.is_set() else module.main()
    return int(status)
