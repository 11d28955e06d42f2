"""The manifest of a model bundle: its format, the checks of its values, and the fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import BundleError
from .labels import Label, LabelSpace

FORMAT = 3
MANIFEST = "manifest.yaml"
ENCODER = "encoder.onnx"
PRIOR = "prior.npz"
FEATURES = "features.onnx"
"""Tokens to the features that all heads share."""
RECONSTRUCT = "reconstruct.onnx"
"""Tokens to a picture, in bundles that can reconstruct one."""
TASKS = "tasks"
"""Folder of the heads, one file a task."""
_REQUIRED = (
    *("name", "input_size", "grid", "levels", "codes", "inertia"),
    *("files", "tasks"),
)
_LIMIT = 1 << 20


def int8(name: str) -> str:
    """Return the name of a network's 8-bit version, which a bundle may contain for the CPU."""
    return f"{name.removesuffix('.onnx')}.int8.onnx"


def head_file(task: str) -> str:
    """Return the name of a task's network in the bundle."""
    return f"{TASKS}/{task}.onnx"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in `folder`, of this format and with all that it must have.

    Raises:
        BundleError: there is none, or it is too large, no YAML, of another format or incomplete.
    """
    path = folder / MANIFEST
    manifest = read_yaml(path)
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise BundleError(f"{path}: no `format`: not the manifest of a model bundle")
    if manifest["format"] == 2:
        raise BundleError(
            f"{path}: bundle format 2, this software reads {FORMAT}: convert it with "
            f"`gosvae convert-bundle {folder} NEW`"
        )
    if manifest["format"] != FORMAT:
        raise BundleError(
            f"{path}: bundle format {manifest['format']!r}, this software reads {FORMAT}: export "
            "the bundle again or install the matching release"
        )
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise BundleError(f"{path}: lacks {missing}")
    return manifest


def read_yaml(path: Path) -> Any:
    """Return the content of a manifest of any format.

    Raises:
        BundleError: it cannot be read, or is too large or no YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT + 1)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}: not a model bundle") from error
    if len(raw) > _LIMIT:
        raise BundleError(f"{path}: over {_LIMIT} bytes: not a manifest")
    try:
        return yaml.safe_load(raw)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BundleError(f"{path}: not YAML: {error}") from error


def dump(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as YAML, in the order of its keys."""
    return yaml.safe_dump(dict(manifest), sort_keys=False)


def fingerprint(manifest: Mapping[str, Any]) -> int:
    """Return the first 64 bits of the SHA-256 of what transmitter and receiver must agree on.

    That is JSON, with sorted keys and without spaces, of the SHA-256 of the encoder's files and of
    the prior, and of the sizes of frames and tokens: neither features and heads, which the receiver
    may replace alone, nor name and figures.
    """
    files = manifest["files"]
    agreed = {
        "codes": manifest["codes"],
        "files": {
            name: files[name]["sha256"] for name in (ENCODER, int8(ENCODER), PRIOR) if name in files
        },
        "grid": manifest["grid"],
        "inertia": [float(value) for value in manifest["inertia"]],
        "input_size": manifest["input_size"],
        "levels": manifest["levels"],
    }
    text = json.dumps(agreed, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def checked(mapping: Any, key: str, kind: type) -> Any:
    """Return ``mapping[key]``.

    Raises:
        BundleError: it is missing or no `kind`.
    """
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if not isinstance(value, kind):
        raise BundleError(f"{key}: expected {kind.__name__}, got {value!r}")
    return value


def number(manifest: Mapping[str, Any], key: str, least: int, most: int) -> int:
    """Return a whole number of the manifest.

    Raises:
        BundleError: it is none, or out of range.
    """
    value = manifest[key]
    if type(value) is not int or not least <= value <= most:
        raise BundleError(f"{key}: expected a whole number from {least} to {most}, got {value!r}")
    return value


def pair(manifest: Mapping[str, Any], key: str, limit: int) -> tuple[int, int]:
    """Return a height and width of the manifest, each from 1 to `limit`.

    Raises:
        BundleError: it is none.
    """
    value = manifest[key]
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(each) is int and 1 <= each <= limit for each in value)
    ):
        raise BundleError(f"{key}: expected [height, width] from 1 to {limit}, got {value!r}")
    return value[0], value[1]


def inertia(manifest: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the inertia of each level.

    Raises:
        BundleError: it is not a number for each level.
    """
    value, levels = manifest["inertia"], manifest["levels"]
    if (
        not isinstance(value, list)
        or len(value) != levels
        or not all(type(each) in (int, float) and each >= 0 for each in value)
    ):
        raise BundleError(f"inertia: expected a number for each of {levels} levels, got {value!r}")
    return tuple(float(each) for each in value)


def read_labels(name: str, entries: Any) -> LabelSpace:
    """Return the labels that a task lists.

    Raises:
        BundleError: an entry has no id, name and colour.
        LabelError: see :class:`LabelSpace`.
    """
    try:
        labels = tuple(
            Label(int(entry["id"]), str(entry["name"]), (int(red), int(green), int(blue)))
            for entry in entries
            for red, green, blue in [entry["color"]]
        )
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise BundleError(f"labels: each needs id, name and color: {error!r}") from error
    return LabelSpace(name, labels)


def list_labels(labels: LabelSpace) -> list[dict[str, Any]]:
    """Return labels as a task lists them; the inverse of :func:`read_labels`."""
    return [
        {"id": label.id, "name": label.name, "color": list(label.color)} for label in labels.labels
    ]


def record(path: Path) -> dict[str, str | int]:
    """Return size and SHA-256 of a file, as manifests have them."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def check_file(path: Path, sha256: str, size: Any) -> None:
    """Check a file against its record.

    Raises:
        BundleError: it is missing, truncated or altered.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
            if found is None:  # Python 3.10
                found = hashlib.sha256(file.read())
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from error
    length = path.stat().st_size
    if isinstance(size, int) and length != size:
        raise BundleError(f"{path}: {length} bytes, should be {size}: copy the bundle again")
    if found.hexdigest() != sha256:
        raise BundleError(
            f"{path}: SHA-256 {found.hexdigest()[:16]}..., should be {sha256[:16]}...: "
            "the file was altered; copy the bundle again"
        )
