"""The runs that are measured of the system, and the file of results."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import onnxruntime
import rclpy
from sensor_msgs.msg import CompressedImage

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.draft import write_text
from gosvae_common.topics import COMPRESSED_IMAGE, PACKETS
from gosvae_msgs.msg import TokenPacket

from .files import machine

SIZES = {"480x360": (360, 480), "1024x512": (512, 1024), "2048x1024": (1024, 2048)}
"""Height and width."""
TRANSPORTS: Mapping[str, tuple[str, type] | None] = {
    "tokens": (PACKETS, TokenPacket),
    "jpeg": (COMPRESSED_IMAGE, CompressedImage),
    "raw": None,
}
"""Topic and message type between vehicle and edge; None: the camera's own topic."""
RATES = (10, 15, 30)
CAMERAS = (1, 2, 4)
DISTURBED = 0.15
"""Cores that other processes may use; a row with more is measured again."""


@dataclass(frozen=True)
class Run:
    """One measurement: transport, frame size, number of cameras, rate of each in Hz."""

    transport: str
    size: str
    cameras: int
    rate: float


def runs(quick: bool) -> list[Run]:
    """Return the runs, the `quick` ones first; runs in sequence share processes."""
    some = [Run("tokens", size, 1, rate) for size in SIZES for rate in RATES]
    some += [Run(*each) for each in product(("jpeg", "raw"), SIZES, (1,), RATES[:2])]
    some += [Run("tokens", "480x360", cameras, 10) for cameras in CAMERAS[1:]]
    every = [Run(*each) for each in product(TRANSPORTS, SIZES, CAMERAS, RATES)]
    return some if quick else list(dict.fromkeys(some + every))


def _run_of(row: Mapping[str, Any]) -> Run:
    return Run(*(row[key] for key in Run.__annotations__))


class Results:
    """The JSON file: conditions of the measurement, and the rows measured so far."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Open the file, or start an empty one.

        Raises:
            GosvaeError: it holds results of something else, or no results.
        """
        self._path = path
        empty: dict[str, Any] = {
            "runs": [],
            "sustained": [],
            "soak": None,
            "stages": None,
            "references": None,
        }
        self.found = {**about, **empty}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            different = [key for key in about if found[key] != about[key] and key != "date"]
            self.found = {**found, **{key: found[key] for key in empty}}
        except (ValueError, KeyError, TypeError) as error:
            raise GosvaeError(f"{path} holds no results: remove it, or name another") from error
        if different:
            raise GosvaeError(
                f"{path} has results of other {', '.join(different)}: remove it, or name another"
            )

    def write(self) -> None:
        """Write the file, whole or not at all."""
        write_text(self._path, json.dumps(self.found, indent=1) + "\n")

    def todo(self, planned: Sequence[Run]) -> list[Run]:
        """Return the runs that are missing or were disturbed."""
        done = {_run_of(row) for row in self.found["runs"] if row["cpu_of_others"] <= DISTURBED}
        return [run for run in planned if run not in done]

    def add(self, row: dict[str, Any]) -> None:
        """Add a run's figures; of two rows of one run, the less disturbed is kept."""
        before = [each for each in self.found["runs"] if _run_of(each) == _run_of(row)]
        best = min([*before, row], key=lambda each: float(each["cpu_of_others"]))
        rest = [each for each in self.found["runs"] if _run_of(each) != _run_of(row)]
        order = runs(quick=False)
        self.found["runs"] = sorted([*rest, best], key=lambda each: order.index(_run_of(each)))

    def climbs(self, planned: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the transports and sizes whose highest rate is missing."""
        done = {(row["transport"], row["size"]) for row in self.found["sustained"]}
        return [each for each in planned if each not in done]


def about(bundle: ModelBundle, drive: Path) -> dict[str, Any]:
    """Return the conditions of a measurement: bundle, expert, data, machine, versions, date."""
    return {
        "bundle": bundle.name,
        "fingerprint": f"{bundle.fingerprint:016x}",
        "expert": str(bundle.semantic.record["expert"]["sha256"])[:16],
        "data": {"name": drive.name, "sha256": hashlib.sha256(drive.read_bytes()).hexdigest()},
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
            "numba": version("numba"),
            "rmw": rclpy.get_rmw_implementation_identifier(),
        },
        "date": str(date.today()),
    }
