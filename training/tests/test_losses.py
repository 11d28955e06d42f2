"""Losses reward what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gosvae_codec import UNLABELLED
from gosvae_training.losses import (
    class_weights,
    frame_miou,
    imitation_loss,
    imitation_losses,
    label_losses,
    segmentation_loss,
)


def test_losses_reward_what_they_should() -> None:
    target = torch.randint(0, 11, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    target[0, 0] = UNLABELLED
    right = torch.nn.functional.one_hot(target.clamp(max=10), 11).permute(0, 3, 1, 2) * 20.0
    wrong = right.roll(1, dims=1)
    weights = class_weights(np.full(11, 1 / 11))
    assert weights.mean().item() == pytest.approx(1)
    assert segmentation_loss(right, target, weights)["loss"] < 0.1
    assert segmentation_loss(wrong, target, weights)["loss"] > 5
    same, other = imitation_loss(right, right), imitation_loss(wrong, right)
    assert same["imitation"] == pytest.approx(0, abs=1e-5)
    assert other["imitation"] == pytest.approx(np.log(2), abs=0.01)
    nothing = torch.full_like(target, UNLABELLED)
    assert segmentation_loss(right, nothing, weights)["loss"] == 0
    assert torch.equal(frame_miou(right, target), torch.ones(2))
    assert (frame_miou(wrong, target) == 0).all()


def test_each_of_several_tasks_counts_alike_and_by_itself() -> None:
    rng = torch.Generator().manual_seed(0)
    expert = torch.randn(2, 7, 4, 4, generator=rng)
    ours = torch.randn(2, 7, 4, 4, generator=rng)
    one, other = (
        imitation_loss(ours[:, :3], expert[:, :3]),
        imitation_loss(ours[:, 3:], expert[:, 3:]),
    )
    both = imitation_losses(ours, expert, (3, 4))
    for name, value in both.items():
        assert value.item() == pytest.approx((one[name] + other[name]).item() / 2)
    # A constant added to one task's logits changes nothing.
    shifted = ours + torch.tensor([5.0] * 3 + [-2.0] * 4)[None, :, None, None]
    again = imitation_losses(shifted, expert, (3, 4))
    assert again["imitation"].item() == pytest.approx(both["imitation"].item(), abs=1e-5)


def test_a_thin_class_that_is_missed_costs_where_experts_are_the_labels() -> None:
    expert = torch.zeros(1, 5, 16, 16)
    expert[:, 0] = 4
    expert[:, 1, :, 7] = 8  # a line of the first task's second class
    expert[:, 3] = 4
    missed = expert.clone()
    missed[:, 1] = 0
    right, wrong = (label_losses(each, expert, (2, 3)) for each in (expert, missed))
    imitated = [imitation_losses(each, expert, (2, 3))["imitation"] for each in (expert, missed)]
    # A sixteenth of the pixels, but a half of the classes.
    assert right < 0.1 and wrong - right > 0.15
    assert imitated[1] - imitated[0] < 0.05
