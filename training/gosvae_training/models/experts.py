"""Experts: those trained here, ESPNet, and any torch or ONNX network that somebody brings.

Every expert takes frames, uint8 or float (N, H, W, 3) RGB from 0 to 255, and gives logits
(N, classes, h, w) in the configuration's label space.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from gosvae_codec.errors import LabelError
from gosvae_codec.labels import CITYSCAPES, Label, LabelSpace, label_space, translate

from ..strict import ConfigError
from . import settings
from .espnet import EspNet
from .expert import Expert
from .onnx_expert import Feed, OnnxExpert

_ABSENT = -30.0
"""Logit of a class that a foreign network does not know."""


class Translate(nn.Module):
    """Logits of foreign channels to logits of a label space.

    A class that several channels fall into gets the sum of their probabilities.
    """

    def __init__(
        self, channels: Sequence[str], labels: LabelSpace, source: LabelSpace | None = None
    ) -> None:
        """Make the table.

        Args:
            channels: label name of each channel, empty for none.
            labels: label space wanted.
            source: where given, the label space of the names, some of which `labels` may lack.

        Raises:
            ConfigError: no channel means one of the labels or, without `source`, one does not.
        """
        super().__init__()
        partial = source is not None
        if source is None:
            named = [name for name in dict.fromkeys(channels) if name]
            entries = tuple(Label(place, name, (0, 0, 0)) for place, name in enumerate(named))
            source = LabelSpace("channels", entries) if named else labels
        names, table = {each.id: each.name for each in labels.labels}, translate(source, labels)
        meant = {each.name: names.get(int(table[each.id]), "") for each in source.labels}
        self.table = [(name, meant[name] if name else "") for name in channels]
        self.groups = [
            [place for place, (_, label) in enumerate(self.table) if label == each.name]
            for each in labels.labels
        ]
        strange = [name for name, label in self.table if name and not label]
        if not any(self.groups) or (strange and not partial):
            raise ConfigError(
                f"channels {strange or list(channels)}: no labels of {labels.name}, which has "
                f"{', '.join(names.values())}; leave a channel out with an empty name\n{self}"
            )

    def __str__(self) -> str:
        rows = [("channel", "name", "label")]
        rows += [(str(place), *pair) for place, pair in enumerate(self.table)]
        return "\n".join(f"{a:>7}  {b or '-':20}  {c or '-'}" for a, b, c in rows)

    def check(self, channels: int) -> None:
        """Raise ConfigError unless a network with so many channels is meant."""
        if channels != len(self.table):
            raise ConfigError(
                f"the expert has {channels} channels, but {len(self.table)} are named; give a name "
                f"for each, empty for none\n{self}"
            )

    def forward(self, logits: Tensor) -> Tensor:
        self.check(logits.shape[1])
        absent = torch.full_like(logits[:, 0], _ABSENT)
        logits = logits.log_softmax(1)
        return torch.stack(
            [logits[:, group].logsumexp(1) if group else absent for group in self.groups], 1
        )


class TorchExpert(nn.Module):
    """A torch network between :class:`Feed` and :class:`Translate`."""

    def __init__(self, before: Feed, network: nn.Module, after: Translate) -> None:
        super().__init__()
        self.before, self.network, self.after = before, network, after

    def forward(self, frames: Tensor) -> Tensor:
        logits = self.network(self.before(frames))
        # As segmentation networks of torchvision and transformers give it.
        if isinstance(logits, dict):
            logits = logits["out"]
        return self.after(getattr(logits, "logits", logits))


class SeveralExperts(nn.Module):
    """Experts of several label spaces, whose logits are laid one after another.

    Each expert's are logarithms of its probabilities, (N, classes of all, h, w), at the finest of
    the experts' strides.

    Attributes:
        experts: in the order of the logits.
        classes: of each.
        size: height and width that frames are shown at: the largest of those that experts have of
            their own, None where no expert has any.
    """

    def __init__(self, experts: Sequence[nn.Module], classes: Sequence[int]) -> None:
        super().__init__()
        self.experts, self.classes = nn.ModuleList(experts), tuple(classes)
        sizes = [getattr(each, "size", None) for each in experts]
        self.size = max((each for each in sizes if each), key=math.prod, default=None)

    def forward(self, frames: Tensor) -> Tensor:
        made = [expert(frames).float().log_softmax(1) for expert in self.experts]
        sides = max((each.shape[2:] for each in made), key=math.prod)
        return torch.cat([F.interpolate(each, size=sides, mode="bilinear") for each in made], 1)


def with_tasks(
    expert: nn.Module, labels: LabelSpace, tasks: Mapping[str, settings.FurtherTask]
) -> nn.Module:
    """Return `expert`, of `labels`, with those of further tasks behind it, if there are any.

    Raises:
        ConfigError: see :func:`frozen`.
    """
    spaces = [label_space(task.labels) for task in tasks.values()]
    further = [
        frozen(task.network, space) for task, space in zip(tasks.values(), spaces, strict=True)
    ]
    return side_by_side([expert, *further], [labels, *spaces])


def side_by_side(experts: Sequence[nn.Module], spaces: Sequence[LabelSpace]) -> nn.Module:
    """Return the experts of these label spaces as one; the expert itself where it is the only."""
    if len(experts) == 1:
        return experts[0]
    return SeveralExperts(experts, [len(space) for space in spaces])


def build_expert(network: settings.Network, labels: LabelSpace) -> nn.Module:
    """Return the expert that a configuration describes, with its weights.

    Raises:
        ConfigError: a file is missing or does not fit, or a factory cannot be imported.
    """
    if isinstance(network, settings.Fpn):
        expert = Expert(len(labels), variant=network.backbone)
        if network.weights:
            load_weights(
                expert,
                lambda path: torch.load(path, weights_only=True)["averaged"],
                network.weights,
                network.kind,
            )
        else:
            expert.backbone.load_imagenet()
        return expert
    if isinstance(network, settings.EspNet):
        inner = EspNet(20, network.p, network.q)
        load_weights(inner, load_file, network.weights, network.kind)
        before = Feed(
            settings.Picture(
                order="bgr",
                mean=(72.3923111, 82.90893555, 73.15840149),
                # Divided by 255 after the standard deviation, as its authors did.
                std=tuple(255 * each for each in (45.3192215, 46.15289307, 44.91483307)),
            )
        )
        names = [label.name for label in CITYSCAPES.labels]
        return TorchExpert(before, inner.eval(), Translate([*names, ""], labels, CITYSCAPES))
    after = _translate(network.channels, labels)
    if isinstance(network, settings.Onnx):
        expert = OnnxExpert(network, len(after.table), after)
        try:
            after.check(expert.channels)
        except ConfigError as error:
            raise ConfigError(f"{network.path}: {error}") from error
        return expert
    module, _, function = network.factory.partition(":")
    try:
        inner = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"factory {network.factory!r}: {error}; give module:function on PYTHONPATH"
        ) from error
    return TorchExpert(Feed(network.picture), inner.eval(), after)


def _translate(channels: settings.Channels, labels: LabelSpace) -> Translate:
    """Return what turns the channels of a configuration into labels."""
    if not isinstance(channels, str):
        return Translate(channels, labels)
    try:
        source = label_space(channels)
    except LabelError as error:
        raise ConfigError(f"channels: {error}") from error
    return Translate([each.name for each in source.labels], labels, source)


def load_weights(
    network: nn.Module, read: Callable[[Path], dict[str, Tensor]], file: str, kind: str
) -> None:
    """Load what `read` makes of a file into a network, of which the message says the kind.

    Raises:
        ConfigError: the file is missing, or does not fit.
    """
    try:
        network.load_state_dict(read(Path(file)))
    except OSError as error:
        raise ConfigError(f"weights {file}: {error}") from error
    except (RuntimeError, KeyError) as error:
        raise ConfigError(f"weights {file}: not those of {kind}: {error}") from error


def frozen(network: settings.Network, labels: LabelSpace) -> nn.Module:
    """Return an expert that only serves; see :func:`build_expert`.

    Raises:
        ConfigError: it is an FPN without weights.
    """
    if isinstance(network, settings.Fpn) and not network.weights:
        raise ConfigError("an expert of kind fpn that is not trained in this run needs weights")
    return build_expert(network, labels).eval().requires_grad_(False)


def features(expert: nn.Module, frames: Tensor) -> list[Tensor]:
    """Return the backbone's features; raise ConfigError where an expert has no backbone."""
    if not isinstance(expert, Expert):
        raise ConfigError("losses.features needs an expert of kind fpn")
    return [F.normalize(each.float(), dim=1) for each in expert.backbone(frames)]
