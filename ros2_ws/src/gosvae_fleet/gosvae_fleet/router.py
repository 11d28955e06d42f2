"""Configuration of the Zenoh routers, generated from the vehicles.

It is what the program ``zenohd`` reads, and what :func:`gosvae_fleet.link.open_router` runs from
Python. Everything is forbidden but what is allowed by common name of the certificate: a vehicle
writes its packets and liveliness, and reads its feedback; the backend does everything.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from typing import Any

from gosvae_codec.packets import MAX_SERIALIZED_BYTES

from . import keys
from .certificates import BACKEND, Credentials
from .vehicles import Vehicle

PORT = 7447
SCHEME = "quic"
DATAGRAMS = "?mixed_rel=1"
"""Best-effort messages as QUIC datagrams, others on its streams: what is lost holds nothing up."""

Config = dict[str, Any]


def endpoint(host: str, port: int = PORT) -> str:
    """Return the endpoint of a router."""
    return f"{SCHEME}/{host}:{port}{DATAGRAMS}"


def local_endpoint() -> str:
    """Return an endpoint that only this machine reaches, at a port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return endpoint("127.0.0.1", probe.getsockname()[1])


def session_config(
    mode: str, credentials: Credentials, listen: Sequence[str] = (), connect: Sequence[str] = ()
) -> Config:
    """Return what routers and clients have in common: endpoints and mutual TLS."""
    certificate, key = str(credentials.certificate), str(credentials.key)
    return {
        "mode": mode,
        "scouting": {"multicast": {"enabled": False}, "gossip": {"enabled": False}},
        "listen": {"endpoints": list(listen)},
        "connect": {"endpoints": list(connect)},
        "transport": {
            "shared_memory": {"enabled": False},
            # LZ4, where both ends have it: a mask of 524 kB is encrypted and sent as 20 kB.
            "unicast": {"max_sessions": 10_000, "compression": {"enabled": True}},
            "link": {
                "tls": {
                    "root_ca_certificate": str(credentials.authority),
                    "enable_mtls": True,
                    "listen_certificate": certificate,
                    "listen_private_key": key,
                    "connect_certificate": certificate,
                    "connect_private_key": key,
                    "close_link_on_expiration": True,
                }
            },
        },
    }


def router_config(
    vehicles: Iterable[Vehicle],
    credentials: Credentials,
    listen: Sequence[str],
    connect: Sequence[str] = (),
) -> Config:
    """Return the configuration of a router.

    Args:
        vehicles: that may connect.
        credentials: of the router.
        listen: endpoints to listen at.
        connect: endpoints of other routers, whose certificate must have the name ``router`` too.
    """
    fleet = list(vehicles)
    return {
        **session_config("router", credentials, listen, connect),
        "access_control": _access(fleet, credentials.name),
        "low_pass_filter": [_size_filter(each) for each in fleet],
    }


def _access(vehicles: Sequence[Vehicle], router: str) -> Config:
    rules: list[Config] = [{**_rule("all", _ALL, ("ingress", "egress"), ["**"])}]
    subjects: list[Config] = [{"id": "servers", "cert_common_names": [BACKEND, router]}]
    policies: list[Config] = [{"rules": ["all"], "subjects": ["servers"]}]
    for vehicle in vehicles:
        own = _vehicle_rules(vehicle)
        rules += own
        subjects.append({"id": vehicle.name, "cert_common_names": [vehicle.name]})
        policies.append({"rules": [each["id"] for each in own], "subjects": [vehicle.name]})
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": subjects,
        "policies": policies,
    }


_ALL = (
    *("put", "delete", "query", "reply", "declare_subscriber", "declare_queryable"),
    *("liveliness_token", "liveliness_query", "declare_liveliness_subscriber"),
)


def _vehicle_rules(vehicle: Vehicle) -> list[Config]:
    name = vehicle.name
    packets = [keys.packets_key(name, camera) for camera in vehicle.cameras]
    feedback = [keys.feedback_key(name, camera) for camera in vehicle.cameras]
    alive = [keys.alive_key(name)]
    watch = ("declare_liveliness_subscriber", "liveliness_query")
    return [
        _rule(f"{name} sends", ("put",), ("ingress",), packets),
        # Without this its publisher believes that nobody listens, and sends nothing.
        _rule(f"{name} learns of listeners", ("declare_subscriber",), ("egress",), packets),
        _rule(f"{name} listens", ("declare_subscriber",), ("ingress",), feedback),
        _rule(f"{name} receives", ("put",), ("egress",), feedback),
        _rule(f"{name} is alive", ("liveliness_token",), ("ingress", "egress"), alive),
        _rule(f"{name} watches its name", watch, ("ingress",), alive),
    ]


def _rule(
    name: str, messages: Sequence[str], flows: Sequence[str], key_exprs: Sequence[str]
) -> Config:
    return {
        "id": name,
        "permission": "allow",
        "messages": list(messages),
        "flows": list(flows),
        "key_exprs": list(key_exprs),
    }


def _size_filter(vehicle: Vehicle) -> Config:
    """Return the rule that drops what is larger than any packet."""
    return {
        "id": f"{vehicle.name} size",
        "flows": ["ingress"],
        "messages": ["put"],
        "key_exprs": [keys.packets_key(vehicle.name, camera) for camera in vehicle.cameras],
        "size_limit": MAX_SERIALIZED_BYTES,
    }
