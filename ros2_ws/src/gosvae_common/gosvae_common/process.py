"""What each process does around its node: start rclpy, spin, stop at a signal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from .signals import stop_signals


@contextmanager
def ros_context() -> Iterator[None]:
    """Start rclpy and shut it down, without its signal handlers.

    These would shut down the context while threads of the node still publish.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield
    finally:
        rclpy.try_shutdown()


@contextmanager
def running() -> Iterator[Event]:
    """Start rclpy, and yield an event that SIGINT, SIGTERM and SIGHUP set."""
    with stop_signals() as stop, ros_context():
        yield stop


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """Spin the node in a thread, so that the main thread can wait for other things."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    thread = Thread(target=executor.spin, name="spin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
