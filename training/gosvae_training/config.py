"""Everything that decides what a bundle holds, checked before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from gosvae_codec.errors import LabelError
from gosvae_codec.labels import LABEL_SPACES, LabelSpace, label_space
from gosvae_codec.tasks import TASK_NAME

from .models.settings import (
    Detector,
    Fpn,
    FurtherTask,
    Labels,
    LabelSender,
    Masks,
    Network,
    Pixels,
    Tokens,
    Upper,
)
from .strict import Size, Strict, kind_or, parse, read_changed

SEMANTIC = "semantic"
"""Name of a bundle's first task."""


class Source(Strict):
    """One split of one dataset, the folder of which the command line names."""

    split: str
    share: float = Field(default=1.0, gt=0)
    """Part of every batch, against the sum of the shares."""
    every: PositiveInt = 1
    """One frame in so many is taken."""
    range: tuple[float, float] = (0.0, 1.0)
    """From which share of the frames to which, in order."""
    topic: str = ""
    """Of a bag with several image topics."""

    @field_validator("range")
    @classmethod
    def _range_rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError("give two rising shares from 0 to 1")
        return value


class Data(Strict):
    """Which datasets are trained on and which are validated on, by the names given to ``--data``.

    Their layouts are known from their folders; see :mod:`gosvae_training.data`.
    """

    train: Mapping[str, Source] = {"camvid": Source(split="train")}
    val: Mapping[str, Source] = {"camvid": Source(split="val")}
    compression: float = Field(default=0.0, ge=0, le=1)
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
    """What the expert looks at: every crop anew, or each frame once, which is the default of codecs
    that imitate somebody's own expert: it need not know crops. With ``frame`` everything is
    kept in memory (2.6 bytes a pixel and class beside the frame, a sixteenth of it logits), steps
    take less time, and losses are computed at half and a quarter of the crop's sides."""
    validate_every: PositiveInt = 500
    """Steps from one validation to the next."""
    warmup: float = Field(default=0.06, ge=0, le=1)
    """Share of the steps with rising learning rate; tokens are not quantised during it."""
    weight_decay: float = Field(default=1e-2, ge=0)
    gradient_clip: float = Field(default=2.0, gt=0)
    ema: float = Field(default=0.998, ge=0, lt=1)


class Expert(Schedule):
    """The expert and its training; without steps it stays as its weights have it."""

    network: Network = Fpn()


class Losses(Strict):
    """Weights of the terms that the tokens are trained by."""

    imitation: float = Field(default=1.0, ge=0)
    """Jensen-Shannon divergence to the guides' output (GOS-VAE, equation 3)."""
    distillation: float = Field(default=1.0, ge=0)
    """Kullback-Leibler divergence from the guides' output."""
    supervised: float = Field(default=0.5, ge=0)
    """Cross entropy and Dice against the labels."""
    expert_labels: float = Field(default=0.0, ge=0)
    """Cross entropy and Dice against the expert's labels, which thin classes need where there are
    no others; with ``codec.teacher: frame``."""
    boxes: float = Field(default=0.1, ge=0)
    """Centres and sides of detectors' boxes, where ``tasks`` has any."""
    pixels: float = Field(default=0.0, ge=0)
    """Mean absolute difference of pixels, 0 to 1."""
    perceptual: float = Field(default=0.0, ge=0)
    perceptual_network: Literal["efficientnet", "lpips"] = "efficientnet"
    adversarial: float = Field(default=0.0, ge=0)
    features: float = Field(default=0.0, ge=0)
    """Of pictures, the mean absolute difference of the first guide's features; it has to be a FPN.
    With a decoder of kind upper, the share of the variance of the expert's features that the
    decoder's leave unexplained."""
    policy: float = Field(default=0.0, ge=0)
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
    labels: str = "camvid"
    """Label space: camvid, cityscapes, ade20k, or a YAML file of labels; masks of datasets with
    another one are mapped into it by name."""
    data: Data = Data()
    expert: Expert
    guides: Mapping[str, Network] = {}
    """Further experts to imitate, each with weights."""
    tasks: Mapping[str, FurtherTask] = {}
    """Further masks and boxes that the same tokens are decoded to, by the names of these tasks."""
    tokens: Annotated[
        Annotated[Tokens, Tag("tokens")]
        | Annotated[LabelSender, Tag("label_sender")]
        | Annotated[Labels, Tag("labels")],
        kind_or("tokens"),
    ]
    losses: Losses = Losses()
    codec: Schedule
    """Training of what `tokens` describes."""
    inertia: tuple[NonNegativeFloat, ...] = ()
    """How much further away than the nearest a code may be, in squared distance, and still be kept
    from the frame referred to: one number for each level of tokens, or none for 0. Numbers of
    vectors have variance 1. It matters to nothing before export."""
    bit_cost: NonNegativeFloat = 0.0
    """Squared distance that a bit of the first level's tokens is worth, see
    :mod:`gosvae_training.bundle.bit_cost`; distances of a label sender's labels are twice the
    differences of their logits. It matters to nothing before export, but where a label sender's
    labels are the first level: they cost bits in training too."""
    encoder_int8_only: bool = False
    """Whether a bundle's encoder computes in 8 bits on every processor, and its float version, of
    nearly twice the size, is not kept."""
    prior: Prior = Prior()
    notes: str = ""
    """What else should be known of how a bundle was trained; goes into its manifest and card."""
    command: str = ""
    """What wrote this configuration; stands in the card as how the bundle was made."""

    def spaces(self) -> list[LabelSpace]:
        """Return the label spaces of all masks: `labels`, then those of ``tasks``."""
        further = [t.labels for t in self.tasks.values() if not isinstance(t.network, Detector)]
        return [label_space(name) for name in (self.labels, *further)]

    def detected(self) -> list[LabelSpace]:
        """Return the label spaces of those of ``tasks`` that are boxes."""
        return [
            label_space(t.labels) for t in self.tasks.values() if isinstance(t.network, Detector)
        ]

    @field_validator("labels")
    @classmethod
    def _labels_are_a_space(cls, name: str) -> str:
        try:
            label_space(name)
        except LabelError as error:
            raise ValueError(str(error)) from error
        return name

    @field_validator("tasks")
    @classmethod
    def _tasks_have_names_and_labels(
        cls, tasks: Mapping[str, FurtherTask]
    ) -> Mapping[str, FurtherTask]:
        for name, task in tasks.items():
            if not TASK_NAME.fullmatch(name) or name == SEMANTIC:
                raise ValueError(
                    f"{name!r}: a task's name has lower-case letters, digits and _, begins with a "
                    f"letter, and is not {SEMANTIC}, the first one's"
                )
            cls._labels_are_a_space(task.labels)
        return tasks

    @model_validator(mode="after")
    def _tasks_are_taught_by_frame(self) -> Config:
        masks = isinstance(self.tokens, Tokens) and isinstance(self.tokens.decoder, Masks)
        if self.tasks and not (
            masks and self.codec.teacher == "frame" and self.losses.supervised == 0
        ):
            raise ValueError(
                "tasks: need tokens with a decoder of kind masks, codec.teacher: frame and "
                "losses.supervised: 0, as labels of datasets are the first task's"
            )
        return self

    @model_validator(mode="after")
    def _losses_fit_the_decoder(self) -> Config:
        draws = isinstance(self.tokens, Labels) or (
            isinstance(self.tokens, Tokens) and isinstance(self.tokens.decoder, Pixels)
        )
        if draws and self.encoder_int8_only:
            raise ValueError("encoder_int8_only: bundles that make pictures have no 8-bit networks")
        if not draws:
            for name in ("pixels", "perceptual", "adversarial", "policy"):
                if getattr(self.losses, name):
                    raise ValueError(f"losses.{name} needs tokens.decoder.kind: pixels")
            upper = isinstance(self.tokens, Tokens) and isinstance(self.tokens.decoder, Upper)
            if self.losses.features and not upper:
                raise ValueError("losses.features needs tokens.decoder.kind: pixels or upper")
            if self.losses.features and (self.codec.teacher == "frame" or self.guides):
                raise ValueError(
                    "losses.features with a decoder of kind upper needs codec.teacher: crop and no "
                    "guide but the expert"
                )
            if isinstance(self.tokens, Tokens) and not self.tokens.codes:
                raise ValueError("tokens.codes: 0 needs tokens.decoder.kind: pixels")
        if self.losses.rate and (
            not isinstance(self.tokens, Tokens)
            or not self.tokens.codes
            or len(self.losses.rate) != self.tokens.levels
        ):
            raise ValueError("losses.rate: needs tokens with codes, and a weight for each level")
        if self.losses.expert_labels and self.codec.teacher != "frame":
            raise ValueError("losses.expert_labels needs codec.teacher: frame")
        if self.codec.teacher == "frame" and (draws or self.guides):
            raise ValueError("codec.teacher: frame needs masks, and no guide but the expert")
        if self.expert.teacher == "frame":
            raise ValueError("expert.teacher: experts have none")
        return self

    @model_validator(mode="after")
    def _inertia_fits_the_levels(self) -> Config:
        levels = {"tokens": 1, "label_sender": 1, "labels": 0}[self.tokens.kind]
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


def identify(config: Config, fields: Collection[str], **more: str) -> Identity:
    """Return what of `config` decides a stage's weights.

    Args:
        config: the configuration.
        fields: names of what matters in it.
        more: what matters besides.
    """
    if "labels" in fields and config.labels not in LABEL_SPACES:
        # Of a file what stands in it counts.
        more["labels.content"] = str(label_space(config.labels).labels)
    if "tasks" in fields:
        for name, task in config.tasks.items():
            if task.labels not in LABEL_SPACES:
                more[f"tasks.{name}.labels.content"] = str(label_space(task.labels).labels)
    lines, defaults = identify_fields(config, fields)
    return Identity([*lines, *(f"{name}: {value}" for name, value in more.items())], defaults)


def identify_fields(config: BaseModel, fields: Iterable[str]) -> Identity:
    """Return the values of some fields of any configuration, down to the innermost ones."""

    def walk(name: str, value: Any, default: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(value, BaseModel):
            for key in type(value).model_fields:
                yield from field(f"{name}.{key}", value, key, default)
        elif isinstance(value, dict):
            for key, each in value.items():
                yield from walk(f"{name}.{key}", each, default)
        else:
            yield f"{name}: {value}", default

    def field(
        name: str, owner: BaseModel, key: str, default: bool = False
    ) -> Iterator[tuple[str, bool]]:
        value, about = getattr(owner, key), type(owner).model_fields[key]
        unchanged = not about.is_required() and value == about.get_default()
        yield from walk(name, value, default or unchanged)

    flat = [pair for name in fields for pair in field(name, config, name)]
    return Identity(
        [line for line, _ in flat], frozenset(line for line, default in flat if default)
    )


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration and change it by `overrides`; see :func:`override`.

    Raises:
        ConfigError: see :func:`read_changed` and :func:`parse`.
    """
    return parse(Config, _taught_by_frame(read_changed(path, overrides)), path)


def _taught_by_frame(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration in which somebody's own expert, unless told otherwise, sees frames."""

    def part(*names: str) -> Any:
        found: Any = values
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    foreign = part("expert", "network", "kind") in ("onnx", "torch", "espnet")
    tokens, decoder = part("tokens", "kind"), part("tokens", "decoder", "kind")
    masks = tokens in (None, "tokens", "label_sender") and decoder in (None, "masks")
    if not foreign or not masks or part("guides") or not isinstance(values.get("codec"), dict):
        return values
    return {**values, "codec": {"teacher": "frame", **values["codec"]}}
