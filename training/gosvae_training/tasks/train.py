"""Train the tokens of several tasks: ``python -m gosvae_training.tasks.train``."""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.tasks import DetectionResult

from ..average_precision import AveragePrecision
from ..config import identify_fields
from ..data.datasets import parse_folders, require_folders
from ..data.samples import DataError
from ..fit import Run, TrainingError, fit, make_fabric
from ..losses import class_weights
from ..models.quantizers import rare_use
from ..models.suppression import CONFIDENT, LEAST_SCORE
from ..strict import ConfigError, parse, read_changed
from ..train import add_machine_options
from .network import TOKEN_STRIDE, TaskNetwork
from .objective import TaskObjective
from .segmenter import LABELS, RoadSegmenter
from .settings import Config, Source
from .views import ViewItems, Views
from .yolox import CLASSES, Heads, decode_maps, select_boxes, trunk_of

SEGMENTER, DETECTOR = "road_segmentation_adas_0001.onnx", "yolox_nano_coco_416.onnx"
"""Files of the experts."""


@dataclass(frozen=True)
class Material:
    """What a run learns from and what it is judged by."""

    config: Config
    experts: Path
    """Folder of the experts' files."""
    train: list[Views]
    val: list[Views]

    @classmethod
    def load(cls, config: Config, experts: Path, folders: dict[str, Path], kept: Path) -> Material:
        """Open the datasets, and ask the segmenter about views of them, which go to `kept`.

        Raises:
            ConfigError, DataError: an expert or a dataset cannot be read.
        """
        path = experts / SEGMENTER
        segmenter = RoadSegmenter(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

        def views(sources: dict[str, Source]) -> list[Views]:
            require_folders(sources, folders)
            made = []
            for name, source in sources.items():
                samples = source.load(folders[name])
                size, seed = config.input_size, config.seed
                made.append(
                    Views(samples, source.views, size, segmenter.segment, sha256, kept, seed)
                )
            return made

        return cls(config, experts, views(dict(config.train)), views(dict(config.val)))

    def class_weights(self) -> torch.Tensor:
        """Return the weight of each class in losses against labels, (classes,)."""
        total = np.zeros(len(LABELS))
        for views in self.train:
            for target in views.targets[:: max(len(views) // 256, 1)]:
                total += target.mean((1, 2))
        return class_weights(total / total.sum())


def build_network(config: Config, experts: Path) -> TaskNetwork:
    """Return the network, untrained but for the experts' parts, whose files are in `experts`.

    Raises:
        ConfigError: a file cannot be read.
    """
    detector = experts / DETECTOR
    trunk, heads = trunk_of(detector), Heads(detector)
    return TaskNetwork(config.tokens, len(LABELS), trunk, heads, rare_vectors(config))


def rare_vectors(config: Config) -> float:
    """Return the vectors of a batch with fewer of which a code is restarted."""
    height, width = config.input_size
    return rare_use(config.codec.batch * height * width / TOKEN_STRIDE**2, config.tokens.codes)


@torch.inference_mode()
def validate(network: TaskNetwork, parts: list[Views], device: torch.device) -> dict[str, float]:
    """Return how much of the experts comes out, on views: ``agreement`` (mIoU) and ``ap50``."""
    agreement, precision = ConfusionMatrix(), AveragePrecision(list(CLASSES))
    for views in parts:
        for frame, target in zip(views.frames, views.targets, strict=True):
            frames = torch.from_numpy(np.array(frame))[None].to(device)
            seen = network.encoder.see(frames)
            wanted = network.detection.heads(*seen.pyramid)
            made = network(frames, seen)
            mask = made.logits[0].argmax(0).cpu().numpy().astype(np.uint8)
            agreement.add(target.argmax(0).astype(np.uint8), mask)
            precision.add(_boxes(wanted, CONFIDENT), _boxes(made.boxes, LEAST_SCORE))
    return {"agreement": agreement.miou(), "ap50": precision.mean()}


def _boxes(maps: list[torch.Tensor], confident: float) -> DetectionResult:
    corners, scores = decode_maps([each.float().cpu() for each in maps])
    return select_boxes(corners[0].numpy(), scores[0].numpy(), confident)


def train_tasks(
    fabric: Fabric, material: Material, objective: TaskObjective, folder: Path, workers: int = 0
) -> nn.Module:
    """Return the trained network, averaged; training continues where `folder` has a checkpoint."""
    config = material.config

    def score(network: Any) -> float:
        figures = validate(network, material.val, fabric.device)
        print({name: round(value, 4) for name, value in figures.items()}, flush=True)
        return float(np.mean(list(figures.values())))

    schedule = config.codec
    decisive = ("seed", "input_size", "train", "tokens", "losses", "codec")
    run = Run(
        objective=objective,
        schedule=schedule,
        crops=ViewItems(material.train, schedule.steps * schedule.batch, config.seed),
        seed=config.seed,
        identity=identify_fields(config, decisive),
        data=", ".join(f"{len(views)} views of {views.title}" for views in material.train),
        folder=folder,
        score=score,
        metric="mean of agreement and AP50",
    )
    return fit(fabric, run, workers)


def load_config(path: Path, overrides: list[str]) -> Config:
    """Read a configuration; raise ConfigError where it has an unknown or impossible value."""
    return parse(Config, read_changed(path, overrides), path)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what training and export have in common."""
    parser.add_argument("config", type=Path, help="YAML file, for one configs/road.yaml")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument(
        "--experts", type=Path, required=True, help=f"folder of {SEGMENTER} and {DETECTOR}"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go")
    add_machine_options(parser)


def main(arguments: list[str] | None = None) -> int:
    """Train the network of a configuration; weights land in the run folder."""
    parser = argparse.ArgumentParser(prog="gosvae_training.tasks.train", description=__doc__)
    add_options(parser)
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        config = load_config(options.config, options.overrides)
        folders = parse_folders(config.names(), options.data)
        material = Material.load(config, options.experts, folders, options.runs / "views")
        fabric = make_fabric(options.accelerator, options.devices, options.nodes, options.precision)
        torch.manual_seed(config.seed)
        network = build_network(config, material.experts)
        objective = TaskObjective(network, config.losses, material.class_weights())
        folder = options.runs / config.name / "codec"
        train_tasks(fabric, material, objective, folder, options.workers)
    except (ConfigError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
