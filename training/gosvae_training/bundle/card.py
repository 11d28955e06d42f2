"""Model cards: the README of a bundle and of an expert without tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gosvae_codec.manifest import RECONSTRUCT

from ..evaluate import INTRA_FRAMES, gigamacs, table
from ..tables import markdown_table

_CONFIG = "training/configs"


def model_card(manifest: dict[str, Any]) -> str:
    """Return the text of the bundle's model card; without figures where there are none yet."""
    provenance = manifest["provenance"]
    pictures = RECONSTRUCT in manifest["files"]
    sends = manifest.get("kind", "tokens")
    way = "decoded straight to features" if sends == "tokens" else "which are the mask's labels"
    if pictures:
        way = "decoded to a picture that the expert segments"
    after = ""
    if provenance.get("offsets", not pictures):
        after += """
After training, an offset for each class was fitted to the logits on `train`, for mIoU; the expert
has none.
"""
    if cost := provenance.get("bit_cost"):
        after += f"""
Tokens of the first level are chosen by squared distance and {cost:g} for each bit of theirs.
"""
    return f"""# {manifest["name"]}

Frames to {manifest["grid"][1]}x{manifest["grid"][0]} {sends}, {way}.

{_tasks_table(manifest)}

{_networks_table(manifest, sends)}

## Figures

{_figures(manifest, sends)}

## Data and terms

Trained on {provenance["data"]}. Figures are of frames that were not trained on.
{provenance["license"]}. Initial weights: {provenance["initial_weights"]}.

## Made by

{provenance.get("command") or _commands(manifest["name"], provenance.get("datasets", ["camvid"]))}
{after}
Seed {provenance["seed"]}, commit {provenance["commit"]}. {provenance.get("notes", "")}
"""


def _tasks_table(manifest: dict[str, Any]) -> str:
    def made(task: dict[str, Any]) -> str:
        if "labels" not in task:
            return f"unit: {task['unit']}"
        names = ", ".join(label["name"] for label in task["labels"])
        return f"{task['label_space']}: {names}" if "label_space" in task else names

    return markdown_table(
        ["task", "kind", "makes", "imitates"],
        [
            (name, task["kind"], made(task), task.get("expert", {}).get("name", ""))
            for name, task in manifest["tasks"].items()
        ],
    )


def _networks_table(manifest: dict[str, Any], sends: str) -> str:
    compute, (height, width) = manifest["compute"], manifest["input_size"]

    def sizes(macs: str, parameters: str) -> str:
        return f"{gigamacs(compute[macs])} GMACs, {compute[parameters] / 1e6:.1f} M parameters"

    encoder = manifest["provenance"].get("tokens", {}).get("encoder", {})
    levels = f"{manifest['levels']} levels of {manifest['codes']} codes"
    if encoder.get("labels"):
        levels = f"1 level of labels, {manifest['levels'] - 1} of {manifest['codes']} codes"
    return markdown_table(
        ["", ""],
        [
            ("input", f"{width}x{height} RGB"),
            (sends, f"{levels}, {manifest['dim']} numbers"),
            ("vehicle", sizes("vehicle_macs", "encoder_parameters")),
            ("receiver", sizes("receiver_macs", "decoder_parameters")),
            ("experts", f"{gigamacs(compute['expert_macs'])} GMACs"),
        ],
    )


def _figures(manifest: dict[str, Any], sends: str) -> str:
    figures, compute = manifest["figures"], manifest["compute"]
    if "levels" not in figures:
        return f"Not measured; `make evaluate BUNDLE=models/{manifest['name']} DATA=PATH` does."
    values, metric = figures.get("float16_miou"), "mIoU"
    if values is None:
        values, metric = figures["float16_agreement"], "agreement"
    known = ", ".join(f"{value:.3f}" for value in values)
    gives = f"gives {metric} {known} from one level to all."
    kept = f"{figures['tokens_kept_by_float16']:.1%}"
    half = f"""from weights stored as float16, which keeps {kept} of the
tokens and {gives}"""
    precision = f"Both ends compute in float {half}"
    if manifest["provenance"].get("encoder_int8_only"):
        precision = "The vehicle's network computes in 8-bit integers on every processor."
        if sends == "tokens":
            precision += f""" At the
receiver the CPU does so too; the GPU computes in float from weights stored as float16, which
{gives}"""
    elif quantized := [name for name in manifest["files"] if name.endswith(".int8.onnx")]:
        precision = f"""The CPU computes in 8-bit integers ({", ".join(quantized)}); the GPU
in float {half}"""
    measured = f"{figures['data']}, {figures['date']}, ONNX Runtime on the CPU"
    agreement = ""
    if figures["miou"] is None:
        truth = "agreement is mIoU with the expert's masks as truth"
        agreement = f"These frames have no labels: {truth}.\n\n"
    text = f"""{measured}. Bytes a frame are whole
serialised packets: with codes of fixed length, as in wire format 1; as intra frames; and at the
data's frame rate, each frame predicted from the one before but for one in {INTRA_FRAMES}.

{table(figures, sends)}

{agreement}{precision}"""
    if not compute["expert_macs"]:
        return text
    share = compute["vehicle_macs"] / compute["expert_macs"]
    saved = ""
    if share > 0.5:
        saved = (
            ": this bundle shows that the tokens carry the task, and saves the vehicle "
            f"{'little' if share < 1 else 'no'} compute"
        )
    return f"{text}\n\nThe vehicle's encoder takes {share:.0%} of the expert's operations{saved}."


def _commands(name: str, datasets: Iterable[str], more: str = "") -> str:
    data = " ".join(f"--data {each}=PATH" for each in datasets)
    return f"""    for step in train export; do
        python -m gosvae_training.$step {_CONFIG}/{name}.yaml {more}{data}
    done"""


def expert_card(about: dict[str, Any]) -> str:
    """Return the text of the card of an expert without tokens."""
    provenance, figures = about["provenance"], about.get("figures")
    height, width = about["input_size"]
    measured = "Not measured."
    if figures:
        before = ""
        if "started_from_miou" in figures:
            before = f"; the expert that it started from has {figures['started_from_miou']:.3f}"
        measured = f"""mIoU {figures["miou"]:.3f} on untouched frames{before}
({figures["data"]}, {figures["date"]}; weights stored as float16).
docs/benchmark.md has what it makes of compressed ones."""
    compressed = ""
    if share := provenance["compression"]:
        compressed = f""", {share:.0%} of the crops compressed and
decompressed first (JPEG, WebP or AVIF of any quality, one in three at half of its sides)"""
    return f"""# {about["name"]}

A segmentation network without tokens, for receivers of pictures: {about["expert"]["name"]},
{gigamacs(about["expert_macs"])} GMACs, {width}x{height} RGB, labels of {about["label_space"]}.
`make bench` runs it on what all picture and video codecs bring, beside the bundle's own expert.

{measured}

## Data and terms

Trained on {provenance["data"]}{compressed}. Figures are of frames that were not trained on.
{provenance["license"]}. Initial weights: EfficientNet-Lite, ImageNet (Apache-2.0).

## Made by

{_commands(about["name"], provenance["datasets"], "--stage expert ")}

Seed {provenance["seed"]}, commit {provenance["commit"]}. {provenance.get("notes", "")}
"""
