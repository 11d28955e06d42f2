"""ONNX Runtime sessions on explicitly chosen execution providers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BundleError, ProviderError

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Short names of the execution providers, as parameters and diagnostics use them."""

Provider = str | tuple[str, Mapping[str, object]]
"""A short name, or one with options of the execution provider, as ONNX Runtime takes them."""

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32}

_log = logging.getLogger(__name__)


def configure(
    names: Sequence[str], engine_cache: str | Path = "", fp16: bool = False
) -> list[Provider]:
    """Return providers by their short names, TensorRT with the options that it needs.

    Names are not checked; :class:`Session` does that. The options are those of ONNX Runtime's
    documentation of the TensorRT execution provider.

    Args:
        names: most wanted first.
        engine_cache: folder where TensorRT keeps the engines that it takes minutes to build, one
            for each network, GPU and version of TensorRT. Empty: they are built at each start.
        fp16: whether TensorRT may compute in half precision where that is faster.
    """
    options: dict[str, object] = {"trt_fp16_enable": fp16}
    if engine_cache:
        folder = str(Path(engine_cache).expanduser().absolute())
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": folder}
        options |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": folder}
    return [(name, options) if name == "tensorrt" else name for name in names]


def _onnxruntime() -> Any:
    """Return the module; packets and label spaces are of use without it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"ONNX Runtime cannot be imported ({error}): install gosvae_codec[cpu], or "
            "gosvae_codec[gpu] for NVIDIA GPUs; with ROS 2, onnxruntime or onnxruntime-gpu"
        ) from error
    return onnxruntime


def _names(providers: Sequence[Provider]) -> list[str]:
    return [each if isinstance(each, str) else each[0] for each in providers]


def available(providers: Sequence[Provider]) -> list[str]:
    """Return those of `providers` that this installation of ONNX Runtime has, most wanted first.

    Raises:
        ProviderError: an unknown name, or none of `providers` is available here.
    """
    names = _names(providers)
    unknown = [name for name in names if name not in PROVIDERS]
    if unknown or not names:
        raise ProviderError(f"providers {names}: give one or more of {list(PROVIDERS)}")
    offered = _onnxruntime().get_available_providers()
    found = [name for name in names if PROVIDERS[name] in offered]
    if not found:
        raise ProviderError(
            f"none of {names} is available; this onnxruntime offers "
            f"{[name for name, full in PROVIDERS.items() if full in offered]}: install "
            "onnxruntime-gpu with its CUDA libraries, or add cpu to the providers"
        )
    return found


class Session:
    """One network with one or more inputs and one output."""

    def __init__(self, path: Path, providers: Sequence[Provider], threads: int) -> None:
        """Load `path` on the first of `providers` that works.

        Args:
            path: ONNX file.
            providers: most wanted first; see :func:`configure`. Later ones are what may be fallen
                back to, with a warning; without ``cpu`` a machine that lacks them is refused.
            threads: threads for one inference on the CPU; 0 lets ONNX Runtime choose.

        Raises:
            ProviderError: an unknown name, none of `providers` is available here, or the engine
                cache cannot be made.
            BundleError: the file is not a network that ONNX Runtime can load.
        """
        names = _names(providers)
        found = available(providers)
        given = {each[0]: dict(each[1]) for each in providers if not isinstance(each, str)}
        wanted = [(PROVIDERS[name], given.get(name, {})) for name in found]
        for name in found:
            _make_cache(given.get(name, {}).get("trt_engine_cache_path"))
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads that spin would take the core that the other node needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if "cpu" not in names:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            if "cpu" not in names and "CPU EP" in str(error):
                message = f"{path.name} does not run on {names}: {error}"
                raise ProviderError(message) from error
            raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        in_use = self._session.get_providers()[0]
        self.provider: str = next(name for name, full in PROVIDERS.items() if full == in_use)
        """Short name of the provider in use."""
        self.fell_back: bool = self.provider != names[0]
        """Whether `provider` is another than the one wanted most."""
        if self.provider not in names:
            raise ProviderError(
                f"{path.name}: asked for {names}, ONNX Runtime offers {self.provider}; "
                "check the GPU driver and CUDA libraries, or add cpu to the providers"
            )
        if self.fell_back:
            _log.warning(
                "%s runs on %s although %s was asked for: expect it to be slower",
                path.name,
                self.provider,
                names[0],
            )
        self._name = path.name
        self._inputs = self._session.get_inputs()
        self.input_shapes: list[list[Any]] = [each.shape for each in self._inputs]
        """Shapes that the graph declares for its inputs; free dimensions are names."""
        output = self._session.get_outputs()[0]
        self._output = output.name
        self.output_shape: list[Any] = output.shape

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
        # Bound, what the network makes stays where it is made, and crosses to the CPU once.
        binding = self._session.io_binding()
        bound = [np.ascontiguousarray(array) for array in arrays]
        for each, array in zip(self._inputs, bound, strict=True):
            binding.bind_cpu_input(each.name, array)
        binding.bind_output(self._output, "cpu" if self.provider == "cpu" else "cuda")
        self._session.run_with_iobinding(binding)
        return np.asarray(binding.copy_outputs_to_cpu()[0])


def _make_cache(folder: object) -> None:
    if folder is None:
        return
    try:
        Path(str(folder)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProviderError(
            f"engine cache {folder} cannot be made: {error.strerror}; name another folder"
        ) from error
