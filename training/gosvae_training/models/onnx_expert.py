"""ONNX networks as experts: what form a file has, and what stands before and after it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..strict import ConfigError
from . import settings

Values = Literal["logits", "softmax", "sigmoid", "labels"]
Array = npt.NDArray[Any]
Shape = Sequence[int]

OPSET = 18
"""Operator set of the graphs that are written."""
TYPES: dict[str, torch.dtype] = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8,
}
"""Of the pictures that networks take."""
_DEFAULT_SIZE = (256, 512)
"""Height and width of the frame that a network of free size is probed with."""
_ALMOST_ZERO = 1e-4
"""Probability that stands for none, as its logarithm has to be finite."""


class Form(NamedTuple):
    """What an ONNX file takes and makes, as running it once tells."""

    taken: str
    """Name of its input."""
    dtype: torch.dtype
    channels_last: bool
    single: bool
    """Whether it takes one frame at a time only."""
    size: tuple[int, int] | None
    """Height and width of what it takes; None if they are free."""
    made: str
    """Name of the output that is read."""
    layout: str
    """Of that output: ``nchw``, ``nhwc``, or ``nhw`` of labels."""
    values: Values
    channels: int
    """Classes; 0 for labels, of which a file does not say how many there are."""

    def __str__(self) -> str:
        size = "any size" if self.size is None else f"{self.size[1]}x{self.size[0]}"
        layout = "NHWC" if self.channels_last else "NCHW"
        classes = f"{self.channels} classes as {self.values}" if self.channels else "labels"
        return (
            f"input {self.taken}: {str(self.dtype).removeprefix('torch.')} {layout}, {size}, "
            f"{'one frame' if self.single else 'any number of frames'} at a time; "
            f"output {self.made}: {classes}, {self.layout.upper()}"
        )


def open_session(model: str | bytes) -> ort.InferenceSession:
    """Return a session of an ONNX file or graph, on as many threads as torch has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_network(path: Path) -> ort.InferenceSession:
    """Return a session of an ONNX file; raise ConfigError where there is none that runs."""
    try:
        return open_session(str(path))
    except Exception as error:  # ONNX Runtime has no base class of its own
        raise ConfigError(f"{path}: not an ONNX network that runs: {error}") from error


class PictureInput(NamedTuple):
    """What the input of a network of pictures is like; see :class:`Form`."""

    name: str
    dtype: torch.dtype
    channels_last: bool
    single: bool
    size: tuple[int, int] | None


def picture_input(path: Path, session: ort.InferenceSession) -> PictureInput:
    """Return what a network takes; raise ConfigError unless that is colour pictures."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = [each.name for each in inputs]
        raise ConfigError(f"{path}: takes {names}; an expert takes one picture")
    (given,) = inputs
    shape = given.shape
    if len(shape) != 4 or given.type not in TYPES or 3 not in (shape[1], shape[3]):
        raise ConfigError(
            f"{path}: input {given.name} is {given.type} {shape}; an expert takes pictures, "
            "(N, 3, H, W) or (N, H, W, 3) of float, float16 or uint8"
        )
    single = isinstance(shape[0], int)
    if single and shape[0] != 1:
        raise ConfigError(
            f"{path}: takes {shape[0]} frames at a time; export it with a batch of 1 or a free one"
        )
    last = shape[1] != 3
    sides = shape[1:3] if last else shape[2:4]
    size = (sides[0], sides[1]) if all(isinstance(each, int) for each in sides) else None
    return PictureInput(given.name, TYPES[given.type], last, single, size)


def probe(network: settings.Onnx, classes: int) -> Form:
    """Return the form of an ONNX network, of which one frame of noise is run.

    Args:
        network: the file, and which of its outputs is wanted.
        classes: channels expected; tells apart outputs and layouts that could both be meant.

    Raises:
        ConfigError: it does not run, takes something else than colour pictures, or makes no map of
            classes. The message is one line.
    """
    path, session = network.path, open_network(Path(network.path))
    given = picture_input(Path(path), session)
    size = given.size
    if size is not None and network.size not in (None, size):
        raise ConfigError(f"{path}: takes {size}, so size cannot be {network.size}; leave it out")
    shown = size or network.size or _DEFAULT_SIZE
    noise = np.random.default_rng(0).random((1, *shown, 3), np.float32)
    feed = Feed(network.picture, given.dtype, given.channels_last)
    picture = feed(torch.from_numpy(255 * noise)).numpy()
    try:
        made = session.run(None, {given.name: picture})
    except Exception as error:  # as above
        raise ConfigError(f"{path}: fails on a frame of {shown}: {error}") from error
    outputs = {each.name: array for each, array in zip(session.get_outputs(), made, strict=True)}
    name, layout = _choose(network, outputs, shown, classes)
    array = outputs[name]
    values, channels = _values(path, name, array, layout)
    return Form(*given, name, layout, values, channels)


def _choose(
    network: settings.Onnx, outputs: dict[str, Array], size: Shape, classes: int
) -> tuple[str, str]:
    """Return the output that is a map of classes, and its layout."""
    if network.output and network.output not in outputs:
        raise ConfigError(
            f"{network.path}: has no output {network.output!r}, only {', '.join(outputs)}"
        )
    wanted = [network.output] if network.output else list(outputs)
    found = [(name, layout) for name in wanted for layout in _layouts(outputs[name], size, classes)]
    if not found:
        shapes = ", ".join(f"{name} {outputs[name].shape}" for name in wanted)
        raise ConfigError(
            f"{network.path}: no output is a map of classes, (N, classes, h, w), (N, h, w, "
            f"classes) or labels (N, h, w): {shapes}"
        )

    def rank(each: tuple[str, str]) -> tuple[bool, int]:
        array, layout = outputs[each[0]], each[1]
        return layout != "nhw" and array.shape[_axis(layout)] != classes, -array.size

    # The first of equals: networks with auxiliary heads have the main one there.
    return min(found, key=rank)


def _layouts(array: Array, size: Shape, classes: int) -> list[str]:
    """Return the layouts in which an output of one frame may be a map of it."""

    def fits(rows: int, columns: int) -> bool:
        # To a cell, as strides round up or down.
        return min(rows, columns) > 1 and abs(rows * size[1] / size[0] - columns) <= 1.5

    shape = array.shape
    whole = np.issubdtype(array.dtype, np.integer)
    if len(shape) == 3 and fits(*shape[1:]):
        return ["nhw"] if whole or _is_whole(array) else []
    if len(shape) != 4:
        return []
    named = []
    if fits(*shape[2:]):
        named.append("nchw")
    if fits(*shape[1:3]):
        named.append("nhwc")
    if whole or _is_whole(array):
        return ["nhw" for each in named if shape[_axis(each)] == 1][:1]
    named = [each for each in named if shape[_axis(each)] > 1]
    exact = [each for each in named if shape[_axis(each)] == classes]
    return exact or sorted(named, key=lambda each: int(shape[_axis(each)]))[:1]


def _axis(layout: str) -> int:
    """Return where the classes are in a layout."""
    return 3 if layout == "nhwc" else 1


def _is_whole(array: Array) -> bool:
    """Return whether floats are labels, as some exporters cast them."""
    return bool((array == np.rint(array)).all() and array.min() >= 0 and np.ptp(array) > 0)


def _values(path: str, name: str, array: Array, layout: str) -> tuple[Values, int]:
    """Return what the numbers of an output are, and how many classes it has."""
    if layout == "nhw":
        return "labels", 0
    axis = _axis(layout)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ConfigError(f"{path}: output {name} is not finite on a frame of noise")
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        return "logits", array.shape[axis]
    sums = array.sum(axis)
    return ("softmax" if np.abs(sums - 1).max() < 2e-2 else "sigmoid"), array.shape[axis]


class Feed(nn.Module):
    """Frames, uint8 or float (N, H, W, 3) RGB from 0 to 255, to what a network takes.

    Pixels of uint8 stay as they are: such a network normalises them itself.
    """

    def __init__(
        self,
        picture: settings.Picture,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.flip, self.dtype, self.channels_last = picture.order == "bgr", dtype, channels_last
        self.size = size
        whole = 255 / picture.scale
        self.register_buffer("mean", torch.tensor(picture.mean)[:, None, None] * whole)
        self.register_buffer("std", torch.tensor(picture.std)[:, None, None] * whole)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = frames.permute(0, 3, 1, 2).float()
        if self.size is not None and tuple(pixels.shape[2:]) != self.size:
            pixels = F.interpolate(pixels, size=self.size, mode="bilinear")
        if self.flip:
            pixels = pixels.flip(1)
        as_they_are = self.dtype == torch.uint8
        pixels = pixels.round() if as_they_are else (pixels - self.mean) / self.std
        pixels = pixels.to(self.dtype)
        return pixels.permute(0, 2, 3, 1).contiguous() if self.channels_last else pixels


class Read(nn.Module):
    """What a network makes to logits (N, channels, h, w)."""

    def __init__(self, form: Form, channels: int) -> None:
        super().__init__()
        self.layout, self.values, self.channels = form.layout, form.values, channels

    def forward(self, made: Tensor) -> Tensor:
        if self.values == "labels":
            labels = made.flatten(1).unflatten(1, self._sides(made)).long()
            shares = torch.stack([labels == index for index in range(self.channels)], 1).float()
            return shares.clamp(min=_ALMOST_ZERO).log()
        logits = made.permute(0, 3, 1, 2) if self.layout == "nhwc" else made
        logits = logits.float()
        return logits if self.values == "logits" else logits.clamp(min=_ALMOST_ZERO).log()

    @staticmethod
    def _sides(made: Tensor) -> list[int]:
        """Return height and width of labels (N, h, w), (N, 1, h, w) or (N, h, w, 1)."""
        sides = list(made.shape[1:])
        if len(sides) == 3:
            sides.remove(1)
        return sides


class OnnxExpert(nn.Module):
    """An ONNX network between :class:`Feed` and :class:`Read`; has no gradient.

    Attributes:
        size: height and width at which it looks at frames; None where it takes them as they come.
        form: what the file takes and makes.
    """

    digest: Tensor

    def __init__(self, network: settings.Onnx, classes: int, after: nn.Module) -> None:
        """Open the file and find out its form.

        Args:
            network: the file and how to feed it.
            classes: channels that it should have.
            after: logits of these channels -> logits of the label space.

        Raises:
            ConfigError: see :func:`probe`.
        """
        super().__init__()
        self.path = Path(network.path)
        self.form = probe(network, classes)
        self.size = self.form.size or network.size
        self.channels = self.form.channels or classes
        self.before = Feed(network.picture, self.form.dtype, self.form.channels_last, self.size)
        self.after = nn.Sequential(Read(self.form, classes), after)
        self._session = open_network(self.path)
        # Part of what tells this expert from others.
        sha256 = bytearray(hashlib.sha256(self.path.read_bytes()).digest())
        self.register_buffer("digest", torch.frombuffer(sha256, dtype=torch.uint8).clone())

    @property
    def names(self) -> nn.Module:
        """Table of channels and labels."""
        return self.after[1]

    @property
    def is_ours(self) -> bool:
        """Whether the file is an expert that this project exported for the same labels."""
        form = self.form._replace(single=False, size=None, channels=0)
        return (
            form == Form("frames", torch.uint8, True, False, None, "logits", "nchw", "logits", 0)
            and self.names.identity
            and not self.before.flip
        )

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
        parts = pixels.split(1) if self.form.single else [pixels]
        made = [
            self._session.run([self.form.made], {self.form.taken: part.cpu().numpy()})[0]
            for part in parts
        ]
        array = np.concatenate(made)
        if self.form.values == "labels" and (array.min() < 0 or array.max() >= self.channels):
            raise ConfigError(
                f"{self.path}: makes labels from {array.min()} to {array.max()}, but "
                f"{self.channels} classes are named, 0 to {self.channels - 1}; name all of them"
            )
        return torch.from_numpy(array).to(pixels.device)
