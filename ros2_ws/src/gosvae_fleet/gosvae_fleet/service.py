"""The service of a fleet on Ray: one gateway, holders of streams, and networks on Ray Serve.

On one machine it starts Ray itself; with an address it joins a cluster that is there. All parts
come back by themselves when they die, and none of them saves anything.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Calls run in the loop of who makes them: 1.2 ms of CPU time each, less than half of the default.
os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "0")  # nobody calls networks over HTTP
# Nor does anybody look at past calls, which Ray would remember: 150 MB an hour.
os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
# Ray gives its workers the lowest priority otherwise, below anything else on the machine.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray import serve
from ray.exceptions import RayError

from gosvae_codec import ModelBundle
from gosvae_codec.errors import GosvaeError
from gosvae_codec.keys import KeyFile
from gosvae_codec.sessions import available
from gosvae_common.errors import UsageError

from .actors import GatewayActor, HolderActor, holder_name
from .certificates import BACKEND, check_credentials
from .figures import Figures
from .gateway import Report as GatewayReport
from .holder import Report as HolderReport
from .network import Network, network_name
from .settings import LOCAL, Settings
from .vehicles import load_vehicles

PENDING_CALLS = 100
"""Of one holder, after which packets for it are dropped."""
CALLS_PER_REPLICA = 2
"""Of a network that run or wait at once, so that it need not wait for the next frames."""
ANSWER_SECONDS = 2.0
"""Within which a part has to answer."""
OBJECT_STORE_BYTES = 256 << 20


class ServiceError(GosvaeError):
    """Ray does not start, or is not there."""


class State(NamedTuple):
    """What the parts of a service say of themselves; None: one that does not answer."""

    gateway: GatewayReport | None
    holders: list[HolderReport | None]

    @property
    def streams(self) -> list[Figures]:
        """Figures of all streams; of one that moved, those of its present holder."""
        found: dict[tuple[str, str], Figures] = {}
        for each in (stream for report in self.holders if report for stream in report.streams):
            place = each.vehicle, each.camera
            if place not in found or each.last_frame_s < found[place].last_frame_s:
                found[place] = each
        return [found[place] for place in sorted(found)]

    @property
    def rejected(self) -> dict[str, dict[str, int]]:
        """Packets that were dropped, by vehicle and reason."""
        total: dict[str, dict[str, int]] = {}
        if self.gateway is not None:
            total = {name: dict(reasons) for name, reasons in self.gateway.rejected.items()}
        for stream in self.streams:
            for reason, count in stream.rejected.items():
                own = total.setdefault(stream.vehicle, {})
                own[reason] = own.get(reason, 0) + count
        return total

    @property
    def problem(self) -> str:
        """Return which parts do not answer; empty if all do."""
        missing = [f"holder {index}" for index, each in enumerate(self.holders) if each is None]
        missing[:0] = ["gateway"] if self.gateway is None else []
        return f"{', '.join(missing)} not answering" if missing else ""

    @property
    def events(self) -> Iterator[tuple[str, str]]:
        """Yield what was to be logged, each with the part that says it."""
        if self.gateway is not None:
            yield from (("gateway", text) for text in self.gateway.events)
        for index, report in enumerate(self.holders):
            if report is not None:
                yield from ((f"holder {index}", text) for text in report.events)


class Service:
    """All parts of a fleet's service, as long as this object lives."""

    def __init__(self, settings: Settings) -> None:
        """Start them, which takes some seconds.

        Raises:
            UsageError: there are not enough processors, or a value is impossible.
            BundleError, ProviderError, CertificateError, KeyFileError: of what `settings` name.
            LinkError: the router cannot be reached.
            ServiceError: Ray does not start, or is not at the address.
        """
        bundles = _check(settings)
        self._deployed: list[str] = []
        """Networks that a cluster would keep without this process."""
        self._vehicles = settings.vehicles
        self._read = _state_of(settings.vehicles)
        self._join(settings)
        try:
            for bundle in bundles:
                if settings.address != LOCAL:
                    self._deployed.append(network_name(bundle.fingerprint))
                _deploy(bundle, settings)
            make = ray.remote(
                num_cpus=0,
                max_restarts=-1,
                max_pending_calls=PENDING_CALLS,
                scheduling_strategy="SPREAD",
            )(HolderActor)
            self.holders = [
                make.options(name=holder_name(index)).remote(settings)
                for index in range(settings.holders)
            ]
            ray.get([each.ready.remote() for each in self.holders])
            make = ray.remote(num_cpus=0, max_restarts=-1)(GatewayActor)
            self.gateway = make.remote(settings)
            ray.get(self.gateway.report.remote())
        except BaseException:
            self.close()
            raise

    def _join(self, settings: Settings) -> None:
        """Start Ray here, or join a cluster."""
        local: dict[str, Any] = {}
        if settings.address == LOCAL:
            local = {
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        try:
            ray.init(
                settings.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                namespace="gosvae",
                **local,
            )
        except Exception as error:  # Ray raises what it likes
            reason = str(error).partition("\n")[0]
            raise ServiceError(f"Ray at {settings.address}: {reason}") from error
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")

    def state(self) -> State:
        """Ask all parts, which have two seconds to answer."""
        calls = [each.report.remote() for each in (self.gateway, *self.holders)]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=ANSWER_SECONDS)
        first, *others = [_answer(call) if call in done else None for call in calls]
        return State(first, others)

    def refresh(self) -> str:
        """Read the vehicles again if their file has changed; return what to log of it, if any.

        Raises:
            UsageError: there is an error in it; the vehicles stay as they are.
        """
        state = _state_of(self._vehicles)
        if state == self._read:
            return ""
        self._read = state
        fleet = list(load_vehicles(self._vehicles).values())
        # Not awaited: a gateway that dies now reads the file itself when it comes back.
        self.gateway.serve.remote(fleet)
        return f"{self._vehicles} has changed: {len(fleet)} vehicles"

    def close(self) -> None:
        """End all parts, and Ray where it was started here."""
        for name in self._deployed:
            serve.delete(name)
        ray.shutdown()


def replica_processes(fingerprint: int) -> list[int]:
    """Return the processes that run a bundle's networks, of those that this one has started."""
    name = f"ray::ServeReplica:{network_name(fingerprint)}".encode()
    parents: dict[int, int] = {}
    named: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            # The second field is a name in parentheses, which may hold anything.
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if (path / "cmdline").read_bytes().startswith(name):
                named.append(int(path.name))

    def is_ours(process: int) -> bool:
        while process not in (os.getpid(), 0):
            process = parents.get(process, 0)
        return process != 0

    return [each for each in named if is_ours(each)]


def _state_of(path: Path) -> tuple[int, ...]:
    """Return what changes with a file's content; empty where there is none."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_mtime_ns, about.st_size, about.st_ino


def _answer(call: Any) -> Any:
    try:
        return ray.get(call)
    except RayError:
        return None


def _check(settings: Settings) -> list[ModelBundle]:
    """Return the bundles, after checking what can be checked before Ray starts."""
    low, high = settings.replicas
    if not 1 <= low <= high or settings.holders < 1 or settings.batch < 1:
        raise UsageError(
            f"{settings.holders} holders, {low} to {high} replicas, batch {settings.batch}: give "
            "one at least"
        )
    load_vehicles(settings.vehicles)
    check_credentials(settings.certificates, BACKEND)
    if settings.address == LOCAL:
        available(settings.providers)
    if settings.key_file:
        KeyFile(settings.key_file)
    bundles = [ModelBundle.load(path) for path in settings.bundles]
    names = {each.fingerprint: each.path for each in reversed(bundles)}
    for bundle in bundles:
        if names[bundle.fingerprint] != bundle.path:
            raise UsageError(
                f"{bundle.path} and {names[bundle.fingerprint]} have one fingerprint, "
                f"{bundle.fingerprint:016x}: give one of them"
            )
    return bundles


def _deploy(bundle: ModelBundle, settings: Settings) -> None:
    """Start the networks of a bundle, or replace them one by one where others run."""
    low, high = settings.replicas
    processors = ray.cluster_resources().get("CPU", 0)
    needed = low * settings.threads * len(settings.bundles)
    if needed > processors:
        raise UsageError(
            f"{low} replicas of {len(settings.bundles)} bundles on {settings.threads} threads need "
            f"{needed} processors, there are {processors:g}: give fewer replicas"
        )
    scale: dict[str, Any] = {"num_replicas": low}
    if high > low:
        scale = {
            "autoscaling_config": {
                "min_replicas": low,
                "max_replicas": high,
                "target_ongoing_requests": 1,
            }
        }
    deployment = serve.deployment(
        Network,
        name="network",
        max_ongoing_requests=CALLS_PER_REPLICA,
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": settings.gpus},
        logging_config={"log_level": "ERROR", "enable_access_log": False},
        **scale,
    )
    serve.run(
        deployment.bind(
            str(bundle.path.absolute()), settings.providers, settings.threads, settings.batch
        ),
        name=network_name(bundle.fingerprint),
        route_prefix=None,
    )
