"""The contenders: codecs with their settings, and the experts that segment pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imagecodecs
import yaml

from gosvae_codec import Expert, GosvaeError, ModelBundle
from gosvae_codec.sessions import Session

from .codecs import GOP, Codec, Labels, Size, Still, Tokens, Video
from .link_streams import Image

EXPERT = "expert.onnx"
"""File name of an expert without tokens; ``expert.yaml`` beside it describes it."""


@dataclass(frozen=True)
class Contender:
    """A codec with a setting, and the operations of its networks.

    Attributes:
        sends: ``pixels``, ``labels`` or ``tokens``.
        model: fingerprint of its networks, or of `expert` if that is not the bundle's; else empty.
        expert: network that segments its pictures at the receiver, if any.
        vehicle_macs, receiver_macs: of the networks per frame; None if unknown.
        quick: whether it is measured with ``--quick``.
    """

    codec: str
    setting: str
    sends: str
    make: Callable[[], Codec]
    model: str = ""
    expert: Path | None = None
    vehicle_macs: int | None = 0
    receiver_macs: int | None = 0
    quick: bool = True

    @property
    def expert_name(self) -> str | None:
        """Return the name of the expert: of its folder, or of its file if the folder has others."""
        if self.expert is None:
            return None
        return self.expert.parent.name if self.expert.name == EXPERT else self.expert.stem

    @property
    def key(self) -> str:
        """Return the unique key of the contender."""
        return "; ".join((self.codec, self.setting, self.model, self.expert_name or ""))

    @property
    def stream(self) -> str:
        """Return a key of what is sent; contenders that differ only at the receiver share it."""
        return "; ".join((self.codec, self.setting, "" if self.expert else self.model))


_Ladder = tuple[tuple[int, ...], tuple[int, ...]]
"""Quality settings at the input size of the expert, and at half of its sides."""

STILLS: dict[str, tuple[str, _Ladder, Callable[..., bytes], Callable[..., Image]]] = {
    "JPEG": (
        "quality",
        ((5, 10, 20, 30, 50, 70, 90), (10, 30, 60, 90)),
        lambda pixels, value: imagecodecs.jpeg8_encode(
            pixels, level=value, optimize=True, subsampling="420"
        ),
        imagecodecs.jpeg8_decode,
    ),
    "WebP": (
        "quality",
        ((0, 2, 5, 10, 30, 60, 90), (0, 10, 40, 80)),
        lambda pixels, value: imagecodecs.webp_encode(
            pixels, level=value, lossless=False, method=4, numthreads=1
        ),
        imagecodecs.webp_decode,
    ),
    "AVIF": (
        "quality",
        ((5, 15, 30, 45, 60, 80), (10, 30, 60, 85)),
        lambda pixels, value: imagecodecs.avif_encode(
            pixels, level=value, speed=9, pixelformat="420", numthreads=1
        ),
        partial(imagecodecs.avif_decode, numthreads=1),
    ),
    "JPEG XL": (
        "distance",
        ((25, 15, 8, 4, 2, 1), (15, 8, 4, 1)),
        lambda pixels, value: imagecodecs.jpegxl_encode(
            pixels, distance=value, effort=4, numthreads=1
        ),
        partial(imagecodecs.jpegxl_decode, numthreads=1),
    ),
}
"""Name of the setting, its values, encoder and decoder; all reach 15 Hz on one core."""

VIDEOS: dict[str, tuple[_Ladder, str, str, Callable[[int, int], dict[str, str]]]] = {
    "H.264": (
        ((20, 26, 32, 38, 44, 50), (20, 28, 36, 44)),
        "libx264",
        "h264",
        lambda crf, gop: {
            "preset": "medium",
            "tune": "zerolatency",
            "crf": str(crf),
            "x264-params": f"scenecut=0:keyint={gop}:min-keyint={gop}",
        },
    ),
    "HEVC": (
        ((20, 26, 32, 38, 44, 50), (20, 28, 36, 44)),
        "libx265",
        "hevc",
        lambda crf, gop: {
            "preset": "fast",
            "tune": "zerolatency",
            "crf": str(crf),
            "x265-params": f"scenecut=0:keyint={gop}:min-keyint={gop}:repeat-headers=1:"
            "pools=none:frame-threads=1:log-level=error",
        },
    ),
    # Without a GOP SVT-AV1 holds five frames back: intra pictures of AV1 are AVIF's.
    "AV1": (
        ((25, 35, 45, 54, 60, 63), (30, 45, 55, 63)),
        "libsvtav1",
        "libdav1d",
        lambda crf, gop: {
            "preset": "8",
            "crf": str(crf),
            "svtav1-params": f"pred-struct=1:rtc=1:lp=1:keyint={gop}:scd=0",
        },
    ),
}
"""Constant rate factors, encoder, decoder, and the encoder's options with real-time presets."""

CAMERA = {"JPEG": (30, 80), "H.264": (26, 38)}
"""Settings that are also measured at the camera's size, if that is larger than the expert's."""

LABEL_SCALES = (1, 2, 4, 8)


def find_bundles(folder: Path) -> list[ModelBundle]:
    """Return all model bundles in a folder, by name.

    Raises:
        GosvaeError: there is none, or one is damaged.
    """
    bundles = [ModelBundle.load(path.parent) for path in sorted(folder.glob("*/manifest.yaml"))]
    if not bundles:
        raise GosvaeError(f"{folder} holds no model bundles; train one, or name their folder")
    return bundles


def find_experts(folder: Path, reference: ModelBundle) -> list[Path]:
    """Return the experts without tokens in a folder with the task of the expert of `reference`.

    The same task means the same label space and the same input size.

    Raises:
        GosvaeError: a description cannot be read, or does not match its network.
    """
    found = []
    for path in sorted(folder.glob("*/expert.yaml")):
        network = path.with_name(EXPERT)
        try:
            about = yaml.safe_load(path.read_text())
            task = about["label_space"], tuple(about["input_size"])
            whole = about["expert"]["sha256"] == _digest(network)
        except (yaml.YAMLError, KeyError, TypeError, OSError) as error:
            raise GosvaeError(f"{path}: describes no expert: {error}; export it anew") from error
        if not whole:
            raise GosvaeError(f"{network}: altered since {path.name} was written; export it anew")
        if task == (reference.labels.name, reference.input_size):
            found.append(network)
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def open_expert(bundle: ModelBundle, path: Path | None) -> Expert:
    """Return the expert of a bundle, or one with the same interface from another file.

    Raises:
        BundleError: ONNX Runtime cannot load it.
    """
    expert = Expert(bundle)
    if path is not None and path != bundle.expert_path():
        expert.session = Session(path, ("cpu",), 1)
    return expert


def contenders(
    reference: ModelBundle,
    bundles: Sequence[ModelBundle],
    camera: Size,
    experts: Sequence[Path] = (),
) -> list[Contender]:
    """Return all contenders.

    Args:
        reference: the bundle whose expert segments pictures at the receiver.
        bundles: bundles whose tokens or labels are sent.
        camera: size of the frames.
        experts: more networks for the receiver, as ONNX with the expert's interface.
    """
    compute = reference.manifest.get("compute", {})
    macs = compute.get("expert_macs")
    found: list[Contender] = []
    for path in (reference.expert_path(), *experts):
        pixels = partial(
            Contender,
            sends="pixels",
            model="" if path == reference.expert_path() else _digest(path)[:16],
            expert=path,
            vehicle_macs=0,
            receiver_macs=macs,
        )
        found += _pictures(pixels, reference.input_size, camera)
    found += [
        Contender(
            codec="expert's labels",
            setting="full size" if scale == 1 else f"1/{scale} of the sides",
            sends="labels",
            make=partial(Labels, reference, scale),
            model=str(reference.semantic.record["expert"]["sha256"])[:16],
            vehicle_macs=macs,
        )
        for scale in LABEL_SCALES
    ]
    for bundle in bundles:
        compute = bundle.manifest.get("compute", {})
        found += [
            Contender(
                codec=bundle.name,
                setting=f"{levels} level{'s' if levels > 1 else ''}, "
                f"{'predicted' if predicted else 'intra'}",
                sends=bundle.manifest.get("kind", "tokens"),
                make=partial(Tokens, bundle, levels, predicted),
                model=f"{bundle.fingerprint:016x}",
                vehicle_macs=compute.get("vehicle_macs"),
                receiver_macs=compute.get("receiver_macs"),
            )
            for levels in range(1, bundle.levels + 1)
            for predicted in (False, True)
        ]
    return found


def _pictures(pixels: Callable[..., Contender], size: Size, camera: Size) -> list[Contender]:
    half = (size[0] // 2, size[1] // 2)
    larger = camera[0] * camera[1] > size[0] * size[1]

    def ladder(codec: str, steps: _Ladder) -> Iterator[tuple[int, Size, bool]]:
        """Yield quality, size, and whether it is measured with ``--quick``."""
        if larger:
            yield from ((value, camera, False) for value in CAMERA.get(codec, ()))
        yield from ((value, size, place % 2 == 0) for place, value in enumerate(steps[0]))
        yield from ((value, half, False) for value in steps[1])

    def png(frame: Image) -> bytes:
        return bytes(imagecodecs.png_encode(frame, level=1))

    found = [
        pixels(
            codec="PNG",
            setting=f"lossless, {size[1]}x{size[0]}",
            make=partial(Still, size, size, png, imagecodecs.png_decode),
        )
    ]
    for codec, (what, steps, pack, unpack) in STILLS.items():
        found += [
            pixels(
                codec=codec,
                setting=f"{what} {value}, {sent[1]}x{sent[0]}",
                make=partial(Still, sent, size, partial(pack, value=value), unpack),
                quick=quick,
            )
            for value, sent, quick in ladder(codec, steps)
        ]
    for codec, (steps, encoder, decoder, options) in VIDEOS.items():
        for gop in (GOP,) if codec == "AV1" else (GOP, 1):
            found += [
                pixels(
                    codec=f"{codec}{' intra' if gop == 1 else ''}",
                    setting=f"CRF {crf}, {sent[1]}x{sent[0]}",
                    make=partial(Video, sent, size, encoder, decoder, gop, options(crf, gop)),
                    quick=quick and gop == GOP,
                )
                for crf, sent, quick in ladder(codec, steps)
            ]
    return found
