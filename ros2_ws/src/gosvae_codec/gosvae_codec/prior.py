"""Prior: the entropy coder's probability model, integer tables that training fits."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from .errors import BundleError

CURRENT, REFERENCE, SAME = 0, 1, 2
"""Kinds of context: a token of this frame, of the reference frame, or whether both are equal."""
REACH = 3
"""Largest distance of a context from the token, in rows and columns."""
SCALE = 64
"""Fixed-point unit of table rows, activations, weights and logits: 1/64."""
LOGITS = 1536
"""Entries of the sigmoid table; the middle one belongs to logit 0."""
_MOST_BYTES = 1 << 26
_MOST_UNITS = 256
_MOST_CONTEXTS = 64

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LevelPrior:
    """Tables of one residual level; docs/wire-format.md defines the probabilities."""

    contexts: npt.NDArray[np.int32]
    """(n, 5): kind, level, rows down, columns right, first row in `table`."""
    table: npt.NDArray[np.int16]
    """(rows, D): each context's contribution to the first layer, by its value."""
    row: npt.NDArray[np.int16]
    """(grid rows, D): contribution of the token's row."""
    column: npt.NDArray[np.int16]
    """(grid columns, D): contribution of the token's column."""
    hidden: npt.NDArray[np.int16]
    """(H, D): a row for each unit of the second layer."""
    hidden_bias: npt.NDArray[np.int32]
    """(H,)."""
    node: npt.NDArray[np.int16]
    """(2^bits, H): decision 0 is "equal to the reference"; the others form a heap."""
    node_bias: npt.NDArray[np.int32]
    """(2^bits,)."""
    leaf: npt.NDArray[np.int32]
    """(codes,): leaf of the tree by code."""
    code: npt.NDArray[np.int32]
    """(codes,): code by leaf of the tree."""
    distance: npt.NDArray[np.int32]
    """(codes, codes): squared distance of two codes' embeddings; no probability depends on it."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Tables of all levels."""

    levels: tuple[LevelPrior, ...]
    sigmoid: npt.NDArray[np.uint16]
    """(LOGITS,): probability of a 1 in 1/65536, 1 to 65535, by logit."""

    @classmethod
    def load(cls, path: Path, levels: int, codes: int, grid: tuple[int, int]) -> Prior:
        """Read ``prior.npz``.

        Args:
            path: the file.
            levels: residual levels of the bundle.
            codes: vectors in each codebook.
            grid: rows and columns of tokens.

        Raises:
            BundleError: the file is not an archive of such arrays, or one has a wrong shape, type
                or value.
        """
        arrays = _read(path)
        try:
            sigmoid = _take(arrays, "sigmoid", np.uint16, (LOGITS,))
            if sigmoid.min() < 1 or (np.diff(sigmoid.astype(np.int32)) < 0).any():
                raise BundleError("sigmoid: must rise from 1 or more")
            built = tuple(_level(arrays, level, levels, codes, grid) for level in range(levels))
        except BundleError as error:
            raise BundleError(f"{path}: {error}: export the bundle again") from error
        return cls(built, sigmoid)


def _read(path: Path) -> dict[str, Array]:
    """Read the arrays of an archive; sizes are checked before memory is allocated."""
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MOST_BYTES:
                raise BundleError(f"{path}: over {_MOST_BYTES} bytes of tables")
            for member in archive.infolist():
                with archive.open(member) as file:
                    if npy.read_magic(file) != (1, 0):
                        raise ValueError(f"{member.filename} is not of npy format 1.0")
                    shape, fortran, dtype = npy.read_array_header_1_0(file)
                    size = (
                        int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
                    )
                    if dtype.hasobject or fortran or size > member.file_size:
                        raise ValueError(f"{member.filename} is {dtype} of shape {shape}")
                    data = file.read(size)
                array = np.frombuffer(data, dtype).reshape(shape)
                arrays[member.filename.removesuffix(".npy")] = array
    except BundleError:
        raise
    except Exception as error:  # whatever zipfile, zlib and numpy raise on damaged files
        raise BundleError(f"{path}: not an archive of integer tables: {error}") from error
    return arrays


def _take(
    arrays: Mapping[str, Array], name: str, dtype: type, shape: tuple[int | None, ...]
) -> Array:
    array = arrays.get(name)
    if array is None:
        raise BundleError(f"lacks {name}")
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, side) for side, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        raise BundleError(
            f"{name}: {array.dtype} {array.shape}, should be {dtype.__name__} {shape}"
        )
    return array


def _level(
    arrays: Mapping[str, Array], level: int, levels: int, codes: int, grid: tuple[int, int]
) -> LevelPrior:
    def take(name: str, dtype: type, *shape: int | None) -> Array:
        return _take(arrays, f"{name}_{level}", dtype, shape)

    contexts = take("contexts", np.int8, None, 4).astype(np.int32)
    _check_contexts(contexts, level, levels)
    same = contexts[:, 0] == SAME
    hidden = take("hidden", np.int8, None, None)
    width, height = hidden.shape
    if not (1 <= width <= _MOST_UNITS and 1 <= height <= _MOST_UNITS):
        raise BundleError(f"hidden_{level}: {hidden.shape}, at most {_MOST_UNITS} units a layer")
    embedding = take("embedding", np.int8, levels, codes, None)
    dim = embedding.shape[2]
    if dim > _MOST_UNITS:
        raise BundleError(f"embedding_{level}: {dim} numbers, at most {_MOST_UNITS}")
    mixing = take("mixing", np.int8, int((~same).sum()), dim, width)
    absent = take("absent", np.int16, int((~same).sum()), width)
    agreement = take("agreement", np.int16, int(same.sum()), 3, width)
    tables: list[Array] = []
    first, tokens, agreements = 0, 0, 0
    starts = []
    for kind, source, _, _ in contexts:
        if kind == SAME:
            rows = agreement[agreements]
            agreements += 1
        else:
            products = embedding[source].astype(np.int32) @ mixing[tokens].astype(np.int32)
            sums = np.clip((products + 16) >> 5, -32768, 32767).astype(np.int16)
            rows = np.concatenate([sums, absent[tokens : tokens + 1]])
            tokens += 1
        starts.append(first)
        first += len(rows)
        tables.append(rows)
    bits = max((codes - 1).bit_length(), 1)
    leaf = take("leaf", np.uint16, codes).astype(np.int32)
    if (np.sort(leaf) != np.arange(codes)).any():
        raise BundleError(f"leaf_{level}: must be a permutation")
    biases = (take("hidden_bias", np.int32, height), take("node_bias", np.int32, 1 << bits))
    if any(len(bias) and np.abs(bias.astype(np.int64)).max() > 1 << 30 for bias in biases):
        raise BundleError(f"hidden_bias_{level} or node_bias_{level}: beyond 2^30")
    return LevelPrior(
        contexts=np.ascontiguousarray(np.column_stack([contexts, starts]).astype(np.int32)),
        table=np.ascontiguousarray(np.concatenate(tables)),
        row=take("row", np.int16, grid[0], width),
        column=take("column", np.int16, grid[1], width),
        hidden=np.ascontiguousarray(hidden.T.astype(np.int16)),
        hidden_bias=biases[0],
        node=take("node", np.int8, 1 << bits, height).astype(np.int16),
        node_bias=biases[1],
        leaf=leaf,
        code=np.argsort(leaf).astype(np.int32),
        distance=_distances(embedding[level].astype(np.int32)),
    )


def _distances(vectors: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    products = vectors @ vectors.T
    squares = products.diagonal()
    return np.asarray(squares[:, None] + squares - 2 * products, np.int32)


def _check_contexts(contexts: Array, level: int, levels: int) -> None:
    name = f"contexts_{level}"
    if not 1 <= len(contexts) <= _MOST_CONTEXTS:
        raise BundleError(f"{name}: {len(contexts)} contexts, 1 to {_MOST_CONTEXTS} are possible")
    for kind, source, down, right in contexts.tolist():
        known = kind in (CURRENT, REFERENCE, SAME) and 0 <= source < levels
        near = max(abs(down), abs(right)) <= REACH
        past = source < level or (source == level and (down < 0 or (down == 0 and right < 0)))
        if not (known and near and (past or kind == REFERENCE)):
            raise BundleError(f"{name}: {[kind, source, down, right]} cannot be known in time")
