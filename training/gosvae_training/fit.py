"""The training loop: one configuration on a CPU, one GPU, many GPUs or many nodes."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from gosvae_codec.draft import whole_file

from .config import Identity, Schedule
from .objectives import Objective

CHECKPOINT_SECONDS = 120


class TrainingError(Exception):
    """Training cannot go on; the message says where the evidence lies."""


class Stopped(TrainingError):
    """Ctrl-C; the state is saved, and the same command goes on from there."""


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether Ctrl-C was pressed; a second one stops at once."""
    pressed: list[int] = []

    def press(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    # Elsewhere than in the main thread there are no signals.
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def computes_bfloat16() -> bool:
    """Return whether the CPU has instructions by which bfloat16 is faster than float32.

    Without them, oneDNN emulates it, and a training step takes some ten times as long.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def make_fabric(accelerator: str, devices: str, nodes: int, precision: str) -> Fabric:
    """Return a launched Fabric; under ``torchrun`` the process joins those that it started.

    Args:
        accelerator: ``auto``, ``cpu``, ``cuda``, ...
        devices: how many on each node, or ``auto``; on the CPU the number of processes.
        nodes: machines.
        precision: ``32-true``, ``bf16-mixed``, ``16-mixed``, or ``auto`` for bfloat16 but on CPUs
            that do not compute in it.
    """
    if precision == "auto":
        on_cpu = accelerator == "cpu" or (
            accelerator == "auto" and not torch.accelerator.is_available()
        )
        precision = "32-true" if on_cpu and not computes_bfloat16() else "bf16-mixed"
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

    What was not a choice yet when it was made may have its default, and the stage itself may have
    more steps than before.
    """
    was = made.splitlines()
    more = [line for line in wanted.lines if _extends(line, was)]
    was = [next((line for line in more if _name(line) == _name(each)), each) for each in was]
    known = {_name(line) for line in was}
    now = [line for line in wanted.lines if _name(line) in known or line not in wanted.defaults]
    if was == now:
        return
    gone = ", ".join(line for line in was if line not in now)
    new = ", ".join(line for line in now if line not in was)
    raise TrainingError(
        f"{last}: made with {gone or 'less'}; now it is {new or 'without'}; "
        f"delete the folder {last.parent}, or give the configuration another name"
    )


def _name(line: str) -> str:
    return line.partition(":")[0]


def _extends(line: str, was: Sequence[str]) -> bool:
    """Return whether a line gives more steps than the line of the same name in `was`."""
    name, _, steps = line.partition(": ")
    before = next((each for each in was if _name(each) == name), "")
    if name not in ("expert.steps", "codec.steps"):
        return False
    return 0 < int(before.partition(": ")[2] or 0) < int(steps)


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


@dataclass(frozen=True)
class Run:
    """One training run: what is trained, on what, for how long, and where its state is kept."""

    objective: Objective
    """What it minimises."""
    schedule: Schedule
    """For how long and how fast; its batch is shared among all processes."""
    crops: Dataset
    """All items of the run in order: frame, target and, where cached, the expert's logits."""
    seed: int
    """Of dropout and quantiser."""
    identity: Identity
    """What decides the weights, see :func:`~gosvae_training.config.identify`."""
    data: str
    """Description of what `crops` are from; kept in the checkpoint."""
    folder: Path
    """For the checkpoint ``last.pt`` and TensorBoard's files."""
    score: Callable[[nn.Module], float]
    """Validation figure of the averaged network."""
    metric: str = "mIoU"
    """Name of what `score` returns."""

    @property
    def last(self) -> Path:
        """The checkpoint's path."""
        return self.folder / "last.pt"

    def frozen(self) -> list[nn.Module]:
        """Return the pretrained parts that keep their weights and statistics."""
        if not self.schedule.backbone_learning_rate:
            return self.objective.pretrained
        backbone = self.objective.backbone
        return [] if backbone is None else backbone.frozen(self.schedule.frozen_blocks)

    def learning_rate_factor(self, step: int) -> float:
        """Return the share of the peak learning rate at `step`: linear warm-up, cosine decay."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.schedule.steps - self.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * share))

    @property
    def warmup(self) -> int:
        """Steps with a rising learning rate, in which vectors are not quantised."""
        return int(self.schedule.steps * self.schedule.warmup)


def fit(fabric: Fabric, run: Run, workers: int = 0) -> nn.Module:
    """Train ``run.objective.network``; return its exponential moving average, in eval mode.

    Training continues from ``run.last`` where that exists, with the same results as if it had never
    stopped, and writes it every two minutes and at Ctrl-C. A run that has all its steps is not
    trained further. One that is given more goes on at the learning rate of the longer schedule.
    Losses go to TensorBoard files in ``run.folder``.

    Args:
        fabric: devices and processes.
        run: what to train.
        workers: processes that load the crops, beside each that trains; 0 for none.

    Raises:
        TrainingError: the checkpoint has another identity, the batch cannot be shared, or the loss
            became NaN or infinite; then the batch is saved beside the checkpoint.
        Stopped: by Ctrl-C; the step at hand was finished and saved.
    """
    schedule, world, rank = run.schedule, fabric.world_size, fabric.global_rank
    if schedule.batch % world:
        raise TrainingError(f"a batch of {schedule.batch} cannot be shared by {world} processes")
    trainer = _Trainer(fabric, run)
    if trainer.step >= schedule.steps:
        return trainer.averaged
    run.folder.mkdir(parents=True, exist_ok=True)
    trainer.set_up()
    start = trainer.step
    batches = iter(
        DataLoader(
            run.crops,
            batch_size=schedule.batch // world,
            sampler=range(start * schedule.batch + rank, schedule.steps * schedule.batch, world),
            num_workers=workers,
        )
    )
    writer = SummaryWriter(str(run.folder), purge_step=start + 1) if rank == 0 else None
    saved = time.monotonic()
    progress = tqdm(
        range(start, schedule.steps),
        initial=start,
        total=schedule.steps,
        desc=run.folder.name,
        unit="step",
        mininterval=5,
        disable=rank > 0,
    )
    with _interruptible() as interrupted:
        for _ in progress:
            losses = trainer.advance([part.to(fabric.device) for part in next(batches)])
            if writer is not None:
                values = {name: value.item() for name, value in losses.items()}
                progress.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
                _log(writer, run, trainer, values)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                trainer.save()
                saved = time.monotonic()
            if interrupted():
                trainer.save()
                raise Stopped(f"stopped at step {trainer.step} of {schedule.steps}: {run.last}")
        trainer.save()
    if writer is not None:
        writer.close()
    fabric.barrier()
    return trainer.averaged


def _log(writer: SummaryWriter, run: Run, trainer: _Trainer, values: Mapping[str, float]) -> None:
    """Write the terms of the loss and, when it is due, the validation figure."""
    for name, value in values.items():
        writer.add_scalar(f"train/{name}", value, trainer.step)
    if trainer.step % run.schedule.validate_every == 0:
        value = run.score(trainer.averaged)
        writer.add_scalar(f"val/{run.metric}", value, trainer.step)
        tqdm.write(f"{run.folder.name} step {trainer.step}: val {run.metric} {value:.4f}")


class _Trainer:
    """Networks, optimiser and step of a run; :meth:`advance` takes one step."""

    def __init__(self, fabric: Fabric, run: Run) -> None:
        """Freeze what is not trained, and read the checkpoint if there is one."""
        self._fabric, self._run = fabric, run
        # Frames come with their channels last; weights that do not are converted at every layer.
        objective = run.objective.to(memory_format=torch.channels_last)
        self._frozen = run.frozen()
        for module in self._frozen:
            module.requires_grad_(False)
        self._groups = _groups(objective, run.schedule)
        network = objective.network
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False).to(fabric.device)
        self.step = 0
        self._trained = {"network": network, "averaged": self.averaged, **objective.companions}
        self._state: dict[str, Any] | None = None
        if run.last.exists():
            state = torch.load(run.last, weights_only=True, map_location="cpu")
            check_identity(run.last, state.get("identity", ""), run.identity)
            for name, module in self._trained.items():
                module.load_state_dict(state[name])
            self.step, self._state = state["step"], state

    def set_up(self) -> None:
        """Move everything to its device and make the optimiser."""
        optimizer = torch.optim.AdamW(self._groups, weight_decay=self._run.schedule.weight_decay)
        self._module, self._optimizer = self._fabric.setup(self._run.objective, optimizer)
        if self._state:
            self._optimizer.load_state_dict(self._state["optimizer"])
            for group, wanted in zip(self._optimizer.param_groups, self._groups, strict=True):
                group["peak"] = wanted["peak"]

    def advance(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Take one step and return the terms of its loss."""
        run, network, index = self._run, self._run.objective.network, self.step
        network.train()
        for part in self._frozen:
            part.eval()
        factor = run.learning_rate_factor(index)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        frames, target, *logits = batch
        torch.manual_seed(run.seed * 1_000_003 + index)
        losses: dict[str, Tensor] = self._module(frames, target, index < run.warmup, *logits)
        self._check_finite(losses["loss"], frames, target)
        self._optimizer.zero_grad()
        self._fabric.backward(losses["loss"])
        self._fabric.clip_gradients(
            self._module, self._optimizer, max_norm=run.schedule.gradient_clip
        )
        self._optimizer.step()
        _average(self.averaged, network, min(run.schedule.ema, (index + 1) / (index + 10)))
        self.step = index + 1
        return losses

    def _check_finite(self, loss: Tensor, frames: Tensor, target: Tensor) -> None:
        fabric, folder = self._fabric, self._run.folder
        if fabric.all_reduce(torch.isfinite(loss).float(), reduce_op="min"):
            return
        path = folder / f"bad_batch{f'.{fabric.global_rank}' if fabric.world_size > 1 else ''}.pt"
        torch.save({"frames": frames.cpu(), "target": target.cpu()}, path)
        raise TrainingError(
            f"{folder.name}: loss {loss.item()} at step {self.step}; "
            f"its batch is in {path}; try a lower learning_rate"
        )

    def save(self) -> None:
        """Write the checkpoint, in the first process."""
        if self._fabric.global_rank:
            return
        state = {
            **{name: module.state_dict() for name, module in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "identity": "\n".join(self._run.identity.lines),
            "data": self._run.data,
        }
        with whole_file(self._run.last) as draft:
            torch.save(state, draft)


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    ours = network.state_dict()
    for name, value in averaged.state_dict().items():
        # The quantiser averages its codes by itself.
        if value.is_floating_point() and "quantizer" not in name:
            value.lerp_(ours[name], 1 - decay)
        else:
            value.copy_(ours[name])
