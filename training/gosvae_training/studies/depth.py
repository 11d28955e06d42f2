"""A second task from the same tokens: depth, learnt from the rendered streets' exact depth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.data import Dataset

from gosvae_codec.images import resize_frame

from ..config import Config, Identity, Schedule
from ..data.samples import DataError
from ..fit import Run, fit
from ..models.decoders import MaskDecoder
from ..models.efficientnet import EfficientNetLite
from ..models.expert import Expert
from ..models.settings import Tokens
from ..models.token_network import TokenNetwork
from ..models.token_network import resize_logits as resize
from ..objectives import Objective
from ..strict import Strict
from ..tasks.network import TokenSender, to_depth
from ..train import fingerprint

NEAR, FAR = 1.0, 80.0
"""Metres that count; what is nearer or farther, and the sky, is left out."""


class Depth(Strict):
    """Training of a depth decoder on each row's tokens."""

    steps: PositiveInt
    batch: PositiveInt = 8
    learning_rate: float = Field(default=1e-3, gt=0)


class DepthFrames(Dataset):
    """Frames of a set in Cityscapes' layout with ``depth/<split>/<city>/*_depth.png``.

    Those files hold uint16, 256 times the depth in metres, 0 where there is none. Items are
    (uint8 (H, W, 3) RGB, float (H, W) metres), both resized to `size`.
    """

    def __init__(self, root: Path, split: str, size: tuple[int, int]) -> None:
        """List the files; raise DataError where there are none."""
        self.title = f"{root.resolve().name} {split}"
        self.size = size
        self._depths = sorted((root / "depth" / split).glob("*/*_depth.png"))
        if not self._depths:
            raise DataError(
                f"{root / 'depth' / split}: no files */*_depth.png; give rendered streets"
            )
        self._frames = [
            root
            / "leftImg8bit"
            / split
            / path.parent.name
            / f"{path.name.removesuffix('_depth.png')}_leftImg8bit.png"
            for path in self._depths
        ]

    def __len__(self) -> int:
        return len(self._depths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        frame = cv2.imread(str(self._frames[index]), cv2.IMREAD_COLOR)
        depth = cv2.imread(str(self._depths[index]), cv2.IMREAD_UNCHANGED)
        if frame is None or depth is None or depth.dtype != np.uint16:
            raise DataError(f"{self._depths[index]}: it or its frame cannot be read")
        frame = resize_frame(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), self.size)
        metres = depth.astype(np.float32) / 256
        metres = cv2.resize(metres, self.size[::-1], interpolation=cv2.INTER_NEAREST)
        return torch.from_numpy(frame), torch.from_numpy(metres)


class Shuffled(Dataset):
    """Frames in an order of `seed`, epoch after epoch, half of them mirrored."""

    def __init__(self, frames: DepthFrames, length: int, seed: int) -> None:
        self._frames, self._length, self._seed = frames, length, seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(index, len(self._frames))
        rng = np.random.default_rng((self._seed, epoch))
        order, mirrored = rng.permutation(len(self._frames)), rng.random(len(self._frames)) < 0.5
        frame, metres = self._frames[int(order[place])]
        return (frame.flip(1), metres.flip(1)) if mirrored[place] else (frame, metres)


class DepthDecoder(nn.Module):
    """Vectors (N, dim, h, w) to metres (N, H/4, W/4)."""

    def __init__(self, dim: int, token_stride: int, width: int = 128, blocks: int = 4) -> None:
        super().__init__()
        self.decoder = MaskDecoder(dim, 1, token_stride, width, blocks)

    def forward(self, vectors: Tensor) -> Tensor:
        return to_depth(self.decoder(vectors))


class DepthExpert(Expert):
    """Frames (N, H, W, 3) to metres (N, H/4, W/4); begins with ImageNet's weights."""

    def __init__(self) -> None:
        super().__init__(1)
        self.backbone.load_imagenet()

    def forward(self, frames: Tensor) -> Tensor:
        return to_depth(super().forward(frames))


class DepthObjective(Objective):
    """Depth from tokens that are as they are; `quantize` off shows their ceiling.

    Without tokens the network sees the frames.
    """

    def __init__(
        self,
        network: DepthDecoder | DepthExpert,
        tokens: TokenNetwork | TokenSender | None = None,
        quantize: bool = True,
    ) -> None:
        super().__init__(network)
        self.tokens = None if tokens is None else tokens.requires_grad_(False).eval()
        self.quantize = quantize

    @property
    def backbone(self) -> EfficientNetLite | None:
        return getattr(self.network, "backbone", None)

    def vectors(self, frames: Tensor) -> Tensor:
        """Return what the receiver has of frames, (N, dim, h, w)."""
        if self.tokens is None:
            return frames
        with torch.no_grad():
            vectors = self.tokens.encoder(frames).float()
            if not self.quantize:
                return vectors
            flat = self.tokens.quantizer(vectors.flatten(2).mT)[0]
        return flat.mT.unflatten(2, vectors.shape[2:])

    def segment(self, network: nn.Module, frames: Tensor) -> Tensor:
        return network(self.vectors(frames))

    def forward(self, frames: Tensor, target: Tensor, warming_up: bool) -> dict[str, Tensor]:
        ours = resize(self.network(self.vectors(frames))[:, None], target.shape[1:])[:, 0]
        known = (target > NEAR) & (target < FAR)
        error = (ours.log() - target.clamp(min=NEAR).log()).abs()
        return {"loss": (error * known).sum() / known.sum().clamp(min=1)}


def typical_depth(frames: DepthFrames) -> Tensor:
    """Return each place's geometric mean of known metres, (1, H, W): a guess without tokens.

    Places where no frame knows the depth have the mean of all others.
    """
    total, count = torch.zeros(()), torch.zeros(())
    for index in range(len(frames)):
        metres = frames[index][1]
        known = (metres > NEAR) & (metres < FAR)
        total = total + torch.where(known, metres, 1).log()
        count = count + known
    overall = total.sum() / count.sum()
    return torch.where(count > 0, total / count.clamp(min=1), overall).exp()[None]


@torch.inference_mode()
def depth_errors(
    network: Callable[[Tensor], Tensor],
    frames: DepthFrames,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Return errors over all known pixels (Eigen et al. 2014, section 4.2).

    Args:
        network: frames (1, H, W, 3) -> metres (1, h, w).
        frames: what it is measured on.
        device: where the network is.

    Returns:
        ``abs_rel``, mean of |ours - true| / true, and ``delta1``, share of pixels off by less than
        a factor of 1.25.
    """
    relative, close, count = 0.0, 0, 0
    for index in range(len(frames)):
        frame, metres = frames[index]
        ours = network(frame[None].to(device)).cpu()
        ours = resize(ours[:, None], metres.shape)[0, 0]
        known = (metres > NEAR) & (metres < FAR)
        ours, metres = ours[known], metres[known]
        relative += float(((ours - metres).abs() / metres).sum())
        close += int((torch.maximum(ours / metres, metres / ours) < 1.25).sum())
        count += len(metres)
    return {"abs_rel": round(relative / count, 4), "delta1": round(close / count, 4)}


def study_depth(
    fabric: Fabric, config: Config, depth: Depth, tokens: TokenNetwork, streets: Path, folder: Path
) -> dict[str, dict[str, float]]:
    """Train depth decoders on tokens and on what they were before quantisation; return errors.

    Beside them those of a guess that sees nothing.
    """
    assert isinstance(config.tokens, Tokens)
    train, val = (DepthFrames(streets, split, config.input_size) for split in ("train", "val"))
    figures: dict[str, dict[str, float]] = {}
    for name, quantize in (("tokens", True), ("not quantised", False)):
        torch.manual_seed(config.seed)
        decoder = DepthDecoder(config.tokens.dim, tokens.encoder.stride)
        objective = DepthObjective(decoder, tokens, quantize)
        place = folder / name.replace(" ", "-")
        network = train_depth(fabric, depth, objective, config.seed, (train, val), place)
        figures[name] = depth_errors(partial(objective.segment, network), val, fabric.device)
    typical = typical_depth(train)
    figures["no tokens, the mean of training"] = depth_errors(lambda frames: typical, val)
    return figures


def train_depth(
    fabric: Fabric,
    depth: Depth,
    objective: DepthObjective,
    seed: int,
    frames: tuple[DepthFrames, DepthFrames],
    folder: Path,
) -> nn.Module:
    """Return the network of `objective`, trained on the first of `frames`, averaged."""
    train, val = frames
    schedule = Schedule(
        steps=depth.steps,
        batch=depth.batch,
        crop=train.size,
        learning_rate=depth.learning_rate,
        backbone_learning_rate=depth.learning_rate / 4,
        frozen_blocks=0,
    )
    lines = [f"depth: {depth}", f"seed: {seed}"]
    if objective.tokens is not None:
        lines.append(f"tokens_sha256: {fingerprint(objective.tokens)}")
    run = Run(
        objective=objective,
        schedule=schedule,
        crops=Shuffled(train, schedule.steps * schedule.batch, seed),
        seed=seed,
        identity=Identity(lines, frozenset()),
        data=train.title,
        folder=folder,
        score=lambda network: depth_errors(partial(objective.segment, network), val, fabric.device)[
            "abs_rel"
        ],
        metric="abs_rel",
    )
    return fit(fabric, run)
