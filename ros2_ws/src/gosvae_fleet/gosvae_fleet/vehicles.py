"""`vehicles.yaml`: which vehicles there are, and their cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gosvae_common.errors import UsageError

from .keys import vehicle_name


@dataclass(frozen=True)
class Vehicle:
    """A vehicle that may use the router."""

    name: str
    cameras: tuple[str, ...] = ("camera",)
    """Base names of its cameras' topics, without slashes around them."""
    packets_per_s: float = 200.0
    """Packets that the service takes from all of its cameras."""
    kbit_per_s: float = 2000.0
    """The same in kbit/s of packets, without headers of the link."""


def load_vehicles(path: Path) -> dict[str, Vehicle]:
    """Return the vehicles of a file by name, in the file's order.

    Raises:
        UsageError: the file is not there, not YAML, names a vehicle twice, or a value is
            impossible. The message says which.
    """
    try:
        with path.open() as file:
            content = yaml.load(file, _Loader)
    except OSError as error:
        raise UsageError(f"vehicles: {path}: {error.strerror}; see docs/uplink.md") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise UsageError(f"vehicles: {path}: {text}") from error
    try:
        return parse_vehicles(content)
    except UsageError as error:
        raise UsageError(f"vehicles: {path}: {error}") from error


def parse_vehicles(content: Any) -> dict[str, Vehicle]:
    """Return the vehicles that the content of a file describes; see :func:`load_vehicles`."""
    if not isinstance(content, dict) or not isinstance(content.get("vehicles"), dict):
        raise UsageError("expected `vehicles:`, and under it names such as v01: {}")
    if unknown := sorted(map(str, set(content) - {"defaults", "vehicles"})):
        raise UsageError(f"unknown {', '.join(unknown)}; there are defaults, vehicles")
    defaults = _mapping("defaults", content.get("defaults"))
    vehicles = {}
    for name, given in content["vehicles"].items():
        own = _mapping(str(name), given)
        vehicles[vehicle_name(name)] = _vehicle(name, {**defaults, **own})
    if not vehicles:
        raise UsageError("no vehicles; give at least one, such as v01: {}")
    return vehicles


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{name} is {value!r}; give {{cameras: [...]}}, or {{}}")
    return value


def _vehicle(name: str, values: Mapping[str, Any]) -> Vehicle:
    known = ("cameras", *_QUOTAS)
    if unknown := sorted(map(str, set(values) - set(known))):
        raise UsageError(f"{name}: unknown {', '.join(unknown)}; there are {', '.join(known)}")
    cameras = values.get("cameras", ["camera"])
    if not isinstance(cameras, list) or not all(isinstance(each, str) for each in cameras):
        raise UsageError(f"{name}: cameras is {cameras!r}; give a list such as [front, rear]")
    names = tuple(camera.strip("/") for camera in cameras)
    odd = [camera for camera in names if not camera or set(camera) & set("*$?# ") or "//" in camera]
    if not names or odd or len(set(names)) < len(names):
        raise UsageError(f"{name}: cameras is {cameras!r}; give different, non-empty names")
    quotas = {quota: values[quota] for quota in _QUOTAS if quota in values}
    for quota, value in quotas.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise UsageError(f"{name}: {quota} is {value!r}; give a number over 0")
    return Vehicle(name, names, **quotas)


_QUOTAS = ("packets_per_s", "kbit_per_s")


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice, of which YAML would silently keep the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See :class:`yaml.SafeLoader`."""
        names = [self.construct_object(each, deep) for each, _ in node.value]
        twice = [name for index, name in enumerate(names) if name in names[:index]]
        if twice:
            raise ValueError(f"{twice[0]} is there twice; give each vehicle a name of its own")
        return super().construct_mapping(node, deep)
