"""Entry points of the nodes: ``ros2 run gosvae_tools replay``, ``record`` and ``view``.

The import of a node takes a second, in which a signal may come. It ends the process without a
traceback.
"""

from __future__ import annotations

from importlib import import_module

from gosvae_common.signals import stop_signals


def replay() -> int:
    """Run the node that plays a drive, and return the exit status."""
    return _run("replay")


def record() -> int:
    """Run the node that records, and return the exit status."""
    return _run("record")


def view() -> int:
    """Run the node that shows the pipeline in a browser, and return the exit status."""
    return _run("view")


def _run(name: str) -> int:
    with stop_signals() as stop:
        module = import_module(f"gosvae_tools.{name}")
        status = 0 if stop.is_set() else module.main()
    return int(status)
