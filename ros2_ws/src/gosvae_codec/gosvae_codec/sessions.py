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
"""A short name, or a pair of short name and ONNX Runtime's options of that provider."""

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}

_log = logging.getLogger(__name__)


def configure(
    names: Sequence[str], engine_cache: str | Path = "", fp16: bool = False
) -> list[Provider]:
    """Return providers by their short names, TensorRT with its options.

    Names are checked by :class:`Session`. The options are documented with ONNX Runtime's TensorRT
    execution provider.

    Args:
        names: in order of preference.
        engine_cache: folder for TensorRT's engines, which take minutes to build, one for each
            network, GPU and version of TensorRT. Empty: they are built at each start.
        fp16: whether TensorRT may use half precision where it is faster.
    """
    options: dict[str, object] = {"trt_fp16_enable": fp16}
    if engine_cache:
        folder = str(Path(engine_cache).expanduser().absolute())
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": folder}
        options |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": folder}
    return [(name, options) if name == "tensorrt" else name for name in names]


def _onnxruntime() -> Any:
    """Import ONNX Runtime; packets, reassembly and unpacking work without it."""
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
    """Return the names of those `providers` that this ONNX Runtime offers, in the same order.

    Raises:
        ProviderError: a name is unknown, none of `providers` is available, or ONNX Runtime is not
            installed.
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
    """One network with one or more inputs and outputs."""

    def __init__(self, path: Path, providers: Sequence[Provider], threads: int) -> None:
        """Load a network on the first of `providers` that works.

        Args:
            path: ONNX file.
            providers: in order of preference, see :func:`configure`. The session falls back to a
                later one with a warning; without ``cpu`` among them it never runs on the CPU.
            threads: threads for one inference on the CPU; 0 lets ONNX Runtime choose.

        Raises:
            ProviderError: a name is unknown, none of `providers` is available, or the folder of
                the engine cache cannot be created.
            BundleError: ONNX Runtime cannot load the file.
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
        # Threads that spin while idle would take cores from other processes.
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
        """Whether `provider` is not the first choice."""
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
        self.path = path
        self._inputs = self._session.get_inputs()
        self.input_shapes: list[list[Any]] = [each.shape for each in self._inputs]
        """Shapes of the graph's inputs; free dimensions are names."""
        self.outputs: list[tuple[str, str, list[Any]]] = [
            (each.name, each.type, each.shape) for each in self._session.get_outputs()
        ]
        """Names, ONNX types and shapes of the graph's outputs."""
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        """What the file says of itself, by key."""

    def zeros(self, *shapes: Sequence[int]) -> list[npt.NDArray[Any]]:
        """Return inputs of these shapes."""
        pairs = zip(shapes, self._inputs, strict=True)
        return [np.zeros(shape, _DTYPES[each.type]) for shape, each in pairs]

    def warm_up(self, *arrays: Any) -> None:
        """Run the network once, as the first inference allocates and is slow.

        Args:
            arrays: as for :meth:`compute`.

        Raises:
            BundleError: the network fails on them.
        """
        try:
            self.compute(*arrays)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BundleError(f"{self.path}: cannot run: {error}") from error

    def run(self, *arrays: Any) -> npt.NDArray[Any]:
        """Return the first output of the network; see :meth:`compute`."""
        return np.asarray(self.compute(*arrays)[0].numpy())

    def run_all(self, *arrays: Any) -> list[npt.NDArray[Any]]:
        """Return all outputs of the network; see :meth:`compute`."""
        return [np.asarray(each.numpy()) for each in self.compute(*arrays)]

    def compute(self, *arrays: Any) -> list[Any]:
        """Run the network, and leave its outputs where they are.

        Args:
            arrays: inputs in the graph's order, with the graph's shapes and dtypes: arrays, or what
                another session computed.

        Returns:
            The graph's outputs as ONNX Runtime's ``OrtValue``, on the device that computed them.
        """
        binding = self._session.io_binding()
        kept = []
        for each, array in zip(self._inputs, arrays, strict=True):
            if isinstance(array, np.ndarray):
                kept.append(np.ascontiguousarray(array))
                binding.bind_cpu_input(each.name, kept[-1])
            else:
                binding.bind_ortvalue_input(each.name, array)
        for name, *_ in self.outputs:
            binding.bind_output(name, "cpu" if self.provider == "cpu" else "cuda")
        self._session.run_with_iobinding(binding)
        return list(binding.get_outputs())


def _make_cache(folder: object) -> None:
    if folder is None:
        return
    try:
        Path(str(folder)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProviderError(
            f"engine cache {folder} cannot be made: {error.strerror}; name another folder"
        ) from error
