"""Bundles and experts as folders, written whole or not at all, then measured."""

from __future__ import annotations

import copy
import fcntl
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from gosvae_codec import ModelBundle
from gosvae_codec.labels import label_space
from gosvae_codec.manifest import (
    ENCODER,
    FEATURES,
    MANIFEST,
    PRIOR,
    RECONSTRUCT,
    TASKS,
    int8,
    list_labels,
    record,
)
from gosvae_codec.tasks import KINDS, Detection

from ..config import SEMANTIC, Config
from ..data.samples import Dataset, describe, is_labelled, iterate
from ..evaluate import evaluate
from ..files import whole_folder
from ..models.experts import SeveralExperts, build_expert, with_tasks
from ..models.onnx_detector import OnnxDetector
from ..models.settings import Fpn, Labels, Tokens
from ..models.suppression import BOXES, LEAST_SCORE, OVERLAP, SCORES, with_suppression
from ..models.token_network import TokenNetwork, build_tokens
from ..prior import fit_prior
from ..train import Material, sized
from .bit_cost import add_bit_cost
from .graphs import (
    BoxesGraph,
    EncoderGraph,
    FeaturesGraph,
    PictureGraph,
    reconstructs,
    semantic_heads,
    sends_labels,
)
from .macs import expert_macs, total_macs
from .manifest import (
    CARD,
    EXPERT,
    EXPERT_MANIFEST,
    describe_codec,
    expert_name,
    initial_weights,
    provenance,
    write_expert_manifest,
    write_manifest,
)
from .networks import Head, Networks, share_expert, write_networks
from .offsets import first_level_logits, fit_offsets
from .onnx_export import ExportError, infer, to_onnx, write_onnx


def export(material: Material, runs: Path, models: Path) -> Path:
    """Write the bundle ``models/<name>`` and its expert, then measure it.

    A failed export leaves the earlier bundle as it was. A failed measurement leaves the new one
    without figures. Experts that no bundle names any more are deleted.

    Raises:
        ExportError: the run is unfinished, a written graph differs from the trained network, or the
            folder holds files that are not a bundle's.
        DataError: a dataset cannot be read.
    """
    config, folder = material.config, models / material.config.name
    if isinstance(config.tokens, Labels) or (
        isinstance(config.tokens, Tokens) and not config.tokens.codes
    ):
        raise ExportError(
            f"{config.name}: a bundle needs tokens with a codebook; for a table of what has none "
            "use gosvae_training.studies.run"
        )
    networks = [ENCODER, FEATURES, RECONSTRUCT]
    _check_replaceable(folder, [MANIFEST, PRIOR, TASKS, *networks, *map(int8, networks)])
    expert, codec = load_trained(material, runs)
    with sharing_experts(models), whole_folder(folder) as draft:
        write_bundle(material, expert, codec, draft, models)
        ModelBundle.load(draft)
    report(folder, material.val)
    return folder


def export_expert(material: Material, runs: Path, models: Path) -> Path:
    """Write ``models/<name>/expert.onnx`` with ``expert.yaml`` and card: an expert without tokens.

    For receivers of pictures. It is measured on the validation frames, beside the expert whose
    weights it started from.

    Raises:
        ExportError: the run is unfinished, the written graph differs from the trained network, or
            the folder holds a bundle or other files.
        DataError: a dataset cannot be read.
    """
    config = material.config
    folder = models / config.name
    if (folder / MANIFEST).exists():
        raise ExportError(f"{folder} is a bundle; give the expert's configuration another name")
    _check_replaceable(folder, [EXPERT, EXPERT_MANIFEST])
    started = build_expert(config.expert.network, material.labels).eval().requires_grad_(False)
    expert = copy.deepcopy(started)
    if config.expert.steps:
        load_averaged(expert, runs / config.name / "expert", config.expert.steps)
    frames = [(frame,) for frame in some_frames(material.val, 5, config.input_size)]
    with whole_folder(folder) as draft:
        write_onnx(expert, frames, (["frames"], ["logits"]), draft / EXPERT)
        about: dict[str, Any] = {
            "name": config.name,
            "label_space": material.labels.name,
            "input_size": list(config.input_size),
            "expert": {"name": expert_name(config.expert.network), **record(draft / EXPERT)},
            "expert_macs": expert_macs(expert, *frames[0]),
            "provenance": {
                **provenance(material),
                "compression": config.data.compression,
            },
        }
        write_expert_manifest(draft, about)

    def measure() -> None:
        path = str(folder / EXPERT)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        miou = material.score(lambda each: torch.from_numpy(infer(session, (each,))))
        figures = {
            "data": describe(material.val),
            "date": str(date.today()),
            "miou": round(miou, 4),
        }
        if isinstance(config.expert.network, Fpn) and config.expert.network.weights:
            figures["started_from_miou"] = round(material.score(started), 4)
        write_expert_manifest(folder, {**about, "figures": figures})

    _or_warn(folder, measure)
    return folder


def load_trained(material: Material, runs: Path) -> tuple[nn.Module, TokenNetwork]:
    """Return the expert and the codec of a finished run, frozen; offsets of classes are fitted.

    Raises:
        ExportError: a stage of the run is missing or unfinished.
    """
    config, labels, run = material.config, material.labels, runs / material.config.name
    expert = build_expert(config.expert.network, labels)
    if config.expert.steps:
        load_averaged(expert, run / "expert", config.expert.steps)
    assert not isinstance(config.tokens, Labels)
    expert = with_tasks(expert, labels, config.tasks)
    masks, boxes = (sum(map(len, each)) for each in (config.spaces(), config.detected()))
    codec = build_tokens(config.tokens, masks, expert, boxes=boxes)
    load_averaged(codec, run / "codec", config.codec.steps)
    for network in (expert, codec):
        network.eval().requires_grad_(False)
    familiar = material.familiar()
    # With an expert's masks as truth, mIoU would buy thin classes with bands along all edges.
    if not reconstructs(codec) and is_labelled(familiar):
        made = first_level_logits(codec, config.input_size)

        def logits(frames: Tensor) -> Tensor:
            return made(frames)[:, : len(labels)]

        offsets = fit_offsets(logits, familiar, labels, config.input_size)
        part = codec.encoder if sends_labels(codec) else codec.decoder
        part.classifier.bias[: len(labels)].add_(offsets)
    return expert, codec


def load_averaged(network: nn.Module, folder: Path, steps: int) -> None:
    """Load the averaged weights of a stage's finished run.

    Raises:
        ExportError: there is no checkpoint in `folder`, or it has fewer than `steps` steps.
    """
    path = folder / "last.pt"
    if not path.exists():
        raise ExportError(f"{path}: no such file; train first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["step"] < steps:
        raise ExportError(f"{path}: {state['step']} of {steps} steps; finish the training first")
    network.load_state_dict(state["averaged"])


def write_bundle(
    material: Material, expert: nn.Module, codec: TokenNetwork, folder: Path, models: Path
) -> dict[str, Any]:
    """Write all files of a bundle into `folder`, its expert into `models`; return the manifest.

    The manifest has no figures but the share of tokens that half precision keeps; :func:`report`
    adds those.
    """
    config = material.config
    frames = some_frames(material.val, 5, config.input_size)
    heads, macs = _heads(material, expert, codec, models)
    networks = Networks(
        EncoderGraph(codec, config.inertia),
        FeaturesGraph(codec, config.input_size),
        heads,
        PictureGraph(codec, config.input_size) if reconstructs(codec) else None,
    )
    # Group norms, which pictures need, have no 8-bit version; labels are their own features.
    quantized = [ENCODER] if sends_labels(codec) else [ENCODER, FEATURES]
    if reconstructs(codec):
        quantized = []
    ranges = some_frames(material.familiar(), 48, config.input_size) if quantized else []
    written = write_networks(networks, folder, frames, ranges, quantized, config.encoder_int8_only)
    codebooks = codec.codebooks().detach().numpy()
    if config.bit_cost:
        codes = codebooks.shape[1]
        written.files.update(
            add_bit_cost(folder, material.familiar(), codes, config.bit_cost, config.seed)
        )
    fit_prior(folder, codebooks, material.familiar(), config.prior, config.seed)
    manifest = {
        **describe_codec(material, codec),
        "files": {**written.files, PRIOR: record(folder / PRIOR)},
        "tasks": written.tasks,
        "provenance": {
            **provenance(material),
            "initial_weights": initial_weights(config),
            "offsets": not reconstructs(codec) and is_labelled(material.familiar()),
            "bit_cost": config.bit_cost,
            "encoder_int8_only": config.encoder_int8_only,
            "prior": config.prior.model_dump(),
        },
        "compute": {**written.compute, "expert_macs": macs},
        "figures": {"tokens_kept_by_float16": round(written.tokens_kept, 4)},
    }
    write_manifest(folder, manifest)
    return manifest


def _heads(
    material: Material, expert: nn.Module, codec: TokenNetwork, models: Path
) -> tuple[dict[str, Head], int | None]:
    """Return the heads by task, and what all experts compute; their files go to `models`."""
    config = material.config
    experts = list(expert.experts) if isinstance(expert, SeveralExperts) else [expert]
    spaces = [material.labels, *(label_space(task.labels) for task in config.tasks.values())]
    networks = [config.expert.network, *(task.network for task in config.tasks.values())]
    graphs = iter(semantic_heads(codec, expert, [len(space) for space in config.spaces()]))
    heads, macs, detected = {}, [], 0
    for name, labels, network, module in zip(
        (SEMANTIC, *config.tasks), spaces, networks, experts, strict=True
    ):
        # A foreign expert looks at frames at its own size, if it has one.
        own = some_frames(material.val, 5, getattr(module, "size", None) or config.input_size)
        graph: nn.Module | onnx.ModelProto
        about: dict[str, Any] = {"labels": list_labels(labels)}
        if isinstance(module, OnnxDetector):
            classes = slice(detected, detected + len(labels))
            detected = classes.stop
            kind, graph = Detection.kind, _boxes_head(codec, classes, config)
        else:
            kind, graph = SEMANTIC, next(graphs)
            about["label_space"] = labels.name
        outputs = list(KINDS[kind].outputs)
        source = module.graph if isinstance(module, OnnxDetector) else module
        shared = share_expert(source, expert_name(network), own, outputs, models)
        heads[name] = Head(kind, graph, about, shared)
        macs.append(expert_macs(module, own[0]))
    return heads, total_macs(macs)


def _boxes_head(codec: TokenNetwork, classes: slice, config: Config) -> onnx.ModelProto:
    """Return the head of a detector's task, whose `classes` these are of all that are detected."""
    graph = BoxesGraph(codec.decoder.boxes, classes, config.input_size)
    width = codec.decoder.classifier.weight.shape[1]
    example = torch.zeros(2, width, *(-(-side // 4) for side in config.input_size))
    maps = to_onnx(graph, (example,), (["features"], [BOXES, SCORES]))
    return with_suppression(maps, OVERLAP, LEAST_SCORE)


def report(folder: Path, samples: Dataset) -> None:
    """Measure the bundle in `folder` and add the figures to its manifest and card.

    Whatever fails, the bundle stays as it is, and a warning says so.
    """

    def measure() -> None:
        bundle = ModelBundle.load(folder)
        manifest = copy.deepcopy(bundle.manifest)
        known, figures = manifest["figures"], evaluate(bundle, samples)
        if not {"float16_miou", "float16_agreement"} & set(known):
            quantized = any(int8(name) in bundle.files for name in bundle.files)
            floats = evaluate(_without_int8(bundle), samples) if quantized else figures
            metric = "agreement" if floats["miou"] is None else "miou"
            known[f"float16_{metric}"] = [row[metric] for row in floats["levels"]]
        manifest["figures"] = {**known, **figures}
        write_manifest(folder, manifest)

    _or_warn(folder, measure)


def _without_int8(bundle: ModelBundle) -> ModelBundle:
    """Return the same bundle, which computes in float on the CPU too."""
    quantized = {int8(name) for name in bundle.files}

    def without(files: dict[str, Any]) -> dict[str, Any]:
        return {name: about for name, about in files.items() if name not in quantized}

    tasks = {
        name: replace(task, record={**task.record, "files": without(task.record["files"])})
        for name, task in bundle.tasks.items()
    }
    manifest = {**bundle.manifest, "files": without(bundle.manifest["files"])}
    return replace(bundle, manifest=manifest, tasks=tasks, _sessions={})


def _or_warn(folder: Path, measure: Callable[[], None]) -> None:
    try:
        measure()
    # Any error: hours of training are not to be lost for a figure.
    except Exception as error:
        print(
            f"warning: {folder} is complete but has no figures: {type(error).__name__}: {error}",
            file=sys.stderr,
        )


@contextmanager
def sharing_experts(models: Path) -> Iterator[None]:
    """Let one export of several at once write experts and a bundle into `models`.

    The last of them to end deletes the experts that no manifest names.
    """
    models.mkdir(parents=True, exist_ok=True)
    folder = os.open(models, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        try:
            yield
        finally:
            # Another export's expert lies there before the manifest that names it does.
            with suppress(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete_orphans(models)
    finally:
        os.close(folder)


def _delete_orphans(models: Path) -> None:
    """Delete the experts that no manifest in `models` names."""
    manifests = [path.read_bytes() for path in models.glob(f"*/{MANIFEST}")]
    for path in (models / "experts").glob("*.onnx"):
        if not any(path.stem.encode() in manifest for manifest in manifests):
            path.unlink()


@torch.inference_mode()
def some_frames(samples: Dataset, at_most: int, size: tuple[int, int]) -> list[Tensor]:
    """Return about `at_most` evenly spaced frames at the encoder's size, uint8 (1, H, W, 3)."""
    return list(sized(iterate(samples, at_most), size))


def _check_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Raise ExportError where `folder` holds other files than `names` and the card."""
    if not folder.exists():
        return
    strange = sorted({path.name for path in folder.iterdir()} - {*names, CARD})
    if strange:
        raise ExportError(
            f"{folder}: {strange[0]} would be lost; move it away, or give the configuration "
            "another name"
        )
