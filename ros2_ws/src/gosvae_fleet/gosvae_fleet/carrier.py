"""Base of the nodes that carry messages between DDS and Zenoh: parameters, connection, status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import zenoh
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.logging import get_logger
from rclpy.serialization import deserialize_message

from gosvae_codec.errors import GosvaeError
from gosvae_common import topics
from gosvae_common.diagnostics import Report, to_status
from gosvae_common.health import WARN
from gosvae_common.meters import ErrorLog
from gosvae_common.parameters import ParameterNode
from gosvae_common.process import running, spinning

from .certificates import check_credentials
from .link import LinkError, open_client

STATUS_SECONDS = 1.0
RETRY_SECONDS = 2.0
"""Time between attempts to connect."""


class Carrier(ParameterNode):
    """A node with a Zenoh session, which it opens as soon as the router can be reached.

    Subclasses fill in `carry` and `report`. What arrives is given to the handlers in threads of
    Zenoh.

    Raises:
        CertificateError: the certificate cannot be used.
        UsageError: a parameter has an impossible value.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.declare("router", "", "Endpoint of the Zenoh router.", read_only=True)
        self.declare(
            "certificates",
            "",
            "Folder with authority.pem and with the certificate and key of this side.",
            read_only=True,
        )
        self.session: zenoh.Session | None = None
        self.errors = ErrorLog(lambda text: self.get_logger().error(text))
        self._stop = Event()
        self._problem = "not connected yet"
        self._status = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, 10)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STATUS_SECONDS, self._publish_status, clock=clock)
        self._thread = Thread(target=self._connect, name="connect", daemon=True)

    def start(self, name: str) -> None:
        """Begin to connect with the certificate of `name`."""
        self._credentials = check_credentials(Path(self.value("certificates")), name)
        self._thread.start()

    def carry(self, session: zenoh.Session) -> None:
        """Declare what is carried; called once, when the session is open."""
        raise NotImplementedError

    def report(self) -> Report:
        """Return what to say on ``/diagnostics`` while there is a session."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the session."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.session is not None:
            self.session.close()

    def republish(self, publisher: Any, data: bytes, kind: Any) -> bool:
        """Publish a serialised message that came over the link; count it where it is not one."""
        try:
            publisher.publish(deserialize_message(data, kind))
        except Exception as error:  # rclpy raises what it likes
            reason = str(error).partition("\n")[0]
            self.errors.add(f"{len(data)} bytes are no {kind.__name__}: {reason}")
            return False
        return True

    def _connect(self) -> None:
        while not self._stop.is_set():
            try:
                session = open_client(self.value("router"), self._credentials)
                self.carry(session)
                self.session = session
                self.get_logger().info(
                    f"connected to {self.value('router')} as {self._credentials.name}"
                )
                return
            except LinkError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    self.get_logger().error(self._problem)
            self._stop.wait(RETRY_SECONDS)

    def _publish_status(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        session = self.session
        if session is None:
            report = Report(WARN, self._problem, {})
        elif not list(session.info.routers_zid()):
            report = Report(WARN, "the link is down; it comes back by itself", {})
        else:
            report = self.report()
        name = self.get_fully_qualified_name().lstrip("/")
        message.status = [to_status(report, name)]
        self._status.publish(message)


def run(make: Callable[[], Carrier]) -> int:
    """Run a node until a signal; return 0, or 1 where it cannot begin."""
    zenoh.init_log_from_env_or("off")  # what matters is said in one line of ours
    with running() as stop:
        try:
            node = make()
        except (GosvaeError, ParameterException) as error:
            get_logger("gosvae_fleet").fatal(str(error))
            return 1
        with spinning(node):
            stop.wait()
            node.close()
    return 0
