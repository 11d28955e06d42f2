"""Settings read from YAML: nothing unknown, nothing missing, nothing of the wrong type."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, PositiveInt, ValidationError


class ConfigError(Exception):
    """A configuration file has an unknown, missing or impossible value."""


class Strict(BaseModel):
    """Unknown names, wrong types and values that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Size = tuple[PositiveInt, PositiveInt]
"""Height and width in pixels."""


def kind_or(default: str) -> Discriminator:
    """Return what tells the kinds of a union apart by their `kind`, which may be left out."""

    def kind(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, dict) else value.kind

    return Discriminator(kind)


def override(values: dict[str, Any], text: str) -> None:
    """Set one value of a configuration in place, from text such as ``expert.steps=1100``.

    Numbers, lists and truth values are written as in JSON; anything else is text.

    Raises:
        ConfigError: `text` is no ``name=value``, or leads through something that has no parts.
    """
    path, equals, raw = text.partition("=")
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise ConfigError(f"{text!r}: expected name=value, for instance expert.steps=1100")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{text!r}: {parent} is {values!r}, which has no parts")
    try:
        values[last] = json.loads(raw)
    except ValueError:
        values[last] = raw


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: the file is missing or unreadable, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping, got {values!r}")
    return values


def read_changed(path: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, and change it; see :func:`override`.

    Raises:
        ConfigError: see :func:`read_yaml` and :func:`override`.
    """
    values = read_yaml(path)
    for text in overrides:
        override(values, text)
    return values


Model = TypeVar("Model", bound=Strict)


def parse(kind: type[Model], values: dict[str, Any], where: object) -> Model:
    """Check `values` and return them as `kind`.

    Raises:
        ConfigError: a value is unknown, absent or of the wrong kind; the message names it, and
            `where` it stands.
    """
    try:
        # As JSON, where a list may stand for a tuple.
        return kind.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ConfigError(
            "; ".join(
                f"{where}: {'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}"
                for each in error.errors()
            )
        ) from error
