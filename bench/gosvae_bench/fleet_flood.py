"""What one vehicle that floods a fleet's service costs the others.

    python -m gosvae_bench.fleet_flood --router ENDPOINT --certificates DIR --vehicle v02 ...

is that vehicle, in a process of its own. Its certificate is valid, so that the router takes its
packets as far as they have its own name. It sends what a line on stdin asks for: packets a second
and their kind. The router drops those under the name of another: they cost what the vehicle and
the router take of this machine, and nothing of the service.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import zenoh

from gosvae_codec import Encoder, GosvaeError, Header, ModelBundle
from gosvae_common.shipped import find_drive
from gosvae_fleet import keys, link
from gosvae_fleet.certificates import check_credentials
from gosvae_fleet.demo import Fleet
from gosvae_fleet.simulation import CAMERA, read_frames

from .fleet_parts import cpu_seconds
from .fleet_trials import RATE, SETTLE_SECONDS, WARM_SECONDS, Figures, Trials
from .system_nodes import environment, python_of

REFUSED = "another's name"
KINDS = (REFUSED, "valid", "forged", "malformed")
"""Of packets: under another's name; its own; with random content that has a right checksum;
random bytes."""
TIMES = 100
"""How often its quota it sends."""
ROUNDS = 6
FRAMES = 10
MALFORMED_BYTES = 1000
STEP_SECONDS = 0.01


def schedule(quota: float) -> list[tuple[str, str, float]]:
    """Return the phases of one round: what the vehicle does, and kind and packets a second."""
    flood = TIMES * quota
    return [
        ("nothing", "valid", 0.0),
        ("its quota", "valid", quota),
        *((kind, kind, flood) for kind in KINDS),
    ]


def cost(ages: Mapping[str, Sequence[float]]) -> dict[str, Figures]:
    """Return p50 and p95 of the others' masks in each kind of phase, and both to those without.

    Args:
        ages: of the masks in ms, by what the vehicle did; "its quota" among them, which valid
            packets are compared with, as a flood of them uses the quota; others with "nothing".
    """
    found: dict[str, Figures] = {}
    for name, values in ages.items():
        p50, p95 = (float(np.percentile(values, share)) for share in (50, 95))
        found[name] = {"p50": round(p50, 1), "p95": round(p95, 1), "masks": len(values)}
    for name, each in found.items():
        base = found["its quota" if name == "valid" else "nothing"]
        each["ratio"] = {share: round(each[share] / base[share], 3) for share in ("p50", "p95")}
    return found


def measure(trials: Trials, others: int, quota: float, seconds: float) -> dict[str, Any]:
    """Flood the service from the vehicle after `others`, which drive; return what it costs them.

    Args:
        trials: of a service whose vehicles have `quota`.
        others: vehicles that drive.
        quota: packets a second.
        seconds: of each kind of phase, in rounds, so that all kinds meet the machine alike.

    Raises:
        GosvaeError: the others have no masks, or the vehicle does not start.
    """
    fleet = trials.fleet
    ages: dict[str, list[float]] = {name: [] for name, *_ in schedule(quota)}
    spent: dict[str, Counter[str]] = {name: Counter() for name in ages}
    sent: dict[str, list[float]] = {name: [] for name in ages}
    phases: list[tuple[str, float, float]] = []
    with _Flooder(fleet, fleet.names[others], fleet.names[0], trials.bundle) as flooder:
        trials.drive(others)
        time.sleep(WARM_SECONDS)
        for _ in range(ROUNDS):
            for name, kind, rate in schedule(quota):
                flooder.send(kind, rate)
                time.sleep(1.0)  # what was at work before is not this phase's
                before, begin = cpu_seconds(), time.time()
                time.sleep(seconds / ROUNDS)
                phases.append((name, begin, time.time()))
                spent[name].update(cpu_seconds() - before)
                sent[name].append(flooder.rate())
        time.sleep(SETTLE_SECONDS)
        trials.stop()
    for name, begin, end in phases:
        ages[name] += trials.ages(begin, end)
    found = cost(ages)
    for name, each in found.items():
        each["packets_per_s"] = round(float(np.mean(sent[name])))
        each["cores"] = {part: round(cpu / seconds, 3) for part, cpu in spent[name].items()}
    return {"streams": others, "rate_hz": RATE, "quota_packets_per_s": quota, "phases": found}


class _Flooder:
    """The process of the vehicle that floods, while the ``with`` block lasts."""

    def __init__(self, fleet: Fleet, name: str, another: str, bundle: Path) -> None:
        command = [*python_of("fleet_flood"), "--router", fleet.endpoint, "--vehicle", name]
        command += ["--another", another, "--bundle", str(bundle)]
        command += ["--certificates", str(fleet.folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment(), start_new_session=True
        )

    def __enter__(self) -> _Flooder:
        self.rate()
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.terminate()

    def send(self, kind: str, rate: float) -> None:
        """Let it send packets of a kind from now on, so many a second."""
        assert self._process.stdin is not None
        print(json.dumps([kind, rate]), file=self._process.stdin, flush=True)

    def rate(self) -> float:
        """Return how many packets a second it has sent since it was told; raise if it has died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print("null", file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise GosvaeError("the vehicle that floods has ended; its last words are above")
        return float(json.loads(answer))


class _Flood:
    """Sends packets of one kind at a rate, in a thread of its own; each is sent several times.

    It has to cost this machine little, as it stands for a vehicle elsewhere.
    """

    def __init__(
        self, bundle: Path, put: Callable[[bytes], object], refused: Callable[[bytes], object]
    ) -> None:
        """Send with `put`, or with `refused` what has another's name."""
        encoder = Encoder(ModelBundle.load(bundle))
        frames = [encoder.encode(each, intra=True) for each in read_frames(find_drive(), FRAMES)]
        self._frames = cycle(frame[0] for frame in frames)
        self._stream, self._sequence = secrets.randbits(32), 0
        self._put, self._refused = put, refused
        self._kind, self._rate, self._since, self._sent = "valid", 0.0, time.monotonic(), 0
        self._changed = Lock()

    def begin(self, kind: str, rate: float) -> None:
        """Send so many packets a second of a kind from now on."""
        with self._changed:
            self._kind, self._rate, self._since, self._sent = kind, rate, time.monotonic(), 0

    def rate(self) -> float:
        """Return how many packets a second were sent since the last :meth:`begin`."""
        with self._changed:
            return self._sent / (time.monotonic() - self._since)

    def run(self) -> None:
        """Send for ever."""
        while True:
            time.sleep(STEP_SECONDS)
            with self._changed:
                missing = int((time.monotonic() - self._since) * self._rate) - self._sent
                data = self._packet() if missing > 0 else b""
                put = self._refused if self._kind == REFUSED else self._put
                for _ in range(missing):
                    put(data)
                self._sent += missing

    def _packet(self) -> bytes:
        if self._kind == "malformed":
            return os.urandom(MALFORMED_BYTES)
        packet = next(self._frames)
        if self._kind == "forged":
            packet = replace(packet, payload=os.urandom(len(packet.payload)))
        stamp = time.time_ns()
        header = Header(stamp // 10**9, stamp % 10**9, CAMERA)
        self._sequence += 1
        made = replace(packet, header=header, stream=self._stream, sequence=self._sequence)
        return made.with_checksum().to_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Flood until the end of stdin."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--router", required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--vehicle", required=True)
    parser.add_argument("--another", required=True, help="vehicle, whose name it takes")
    parser.add_argument("--bundle", type=Path, required=True)
    options = parser.parse_args(arguments)
    credentials = check_credentials(options.certificates, options.vehicle)
    session = link.open_client(options.router, credentials)
    own, another = (
        # By the session, as a publisher sends nothing while nobody listens.
        partial(
            session.put,
            keys.packets_key(name, CAMERA),
            congestion_control=zenoh.CongestionControl.DROP,
            express=True,
        )
        for name in (options.vehicle, options.another)
    )
    flood = _Flood(options.bundle, own, another)
    thread = Thread(target=flood.run, daemon=True)
    thread.start()
    for line in sys.stdin:
        if not thread.is_alive():
            return 1
        if (asked := json.loads(line)) is None:
            print(flood.rate(), flush=True)
        else:
            flood.begin(*asked)
    session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
