"""The gateway and the holders as actors of Ray, and how the one calls the others.

Until a gateway that died is back, nothing arrives. So nothing here imports Ray Serve, which takes
seconds, but a holder that starts: who asks Ray for an actor imports its module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import PendingCallsLimitExceeded, RayActorError

from gosvae_codec import ModelBundle
from gosvae_codec.keys import KeyFile

from .certificates import BACKEND, check_credentials
from .gateway import Gateway, Packets
from .holder import Holder
from .link import open_client
from .network import network_name
from .settings import Settings
from .vehicles import load_vehicles


class GatewayActor(Gateway):
    """A gateway that opens what it needs where it runs."""

    def __init__(self, settings: Settings) -> None:
        """Connect, and begin to pass packets on to the holders."""
        fleet = load_vehicles(settings.vehicles).values()
        # By name: Ray does not start an actor again whose arguments hold others.
        holders = [ray.get_actor(holder_name(index)) for index in range(settings.holders)]
        super().__init__(_connect(settings), fleet, _Calls(holders), len(holders))


class HolderActor(Holder):
    """A holder that opens what it needs where it runs."""

    def __init__(self, settings: Settings) -> None:
        """Connect, and load bundles and keys."""
        from ray import serve  # see the module

        bundles = [ModelBundle.load(path) for path in settings.bundles]
        super().__init__(
            _connect(settings),
            bundles,
            {
                each.fingerprint: serve.get_app_handle(network_name(each.fingerprint))
                for each in bundles
            },
            settings.batch,
            settings.replicas[1],
            KeyFile(settings.key_file) if settings.key_file else None,
        )


def holder_name(index: int) -> str:
    """Return by which name Ray knows a holder."""
    return f"holder {index}"


def _connect(settings: Settings) -> Any:
    return open_client(settings.router, check_credentials(settings.certificates, BACKEND))


class _Calls:
    """Calls of holders through Ray; see :class:`gosvae_fleet.gateway.Calls`."""

    def __init__(self, holders: list[Any]) -> None:
        self._holders = holders
        self._pushed: list[deque[Any]] = [deque() for _ in holders]
        self._awaited: dict[int, Any] = {}
        """Holders that died, with a call that returns when the next one is ready."""

    def push(self, holder: int, packets: Packets) -> bool:
        try:
            self._pushed[holder].append(self._holders[holder].push.remote(packets))
        except PendingCallsLimitExceeded:
            return False
        return True

    def changed(self) -> Iterator[tuple[int, bool]]:
        for holder, pushed in enumerate(self._pushed):
            while pushed and _is_done(pushed[0]):
                if not _lives(pushed.popleft()) and holder not in self._awaited:
                    self._awaited[holder] = self._holders[holder].ready.remote()
                    yield holder, False
        for holder, call in list(self._awaited.items()):
            if _is_done(call):
                if _lives(call):
                    del self._awaited[holder]
                    yield holder, True
                else:
                    self._awaited[holder] = self._holders[holder].ready.remote()


def _is_done(call: Any) -> bool:
    return bool(ray.wait([call], timeout=0)[0])


def _lives(call: Any) -> bool:
    try:
        ray.get(call)
    except RayActorError:
        return False
    return True
