"""Fit the entropy coder's prior to a bundle's tokens.

The model is a hierarchical neural language model over token grids (Morin and Bengio 2005) with one
hidden layer: embeddings of the tokens known already, mixed by place, give the decisions of a binary
tree over the codes. It is trained in floats here and rounded; the codec runs it in integers.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from gosvae_codec.prior import CURRENT, LOGITS, REACH, REFERENCE, SAME, SCALE

from .config import Prior
from .data.samples import Dataset, Sample, iterate

BATCH = 5520
"""Tokens of a level in a batch, about: eight frames of camvid-f16, and no less than one frame."""
LEARNING_RATE = 4e-3
UNITS, HIDDEN = 64, 32
"""Of the first layer and the second; 64 there would save camvid-tiny 1.5% of its bytes, for half
as much time again."""
EMBEDDING_SCALE = 32
INTRA, ONE_LEVEL, STILL = 0.35, 0.1, 0.05
"""Shares of samples without a reference, with one of the first level only, and equal to theirs."""

_LEFT, _UP, _UP_LEFT, _UP_RIGHT = (0, -1), (-1, 0), (-1, -1), (-1, 1)
_BEFORE = (_LEFT, _UP, _UP_LEFT, _UP_RIGHT)
_CROSS = ((0, 0), (0, 1), (1, 0), _LEFT, _UP)
_AROUND = (*_CROSS, (1, 1), (1, -1), _UP_LEFT, _UP_RIGHT)

Context = tuple[int, int, int, int]


class Pairs(NamedTuple):
    """Token grids of two views each, uint16 (N, levels, rows, columns)."""

    earlier: np.ndarray
    later: np.ndarray


def contexts_of(level: int) -> list[Context]:
    """Return what a level's tokens are predicted from: kind, level, rows down, columns right."""
    if level == 0:
        first = [(CURRENT, 0, *place) for place in (*_BEFORE, (0, -2), (-2, 0))]
        first += [(REFERENCE, 0, *place) for place in _AROUND]
        return first + [(SAME, 0, *place) for place in _BEFORE]
    below = level - 1
    contexts = [(CURRENT, below, *place) for place in _AROUND]
    contexts += [(CURRENT, level, *place) for place in _BEFORE]
    contexts += [(REFERENCE, each, *place) for each in (level, below) for place in _CROSS]
    contexts += [(SAME, below, *place) for place in _CROSS]
    return contexts + [(SAME, level, *place) for place in _BEFORE]


def make_pair(frame: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two views of a still as a moving camera might take them a few frames apart.

    The second is zoomed about a point of expansion and shifted, by a log-uniform amount; brightness
    drifts, and each view has noise of its own.

    Args:
        frame: uint8 (H, W, 3) RGB.
        rng: source of chance.
    """
    height, width = frame.shape[:2]
    if rng.random() < 0.5:
        frame = np.ascontiguousarray(frame[:, ::-1])
    scale = rng.uniform(1.0, 1.25)
    slack = (scale - 1) / 2 * np.array([width, height]) + width / 60
    shift = rng.uniform(-slack, slack) + (1 - scale) / 2 * np.array([width, height])
    base = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])
    amount = float(np.exp(rng.uniform(np.log(0.8), np.log(12))))
    zoom = 1 + 0.004 * amount * rng.uniform(0, 2)
    center = np.array([width / 2, 0.45 * height]) + rng.normal(0, (width / 12, height / 24))
    turn = rng.normal(0, (amount, amount / 2)) * width / 480 + (1 - zoom) * center
    motion = np.array([[zoom, 0, turn[0]], [0, zoom, turn[1]], [0, 0, 1]])
    gain = np.float32(rng.uniform(0.8, 1.2)) * rng.uniform(0.97, 1.03, 3).astype(np.float32)
    views = []
    for matrix, drift in ((base, 1.0), (motion @ base, 1 + rng.normal(0, 0.01))):
        view = cv2.warpAffine(
            frame, matrix[:2], (width, height), borderMode=cv2.BORDER_REFLECT_101
        ).astype(np.float32)
        view = view * gain * np.float32(drift) + rng.normal(0, 2, view.shape).astype(np.float32)
        views.append(np.clip(np.rint(view), 0, 255).astype(np.uint8))
    return views[0], views[1]


def encode_pairs(encoder: Path, samples: Dataset, views: int, seed: int) -> Pairs:
    """Run ``encoder.onnx`` on `views` pairs of each still, or of some five hundred."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(encoder), options, providers=["CPUExecutionProvider"])
    frames, reference = session.get_inputs()
    size = tuple(frames.shape[1:3])
    # No code has this index.
    nothing = np.full((1, *reference.shape[1:]), np.iinfo(np.int32).max, np.int32)

    def encode(sample: Sample, index: int) -> tuple[np.ndarray, np.ndarray]:
        frame = sample.frame
        if frame.shape[:2] != size:
            frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        tokens = [nothing]
        for view in make_pair(frame, np.random.default_rng((seed, index))):
            taken = {frames.name: view[None], reference.name: tokens[-1]}
            tokens.append(session.run(None, taken)[0])
        return tokens[1][0].astype(np.uint16), tokens[2][0].astype(np.uint16)

    numbers = itertools.count()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        # One view of all at a time: map() reads all frames ahead.
        parts = (pool.map(encode, iterate(samples, 512), numbers) for _ in range(views))
        pairs = itertools.chain.from_iterable(parts)
        progress = tqdm(pairs, desc="tokens of views", unit="pair", leave=False)
        earlier, later = zip(*progress, strict=True)
    return Pairs(np.stack(earlier), np.stack(later))


def leaves(codebook: np.ndarray) -> np.ndarray:
    """Return each code's leaf in a tree that halves the codebook along its principal axes.

    Args:
        codebook: float (codes, dim).

    Returns:
        int64 (codes,), a permutation.
    """

    def halve(codes: np.ndarray, depth: int) -> list[int]:
        if len(codes) == 1:
            return [int(codes[0])]
        vectors = codebook[codes] - codebook[codes].mean(0)
        axis = np.linalg.svd(vectors, full_matrices=False)[2][0]
        ordered = codes[np.argsort(vectors @ axis, kind="stable")]
        # Leaves fill the tree from the left, as the decoder's heap has it.
        half = min(1 << (depth - 1), len(codes))
        rest = [] if half == len(codes) else halve(ordered[half:], depth - 1)
        return halve(ordered[:half], depth - 1) + rest

    codes = len(codebook)
    order = halve(np.arange(codes), max((codes - 1).bit_length(), 1))
    leaf = np.empty(codes, np.int64)
    leaf[order] = np.arange(codes)
    return leaf


def context_values(
    contexts: list[Context],
    current: np.ndarray,
    reference: np.ndarray,
    band: np.ndarray,
    codes: int,
) -> np.ndarray:
    """Return the value of each context at each token, int64 (N, rows, columns, contexts).

    Args:
        contexts: as :func:`contexts_of` has them.
        current: (N, levels, rows, columns).
        reference: likewise; `codes` where absent.
        band: (N, rows), number of the band that a row belongs to.
        codes: size of the codebook.
    """
    count, _, rows, columns = current.shape

    def shifted(grid: np.ndarray, down: int, right: int, fill: int) -> np.ndarray:
        padded = np.pad(grid, ((0, 0), (REACH, REACH), (REACH, REACH)), constant_values=fill)
        top, side = REACH + down, REACH + right
        return padded[:, top : top + rows, side : side + columns]

    bands = np.broadcast_to(band[:, :, None], (count, rows, columns))
    values = np.empty((count, rows, columns, len(contexts)), np.int64)
    for index, (kind, level, down, right) in enumerate(contexts):
        inside = shifted(bands, down, right, -1) == bands
        own = np.where(inside, shifted(current[:, level], down, right, codes), codes)
        past = shifted(reference[:, level], down, right, codes)
        if kind == SAME:
            known = (own != codes) & (past != codes)
            values[..., index] = np.where(known, 1 + (own == past), 0)
        else:
            values[..., index] = own if kind == CURRENT else past
    return values


class LevelModel(nn.Module):
    """One level's prior in floats; see docs/wire-format.md for the same in integers."""

    def __init__(self, level: int, codebooks: np.ndarray, grid: tuple[int, int]) -> None:
        super().__init__()
        codes = codebooks.shape[1]
        self.level, self.codes, self.contexts = level, codes, contexts_of(level)
        self.depth = max((codes - 1).bit_length(), 1)
        self.tokens = [i for i, each in enumerate(self.contexts) if each[0] != SAME]
        self.agreements = [i for i, each in enumerate(self.contexts) if each[0] == SAME]
        self.sources = [self.contexts[i][1] for i in self.tokens]
        self.register_buffer("leaf", torch.from_numpy(leaves(codebooks[level])))
        centred = codebooks - codebooks.mean(1, keepdims=True)
        spread = np.maximum(centred.std((1, 2), keepdims=True), 1e-6)
        self.embedding = nn.Parameter(torch.from_numpy(centred / spread).float() / 2)
        self.mixing = nn.Parameter(torch.randn(len(self.tokens), codebooks.shape[2], UNITS) * 0.06)
        self.absent = nn.Parameter(torch.zeros(len(self.tokens), UNITS))
        self.agreement = nn.Parameter(torch.randn(len(self.agreements), 3, UNITS) * 0.02)
        self.row = nn.Parameter(torch.zeros(grid[0], UNITS))
        self.column = nn.Parameter(torch.zeros(grid[1], UNITS))
        self.hidden = nn.Linear(UNITS, HIDDEN)
        self.node = nn.Parameter(torch.randn(1 << self.depth, HIDDEN) * 0.05)
        self.node_bias = nn.Parameter(torch.zeros(1 << self.depth))

    def forward(self, values: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return the logits of all decisions, (B, 2^depth), from context values (B, contexts)."""
        mixed = torch.einsum("ncd,ndu->ncu", self.embedding[self.sources], self.mixing)
        tables = torch.cat([mixed, self.absent[:, None]], 1).flatten(0, 1)
        offsets = torch.arange(len(self.tokens)) * (self.codes + 1)
        total = self.row[row] + self.column[column]
        total = total + F.embedding_bag(values[:, self.tokens] + offsets, tables, mode="sum")
        offsets = torch.arange(len(self.agreements)) * 3
        agreements = values[:, self.agreements] + offsets
        total = total + F.embedding_bag(agreements, self.agreement.flatten(0, 1), mode="sum")
        return F.relu(self.hidden(F.relu(total))) @ self.node.T + self.node_bias

    def bits(self, logits: Tensor, token: Tensor, before: Tensor) -> Tensor:
        """Return what each token costs, (B,); `before` is the reference's there, or `codes`."""
        leaf, decision = self.leaf[token][:, None], torch.arange(self.depth)
        # All decisions at once, as the gradient of each gather would be as large as the logits.
        taken = logits.gather(1, (1 << decision) + (leaf >> (self.depth - decision)))
        bit = leaf >> (self.depth - 1 - decision) & 1
        path = F.softplus(torch.where(bit == 1, -taken, taken)).sum(1)
        same = token == before
        flag = F.softplus(torch.where(same, -logits[:, 0], logits[:, 0]))
        path = torch.where(same, 0.0, path) + torch.where(before < self.codes, flag, 0.0)
        return path / np.log(2)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the weights where their integers fit a byte."""
        self.embedding.clamp_(-127 / EMBEDDING_SCALE, 127 / EMBEDDING_SCALE)
        for weights in (self.mixing, self.hidden.weight, self.node):
            weights.clamp_(-127 / SCALE, 127 / SCALE)

    def tables(self) -> dict[str, np.ndarray]:
        """Return the integer arrays of ``prior.npz`` for this level."""

        def rounded(values: Tensor, scale: int, dtype: type) -> np.ndarray:
            limits = np.iinfo(dtype)
            scaled = np.rint(values.detach().numpy() * scale)
            return np.ascontiguousarray(np.clip(scaled, limits.min, limits.max).astype(dtype))

        arrays = {
            "contexts": np.array(self.contexts, np.int8),
            "embedding": rounded(self.embedding, EMBEDDING_SCALE, np.int8),
            "mixing": rounded(self.mixing, SCALE, np.int8),
            "absent": rounded(self.absent, SCALE, np.int16),
            "agreement": rounded(self.agreement, SCALE, np.int16),
            "row": rounded(self.row, SCALE, np.int16),
            "column": rounded(self.column, SCALE, np.int16),
            "hidden": rounded(self.hidden.weight.T, SCALE, np.int8),
            "hidden_bias": rounded(self.hidden.bias, SCALE**2, np.int32),
            "node": rounded(self.node, SCALE, np.int8),
            "node_bias": rounded(self.node_bias, SCALE**2, np.int32),
            "leaf": self.leaf.numpy().astype(np.uint16),
        }
        return {f"{name}_{self.level}": array for name, array in arrays.items()}


def sigmoid_table() -> np.ndarray:
    """Return the probabilities of a 1, uint16 (LOGITS,), in 1/65536."""
    logits = (np.arange(LOGITS) - LOGITS // 2 + 0.5) / SCALE
    return np.clip(np.rint(65536 / (1 + np.exp(-logits))), 1, 65535).astype(np.uint16)


def _batch(
    model: LevelModel, pairs: Pairs, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw frames with their references; return values, row, column, token and token before."""
    codes = model.codes
    frames = max(round(BATCH / pairs.later[0, 0].size), 1)
    chosen = rng.integers(0, len(pairs.later), frames)
    current, reference = pairs.later[chosen], pairs.earlier[chosen]
    swap = rng.random(frames) < 0.5
    current[swap], reference[swap] = reference[swap], current[swap]
    kind = rng.random(frames)
    reference[kind < INTRA] = codes
    reference[(kind >= INTRA) & (kind < INTRA + ONE_LEVEL), 1:] = codes
    still = kind > 1 - STILL
    reference[still] = current[still]
    rows, columns = current.shape[2:]
    # Half of the frames in two bands, as slices know nothing of each other.
    cut = np.where(rng.random(frames) < 0.5, 0, rng.integers(0, rows, frames))
    band = (np.arange(rows) >= cut[:, None]).astype(np.int64)
    values = context_values(model.contexts, current, reference, band, codes)
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")

    def flat(array: np.ndarray) -> Tensor:
        return torch.from_numpy(
            np.broadcast_to(array, current[:, 0].shape).ravel().astype(np.int64)
        )

    return (
        torch.from_numpy(values.reshape(-1, len(model.contexts))),
        flat(row),
        flat(column),
        flat(current[:, model.level]),
        flat(reference[:, model.level]),
    )


def fit_level(level: int, codebooks: np.ndarray, pairs: Pairs, steps: int, seed: int) -> LevelModel:
    """Return the trained model of one level.

    Args:
        level: which one.
        codebooks: float (levels, codes, dim).
        pairs: what to train on.
        steps: of Adam.
        seed: of initialisation and sampling.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, level))
    model = LevelModel(level, codebooks, pairs.later.shape[2:])
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98))
    progress = tqdm(range(steps), desc=f"prior of level {level + 1}", unit="step", leave=False)
    for step in progress:
        rate = LEARNING_RATE * (1 - step / steps) * min(1.0, (step + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = rate
        values, row, column, token, before = _batch(model, pairs, rng)
        loss = model.bits(model(values, row, column), token, before).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        model.clamp()
        if step % 50 == 0:
            progress.set_postfix(bits=f"{loss.item():.2f}")
    return model


def fit_prior(
    folder: Path, codebooks: np.ndarray, samples: Dataset, config: Prior, seed: int
) -> None:
    """Fit a bundle's prior on stills of `train` and write it to ``prior.npz`` in its folder.

    Args:
        folder: where encoder.onnx lies.
        codebooks: float (levels, codes, dim); only how near codes are to each other matters.
        samples: frames; masks are not looked at.
        config: how much of it.
        seed: of views, initialisation and sampling.
    """
    pairs = encode_pairs(folder / "encoder.onnx", samples, config.views, seed)
    write_prior(
        folder / "prior.npz",
        [fit_level(level, codebooks, pairs, config.steps, seed) for level in range(len(codebooks))],
    )


def write_prior(path: Path, models: list[LevelModel]) -> None:
    """Write the integer tables of all levels' models."""
    arrays = {"sigmoid": sigmoid_table()}
    for model in models:
        arrays |= model.tables()
    np.savez_compressed(path, **arrays)
