"""Write a model bundle from a finished run: ``python -m gosvae_training.export``."""

from __future__ import annotations

import argparse
import copy
import hashlib
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import yaml
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gosvae_codec import UNLABELLED, GosvaeError, LabelSpace, ModelBundle
from gosvae_codec.bundle import ENCODER, FORMAT, INT8, MASK, PRIOR, RECONSTRUCT
from gosvae_codec.images import resize_frame

from .config import Config, ConfigError, Fpn, Labels, Tokens, load_config
from .data import DataError, Dataset, describe, iterate, parse_folders
from .evaluate import INTRA_FRAMES, evaluate, table
from .experts import OnnxExpert, build_expert
from .light import LabelDecoder
from .networks import TokenNetwork, resize_logits
from .objectives import build_tokens
from .pixels import PixelDecoder, to_frames
from .prior import fit_prior
from .quantize import write_int8
from .train import STAGES, Material

OPSET = 18
EXPERT = "expert.onnx"
LEAST_KEPT = 0.95
"""Share of the tokens that must survive the rounding of the encoder's weights to float16."""
FLOAT_CONVOLUTIONS = 5
"""Convolutions of the encoder, from the stem on, that its 8-bit version computes in float."""


class ExportError(Exception):
    """A run is unfinished, or what was exported differs from what was trained."""


class EncoderGraph(nn.Module):
    """uint8 (N, H, W, 3) RGB and int32 (N, levels, h, w) -> int32 (N, levels, h, w).

    Made are the nearest codes of each residual; but the reference's code, the second input, where
    its squared distance is at most the nearest one's and `inertia`: what another code would cost
    has to buy a nearer one. A reference of `codes` is none.
    """

    def __init__(self, segmenter: TokenNetwork, inertia: Sequence[float] = ()) -> None:
        super().__init__()
        self.encoder = segmenter.encoder
        self.register_buffer("codebooks", segmenter.codebooks().detach().clone())
        self.inertia = tuple(inertia) or (0.0,) * len(self.codebooks)

    def no_reference(self, frames: Tensor) -> Tensor:
        """Return the second input that stands for none, at `frames`' number and size."""
        levels, codes, _ = self.codebooks.shape
        stride = self.encoder.stride
        rows, columns = (-(-side // stride) for side in frames.shape[1:3])
        return torch.full((len(frames), levels, rows, columns), codes, dtype=torch.int32)

    def forward(self, frames: Tensor, reference: Tensor) -> Tensor:
        residual = self.encoder(frames).permute(0, 2, 3, 1)
        levels = []
        for level, (codebook, inertia) in enumerate(zip(self.codebooks, self.inertia, strict=True)):
            products = residual @ codebook.T
            distances = (codebook * codebook).sum(1) - 2 * products
            distances = distances + (residual * residual).sum(-1, keepdim=True)
            nearest, index = distances.amin(-1), distances.argmin(-1)
            kept = reference[:, level].long()
            present = kept < len(codebook)
            kept = torch.where(present, kept, 0)
            away = distances.gather(-1, kept[..., None])[..., 0]
            index = torch.where(present & (away <= nearest + inertia), kept, index)
            residual = residual - codebook[index]
            levels.append(index)
        return torch.stack(levels, 1).to(torch.int32)


class VectorGraph(nn.Module):
    """int32 (N, levels, h, w) -> what the decoder makes; index `codes` adds nothing."""

    def __init__(self, segmenter: TokenNetwork, size: tuple[int, int]) -> None:
        super().__init__()
        self.decoder = segmenter.decoder
        self.size = tuple(-(-side // self.decoder.stride) for side in size)
        codebooks = segmenter.codebooks().detach()
        levels, self.codes, dim = codebooks.shape
        absent = torch.zeros(levels, 1, dim)
        self.register_buffer("tables", torch.cat([codebooks, absent], 1).flatten(0, 1))
        self.register_buffer("first", torch.arange(levels)[:, None, None] * (self.codes + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        vectors = self.tables[tokens.long() + self.first].sum(1)
        made = self.decoder(vectors.permute(0, 3, 1, 2))
        return made[:, :, : self.size[0], : self.size[1]]


class MaskGraph(VectorGraph):
    """int32 (N, levels, h, w) -> float logits, (N, classes, H/4, W/4) if decoded directly.

    Where the decoder makes pixels, `expert` segments them.
    """

    def __init__(self, segmenter: TokenNetwork, size: tuple[int, int], expert: nn.Module) -> None:
        super().__init__(segmenter, size)
        self.expert = expert if draws(segmenter) else None

    def forward(self, tokens: Tensor) -> Tensor:
        made = super().forward(tokens)
        return made if self.expert is None else self.expert(to_frames(made))


class PictureGraph(VectorGraph):
    """int32 (N, levels, h, w) -> uint8 (N, H, W, 3) RGB."""

    def forward(self, tokens: Tensor) -> Tensor:
        return to_frames(super().forward(tokens)).round().to(torch.uint8)


def sends_labels(segmenter: TokenNetwork) -> bool:
    """Return whether the tokens are labels."""
    return isinstance(segmenter.decoder, LabelDecoder)


def draws(segmenter: TokenNetwork) -> bool:
    """Return whether the decoder makes pixels."""
    return isinstance(segmenter.decoder, PixelDecoder)


Inputs = tuple[Tensor, ...]
"""What a graph takes."""


def to_onnx(graph: nn.Module, example: Inputs, names: tuple[Sequence[str], str]) -> onnx.ModelProto:
    """Export with a free batch size; `names` are those of its inputs and of its output."""
    program = torch.onnx.export(
        graph.eval(),
        example,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(names[0]),
        output_names=[names[1]],
        dynamic_shapes=[{0: torch.export.Dim("batch")}] * len(example),
        verbose=False,
    )
    model = program.model_proto
    # Metadata of the exporter tells of the machine's paths.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def foreign_to_onnx(expert: OnnxExpert, frame: Tensor) -> onnx.ModelProto:
    """Join somebody's ONNX network with what its adapter does before and after it.

    Raises:
        ExportError: it cannot be brought to this project's operator set.
    """
    with torch.inference_mode():
        pixels = expert.before(torch.cat([frame, frame]))
        logits = expert.network(pixels)
    middle = onnx.load(expert.path)
    try:
        middle = onnx.version_converter.convert_version(middle, OPSET)
    except RuntimeError as error:
        raise ExportError(f"{expert.path}: cannot convert it to opset {OPSET}: {error}") from error
    parts = [
        to_onnx(expert.before, (torch.cat([frame, frame]),), (["frames"], "pixels")),
        onnx.compose.add_prefix(middle, "foreign/"),
        onnx.compose.add_prefix(to_onnx(expert.after, (logits,), (["taken"], "made")), "after/"),
    ]
    joined = parts[0]
    for part in parts[1:]:
        part.ir_version = joined.ir_version
        io_map = [(joined.graph.output[0].name, part.graph.input[0].name)]
        joined = onnx.compose.merge_models(joined, part, io_map=io_map)
    renamed = onnx.helper.make_node("Identity", [joined.graph.output[0].name], ["logits"])
    joined.graph.node.append(renamed)
    joined.graph.output[0].name = "logits"
    return joined


def write_onnx(
    graph: nn.Module, examples: Sequence[Inputs], names: tuple[Sequence[str], str], path: Path
) -> onnx.ModelProto:
    """Export with a free batch size, check against torch, and store weights as float16.

    Returns:
        The network as it was before rounding.

    Raises:
        ExportError: before rounding, a token in a thousand or a logit by 1e-2 differs from torch.
    """
    if isinstance(graph, OnnxExpert):
        model = foreign_to_onnx(graph, *examples[0])
    else:
        two = tuple(torch.cat(parts) for parts in zip(*examples[:2], strict=True))
        model = to_onnx(graph, two, names)
    check(graph, model.SerializeToString(), examples, path.name)
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    store_as_half(stored.graph)
    onnx.checker.check_model(stored)
    path.write_bytes(stored.SerializeToString())
    return model


def store_as_half(graph: onnx.GraphProto) -> None:
    """Halve the file: keep weights as float16, which ONNX Runtime widens when it loads them."""
    kept = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2:
            kept.append(tensor)
            continue
        half = f"{tensor.name}.half"
        kept.append(numpy_helper.from_array(values.astype(np.float16), half))
        cast = onnx.helper.make_node("Cast", [half], [tensor.name], to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def check(graph: nn.Module, model: bytes, examples: Sequence[Inputs], name: str) -> None:
    """Compare an exported graph with torch; see :func:`write_onnx`.

    Pixels may be one off.
    """
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for example in examples:
        with torch.inference_mode():
            wanted = graph(*example).numpy()
        found = infer(session, example)
        if wanted.dtype == np.int32:
            if (found != wanted).mean() > 1e-3:
                raise ExportError(f"{name}: {(found != wanted).mean():.2%} of the tokens differ")
        elif wanted.dtype == np.uint8:
            if np.abs(found.astype(int) - wanted).max() > 1:
                raise ExportError(f"{name}: pixels differ by more than one")
        elif np.abs(found - wanted).max() > 1e-2:
            raise ExportError(f"{name}: logits differ by {np.abs(found - wanted).max():.2g}")


def infer(session: ort.InferenceSession, example: Inputs) -> np.ndarray:
    """Return what the session's network makes of `example`."""
    taken = zip(session.get_inputs(), example, strict=True)
    return session.run(None, {each.name: tensor.numpy() for each, tensor in taken})[0]


def tokens_kept(path: Path, examples: list[Inputs], indices: list[Tensor]) -> float:
    """Return the share of `indices`, the unrounded encoder's tokens, that the stored one gives too.

    Raises:
        ExportError: it is below LEAST_KEPT.
    """
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    same = [
        (infer(session, example) == wanted.numpy()).mean()
        for example, wanted in zip(examples, indices, strict=True)
    ]
    kept = float(np.mean(same))
    if kept < LEAST_KEPT:
        raise ExportError(
            f"{path.name}: float16 weights keep {kept:.1%} of the tokens, fewer than "
            f"{LEAST_KEPT:.0%}; train longer or with fewer codes"
        )
    return kept


def commit() -> str:
    """Return the commit of this code, with ``-dirty`` where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        found = ""
    return found or "unknown"


def delete_orphans(models: Path) -> None:
    """Delete the experts that no manifest in `models` names."""
    manifests = [path.read_bytes() for path in models.glob("*/manifest.yaml")]
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


def first_level_logits(
    segmenter: TokenNetwork, size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """Return what gives frames' logits as the receiver has them of the first level of tokens.

    Of labels, which have no more than one, those that the labels are chosen by.
    """
    if sends_labels(segmenter):
        return segmenter.encoder
    encoder, mask = EncoderGraph(segmenter), MaskGraph(segmenter, size, nn.Identity())

    def logits(frames: Tensor) -> Tensor:
        tokens = encoder(frames, encoder.no_reference(frames))
        tokens[:, 1:] = mask.codes
        return mask(tokens)

    return logits


def fit_offsets(
    network: Callable[[Tensor], Tensor],
    samples: Dataset,
    labels: LabelSpace,
    size: tuple[int, int],
) -> Tensor:
    """Return an offset for each class's logit, (classes,), that raises mIoU on `samples`.

    Imitation spreads a thin object's probability over the places it may be at, and argmax then
    never picks it; offsets trade that off for the metric (logit adjustment, Menon et al. 2021, but
    fitted by coordinate ascent). Looked at are some forty frames at half size.

    Args:
        network: frames -> logits.
        samples: frames that were trained on.
        labels: what the logits' channels mean.
        size: of the frames that `network` takes.
    """
    channel = np.full(256, UNLABELLED, np.int64)
    channel[labels.ids] = np.arange(len(labels))
    logits, truth = [], []
    for sample in iterate(samples, 41):
        frame = torch.from_numpy(resize_frame(sample.frame, size))[None]
        label = channel[sample.mask[::2, ::2]]
        logits.append(resize_logits(network(frame), label.shape)[0].flatten(1).numpy())
        truth.append(label.ravel())
    scores, target = np.concatenate(logits, 1), np.concatenate(truth)
    known = np.flatnonzero(target != UNLABELLED)
    known = np.random.default_rng(0).choice(known, min(len(known), 400_000), replace=False)
    scores, target = scores[:, known], target[known]
    classes = len(labels)

    def miou(offsets: np.ndarray) -> float:
        pairs = target * classes + (scores + offsets[:, None]).argmax(0)
        counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        present = counts.sum(1) > 0
        union = counts.sum(0) + counts.sum(1) - np.diag(counts)
        return float((np.diag(counts)[present] / union[present]).mean())

    offsets = np.zeros(classes, np.float32)
    best = miou(offsets)
    for index in list(range(classes)) * 2:
        for step in (-0.5, -0.25, 0.25, 0.5, 1.0, 1.5):
            tried = offsets.copy()
            tried[index] += step
            if (score := miou(tried)) > best + 1e-5:
                best, offsets = score, tried
    return torch.from_numpy(offsets)


def macs(network: nn.Module, *example: Tensor) -> int:
    """Return multiply-accumulates of one forward pass: convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*example)
    return counter.get_total_flops() // 2


def record(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, as the manifest has them."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _load(network: nn.Module, folder: Path, steps: int) -> None:
    """Load the averaged weights."""
    path = folder / "last.pt"
    if not path.exists():
        raise ExportError(f"{path}: no such file; train first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["step"] < steps:
        raise ExportError(f"{path}: {state['step']} of {steps} steps; finish the training first")
    network.load_state_dict(state["averaged"])


def export(material: Material, runs: Path, models: Path) -> Path:
    """Write ``models/<name>`` and its expert, with figures measured on the validation frames.

    Files are made in ``models/.<name>.new`` and renamed into place, so that a failed export leaves
    the bundle before it whole. Experts that no bundle names any more are deleted.

    Raises:
        ExportError: the run is unfinished, or a written graph differs from the trained network.
        DataError: a dataset cannot be read.
    """
    config, labels = material.config, material.labels
    if isinstance(config.tokens, Labels) or (
        isinstance(config.tokens, Tokens) and not config.tokens.codes
    ):
        raise ExportError(
            f"{config.name}: a bundle needs tokens with a codebook; for a table of what has none "
            "see gosvae_training.studies"
        )
    expert = build_expert(config.expert.network, labels)
    run = runs / config.name
    if config.expert.steps:
        _load(expert, run / "expert", config.expert.steps)
    segmenter = build_tokens(config.tokens, len(labels), expert)
    _load(segmenter, run / "segmenter", config.segmenter.steps)
    for network in (expert, segmenter):
        network.eval().requires_grad_(False)
    if not draws(segmenter):
        logits = first_level_logits(segmenter, config.input_size)
        offsets = fit_offsets(logits, material.familiar(), labels, config.input_size)
        part = segmenter.encoder if sends_labels(segmenter) else segmenter.decoder
        part.classifier.bias.add_(offsets)

    made = models / f".{config.name}.new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        manifest = write_bundle(material, expert, segmenter, made)
        folder = models / config.name
        folder.mkdir(exist_ok=True)
        # The manifest is last, as it vouches for the others.
        for name in (*manifest["files"], "README.md", "manifest.yaml"):
            (made / name).replace(folder / name)
    finally:
        shutil.rmtree(made)
        delete_orphans(models)
    print(table(manifest["figures"], manifest["kind"]))
    return folder


def export_expert(material: Material, runs: Path, models: Path) -> Path:
    """Write ``models/<name>/expert.onnx`` with ``expert.yaml`` and card: an expert without tokens.

    For receivers of pictures. It is measured on the validation frames, beside the expert whose
    weights it started from.

    Raises:
        ExportError: the run is unfinished, or the written graph differs from the trained network.
        DataError: a dataset cannot be read.
    """
    config, val = material.config, material.val
    started = build_expert(config.expert.network, material.labels).eval().requires_grad_(False)
    expert = copy.deepcopy(started)
    if config.expert.steps:
        _load(expert, runs / config.name / "expert", config.expert.steps)
    folder = models / config.name
    if (folder / "manifest.yaml").exists():
        raise ExportError(f"{folder} is a bundle; give the expert's configuration another name")
    folder.mkdir(parents=True, exist_ok=True)
    frames = [(frame,) for frame in some_frames(val, 5, config.input_size)]
    draft = folder / f".{EXPERT}.part"
    try:
        write_onnx(expert, frames, (["frames"], "logits"), draft)
        session = ort.InferenceSession(str(draft), providers=["CPUExecutionProvider"])
        miou = material.score(lambda each: torch.from_numpy(infer(session, (each,))))
        figures = {
            "data": describe(val),
            "date": str(date.today()),
            "miou": round(miou, 4),
        }
        if isinstance(config.expert.network, Fpn) and config.expert.network.weights:
            figures["started_from_miou"] = round(material.score(started), 4)
        about: dict[str, Any] = {
            "name": config.name,
            "label_space": config.labels,
            "input_size": list(config.input_size),
            "expert": {"name": expert_name(config), **record(draft)},
            "expert_macs": macs(expert, *frames[0]),
            "provenance": {
                "data": material.describe(),
                "datasets": config.data.names(),
                "compression": config.data.compression,
                "license": material.terms(),
                "commit": commit(),
                "seed": config.seed,
                **({"notes": config.notes} if config.notes else {}),
            },
            "figures": figures,
        }
        (folder / "README.md").write_text(expert_card(about))
        (folder / "expert.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
        draft.replace(folder / EXPERT)
    finally:
        draft.unlink(missing_ok=True)
    return folder


def write_bundle(
    material: Material, expert: nn.Module, segmenter: TokenNetwork, folder: Path
) -> dict[str, Any]:
    """Write a bundle into `folder`, its expert into ``experts`` beside it; return the manifest.

    The ranges of the 8-bit networks are taken from some fifty frames trained on.
    """
    config, val = material.config, material.val
    encoder = EncoderGraph(segmenter, config.inertia)
    mask = MaskGraph(segmenter, config.input_size, expert)
    frames = [(frame,) for frame in some_frames(val, 5, config.input_size)]
    taken = [(frame, encoder.no_reference(frame)) for (frame,) in frames]
    tokens_of = [(encoder(*each),) for each in taken]
    # A frame's tokens are the next one's reference.
    befores = tokens_of[-1:] + tokens_of[:-1]
    taken = [(*frame, *before) for frame, before in zip(frames, befores, strict=True)]
    indices = [encoder(*each) for each in taken]
    names = ["frames", "reference"], "tokens"
    float_encoder = write_onnx(encoder, taken, names, folder / ENCODER)
    kept = tokens_kept(folder / ENCODER, taken, indices)
    float_mask = write_onnx(mask, tokens_of, (["tokens"], "logits"), folder / MASK)
    codebooks = segmenter.codebooks().detach().numpy()
    fit_prior(folder, codebooks, material.familiar(), config.prior, config.seed)
    files = [ENCODER, MASK, PRIOR]
    if draws(segmenter):
        picture = PictureGraph(segmenter, config.input_size)
        write_onnx(picture, tokens_of, (["tokens"], "frames"), folder / RECONSTRUCT)
        files.append(RECONSTRUCT)
    unnamed = folder / EXPERT
    write_onnx(expert, frames, (["frames"], "logits"), unnamed)
    expert_record = {"name": expert_name(config), **record(unnamed)}
    # Named by its content, it can go to its place before the bundle does.
    experts = folder.parent / "experts"
    experts.mkdir(exist_ok=True)
    unnamed.replace(experts / f"{expert_record['sha256'][:16]}.onnx")

    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": config.name,
        "label_space": config.labels,
        "input_size": list(config.input_size),
        "grid": list(indices[0].shape[2:]),
        "inertia": list(encoder.inertia),
        "kind": "labels" if sends_labels(segmenter) else "tokens",
        **dict(zip(("levels", "codes", "dim"), codebooks.shape, strict=True)),
        "labels": [
            {"id": label.id, "name": label.name, "color": list(label.color)}
            for label in material.labels.labels
        ],
        "files": {name: record(folder / name) for name in files},
        "expert": expert_record,
        "provenance": {
            "data": material.describe(),
            "datasets": config.data.names(),
            "license": material.terms(),
            "initial_weights": "EfficientNet-Lite, ImageNet (Apache-2.0)",
            "commit": commit(),
            "seed": config.seed,
            "prior": config.prior.model_dump(),
            **({"notes": config.notes} if config.notes else {}),
        },
        "compute": {
            "vehicle_macs": macs(encoder, *taken[0]),
            "receiver_macs": macs(mask, *tokens_of[0]),
            "expert_macs": macs(expert, *frames[0]),
            "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
            "decoder_parameters": sum(p.numel() for p in mask.parameters()),
        },
    }
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    unquantized = evaluate(ModelBundle.load(folder), val)

    # Group norms, which drawing needs, have no 8-bit version.
    if not draws(segmenter):
        some = some_frames(material.familiar(), 48, config.input_size)
        pairs = [(frame, encoder.no_reference(frame)) for frame in some]
        codes = [(encoder(*each),) for each in pairs]
        write_int8(float_encoder, pairs, FLOAT_CONVOLUTIONS, folder / INT8[ENCODER])
        quantized = [INT8[ENCODER]]
        # Labels are their own mask.
        if not sends_labels(segmenter):
            write_int8(float_mask, codes, 0, folder / INT8[MASK])
            quantized.append(INT8[MASK])
        manifest["files"] |= {name: record(folder / name) for name in quantized}
    figures = {
        "tokens_kept_by_float16": round(kept, 4),
        "float16_miou": [row["miou"] for row in unquantized["levels"]],
    }
    measure(folder, manifest, val, figures)
    return manifest


def measure(folder: Path, manifest: dict[str, Any], val: Dataset, known: dict[str, Any]) -> None:
    """Add figures to a bundle's manifest, and write it and the model card.

    Args:
        folder: the bundle's.
        manifest: everything but ``figures``, which is replaced.
        val: what to measure on.
        known: figures that were measured before.
    """
    manifest.pop("figures", None)
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    manifest["figures"] = {**known, **evaluate(ModelBundle.load(folder), val)}
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    (folder / "README.md").write_text(model_card(manifest))


def expert_name(config: Config) -> str:
    """Return what the expert is called in manifest and card."""
    network = config.expert.network
    if isinstance(network, Fpn):
        return f"EfficientNet-{network.backbone.capitalize()} FPN"
    return {"espnet": "ESPNet"}.get(network.kind) or f"{network.kind} network"


def model_card(manifest: dict[str, Any]) -> str:
    """Return the text of the bundle's model card."""
    figures, compute = manifest["figures"], manifest["compute"]
    provenance = manifest["provenance"]
    height, width = manifest["input_size"]

    def sizes(macs: str, parameters: str) -> str:
        return f"{compute[macs] / 1e9:.2f} GMACs, {compute[parameters] / 1e6:.1f} M parameters"

    sends = manifest.get("kind", "tokens")
    way = "decoded straight to logits" if sends == "tokens" else "which are the mask's labels"
    if RECONSTRUCT in manifest["files"]:
        way = "decoded to a picture that the expert segments"
    ids = "ids of ADE20K, from 0"
    if manifest.get("label_space", "camvid") != "ade20k":
        ids = "train ids of Cityscapes"
    half = f"""weights stored as float16, which keeps {figures["tokens_kept_by_float16"]:.1%} of the
tokens and gives mIoU {", ".join(f"{miou:.3f}" for miou in figures["float16_miou"])} from one level
to all."""
    precision = f"Both ends compute in float from {half}"
    if quantized := [name for name in INT8.values() if name in manifest["files"]]:
        precision = f"""The CPU computes in 8-bit integers ({", ".join(quantized)}); the GPU
in float from {half}"""
    share = compute["vehicle_macs"] / compute["expert_macs"]
    fitted = """
After training, an offset for each class was fitted to the logits on `train`, for mIoU; the expert
has none.
"""
    return f"""# {manifest["name"]}

Frames to masks through {manifest["grid"][1]}x{manifest["grid"][0]} {sends}, {way}. Labels ({ids}):
{", ".join(label["name"] for label in manifest["labels"])}.

| | |
|---|---|
| input | {width}x{height} RGB |
| {sends} | {manifest["levels"]} levels of {manifest["codes"]} codes, {manifest["dim"]} numbers |
| vehicle | {sizes("vehicle_macs", "encoder_parameters")} |
| receiver | {sizes("receiver_macs", "decoder_parameters")} |
| expert | {manifest["expert"]["name"]}, {compute["expert_macs"] / 1e9:.2f} GMACs |

## Figures

{figures["data"]}, {figures["date"]}, ONNX Runtime on the CPU. Bytes a frame are whole serialised
packets: with codes of fixed length, as in wire format 1; as intra frames; and at the data's frame
rate, each frame predicted from the one before but for one in {INTRA_FRAMES}.

{table(figures, sends)}

{precision}

The vehicle's encoder takes {share:.0%} of the expert's operations{
        ": this bundle shows that the tokens carry the task, and saves the vehicle "
        f"{'little' if share < 1 else 'no'} compute"
        if share > 0.5
        else ""
    }.

## Data and terms

Trained on {provenance["data"]}; no frame of `val` or `test` was trained on.
{provenance["license"]}. Initial weights: {provenance["initial_weights"]}.

## Made by

    for step in train export; do
        python -m gosvae_training.$step training/configs/{manifest["name"]}.yaml {
        " ".join(f"--data {name}=PATH" for name in provenance.get("datasets", ["camvid"]))
    }
    done
{"" if RECONSTRUCT in manifest["files"] else fitted}
Seed {provenance["seed"]}, commit {provenance["commit"]}. {provenance.get("notes", "")}
"""


def expert_card(about: dict[str, Any]) -> str:
    """Return the text of the card of an expert without tokens."""
    figures, provenance = about["figures"], about["provenance"]
    height, width = about["input_size"]
    before = ""
    if "started_from_miou" in figures:
        before = f"; the expert that it started from has {figures['started_from_miou']:.3f}"
    compressed = ""
    if share := provenance["compression"]:
        compressed = f""", {share:.0%} of the crops compressed and
decompressed first (JPEG, WebP or AVIF of any quality, one in three at half of its sides)"""
    return f"""# {about["name"]}

A segmentation network without tokens, for receivers of pictures: {about["expert"]["name"]},
{about["expert_macs"] / 1e9:.2f} GMACs, {width}x{height} RGB, labels of {about["label_space"]}.
`make bench` runs it on what all picture and video codecs bring, beside the bundle's own expert.

mIoU {figures["miou"]:.3f} on untouched frames{before}
({figures["data"]}, {figures["date"]}; weights stored as float16).
docs/benchmark.md has what it makes of compressed ones.

## Data and terms

Trained on {provenance["data"]}{compressed}; no frame of `val` or `test` was trained on.
{provenance["license"]}. Initial weights: EfficientNet-Lite, ImageNet (Apache-2.0).

## Made by

    for step in train export; do
        python -m gosvae_training.$step training/configs/{about["name"]}.yaml --stage expert {
        " ".join(f"--data {name}=PATH" for name in provenance["datasets"])
    }
    done

Seed {provenance["seed"]}, commit {provenance["commit"]}. {provenance.get("notes", "")}
"""


def main(arguments: list[str] | None = None) -> int:
    """Export one configuration's run."""
    parser = argparse.ArgumentParser(prog="gosvae_training.export", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file that the run was trained with")
    parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="as the run was trained with"
    )
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument(
        "--stage",
        choices=STAGES,
        default=STAGES[-1],
        help="expert: it alone, for receivers of pictures, instead of a bundle",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run lies")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where bundles go")
    options = parser.parse_intermixed_args(arguments)
    # The exporter warns of a torchvision that nothing here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        config = load_config(options.config, options.overrides)
        material = Material.load(config, parse_folders(config, options.data))
        write = export_expert if options.stage == "expert" else export
        folder = write(material, options.runs, options.models)
    except (ConfigError, DataError, ExportError, GosvaeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
