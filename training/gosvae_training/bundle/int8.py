"""Post-training quantisation of exported networks to 8-bit integers, for CPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor


class _Examples(CalibrationDataReader):
    def __init__(self, names: list[str], examples: Iterable[Sequence[Tensor]]) -> None:
        self._feeds = iter(
            [
                {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
                for tensors in examples
            ]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def write_int8(
    model: onnx.ModelProto,
    examples: Iterable[Sequence[Tensor]],
    float_convolutions: int,
    path: Path,
    last_in_float: bool = False,
) -> None:
    """Write `model` with 8-bit weights and activations (Jacob et al. 2018), per output channel.

    Args:
        model: float network.
        examples: its inputs, from whose activations the ranges are taken; training data.
        float_convolutions: convolutions, counted from the input, that stay in float: few in
            number, close to the pixels, they lose the most.
        path: file to write.
        last_in_float: whether the last convolution and what follows it stay in float, as an
            encoder's: 8 bits have the search find other codes.
    """
    nodes = model.graph.node
    places = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    in_float = [nodes[place] for place in places[:float_convolutions]]
    if last_in_float:
        in_float += nodes[places[-1] :]
    quantize_static(
        model,
        path,
        _Examples([each.name for each in model.graph.input], examples),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Weights of 7 bits: products of 8 overflow on x86 processors without VNNI.
        reduce_range=True,
        # With their activations, so that ranges are those after clipping.
        op_types_to_quantize=["Conv", "Gemm", "Add", "Relu", "Clip"],
        nodes_to_exclude=[node.name for node in in_float],
    )
