"""A whole fleet on this machine: router, service and simulated vehicles, with a live table.

    python -m gosvae_fleet.demo [--vehicles 10] [--rate 1] [--seconds N] [--json FILE] [--view]

Certificates and vehicles.yaml are made for it. Masks are received as any subscriber would, and
their ages and losses measured there: from a frame's stamp to the arrival of its mask. After the
seconds one process of the networks is killed, to measure how long it is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Lock, Thread
from typing import IO, Any

import yaml
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gosvae_codec import ModelBundle
from gosvae_codec.errors import GosvaeError
from gosvae_common.shipped import find_bundle
from gosvae_common.signals import stop_signals
from gosvae_tools.drives.stamps import read_stamp

from . import keys
from .certificates import BACKEND, ROUTER, check_credentials, make_certificate
from .link import open_client, open_router
from .monitor import Monitor, log_line, table
from .router import local_endpoint, router_config
from .service import Service, replica_processes
from .settings import Settings
from .simulation import CAMERA
from .vehicles import load_vehicles

SETTLE_SECONDS = 3.0
"""At the end, for which masks of frames sent are not waited for."""
PATIENCE_SECONDS = 60.0
"""After which a service that lost a process is given up."""


class Fleet:
    """A router and certificates in a folder, and what was sent and received."""

    def __init__(self, folder: Path, names: Sequence[str], **quotas: float) -> None:
        self.folder, self.names = folder, list(names)
        self.vehicles = folder / "vehicles.yaml"
        content = {"defaults": quotas, "vehicles": {name: {} for name in names}}
        self.vehicles.write_text(yaml.safe_dump(content))
        make_certificate(folder, ROUTER, ["127.0.0.1"])
        for name in (BACKEND, *names):
            make_certificate(folder, name)
        self.endpoint = local_endpoint()
        fleet = load_vehicles(self.vehicles).values()
        credentials = check_credentials(folder, ROUTER)
        self._router = open_router(router_config(fleet, credentials, [self.endpoint]))
        self._lock = Lock()
        self.sent: dict[tuple[str, int], None] = {}
        """Vehicle and stamp in ns of all frames sent, in order."""
        self.received: dict[tuple[str, int], float] = {}
        """Age in ms of their masks when they arrived."""
        self._session = open_client(self.endpoint, check_credentials(folder, BACKEND))
        self._kept = [
            self._session.declare_subscriber(keys.mask_key(name, CAMERA), self._on_mask)
            for name in names
        ]
        self.processes: list[subprocess.Popen[str]] = []

    def settings(self, **given: Any) -> Settings:
        """Return settings of a service for this fleet."""
        given.setdefault("bundles", (find_bundle(),))
        return Settings(self.vehicles, self.folder, self.endpoint, **given)

    def simulate(self, names: Sequence[str], rate: float, *options: str) -> None:
        """Start a process that drives some of the vehicles."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gosvae_fleet.simulation"),
                *("--router", self.endpoint, "--certificates", str(self.folder)),
                *("--vehicles", ",".join(names), "--rate", str(rate), *options),
            ],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        assert process.stdout is not None
        self.processes.append(process)
        Thread(target=self._read, args=[process.stdout], daemon=True).start()

    def view(self, bundle: Path) -> None:
        """Start what shows all masks in a browser, as ROS topics."""
        cameras = ",".join(f"{keys.PREFIX}/{name}/{CAMERA}" for name in self.names)
        results = ["--vehicles", str(self.vehicles), "--certificates", str(self.folder)]
        results += ["--router", self.endpoint, "--bundle", str(bundle)]
        for words in (["results", *results], ["view", "--no-frames", "--cameras", cameras]):
            command = ["gosvae", *words]
            self.processes.append(subprocess.Popen(command, text=True, start_new_session=True))

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            name, stamp = line.split()
            with self._lock:
                self.sent[name, int(stamp)] = None

    def _on_mask(self, sample: Any) -> None:
        self.note(str(sample.key_expr).split("/")[1], sample.payload.to_bytes())

    def note(self, name: str, message: bytes) -> None:
        """Take a mask of a vehicle, as CDR, that arrives now."""
        now, stamp = time.time_ns(), read_stamp(message)
        with self._lock:
            self.received[name, stamp] = (now - stamp) / 1e6

    def figures(self, begin: float, end: float) -> dict[str, Any]:
        """Return what became of frames with stamps from `begin` to `end`, in s since 1970."""
        with self._lock:
            sent = [each for each in self.sent if begin <= each[1] / 1e9 < end]
            ages = sorted(self.received[each] for each in sent if each in self.received)
        return {
            "streams": len({name for name, _ in sent}),
            "frames_per_s": len(ages) / max(end - begin, 1e-3),
            "age_ms": {
                f"p{share:.0f}": ages[min(int(len(ages) * share / 100), len(ages) - 1)]
                for share in (50, 95)
                if ages
            },
            "lost": 1 - len(ages) / len(sent) if sent else None,
            "frames": len(sent),
        }

    def masks_since(self, stamp: float) -> set[str]:
        """Return the vehicles with masks of frames from `stamp` on, in s since 1970."""
        with self._lock:
            return {name for name, each in self.received if each >= stamp * 1e9}

    def recover(self, process: int, names: Collection[str]) -> float:
        """Kill a process; return the s until each of the vehicles has a mask of a later frame.

        Raises:
            GosvaeError: after a minute some have none.
        """
        os.kill(process, signal.SIGKILL)
        begin = time.time()
        while missing := set(names) - self.masks_since(begin):
            if time.time() - begin > PATIENCE_SECONDS:
                raise GosvaeError(f"no masks of {', '.join(sorted(missing))} for a minute")
            time.sleep(0.01)
        return time.time() - begin

    def close(self) -> None:
        """End vehicles and router."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()
        self._session.close()
        self._router.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal, or for some seconds; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--vehicles", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--rate", type=float, default=1.0, help="frames a second of each")
    parser.add_argument("--bundle", default="", help="another bundle than the one that ships")
    parser.add_argument("--seconds", type=float, default=0.0, help="to measure; 0: until Ctrl-C")
    parser.add_argument("--json", type=Path, help="file to write figures to")
    parser.add_argument("--view", action="store_true", help="show the masks in a browser")
    options = parser.parse_args(arguments)
    console = Console()
    names = [f"v{number:02d}" for number in range(1, options.vehicles + 1)]
    try:
        bundle = ModelBundle.load(find_bundle(options.bundle))
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gosvae-fleet-"))
            fleet = Fleet(Path(folder), names)
            stack.callback(fleet.close)
            console.print("starting Ray, networks and vehicles ...")
            service = Service(fleet.settings(bundles=(bundle.path,)))
            stack.callback(service.close)
            fleet.simulate(names, options.rate, "--bundle", str(bundle.path))
            if options.view:
                fleet.view(bundle.path)
            # Only now: until all parts are there, a signal ends the process at once.
            stop = stack.enter_context(stop_signals())
            monitor = Monitor()
            stack.callback(monitor.close)
            figures = _watch(fleet, service, monitor, console, stop, options.seconds)
            if options.seconds and not stop.is_set():
                process = replica_processes(bundle.fingerprint)[0]
                figures["recovery_ms"] = {"replica": round(1e3 * fleet.recover(process, names))}
    except KeyboardInterrupt:
        return 130
    except GosvaeError as error:
        print(f"gosvae fleet: {error}", file=sys.stderr)
        return 1
    console.print_json(data=figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _watch(
    fleet: Fleet, service: Service, monitor: Monitor, console: Console, stop: Event, seconds: float
) -> dict[str, Any]:
    """Show the table until the end; return figures from when all vehicles had masks."""
    begin = 0.0
    events: list[str] = []
    with Live(console=console, refresh_per_second=2) as live:
        while not stop.wait(1.0):
            state = service.state()
            monitor.update(state)
            events = [*events, *(log_line(*event) for event in state.events)][-5:]
            title = f"{len(fleet.names)} vehicles, {monitor.url}/metrics, Ctrl-C stops"
            live.update(Group(table(state, title), Text("\n".join(events))))
            now = time.time()
            if not begin and fleet.masks_since(0) == set(fleet.names):
                begin = now
            if seconds and begin and now - begin >= seconds + SETTLE_SECONDS:
                break
    return fleet.figures(begin or time.time(), time.time() - SETTLE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
