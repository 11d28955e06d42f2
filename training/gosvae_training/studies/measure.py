"""Figures of a study's row on the validation frames."""

from __future__ import annotations

import lzma
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

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
from ..models.encoders import TokenEncoder
from ..models.pixels import to_frames
from ..models.settings import Tokens
from ..models.token_network import resize_logits
from ..objectives import LabelObjective, Objective
from ..strict import ConfigError
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


class Passed(NamedTuple):
    """What becomes of one frame on its way to the receiver."""

    payload: float
    """Bytes without headers: indices of fixed length, numbers, or labels by LZMA."""
    coded: int | None
    """The same by an entropy coder, where the row has one."""
    picture: Tensor | None
    """Float (1, H, W, 3), 0 to 255, which experts look at; None where masks are made directly."""
    logits: Tensor | None
    """Those masks, float (1, classes, h, w)."""
    codes: set[int]
    """Of the first level."""


class ByObjective:
    """The way that a trained objective takes."""

    def __init__(
        self, config: Config, objective: Objective, coded_size: Callable[[Tensor], int] | None
    ) -> None:
        """Keep all; `coded_size` gives the bytes of a frame's tokens by an entropy coder."""
        self._config, self._objective, self._coded_size = config, objective, coded_size

    def compute(self) -> tuple[int | None, int]:
        """Return MACs of vehicle and receiver for one frame."""
        return _compute(self._objective, torch.zeros(1, *self._config.input_size, 3).byte())

    def __call__(self, frame: Tensor) -> Passed:
        objective = self._objective
        if isinstance(objective, LabelObjective):
            labels = objective.labels(frame)
            packed = labels.to(torch.uint8).numpy().tobytes()
            size = len(lzma.compress(packed, lzma.FORMAT_RAW, filters=LZMA))
            return Passed(size, None, to_frames(objective.network.draw(labels)), None, set())
        made, _, indices, _ = objective.network(frame, True)
        codes = set(indices[..., :1].flatten().tolist())
        coded = self._coded_size(frame) if self._coded_size else None
        pictures = objective.reconstructs
        return Passed(
            fixed_bytes(self._config),
            coded,
            to_frames(made) if pictures else None,
            None if pictures else made,
            codes,
        )


def fixed_bytes(config: Config) -> float:
    """Return the bytes of a frame's indices of fixed length, or of its numbers.

    Raises:
        ConfigError: the configuration sends no tokens.
    """
    tokens = config.tokens
    if not isinstance(tokens, Tokens):
        raise ConfigError(f"{config.name}: tokens.kind: {tokens.kind} has no indices")
    stride = getattr(tokens.encoder, "stride", TokenEncoder.stride)
    places = math.prod(-(-side // stride) for side in config.input_size)
    if not tokens.codes:
        return float(places * tokens.dim)
    return places * tokens.levels * (tokens.codes - 1).bit_length() / 8


class ByJpeg:
    """JPEG (optimised tables, 4:2:0) of the best quality that takes at most `budget` bytes."""

    def __init__(self, budget: float) -> None:
        """Keep the bytes of a frame, headers of the file included."""
        self._budget = budget

    def compute(self) -> tuple[int | None, int | None]:
        """Return MACs of vehicle and receiver: none but the expert's, which is not counted."""
        return 0, None

    def __call__(self, frame: Tensor) -> Passed:
        pixels = cv2.cvtColor(frame[0].numpy(), cv2.COLOR_RGB2BGR)
        best = _jpeg(pixels, 0)
        low, high = 1, 100
        while low <= high:
            quality = (low + high) // 2
            file = _jpeg(pixels, quality)
            if len(file) <= self._budget:
                best, low = file, quality + 1
            else:
                high = quality - 1
        seen = cv2.cvtColor(cv2.imdecode(best, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return Passed(len(best), len(best), torch.from_numpy(seen)[None].float(), None, set())


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", pixels, options)[1]


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
    name: str,
    material: Material,
    way: ByObjective | ByJpeg,
    judges: Mapping[str, Judge],
    own: str,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the figures of a row on the validation frames, and what one looks like.

    Masks decoded directly have no other judge than themselves; pictures are shown to all, and mIoU
    and agreement are what judge `own`, the row's expert, makes of them.

    Args:
        name: of the row.
        material: the frames.
        way: what becomes of a frame.
        judges: by name.
        own: name of the row's own.
    """
    agreement = ConfusionMatrix()
    truth = defaultdict[str, ConfusionMatrix](ConfusionMatrix)
    sizes, coded, used = [], [], set[int]()
    for index, (sample, frame) in enumerate(_val(material, name)):
        passed = way(frame)
        sizes.append(passed.payload)
        coded += [] if passed.coded is None else [passed.coded]
        used |= passed.codes
        if passed.picture is None:
            seen_by = {own: passed.logits}
        else:
            seen_by = {each: judges[each].network(passed.picture) for each in judges}
        for judge, logits in seen_by.items():
            ours = _mask(logits, sample.mask.shape, material.labels)
            truth[judge].add(sample.mask, ours)
            if judge == own:
                agreement.add(judges[own].masks[index], ours)
                if index == len(material.val) // 2:
                    seen = None if passed.picture is None else passed.picture[0].byte().numpy()
                    picture = panel(seen, ours, material)
    vehicle, receiver = way.compute()
    size, count = material.config.input_size, float(np.mean(sizes))
    figures = {judge: round(matrix.miou(), 4) for judge, matrix in truth.items()}
    row = {
        "miou": figures[own],
        "agreement": round(agreement.miou(), 4),
        "judges": {} if passed.picture is None else figures,
        "codes_used": len(used),
        "payload_bytes": round(count, 1),
        **({"coded_bytes": round(float(np.mean(coded)), 1)} if coded else {}),
        "compression_ratio": round(size[0] * size[1] * 3 / count, 1),
        "vehicle_macs": vehicle,
        "receiver_macs": receiver,
    }
    return row, picture
