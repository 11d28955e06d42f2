"""Measure what of a vehicle's packets arrives over a bad link, and how late: QUIC beside plain DDS.

    make bench-uplink JSON=out/uplink.json

A vehicle and a server are network namespaces with an emulated link between them, which loses and
delays Ethernet frames. The vehicle publishes packets of the street that ships, encoded before. Over
DDS the server subscribes to them. Over the uplink they go through `gosvae uplink`, QUIC with mutual
TLS, a router and `gosvae downlink` on the server, which publishes them there. Ages are from a
packet's stamp to its arrival at a subscriber; both sides have one clock. It needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import rclpy
import yaml

from gosvae_bringup.demo.network import network
from gosvae_bringup.pipeline import Node, describe
from gosvae_bringup.processes import Processes
from gosvae_codec import GosvaeError
from gosvae_codec.draft import write_text
from gosvae_common import topics
from gosvae_common.process import ros_context, spinning
from gosvae_common.qos import qos_profile
from gosvae_common.shipped import find_bundle
from gosvae_fleet import keys
from gosvae_fleet.certificates import BACKEND, ROUTER, check_credentials, make_certificate
from gosvae_fleet.link import open_router
from gosvae_fleet.router import endpoint, router_config
from gosvae_fleet.simulation import CAMERA
from gosvae_fleet.vehicles import load_vehicles
from gosvae_msgs.msg import TokenPacket
from gosvae_tools.drives.stamps import read_stamp
from gosvae_tools.link.channel import LinkSpec
from gosvae_tools.link.emulator import EDGE, VEHICLE, EmulatedLink
from gosvae_tools.tables import Table, show

from .system_nodes import environment, python_of

TRANSPORTS = ("DDS", "uplink")
LINK = "loss=10% delay=50ms"
RATE = 15.0
"""Packets a second."""
NAME = "v01"
PATIENCE_SECONDS = 120.0
SETTLE_SECONDS = 5.0
"""Before a measurement, and after it for what is late."""


def figures(sent: Sequence[int], ages: dict[int, float]) -> dict[str, Any]:
    """Return the share of packets that arrived, and percentiles of their age in ms.

    Args:
        sent: stamps of all packets.
        ages: of those that arrived, by stamp, and perhaps of others.
    """
    came = [ages[stamp] for stamp in sent if stamp in ages]
    shares = {f"p{share}": float(np.percentile(came, share)) for share in (50, 95, 99) if came}
    return {
        "packets": len(sent),
        "arrived": round(len(came) / len(sent), 4),
        "age_ms": {name: round(value, 1) for name, value in shares.items()},
    }


def measure(transport: str, spec: LinkSpec, seconds: float) -> dict[str, Any]:
    """Return the figures of one transport.

    Raises:
        GosvaeError: nothing arrives, or the link cannot be made.
    """
    sent: list[int] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gosvae-uplink-")))
        link = stack.enter_context(EmulatedLink(spec))
        private, far = network(describe({}).environment, folder, link)
        known = transport == "DDS"  # only then DDS crosses the link
        here, there = ({**private, **far[side]} if known else private for side in ("rx", "tx"))
        stack.enter_context(link.inside(EDGE))
        os.environ.update(here)
        if not known:
            stack.enter_context(_uplink(link, folder))
        stack.enter_context(ros_context())
        ages = stack.enter_context(_arrivals(known))
        stack.enter_context(_vehicle(link, there, sent))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ages:
            if time.monotonic() > deadline:
                raise GosvaeError(f"{transport}: no packet within {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.1)
        time.sleep(SETTLE_SECONDS)
        begin = time.time_ns()
        time.sleep(seconds)
        end = time.time_ns()
        time.sleep(SETTLE_SECONDS)
        return {"transport": transport, **figures([s for s in sent if begin <= s < end], ages)}


@contextmanager
def _arrivals(on_board: bool) -> Iterator[dict[int, float]]:
    """Yield the ages in ms of packets by their stamps in ns, as they arrive."""
    ages: dict[int, float] = {}

    def note(message: bytes) -> None:
        now, stamp = time.time_ns(), read_stamp(message)
        ages[stamp] = (now - stamp) / 1e6

    node = rclpy.create_node("uplink_bench")
    packets = f"{CAMERA}/{topics.PACKETS}"
    topic = packets if on_board else f"/{keys.key(NAME, packets)}"
    node.create_subscription(TokenPacket, topic, note, qos_profile("packets"), raw=True)
    with spinning(node):
        yield ages


@contextmanager
def _vehicle(link: EmulatedLink, variables: dict[str, str], sent: list[int]) -> Iterator[None]:
    """Publish packets on the vehicle, and add their stamps in ns to `sent`."""
    command = [*link.command(VEHICLE), *python_of("fleet_vehicles"), "--on-board"]
    command += ["--vehicles", NAME, "--rate", str(RATE), "--bundle", str(find_bundle())]
    pipe = subprocess.PIPE
    variables = {**environment(), **variables}
    process = subprocess.Popen(command, stdout=pipe, text=True, env=variables)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            sent.append(int(line.split()[1]))

    reader = Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        reader.join()


@contextmanager
def _uplink(link: EmulatedLink, folder: Path) -> Iterator[None]:
    """Run router and downlink here, and the uplink on the vehicle."""
    vehicles = folder / "vehicles.yaml"
    vehicles.write_text(yaml.safe_dump({"vehicles": {NAME: {}}}))
    make_certificate(folder, ROUTER, [link.address(EDGE)])
    for name in (BACKEND, NAME):
        make_certificate(folder, name)
    address = endpoint(link.address(EDGE))
    fleet = load_vehicles(vehicles).values()
    router = open_router(router_config(fleet, check_credentials(folder, ROUTER), [address]))
    common = {"router": address, "certificates": str(folder)}
    down = {**common, "vehicles": str(vehicles)}
    with Processes({}, folder) as processes:
        processes.start(Node("gosvae_fleet", "downlink", "gosvae_downlink", down))
        up = Node("gosvae_fleet", "uplink", "gosvae_uplink", {**common, "vehicle": NAME})
        processes.start(up, link.command(VEHICLE))
        yield
    router.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each transport in a process of its own, as DDS reads its profile once."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.uplink", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", type=Path, default=Path("out/uplink.json"))
    parser.add_argument("--link", default=LINK, help=f"default: {LINK}")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each transport")
    parser.add_argument("--transport", choices=TRANSPORTS, help="only that, as JSON to stdout")
    options = parser.parse_args(arguments)
    if options.transport:
        try:
            spec = LinkSpec.parse(options.link)
            print(json.dumps(measure(options.transport, spec, options.seconds)))
        except GosvaeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0
    rows = []
    for transport in TRANSPORTS:
        command = [*python_of("uplink"), "--transport", transport, "--link", options.link]
        command += ["--seconds", str(options.seconds)]
        done = subprocess.run(command, env=environment(), text=True, stdout=subprocess.PIPE)
        if done.returncode:
            return done.returncode
        rows.append(json.loads(done.stdout))
    about = {"link": options.link, "rate_hz": RATE, "date": str(date.today())}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.json, json.dumps({**about, "rows": rows}, indent=2) + "\n")
    columns = ("transport", "packets", "arrived", "age p50", "age p95", "age p99")
    cells = [
        (row["transport"], row["packets"], row["arrived"], *row["age_ms"].values()) for row in rows
    ]
    show([Table(options.link, columns, cells)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
