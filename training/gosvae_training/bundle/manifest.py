"""What stands in manifests: sizes, labels, file hashes and where weights come from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from gosvae_codec import ModelBundle
from gosvae_codec.draft import write_text
from gosvae_codec.manifest import FORMAT, MANIFEST, dump

from ..config import Config
from ..models.settings import Detector, EspNet, Fpn, Light, Network, Onnx
from ..models.token_network import TokenNetwork
from ..train import Material
from .card import expert_card, model_card
from .graphs import EncoderGraph, sends_labels

EXPERT = "expert.onnx"
EXPERT_MANIFEST = "expert.yaml"
CARD = "README.md"


def describe_codec(material: Material, codec: TokenNetwork) -> dict[str, Any]:
    """Return the part of the manifest that says how tokens are to be read."""
    config, (levels, codes, dim) = material.config, codec.codebooks().shape
    return {
        "format": FORMAT,
        "name": config.name,
        "input_size": list(config.input_size),
        "grid": [-(-side // codec.encoder.stride) for side in config.input_size],
        "inertia": list(EncoderGraph(codec, config.inertia).inertia),
        "kind": "labels" if sends_labels(codec) else "tokens",
        "levels": levels,
        "codes": codes,
        "dim": dim,
    }


def provenance(material: Material) -> dict[str, Any]:
    """Return what the manifest says of where weights come from."""
    config = material.config
    return {
        "data": material.describe(),
        "datasets": config.data.names(),
        "license": material.terms(),
        "commit": commit(),
        "seed": config.seed,
        "tokens": config.tokens.model_dump(mode="json"),
        **({"notes": config.notes} if config.notes else {}),
        **({"command": config.command} if config.command else {}),
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a bundle's manifest and card."""
    card = model_card(manifest)
    write_text(folder / MANIFEST, dump(manifest))
    write_text(folder / CARD, card)


def write_expert_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Write the manifest and card of an expert without tokens."""
    card = expert_card(about)
    write_text(folder / EXPERT_MANIFEST, yaml.safe_dump(about, sort_keys=False))
    write_text(folder / CARD, card)


def expert_name(network: Network | Detector) -> str:
    """Return what an expert is called in manifest and card."""
    if isinstance(network, Fpn):
        return f"EfficientNet-{network.backbone.capitalize()} FPN"
    if isinstance(network, Onnx | Detector):
        return Path(network.path).stem
    return "ESPNet" if isinstance(network, EspNet) else network.factory


def initial_weights(config: Config) -> str:
    """Return what the encoder's weights were before training, with its terms."""
    encoder = getattr(config.tokens, "encoder", None)
    if not isinstance(encoder, Light) or not encoder.start:
        return "EfficientNet-Lite, ImageNet (Apache-2.0)"
    start = ModelBundle.load(encoder.start).manifest
    return f"the encoder of {start['name']} ({start['provenance']['license']})"


def commit() -> str:
    """Return the commit of this code, with ``-dirty`` where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        found = ""
    return found or "unknown"
