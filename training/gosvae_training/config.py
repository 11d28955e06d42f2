"""Typed training configuration, read from YAML and checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)


class ConfigError(Exception):
    """A configuration file has an unknown, missing or impossible value."""


class Strict(BaseModel):
    """Unknown names, wrong types and values that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Size = tuple[PositiveInt, PositiveInt]
"""Height and width in pixels."""


class Source(Strict):
    """One split of one dataset, the folder of which the command line names."""

    split: str
    share: float = Field(1.0, gt=0)
    """Part of every batch, against the sum of the shares."""


class Data(Strict):
    """Which datasets are trained on and which are validated on, by the names given to ``--data``.

    Their layouts are known from their folders; see :mod:`gosvae_training.data`.
    """

    train: dict[str, Source] = {"camvid": Source(split="train")}
    val: dict[str, Source] = {"camvid": Source(split="val")}
    compression: float = Field(0.0, ge=0, le=1)
    """Share of the crops trained on that are as a receiver of compressed pictures has them."""

    def names(self) -> list[str]:
        """Return the names of all datasets, each once, in order."""
        return list(dict.fromkeys([*self.train, *self.val]))


class Schedule(Strict):
    """One training run: AdamW with one warm-up and cosine decay."""

    steps: NonNegativeInt
    batch: PositiveInt
    crop: Size
    learning_rate: float = Field(ge=0)
    backbone_learning_rate: float = Field(ge=0)
    """Of what is pretrained; 0 leaves it as it is."""
    frozen_blocks: NonNegativeInt
    """EfficientNet blocks, counted from the stem, that keep their ImageNet or expert weights."""
    teacher: Literal["crop", "frame"] = "crop"
    """What the expert looks at: every crop anew, or each frame once. With ``frame`` everything is
    kept in memory (2.6 bytes a pixel and class beside the frame, a sixteenth of it logits), steps
    take less time, and losses are computed at half and a quarter of the crop's sides."""
    validate_every: PositiveInt = 500
    """Steps from one validation to the next."""
    warmup: float = Field(0.06, ge=0, le=1)
    """Share of the steps with rising learning rate; tokens are not quantised during it."""
    weight_decay: float = Field(1e-2, ge=0)
    gradient_clip: float = Field(2.0, gt=0)
    ema: float = Field(0.998, ge=0, lt=1)


def _kind(default: str) -> Discriminator:
    def kind(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, dict) else value.kind

    return Discriminator(kind)


# --- experts


class Fpn(Strict):
    """EfficientNet-Lite with a feature pyramid, trained here from ImageNet weights."""

    kind: Literal["fpn"] = "fpn"
    backbone: Literal["lite0", "lite2"] = "lite0"
    weights: str = ""
    """A checkpoint to start from, ``runs/<name>/expert/last.pt``."""


class EspNet(Strict):
    """ESPNet for Cityscapes (Mehta et al. 2018)."""

    kind: Literal["espnet"]
    weights: str
    """A safetensors file of its authors' weights."""
    p: PositiveInt = 2
    q: PositiveInt = 8


class Picture(Strict):
    """What a foreign network takes: ``(pixels - mean) / std``, pixels from 0 to 255."""

    order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)


class Torch(Strict):
    """Any torch network from float (N, 3, H, W) to logits (N, channels, h, w)."""

    kind: Literal["torch"]
    factory: str
    """``module:function`` that returns it, weights and all."""
    channels: list[str]
    """Label name of each channel; empty for none."""
    picture: Picture = Picture()


class Onnx(Strict):
    """Any ONNX network from float (N, 3, H, W) to logits (N, channels, h, w)."""

    kind: Literal["onnx"]
    path: str
    channels: list[str]
    """Label name of each channel; empty for none."""
    picture: Picture = Picture()


Network = Annotated[
    Annotated[Fpn, Tag("fpn")]
    | Annotated[EspNet, Tag("espnet")]
    | Annotated[Torch, Tag("torch")]
    | Annotated[Onnx, Tag("onnx")],
    _kind("fpn"),
]
"""Any expert."""


class Expert(Schedule):
    """The expert and its training; without steps it stays as its weights have it."""

    network: Network = Fpn()


# --- what is sent, and what is made of it


class Backbone(Strict):
    """Encoder that starts as the expert's backbone; a token for 16x16 pixels."""

    kind: Literal["backbone"] = "backbone"


class Convolutional(Strict):
    """Encoder of a VQ-VAE, from scratch."""

    kind: Literal["convolutional"]
    stride: Literal[4, 8, 16, 32]
    """Pixels from one token to the next."""
    width: PositiveInt = 64
    """Channels at stride 2; doubled twice on the way."""
    blocks: NonNegativeInt = 1


class Light(Strict):
    """Encoder of a light vehicle: the expert's first blocks on a smaller frame."""

    kind: Literal["light"]
    shrink: Literal[1, 2, 4] = 2
    """Pixels of a side that are averaged before the network."""
    blocks: PositiveInt
    """Of the expert's backbone that are kept."""
    stride: Literal[4, 8, 16, 32]
    """Pixels from one vector to the next; at least twice `shrink`."""
    width: PositiveInt
    """Channels of what joins the blocks' features."""


class Trunk(Strict):
    """Encoder that is a trained segmenter but for its classifier; a token for 16x16 pixels.

    It learns at ``backbone_learning_rate``.
    """

    kind: Literal["trunk"]
    segmenter: Light | None = None
    """The network of a label sender; without one, the expert's."""
    weights: str = ""
    """The label sender's checkpoint, ``runs/<name>/segmenter/last.pt``."""
    narrow: PositiveInt | None = None
    """Channels that its features are brought down to, before 16x16 pixels are joined."""
    width: PositiveInt = 256
    """Channels of what joins them."""

    @model_validator(mode="after")
    def _segmenter_has_weights(self) -> Trunk:
        if (self.segmenter is None) != (not self.weights):
            raise ValueError("segmenter and weights: give both, or none for the expert itself")
        return self


class Masks(Strict):
    """Decoder straight to logits."""

    kind: Literal["masks"] = "masks"
    width: PositiveInt = 256
    blocks: NonNegativeInt = 6


class Pixels(Strict):
    """Decoder to a picture, which the expert then segments: the paper's way."""

    kind: Literal["pixels"]
    width: PositiveInt = 64
    """Channels at strides 1 and 2, a multiple of 8."""
    blocks: NonNegativeInt = 1


class Upper(Strict):
    """Decoder to the expert's features of strides 4 and 8, from which the expert goes on."""

    kind: Literal["upper"]
    width: PositiveInt = 96


class Tokens(Strict):
    """Token stream: residual levels of `codes` vectors with `dim` numbers each."""

    kind: Literal["tokens"] = "tokens"
    levels: PositiveInt
    codes: NonNegativeInt
    """0 sends the numbers themselves, 8 bits each: an autoencoder."""
    dim: PositiveInt
    encoder: Annotated[
        Annotated[Backbone, Tag("backbone")]
        | Annotated[Convolutional, Tag("convolutional")]
        | Annotated[Light, Tag("light")]
        | Annotated[Trunk, Tag("trunk")],
        _kind("backbone"),
    ] = Backbone()
    decoder: Annotated[
        Annotated[Masks, Tag("masks")]
        | Annotated[Pixels, Tag("pixels")]
        | Annotated[Upper, Tag("upper")],
        _kind("masks"),
    ] = Masks()


class Segmenter(Strict):
    """A light segmenter whose labels are the tokens: what tokens have to beat."""

    kind: Literal["segmenter"]
    encoder: Light


class Labels(Strict):
    """The expert's label map is sent, and a picture drawn from it, which the expert segments."""

    kind: Literal["labels"]
    width: PositiveInt = 96
    steps: PositiveInt = 8
    """Of the drawing."""


class Losses(Strict):
    """Weights of the terms that the tokens are trained by."""

    imitation: float = Field(1.0, ge=0)
    """Jensen-Shannon divergence to the guides' output (GOS-VAE, equation 3)."""
    distillation: float = Field(1.0, ge=0)
    """Kullback-Leibler divergence from the guides' output."""
    supervised: float = Field(0.5, ge=0)
    """Cross entropy and Dice against the labels."""
    pixels: float = Field(0.0, ge=0)
    """Mean absolute difference of pixels, 0 to 1."""
    perceptual: float = Field(0.0, ge=0)
    perceptual_network: Literal["efficientnet", "lpips"] = "efficientnet"
    adversarial: float = Field(0.0, ge=0)
    features: float = Field(0.0, ge=0)
    """Mean absolute difference of the first guide's features; it has to be a FPN."""
    policy: float = Field(0.0, ge=0)
    """Policy gradient on sampled tokens, rewarded by each frame's mIoU against the labels."""
    rate: tuple[NonNegativeFloat, ...] = ()
    """Of the bits of a token, for each level; none for tokens that may cost what they will."""


class Prior(Strict):
    """How the entropy coder's model is fitted at export."""

    views: PositiveInt = 16
    """Pairs of views that are made of each still."""
    steps: PositiveInt = 2500
    """Of training, for each level."""


class Config(Strict):
    """Everything that decides what a bundle holds."""

    name: str = Field(min_length=1)
    seed: NonNegativeInt
    input_size: Size
    """Of the frames that the encoder takes."""
    labels: Literal["camvid", "cityscapes", "ade20k"] = "camvid"
    """Label space; masks of datasets with another one are mapped into it by name."""
    data: Data = Data()
    expert: Expert
    guides: dict[str, Network] = {}
    """Further experts to imitate, each with weights."""
    tokens: Annotated[
        Annotated[Tokens, Tag("tokens")]
        | Annotated[Segmenter, Tag("segmenter")]
        | Annotated[Labels, Tag("labels")],
        _kind("tokens"),
    ]
    losses: Losses = Losses()
    segmenter: Schedule
    """Training of what `tokens` describes."""
    inertia: tuple[NonNegativeFloat, ...] = ()
    """How much further away than the nearest a code may be, in squared distance, and still be kept
    from the frame referred to: one number for each level of tokens, or none for 0. Numbers of
    vectors have variance 1. It matters to nothing before export."""
    prior: Prior = Prior()
    notes: str = ""
    """What else should be known of how a bundle was trained; goes into its manifest and card."""

    @model_validator(mode="after")
    def _losses_fit_the_decoder(self) -> Config:
        draws = isinstance(self.tokens, Labels) or (
            isinstance(self.tokens, Tokens) and isinstance(self.tokens.decoder, Pixels)
        )
        if not draws:
            for name in ("pixels", "perceptual", "adversarial", "features", "policy"):
                if getattr(self.losses, name):
                    raise ValueError(f"losses.{name} needs tokens.decoder.kind: pixels")
            if isinstance(self.tokens, Tokens) and not self.tokens.codes:
                raise ValueError("tokens.codes: 0 needs tokens.decoder.kind: pixels")
        if self.losses.rate and (
            not isinstance(self.tokens, Tokens)
            or not self.tokens.codes
            or len(self.losses.rate) != self.tokens.levels
        ):
            raise ValueError("losses.rate: needs tokens with codes, and a weight for each level")
        if self.segmenter.teacher == "frame" and (draws or self.guides):
            raise ValueError("segmenter.teacher: frame needs masks, and no guide but the expert")
        if self.expert.teacher == "frame":
            raise ValueError("expert.teacher: experts have none")
        return self

    @model_validator(mode="after")
    def _inertia_fits_the_levels(self) -> Config:
        levels = {"tokens": 1, "segmenter": 1, "labels": 0}[self.tokens.kind]
        if isinstance(self.tokens, Tokens):
            levels = self.tokens.levels
        if self.inertia and len(self.inertia) != levels:
            raise ValueError(f"inertia: {len(self.inertia)} numbers for {levels} levels")
        return self


class Identity(NamedTuple):
    """What decides the weights of a stage, ``name: value`` each."""

    lines: list[str]
    defaults: frozenset[str]
    """Those that a checkpoint older than the choice does not have."""


def identify(
    config: Config, fields: Iterable[str], later: Iterable[str] = (), **more: str
) -> Identity:
    """Return what of `config` decides a stage's weights.

    Args:
        config: the configuration.
        fields: names of what matters in it.
        later: the same, but checkpoints of old do not know it.
        more: what matters besides.
    """

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
    for name in later:
        flat += walk(name, getattr(config, name), True)
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


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration and change it by `overrides`; see :func:`override`.

    Raises:
        ConfigError: see :func:`read_yaml` and :func:`parse`.
    """
    values = read_yaml(path)
    for text in overrides:
        override(values, text)
    return parse(Config, values, path)
