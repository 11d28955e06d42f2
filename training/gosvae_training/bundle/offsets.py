"""Offsets of the classes' logits, fitted for mIoU after training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gosvae_codec import UNLABELLED, LabelSpace
from gosvae_codec.images import resize_frame
from gosvae_codec.metrics import ConfusionMatrix

from ..data.samples import Dataset, iterate
from ..models.token_network import TokenNetwork, resize_logits
from .graphs import EncoderGraph, FeaturesGraph, sends_labels


def first_level_logits(codec: TokenNetwork, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return what gives frames' logits as the receiver has them of the first level of tokens.

    Of labels, which have no more than one, those that the labels are chosen by.
    """
    if sends_labels(codec):
        return codec.encoder
    encoder, features = EncoderGraph(codec), FeaturesGraph(codec, size)

    def logits(frames: Tensor) -> Tensor:
        tokens = encoder(frames, encoder.no_reference(frames))
        tokens[:, 1:] = features.codes
        return codec.decoder.classifier(features(tokens))

    return logits


def fit_offsets(
    network: Callable[[Tensor], Tensor],
    samples: Dataset,
    labels: LabelSpace,
    size: tuple[int, int],
) -> Tensor:
    """Return an offset for each class's logit, (classes,), that raises mIoU on `samples`.

    Imitation spreads a thin object's probability over the places it may be at, and argmax then
    never picks it; offsets trade that off for the metric (logit adjustment, Menon et al. 2021, but
    fitted by coordinate ascent). Looked at are some forty frames at half size.

    Args:
        network: frames -> logits.
        samples: frames that were trained on.
        labels: what the logits' channels mean.
        size: of the frames that `network` takes.
    """
    channel = np.full(256, UNLABELLED, np.int64)
    channel[labels.ids] = np.arange(len(labels))
    logits, truth = [], []
    for sample in iterate(samples, 41):
        frame = torch.from_numpy(resize_frame(sample.frame, size))[None]
        label = channel[sample.mask[::2, ::2]]
        logits.append(resize_logits(network(frame), label.shape)[0].flatten(1).numpy())
        truth.append(label.ravel())
    scores, target = np.concatenate(logits, 1), np.concatenate(truth)
    known = np.flatnonzero(target != UNLABELLED)
    known = np.random.default_rng(0).choice(known, min(len(known), 400_000), replace=False)
    scores, target = scores[:, known], target[known]
    classes, truth_ids = len(labels), target.astype(np.uint8)[None]

    def miou(offsets: npt.NDArray[np.float32]) -> float:
        matrix = ConfusionMatrix()
        matrix.add(truth_ids, (scores + offsets[:, None]).argmax(0).astype(np.uint8)[None])
        return matrix.miou()

    offsets = np.zeros(classes, np.float32)
    best = miou(offsets)
    for index in list(range(classes)) * 2:
        for step in (-0.5, -0.25, 0.25, 0.5, 1.0, 1.5):
            tried = offsets.copy()
            tried[index] += step
            if (score := miou(tried)) > best + 1e-5:
                best, offsets = score, tried
    return torch.from_numpy(offsets)
