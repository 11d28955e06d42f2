"""Experts: those trained here, ESPNet, and any torch or ONNX network that somebody brings.

Every expert takes frames, uint8 or float (N, H, W, 3) RGB from 0 to 255, and gives logits
(N, classes, h, w) in the configuration's label space.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from gosvae_codec.labels import CITYSCAPES, Label, LabelSpace

from ..data.datasets import translate
from ..strict import ConfigError
from . import settings
from .espnet import EspNet
from .expert import Expert

_ABSENT = -30.0
"""Logit of a class that a foreign network does not know."""


class Normalize(nn.Module):
    """Frames to what a foreign network takes, float (N, 3, H, W)."""

    def __init__(self, picture: settings.Picture) -> None:
        super().__init__()
        self.flip = picture.order == "bgr"
        self.register_buffer("mean", torch.tensor(picture.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(picture.std)[:, None, None])

    def forward(self, frames: Tensor) -> Tensor:
        pixels = frames.permute(0, 3, 1, 2).float()
        return ((pixels.flip(1) if self.flip else pixels) - self.mean) / self.std


class Translate(nn.Module):
    """Logits of foreign channels to logits of a label space.

    A class that several channels fall into gets the sum of their probabilities.
    """

    def __init__(self, channels: list[str], labels: LabelSpace) -> None:
        """Make the table.

        Args:
            channels: label name of each channel; empty for none.
            labels: label space wanted.

        Raises:
            ConfigError: no channel means any of the labels.
        """
        super().__init__()
        named = [(index, name) for index, name in enumerate(channels) if name]
        unique = list(dict.fromkeys(name for _, name in named))
        source = LabelSpace("foreign", tuple(Label(i, n, (0, 0, 0)) for i, n in enumerate(unique)))
        table = translate(source, labels)
        self.groups = [
            [index for index, name in named if table[unique.index(name)] == label.id]
            for label in labels.labels
        ]
        if not any(self.groups):
            raise ConfigError(f"channels {channels}: none is a label of {labels.name}")

    def forward(self, logits: Tensor) -> Tensor:
        absent = torch.full_like(logits[:, 0], _ABSENT)
        logits = logits.log_softmax(1)
        return torch.stack(
            [logits[:, group].logsumexp(1) if group else absent for group in self.groups], 1
        )


class TorchExpert(nn.Module):
    """A torch network between :class:`Normalize` and :class:`Translate`."""

    def __init__(self, before: Normalize, network: nn.Module, after: Translate) -> None:
        super().__init__()
        self.before, self.network, self.after = before, network, after

    def forward(self, frames: Tensor) -> Tensor:
        logits = self.network(self.before(frames))
        # As segmentation networks of torchvision and transformers give it.
        if isinstance(logits, dict):
            logits = logits["out"]
        return self.after(getattr(logits, "logits", logits))


class OnnxExpert(nn.Module):
    """An ONNX network between :class:`Normalize` and :class:`Translate`; has no gradient."""

    def __init__(self, before: Normalize, path: Path, after: Translate) -> None:
        super().__init__()
        self.before, self.path, self.after = before, path, after
        try:
            self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no base class of its own
            raise ConfigError(f"{path}: not an ONNX network that runs: {error}") from error
        self._input = self._session.get_inputs()[0].name

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxExpert:
        """Return itself: it has nothing that is trained."""
        return self

    def forward(self, frames: Tensor) -> Tensor:
        if frames.requires_grad:
            raise ConfigError(
                f"{self.path}: an ONNX network has no gradient, which decoding to pixels needs; "
                "bring the torch network instead (kind: torch)"
            )
        return self.after(self.network(self.before(frames)))

    def network(self, pixels: Tensor) -> Tensor:
        """Return the foreign network's own output."""
        logits = self._session.run(None, {self._input: pixels.cpu().numpy()})[0]
        return torch.from_numpy(logits).to(pixels.device)


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
        before = Normalize(
            settings.Picture(
                order="bgr",
                mean=(72.3923111, 82.90893555, 73.15840149),
                # Divided by 255 after the standard deviation, as its authors did.
                std=tuple(255 * each for each in (45.3192215, 46.15289307, 44.91483307)),
            )
        )
        names = [label.name for label in CITYSCAPES.labels]
        return TorchExpert(before, inner.eval(), Translate([*names, ""], labels))
    before, after = Normalize(network.picture), Translate(network.channels, labels)
    if isinstance(network, settings.Onnx):
        return OnnxExpert(before, Path(network.path), after)
    module, _, function = network.factory.partition(":")
    try:
        inner = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"factory {network.factory!r}: {error}; give module:function on PYTHONPATH"
        ) from error
    return TorchExpert(before, inner.eval(), after)


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
