"""Entry points of the nodes: ``ros2 run gosvae_tools replay``, ``record`` and ``view``."""

from __future__ import annotations

from gosvae_common.signals import import_and_run


def replay() -> int:
    """Run the node that plays a drive, and return the exit status."""
    return import_and_run("gosvae_tools.replay")


def record() -> int:
    """Run the node that records, and return the exit status."""
    return import_and_run("gosvae_tools.record")


def view() -> int:
    """Run the node that shows the pipeline in a browser, and return the exit status."""
    return import_and_run("gosvae_tools.view")
