"""Signals that ask a process to stop.

This module imports neither rclpy nor anything else that takes long, so that entry points can handle
signals before they import what does.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Event


@contextmanager
def stop_signals() -> Iterator[Event]:
    """Yield an event that SIGINT, SIGTERM and SIGHUP set, instead of their default actions."""
    stop = Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def import_and_run(module: str) -> int:
    """Import a node's module, call its ``main()``, and return the exit status.

    The import takes a second. A signal that comes in it ends the process without a traceback.
    """
    with stop_signals() as stop:
        node = import_module(module)
        status = 0 if stop.is_set() else node.main()
    return int(status)
