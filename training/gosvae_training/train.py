"""Train an expert, then the tokens that imitate it: ``python -m gosvae_training.train``."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from gosvae_codec.images import resize_frame
from gosvae_codec.labels import LabelSpace, label_space
from gosvae_codec.metrics import ConfusionMatrix

from .config import Config, Schedule, identify, load_config
from .data.augment import RandomCrops, fit_rows
from .data.cached_logits import CachedLogits, Taught
from .data.datasets import load_sources, parse_folders
from .data.mixture import Concatenation, Mixture
from .data.samples import DataError, Dataset, Judged, Sample, describe, is_labelled, iterate
from .fit import Run, Stopped, TrainingError, fit, make_fabric
from .losses import class_weights
from .models.experts import SeveralExperts, build_expert, frozen, with_tasks
from .models.settings import Light, Tokens, Trunk
from .models.start import calibrate
from .models.token_network import TokenNetwork, resize_logits
from .objectives import ExpertObjective, build_objective
from .strict import ConfigError

STAGES = ("expert", "codec")
_MATERIAL = ("labels", "data")


@dataclass(frozen=True)
class Material:
    """What a run learns from and what it is judged by."""

    config: Config
    train: Mapping[str, Dataset]
    val: Dataset

    @classmethod
    def load(cls, config: Config, folders: Mapping[str, Path]) -> Material:
        """Open the datasets of a configuration; raise DataError where that fails."""
        labels = label_space(config.labels)
        train = load_sources(config.data.train, folders, labels)
        return cls(
            config,
            train,
            Concatenation(list(load_sources(config.data.val, folders, labels).values())),
        )

    @cached_property
    def labels(self) -> LabelSpace:
        """The label space of masks and logits."""
        return label_space(self.config.labels)

    def describe(self) -> str:
        """Return what is trained on."""
        return " and ".join(describe(dataset) for dataset in self.train.values())

    def terms(self) -> str:
        """Return the terms of what is trained on."""
        return "; ".join(dict.fromkeys(dataset.terms for dataset in self.train.values()))

    def familiar(self) -> Dataset:
        """Return training frames like those validated on: of the same datasets, else of all."""
        same = [dataset for name, dataset in self.train.items() if name in self.config.data.val]
        return Concatenation(same or list(self.train.values()))

    def crops(
        self, schedule: Schedule, seed: int, train: Mapping[str, Dataset] | None = None
    ) -> torch.utils.data.Dataset:
        """Return all crops of a run in their order, of `train` or the configuration's own."""
        sources, train = self.config.data.train, train or self.train
        parts = [
            RandomCrops(
                dataset,
                self.labels,
                self.config.input_size[0],
                schedule.crop,
                schedule.steps * schedule.batch,
                seed + 1_000_003 * index,
                self.config.data.compression,
                sum(map(len, self.config.detected())),
            )
            for index, dataset in enumerate(train.values())
        ]
        shares = [sources[name].share for name in train]
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

    @cached_property
    def metric(self) -> str:
        """What validation figures are: mIoU, or agreement with the expert where labels lack."""
        return "mIoU" if is_labelled(self.val) else "agreement"

    def judged_by(
        self, expert: Callable[[Tensor], Tensor], device: torch.device | str = "cpu"
    ) -> Material:
        """Return the same with the expert's masks on validation frames without labels."""

        @torch.inference_mode()
        def segment(frame: np.ndarray) -> np.ndarray:
            logits = expert(shown(expert, frame, self.config.input_size)[None].to(device))
            found = _masks(logits, frame.shape[:2], self.labels)[0]
            return self.labels.ids[found.cpu().numpy()]

        if self.metric == "mIoU":
            return self
        return replace(self, val=Judged(self.val, segment))

    def score(
        self, network: Callable[[Tensor], Tensor], device: torch.device | str = "cpu"
    ) -> float:
        """Return the mIoU of `network` (frames -> logits) on the validation frames."""
        return validate(network, self.val, self.labels, self.config.input_size, device)


def sized(samples: Iterable[Sample], size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the frames of samples as networks take them, uint8 (1, H, W, 3), at `size`."""
    for sample in samples:
        yield torch.from_numpy(resize_frame(sample.frame, size))[None]


def shown(expert: Callable[[Tensor], Tensor], frame: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return a frame as an expert sees it: at its own size, or else at `size`."""
    own: tuple[int, int] | None = getattr(expert, "size", None)
    return torch.from_numpy(resize_frame(frame, own or size))


@torch.inference_mode()
def validate(
    network: Callable[[Tensor], Tensor],
    samples: Dataset,
    labels: LabelSpace,
    input_size: tuple[int, int],
    device: torch.device | str = "cpu",
) -> float:
    """Return the mIoU of `network` (frames -> logits) on whole frames, at their own size."""
    matrix = ConfusionMatrix()
    for sample in iterate(samples):
        frame = torch.from_numpy(resize_frame(sample.frame, input_size))[None].to(device)
        guess = _masks(network(frame), sample.mask.shape, labels)[0]
        matrix.add(sample.mask, labels.ids[guess.cpu().numpy()])
    return matrix.miou()


def _masks(logits: Tensor, size: Sequence[int], labels: LabelSpace) -> Tensor:
    """Return masks of the first task, int64 (N, H, W), whose logits stand before the others'."""
    return resize_logits(logits[:, : len(labels)], size).argmax(1)


def fingerprint(network: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and buffers, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def train_expert(fabric: Fabric, material: Material, folder: Path, workers: int = 0) -> nn.Module:
    """Return the expert, trained or read from a finished run in `folder`; frozen."""
    config = material.config
    expert = build_expert(config.expert.network, material.labels)
    if config.expert.steps == 0:
        return expert.eval().requires_grad_(False).to(fabric.device)
    run = Run(
        objective=ExpertObjective(expert, class_weights(material.frequencies())),
        schedule=config.expert,
        crops=material.crops(config.expert, config.seed),
        seed=config.seed,
        identity=identify(config, ("seed", "expert", *_MATERIAL, "input_size")),
        data=material.describe(),
        folder=folder,
        score=lambda network: material.score(network, fabric.device),
    )
    averaged = fit(fabric, run, workers)
    if fabric.is_global_zero and material.metric == "mIoU":
        print(f"expert: val mIoU {material.score(averaged, fabric.device):.4f}")
    return averaged


def train_codec(
    fabric: Fabric,
    material: Material,
    expert: nn.Module,
    folder: Path,
    workers: int = 0,
    report: bool = True,
) -> nn.Module:
    """Return what ``tokens`` in the configuration describes, trained to imitate `expert`.

    Unless `report` is off, validation figures are printed at the end.
    """
    config, seed = material.config, material.config.seed + 1
    guides = {
        name: frozen(network, material.labels).to(fabric.device)
        for name, network in config.guides.items()
    }
    weights = torch.ones(len(material.labels))
    if config.losses.supervised:
        weights = class_weights(material.frequencies())
    objective = build_objective(config, material.labels, expert, guides, weights)
    encoder = getattr(config.tokens, "encoder", None)
    decisive = ("seed", "expert", "tokens", "input_size", "codec", *_MATERIAL)
    decisive += ("losses", "guides", "tasks")
    if isinstance(encoder, Light) and encoder.start:
        some = list(iterate(material.familiar(), 16))[:16]
        calibrate(objective.network.encoder, sized(some, config.input_size))
    if isinstance(encoder, Trunk) and encoder.labels and config.bit_cost:
        # The receiver learns from such labels as it is sent.
        every = sized(iterate(material.familiar()), config.input_size)
        objective.network.encoder.weigh_bits(every, config.bit_cost)
        decisive += ("bit_cost",)
    judged = material.judged_by(expert, fabric.device)

    def score(network: nn.Module) -> float:
        return judged.score(lambda frames: objective.segment(network, frames), fabric.device)

    train = None
    if config.codec.teacher == "frame":
        train = with_logits(fabric, material, expert, folder.parents[1] / "logits")
    run = Run(
        objective=objective,
        schedule=config.codec,
        crops=material.crops(config.codec, seed, train),
        seed=seed,
        identity=identify(config, decisive, expert_sha256=fingerprint(expert)),
        data=material.describe(),
        folder=folder,
        score=score,
        metric=material.metric,
    )
    averaged = fit(fabric, run, workers)
    if report and fabric.is_global_zero:
        print(f"codec: val {material.metric} {score(averaged):.4f}")
        if isinstance(config.tokens, Tokens) and config.tokens.codes:
            report_codebook(averaged, material, fabric.device)
    return averaged


def with_logits(
    fabric: Fabric, material: Material, expert: nn.Module, folder: Path
) -> dict[str, Dataset]:
    """Return the datasets trained on with what `expert` says of them, which `folder` keeps."""
    rows = material.config.input_size[0]
    own_size: tuple[int, int] | None = getattr(expert, "size", None)

    @torch.inference_mode()
    def teach(frame: np.ndarray) -> Taught:
        boxes = expert.boxes(frame) if isinstance(expert, SeveralExperts) else None
        # An expert with a size of its own is shown all that the camera saw.
        if own_size is None:
            frame = fit_rows(Sample(frame, frame[..., 0]), rows).frame
        else:
            frame = resize_frame(frame, own_size)
        with fabric.autocast():
            logits = expert(torch.from_numpy(frame)[None].to(fabric.device))
        return Taught(logits[0].float().cpu(), boxes)

    def name(dataset: Dataset) -> str:
        network = material.config.expert.network.model_dump_json()
        first = hashlib.sha256(dataset[0].frame.tobytes()).hexdigest()
        named = f"{fingerprint(expert)} {network} {material.labels}"
        text = f"{named} {describe(dataset)} {first} {rows}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    return {
        key: CachedLogits(dataset, rows, teach, folder / f"{name(dataset)}.npz")
        for key, dataset in material.train.items()
    }


@torch.inference_mode()
def report_codebook(network: TokenNetwork, material: Material, device: torch.device) -> None:
    """Print how many codes of each level the validation frames use, and their perplexity."""
    frames = sized(iterate(material.val), material.config.input_size)
    indices = torch.cat([network(each.to(device)).indices.flatten(0, 2).cpu() for each in frames])
    codes = network.codebooks().shape[1]
    for level, column in enumerate(indices.T):
        share = torch.bincount(column, minlength=codes) / len(column)
        perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
        print(f"level {level}: {(share > 0).sum()} of {codes} codes, perplexity {perplexity:.0f}")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add what says where a run takes place."""
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="processes that read the data")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, cuda or another")
    parser.add_argument(
        "--devices", default="1", help="on each node: a number or auto; with torchrun, as many"
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument(
        "--precision",
        choices=("auto", "32-true", "bf16-mixed", "16-mixed"),
        default="auto",
        help="auto: bf16-mixed but on CPUs that do not compute in it",
    )


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
    add_machine_options(parser)
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        config = load_config(options.config, options.overrides)
        material = Material.load(config, parse_folders(config.data.names(), options.data))
        fabric = make_fabric(options.accelerator, options.devices, options.nodes, options.precision)
        torch.manual_seed(config.seed)
        folder = options.runs / config.name
        expert = train_expert(fabric, material, folder / "expert", options.workers)
        if options.stage == "codec":
            expert = with_tasks(expert, material.labels, config.tasks)
            train_codec(fabric, material, expert, folder / "codec", options.workers)
    except Stopped as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr)
        return 130
    except (ConfigError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        # Left to the interpreter's exit, its threads may abort a process that has done all.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
