"""A bundle's networks as ONNX files: encoder, features, a head for each task, and a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from gosvae_codec.manifest import (
    ENCODER,
    FEATURES,
    RECONSTRUCT,
    TASKS,
    head_file,
    int8,
    record,
)
from gosvae_codec.tasks import FEATURES_KEY, KINDS

from .graphs import EncoderGraph
from .int8 import write_int8
from .macs import graph_macs, network_macs
from .onnx_export import Inputs, tokens_kept, write_onnx

FLOAT_CONVOLUTIONS = 5
"""Convolutions of the encoder, from the stem on, that its 8-bit version computes in float."""


class Head(NamedTuple):
    """One task of a bundle."""

    kind: str
    """One of :data:`gosvae_codec.tasks.KINDS`."""
    graph: nn.Module | onnx.ModelProto
    """Features float (N, C, fh, fw) -> what the kind's heads make; ONNX with these names."""
    about: Mapping[str, Any]
    """What the manifest says of it: labels and label space, or unit."""
    expert: Mapping[str, Any] | None = None
    """What :func:`share_expert` returned for the network that it imitates."""


class Networks(NamedTuple):
    """What a bundle computes."""

    encoder: EncoderGraph
    features: nn.Module
    """int32 (N, levels, h, w) -> float (N, C, fh, fw)."""
    heads: Mapping[str, Head]
    """By task."""
    picture: nn.Module | None = None
    """int32 (N, levels, h, w) -> uint8 (N, H, W, 3) RGB, where the bundle can."""


class Written(NamedTuple):
    """Parts of a manifest."""

    files: dict[str, Any]
    tasks: dict[str, Any]
    compute: dict[str, Any]
    tokens_kept: float
    """Share of the tokens that weights of the encoder stored as float16 keep."""


def write_networks(
    networks: Networks,
    folder: Path,
    frames: Sequence[Tensor],
    ranges: Iterable[Tensor],
    quantized: Sequence[str],
    encoder_int8_only: bool = False,
) -> Written:
    """Write all networks into the folder of a bundle.

    Args:
        networks: to write.
        folder: of the bundle; it exists.
        frames: a few at the encoder's size, uint8 (1, H, W, 3), on which files are compared with
            torch.
        ranges: some fifty more that were trained on, for the ranges of 8-bit versions.
        quantized: which get an 8-bit version: ``encoder.onnx``, ``features.onnx``, heads by their
            files' names.
        encoder_int8_only: whether the encoder's 8-bit version takes the place of the float one.

    Raises:
        ExportError: a written graph differs from the trained network.
    """
    (folder / TASKS).mkdir()
    encoder, features = networks.encoder, networks.features
    alone: list[Inputs] = [(encoder(frame, encoder.no_reference(frame)),) for frame in frames]
    taken = [
        (frame, *tokens) for frame, tokens in zip(frames, alone[-1:] + alone[:-1], strict=True)
    ]
    graphs = {
        ENCODER: write_onnx(
            encoder, taken, (["frames", "reference"], ["tokens"]), folder / ENCODER
        ),
        FEATURES: write_onnx(features, alone, (["tokens"], ["features"]), folder / FEATURES),
    }
    kept = tokens_kept(folder / ENCODER, taken, [encoder(*each) for each in taken])
    names = [*graphs]
    if networks.picture is not None:
        write_onnx(networks.picture, alone, (["tokens"], ["frames"]), folder / RECONSTRUCT)
        names.append(RECONSTRUCT)
    with torch.inference_mode():
        made: list[Inputs] = [(features(*tokens),) for tokens in alone]
    for name, head in networks.heads.items():
        outputs = list(KINDS[head.kind].outputs)
        path = folder / head_file(name)
        graphs[head_file(name)] = write_onnx(head.graph, made, (["features"], outputs), path)
    if quantized:
        _write_8_bit(graphs, networks, ranges, quantized, folder)
        names += [int8(name) for name in quantized if name in (ENCODER, FEATURES)]
    if encoder_int8_only:
        (folder / int8(ENCODER)).replace(folder / ENCODER)
        names.remove(int8(ENCODER))
    tasks = {name: _describe_head(name, head, folder) for name, head in networks.heads.items()}
    modules = [each.graph for each in networks.heads.values() if isinstance(each.graph, nn.Module)]
    compute = {
        "vehicle_macs": network_macs(encoder, *taken[0]),
        "receiver_macs": network_macs(features, *alone[0])
        + sum(_head_macs(head, made[0]) for head in networks.heads.values()),
        "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
        "decoder_parameters": sum(
            p.numel() for p in nn.ModuleList([features, *modules]).parameters()
        ),
    }
    return Written({name: record(folder / name) for name in names}, tasks, compute, kept)


def bind_head(path: Path, features: str) -> None:
    """Write into a head's file which features it was made for, by their SHA-256.

    The file can so be added to another copy of the bundle, and to no other bundle.
    """
    stored = onnx.load(path)
    onnx.helper.set_model_props(stored, {FEATURES_KEY: features})
    onnx.save(stored, path)


def _describe_head(name: str, head: Head, folder: Path) -> dict[str, Any]:
    """Return the manifest's entry of a task, whose head is written."""
    features = str(record(folder / FEATURES)["sha256"])
    file = head_file(name)
    files = [each for each in (file, int8(file)) if (folder / each).exists()]
    for each in files:
        bind_head(folder / each, features)
    return {
        "kind": head.kind,
        "features": features,
        **head.about,
        "files": {each: record(folder / each) for each in files},
        **({"expert": dict(head.expert)} if head.expert is not None else {}),
    }


def _head_macs(head: Head, example: Inputs) -> int:
    if isinstance(head.graph, nn.Module):
        return network_macs(head.graph, *example)
    return graph_macs(head.graph, tuple(example[0].shape)) or 0


def _write_8_bit(
    graphs: Mapping[str, onnx.ModelProto],
    networks: Networks,
    frames: Iterable[Tensor],
    names: Sequence[str],
    folder: Path,
) -> None:
    encoder, features = networks.encoder, networks.features
    pairs: list[Inputs] = [(frame, encoder.no_reference(frame)) for frame in frames]
    with torch.inference_mode():
        tokens: list[Inputs] = [(encoder(*each),) for each in pairs]
        seen: list[Inputs] = [(features(*each),) for each in tokens]
    for name in names:
        path = folder / int8(name)
        if name == ENCODER:
            write_int8(graphs[name], pairs, FLOAT_CONVOLUTIONS, path, last_in_float=True)
        elif name == FEATURES:
            write_int8(graphs[name], tokens, 0, path)
        else:
            write_int8(graphs[name], seen, 0, path, last_in_float=True)


def share_expert(
    expert: nn.Module | onnx.ModelProto,
    name: str,
    frames: Sequence[Tensor],
    outputs: Sequence[str],
    models: Path,
) -> dict[str, Any]:
    """Write an expert to ``models/experts``, under its hash, and return its record.

    Named by its content, it can go to its place before the bundle does.

    Args:
        expert: frames uint8 (N, H, W, 3) -> `outputs`, those of the task's kind.
        name: what the manifest calls it.
        frames: as for :func:`write_networks`.
        outputs: their names.
        models: the folder of the bundles.

    Raises:
        ExportError: the written graph differs from `expert`.
    """
    folder = models / "experts"
    folder.mkdir(parents=True, exist_ok=True)
    # Several exports may share the folder.
    draft = folder / f".{os.getpid()}.onnx"
    # A detector's output has the name that the input has otherwise.
    taken = "pixels" if "frames" in outputs else "frames"
    write_onnx(expert, [(frame,) for frame in frames], ([taken], outputs), draft)
    written = record(draft)
    draft.replace(folder / f"{str(written['sha256'])[:16]}.onnx")
    return {"name": name, **written}
