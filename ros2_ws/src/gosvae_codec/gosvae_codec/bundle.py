"""Model bundles: the folder that training writes and both sides read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from .entropy import TokenCoder
from .errors import BundleError, GosvaeError
from .labels import Label, LabelSpace
from .prior import Prior
from .sessions import Provider, Session, available

FORMAT = 2
MANIFEST = "manifest.yaml"
ENCODER = "encoder.onnx"
MASK = "mask.onnx"
PRIOR = "prior.npz"
RECONSTRUCT = "reconstruct.onnx"
"""Tokens to a picture, in bundles that can reconstruct one."""
INT8 = {ENCODER: "encoder.int8.onnx", MASK: "mask.int8.onnx"}
"""8-bit versions of the networks, which a bundle may contain for the CPU."""
_MANIFEST_LIMIT = 1 << 20
_REQUIRED = ("name", "input_size", "grid", "levels", "codes", "labels", "files", "expert")


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """A bundle whose files were checked; made by :meth:`load`."""

    path: Path
    name: str
    fingerprint: int
    """First 64 bits of the manifest's SHA-256; the manifest contains the SHA-256 of every file."""
    input_size: tuple[int, int]
    """Height and width of the encoder's input in pixels."""
    grid: tuple[int, int]
    """Rows and columns of tokens."""
    levels: int
    """Residual levels of the encoder's tokens."""
    codes: int
    """Vectors in each level's codebook; the index `codes` itself marks an absent token."""
    labels: LabelSpace
    """Meaning of the channels of ``mask.onnx``, in order."""
    manifest: dict[str, Any]
    """The whole manifest, with provenance and measured figures."""
    _sessions: dict[tuple[str, str, int, int], Session] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, path: str | Path) -> ModelBundle:
        """Read and check the bundle in the folder `path`.

        Raises:
            BundleError: the folder or a file is missing, truncated or altered, or the manifest has
                another format, is incomplete or inconsistent. The message says which.
        """
        path = Path(path)
        if not path.is_dir():
            raise BundleError(
                f"{path}: no such folder; give a model bundle like models/camvid-base"
            )
        raw = _read_manifest(path)
        manifest = _parse(path, raw)
        try:
            bundle = cls(
                path=path,
                name=_checked(manifest, "name", str),
                fingerprint=int.from_bytes(hashlib.sha256(raw).digest()[:8], "big"),
                input_size=_pair(manifest, "input_size", 16384),
                grid=_pair(manifest, "grid", 65535),
                levels=_number(manifest, "levels", 1, 255),
                codes=_number(manifest, "codes", 2, 65535),
                labels=_labels(manifest),
                manifest=manifest,
            )
            files = _checked(manifest, "files", dict)
            missing = [name for name in (ENCODER, MASK, PRIOR) if name not in files]
            if missing:
                raise BundleError(f"files: {missing} not listed")
            for name, record in files.items():
                if not isinstance(name, str) or name != Path(name).name:
                    raise BundleError(f"files: {name!r} is not a plain file name")
                _check_file(path / name, _checked(record, "sha256", str), record.get("bytes"))
        except GosvaeError as error:
            raise BundleError(f"{path / MANIFEST}: {error}") from error
        return bundle

    @cached_property
    def coder(self) -> TokenCoder:
        """The entropy coder of the bundle's tokens, created once.

        Raises:
            BundleError: ``prior.npz`` is not a valid prior for this bundle's tokens.
        """
        prior = Prior.load(self.path / PRIOR, self.levels, self.codes, self.grid)
        return TokenCoder(prior, self.codes, self.grid)

    @property
    def expert_path(self) -> Path:
        """File of the expert that the bundle imitates; bundles share experts by hash."""
        sha256 = str(self.manifest["expert"]["sha256"])
        return self.path.resolve().parent / "experts" / f"{sha256[:16]}.onnx"

    @property
    def reconstructs(self) -> bool:
        """Whether the tokens can also be decoded to a picture; see :class:`Reconstructor`."""
        return RECONSTRUCT in self.manifest["files"]

    def session(
        self, name: str, providers: Sequence[Provider], threads: int, batch: int = 1
    ) -> Session:
        """Return the session of one network, created once for each combination of arguments.

        On the CPU it runs the network's 8-bit version if the bundle has one.

        Args:
            name: ``encoder.onnx``, ``mask.onnx`` or ``reconstruct.onnx``.
            providers: most wanted first; see :class:`~gosvae_codec.sessions.Session`.
            threads: threads of one inference on the CPU.
            batch: largest number of frames in one inference, for which engines are prepared.

        Raises:
            ProviderError, BundleError: as Session does; also if the bundle has no such network, or
                the graph's shapes contradict the manifest.
        """
        key = (name, repr(providers), threads, batch)
        if key not in self._sessions:
            files = self.manifest["files"]
            if name not in files:
                raise BundleError(f"{self.path}: it has no {name}, only: {', '.join(files)}")
            on_cpu = available(providers)[0] == "cpu"
            quantized = INT8.get(name, name)
            file = quantized if on_cpu and quantized in files else name
            session = Session(self.path / file, providers, threads)
            pixels, tokens = [*self.input_size, 3], [self.levels, *self.grid]
            taken = [pixels, tokens] if name == ENCODER else [tokens]
            self._expect(name, "takes", [each[1:] for each in session.input_shapes], taken)
            if name == MASK:
                self._expect(name, "makes", session.output_shape[1:2], [len(self.labels)])
            else:
                made = tokens if name == ENCODER else pixels
                self._expect(name, "makes", session.output_shape[1:], made)
            # The first inference is slow, and fails if the graph cannot run.
            for size in sorted({1, batch}):
                session.warm_up(*([size, *shape] for shape in taken))
            self._sessions[key] = session
        return self._sessions[key]

    def expert_session(self, providers: Sequence[Provider], threads: int) -> Session:
        """Return the expert's session, created once for each choice of providers and threads.

        Raises:
            BundleError: the expert's file is missing or not the one that the manifest names.
            ProviderError: as Session does.
        """
        path = self.expert_path
        key = (str(path), repr(providers), threads, 1)
        if key not in self._sessions:
            expert = self.manifest["expert"]
            _check_file(path, str(expert["sha256"]), expert.get("bytes"))
            session = Session(path, providers, threads)
            taken = [each[1:] for each in session.input_shapes]
            self._expect(path.name, "takes", taken, [[*self.input_size, 3]])
            self._expect(path.name, "makes", session.output_shape[1:2], [len(self.labels)])
            self._sessions[key] = session
        return self._sessions[key]

    def _expect(self, name: str, verb: str, found: list[Any], wanted: list[Any]) -> None:
        if found != wanted:
            raise BundleError(
                f"{self.path}: {name} {verb} {found}, the manifest says {wanted}: "
                "export the bundle again"
            )


def _read_manifest(path: Path) -> bytes:
    try:
        with (path / MANIFEST).open("rb") as file:
            raw = file.read(_MANIFEST_LIMIT + 1)
    except OSError as error:
        raise BundleError(f"{path / MANIFEST}: {error.strerror}: not a model bundle") from error
    if len(raw) > _MANIFEST_LIMIT:
        raise BundleError(f"{path / MANIFEST}: over {_MANIFEST_LIMIT} bytes: not a manifest")
    return raw


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        manifest = yaml.safe_load(raw)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST}: not YAML: {error}") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise BundleError(f"{path / MANIFEST}: no `format`: not the manifest of a model bundle")
    if manifest["format"] != FORMAT:
        raise BundleError(
            f"{path / MANIFEST}: bundle format {manifest['format']!r}, this software reads "
            f"{FORMAT}: export the bundle again or install the matching release"
        )
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise BundleError(f"{path / MANIFEST}: lacks {missing}")
    expert = manifest["expert"]
    if not isinstance(expert, dict) or not isinstance(expert.get("sha256"), str):
        raise BundleError(f"{path / MANIFEST}: expert: lacks its sha256")
    return manifest


def _checked(mapping: Any, key: str, kind: type) -> Any:
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if not isinstance(value, kind):
        raise BundleError(f"{key}: expected {kind.__name__}, got {value!r}")
    return value


def _number(manifest: dict[str, Any], key: str, least: int, most: int) -> int:
    value = manifest[key]
    if type(value) is not int or not least <= value <= most:
        raise BundleError(f"{key}: expected a whole number from {least} to {most}, got {value!r}")
    return value


def _pair(manifest: dict[str, Any], key: str, limit: int) -> tuple[int, int]:
    value = manifest[key]
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(each) is int and 1 <= each <= limit for each in value)
    ):
        raise BundleError(f"{key}: expected [height, width] from 1 to {limit}, got {value!r}")
    return value[0], value[1]


def _labels(manifest: dict[str, Any]) -> LabelSpace:
    try:
        labels = tuple(
            Label(int(entry["id"]), str(entry["name"]), (int(red), int(green), int(blue)))
            for entry in manifest["labels"]
            for red, green, blue in [entry["color"]]
        )
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise BundleError(f"labels: each needs id, name and color: {error!r}") from error
    return LabelSpace(str(manifest["name"]), labels)


def _check_file(path: Path, sha256: str, size: Any) -> None:
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
