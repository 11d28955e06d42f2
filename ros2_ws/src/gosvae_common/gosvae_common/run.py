"""The main function of processes that run one lifecycle node."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Event

from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from .node import PipelineNode
from .process import ros_context


def run(make: Callable[[], PipelineNode], stop: Event) -> int:
    """Run one node until `stop` is set, and return the exit status.

    Returns:
        0, 1 where autostart was asked for and configuring or activating failed, or 2 where a
        parameter's value is impossible.
    """
    with ros_context():
        try:
            node = make()
        except ParameterException as error:
            print(f"{error}; write lists as [front]", file=sys.stderr)
            return 2
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            if node.value("autostart"):
                for trigger in (node.trigger_configure, node.trigger_activate):
                    if stop.is_set():
                        return 0
                    if trigger() != TransitionCallbackReturn.SUCCESS:
                        return 1
            while not stop.is_set():
                # A signal's handler runs between two calls only.
                executor.spin_once(timeout_sec=0.2)
        finally:
            node.close()
            executor.shutdown()
            node.destroy_node()
    return 0
