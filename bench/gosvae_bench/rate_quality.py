"""What to send over this link, from this vehicle, for this task: all contenders on one drive.

    python -m gosvae_bench.rate_quality --data path/to/frames --json FILE

Takes a folder in CamVid or Cityscapes layout, never seen before, and writes a row for each codec
and setting: bytes, what the receiver's masks are worth, what it costs on both sides. It goes on
where an earlier run with the same FILE stopped. Two passes: *quality*, in as many processes as
there are cores, and *timing*, in fresh processes of one thread, sender and receiver apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import onnxruntime
from rich.progress import Progress

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.labels import UNLABELLED
from gosvae_codec.masks import Mask, resize_mask
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_tools.drives import open_source

from .codecs import (
    Contender,
    contenders,
    find_bundles,
    find_experts,
    open_expert,
    wire_bytes,
)
from .files import machine, write_whole
from .link_streams import Image
from .tables import markdown_table, number

WARM_UP = 3
TIMED = 20
"""Frames at the beginning of the timing pass that do not count, and after them."""
RESAMPLES = 1000
"""Of the frames, for confidence intervals."""


@dataclass(frozen=True)
class Task:
    """What every process has to know to make the same contenders."""

    models: Path
    reference: Path
    experts: tuple[Path, ...]
    quick: bool
    frames: Path

    @cache  # noqa: B019 (a process has one task)
    def bundle(self) -> ModelBundle:
        """Return the bundle whose expert is the receiver's, loaded once a process."""
        return ModelBundle.load(self.reference)

    @cache  # noqa: B019
    def contenders(self) -> dict[str, Contender]:
        """Return all contenders by their keys."""
        camera = Drive(self.frames).frame(0).shape[:2]
        bundles = find_bundles(self.models)
        experts = [*find_experts(self.models, self.bundle()), *self.experts]
        found = contenders(self.bundle(), bundles, camera, experts)
        return {each.key: each for each in found}


class Drive:
    """Frames, true masks and the expert's masks in files that all processes share as memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return len(list(self._folder.glob("frame*.npy")))

    def frame(self, index: int) -> Image:
        """Return a frame, uint8 (H, W, 3) RGB."""
        return np.asarray(self._load("frame", index))

    def label(self, index: int) -> Mask:
        """Return the true mask of a frame, uint8 (H, W); unlabelled where the expert knows none."""
        return np.asarray(self._load("label", index))

    def expert(self, index: int) -> Mask:
        """Return the expert's mask of a frame as it was taken, uint8 (H, W)."""
        return np.asarray(self._load("expert", index))

    def has(self, kind: str, index: int) -> bool:
        """Return whether one of them is kept."""
        return (self._folder / f"{kind}{index:06}.npy").exists()

    def save(self, kind: str, index: int, array: npt.NDArray[np.uint8]) -> None:
        """Keep one of them."""
        np.save(self._folder / f"{kind}{index:06}.npy", array)

    def _load(self, kind: str, index: int) -> npt.NDArray[np.uint8]:
        return np.load(self._folder / f"{kind}{index:06}.npy", mmap_mode="r")


def find_split(data: Path) -> Path:
    """Return the folder of frames that a dataset's root holds, its `val` split if it has one."""
    for inside in (data / "leftImg8bit" / "val", data / "val"):
        if inside.is_dir():
            return inside
    return data


def unpack(data: Path, most: int | None, bundle: ModelBundle, drive: Drive) -> dict[str, Any]:
    """Copy labelled frames into `drive`, and return what they are.

    Raises:
        GosvaeError: the folder cannot be read, or has no labelled frames, or none of a class that
            the bundle knows.
    """
    source = open_source(find_split(data))
    known = np.full(256, UNLABELLED, np.uint8)
    known[bundle.labels.ids] = bundle.labels.ids
    digest = hashlib.sha256()
    count = unlabelled = 0
    seen = np.zeros(256, np.int64)
    size: tuple[int, ...] = ()
    for frame in source.frames():
        if count == most:
            break
        if frame.label is None:
            unlabelled += 1
            continue
        label = known[frame.label]
        seen += np.bincount(label.ravel(), minlength=256)
        digest.update(np.ascontiguousarray(frame.image).data)
        digest.update(np.ascontiguousarray(frame.label).data)
        drive.save("frame", count, frame.image)
        drive.save("label", count, label)
        if size not in ((), frame.image.shape[:2]):
            raise GosvaeError(
                f"{source.path}: frames of {size[1]}x{size[0]} and {frame.image.shape[1]}x"
                f"{frame.image.shape[0]} pixels; give a folder of one camera"
            )
        size = frame.image.shape[:2]
        count += 1
    if not count:
        raise GosvaeError(
            f"{source.path}: none of {unlabelled} frames has labels; give a folder in Cityscapes "
            "layout (leftImg8bit beside gtFine) or CamVid layout (NAME beside NAMEannot)"
        )
    if not seen[bundle.labels.ids].any():
        raise GosvaeError(
            f"{source.path}: its labels hold no class that {bundle.name} knows; give labels with "
            "Cityscapes' ids (*_labelIds.png), train ids (*_labelTrainIds.png) or CamVid's"
        )
    names = [each.name for each in bundle.labels.labels if seen[each.id]]
    return {
        "sha256": digest.hexdigest(),
        "frames": count,
        "unlabelled_frames_left_out": unlabelled,
        "size": f"{size[1]}x{size[0]}",
        "classes": names,
    }


# --- quality


class Counts(NamedTuple):
    """Of each frame and class, int64 (frames, 256): pixels rightly of it, truly of it, said to."""

    hits: npt.NDArray[np.int64]
    truths: npt.NDArray[np.int64]
    said: npt.NDArray[np.int64]

    @classmethod
    def of(cls, matrices: Sequence[npt.NDArray[np.int64]]) -> Counts:
        """Return the counts of confusion matrices, one a frame."""
        stack = np.stack(matrices)
        return cls(stack.diagonal(axis1=1, axis2=2), stack.sum(2), stack.sum(1))

    def miou(self, weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return mIoU for each row of weights of the frames, int64 (rows, frames)."""
        hits, truths, said = (weights @ each for each in self)
        with np.errstate(invalid="ignore"):
            iou = np.where(truths > 0, hits / (truths + said - hits), np.nan)
        return np.asarray(np.nanmean(iou, axis=1))

    def figures(self) -> tuple[float, list[float]]:
        """Return mIoU over all frames, and its 95% confidence interval.

        The interval is the percentile bootstrap over frames (Efron 1979), always with the same
        resamples, so that contenders are compared on equal ones.
        """
        frames = len(self.hits)
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(frames, np.full(frames, 1 / frames), RESAMPLES)
        low, high = np.percentile(self.miou(drawn), (2.5, 97.5))
        whole = self.miou(np.ones((1, frames), np.int64))[0]
        return round(float(whole), 4), [round(float(low), 4), round(float(high), 4)]


def counts_of(truth: Mask, mask: Mask) -> npt.NDArray[np.int64]:
    """Return the confusion matrix of one frame."""
    matrix = ConfusionMatrix()
    matrix.add(truth, mask)
    return matrix.counts


def quality(task: Task, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return bytes and quality over all frames of contenders that send the same, by key."""
    drive = Drive(task.frames)
    some = [task.contenders()[key] for key in keys]
    codec = some[0].make()
    experts = [open_expert(task.bundle(), each.expert) if each.expert else None for each in some]
    sizes, wires = [], []
    truth: list[list[Any]] = [[] for _ in some]
    agreement: list[list[Any]] = [[] for _ in some]
    for index in range(len(drive)):
        sent = codec.encode(drive.frame(index))
        messages = codec.messages(sent)
        sizes.append(sum(messages))
        wires.append(wire_bytes(messages))
        made = codec.decode(sent)
        label, wanted = drive.label(index), drive.expert(index)
        for place, expert in enumerate(experts):
            mask = resize_mask(expert.segment(made) if expert else made, label.shape)
            truth[place].append(counts_of(label, mask))
            agreement[place].append(counts_of(wanted, mask))
    found = {}
    for key, of_labels, of_expert in zip(keys, truth, agreement, strict=True):
        miou, miou_ci = Counts.of(of_labels).figures()
        agreed, agreed_ci = Counts.of(of_expert).figures()
        found[key] = {
            "bytes_per_frame": round(float(np.mean(sizes)), 1),
            "bytes_p95": round(float(np.percentile(sizes, 95)), 1),
            "wire_bytes_per_frame": round(float(np.mean(wires)), 1),
            "miou": miou,
            "miou_ci95": miou_ci,
            "agreement": agreed,
            "agreement_ci95": agreed_ci,
        }
    return found


def segment(task: Task, index: int) -> None:
    """Keep the expert's mask of a frame as it was taken."""
    drive = Drive(task.frames)
    expert = open_expert(task.bundle(), None)
    drive.save("expert", index, expert.segment(drive.frame(index)))


def _one_thread() -> None:
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.ERROR)


def _run(job: tuple[Callable[..., Any], Task, Any]) -> tuple[Any, Any]:
    function, task, argument = job
    return argument, function(task, argument)


# --- timing


class Timing(NamedTuple):
    """Milliseconds of CPU of each frame by contender; peak of memory in MB above the imports."""

    milliseconds: dict[str, list[float]]
    memory: float


def _memory() -> float:
    """Return the most memory in MB that this process had; getrusage would count its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def time_sender(task: Task, keys: Sequence[str]) -> tuple[Timing, dict[str, list[Any]]]:
    """Time the vehicle's side of contenders, from camera frame to what is sent."""
    drive, all_contenders = Drive(task.frames), task.contenders()
    before = _memory()
    taken, sent = {}, {}
    for key in keys:
        codec = all_contenders[key].make()
        taken[key], sent[key] = _timed(codec.encode, map(drive.frame, _span(task, drive)))
    return Timing(taken, _memory() - before), sent


def time_receiver(task: Task, sent: dict[str, list[Any]]) -> Timing:
    """Time the receiver's side, from what was sent to a mask of the frame's size."""
    all_contenders, bundle = task.contenders(), task.bundle()
    size = Drive(task.frames).label(0).shape
    before = _memory()
    taken = {}
    for key, each in sent.items():
        codec, contender = all_contenders[key].make(), all_contenders[key]
        expert = open_expert(bundle, contender.expert) if contender.expert else None

        def decode(one: Any, codec: Any = codec, expert: Any = expert) -> Mask:
            made = codec.decode(one)
            return resize_mask(expert.segment(made) if expert else made, size)

        taken[key], _ = _timed(decode, each)
    return Timing(taken, _memory() - before)


def _span(task: Task, drive: Drive) -> range:
    return range(min(len(drive), WARM_UP + TIMED))


def _timed(call: Callable[[Any], Any], items: Any) -> tuple[list[float], list[Any]]:
    """Return the milliseconds of CPU that calls take, the first left out, and what they return.

    Of the CPU, all threads of a codec included, so that a busy machine hardly counts.
    """
    taken, made = [], []
    for item in items:
        begin = time.process_time()
        made.append(call(item))
        taken.append((time.process_time() - begin) * 1e3)
    return taken[min(WARM_UP, len(taken) - 1) :], made


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a fresh process of one thread."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, _one_thread) as pool:
        return pool.apply(function, arguments)


def _percentiles(name: str, taken: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(taken, (50, 95))
    return {f"{name}_ms": round(float(p50), 2), f"{name}_ms_p95": round(float(p95), 2)}


# --- results

QUALITY = (
    "bytes_per_frame",
    "bytes_p95",
    "wire_bytes_per_frame",
    "miou",
    "miou_ci95",
    "agreement",
    "agreement_ci95",
)
TIMING = (
    "encode_ms",
    "encode_ms_p95",
    "decode_ms",
    "decode_ms_p95",
    "encode_mb",
    "decode_mb",
)


class Results:
    """The JSON file: what was measured on what, and a row for each contender."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """Open the file, or begin it.

        Raises:
            GosvaeError: it holds results of something else, or no results.
        """
        self._path = path
        self._about = about
        self._rows: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            self._rows = {row["key"]: row for row in found["rows"]}
            different = [name for name in about if found.get(name) != about[name]]
        except (ValueError, KeyError, TypeError) as error:
            raise GosvaeError(f"{path} holds no results: remove it, or name another") from error
        different = [name for name in different if name != "date"]
        if different:
            raise GosvaeError(
                f"{path} has results of other {', '.join(different)}: remove it, or name another"
            )

    def lacks(self, contender: Contender, figures: Sequence[str]) -> bool:
        """Return whether any of these figures of a contender is missing."""
        row = self._rows.get(contender.key, {})
        return any(row.get(name) is None for name in figures)

    def add(self, contender: Contender, figures: dict[str, Any]) -> None:
        """Add figures of a contender, in memory."""
        empty = dict.fromkeys((*QUALITY, *TIMING))
        row = {
            "codec": contender.codec,
            "setting": contender.setting,
            "sends": contender.sends,
            "expert": contender.expert_name,
            **empty,
            **self._rows.get(contender.key, {}),
            "vehicle_macs": contender.vehicle_macs,
            "receiver_macs": contender.receiver_macs,
            "key": contender.key,
        }
        self._rows[contender.key] = row | figures

    def write(self, order: Sequence[str]) -> None:
        """Write the file, whole or not at all, without rows of what is no contender any more."""
        rows = [self._rows[key] for key in order if key in self._rows]
        text = json.dumps({**self._about, "rows": rows}, indent=1) + "\n"
        write_whole(self._path, text)


def versions() -> dict[str, str]:
    """Return the versions of what codes and computes."""
    libraries = dict(each.split("-", 1) for each in imagecodecs.version().split(", "))
    wanted = ("libjpeg_turbo", "libwebp", "libavif", "libjxl")
    return {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
        "imagecodecs": imagecodecs.__version__,
        **{name: libraries.get(name, "unknown") for name in wanted},
    }


def run(task: Task, results: Results, passes: Sequence[str]) -> None:
    """Measure what is missing, writing the results after each contender."""
    everything = task.contenders()
    # Those that tell most come first, in both passes, so that an early end leaves them whole.
    for quick in (True,) if task.quick else (True, False):
        some = {key: each for key, each in everything.items() if each.quick == quick}
        if "quality" in passes:
            todo = [key for key, each in some.items() if results.lacks(each, QUALITY)]
            for key, figures in _parallel(task, todo):
                results.add(everything[key], figures)
                results.write(list(everything))
        if "timing" in passes:
            todo = [key for key, each in some.items() if results.lacks(each, TIMING)]
            for key, figures in _in_turn(task, todo):
                results.add(everything[key], figures)
                results.write(list(everything))


def _parallel(task: Task, todo: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the quality of contenders, as each is done."""
    if not todo:
        return
    drive = Drive(task.frames)
    context = multiprocessing.get_context("spawn")
    groups = list(_grouped(todo, lambda key: task.contenders()[key].stream).values())
    cores = len(os.sched_getaffinity(0))
    with context.Pool(cores, _one_thread) as pool, Progress() as progress:
        frames = [index for index in range(len(drive)) if not drive.has("expert", index)]
        bar = progress.add_task("expert", total=len(frames))
        for _ in pool.imap(_run, [(segment, task, index) for index in frames], 8):
            progress.advance(bar)
        bar = progress.add_task("quality", total=len(todo))
        for _, found in pool.imap_unordered(_run, [(quality, task, each) for each in groups]):
            for key, figures in found.items():
                yield key, figures
                progress.advance(bar)


def _grouped(keys: Sequence[str], by: Callable[[str], Any]) -> dict[Any, list[str]]:
    """Return keys that share what `by` gives of them together, all in order."""
    groups: dict[Any, list[str]] = {}
    for key in keys:
        groups.setdefault(by(key), []).append(key)
    return groups


def _in_turn(task: Task, todo: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the timing of contenders.

    Settings of a codec share a process that sends, and one that receives for each expert; what is
    sent the same is sent once.
    """
    everything = task.contenders()
    with Progress(disable=not todo) as progress:
        bar = progress.add_task("timing", total=len(todo))
        for some in _grouped(todo, lambda key: everything[key].codec).values():
            streams = _grouped(some, lambda key: everything[key].stream)
            first = {key: same[0] for same in streams.values() for key in same}
            sender, sent = _alone(time_sender, task, [same[0] for same in streams.values()])
            for keys in _grouped(some, lambda key: everything[key].expert).values():
                receiver = _alone(time_receiver, task, {key: sent[first[key]] for key in keys})
                for key in keys:
                    figures = _percentiles("encode", sender.milliseconds[first[key]])
                    figures |= _percentiles("decode", receiver.milliseconds[key])
                    figures["encode_mb"] = round(sender.memory, 1)
                    figures["decode_mb"] = round(receiver.memory, 1)
                    yield key, figures
                    progress.advance(bar)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the main figures as a Markdown table."""
    heads = ["codec", "setting", "bytes", "mIoU", "agreement", "vehicle GMACs"]
    return markdown_table(
        [*heads, "encode, ms", "decode, ms"],
        [
            (
                row["codec"],
                row["setting"],
                number(row["bytes_per_frame"]),
                number(row["miou"], ".3f"),
                number(row["agreement"], ".3f"),
                number(row["vehicle_macs"], ".2f", 1e9),
                number(row["encode_ms"], ".1f"),
                number(row["decode_ms"], ".1f"),
            )
            for row in rows
        ],
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.rate_quality", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled frames")
    parser.add_argument("--json", type=Path, default=Path("out/benchmark.json"), help="results")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    parser.add_argument(
        "--reference",
        type=Path,
        default=Path("models/camvid-base"),
        help="bundle whose expert segments pictures at the receiver",
    )
    parser.add_argument(
        "--expert",
        type=Path,
        action="append",
        default=[],
        help="another network for the receiver of pictures, as ONNX, beside those in --models; "
        "may be given several times",
    )
    parser.add_argument("--frames", type=int, help="take only so many, from the first")
    parser.add_argument("--quick", action="store_true", help="fewer settings")
    parser.add_argument(
        "--only", choices=("quality", "timing"), help="one of the two passes instead of both"
    )
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="gosvae-bench-") as folder:
            frames = Path(folder)
            task = Task(
                options.models, options.reference, tuple(options.expert), options.quick, frames
            )
            bundle = task.bundle()
            data = unpack(options.data, options.frames, bundle, Drive(frames))
            about = {
                "data": data,
                "expert": str(bundle.manifest["expert"]["sha256"])[:16],
                "machine": machine(),
                "versions": versions(),
                "date": str(date.today()),
            }
            results = Results(options.json, about)
            run(task, results, [options.only] if options.only else ["quality", "timing"])
            rows = json.loads(options.json.read_text())["rows"]
    except (GosvaeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run with the same file goes on from here", file=sys.stderr)
        return 130
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
