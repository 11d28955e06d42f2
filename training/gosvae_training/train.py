"""Train an expert, then the tokens that imitate it: ``python -m gosvae_training.train``."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from gosvae_codec.labels import CAMVID, UNLABELLED
from gosvae_codec.metrics import ConfusionMatrix

from .config import Config, ConfigError, Schedule, load_config
from .data import DataError, RandomCrops, Sample, describe, load_camvid
from .losses import class_weights, imitation_loss, segmentation_loss
from .networks import Expert, TokenSegmenter, resize_logits

CHECKPOINT_SECONDS = 120
Step = Callable[[Tensor, Tensor, bool], dict[str, Tensor]]
"""Losses of (frames, target, warming up)."""


class TrainingError(Exception):
    """Training cannot go on; the message says where the evidence lies."""


def identify(config: Config, fields: Sequence[str], **more: str) -> str:
    """Return what decides a stage's weights, one ``name: value`` a line.

    Args:
        config: the configuration.
        fields: its fields that matter to the stage.
        more: what matters besides.
    """
    lines = []
    for name in fields:
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            lines += [f"{name}.{key}: {each}" for key, each in vars(value).items()]
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines + [f"{name}: {value}" for name, value in more.items()])


def fingerprint(network: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and buffers, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _check_identity(last: Path, made: str, wanted: str) -> None:
    if made == wanted:
        return
    was, now = made.splitlines(), wanted.splitlines()
    gone = ", ".join(line for line in was if line not in now)
    new = ", ".join(line for line in now if line not in was)
    raise TrainingError(
        f"{last}: made with {gone}; now it is {new}; "
        f"delete the folder {last.parent}, or give the configuration another name"
    )


def predict(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return masks, uint8 (N, H, W) of CamVid's train ids, from logits of any resolution."""
    return CAMVID.ids[resize_logits(logits, size).argmax(1).numpy()]


@torch.inference_mode()
def validate(network: Callable[[Tensor], Tensor], samples: list[Sample]) -> float:
    """Return the mIoU of `network` (frames -> logits) on whole frames."""
    matrix = ConfusionMatrix()
    for sample in samples:
        logits = network(torch.from_numpy(sample.frame)[None])
        matrix.add(sample.mask, predict(logits, sample.mask.shape)[0])
    return matrix.miou()


def _freeze(backbone: nn.Module, blocks: int) -> list[nn.Module]:
    backbone.freeze(blocks)
    return [backbone._bn0, *backbone._blocks[:blocks]]


def fit(
    network: nn.Module,
    backbone: nn.Module,
    schedule: Schedule,
    step: Step,
    samples: list[Sample],
    seed: int,
    identity: str,
    folder: Path,
    score: Callable[[nn.Module], float],
) -> nn.Module:
    """Train `network` and return its exponential moving average, in eval mode.

    The run goes on from ``folder/last.pt`` where that exists, and writes it every two minutes;
    one that has all its steps is left as it is. `identity` is what :func:`identify` returns.

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
    crops = RandomCrops(samples, CAMVID.ids, schedule.crop, schedule.steps * schedule.batch, seed)
    folder.mkdir(parents=True, exist_ok=True)
    last, start = folder / "last.pt", 0
    if last.exists():
        state = torch.load(last, weights_only=True)
        # Checkpoints of the first runs have no identity.
        _check_identity(last, state.get("identity", identity), identity)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        for group, wanted in zip(optimizer.param_groups, groups, strict=True):
            group["peak"] = wanted["peak"]
        start = state["step"]

    data = describe("train", samples)

    def save(done: int) -> None:
        state = {
            "network": network.state_dict(),
            "averaged": averaged.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": done,
            "identity": identity,
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
        items = [crops[index * schedule.batch + i] for i in range(schedule.batch)]
        frames, target = (torch.stack(parts) for parts in zip(*items, strict=True))
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


def train_expert(config: Config, train: list[Sample], val: list[Sample], folder: Path) -> Expert:
    """Return the expert, trained or read from a finished run in `folder`."""
    expert = Expert(len(CAMVID)).to(memory_format=torch.channels_last)
    expert.backbone.load_imagenet()
    weights = class_weights(frequencies(train))

    def step(frames: Tensor, target: Tensor, warming_up: bool) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            logits = expert(frames)
        return segmentation_loss(resize_logits(logits, target.shape[1:]), target, weights)

    averaged = fit(
        expert,
        expert.backbone,
        config.expert,
        step,
        train,
        config.seed,
        identify(config, ("seed", "expert")),
        folder,
        lambda network: validate(network, val),
    )
    print(f"expert: val mIoU {validate(averaged, val):.4f}")
    return averaged


def train_segmenter(
    config: Config, expert: Expert, train: list[Sample], val: list[Sample], folder: Path
) -> TokenSegmenter:
    """Return encoder, quantiser and mask decoder, trained to imitate `expert`."""
    tokens = config.tokens
    segmenter = TokenSegmenter(len(CAMVID), tokens.levels, tokens.codes, tokens.dim)
    segmenter = segmenter.to(memory_format=torch.channels_last)
    segmenter.encoder.backbone.load_state_dict(expert.backbone.state_dict())
    weights = class_weights(frequencies(train))

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
        train,
        config.seed + 1,
        identify(
            config,
            ("seed", "expert", "tokens", "input_size", "segmenter"),
            expert_sha256=fingerprint(expert),
        ),
        folder,
        lambda network: validate(lambda frames: network(frames, True)[0], val),
    )
    print(f"segmenter: val mIoU {validate(lambda f: averaged(f, True)[0], val):.4f}")
    report_codebook(averaged, val)
    return averaged


@torch.inference_mode()
def report_codebook(segmenter: TokenSegmenter, samples: list[Sample]) -> None:
    """Print how many codes of each level the samples use, and their perplexity."""
    indices = torch.cat(
        [segmenter(torch.from_numpy(s.frame)[None], True)[2].flatten(0, 2) for s in samples]
    )
    codes = segmenter.codebooks().shape[1]
    for level, column in enumerate(indices.T):
        share = torch.bincount(column, minlength=codes) / len(column)
        perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
        print(f"level {level}: {(share > 0).sum()} of {codes} codes, perplexity {perplexity:.0f}")


def frequencies(samples: list[Sample]) -> np.ndarray:
    """Return the share of each CamVid class among labelled pixels, (classes,)."""
    counts = sum(np.bincount(sample.mask.ravel(), minlength=256) for sample in samples)
    counts[UNLABELLED] = 0
    return counts[CAMVID.ids] / counts.sum()


def main(arguments: list[str] | None = None) -> int:
    """Train both networks of a configuration; weights land in the run folder."""
    parser = argparse.ArgumentParser(prog="gosvae_training.train", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file, for one configs/camvid-f16.yaml")
    parser.add_argument("--data", type=Path, required=True, help="root of CamVid")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        config = load_config(options.config)
        train, val = (load_camvid(options.data, split) for split in ("train", "val"))
        torch.manual_seed(config.seed)
        folder = options.runs / config.name
        expert = train_expert(config, train, val, folder / "expert")
        train_segmenter(config, expert, train, val, folder / "segmenter")
    except (ConfigError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
