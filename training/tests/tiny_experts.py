"""Experts with the tensors of the real ones and a hundredth of their layers, as ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_tiny_yolox(path: Path, seed: int = 0) -> Path:
    """Write it; its weights are random."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values, name))
        return name

    def convolution(taken: str, made: str, inputs: int, outputs: int, stride: int = 1) -> None:
        side = 3 if stride > 1 else 1
        scale = (2 / (inputs * side * side)) ** 0.5
        weight = rng.normal(0, scale, (outputs, inputs, side, side)).astype(np.float32)
        names = [
            constant(f"{made}.weight", weight),
            constant(f"{made}.bias", np.zeros(outputs, np.float32)),
        ]
        nodes.append(
            helper.make_node(
                "Conv",
                [taken, *names],
                [f"{made}.conv"],
                strides=[stride] * 2,
                pads=[side // 2] * 4,
                kernel_shape=[side] * 2,
            )
        )
        nodes.append(helper.make_node("Sigmoid", [f"{made}.conv"], [f"{made}.sigmoid"]))
        nodes.append(helper.make_node("Mul", [f"{made}.conv", f"{made}.sigmoid"], [made]))

    # Every second row, as YOLOX's focus takes them apart; pixels come from 0 to 255.
    bounds = [np.array([each]) for each in (0, 1 << 30, 2, 2)]
    names = [constant(f"bound{index}", each) for index, each in enumerate(bounds)]
    nodes.append(
        helper.make_node("Slice", ["images", names[0], names[1], names[2], names[3]], ["rows"])
    )
    constant("unit", np.full((8, 3, 1, 2), 0.01, np.float32))
    nodes.append(
        helper.make_node("Conv", ["rows", "unit"], ["pairs"], strides=[1, 2], kernel_shape=[1, 2])
    )
    convolution("pairs", "721", 8, 32, 2)
    convolution("721", "956", 32, 64, 2)
    convolution("956", "990", 64, 128, 2)
    convolution("990", "deep", 128, 128, 2)
    nodes.append(
        helper.make_node("MaxPool", ["deep"], ["pooled"], kernel_shape=[3, 3], pads=[1] * 4)
    )
    nodes.append(helper.make_node("Concat", ["deep", "pooled"], ["1024"], axis=1))
    groups = (
        ("956", 64, "1062 1063 1045"),
        ("990", 128, "1104 1105 1087"),
        ("1024", 256, "1146 1147 1129"),
    )
    constant("wide", np.array([1, 85, -1]))
    for taken, channels, made in groups:
        boxes, objectness, classes = made.split()
        for name, count in ((boxes, 4), (objectness, 1), (classes, 80)):
            weight = rng.normal(0, 0.5 / channels**0.5, (count, channels, 1, 1)).astype(np.float32)
            constant(f"{name}.weight", weight)
            nodes.append(
                helper.make_node("Conv", [taken, f"{name}.weight"], [name], kernel_shape=[1, 1])
            )
        squashed = [f"{objectness}.share", f"{classes}.share"]
        nodes.append(helper.make_node("Sigmoid", [objectness], squashed[:1]))
        nodes.append(helper.make_node("Sigmoid", [classes], squashed[1:]))
        nodes.append(helper.make_node("Concat", [boxes, *squashed], [f"{taken}.map"], axis=1))
        nodes.append(helper.make_node("Reshape", [f"{taken}.map", "wide"], [f"{taken}.flat"]))
    flat = [f"{taken}.flat" for taken, *_ in groups]
    nodes.append(helper.make_node("Concat", flat, ["cells"], axis=2))
    nodes.append(helper.make_node("Transpose", ["cells"], ["output"], perm=[0, 2, 1]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 416, 416])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3549, 85])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def write_tiny_segmenter(path: Path, seed: int = 0) -> Path:
    """Write a segmenter of four classes at 896x512; its weights are random."""
    rng = np.random.default_rng(seed)
    scope = "StatefulPartitionedCall/model"
    pixels, trunk = f"{scope}/conv2d/Conv2D__6:0", f"{scope}/tf.nn.relu_27/Relu:0"
    weights = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "trunk.weight": rng.normal(0, 0.01, (48, 3, 6, 6)).astype(np.float32),
        "classes.weight": rng.normal(0, 1, (4, 48, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["data"], [pixels], perm=[0, 3, 1, 2]),
        helper.make_node("Pad", [pixels, "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "trunk.weight"], ["made"], strides=[4, 4]),
        helper.make_node("Relu", ["made"], [trunk]),
        helper.make_node("Conv", [trunk, "classes.weight"], ["logits"]),
        helper.make_node("Transpose", ["logits"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Softmax", ["last"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 512, 896, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 128, 224, 4])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path
