"""Experts: those trained here, ESPNet, and any torch or ONNX network that somebody brings.

Every expert takes frames, uint8 or float (N, H, W, 3) RGB from 0 to 255, and gives logits
(N, classes, h, w) in the configuration's label space.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from gosvae_codec.labels import CITYSCAPES, LabelSpace, label_space

from ..strict import ConfigError
from . import settings
from .espnet import EspNet
from .expert import Expert
from .onnx_detector import OnnxDetector
from .onnx_expert import Feed, OnnxExpert
from .translate import Translate, translate_channels


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
    """Experts of several tasks side by side.

    Called with frames it gives the logits of those that make masks, one after another: logarithms
    of their probabilities, (N, classes of all, h, w), at the finest of their strides.

    Attributes:
        experts: in the order of the tasks.
        size: height and width that frames are shown at: the largest of those that experts of masks
            have of their own, None where none has any.
    """

    def __init__(self, experts: Sequence[nn.Module], spaces: Sequence[LabelSpace]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self._classes = [len(space) for space in spaces]
        sizes = [getattr(each, "size", None) for each in experts]
        self.size = max((each for each in sizes if each), key=math.prod, default=None)

    def forward(self, frames: Tensor) -> Tensor:
        made = [
            expert(frames).float().log_softmax(1)
            for expert in self.experts
            if not isinstance(expert, OnnxDetector)
        ]
        sides = max((each.shape[2:] for each in made), key=math.prod)
        return torch.cat([F.interpolate(each, size=sides, mode="bilinear") for each in made], 1)

    def boxes(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the boxes of all detectors, whose classes are counted one after another.

        See :meth:`.onnx_detector.OnnxDetector.boxes`.
        """
        found, first = [np.zeros((0, 5), np.float32)], 0
        for expert, classes in zip(self.experts, self._classes, strict=True):
            if isinstance(expert, OnnxDetector):
                found.append(expert.boxes(frame) + np.float32([first, 0, 0, 0, 0]))
                first += classes
        return np.concatenate(found)


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
    return experts[0] if len(experts) == 1 else SeveralExperts(experts, spaces)


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
    after = translate_channels(network.channels, labels)
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


def frozen(network: settings.Network | settings.Detector, labels: LabelSpace) -> nn.Module:
    """Return an expert that only serves; see :func:`build_expert`.

    Raises:
        ConfigError: it is an FPN without weights, or see :class:`.onnx_detector.OnnxDetector`.
    """
    if isinstance(network, settings.Detector):
        return OnnxDetector(network, translate_channels(network.channels, labels))
    if isinstance(network, settings.Fpn) and not network.weights:
        raise ConfigError("an expert of kind fpn that is not trained in this run needs weights")
    return build_expert(network, labels).eval().requires_grad_(False)


def features(expert: nn.Module, frames: Tensor) -> list[Tensor]:
    """Return the backbone's features; raise ConfigError where an expert has no backbone."""
    if not isinstance(expert, Expert):
        raise ConfigError("losses.features needs an expert of kind fpn")
    return [F.normalize(each.float(), dim=1) for each in expert.backbone(frames)]
