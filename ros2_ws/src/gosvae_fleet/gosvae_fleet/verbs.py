"""Verbs of the command `gosvae` that this package provides; see :mod:`gosvae_tools.verbs`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gosvae_common.errors import UsageError
from gosvae_common.signals import stop_signals
from gosvae_tools.verbs import (
    Verb,
    add_bundle_arguments,
    add_result_arguments,
    min_score,
    report,
    split_names,
)

from .extras import need
from .keys import RESERVED, vehicle_name


def _add_certificates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--certificates",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with authority.pem, and with the certificate and key of this side",
    )


def _add_vehicles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vehicles",
        type=Path,
        required=True,
        metavar="FILE",
        help="vehicles.yaml: names and cameras",
    )


def _add_uplink_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vehicle", metavar="VEHICLE", help="name of this vehicle")
    parser.add_argument(
        "--router",
        required=True,
        metavar="ENDPOINT",
        help='of the Zenoh router, as "quic/fleet.example.org:7447?mixed_rel=1"',
    )
    _add_certificates(parser)
    parser.add_argument("--cameras", default="camera", help="as for `run` (default: camera)")


def _uplink(options: argparse.Namespace) -> int:
    need("uplink")
    from .certificates import check_credentials
    from .launching import exec_node

    vehicle = vehicle_name(options.vehicle)
    check_credentials(options.certificates, vehicle)
    return exec_node(
        "uplink",
        {
            "vehicle": vehicle,
            "router": options.router,
            "certificates": str(options.certificates.absolute()),
            "cameras": list(split_names(options.cameras)),
        },
    )


def _add_downlink_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--router", required=True, metavar="ENDPOINT", help="as for `uplink`")
    _add_certificates(parser)
    _add_vehicles(parser)


def _downlink(options: argparse.Namespace) -> int:
    return _exec_backend("downlink", options)


def _exec_backend(node: str, options: argparse.Namespace, **more: str) -> int:
    """Become a node that has the certificate of the backend; `more` are parameters of its own."""
    need("uplink")
    from .certificates import BACKEND, check_credentials
    from .launching import exec_node

    check_credentials(options.certificates, BACKEND)
    return exec_node(
        node,
        {
            "vehicles": str(options.vehicles.absolute()),
            "router": options.router,
            "certificates": str(options.certificates.absolute()),
            **more,
        },
    )


def _add_results_arguments(parser: argparse.ArgumentParser) -> None:
    _add_downlink_arguments(parser)
    parser.add_argument(
        "--bundle", default="", metavar="DIR", help="of the vehicles (default: as for `run`)"
    )


def _results(options: argparse.Namespace) -> int:
    from gosvae_common.shipped import find_bundle

    return _exec_backend("results", options, bundle=str(find_bundle(options.bundle)))


def _add_certificates_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help=f"vehicles, {RESERVED[1]} for the downlink, {RESERVED[2]} for routers",
    )
    parser.add_argument(
        "--hosts",
        type=split_names,
        default=(),
        metavar="NAMES",
        help="names and addresses of a router, separated by commas",
    )
    parser.add_argument(
        "--days", type=float, default=365.0, help="how long they are valid (default: 365)"
    )


def _certificates(options: argparse.Namespace) -> int:
    need("uplink")
    from .certificates import AUTHORITY, ROUTER, make_certificate

    if not 0 < options.days <= 3650:
        raise UsageError(f"days is {options.days:g}; give a number over 0, 3650 at most")
    servers = set(RESERVED) - {AUTHORITY}
    names = [name if name in servers else vehicle_name(name) for name in options.names]
    if ROUTER in names and not options.hosts:
        raise UsageError("a router needs --hosts: names and addresses that vehicles connect to")
    for name in names:
        print(make_certificate(options.folder, name, options.hosts, options.days))
    return 0


def _add_router_arguments(parser: argparse.ArgumentParser) -> None:
    _add_vehicles(parser)
    _add_certificates(parser)
    parser.add_argument(
        "--listen",
        default="quic/0.0.0.0:7447?mixed_rel=1",
        metavar="ENDPOINTS",
        help="where vehicles connect, separated by commas (default: all addresses, UDP port 7447)",
    )
    parser.add_argument(
        "--connect", default="", metavar="ENDPOINTS", help="other routers, separated by commas"
    )
    parser.add_argument(
        "--print", action="store_true", help="print the configuration for zenohd, and end"
    )


def _router(options: argparse.Namespace) -> int:
    need("uplink")
    from .certificates import ROUTER, check_credentials
    from .router import router_config
    from .vehicles import load_vehicles

    config = router_config(
        load_vehicles(options.vehicles).values(),
        check_credentials(options.certificates.absolute(), ROUTER),
        split_names(options.listen),
        split_names(options.connect),
    )
    if options.print:
        print(json.dumps(config, indent=2))
        return 0
    from .link import log_refusals, open_router

    with stop_signals() as stop:
        log_refusals()
        session = open_router(config)
        print(f"gosvae router: listening at {options.listen}", file=sys.stderr)
        stop.wait()
        session.close()
    return 0


def _add_fleet_arguments(parser: argparse.ArgumentParser) -> None:
    _add_vehicles(parser)
    _add_certificates(parser)
    parser.add_argument("--router", required=True, metavar="ENDPOINT", help="as for `uplink`")
    parser.add_argument(
        "--bundles",
        type=split_names,
        default=(),
        metavar="DIRS",
        help="that vehicles use, separated by commas (default: the one that ships)",
    )
    parser.add_argument("--key-file", default="", metavar="FILE", help="keys of sealed packets")
    parser.add_argument(
        "--holders", type=int, default=2, help="processes that hold streams (default: 2)"
    )
    parser.add_argument(
        "--replicas",
        type=_range,
        default=(2, 2),
        metavar="N[-M]",
        help="of each bundle's networks; from N to M by load (default: 2)",
    )
    parser.add_argument(
        "--providers",
        type=split_names,
        default=("cpu",),
        metavar="NAMES",
        help="of the networks, the most wanted first (default: cpu)",
    )
    parser.add_argument(
        "--gpus", type=float, default=0.0, help="share of a GPU of each replica (default: 0)"
    )
    parser.add_argument(
        "--batch", type=int, default=1, help="frames of one inference, for GPUs (default: 1)"
    )
    parser.add_argument(
        "--address",
        default="local",
        help="of a Ray cluster, or auto for the one of this machine (default: a new one)",
    )
    parser.add_argument(
        "--metrics",
        default="127.0.0.1:9464",
        metavar="HOST:PORT",
        help="where /metrics and /healthz are (default: 127.0.0.1:9464)",
    )


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _fleet(options: argparse.Namespace) -> int:
    need("fleet")
    from gosvae_common.shipped import find_bundle

    from .monitor import Monitor, follow
    from .service import Service
    from .settings import Settings

    host, _, port = options.metrics.rpartition(":")
    if not port.isdecimal():
        raise UsageError(f"metrics is {options.metrics}; give HOST:PORT")
    settings = Settings(
        vehicles=options.vehicles.absolute(),
        certificates=options.certificates.absolute(),
        router=options.router,
        bundles=tuple(find_bundle(each) for each in options.bundles or [""]),
        key_file=options.key_file and str(Path(options.key_file).absolute()),
        holders=options.holders,
        replicas=options.replicas,
        providers=options.providers,
        gpus=options.gpus,
        batch=options.batch,
        address=options.address,
    )
    monitor = Monitor(host, int(port))
    try:
        service = Service(settings)
        # Only now: until all parts are there, a signal ends the process at once.
        with stop_signals() as stop:
            follow(service, monitor, stop)
            service.close()
    finally:
        monitor.close()
    return 0


def _add_archive_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="PATH", help="with recordings")
    parser.add_argument(
        *("-o", "--output"), type=Path, required=True, metavar="DIR", help="folder of the tables"
    )
    add_bundle_arguments(parser)
    add_result_arguments(parser)
    parser.add_argument(
        "--address",
        default="",
        metavar="ADDRESS",
        help="of a Ray cluster, or auto (default: processes of this machine)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _archive(options: argparse.Namespace) -> int:
    need("fleet")
    from gosvae_common.shipped import find_bundle
    from gosvae_tools.coding import Coding

    from .archive import archive

    # Workers have folders of their own, so paths are absolute.
    outcome = archive(
        options.folders,
        options.output,
        Coding(str(find_bundle(options.bundle)), options.providers),
        options.tasks,
        str(Path(options.key_file).absolute()) if options.key_file else "",
        min_score(options),
        options.address,
    )
    return report("archive", outcome, options.json)


VERBS = (
    Verb(
        "archive",
        "make tables of folders of recordings, on a Ray cluster",
        """\
Decodes every recording of packets in folders, a worker each, to a table as `gosvae decode` writes
one, for `gosvae find`. Recordings that have a table are left as they are. On a cluster all machines
need bundle, recordings and tables at the same paths.
""",
        _add_archive_arguments,
        _archive,
    ),
    Verb(
        "uplink",
        "carry a vehicle's packets over a cellular link",
        """\
Carries the packets of this vehicle's transmitter to a Zenoh router, and a receiver's feedback back,
with mutual TLS over QUIC. Packets are sent best effort: what is late is dropped, never queued. The
transmitter runs beside it: `gosvae run --side tx`; `gosvae downlink` is the other end.
""",
        _add_uplink_arguments,
        _uplink,
    ),
    Verb(
        "downlink",
        "carry the packets of all vehicles to receivers",
        """\
Publishes the packets that vehicles send with `gosvae uplink` as ROS topics under the vehicles'
names, /gosvae/VEHICLE/CAMERA/image_raw/gosvae, and carries the feedback of a receiver back. The
receiver runs beside it: `gosvae run --side rx --cameras gosvae/v01/camera,gosvae/v02/camera`. It
has the certificate `backend`.
""",
        _add_downlink_arguments,
        _downlink,
    ),
    Verb(
        "results",
        "publish what a fleet's service makes as ROS topics",
        """\
Publishes what `gosvae fleet` makes, and what label ids mean, as ROS topics under the vehicles'
names, such as /gosvae/VEHICLE/CAMERA/semantic/mask, for planners, RViz and the view: `gosvae view
--no-frames --cameras gosvae/v01/camera,gosvae/v02/camera`; its feedback and diagnostics as well.
What nobody listens to is neither carried nor made. It has the certificate `backend`.
""",
        _add_results_arguments,
        _results,
    ),
    Verb(
        "certificates",
        "make certificates for vehicles, routers and the downlink",
        """\
Writes NAME.pem and NAME.key for each NAME, signed by the authority in DIR, which is made if there
is none. A certificate that is there already is replaced. Give a vehicle its own two files and
authority.pem; authority.key stays here, and whoever has it can be any vehicle.
""",
        _add_certificates_arguments,
        _certificates,
    ),
    Verb(
        "router",
        "run a fleet's Zenoh router, or print its configuration",
        """\
Runs a Zenoh router to which vehicles and the downlink connect, or prints its configuration for the
program zenohd: each vehicle of vehicles.yaml writes its own packets and reads its own feedback,
nothing else. A changed vehicles.yaml needs a restart.
""",
        _add_router_arguments,
        _router,
    ),
    Verb(
        "fleet",
        "run the service of many vehicles on Ray",
        """\
Makes masks, boxes and depths of the packets of all vehicles on the link, on this machine or on a
Ray cluster, while somebody listens to their keys, such as gosvae/VEHICLE/CAMERA/semantic/mask. It
takes the place of downlink and receivers, and has the certificate `backend`. It reads a changed
vehicles.yaml again. `make fleet` shows all of it with simulated vehicles.
""",
        _add_fleet_arguments,
        _fleet,
    ),
)
