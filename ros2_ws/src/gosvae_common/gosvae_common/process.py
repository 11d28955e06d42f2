"""What each process of this package does around its node: start rclpy, spin, stop at a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions


@contextmanager
def running() -> Iterator[Event]:
    """Start rclpy, and yield an event that SIGINT and SIGTERM set.

    rclpy's own handlers would take the context from under a node that has things to finish.
    """
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield stop
    finally:
        rclpy.try_shutdown()


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
