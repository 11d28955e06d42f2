"""OpenVINO's road-segmentation-adas-0001 as an expert."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper

from gosvae_codec.labels import Label, LabelSpace

from ..models.onnx_network import OnnxNetwork, load_onnx
from ..strict import ConfigError

LABELS = LabelSpace(
    "road",
    (
        Label(0, "background", (0, 0, 0)),
        Label(1, "road", (128, 64, 128)),
        Label(2, "kerb", (255, 0, 0)),
        Label(3, "marking", (255, 255, 0)),
    ),
)


def network_of(path: Path) -> OnnxNetwork:
    """Return it in torch: float (N, 3, H, W) BGR, 0 to 255, to logits of LABELS, (N, 4, h, w).

    It takes frames of any size whose sides divide by 128.

    Raises:
        ConfigError: the file cannot be read.
    """
    graph = _resizing_by_scales(load_onnx(path))
    makers = {name: node for node in graph.node for name in node.output}
    # Channels are last outside of these two.
    first = next(node for node in graph.node if graph.input[0].name in node.input)
    last = makers[makers[graph.output[0].name].input[0]]
    return OnnxNetwork(path, first.output, last.input, graph)


def _resizing_by_scales(model: onnx.ModelProto) -> onnx.GraphProto:
    """Return the graph with scales where it resizes to sizes, which fit frames of one size only."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    shapes = {each.name: each.type.tensor_type.shape.dim for each in graph.value_info}
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) < 4:
            continue
        # Rows and columns are constant, behind numbers of frames and channels that are computed.
        rows, columns = constants[makers[node.input[3]].input[1]]
        height, width = (side.dim_value for side in shapes[node.input[0]][2:])
        scales = np.array([1, 1, rows / height, columns / width], np.float32)
        name = f"{node.output[0]}/scales"
        graph.initializer.append(numpy_helper.from_array(scales, name))
        del node.input[2:]
        node.input.append(name)
    return graph


class RoadSegmenter:
    """The segmenter, asked about frames of any size, which it sees at 896x512."""

    def __init__(self, path: Path) -> None:
        """Read it; raise ConfigError where that fails."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no base class of its own
            raise ConfigError(f"{path}: not an ONNX network that runs: {error}") from error
        (self._input,) = self._session.get_inputs()
        _, height, width, _ = self._input.shape
        self._size = width, height

    def segment(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the probabilities of LABELS, float (512, 896, 4), of a frame, uint8 (H, W, 3)."""
        smaller = frame.shape[1] > self._size[0]
        smooth = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        pixels = cv2.resize(frame, self._size, interpolation=smooth)[..., ::-1]
        taken = {self._input.name: pixels[None].astype(np.float32)}
        made: npt.NDArray[np.float32] = self._session.run(None, taken)[0][0]
        return made
