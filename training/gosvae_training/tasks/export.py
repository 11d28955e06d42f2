"""Export the bundle of several tasks: ``python -m gosvae_training.tasks.export``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from gosvae_codec import ModelBundle
from gosvae_codec.labels import UNLABELLED
from gosvae_codec.manifest import FORMAT, PRIOR, list_labels, record
from gosvae_codec.tasks import KINDS

from ..bundle.graphs import EncoderGraph
from ..bundle.macs import graph_macs, total_macs
from ..bundle.manifest import commit, write_manifest
from ..bundle.networks import Head, Networks, share_expert, write_networks
from ..bundle.offsets import fit_offsets
from ..bundle.onnx_export import ExportError, to_onnx
from ..bundle.write import load_averaged, report, sharing_experts, some_frames
from ..data.datasets import parse_folders
from ..data.mixture import Concatenation
from ..data.samples import DataError, Dataset, Sample, describe
from ..files import whole_folder
from ..models.suppression import BOXES, LEAST_SCORE, OVERLAP, SCORES, with_suppression
from ..prior import fit_prior
from ..strict import ConfigError
from .expert_graphs import detector_graph, segmenter_graph
from .graphs import BoxesGraph, FeaturesGraph
from .network import TaskNetwork
from .segmenter import LABELS
from .settings import Config
from .train import (
    DETECTOR,
    SEGMENTER,
    Material,
    add_options,
    build_network,
    load_config,
)
from .views import LabelledViews
from .yolox import OBJECTS

_LICENSE = (
    "Apache-2.0, that of both experts: road-segmentation-adas-0001 (Intel, OpenVINO), which was "
    "imitated, and YOLOX-nano (Megvii), whose trunk the vehicle runs and whose heads the receiver "
    "runs. Pictures: streets that this project renders; roads and highways under the MIT licence"
)


@dataclass(frozen=True)
class Unlabelled:
    """The frames of a dataset, whose own labels mean something else than those of a bundle."""

    samples: Dataset

    @property
    def title(self) -> str:
        """See :class:`Dataset`."""
        return self.samples.title

    @property
    def terms(self) -> str:
        """See :class:`Dataset`."""
        return self.samples.terms

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        frame = self.samples[index].frame
        return Sample(frame, np.full(frame.shape[:2], UNLABELLED, np.uint8))


def export(material: Material, samples: tuple[Dataset, Dataset], runs: Path, models: Path) -> Path:
    """Write the bundle ``models/<name>`` and its experts, then measure it.

    A failed export leaves the earlier bundle as it was. A failed measurement leaves the new one
    without figures.

    Args:
        material: of the run.
        samples: whole frames that were trained on, for the prior, and such that were not.
        runs: folder of the checkpoints.
        models: folder of the bundles.

    Raises:
        ExportError: the run is unfinished, or a written graph differs from the trained network.
        ConfigError, DataError: an expert or a dataset cannot be read.
    """
    config = material.config
    network = build_network(config, material.experts)
    load_averaged(network, runs / config.name / "codec", config.codec.steps)
    network.eval().requires_grad_(False)
    _add_offsets(network, material)
    folder = models / config.name
    with sharing_experts(models), whole_folder(folder) as draft:
        _write(config, network, material.experts, samples, draft, models)
        ModelBundle.load(draft)
    report(folder, Unlabelled(samples[1]))
    return folder


def _add_offsets(network: TaskNetwork, material: Material) -> None:
    """Fit offsets of the classes of masks to what the first level of tokens gives."""
    encoder, features = EncoderGraph(network), FeaturesGraph(network)

    def logits(frames: Tensor) -> Tensor:
        tokens = encoder(frames, encoder.no_reference(frames))
        tokens[:, 1:] = features.codes
        return network.semantic(features(tokens))

    views = Concatenation([LabelledViews(each, LABELS) for each in material.train])
    offsets = fit_offsets(logits, views, LABELS, material.config.input_size)
    network.semantic.add(offsets)


def _write(
    config: Config,
    network: TaskNetwork,
    experts: Path,
    samples: tuple[Dataset, Dataset],
    folder: Path,
    models: Path,
) -> None:
    train, val = samples
    encoder, features = EncoderGraph(network, config.inertia), FeaturesGraph(network)
    frames = some_frames(val, 5, config.input_size)
    example = features(encoder(frames[0], encoder.no_reference(frames[0])))
    boxes = to_onnx(
        BoxesGraph(network.detection, config.input_size),
        (torch.cat([example, example]),),
        (["features"], [BOXES, SCORES]),
    )
    masks = {"label_space": LABELS.name, "labels": list_labels(LABELS)}
    heads = {
        "semantic": Head(
            "semantic",
            network.semantic,
            masks,
            share_expert(
                segmenter_graph(experts / SEGMENTER),
                "road-segmentation-adas-0001",
                frames,
                list(KINDS["semantic"].outputs),
                models,
            ),
        ),
        "detection": Head(
            "detection",
            with_suppression(boxes, OVERLAP, LEAST_SCORE),
            {"labels": list_labels(OBJECTS)},
            share_expert(
                detector_graph(experts / DETECTOR),
                "YOLOX-nano",
                frames,
                list(KINDS["detection"].outputs),
                models,
            ),
        ),
    }
    # Networks of 8 bits lose a third of the boxes, and take as long.
    written = write_networks(Networks(encoder, features, heads), folder, frames, [], [])
    codebooks = network.codebooks().detach().numpy()
    fit_prior(folder, codebooks, train, config.prior, config.seed)
    levels, codes, dim = codebooks.shape
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": config.name,
        "input_size": list(config.input_size),
        "grid": [side // network.encoder.stride for side in config.input_size],
        "inertia": list(encoder.inertia),
        "kind": "tokens",
        "levels": levels,
        "codes": codes,
        "dim": dim,
        "files": {**written.files, PRIOR: record(folder / PRIOR)},
        "tasks": written.tasks,
        "provenance": {
            "data": describe(train),
            "datasets": list(config.train),
            "license": _LICENSE,
            "commit": commit(),
            "seed": config.seed,
            "initial_weights": "the experts' own",
            "prior": config.prior.model_dump(),
            **({"notes": config.notes} if config.notes else {}),
        },
        "compute": {**written.compute, "expert_macs": expert_macs(experts)},
        "figures": {"tokens_kept_by_float16": round(written.tokens_kept, 4)},
    }
    write_manifest(folder, manifest)


def expert_macs(experts: Path) -> int | None:
    """Return the multiply-accumulates of both experts for one frame; None where not known."""
    models = [onnx.load(experts / name) for name in (SEGMENTER, DETECTOR)]
    shapes = [model.graph.input[0].type.tensor_type.shape.dim for model in models]
    return total_macs(
        graph_macs(model, tuple(side.dim_value for side in shape))
        for model, shape in zip(models, shapes, strict=True)
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the bundle of a finished run."""
    parser = argparse.ArgumentParser(prog="gosvae_training.tasks.export", description=__doc__)
    add_options(parser)
    parser.add_argument("--models", type=Path, default=Path("models"))
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        config = load_config(options.config, options.overrides)
        folders = parse_folders(config.names(), options.data)
        material = Material.load(config, options.experts, folders, options.runs / "views")
        train, val = (
            Concatenation([source.load(folders[name]) for name, source in part.items()])
            for part in (config.train, config.val)
        )
        folder = export(material, (train, val), options.runs, options.models)
    except (ConfigError, DataError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
