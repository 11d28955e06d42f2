"""Tiny bundles and heads for tests: real files and ONNX graphs, no training. Needs onnx."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from .draft import write_text
from .entropy import TokenCoder
from .labels import CAMVID, Label, LabelSpace
from .manifest import (
    ENCODER,
    FEATURES,
    FORMAT,
    MANIFEST,
    PRIOR,
    RECONSTRUCT,
    TASKS,
    dump,
    head_file,
    list_labels,
    record,
)
from .packets import Header, Packet
from .prior import CURRENT, LOGITS, REFERENCE, SAME, SCALE, Prior

_SIZE = (64, 96)
_PATCH = 16
_CODES = 64

Shape = list[str | int]
"""Sides of a tensor; free ones are names."""


PACKET = Packet(
    header=Header(1_700_000_000, 123_456_789, "front_camera"),
    fingerprint=0x0123456789ABCDEF,
    stream=0x89ABCDEF,
    sequence=41,
    source_width=1920,
    source_height=1080,
    levels=2,
    reference=3,
    slice_index=2,
    slice_count=4,
    payload=bytes(range(34)),
).with_checksum()
"""What the vectors of the wire format and of sealing hold."""

OBJECTS = LabelSpace("objects", (Label(0, "car", (0, 0, 142)), Label(1, "person", (220, 20, 60))))
"""What the tiny detection head tells apart."""


def write_tiny_bundle(
    path: Path,
    seed: int = 0,
    levels: int = 2,
    labels: LabelSpace = CAMVID,
    inertia: int = 0,
    reconstructs: bool = False,
    tasks: Sequence[str] = ("semantic",),
) -> Path:
    """Write a bundle for 96x64 frames, 6x4 tokens and 64 codes, and the expert beside it.

    The token of level `k` is the mean of channel `k` over a 16x16 patch, divided by four; the
    features of each token are random numbers drawn from `seed`, one for each label.

    Args:
        path: folder to make; the expert goes to ``experts`` in the folder above.
        seed: another seed gives a bundle with another fingerprint.
        levels: 1 to 3.
        labels: what the masks hold.
        inertia: largest difference from the reference's token at which that one is kept
            (hysteresis).
        reconstructs: whether it has a ``reconstruct.onnx``, which sets every pixel of a patch to
            four times the mean of its tokens, in grey.
        tasks: kinds of its tasks, which are also their names; see :func:`write_tiny_head`.

    Returns:
        `path`.
    """
    rng = np.random.default_rng(seed)
    (height, width), classes = _SIZE, len(labels)
    grid = height // _PATCH, width // _PATCH
    tokens: Shape = ["batch", levels, *grid]
    frames: Shape = ["batch", height, width, 3]
    features: Shape = ["batch", classes, *grid]
    (path / TASKS).mkdir(parents=True)
    _write_encoder(path / ENCODER, frames, tokens, levels, inertia)
    _write_features(path / FEATURES, tokens, features, rng.standard_normal((_CODES + 1, classes)))
    if reconstructs:
        _write_reconstruction(path / RECONSTRUCT, tokens, frames)
    experts = path.parent / "experts"
    experts.mkdir(exist_ok=True)
    unnamed = experts / f"{path.name}.onnx"
    _write_expert(unnamed, frames, features, rng.standard_normal((classes, 3, 1, 1)))
    expert = record(unnamed)
    unnamed.replace(experts / f"{str(expert['sha256'])[:16]}.onnx")
    write_random_prior(path / PRIOR, levels, _CODES, grid, rng)
    files = [ENCODER, FEATURES, PRIOR, *([RECONSTRUCT] if reconstructs else [])]
    entries = {}
    for kind in tasks:
        entries[kind] = describe_tiny_head(
            path, write_tiny_head(path / head_file(kind), kind, classes), labels
        )
        if kind == "semantic":
            entries[kind]["expert"] = expert
    manifest = {
        "format": FORMAT,
        "name": path.name,
        "input_size": list(_SIZE),
        "grid": list(grid),
        "levels": levels,
        "codes": _CODES,
        "inertia": [float(inertia)] * levels,
        "files": {name: record(path / name) for name in files},
        "tasks": entries,
        "provenance": {"seed": seed},
    }
    write_text(path / MANIFEST, dump(manifest))
    return path


def describe_tiny_head(bundle: Path, head: Path, labels: LabelSpace = CAMVID) -> dict[str, Any]:
    """Return the manifest's entry of a tiny head, whose file's name is its kind."""
    kind = head.stem
    entry: dict[str, Any] = {"kind": kind, "features": record(bundle / FEATURES)["sha256"]}
    if kind == "semantic":
        entry |= {"label_space": labels.name, "labels": list_labels(labels)}
    elif kind == "detection":
        entry["labels"] = list_labels(OBJECTS)
    else:
        entry["unit"] = "metres"
    return {**entry, "files": {head_file(kind): record(head)}}


def write_tiny_head(path: Path, kind: str, channels: int = len(CAMVID)) -> Path:
    """Write a head for a tiny bundle's features, of `channels`; return `path`.

    ``semantic``: the features are the logits. ``detection``: each token with a first or second
    feature above 1 is a car or a person, its box the token's patch. ``depth``: the first feature's
    amount and 1, in metres.
    """
    wide: Shape = ["batch", "channels", "rows", "columns"]
    taken = [("features", TensorProto.FLOAT, wide)]
    if kind == "semantic":
        logits: Shape = ["batch", channels, "rows", "columns"]
        nodes = [helper.make_node("Identity", ["features"], ["logits"])]
        _save(path, nodes, taken, [("logits", TensorProto.FLOAT, logits)], {})
    elif kind == "depth":
        nodes = [
            helper.make_node("Slice", ["features", "zero", "one", "one"], ["first"]),
            helper.make_node("Abs", ["first"], ["amount"]),
            helper.make_node("Add", ["amount", "metre"], ["planes"]),
            helper.make_node("Squeeze", ["planes", "one"], ["depth"]),
        ]
        ones = {"zero": np.zeros(1, np.int64), "one": np.ones(1, np.int64)}
        depth: Shape = ["batch", "rows", "columns"]
        made = [("depth", TensorProto.FLOAT, depth)]
        _save(path, nodes, taken, made, {**ones, "metre": np.ones(1, np.float32)})
    else:
        _write_detection(path, taken)
    return path


def _write_detection(path: Path, taken: Sequence[tuple[str, int, Shape]]) -> None:
    rows, columns = _SIZE[0] // _PATCH, _SIZE[1] // _PATCH
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    patches = np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], 1)
    nodes = [
        helper.make_node("Shape", ["features"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "patch"], ["wide"], axis=0),
        helper.make_node("Expand", ["patches", "wide"], ["all"]),
        helper.make_node("Slice", ["features", "zero", "two", "one"], ["some"]),
        helper.make_node("Flatten", ["some"], ["flat"]),
        helper.make_node("Reshape", ["flat", "by_class"], ["strength"]),
        helper.make_node(
            "NonMaxSuppression", ["all", "strength", "many", "overlap", "least"], ["found"]
        ),
        helper.make_node("GatherND", ["strength", "found"], ["strengths"]),
        helper.make_node("Shape", ["strengths"], ["count"]),
        helper.make_node("TopK", ["strengths", "count"], ["sorted", "order"]),
        helper.make_node("Sigmoid", ["sorted"], ["scores"]),
        helper.make_node("Gather", ["found", "order"], ["kept"]),
        helper.make_node("Split", ["kept", "ones"], ["frame", "class", "place"], axis=1),
        helper.make_node("Squeeze", ["frame", "one"], ["frames"]),
        helper.make_node("Squeeze", ["class", "one"], ["classes"]),
        helper.make_node("Squeeze", ["place", "one"], ["places"]),
        helper.make_node("Gather", ["flat_patches", "places"], ["boxes"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "patches": patches[None].astype(np.float32),
        "flat_patches": patches.astype(np.float32),
        "patch": np.array(patches.shape),
        "by_class": np.array([-1, len(OBJECTS), len(patches)]),
        "zero": np.zeros(1, np.int64),
        "one": np.ones(1, np.int64),
        "two": np.full(1, len(OBJECTS)),
        "ones": np.ones(3, np.int64),
        "many": np.full(1, len(patches)),
        "overlap": np.full(1, 0.5, np.float32),
        "least": np.ones(1, np.float32),
    }
    made: list[tuple[str, int, Shape]] = [
        ("boxes", TensorProto.FLOAT, ["objects", 4]),
        ("scores", TensorProto.FLOAT, ["objects"]),
        ("classes", TensorProto.INT64, ["objects"]),
        ("frames", TensorProto.INT64, ["objects"]),
    ]
    _save(path, nodes, taken, made, constants)


_POOLED = [
    helper.make_node("Transpose", ["frames"], ["planes"], perm=[0, 3, 1, 2]),
    helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node(
        "AveragePool", ["floats"], ["means"], kernel_shape=[_PATCH] * 2, strides=[_PATCH] * 2
    ),
]
"""Frames to the mean of each channel in each patch, float32 (N, 3, h, w)."""


def _write_encoder(path: Path, frames: Shape, tokens: Shape, levels: int, inertia: int) -> None:
    nodes = [
        *_POOLED,
        helper.make_node("Mul", ["means", "quarter"], ["scaled"]),
        helper.make_node("Slice", ["scaled", "zero", "levels", "one"], ["some"]),
        helper.make_node("Cast", ["some"], ["own"], to=TensorProto.INT32),
        helper.make_node("Sub", ["own", "reference"], ["change"]),
        helper.make_node("Abs", ["change"], ["difference"]),
        helper.make_node("LessOrEqual", ["difference", "inertia"], ["near"]),
        helper.make_node("Less", ["reference", "codes"], ["present"]),
        helper.make_node("And", ["near", "present"], ["kept"]),
        helper.make_node("Where", ["kept", "reference", "own"], ["tokens"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "quarter": np.float32(0.25).reshape(1),
        "zero": np.zeros(1, np.int64),
        "levels": np.array([levels]),
        "one": np.ones(1, np.int64),
        "inertia": np.full(1, inertia, np.int32),
        "codes": np.full(1, _CODES, np.int32),
    }
    _save(
        path,
        nodes,
        [("frames", TensorProto.UINT8, frames), ("reference", TensorProto.INT32, tokens)],
        [("tokens", TensorProto.INT32, tokens)],
        constants,
    )


def _write_features(
    path: Path, tokens: Shape, features: Shape, table: npt.NDArray[np.float64]
) -> None:
    table = table.astype(np.float32)
    table[_CODES] = 0
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["vectors"]),
        helper.make_node("ReduceSum", ["vectors", "one"], ["summed"], keepdims=0),
        helper.make_node("Transpose", ["summed"], ["features"], perm=[0, 3, 1, 2]),
    ]
    _save(
        path,
        nodes,
        [("tokens", TensorProto.INT32, tokens)],
        [("features", TensorProto.FLOAT, features)],
        {"table": table, "one": np.ones(1, np.int64)},
    )


def _write_expert(
    path: Path, frames: Shape, logits: Shape, weights: npt.NDArray[np.float64]
) -> None:
    _save(
        path,
        [*_POOLED, helper.make_node("Conv", ["means", "weights"], ["logits"])],
        [("frames", TensorProto.UINT8, frames)],
        [("logits", TensorProto.FLOAT, logits)],
        {"weights": weights.astype(np.float32)},
    )


def _write_reconstruction(path: Path, tokens: Shape, frames: Shape) -> None:
    nodes = [
        helper.make_node("Cast", ["tokens"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["means", "four"], ["levels"]),
        helper.make_node("Min", ["levels", "white"], ["grey"]),
        helper.make_node("Cast", ["grey"], ["patches"], to=TensorProto.INT32),
        helper.make_node("Resize", ["patches", "", "scales"], ["pixels"], mode="nearest"),
        helper.make_node("Transpose", ["pixels"], ["plane"], perm=[0, 2, 3, 1]),
        helper.make_node("Concat", ["plane"] * 3, ["planes"], axis=3),
        helper.make_node("Cast", ["planes"], ["frames"], to=TensorProto.UINT8),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "four": np.full(1, 4, np.float32),
        "white": np.full(1, 255, np.float32),
        "scales": np.array([1, 1, _PATCH, _PATCH], np.float32),
    }
    _save(
        path,
        nodes,
        [("tokens", TensorProto.INT32, tokens)],
        [("frames", TensorProto.UINT8, frames)],
        constants,
    )


def random_coder(levels: int, codes: int, grid: tuple[int, int], seed: int = 0) -> TokenCoder:
    """Return a coder of tokens under a prior that knows nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prior.npz"
        write_random_prior(path, levels, codes, grid, np.random.default_rng(seed))
        return TokenCoder(Prior.load(path, levels, codes, grid), codes, grid)


def write_random_prior(
    path: Path,
    levels: int,
    codes: int,
    grid: tuple[int, int],
    rng: np.random.Generator,
    units: int = 16,
) -> None:
    """Write a ``prior.npz`` that knows nothing, but has contexts of every kind."""
    places = [(0, -1), (-1, 0), (-1, 1)]
    logits = (np.arange(LOGITS) - LOGITS // 2 + 0.5) / SCALE
    sigmoid = np.clip(np.rint(65536 / (1 + np.exp(-logits))), 1, 65535)
    arrays: dict[str, npt.NDArray[Any]] = {"sigmoid": sigmoid.astype(np.uint16)}
    bits = max((codes - 1).bit_length(), 1)
    for level in range(levels):
        contexts = [(kind, level, *place) for kind in (CURRENT, SAME) for place in places]
        contexts += [(REFERENCE, level, 0, 0), (REFERENCE, levels - 1, 1, 1)]
        if level:
            contexts += [(CURRENT, level - 1, 1, 0), (SAME, level - 1, 0, 0)]
        same = sum(context[0] == SAME for context in contexts)
        rest = len(contexts) - same

        def small(*shape: int) -> npt.NDArray[np.int64]:
            return rng.integers(-20, 21, shape)

        tables: dict[str, npt.NDArray[Any]] = {
            "contexts": np.array(contexts, np.int8),
            "embedding": small(levels, codes, 8).astype(np.int8),
            "mixing": small(rest, 8, units).astype(np.int8),
            "absent": small(rest, units).astype(np.int16),
            "agreement": small(same, 3, units).astype(np.int16),
            "row": small(grid[0], units).astype(np.int16),
            "column": small(grid[1], units).astype(np.int16),
            "hidden": small(units, units).astype(np.int8),
            "hidden_bias": small(units).astype(np.int32),
            "node": small(1 << bits, units).astype(np.int8),
            "node_bias": small(1 << bits).astype(np.int32),
            "leaf": rng.permutation(codes).astype(np.uint16),
        }
        arrays |= {f"{name}_{level}": array for name, array in tables.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    taken: Sequence[tuple[str, int, Shape]],
    made: Sequence[tuple[str, int, Shape]],
    constants: Mapping[str, npt.NDArray[Any]],
) -> None:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(*each) for each in taken],
        [helper.make_tensor_value_info(*each) for each in made],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
