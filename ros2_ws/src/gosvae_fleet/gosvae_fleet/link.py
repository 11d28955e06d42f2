"""Zenoh sessions with mutual TLS, and who else is on the link."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

import zenoh

from gosvae_codec.errors import GosvaeError

from . import keys
from .certificates import Credentials
from .router import Config, session_config

OPEN_MS = 3000
"""For how long one attempt to connect may take."""
TWICE_SECONDS = 15.0
"""After which two sessions of one vehicle are two vehicles, rather than one that was restarted:
the router takes up to ten seconds to notice that a session is gone."""


class LinkError(GosvaeError):
    """A session cannot be opened."""


def open_client(endpoint: str, credentials: Credentials) -> zenoh.Session:
    """Connect to a router; the session reconnects by itself when the link was down.

    Raises:
        LinkError: nobody answers there, or one side refuses the other's certificate.
    """
    config = session_config("client", credentials, connect=[endpoint])
    config["connect"] |= {"timeout_ms": OPEN_MS, "exit_on_failure": True}
    try:
        return _open(config)
    except zenoh.ZError as error:
        raise LinkError(
            f"no connection to {endpoint} as {credentials.name}: the router is not there, its "
            f"certificate is not for that host, or it refuses {credentials.certificate} "
            f"({_first_line(error)})"
        ) from error


def open_router(config: Config) -> zenoh.Session:
    """Run a router in this process, as :func:`gosvae_fleet.router.router_config` describes it.

    Raises:
        LinkError: it cannot listen, or the configuration is invalid.
    """
    try:
        return _open(config)
    except zenoh.ZError as error:
        listen = ", ".join(config["listen"]["endpoints"])
        raise LinkError(f"router at {listen}: {_first_line(error)}") from error


def log_refusals() -> None:
    """Let Zenoh log to stderr which certificates a router of this process refuses."""
    zenoh.init_log_from_env_or("error,zenoh_link_commons=warn")


def _open(config: Config) -> zenoh.Session:
    return zenoh.open(zenoh.Config.from_json5(json.dumps(config)))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(" at ")[0][:200]


def token_publisher(session: zenoh.Session, key: str) -> zenoh.Publisher:
    """Return a publisher of packets or feedback: what is late is dropped, never queued."""
    return session.declare_publisher(
        key,
        reliability=zenoh.Reliability.BEST_EFFORT,
        congestion_control=zenoh.CongestionControl.DROP,
        express=True,
    )


def result_publisher(session: zenoh.Session, key: str) -> zenoh.Publisher:
    """Return a publisher of masks: complete or not at all, and dropped where the link is full."""
    return session.declare_publisher(key, congestion_control=zenoh.CongestionControl.DROP)


def has_listeners(publisher: zenoh.Publisher) -> bool:
    """Return whether anybody subscribes to what a publisher sends."""
    status: Any = publisher.matching_status
    return bool(status.matching)


class Presence:
    """Which sessions of which vehicles are on the link, by their liveliness tokens."""

    def __init__(
        self, session: zenoh.Session, vehicle: str = "*", log: Callable[[str], object] = print
    ) -> None:
        """Watch one vehicle or all; pass to `log` one line for each that comes, goes, or is twice.

        A router must let the session read the tokens.
        """
        self._log = log
        self._lock = Lock()
        self._since: dict[tuple[str, str], float] = {}
        self._reported: set[str] = set()
        self._subscriber = session.liveliness().declare_subscriber(
            keys.alive_key(vehicle), self._note, history=True
        )

    def vehicles(self) -> dict[str, int]:
        """Return how many sessions each vehicle has that is there."""
        counts: dict[str, int] = {}
        with self._lock:
            for vehicle, _ in self._since:
                counts[vehicle] = counts.get(vehicle, 0) + 1
        return counts

    def twice(self) -> list[str]:
        """Return the vehicles whose name is taken twice, and say so when that is new."""
        now = time.monotonic()
        with self._lock:
            old: dict[str, list[str]] = {}
            for (vehicle, number), since in self._since.items():
                if now - since > TWICE_SECONDS:
                    old.setdefault(vehicle, []).append(number)
        found = sorted(vehicle for vehicle, numbers in old.items() if len(numbers) > 1)
        for vehicle in found:
            if vehicle not in self._reported:
                self._log(
                    f"vehicle {vehicle} is connected {len(old[vehicle])} times, by the sessions "
                    f"{', '.join(sorted(old[vehicle]))}: give each vehicle a name and a "
                    "certificate of its own"
                )
        self._reported = set(found)
        return found

    def close(self) -> None:
        """Stop watching."""
        self._subscriber.undeclare()

    def _note(self, sample: Any) -> None:
        vehicle, number = keys.split_alive(str(sample.key_expr))
        with self._lock:
            if sample.kind == zenoh.SampleKind.PUT:
                self._since[vehicle, number] = time.monotonic()
            else:
                self._since.pop((vehicle, number), None)
