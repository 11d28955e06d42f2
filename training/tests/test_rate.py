"""What tokens will cost, learnt beside them."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import SMALL
from torch import Tensor

from gosvae_training.config import Config
from gosvae_training.models.quantizers import nearest_codes
from gosvae_training.rate import TrainingPrior, moved
from gosvae_training.strict import ConfigError, parse

CODES, DIM = 4, 2
BOOKS = torch.tensor(
    [[[0.0, 0.0], [4, 0], [0, 4], [4, 4]], [[0.1, 0], [-0.1, 0], [0, 0.1], [9, 9]]]
)


def grids(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return vectors (2, DIM, 5, 6) and their indices."""
    torch.manual_seed(seed)
    vectors = torch.randn(2, DIM, 5, 6) * 3
    return vectors, nearest_codes(vectors, BOOKS)


def test_bits_are_those_of_the_probabilities_given_to_what_was_chosen() -> None:
    vectors, indices = grids()
    prior = TrainingPrior(2, CODES)
    for parameter in prior.parameters():
        parameter.data.zero_()
    bits = prior(vectors, BOOKS, indices, torch.full_like(indices, -1))
    assert [each.item() for each in bits] == pytest.approx([math.log2(CODES)] * 2)


def test_nothing_is_told_by_what_comes_later() -> None:
    _, indices = grids()
    prior, nothing = TrainingPrior(2, CODES), torch.full((2, 5, 6, 2), -1)
    later = indices.clone()
    later[:, 2, 4:, 0] = (later[:, 2, 4:, 0] + 1) % CODES
    later[:, 3:, :, 0] = (later[:, 3:, :, 0] + 1) % CODES
    first, second = prior.costs(indices, nothing)[0], prior.costs(later, nothing)[0]
    assert torch.equal(first[:, :2], second[:, :2]) and torch.equal(
        first[:, 2, :5], second[:, 2, :5]
    )
    assert not torch.equal(first[:, 3:], second[:, 3:])


def test_each_level_knows_those_below_and_the_reference_where_there_is_one() -> None:
    _, indices = grids()
    prior, nothing = TrainingPrior(2, CODES), torch.full((2, 5, 6, 2), -1)
    other = indices.clone()
    other[..., 0] = (other[..., 0] + 1) % CODES
    assert not torch.equal(prior.costs(indices, nothing)[1], prior.costs(other, nothing)[1])
    assert not torch.equal(prior.costs(indices, nothing)[0], prior.costs(indices, other)[0])
    dropped = indices.clone()
    dropped[..., 1] = -1
    (only,) = prior.costs(dropped, other)
    assert torch.equal(only, prior.costs(indices, other)[0])


def test_vectors_are_drawn_to_what_is_cheaper() -> None:
    prior = TrainingPrior(1, CODES)
    for parameter in prior.parameters():
        parameter.data.zero_()
    prior.levels[0].code.bias.data[1] = 3.0
    # Nearer to the first code than to the second, which lies to the right and costs less.
    vectors = torch.tensor([1.6, 0.1])[None, :, None, None].repeat(1, 1, 3, 3).requires_grad_()
    indices = torch.zeros(1, 3, 3, 1, dtype=torch.long)
    (bits,) = prior(vectors, BOOKS[:1], indices, -torch.ones_like(indices))
    bits.backward()
    assert vectors.grad is not None and (vectors.grad[:, 0] < 0).all()
    assert prior.levels[0].code.bias.grad[0] < 0


def test_a_prior_learns_that_still_scenes_cost_next_to_nothing() -> None:
    prior = TrainingPrior(2, CODES)
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    for seed in range(150):
        vectors, indices = grids(seed)
        loss = torch.stack(prior(vectors, BOOKS, indices, indices)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vectors, indices = grids(1000)
    known, unknown = (
        prior(vectors, BOOKS, indices, r) for r in (indices, -torch.ones_like(indices))
    )
    assert all(each < 0.3 for each in known) and all(each > 1 for each in unknown)


def test_a_moment_before_looks_much_the_same() -> None:
    torch.manual_seed(0)
    frames = torch.linspace(0, 255, 96).to(torch.uint8)[None, None, :, None].expand(4, 64, 96, 3)
    before = moved(frames)
    assert before.shape == frames.shape and before.dtype == torch.float32
    assert before.min() >= 0 and before.max() <= 255
    assert 1 < (before - frames.float()).abs().mean() < 25
    assert not torch.allclose(before[0], before[1])


@pytest.mark.parametrize("rate", [[0.1], [0.1, 0.1, 0.1]])
def test_each_level_has_its_rate(rate: list[float]) -> None:
    values = {**SMALL, "losses": {"rate": rate}}
    with pytest.raises(ConfigError, match=r"losses\.rate.*each level"):
        parse(Config, values, "a.yaml")
