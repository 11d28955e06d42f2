"""ONNX Runtime sessions on explicitly chosen execution providers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .errors import BundleError, ProviderError

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Short names of the execution providers, as parameters and diagnostics use them."""

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32}

_log = logging.getLogger(__name__)


def available(providers: Sequence[str]) -> list[str]:
    """Return those of `providers` that this installation of ONNX Runtime has, most wanted first.

    Raises:
        ProviderError: an unknown name, or none of `providers` is available here.
    """
    unknown = [name for name in providers if name not in PROVIDERS]
    if unknown or not providers:
        raise ProviderError(f"providers {list(providers)}: give one or more of {list(PROVIDERS)}")
    offered = ort.get_available_providers()
    found = [name for name in providers if PROVIDERS[name] in offered]
    if not found:
        raise ProviderError(
            f"none of {list(providers)} is available; this onnxruntime offers "
            f"{[name for name, full in PROVIDERS.items() if full in offered]}: install "
            "onnxruntime-gpu with its CUDA libraries, or add cpu to the providers"
        )
    return found


class Session:
    """One network with one or more inputs and one output."""

    def __init__(self, path: Path, providers: Sequence[str], threads: int) -> None:
        """Load `path` on the first of `providers` that works.

        Args:
            path: ONNX file.
            providers: short names, most wanted first. Later names are what may be fallen back to,
                with a warning; without ``cpu`` in the list a machine that lacks them is refused.
            threads: threads for one inference on the CPU; 0 lets ONNX Runtime choose.

        Raises:
            ProviderError: an unknown name, or none of `providers` is available here.
            BundleError: the file is not a network that ONNX Runtime can load.
        """
        wanted = [PROVIDERS[name] for name in available(providers)]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads that spin would take the core that the other node needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if "cpu" not in providers:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            if "cpu" not in providers and "CPU EP" in str(error):
                message = f"{path.name} does not run on {list(providers)}: {error}"
                raise ProviderError(message) from error
            raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        names = {full: name for name, full in PROVIDERS.items()}
        self.provider: str = names[self._session.get_providers()[0]]
        """Short name of the provider in use."""
        self.fell_back: bool = self.provider != providers[0]
        """Whether `provider` is another than the one wanted most."""
        if self.provider not in providers:
            raise ProviderError(
                f"{path.name}: asked for {list(providers)}, ONNX Runtime offers {self.provider}; "
                "check the GPU driver and CUDA libraries, or add cpu to the providers"
            )
        if self.fell_back:
            _log.warning(
                "%s runs on %s although %s was asked for: expect it to be slower",
                path.name,
                self.provider,
                providers[0],
            )
        self._name = path.name
        self._inputs = self._session.get_inputs()
        self.input_shapes: list[list[Any]] = [each.shape for each in self._inputs]
        """Shapes that the graph declares for its inputs; free dimensions are names."""
        self.output_shape: list[Any] = self._session.get_outputs()[0].shape

    def warm_up(self, *shapes: Sequence[int]) -> None:
        """Run the network on zeros of `shapes`, for what is made at the first inference only.

        Raises:
            BundleError: the network fails on them.
        """
        try:
            zeros = zip(shapes, self._inputs, strict=True)
            self.run(*(np.zeros(shape, _DTYPES[each.type]) for shape, each in zeros))
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BundleError(f"{self._name}: cannot run on {shapes}: {error}") from error

    def run(self, *arrays: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run the network on `arrays`, in the graph's order; shapes and dtypes must be its own."""
        inputs = zip(self._inputs, arrays, strict=True)
        return np.asarray(self._session.run(None, {each.name: array for each, array in inputs})[0])
