"""The training loop: one configuration on a CPU, one GPU, many GPUs or many nodes."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from .config import Identity, Schedule
from .objectives import Objective

CHECKPOINT_SECONDS = 120


class TrainingError(Exception):
    """Training cannot go on; the message says where the evidence lies."""


def make_fabric(accelerator: str, devices: str, nodes: int, precision: str) -> Fabric:
    """Return a launched Fabric; under ``torchrun`` the process joins those that it started.

    Args:
        accelerator: ``auto``, ``cpu``, ``cuda``, ...
        devices: how many on each node, or ``auto``; on the CPU the number of processes.
        nodes: machines.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
    """
    count = int(devices) if devices.isdecimal() else devices
    alone = count == 1 and nodes == 1
    fabric = Fabric(
        accelerator=accelerator,
        devices=count,
        num_nodes=nodes,
        precision=precision,
        # Tokens are not quantised, and a critic is not asked, while a run warms up.
        strategy="auto" if alone else DDPStrategy(find_unused_parameters=True),
    )
    fabric.launch()
    return fabric


def check_identity(last: Path, made: str, wanted: Identity) -> None:
    """Raise TrainingError where a checkpoint was made for another configuration.

    What was not a choice yet when it was made may have its default.
    """
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


def _groups(objective: Objective, schedule: Schedule) -> list[dict[str, object]]:
    inner = {id(p) for part in objective.pretrained for p in part.parameters()}
    trained = [objective.network, *objective.companions.values()]
    parameters = [p for module in trained for p in module.parameters() if p.requires_grad]
    return [
        {
            "params": [p for p in parameters if id(p) not in inner],
            "peak": schedule.learning_rate,
        },
        {
            "params": [p for p in parameters if id(p) in inner],
            "peak": schedule.backbone_learning_rate,
        },
    ]


def fit(
    fabric: Fabric,
    objective: Objective,
    schedule: Schedule,
    crops: Dataset,
    seed: int,
    identity: Identity,
    data: str,
    folder: Path,
    score: Callable[[nn.Module], float],
    workers: int = 0,
    metric: str = "mIoU",
) -> nn.Module:
    """Train ``objective.network`` and return its exponential moving average, in eval mode.

    The run goes on from ``folder/last.pt`` where that exists, on the same course as if it had
    never stopped, and writes it every two minutes; one that has all its steps is left as it is.
    Losses go to TensorBoard files in `folder`.

    Args:
        fabric: where it runs.
        objective: what it minimises.
        schedule: for how long and how fast; its batch is shared among all processes.
        crops: all of the run in order: frame, target and, where the expert was asked before, its
            logits.
        seed: of dropout and quantiser.
        identity: what decides the weights, see :func:`~gosvae_training.config.identify`.
        data: what `crops` are from, in words; kept in the checkpoint.
        folder: for checkpoint and logs.
        score: validation figure of the average.
        workers: processes that make the crops, beside each that trains; 0 for none.
        metric: name of what `score` returns.

    Raises:
        TrainingError: the checkpoint has another identity, the batch cannot be shared, or the loss
            became NaN or infinite; then the batch is saved beside the checkpoint.
    """
    world, rank = fabric.world_size, fabric.global_rank
    if schedule.batch % world:
        raise TrainingError(f"a batch of {schedule.batch} cannot be shared by {world} processes")
    network, backbone = objective.network, objective.backbone
    frozen = [] if backbone is None else backbone.frozen(schedule.frozen_blocks)
    if not schedule.backbone_learning_rate:
        frozen = objective.pretrained
    for module in frozen:
        module.requires_grad_(False)
    groups = _groups(objective, schedule)
    averaged = copy.deepcopy(network).eval().requires_grad_(False).to(fabric.device)
    last, start = folder / "last.pt", 0
    trained = {"network": network, "averaged": averaged, **objective.companions}
    state = torch.load(last, weights_only=True, map_location="cpu") if last.exists() else None
    if state:
        # Checkpoints of the first runs have no identity.
        check_identity(last, state.get("identity", "\n".join(identity.lines)), identity)
        for name, module in trained.items():
            module.load_state_dict(state[name])
        start = state["step"]
    if start >= schedule.steps:
        return averaged
    folder.mkdir(parents=True, exist_ok=True)

    optimizer = torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)
    module, optimizer = fabric.setup(objective, optimizer)
    if state:
        optimizer.load_state_dict(state["optimizer"])
        for group, wanted in zip(optimizer.param_groups, groups, strict=True):
            group["peak"] = wanted["peak"]

    def save(done: int) -> None:
        if rank:
            return
        state = {
            **{name: module.state_dict() for name, module in trained.items()},
            "optimizer": optimizer.state_dict(),
            "step": done,
            "identity": "\n".join(identity.lines),
            "data": data,
        }
        torch.save(state, last.with_suffix(".part"))
        last.with_suffix(".part").replace(last)

    batches = iter(
        DataLoader(
            crops,
            batch_size=schedule.batch // world,
            sampler=range(start * schedule.batch + rank, schedule.steps * schedule.batch, world),
            num_workers=workers,
        )
    )
    writer = SummaryWriter(str(folder), purge_step=start + 1) if rank == 0 else None
    warmup = int(schedule.steps * schedule.warmup)
    saved = time.monotonic()
    progress = tqdm(
        range(start, schedule.steps),
        initial=start,
        total=schedule.steps,
        desc=folder.name,
        unit="step",
        mininterval=5,
        disable=rank > 0,
    )
    for index in progress:
        network.train()
        for part in frozen:
            part.eval()
        share = (index - warmup) / max(schedule.steps - warmup, 1)
        factor = (index + 1) / warmup if index < warmup else 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        frames, target, *taught = (part.to(fabric.device) for part in next(batches))
        torch.manual_seed(seed * 1_000_003 + index)
        losses = module(frames, target, index < warmup, *taught)
        finite = fabric.all_reduce(torch.isfinite(losses["loss"]).float(), reduce_op="min")
        if not finite:
            path = folder / f"bad_batch{f'.{rank}' if world > 1 else ''}.pt"
            torch.save({"frames": frames.cpu(), "target": target.cpu()}, path)
            raise TrainingError(
                f"{folder.name}: loss {losses['loss'].item()} at step {index}; "
                f"its batch is in {path}; try a lower learning_rate"
            )
        optimizer.zero_grad()
        fabric.backward(losses["loss"])
        fabric.clip_gradients(module, optimizer, max_norm=schedule.gradient_clip)
        optimizer.step()
        _average(averaged, network, min(schedule.ema, (index + 1) / (index + 10)))
        done = index + 1
        if writer is not None:
            values = {name: value.item() for name, value in losses.items()}
            progress.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
            for name, value in values.items():
                writer.add_scalar(f"train/{name}", value, done)
            if done % schedule.validate_every == 0:
                value = score(averaged)
                writer.add_scalar(f"val/{metric}", value, done)
                tqdm.write(f"{folder.name} step {done}: val {metric} {value:.4f}")
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(done)
            saved = time.monotonic()
    save(schedule.steps)
    if writer is not None:
        writer.close()
    fabric.barrier()
    return averaged


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    ours = network.state_dict()
    for name, value in averaged.state_dict().items():
        # The quantiser averages its codes by itself.
        if value.is_floating_point() and "quantizer" not in name:
            value.lerp_(ours[name], 1 - decay)
        else:
            value.copy_(ours[name])
