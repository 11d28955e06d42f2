"""Who is on the link, by liveliness tokens: vehicles, and who answers which cameras."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

import zenoh

from . import keys

TWICE_SECONDS = 15.0
"""After which two sessions with one token are two, rather than one that was restarted: the router
takes up to ten seconds to notice that a session is gone."""

Log = Callable[[str], object]


class Tokens:
    """What tokens are there, and the sessions that declared them.

    A router must let the session read them.
    """

    def __init__(
        self, session: zenoh.Session, key: str, split: Callable[[str], tuple[str, str]]
    ) -> None:
        """Watch the tokens of a key expression; `split` returns what a token is for, and whose."""
        self._split = split
        self._lock = Lock()
        self._since: dict[tuple[str, str], float] = {}
        self._subscriber = session.liveliness().declare_subscriber(key, self._note, history=True)

    def counts(self) -> dict[str, int]:
        """Return for each name the number of sessions that have its token."""
        counts: dict[str, int] = {}
        with self._lock:
            for name, _ in self._since:
                counts[name] = counts.get(name, 0) + 1
        return counts

    def shared(self) -> dict[str, list[str]]:
        """Return the names whose token several sessions have, and which, both sorted."""
        now = time.monotonic()
        old: dict[str, list[str]] = {}
        with self._lock:
            for (name, owner), since in sorted(self._since.items()):
                if now - since > TWICE_SECONDS:
                    old.setdefault(name, []).append(owner)
        return {name: owners for name, owners in old.items() if len(owners) > 1}

    def close(self) -> None:
        """Stop watching."""
        self._subscriber.undeclare()

    def _note(self, sample: Any) -> None:
        token = self._split(str(sample.key_expr))
        with self._lock:
            if sample.kind == zenoh.SampleKind.PUT:
                self._since[token] = time.monotonic()
            else:
                self._since.pop(token, None)


class Presence:
    """Which sessions of which vehicles are on the link."""

    def __init__(self, session: zenoh.Session, vehicle: str = "*", log: Log = print) -> None:
        """Watch one vehicle or all; pass to `log` a line for each whose name is taken twice."""
        self._log = log
        self._reported: set[str] = set()
        self._tokens = Tokens(session, keys.alive_key(vehicle), keys.split_alive)
        self.close = self._tokens.close

    def vehicles(self) -> dict[str, int]:
        """Return how many sessions each vehicle has that is there."""
        return self._tokens.counts()

    def twice(self) -> list[str]:
        """Return the vehicles whose name is taken twice, and say so when that is new."""
        found = self._tokens.shared()
        for vehicle, sessions in found.items():
            if vehicle not in self._reported:
                self._log(
                    f"vehicle {vehicle} is connected {len(sessions)} times, by the sessions "
                    f"{', '.join(sessions)}: give each vehicle a name and a certificate of its own"
                )
        self._reported = set(found)
        return list(found)


class Answering:
    """Who answers the packets of some cameras, this session among others: it should be alone."""

    def __init__(self, session: zenoh.Session, name: str, log: Log = print) -> None:
        """Answer as `name`; pass to `log` a line for all cameras that others answer too."""
        self._session, self._log = session, log
        self._name = f"{name}-{session.info.zid()}"
        self._own: dict[str, Any] = {}
        """Tokens of this session by vehicle and camera."""
        self._reported: set[str] = set()
        self.problem = ""
        """What :meth:`twice` found last, in one line; empty if nothing."""
        self._tokens = Tokens(session, keys.answered_key("*", "**"), keys.split_answered)
        self.close = self._tokens.close

    def answer(self, cameras: Iterable[tuple[str, str]]) -> None:
        """Tell that these cameras, each with its vehicle, are answered here, and no others."""
        wanted = {f"{vehicle}/{camera}": (vehicle, camera) for vehicle, camera in cameras}
        for place in self._own.keys() - wanted.keys():
            self._own.pop(place).undeclare()
        liveliness = self._session.liveliness()
        for place in wanted.keys() - self._own.keys():
            own = keys.answered_key(*wanted[place], self._name)
            self._own[place] = liveliness.declare_token(own)

    def twice(self) -> list[str]:
        """Return the cameras that others answer too, and say so when there are more."""
        shared = self._tokens.shared()
        found = [place for place in shared if place in self._own]
        self.problem = ""
        if found:
            which = found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1} more cameras"
            self.problem = (
                f"{which}: answered by {' and by '.join(shared[found[0]])}; let one of them have a "
                "camera, as vehicles send at the rate of the slower"
            )
            if not self._reported.issuperset(found):
                self._log(self.problem)
        self._reported = set(found)
        return found
