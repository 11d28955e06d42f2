"""Encoders that weigh distance against bits."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from gosvae_training.bundle.bit_cost import add_bit_cost, set_inertia
from gosvae_training.bundle.graphs import EncoderGraph
from gosvae_training.bundle.onnx_export import infer, write_onnx
from gosvae_training.data.samples import Sample
from gosvae_training.models import bit_cost
from gosvae_training.models.bit_cost import BitCost, Costs, count_costs
from gosvae_training.models.token_network import TokenNetwork

CODES = 3


class Given(nn.Module):
    """An encoder whose vectors are the pixels."""

    stride = 1

    def forward(self, frames: Tensor) -> Tensor:
        return frames.permute(0, 3, 1, 2).float() / 128


class Noise:
    """Eight frames of two halves, with noise."""

    title, terms = "noise", "none"

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng(index)
        frame = np.zeros((8, 12, 3), np.uint8)
        frame[:, :6, 0], frame[:, 6:, 1] = 128, 128
        frame = np.clip(frame + rng.normal(0, 80, frame.shape), 0, 255).astype(np.uint8)
        return Sample(frame, np.full((8, 12), 255, np.uint8))


def encoder_graph() -> EncoderGraph:
    network = TokenNetwork(Given(), nn.Module(), nn.Identity())
    network.quantizer.codebooks = torch.stack([torch.eye(3), torch.eye(3) / 4])
    return EncoderGraph(network, (0.0, 0.1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    graph, path = encoder_graph(), tmp_path_factory.mktemp("exported") / "encoder.onnx"
    examples = []
    for index in range(2):
        frame = torch.from_numpy(Noise()[index].frame)[None]
        examples.append((frame, graph.no_reference(frame)))
    write_onnx(graph, examples, (["frames", "reference"], ["tokens"]), path)
    return path.read_bytes()


@pytest.fixture
def written(tmp_path: Path, exported: bytes) -> Path:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(exported)
    return path


def tokens_of(path: Path, reference: int = CODES) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    frame = torch.from_numpy(Noise()[0].frame)[None]
    return infer(session, (frame, torch.full((1, 2, 8, 12), reference, dtype=torch.int32)))[0]


def changes(tokens: np.ndarray) -> int:
    """Return the number of neighbours that differ."""
    return int((np.diff(tokens, axis=0) != 0).sum() + (np.diff(tokens, axis=1) != 0).sum())


def energy(distances: np.ndarray, tokens: np.ndarray, costs: Costs, weight: float) -> float:
    """Return what :class:`BitCost` lowers, by its definition."""
    rows, columns = tokens.shape
    total = 0.0
    for row, column in itertools.product(range(rows), range(columns)):
        token = tokens[row, column]
        total += distances[row, column, token] + weight * costs.alone[token]
        if column:
            total += weight * costs.beside[tokens[row, column - 1], token]
        if row:
            total += weight * costs.below[tokens[row - 1, column], token]
    return total


def test_costs_are_frequencies_and_mutual_information() -> None:
    tokens = np.zeros((4, 64, 64), np.int64)
    tokens[:, 32:] = 1
    costs = count_costs(tokens, CODES)
    assert costs.alone[:2] == pytest.approx([1, 1], abs=1e-3)
    assert costs.alone[2] > 10
    # The same to the left says which of two it is; a bit less is left to say.
    assert costs.beside[0, 0] == pytest.approx(-1, abs=0.01)
    assert costs.beside[0, 1] > 5
    assert costs.below[0, 1] < costs.below[1, 0]
    independent = np.random.default_rng(0).integers(0, CODES, (16, 64, 64))
    assert np.abs(count_costs(independent, CODES).beside).max() < 0.05


def test_total_is_each_code_s_distance_and_bits_given_its_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bit_cost, "SWEEPS", 1)
    rng = np.random.default_rng(1)
    costs = Costs(*(rng.normal(size=shape).astype(np.float32) for shape in ((3,), (3, 3), (3, 3))))
    distances = rng.random((4, 5, CODES)).astype(np.float32)
    nearest = distances.argmin(-1)
    total = BitCost(costs, 0.3)(torch.from_numpy(distances)[None])[0].numpy()
    for row, column in itertools.product(range(4), range(5)):
        energies = []
        for code in range(CODES):
            changed = nearest.copy()
            changed[row, column] = code
            energies.append(energy(distances, changed, costs, 0.3))
        relative = total[row, column] - total[row, column, 0]
        assert relative == pytest.approx(np.subtract(energies, energies[0]), abs=1e-4)


def test_noise_takes_fewer_bits_and_weight_0_changes_nothing(written: Path) -> None:
    before, plain = tokens_of(written), onnx.load(written).graph
    for _ in range(2):  # costs replace those before them
        add_bit_cost(written.parent, Noise(), CODES, 0.1, seed=0)
        after = tokens_of(written)
        assert changes(after[0]) < changes(before[0])
        assert (after[0, :, :5] == 0).mean() > (before[0, :, :5] == 0).mean()
    add_bit_cost(written.parent, Noise(), CODES, 0.0, seed=0)
    assert (tokens_of(written) == before).all()
    again = onnx.load(written).graph
    assert [node.name for node in again.node] == [node.name for node in plain.node]
    assert len(again.initializer) == len(plain.initializer)


def test_inertia_can_be_changed_before_and_after_costs(written: Path) -> None:
    set_inertia(written.parent, (0.3, 0.3))
    add_bit_cost(written.parent, Noise(), CODES, 0.1, seed=0)
    for inertia, kept in (((100.0, 100.0), True), ((0.0, 0.0), False), ((100.0, 0.0), None)):
        set_inertia(written.parent, inertia)
        tokens = tokens_of(written, reference=2)
        levels = [bool((level == 2).all()) for level in tokens]
        assert levels == ([kept, kept] if kept is not None else [True, False])
