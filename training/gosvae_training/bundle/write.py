"""Bundles and experts as folders, written whole or not at all, then measured."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from gosvae_codec import ModelBundle
from gosvae_codec.bundle import ENCODER, INT8, MANIFEST, MASK, PRIOR, RECONSTRUCT
from gosvae_codec.images import resize_frame

from ..data.datasets import Dataset, describe, iterate
from ..evaluate import evaluate
from ..files import whole_folder
from ..models.experts import build_expert
from ..models.settings import Fpn, Labels, Tokens
from ..models.token_network import TokenNetwork, build_tokens
from ..prior import fit_prior
from ..train import Material
from .graphs import EncoderGraph, MaskGraph, PictureGraph, reconstructs, sends_labels
from .int8 import write_int8
from .macs import expert_macs, network_macs
from .manifest import (
    CARD,
    EXPERT,
    EXPERT_MANIFEST,
    describe_codec,
    expert_name,
    provenance,
    record,
    write_expert_manifest,
    write_manifest,
)
from .offsets import first_level_logits, fit_offsets
from .onnx_export import ExportError, Inputs, infer, tokens_kept, write_onnx

FLOAT_CONVOLUTIONS = 5
"""Convolutions of the encoder, from the stem on, that its 8-bit version computes in float."""


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
    _check_replaceable(folder, [MANIFEST, ENCODER, MASK, PRIOR, RECONSTRUCT, *INT8.values()])
    expert, codec = load_trained(material, runs)
    try:
        with whole_folder(folder) as draft:
            write_bundle(material, expert, codec, draft)
            expert_file = ModelBundle.load(draft).expert_path
            expert_file.parent.mkdir(exist_ok=True)
            # Named by its content, it can go to its place before the bundle does.
            (draft / EXPERT).replace(expert_file)
    finally:
        delete_orphans(models)
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
        write_onnx(expert, frames, (["frames"], "logits"), draft / EXPERT)
        about: dict[str, Any] = {
            "name": config.name,
            "label_space": material.labels.name,
            "input_size": list(config.input_size),
            "expert": {"name": expert_name(config), **record(draft / EXPERT)},
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
    codec = build_tokens(config.tokens, len(labels), expert)
    load_averaged(codec, run / "codec", config.codec.steps)
    for network in (expert, codec):
        network.eval().requires_grad_(False)
    if not reconstructs(codec):
        logits = first_level_logits(codec, config.input_size)
        offsets = fit_offsets(logits, material.familiar(), labels, config.input_size)
        part = codec.encoder if sends_labels(codec) else codec.decoder
        part.classifier.bias.add_(offsets)
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


class _Examples(NamedTuple):
    """Inputs of a bundle's networks, from a few validation frames; each a batch of one."""

    frames: list[Inputs]
    """uint8 (1, H, W, 3)."""
    taken: list[Inputs]
    """What the encoder takes: frames, and the tokens of the frame before as reference."""
    tokens: list[Tensor]
    """What the encoder makes of `taken`, int32 (1, levels, h, w)."""
    alone: list[Inputs]
    """Tokens of the frames without a reference."""

    @classmethod
    def of(cls, encoder: EncoderGraph, frames: Iterable[Tensor]) -> _Examples:
        single: list[Inputs] = [(frame,) for frame in frames]
        alone: list[Inputs] = [
            (encoder(frame, encoder.no_reference(frame)),) for (frame,) in single
        ]
        references = alone[-1:] + alone[:-1]
        taken = [(*frame, *tokens) for frame, tokens in zip(single, references, strict=True)]
        return cls(single, taken, [encoder(*each) for each in taken], alone)


def write_bundle(
    material: Material, expert: nn.Module, codec: TokenNetwork, folder: Path
) -> dict[str, Any]:
    """Write all files of a bundle and its ``expert.onnx`` into `folder`; return the manifest.

    The manifest has no figures but the share of tokens that half precision keeps; :func:`report`
    adds those.
    """
    config = material.config
    encoder = EncoderGraph(codec, config.inertia)
    mask = MaskGraph(codec, config.input_size, expert)
    examples = _Examples.of(encoder, some_frames(material.val, 5, config.input_size))
    names = ["frames", "reference"], "tokens"
    float_encoder = write_onnx(encoder, examples.taken, names, folder / ENCODER)
    kept = tokens_kept(folder / ENCODER, examples.taken, examples.tokens)
    float_mask = write_onnx(mask, examples.alone, (["tokens"], "logits"), folder / MASK)
    write_onnx(expert, examples.frames, (["frames"], "logits"), folder / EXPERT)
    fit_prior(
        folder,
        codec.codebooks().detach().numpy(),
        material.familiar(),
        config.prior,
        config.seed,
    )
    files = [ENCODER, MASK, PRIOR]
    if reconstructs(codec):
        picture = PictureGraph(codec, config.input_size)
        write_onnx(picture, examples.alone, (["tokens"], "frames"), folder / RECONSTRUCT)
        files.append(RECONSTRUCT)
    else:
        # Group norms, which pictures need, have no 8-bit version.
        files += write_8_bit(material, codec, (float_encoder, float_mask), folder)
    compute = {
        "vehicle_macs": network_macs(encoder, *examples.taken[0]),
        "receiver_macs": network_macs(mask, *examples.alone[0]),
        "expert_macs": expert_macs(expert, *examples.frames[0]),
        "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
        "decoder_parameters": sum(p.numel() for p in mask.parameters()),
    }
    manifest = {
        **describe_codec(material, codec),
        "files": {name: record(folder / name) for name in files},
        "expert": {"name": expert_name(config), **record(folder / EXPERT)},
        "provenance": {
            **provenance(material),
            "initial_weights": "EfficientNet-Lite, ImageNet (Apache-2.0)",
            "prior": config.prior.model_dump(),
        },
        "compute": compute,
        "figures": {"tokens_kept_by_float16": round(kept, 4)},
    }
    write_manifest(folder, manifest)
    return manifest


def write_8_bit(
    material: Material,
    codec: TokenNetwork,
    graphs: tuple[onnx.ModelProto, onnx.ModelProto],
    folder: Path,
) -> list[str]:
    """Write the 8-bit versions of encoder and mask network; return their names.

    The ranges are taken from some fifty frames trained on.
    """
    encoder = EncoderGraph(codec, material.config.inertia)
    some = some_frames(material.familiar(), 48, material.config.input_size)
    pairs = [(frame, encoder.no_reference(frame)) for frame in some]
    write_int8(graphs[0], pairs, FLOAT_CONVOLUTIONS, folder / INT8[ENCODER])
    # Labels are their own mask.
    if sends_labels(codec):
        return [INT8[ENCODER]]
    write_int8(graphs[1], [(encoder(*each),) for each in pairs], 0, folder / INT8[MASK])
    return [INT8[ENCODER], INT8[MASK]]


def report(folder: Path, samples: Dataset) -> None:
    """Measure the bundle in `folder` and add the figures to its manifest and card.

    Whatever fails, the bundle stays as it is, and a warning says so.
    """

    def measure() -> None:
        bundle = ModelBundle.load(folder)
        manifest = copy.deepcopy(bundle.manifest)
        known = manifest["figures"]
        if "float16_miou" not in known:
            unquantized = evaluate(_without_int8(bundle), samples)
            known["float16_miou"] = [row["miou"] for row in unquantized["levels"]]
        manifest["figures"] = {**known, **evaluate(bundle, samples)}
        write_manifest(folder, manifest)

    _or_warn(folder, measure)


def _without_int8(bundle: ModelBundle) -> ModelBundle:
    """Return the same bundle, which computes in float on the CPU too."""
    names = set(bundle.manifest["files"]) - set(INT8.values())
    files = {name: bundle.manifest["files"][name] for name in names}
    return replace(bundle, manifest={**bundle.manifest, "files": files}, _sessions={})


def _or_warn(folder: Path, measure: Callable[[], None]) -> None:
    try:
        measure()
    # Any error: hours of training are not to be lost for a figure.
    except Exception as error:
        print(
            f"warning: {folder} is complete but has no figures: {type(error).__name__}: {error}",
            file=sys.stderr,
        )


def delete_orphans(models: Path) -> None:
    """Delete the experts that no manifest in `models` names."""
    manifests = [path.read_bytes() for path in models.glob(f"*/{MANIFEST}")]
    for path in (models / "experts").glob("*.onnx"):
        if not any(path.stem.encode() in manifest for manifest in manifests):
            path.unlink()


@torch.inference_mode()
def some_frames(samples: Dataset, at_most: int, size: tuple[int, int]) -> list[Tensor]:
    """Return about `at_most` evenly spaced frames at the encoder's size, uint8 (1, H, W, 3)."""
    return [
        torch.from_numpy(resize_frame(sample.frame, size))[None]
        for sample in iterate(samples, at_most)
    ]


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
