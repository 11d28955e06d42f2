"""OpenVINO's road-segmentation-adas-0001 as an expert."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from gosvae_codec.labels import Label, LabelSpace

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
