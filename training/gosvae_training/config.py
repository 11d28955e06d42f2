"""Typed training configuration, read from YAML and checked before anything starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class ConfigError(Exception):
    """A configuration file has an unknown, missing or impossible value."""


@dataclass(frozen=True)
class Schedule:
    """One training run: AdamW with one warm-up and cosine decay."""

    steps: int
    batch: int
    crop: tuple[int, int]
    """Height and width in pixels."""
    learning_rate: float
    backbone_learning_rate: float
    frozen_blocks: int
    """EfficientNet blocks, counted from the stem, that keep their ImageNet or expert weights."""
    warmup: float = 0.06
    """Share of the steps with rising learning rate; tokens are not quantised during it."""
    weight_decay: float = 1e-2
    gradient_clip: float = 2.0
    ema: float = 0.998


@dataclass(frozen=True)
class Tokens:
    """Shape of the token stream: residual levels of `codes` vectors with `dim` numbers each."""

    levels: int
    codes: int
    dim: int


@dataclass(frozen=True)
class Prior:
    """How the entropy coder's model is fitted at export."""

    views: int = 16
    """Pairs of views that are made of each still."""
    steps: int = 2500
    """Of training, for each level."""


@dataclass(frozen=True)
class Config:
    """Everything that decides what a bundle holds."""

    name: str
    seed: int
    input_size: tuple[int, int]
    """Height and width of the frames that the encoder takes, in pixels."""
    expert: Schedule
    tokens: Tokens
    segmenter: Schedule
    prior: Prior = Prior()
    notes: str = ""
    """What else should be known of how a bundle was trained; goes into its manifest and card."""


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a mapping, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{where}: unknown {unknown}; it takes {sorted(fields)}")
    missing = sorted(
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name not in values
    )
    if missing:
        raise ConfigError(f"{where}: missing {missing}")
    kinds = {"expert": Schedule, "segmenter": Schedule, "tokens": Tokens, "prior": Prior}
    built: dict[str, Any] = {}
    for name, value in values.items():
        annotation = fields[name].type
        if name in kinds and annotation != "str":
            built[name] = _build(kinds[name], value, f"{where}.{name}")
        elif annotation == "tuple[int, int]":
            if not (
                isinstance(value, list)
                and len(value) == 2
                and all(type(v) is int and v > 0 for v in value)
            ):
                raise ConfigError(f"{where}.{name}: expected [height, width], got {value!r}")
            built[name] = tuple(value)
        elif annotation == "float":
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"{where}.{name}: expected a number from 0, got {value!r}")
            built[name] = float(value)
        elif annotation == "int":
            if type(value) is not int or value < 0:
                raise ConfigError(f"{where}.{name}: expected a whole number from 0, got {value!r}")
            built[name] = value
        elif not isinstance(value, str) or not value:
            raise ConfigError(f"{where}.{name}: expected text, got {value!r}")
        else:
            built[name] = value
    return kind(**built)


def load_config(path: Path) -> Config:
    """Read a YAML file.

    Raises:
        ConfigError: the file is missing or unreadable, or a value is unknown, absent or of the
            wrong kind; the message names it.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    return _build(Config, values, str(path))
