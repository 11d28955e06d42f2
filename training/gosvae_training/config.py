"""Typed training configuration, read from YAML and checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError


class ConfigError(Exception):
    """A configuration file has an unknown, missing or impossible value."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Size = tuple[PositiveInt, PositiveInt]
"""Height and width in pixels."""


class Source(_Strict):
    """One split of one dataset, the folder of which the command line names."""

    split: str
    share: float = Field(1.0, gt=0)
    """Part of every batch, against the sum of the shares."""


class Data(_Strict):
    """Which datasets are trained on and which are validated on, by the names given to ``--data``.

    Their layouts are known from their folders; see :mod:`gosvae_training.data`.
    """

    train: dict[str, Source] = {"camvid": Source(split="train")}
    val: dict[str, Source] = {"camvid": Source(split="val")}

    def names(self) -> list[str]:
        """Return the names of all datasets, each once, in order."""
        return list(dict.fromkeys([*self.train, *self.val]))


class Schedule(_Strict):
    """One training run: AdamW with one warm-up and cosine decay."""

    steps: NonNegativeInt
    batch: PositiveInt
    crop: Size
    learning_rate: float = Field(ge=0)
    backbone_learning_rate: float = Field(ge=0)
    frozen_blocks: NonNegativeInt
    """EfficientNet blocks, counted from the stem, that keep their ImageNet or expert weights."""
    warmup: float = Field(0.06, ge=0, le=1)
    """Share of the steps with rising learning rate; tokens are not quantised during it."""
    weight_decay: float = Field(1e-2, ge=0)
    gradient_clip: float = Field(2.0, gt=0)
    ema: float = Field(0.998, ge=0, lt=1)


class Tokens(_Strict):
    """Shape of the token stream: residual levels of `codes` vectors with `dim` numbers each."""

    levels: PositiveInt
    codes: PositiveInt
    dim: PositiveInt


class Config(_Strict):
    """Everything that decides what a bundle holds."""

    name: str = Field(min_length=1)
    seed: NonNegativeInt
    input_size: Size
    """Of the frames that the encoder takes."""
    labels: Literal["camvid", "cityscapes", "ade20k"] = "camvid"
    """Label space; masks of datasets with another one are mapped into it by name."""
    data: Data = Data()
    expert: Schedule
    tokens: Tokens
    segmenter: Schedule
    notes: str = ""
    """What else should be known of how a bundle was trained; goes into its manifest and card."""


class Identity(NamedTuple):
    """What decides the weights of a stage, ``name: value`` each."""

    lines: list[str]
    defaults: frozenset[str]
    """Those that hold a default: a checkpoint older than the field does not have them."""


def identify(config: Config, fields: Iterable[str], **more: str) -> Identity:
    """Return what of `config` decides a stage's weights: its `fields`, and `more`."""

    def walk(name: str, value: Any, default: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(value, BaseModel):
            for key, each in value:
                field = type(value).model_fields[key]
                unchanged = not field.is_required() and each == field.get_default()
                yield from walk(f"{name}.{key}", each, default or unchanged)
        elif isinstance(value, dict):
            for key, each in value.items():
                yield from walk(f"{name}.{key}", each, default)
        else:
            yield f"{name}: {value}", default

    flat = []
    for name in fields:
        value, field = getattr(config, name), Config.model_fields[name]
        flat += walk(name, value, not field.is_required() and value == field.get_default())
    lines = [line for line, _ in flat] + [f"{name}: {value}" for name, value in more.items()]
    return Identity(lines, frozenset(line for line, default in flat if default))


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


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and change it by `overrides`; see :func:`override`.

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
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping, got {values!r}")
    for text in overrides:
        override(values, text)
    try:
        # As JSON, where a list may stand for a tuple.
        return Config.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ConfigError(
            "; ".join(
                f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}"
                for each in error.errors()
            )
        ) from error
