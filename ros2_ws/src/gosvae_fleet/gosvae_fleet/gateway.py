"""The gateway: packets of all vehicles from Zenoh to the holders of their streams; an actor of Ray.

It lets pass what a vehicle's quota allows, and reads nothing of it. A vehicle that floods is not
listened to for a while, so that its packets end at the router. A camera's packets all go to one
holder, chosen by its name among those that answer; where one dies, its cameras go to others.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from threading import Event, Lock, Thread
from typing import Any, NamedTuple, Protocol

from gosvae_codec.packets import MAX_SERIALIZED_BYTES

from . import keys
from .presence import Answering, Presence
from .quota import Quota
from .vehicles import Vehicle

GATHER_SECONDS = 0.004
"""How long packets are gathered for one call."""
LOG_SECONDS = 5.0
"""Between lines on one vehicle's packets over its quota."""
FLOOD = 10.0
"""Dropped packets in a second, as a multiple of its quota of packets, by which a vehicle floods."""
PAUSE_SECONDS = 5.0
"""For which a vehicle that floods is not listened to."""
REMEMBERED_EVENTS = 100

Packets = list[tuple[str, str, bytes]]
"""Vehicle, camera and CDR of each."""


class Calls(Protocol):
    """How holders are called. Numbers are those of the holders, from 0."""

    def push(self, holder: int, packets: Packets) -> bool:
        """Pass packets on; return whether the holder takes them."""

    def changed(self) -> Iterable[tuple[int, bool]]:
        """Return the holders that died or came back since the last call, and whether they live."""


class Report(NamedTuple):
    """What a gateway says of itself."""

    process: int
    vehicles: Mapping[str, int]
    """Sessions on the link by vehicle."""
    answered_twice: Sequence[str]
    """Cameras, as ``v01/front``, whose packets others answer as well."""
    packets: Mapping[str, int]
    """That passed, by vehicle."""
    rejected: Mapping[str, Mapping[str, int]]
    """By vehicle and reason."""
    holders: Sequence[int]
    """That answer."""
    events: list[str]
    """What was to be logged since the report before."""


class Gateway:
    """Takes packets of all vehicles of a fleet."""

    def __init__(
        self, session: Any, vehicles: Iterable[Vehicle], calls: Calls, holders: int
    ) -> None:
        """Subscribe with a session of Zenoh, and pass packets on to `holders` by `calls`."""
        self._calls, self._holders = calls, range(holders)
        self._live = set(self._holders)
        self._lock = Lock()
        self._gathered: dict[int, Packets] = {}
        self._routes: dict[tuple[str, str], int] = {}
        self._passed: Counter[str] = Counter()
        self._rejected: dict[str, Counter[str]] = {}
        self._logged: dict[str, float] = {}
        self._dropped: dict[str, tuple[float, int]] = {}
        """By vehicle, since when, for up to a second, and how many."""
        self._floods: set[str] = set()
        """Vehicles to stop listening to."""
        self._paused: dict[str, float] = {}
        """Vehicles that are not listened to, and until when."""
        self._events: deque[str] = deque(maxlen=REMEMBERED_EVENTS)
        self._arrived, self._stop = Event(), Event()
        self._presence = Presence(session, log=self._events.append)
        self._answering = Answering(session, "gateway", self._events.append)
        self._session = session  # which closes when nothing refers to it
        self._listening = Lock()
        """On what follows. Never taken in a callback, whose end undeclaring waits for."""
        self._vehicles: dict[str, Vehicle] = {}
        self._subscribers: dict[str, list[Any]] = {}
        """By vehicle."""
        self.serve(vehicles)
        self._thread = Thread(target=self._pass_on, name="pass on", daemon=True)
        self._thread.start()

    def serve(self, vehicles: Iterable[Vehicle]) -> None:
        """Take packets of these vehicles from now on, and of no others."""
        wanted = {each.name: each for each in vehicles}
        with self._listening:
            for name, vehicle in list(self._vehicles.items()):
                if wanted.get(name) != vehicle:
                    del self._vehicles[name]
                    self._paused.pop(name, None)
                    self._unsubscribe(name)
            for vehicle in wanted.values():
                if vehicle.name not in self._vehicles:
                    self._vehicles[vehicle.name] = vehicle
                    self._subscribers[vehicle.name] = self._subscribe(vehicle)
        self._answering.answer(
            (vehicle.name, camera) for vehicle in wanted.values() for camera in vehicle.cameras
        )

    def _subscribe(self, vehicle: Vehicle) -> list[Any]:
        quota = Quota(vehicle.packets_per_s, vehicle.kbit_per_s)
        self._rejected.setdefault(vehicle.name, Counter())
        return [
            self._session.declare_subscriber(
                keys.packets_key(vehicle.name, camera),
                partial(self._on_packet, vehicle, quota, camera),
            )
            for camera in vehicle.cameras
        ]

    def _unsubscribe(self, name: str) -> None:
        for each in self._subscribers.pop(name, ()):
            each.undeclare()

    def _pause(self) -> None:
        """Stop listening to vehicles that flood, and listen again to those whose time is over."""
        now = time.monotonic()
        with self._lock:
            floods, self._floods = self._floods, set()
        with self._listening:
            for name in floods & self._subscribers.keys():
                self._unsubscribe(name)
                self._paused[name] = now + PAUSE_SECONDS
                self._events.append(
                    f"{name}: floods, with over {FLOOD:g} times its quota; its packets are not "
                    f"listened to for {PAUSE_SECONDS:g} s"
                )
            for name in [name for name, until in self._paused.items() if until <= now]:
                del self._paused[name]
                self._subscribers[name] = self._subscribe(self._vehicles[name])

    def report(self) -> Report:
        """Return figures, and what was logged since the last report."""
        self._presence.twice()
        answered_twice = self._answering.twice()
        events = list(self._events)
        self._events.clear()
        return Report(
            os.getpid(),
            self._presence.vehicles(),
            answered_twice,
            dict(self._passed),
            {name: dict(reasons) for name, reasons in self._rejected.items() if reasons},
            sorted(self._live),
            events,
        )

    def close(self) -> None:
        """Take no more packets."""
        self.serve([])
        self._presence.close()
        self._answering.close()
        self._stop.set()
        self._arrived.set()
        self._thread.join()

    def _on_packet(self, vehicle: Vehicle, quota: Quota, camera: str, sample: Any) -> None:
        size = len(sample.payload)
        reason = "size" if size > MAX_SERIALIZED_BYTES else quota.problem(size)
        if reason:
            self._reject(vehicle, reason)
            return
        place = vehicle.name, camera
        with self._lock:
            self._passed[vehicle.name] += 1
            holder = self._route(place)
            self._gathered.setdefault(holder, []).append((*place, sample.payload.to_bytes()))
        self._arrived.set()

    def _reject(self, vehicle: Vehicle, reason: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._rejected[vehicle.name][reason] += 1
            since, count = self._dropped.get(vehicle.name, (now, 0))
            since, count = (since, count + 1) if now - since < 1.0 else (now, 1)
            self._dropped[vehicle.name] = since, count
            if count > FLOOD * vehicle.packets_per_s:
                self._floods.add(vehicle.name)
            due = now - self._logged.get(vehicle.name, -LOG_SECONDS) >= LOG_SECONDS
            if due:
                self._logged[vehicle.name] = now
        if due:
            self._events.append(f"{vehicle.name}: {_explain(vehicle, reason)}")

    def _route(self, place: tuple[str, str]) -> int:
        """Return the holder of a stream: of those that live, the one with the largest hash."""
        if place not in self._routes:
            name = "/".join(place)
            among = self._live or self._holders
            self._routes[place] = max(
                among, key=lambda each: sha256(f"{each} {name}".encode()).digest()
            )
        return self._routes[place]

    def _pass_on(self) -> None:
        while not self._stop.is_set():
            if self._arrived.wait(0.1):
                time.sleep(GATHER_SECONDS)
            self._arrived.clear()
            self._pause()
            with self._lock:
                gathered, self._gathered = self._gathered, {}
            for holder, packets in gathered.items():
                if not self._calls.push(holder, packets):
                    with self._lock:
                        for vehicle, *_ in packets:
                            self._rejected[vehicle]["holder is behind"] += 1
            for holder, lives in self._calls.changed():
                with self._lock:
                    (self._live.add if lives else self._live.discard)(holder)
                    self._routes.clear()
                self._events.append(f"holder {holder} {'answers' if lives else 'died'}")


def _explain(vehicle: Vehicle, reason: str) -> str:
    return {
        "size": f"packets of over {MAX_SERIALIZED_BYTES} bytes, which no transmitter makes",
        "packets": f"over its quota of {vehicle.packets_per_s:g} packets/s (packets_per_s)",
        "bytes": f"over its quota of {vehicle.kbit_per_s:g} kbit/s (kbit_per_s)",
    }[reason] + "; dropped"
