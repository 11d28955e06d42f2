"""Bundles as a start: the weights of their encoders, which their ONNX files hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from gosvae_codec import ModelBundle
from gosvae_codec.manifest import ENCODER

from ..strict import ConfigError, read_yaml
from .encoders import LightEncoder

_CONFIGS = Path(__file__).parents[2] / "configs"


def started_tokens(folder: Path) -> dict[str, Any]:
    """Return the tokens of a configuration that goes on with a bundle's encoder.

    Codebooks are found anew, by k-means on the first batch, and the decoder starts from nothing.

    Raises:
        ConfigError: it is not known how the bundle was trained, or its encoder is of another kind
            than light.
    """
    manifest = ModelBundle.load(folder).manifest
    tokens = manifest["provenance"].get("tokens")
    if tokens is None:
        file = _CONFIGS / f"{manifest['name']}.yaml"
        if not file.exists():
            raise ConfigError(
                f"{folder}: cannot be a start, as neither its manifest nor {file} says how its "
                "encoder is made"
            )
        tokens = read_yaml(file)["tokens"]
    encoder = tokens.get("encoder", {})
    if tokens.get("kind", "tokens") != "tokens" or encoder.get("kind") != "light":
        raise ConfigError(
            f"{folder}: cannot be a start, as it has no light encoder of tokens; bundles that "
            "were adapted without a start have one"
        )
    kept = {name: tokens[name] for name in ("levels", "codes", "dim")}
    return {**kept, "encoder": {**encoder, "start": str(folder)}}


def load_encoder(encoder: LightEncoder, folder: Path) -> None:
    """Give an encoder the weights of a bundle's ``encoder.onnx``.

    There, most normalisations are folded into the convolutions before them; they become biases
    here, until :func:`calibrate` gives them the statistics of frames. Weights of 8 bits are taken
    for what they stand for.

    Raises:
        ConfigError: the file is missing, or lacks a weight or has one of another shape.
    """
    path = folder / ENCODER
    try:
        stored = _stored(onnx.load(path).graph)
    except OSError as error:
        raise ConfigError(f"start {path}: {error}") from error

    def copy(target: Tensor, name: str) -> None:
        value = stored.get(f"encoder.{name}")
        if value is None or value.shape != tuple(target.shape):
            raise ConfigError(
                f"{path}: has no weights {name} of {tuple(target.shape)}; a start needs the same "
                "encoder"
            )
        target.copy_(torch.from_numpy(value.astype(np.float32)))

    with torch.no_grad():
        last = ""
        for name, part in encoder.named_modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                last = name
                copy(part.weight, f"{name}.weight")
                if part.bias is not None:
                    copy(part.bias, f"{name}.bias")
            elif f"encoder.{name}.running_mean" in stored:
                for each, target in part.state_dict().items():
                    if target.is_floating_point():
                        copy(target, f"{name}.{each}")
            elif isinstance(part, nn.BatchNorm2d):
                part.running_mean.zero_()
                part.running_var.fill_(1 - part.eps)
                # Without scale and shift, it is folded into the weights before it.
                if part.affine:
                    part.weight.fill_(1.0)
                    copy(part.bias, f"{last}.weight_bias")


def _stored(graph: onnx.GraphProto) -> dict[str, npt.NDArray[Any]]:
    """Return the constants of a graph by name, float where it has them in 8 bits."""
    found = {
        each.name.removesuffix(".half"): numpy_helper.to_array(each) for each in graph.initializer
    }
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in found:
            values, scale, zero = (found[each] for each in node.input)
            if scale.ndim:
                axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
                shape = [-1 if place == axis else 1 for place in range(values.ndim)]
                scale, zero = scale.reshape(shape), zero.reshape(shape)
            name = node.output[0].removesuffix("_DequantizeLinear_Output")
            found[name] = (values.astype(np.float32) - zero) * scale
    return found


@torch.no_grad()
def calibrate(encoder: nn.Module, frames: Iterable[Tensor]) -> None:
    """Give each normalisation the statistics of its input, and keep what the network makes.

    In training, where statistics are those of the batch, the network then makes about the same.

    Args:
        encoder: changed in place.
        frames: uint8 (1, H, W, 3), all of one size.
    """

    def measure(part: nn.BatchNorm2d, given: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(given[0].float(), (0, 2, 3), correction=0)
        scale = (part.running_var + part.eps).rsqrt()
        if part.affine:
            scale = scale * part.weight
            part.bias.add_(scale * (mean - part.running_mean))
            part.weight.copy_(scale * (variance + part.eps).sqrt())
            part.running_mean.copy_(mean)
            part.running_var.copy_(variance)

    hooks = [
        part.register_forward_pre_hook(measure)
        for part in encoder.modules()
        if isinstance(part, nn.BatchNorm2d)
    ]
    training = encoder.training
    encoder.eval()(torch.cat(list(frames)))
    encoder.train(training)
    for hook in hooks:
        hook.remove()
