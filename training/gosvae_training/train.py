"""Train an expert, then the tokens that imitate it: ``python -m gosvae_training.train``."""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from gosvae_codec.images import resize_frame
from gosvae_codec.labels import LABEL_SPACES, LabelSpace
from gosvae_codec.metrics import ConfusionMatrix

from .config import Config, ConfigError, Identity, Schedule, identify, load_config
from .data import (
    Concatenation,
    DataError,
    Dataset,
    Mixture,
    RandomCrops,
    describe,
    iterate,
    load_sources,
    parse_folders,
)
from .losses import class_weights, imitation_loss, segmentation_loss
from .networks import Expert, TokenSegmenter, resize_logits

CHECKPOINT_SECONDS = 120
STAGES = ("expert", "segmenter")
Step = Callable[[Tensor, Tensor, bool], dict[str, Tensor]]
"""Losses of (frames, target, warming up)."""


class TrainingError(Exception):
    """Training cannot go on; the message says where the evidence lies."""


def fingerprint(network: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and buffers, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _check_identity(last: Path, made: str, wanted: Identity) -> None:
    was = made.splitlines()
    known = {line.partition(":")[0] for line in was}
    now = [
        line
        for line in wanted.lines
        if line.partition(":")[0] in known or line not in wanted.defaults
    ]
    if was == now:
        return
    gone = ", ".join(line for line in was if line not in now)
    new = ", ".join(line for line in now if line not in was)
    raise TrainingError(
        f"{last}: made with {gone or 'less'}; now it is {new or 'without'}; "
        f"delete the folder {last.parent}, or give the configuration another name"
    )


@dataclass(frozen=True)
class Material:
    """What a run learns from and what it is judged by."""

    config: Config
    train: Mapping[str, Dataset]
    val: Dataset

    @classmethod
    def load(cls, config: Config, folders: Mapping[str, Path]) -> Material:
        """Open the datasets of a configuration; raise DataError where that fails."""
        labels = LABEL_SPACES[config.labels]
        train = load_sources(config.data.train, folders, labels)
        return cls(
            config,
            train,
            Concatenation(list(load_sources(config.data.val, folders, labels).values())),
        )

    @property
    def labels(self) -> LabelSpace:
        """The label space of masks and logits."""
        return LABEL_SPACES[self.config.labels]

    def describe(self) -> str:
        """Return what is trained on."""
        return " and ".join(describe(dataset) for dataset in self.train.values())

    def familiar(self) -> Dataset:
        """Return training frames like those validated on: of the same datasets, else of all."""
        same = [dataset for name, dataset in self.train.items() if name in self.config.data.val]
        return Concatenation(same or list(self.train.values()))

    def crops(self, schedule: Schedule, seed: int) -> torch.utils.data.Dataset:
        """Return all crops of a run in their order."""
        sources = self.config.data.train
        parts = [
            RandomCrops(
                dataset,
                self.labels,
                self.config.input_size[0],
                schedule.crop,
                schedule.steps * schedule.batch,
                seed + 1_000_003 * index,
            )
            for index, dataset in enumerate(self.train.values())
        ]
        shares = [sources[name].share for name in self.train]
        return parts[0] if len(parts) == 1 else Mixture(parts, shares)

    def frequencies(self) -> np.ndarray:
        """Return the share of each class among labelled pixels, (classes,).

        Datasets count by their shares; of a large one, some five hundred masks are read.
        """
        sources, total = self.config.data.train, np.zeros(len(self.labels))
        for name, dataset in self.train.items():
            masks = tqdm(
                (sample.mask for sample in iterate(dataset, 512)),
                desc=f"classes of {dataset.title}",
                unit="mask",
                total=-(-len(dataset) // max(len(dataset) // 512, 1)),
                leave=False,
            )
            counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)
            counts = counts[self.labels.ids]
            if counts.sum():
                total += sources[name].share * counts / counts.sum()
        if not total.any():
            raise DataError("none of the datasets has a labelled pixel; add one that does")
        return total / total.sum()

    def score(self, network: Callable[[Tensor], Tensor]) -> float:
        """Return the mIoU of `network` (frames -> logits) on the validation frames."""
        return validate(network, self.val, self.labels, self.config.input_size)


def predict(logits: Tensor, size: tuple[int, int], labels: LabelSpace) -> np.ndarray:
    """Return masks, uint8 (N, H, W) of label ids, from logits of any resolution."""
    return labels.ids[resize_logits(logits, size).argmax(1).numpy()]


@torch.inference_mode()
def validate(
    network: Callable[[Tensor], Tensor],
    samples: Dataset,
    labels: LabelSpace,
    input_size: tuple[int, int],
) -> float:
    """Return the mIoU of `network` (frames -> logits) on whole frames, at their own size."""
    matrix = ConfusionMatrix()
    for sample in iterate(samples):
        logits = network(torch.from_numpy(resize_frame(sample.frame, input_size))[None])
        matrix.add(sample.mask, predict(logits, sample.mask.shape, labels)[0])
    return matrix.miou()


def _freeze(backbone: nn.Module, blocks: int) -> list[nn.Module]:
    backbone.freeze(blocks)
    return [backbone._bn0, *backbone._blocks[:blocks]]


def fit(
    network: nn.Module,
    backbone: nn.Module,
    schedule: Schedule,
    step: Step,
    material: Material,
    seed: int,
    identity: Identity,
    folder: Path,
    score: Callable[[nn.Module], float],
    workers: int = 0,
) -> nn.Module:
    """Train `network` and return its exponential moving average, in eval mode.

    The run goes on from ``folder/last.pt`` where that exists, and writes it every two minutes;
    one that has all its steps is left as it is. `workers` processes make the crops, or this one.

    Raises:
        TrainingError: the checkpoint has another identity; or the loss became NaN or infinite, and
            the batch is saved beside the checkpoint.
    """
    frozen = _freeze(backbone, schedule.frozen_blocks)
    inner = {id(p) for p in backbone.parameters()}
    groups = [
        {
            "params": [p for p in network.parameters() if p.requires_grad and id(p) not in inner],
            "peak": schedule.learning_rate,
        },
        {
            "params": [p for p in backbone.parameters() if p.requires_grad],
            "peak": schedule.backbone_learning_rate,
        },
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    crops = material.crops(schedule, seed)
    folder.mkdir(parents=True, exist_ok=True)
    last, start = folder / "last.pt", 0
    if last.exists():
        state = torch.load(last, weights_only=True)
        # Checkpoints of the first runs have no identity.
        _check_identity(last, state.get("identity", "\n".join(identity.lines)), identity)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        for group, wanted in zip(optimizer.param_groups, groups, strict=True):
            group["peak"] = wanted["peak"]
        start = state["step"]

    data = material.describe()
    batches = iter(
        torch.utils.data.DataLoader(
            crops,
            batch_size=schedule.batch,
            sampler=range(start * schedule.batch, schedule.steps * schedule.batch),
            num_workers=workers,
        )
    )

    def save(done: int) -> None:
        state = {
            "network": network.state_dict(),
            "averaged": averaged.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": done,
            "identity": "\n".join(identity.lines),
            "data": data,
        }
        torch.save(state, last.with_suffix(".part"))
        last.with_suffix(".part").replace(last)

    warmup = int(schedule.steps * schedule.warmup)
    saved = time.monotonic()
    progress = tqdm(
        range(start, schedule.steps),
        initial=start,
        total=schedule.steps,
        desc=folder.name,
        unit="step",
        mininterval=5,
    )
    for index in progress:
        network.train()
        for module in frozen:
            module.eval()
        share = (index - warmup) / max(schedule.steps - warmup, 1)
        factor = (index + 1) / warmup if index < warmup else 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        frames, target = next(batches)
        torch.manual_seed(seed * 1_000_003 + index)
        losses = step(frames, target, index < warmup)
        if not torch.isfinite(losses["loss"]):
            torch.save({"frames": frames, "target": target}, folder / "bad_batch.pt")
            raise TrainingError(
                f"{folder.name}: loss {losses['loss'].item()} at step {index}; "
                f"its batch is in {folder / 'bad_batch.pt'}; try a lower learning_rate"
            )
        optimizer.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), schedule.gradient_clip)
        optimizer.step()
        decay = min(schedule.ema, (index + 1) / (index + 10))
        with torch.no_grad():
            ours = network.state_dict()
            for name, value in averaged.state_dict().items():
                if value.is_floating_point() and "quantizer" not in name:
                    value.lerp_(ours[name], 1 - decay)
                else:
                    value.copy_(ours[name])
        progress.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()})
        if (index + 1) % 500 == 0:
            tqdm.write(f"{folder.name} step {index + 1}: val mIoU {score(averaged):.4f}")
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(index + 1)
            saved = time.monotonic()
    if start < schedule.steps:
        save(schedule.steps)
    return averaged


def train_expert(material: Material, folder: Path, workers: int = 0) -> Expert:
    """Return the expert, trained or read from a finished run in `folder`."""
    config = material.config
    expert = Expert(len(material.labels)).to(memory_format=torch.channels_last)
    expert.backbone.load_imagenet()
    weights = class_weights(material.frequencies())

    def step(frames: Tensor, target: Tensor, warming_up: bool) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            logits = expert(frames)
        return segmentation_loss(resize_logits(logits, target.shape[1:]), target, weights)

    averaged = fit(
        expert,
        expert.backbone,
        config.expert,
        step,
        material,
        config.seed,
        identify(config, ("seed", "expert", "labels", "data")),
        folder,
        material.score,
        workers,
    )
    print(f"expert: val mIoU {material.score(averaged):.4f}")
    return averaged


def train_segmenter(
    material: Material, expert: Expert, folder: Path, workers: int = 0
) -> TokenSegmenter:
    """Return encoder, quantiser and mask decoder, trained to imitate `expert`."""
    config, tokens = material.config, material.config.tokens
    segmenter = TokenSegmenter(len(material.labels), tokens.levels, tokens.codes, tokens.dim)
    segmenter = segmenter.to(memory_format=torch.channels_last)
    segmenter.encoder.backbone.load_state_dict(expert.backbone.state_dict())
    weights = class_weights(material.frequencies())

    def step(frames: Tensor, target: Tensor, warming_up: bool) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                expert_logits = expert(frames)
            logits, commitment, _ = segmenter(frames, quantize=not warming_up)
        size = target.shape[1:]
        return imitation_loss(
            resize_logits(logits, size),
            resize_logits(expert_logits, size),
            target,
            weights,
            commitment,
        )

    averaged = fit(
        segmenter,
        segmenter.encoder.backbone,
        config.segmenter,
        step,
        material,
        config.seed + 1,
        identify(
            config,
            ("seed", "expert", "tokens", "input_size", "segmenter", "labels", "data"),
            expert_sha256=fingerprint(expert),
        ),
        folder,
        lambda network: material.score(lambda frames: network(frames, True)[0]),
        workers,
    )
    print(f"segmenter: val mIoU {material.score(lambda frames: averaged(frames, True)[0]):.4f}")
    report_codebook(averaged, material)
    return averaged


@torch.inference_mode()
def report_codebook(segmenter: TokenSegmenter, material: Material) -> None:
    """Print how many codes of each level the validation frames use, and their perplexity."""
    size = material.config.input_size
    frames = (torch.from_numpy(resize_frame(s.frame, size)) for s in iterate(material.val))
    indices = torch.cat([segmenter(frame[None], True)[2].flatten(0, 2) for frame in frames])
    codes = segmenter.codebooks().shape[1]
    for level, column in enumerate(indices.T):
        share = torch.bincount(column, minlength=codes) / len(column)
        perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
        print(f"level {level}: {(share > 0).sum()} of {codes} codes, perplexity {perplexity:.0f}")


def main(arguments: list[str] | None = None) -> int:
    """Train the networks of a configuration; weights land in the run folder."""
    parser = argparse.ArgumentParser(prog="gosvae_training.train", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file, for one configs/camvid-f16.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="for instance expert.steps=1100"
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="where a dataset of the configuration lies; NAME= may go where there is but one",
    )
    parser.add_argument(
        "--stage", choices=STAGES, default=STAGES[-1], help="train no further than this"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="processes that read the data")
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        config = load_config(options.config, options.overrides)
        material = Material.load(config, parse_folders(config, options.data))
        torch.manual_seed(config.seed)
        folder = options.runs / config.name
        expert = train_expert(material, folder / "expert", options.workers)
        if options.stage == "segmenter":
            train_segmenter(material, expert, folder / "segmenter", options.workers)
    except (ConfigError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
