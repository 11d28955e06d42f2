"""Figures of a study's row on the validation frames."""

from __future__ import annotations

import lzma
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from gosvae_codec.images import resize_frame
from gosvae_codec.labels import LabelSpace
from gosvae_codec.masks import colorize
from gosvae_codec.metrics import ConfusionMatrix

from ..bundle.macs import expert_macs, network_macs
from ..config import Config
from ..data.samples import Sample, iterate
from ..evaluate import LZMA
from ..models.pixels import to_frames
from ..models.settings import Tokens
from ..models.token_network import resize_logits
from ..objectives import LabelObjective, Objective
from ..train import Material


class _Received(nn.Module):
    """What the receiver does, from what was sent to logits."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, sent: Tensor) -> Tensor:
        objective = self.objective
        if isinstance(objective, LabelObjective):
            return objective.expert(to_frames(objective.network.draw(sent)))
        made = objective.network.decoder(sent)
        return objective.guides[0](to_frames(made)) if objective.reconstructs else made


def _compute(objective: Objective, frame: Tensor) -> tuple[int | None, int]:
    """Return MACs of vehicle and receiver for one frame; the code search counts."""
    if isinstance(objective, LabelObjective):
        sent: Tensor = objective.labels(frame)
        return expert_macs(objective.expert, frame), network_macs(_Received(objective), sent)
    network = objective.network
    with torch.no_grad():
        sent = network.encoder(frame)
    search = 0
    if isinstance(network.quantizer, nn.Module) and hasattr(network.quantizer, "codebooks"):
        levels, codes, dim = network.codebooks().shape
        search = sent[:, 0].numel() * levels * codes * dim
    return network_macs(network.encoder, frame) + search, network_macs(_Received(objective), sent)


def _sent_bytes(config: Config, objective: Objective, frame: Tensor) -> float:
    """Return bytes of one frame without headers: indices of fixed length, numbers, or LZMA."""
    if isinstance(objective, LabelObjective):
        labels = objective.labels(frame).to(torch.uint8).numpy()
        return len(lzma.compress(labels.tobytes(), lzma.FORMAT_RAW, filters=LZMA))
    assert isinstance(config.tokens, Tokens)
    places = np.prod([-(-side // objective.network.encoder.stride) for side in frame.shape[1:3]])
    if not config.tokens.codes:
        return float(places * config.tokens.dim)
    return float(places * config.tokens.levels * (config.tokens.codes - 1).bit_length() / 8)


def _mask(logits: Tensor, shape: tuple[int, int], labels: LabelSpace) -> np.ndarray:
    return labels.ids[resize_logits(logits, shape).argmax(1)[0].numpy()]


class Judge:
    """A frozen expert and its masks of the validation frames as they are."""

    def __init__(self, name: str, network: nn.Module, material: Material) -> None:
        """Look at all frames once."""
        self.network, truth = network, ConfusionMatrix()
        self.masks = []
        for sample, frame in _val(material, f"{name}, no codec"):
            self.masks.append(_mask(network(frame), sample.mask.shape, material.labels))
            truth.add(sample.mask, self.masks[-1])
        self.miou = round(truth.miou(), 4)


def panel(picture: np.ndarray | None, mask: np.ndarray, material: Material) -> np.ndarray:
    """Return a picture, white where there is none, above a mask: uint8 (360, 240, 3) RGB."""
    if picture is None:
        picture = np.full((*mask.shape, 3), 255, np.uint8)
    parts = (picture, colorize(mask, material.labels))
    return np.concatenate(
        [cv2.resize(part, (240, 180), interpolation=cv2.INTER_AREA) for part in parts]
    )


def _val(material: Material, name: str) -> Iterator[tuple[Sample, Tensor]]:
    for sample in tqdm(iterate(material.val), total=len(material.val), desc=name, mininterval=5):
        frame = resize_frame(sample.frame, material.config.input_size)
        yield sample, torch.from_numpy(frame)[None]


def measure(
    config: Config, material: Material, objective: Objective, judges: Mapping[str, Judge], own: str
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the figures of a trained row on the validation frames, and what one looks like.

    Masks decoded directly have no other judge than themselves; pictures are shown to all, and mIoU
    and agreement are what judge `own`, the row's expert, makes of them.
    """
    network = objective.network
    pictures = isinstance(objective, LabelObjective) or objective.reconstructs
    agreement = ConfusionMatrix()
    truth = {name: ConfusionMatrix() for name in (judges if pictures else [own])}
    sizes, used = [], set()
    for index, (sample, frame) in enumerate(_val(material, config.name)):
        sizes.append(_sent_bytes(config, objective, frame))
        if isinstance(objective, LabelObjective):
            made = network.draw(objective.labels(frame))
        else:
            made, _, indices, _ = network(frame, True)
            used.update(indices[..., :1].flatten().tolist())
        for name, matrix in truth.items():
            logits = judges[name].network(to_frames(made)) if pictures else made
            ours = _mask(logits, sample.mask.shape, material.labels)
            matrix.add(sample.mask, ours)
            if name == own:
                agreement.add(judges[own].masks[index], ours)
                if index == len(material.val) // 2:
                    seen = to_frames(made)[0].byte().numpy() if pictures else None
                    picture = panel(seen, ours, material)
    example = torch.zeros(1, *config.input_size, 3, dtype=torch.uint8)
    vehicle, receiver = _compute(objective, example)
    size, count = config.input_size, float(np.mean(sizes))
    figures = {name: round(matrix.miou(), 4) for name, matrix in truth.items()}
    row = {
        "miou": figures[own],
        "agreement": round(agreement.miou(), 4),
        "judges": figures if pictures else {},
        "codes_used": len(used),
        "payload_bytes": round(count, 1),
        "compression_ratio": round(size[0] * size[1] * 3 / count, 1),
        "vehicle_macs": vehicle,
        "receiver_macs": receiver,
    }
    return row, picture
