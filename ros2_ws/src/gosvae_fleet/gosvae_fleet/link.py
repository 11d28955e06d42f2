"""Zenoh sessions with mutual TLS, and publishers on them."""

from __future__ import annotations

import json
from typing import Any

import zenoh

from gosvae_codec.errors import GosvaeError

from .certificates import Credentials
from .router import Config, session_config

OPEN_MS = 3000
"""For how long one attempt to connect may take."""


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
    """Return a publisher of results: whole or not at all, and dropped where the link is full."""
    return session.declare_publisher(key, congestion_control=zenoh.CongestionControl.DROP)


def has_listeners(publisher: zenoh.Publisher) -> bool:
    """Return whether anybody subscribes to what a publisher sends."""
    status: Any = publisher.matching_status
    return bool(status.matching)
