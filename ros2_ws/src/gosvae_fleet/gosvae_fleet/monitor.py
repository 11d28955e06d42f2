"""What people and machines see of a service: a live table, metrics and health over HTTP, a log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from rich.table import Table

from gosvae_common.errors import UsageError

from .service import Service, State

FRESH_SECONDS = 10.0
"""For how long a state is current."""
NOTHING = State(None, [])


class Monitor:
    """The newest state of a service, served at ``/metrics`` and ``/healthz``."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen at a port; 0: any.

        Raises:
            UsageError: it cannot.
        """
        self.state = NOTHING
        self._updated = -math.inf
        monitor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = monitor.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise UsageError(f"metrics at {host}:{port}: {error.strerror}; give a port") from error
        self.url = f"http://{host}:{self._server.server_port}"
        Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def update(self, state: State) -> None:
        """Take a new state."""
        self.state, self._updated = state, time.monotonic()

    @property
    def problem(self) -> str:
        """Return what is wrong with the service; empty if nothing is."""
        age = time.monotonic() - self._updated
        return self.state.problem if age < FRESH_SECONDS else "no state yet, or an old one"

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body of a page."""
        if path == "/healthz":
            problem = self.problem
            return (503 if problem else 200), "text/plain", f"{problem or 'ok'}\n".encode()
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4", generate_latest(self._registry)
        return 404, "text/plain", b"/metrics or /healthz\n"

    def collect(self) -> Iterator[Any]:
        """Yield the metrics; see :class:`prometheus_client.registry.Collector`."""
        state = self.state
        streams = state.streams
        yield GaugeMetricFamily("gosvae_healthy", "All parts answer.", not self.problem)
        yield GaugeMetricFamily("gosvae_streams", "Streams that are held.", len(streams))
        place = ["vehicle", "camera"]
        for name, kind, text in _STREAM_METRICS:
            family = kind(f"gosvae_{name}", text, labels=[*place, "bundle"])
            for each in streams:
                family.add_metric([each.vehicle, each.camera, each.bundle], getattr(each, name))
            yield family
        age = GaugeMetricFamily(
            "gosvae_age_ms", "Age of frames at publication.", labels=[*place, "quantile"]
        )
        for each in streams:
            age.add_metric([each.vehicle, each.camera, "0.5"], each.age_ms_p50)
            age.add_metric([each.vehicle, each.camera, "0.95"], each.age_ms_p95)
        yield age
        results = CounterMetricFamily("gosvae_results", "Messages made.", labels=[*place, "topic"])
        for each in streams:
            for topic, count in each.results.items():
                results.add_metric([each.vehicle, each.camera, topic], count)
        yield results
        twice = GaugeMetricFamily(
            "gosvae_answered_twice", "1 where others answer the camera as well.", labels=place
        )
        for name in state.gateway.answered_twice if state.gateway else ():
            vehicle, _, camera = name.partition("/")
            twice.add_metric([vehicle, camera], 1)
        yield twice
        rejected = CounterMetricFamily(
            "gosvae_rejected_packets", "Packets dropped.", labels=["vehicle", "reason"]
        )
        for vehicle, reasons in state.rejected.items():
            for reason, count in reasons.items():
                rejected.add_metric([vehicle, reason], count)
        yield rejected
        calls = CounterMetricFamily(
            "gosvae_network_calls", "Calls of networks.", labels=["holder", "frames"]
        )
        for index, report in enumerate(state.holders):
            for frames, count in report.batches.items() if report else ():
                calls.add_metric([str(index), str(frames)], count)
        yield calls

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


_STREAM_METRICS = (
    ("packets", CounterMetricFamily, "Packets accepted."),
    ("frames", CounterMetricFamily, "Frames of which all was made that is listened to."),
    ("frames_per_s", GaugeMetricFamily, "The same a second, lately."),
    ("last_frame_s", GaugeMetricFamily, "Seconds since the newest of them."),
    ("kbit_per_s", GaugeMetricFamily, "Rate of packets, lately."),
    ("lost", GaugeMetricFamily, "Packets of the current stream that did not arrive."),
    ("skipped", CounterMetricFamily, "Frames skipped, as a newer one came first."),
    ("failed", CounterMetricFamily, "Frames whose network died or failed."),
    ("without_reference", CounterMetricFamily, "Frames that refer to one that is missing."),
)


def follow(service: Service, monitor: Monitor, stop: Event) -> None:
    """Keep a monitor up to date, and log to stdout, until `stop` is set."""
    print(log_line("service", f"ready; metrics at {monitor.url}/metrics"), flush=True)
    while not stop.wait(1.0):
        for text in _changes(service):
            print(log_line("service", text), flush=True)
        state = service.state()
        if state.problem != monitor.state.problem:
            print(log_line("service", state.problem or "all parts answer"), flush=True)
        monitor.update(state)
        for part, text in state.events:
            print(log_line(part, text), flush=True)


def _changes(service: Service) -> Iterator[str]:
    """Yield what to log of files that have changed."""
    try:
        if text := service.refresh():
            yield text
    except UsageError as error:
        yield f"{error}; the vehicles before it are still served"


def log_line(part: str, text: str) -> str:
    """Return a line of the log, JSON."""
    return json.dumps({"time": round(time.time(), 3), "part": part, "message": text})


def table(state: State, title: str) -> Table:
    """Return the table of all streams, and what was rejected."""
    made = Table(title=title)
    for name in ("vehicle", "camera", "frames/s", "age p50", "p95 ms", "kbit/s"):
        made.add_column(name, justify="left" if name in ("vehicle", "camera") else "right")
    for name in ("lost", "skipped", "rejected"):
        made.add_column(name, justify="right")
    rejected = state.rejected
    for each in state.streams:
        own = rejected.pop(each.vehicle, {})
        made.add_row(
            each.vehicle,
            each.camera,
            f"{each.frames_per_s:.1f}",
            *(_number(value) for value in (each.age_ms_p50, each.age_ms_p95)),
            f"{each.kbit_per_s:.0f}",
            str(each.lost),
            str(each.skipped),
            _described(own),
        )
    for vehicle, reasons in rejected.items():  # of which nothing passed
        made.add_row(vehicle, "", *["-"] * 6, _described(reasons))
    return made


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"


def _described(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "0"
