"""Write a model bundle from a finished run: ``python -m gosvae_training.export``."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import logging
import shutil
import subprocess
import sys
import warnings
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

from gosvae_codec import CAMVID, UNLABELLED, GosvaeError, ModelBundle
from gosvae_codec.bundle import ENCODER, FORMAT, MASK, PRIOR

from .config import Config, ConfigError, load_config
from .data import DataError, Sample, describe, load_camvid
from .evaluate import INTRA_FRAMES, evaluate, table
from .networks import Expert, TokenSegmenter, resize_logits
from .prior import fit_prior

OPSET = 18
LEAST_KEPT = 0.95
"""Share of the tokens that must survive the rounding of the encoder's weights to float16."""
DATA_TERMS = (
    "CamVid, the Cambridge-driving Labeled Video Database (Brostow, Fauqueur, Cipolla 2009): "
    "research and education only; weights trained on it inherit that"
)


class ExportError(Exception):
    """A run is unfinished, or what was exported differs from what was trained."""


class EncoderGraph(nn.Module):
    """uint8 (N, H, W, 3) RGB -> int32 (N, levels, h, w), the nearest code of each residual."""

    def __init__(self, segmenter: TokenSegmenter) -> None:
        super().__init__()
        self.encoder = segmenter.encoder
        self.register_buffer("codebooks", segmenter.codebooks().detach().clone())

    def forward(self, frames: Tensor) -> Tensor:
        residual = self.encoder(frames).permute(0, 2, 3, 1)
        levels = []
        for codebook in self.codebooks:
            # |r - c|^2 less |r|^2, which does not depend on the code.
            distances = (codebook * codebook).sum(1) - 2 * (residual @ codebook.T)
            index = distances.argmin(-1)
            residual = residual - codebook[index]
            levels.append(index)
        return torch.stack(levels, 1).to(torch.int32)


class MaskGraph(nn.Module):
    """int32 (N, levels, h, w) -> float (N, classes, H/4, W/4); index `codes` adds nothing."""

    def __init__(self, segmenter: TokenSegmenter, size: tuple[int, int]) -> None:
        super().__init__()
        self.decoder = segmenter.decoder
        self.size = tuple(-(-side // 4) for side in size)
        codebooks = segmenter.codebooks().detach()
        absent = torch.zeros(len(codebooks), 1, codebooks.shape[2])
        self.register_buffer("tables", torch.cat([codebooks, absent], 1))

    def forward(self, tokens: Tensor) -> Tensor:
        vectors = sum(table[tokens[:, level].long()] for level, table in enumerate(self.tables))
        logits = self.decoder(vectors.permute(0, 3, 1, 2))
        return logits[:, :, : self.size[0], : self.size[1]]


def write_onnx(
    graph: nn.Module, examples: list[Tensor], names: tuple[str, str], path: Path
) -> None:
    """Export with a free batch size, check against torch, and store weights as float16.

    Raises:
        ExportError: before rounding, a token in a thousand or a logit by 1e-2 differs from torch.
    """
    program = torch.onnx.export(
        graph.eval(),
        (torch.cat(examples[:2]),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[names[0]],
        output_names=[names[1]],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
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
    check(graph, model.SerializeToString(), examples, path.name)
    store_as_half(model.graph)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


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


def check(graph: nn.Module, model: bytes, examples: list[Tensor], name: str) -> None:
    """Compare an exported graph with torch; see :func:`write_onnx`."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0].name
    for example in examples:
        with torch.inference_mode():
            wanted = graph(example).numpy()
        found = session.run(None, {taken: example.numpy()})[0]
        if wanted.dtype == np.int32:
            if (found != wanted).mean() > 1e-3:
                raise ExportError(f"{name}: {(found != wanted).mean():.2%} of the tokens differ")
        elif np.abs(found - wanted).max() > 1e-2:
            raise ExportError(f"{name}: logits differ by {np.abs(found - wanted).max():.2g}")


def tokens_kept(path: Path, frames: list[Tensor], indices: list[Tensor]) -> float:
    """Return the share of `indices`, the unrounded encoder's tokens, that the stored one gives too.

    Raises:
        ExportError: it is below LEAST_KEPT.
    """
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0].name
    same = [
        (session.run(None, {taken: frame.numpy()})[0] == wanted.numpy()).mean()
        for frame, wanted in zip(frames, indices, strict=True)
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
def fit_offsets(encoder: EncoderGraph, mask: MaskGraph, samples: list[Sample]) -> Tensor:
    """Return an offset for each class's logit, (classes,), that raises mIoU on `samples`.

    Imitation spreads a thin object's probability over the places it may be at, and argmax then
    never picks it; offsets trade that off for the metric (logit adjustment, Menon et al. 2021, but
    fitted by coordinate ascent). Only the first level is looked at, on some forty frames at half
    size.
    """
    channel = np.full(256, UNLABELLED, np.int64)
    channel[CAMVID.ids] = np.arange(len(CAMVID))
    logits, truth = [], []
    for sample in samples[:: max(len(samples) // 41, 1)]:
        tokens = encoder(torch.from_numpy(sample.frame)[None])
        tokens[:, 1:] = mask.tables.shape[1] - 1
        label = channel[sample.mask[::2, ::2]]
        logits.append(resize_logits(mask(tokens), label.shape)[0].flatten(1).numpy())
        truth.append(label.ravel())
    scores, target = np.concatenate(logits, 1), np.concatenate(truth)
    known = np.flatnonzero(target != UNLABELLED)
    known = np.random.default_rng(0).choice(known, min(len(known), 400_000), replace=False)
    scores, target = scores[:, known], target[known]
    classes = len(CAMVID)

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


def macs(network: nn.Module, example: Tensor) -> int:
    """Return multiply-accumulates of one forward pass: convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(example)
    return counter.get_total_flops() // 2


def record(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, as the manifest has them."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _load(network: nn.Module, folder: Path, steps: int) -> str | None:
    """Load the averaged weights; return what they were trained on, where the file tells."""
    path = folder / "last.pt"
    if not path.exists():
        raise ExportError(f"{path}: no such file; train first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["step"] < steps:
        raise ExportError(f"{path}: {state['step']} of {steps} steps; finish the training first")
    network.load_state_dict(state["averaged"])
    network.eval().requires_grad_(False)
    return state.get("data")


def export(config: Config, runs: Path, data: Path, models: Path) -> Path:
    """Write ``models/<name>`` and its expert, with figures measured on CamVid `val`.

    Files are made in ``models/.<name>.new`` and renamed into place, so that a failed export leaves
    the bundle before it whole. Experts that no bundle names any more are deleted.

    Raises:
        ExportError: the run is unfinished, or a written graph differs from the trained network.
        DataError: CamVid cannot be read.
    """
    val = load_camvid(data, "val")
    tokens = config.tokens
    expert = Expert(len(CAMVID))
    segmenter = TokenSegmenter(len(CAMVID), tokens.levels, tokens.codes, tokens.dim)
    run = runs / config.name
    _load(expert, run / "expert", config.expert.steps)
    _load(segmenter, run / "segmenter", config.segmenter.steps)
    train = load_camvid(data, "train")
    graphs = EncoderGraph(segmenter), MaskGraph(segmenter, config.input_size)
    offsets = fit_offsets(*graphs, train)
    segmenter.decoder.classifier.bias.add_(offsets)

    made = models / f".{config.name}.new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        manifest = write_bundle(config, expert, segmenter, train, val, made)
        folder = models / config.name
        folder.mkdir(exist_ok=True)
        # The manifest is last, as it vouches for the others.
        for name in (*manifest["files"], "README.md", "manifest.yaml"):
            (made / name).replace(folder / name)
    finally:
        shutil.rmtree(made)
        delete_orphans(models)
    print(table(manifest["figures"]))
    return folder


def write_bundle(
    config: Config,
    expert: Expert,
    segmenter: TokenSegmenter,
    train: list[Sample],
    val: list[Sample],
    folder: Path,
) -> dict[str, Any]:
    """Write a bundle into `folder`, its expert into ``experts`` beside it; return the manifest."""
    tokens = config.tokens
    encoder, mask = EncoderGraph(segmenter), MaskGraph(segmenter, config.input_size)
    frames = [torch.from_numpy(sample.frame)[None] for sample in val[:: max(len(val) // 5, 1)]]
    indices = [encoder(frame) for frame in frames]
    write_onnx(encoder, frames, ("frames", "tokens"), folder / "encoder.onnx")
    kept = tokens_kept(folder / "encoder.onnx", frames, indices)
    write_onnx(mask, indices, ("tokens", "logits"), folder / "mask.onnx")
    codebooks = segmenter.codebooks().detach().numpy()
    fit_prior(folder, codebooks, train, config.prior, config.seed)
    unnamed = folder / "expert.onnx"
    write_onnx(expert, frames, ("frames", "logits"), unnamed)
    expert_record = {"name": "EfficientNet-Lite0 FPN", **record(unnamed)}
    # Named by its content, it can go to its place before the bundle does.
    experts = folder.parent / "experts"
    experts.mkdir(exist_ok=True)
    unnamed.replace(experts / f"{expert_record['sha256'][:16]}.onnx")

    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": config.name,
        "input_size": list(config.input_size),
        "grid": list(indices[0].shape[2:]),
        "levels": tokens.levels,
        "codes": tokens.codes,
        "dim": tokens.dim,
        "labels": [
            {"id": label.id, "name": label.name, "color": list(label.color)}
            for label in CAMVID.labels
        ],
        "files": {name: record(folder / name) for name in (ENCODER, MASK, PRIOR)},
        "expert": expert_record,
        "provenance": {
            "data": describe("train", train),
            "license": DATA_TERMS,
            "initial_weights": "EfficientNet-Lite0, ImageNet (Apache-2.0)",
            "commit": commit(),
            "seed": config.seed,
            "prior": dataclasses.asdict(config.prior),
            **({"notes": config.notes} if config.notes else {}),
        },
        "compute": {
            "vehicle_macs": macs(encoder, frames[0]),
            "receiver_macs": macs(mask, indices[0]),
            "expert_macs": macs(expert, frames[0]),
            "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
            "decoder_parameters": sum(p.numel() for p in mask.parameters()),
        },
    }
    measure(folder, manifest, val, kept)
    return manifest


def measure(folder: Path, manifest: dict[str, Any], val: list[Sample], kept: float) -> None:
    """Add figures to a bundle's manifest, and write it and the model card.

    Args:
        folder: the bundle's.
        manifest: everything but ``figures``, which is replaced.
        val: what to measure on.
        kept: share of the tokens that survived the rounding of the weights.
    """
    manifest.pop("figures", None)
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    manifest["figures"] = {
        "data": describe("val", val),
        "date": str(date.today()),
        "tokens_kept_by_float16": round(kept, 4),
        **evaluate(ModelBundle.load(folder), val),
    }
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    (folder / "README.md").write_text(model_card(manifest))


def model_card(manifest: dict[str, Any]) -> str:
    """Return the text of the bundle's model card."""
    figures, compute = manifest["figures"], manifest["compute"]
    provenance = manifest["provenance"]
    height, width = manifest["input_size"]

    def sizes(macs: str, parameters: str) -> str:
        return f"{compute[macs] / 1e9:.2f} GMACs, {compute[parameters] / 1e6:.1f} M parameters"

    return f"""# {manifest["name"]}

Frames to masks through {manifest["grid"][1]}x{manifest["grid"][0]} tokens, decoded straight to
logits. Labels: {", ".join(label["name"] for label in manifest["labels"])} (Cityscapes train ids;
CamVid's bicyclist is `rider`, its sign `traffic sign`).

| | |
|---|---|
| input | {width}x{height} RGB |
| tokens | {manifest["levels"]} levels of {manifest["codes"]} codes, {manifest["dim"]} numbers |
| vehicle | {sizes("vehicle_macs", "encoder_parameters")} |
| receiver | {sizes("receiver_macs", "decoder_parameters")} |
| expert | {manifest["expert"]["name"]}, {compute["expert_macs"] / 1e9:.2f} GMACs |

## Figures

{figures["data"]}, {figures["date"]}, ONNX Runtime on the CPU. Bytes a frame are whole serialised
packets: with codes of fixed length, as in wire format 1; as intra frames; and at the data's frame
rate, each frame predicted from the one before but for one in {INTRA_FRAMES}.

{table(figures)}

Weights are stored as float16, which keeps {figures["tokens_kept_by_float16"]:.1%} of the tokens.

The vehicle's encoder costs about as much as the expert, so this bundle shows that the tokens carry
the task; it does not save the vehicle compute.

## Data and terms

Trained on {provenance["data"]}; no frame of `val` or `test` was trained on.
{provenance["license"]}. Initial weights: {provenance["initial_weights"]}.

## Made by

    make train DATA=<CamVid root>

After training, an offset for each class was fitted to the decoder's logits on `train`, for mIoU;
the expert has none.

Seed {provenance["seed"]}, commit {provenance["commit"]}. {provenance.get("notes", "")}
"""


def main(arguments: list[str] | None = None) -> int:
    """Export one configuration's run."""
    parser = argparse.ArgumentParser(prog="gosvae_training.export", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file that the run was trained with")
    parser.add_argument("--data", type=Path, required=True, help="root of CamVid")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run lies")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where bundles go")
    options = parser.parse_args(arguments)
    # The exporter warns of a torchvision that nothing here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        folder = export(load_config(options.config), options.runs, options.data, options.models)
    except (ConfigError, DataError, ExportError, GosvaeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
