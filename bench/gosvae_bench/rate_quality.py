"""Measure rate, quality and cost of all contenders on one labelled drive.

    python -m gosvae_bench.rate_quality --data path/to/frames --json FILE

Takes a folder in CamVid or Cityscapes layout and writes a row for each codec and setting: bytes,
quality of the receiver's masks, and cost on both sides. A run that was interrupted continues with
the same FILE. Two passes: *quality*, in as many processes as there are cores, and *timing*, in
fresh processes of one thread, one for the sender and one for the receiver.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
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
import numpy as np
from rich.progress import Progress

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.masks import Mask, resize_mask

from .codecs import wire_bytes
from .contenders import Contender, contenders, find_bundles, find_experts, open_expert
from .files import BUNDLE, machine
from .labelled import Drive, unpack
from .results import QUALITY, TIMING, Results, versions
from .scores import Counts, counts_of
from .tables import markdown_table, number

WARM_UP = 3
TIMED = 20
"""Frames of the timing pass: those at the beginning do not count."""


@dataclass(frozen=True)
class Task:
    """The options from which every process makes the same contenders."""

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


def quality(task: Task, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return bytes and quality, by key, of contenders that send the same data."""
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
    """Save the expert's mask of an uncompressed frame."""
    drive = Drive(task.frames)
    expert = open_expert(task.bundle(), None)
    drive.save("expert", index, expert.segment(drive.frame(index)))


def _one_thread() -> None:
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.ERROR)


def _run(job: tuple[Callable[..., Any], Task, Any]) -> tuple[Any, Any]:
    function, task, argument = job
    return argument, function(task, argument)


class Timing(NamedTuple):
    """CPU milliseconds of each frame by contender; peak memory in MB above that of the imports."""

    milliseconds: dict[str, list[float]]
    memory: float


def _memory() -> float:
    """Return the peak memory of this process in MB; getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def time_sender(task: Task, keys: Sequence[str]) -> tuple[Timing, dict[str, list[Any]]]:
    """Time the senders of contenders, from the camera's frame to the data."""
    drive, all_contenders = Drive(task.frames), task.contenders()
    before = _memory()
    taken, sent = {}, {}
    for key in keys:
        codec = all_contenders[key].make()
        taken[key], sent[key] = _timed(codec.encode, map(drive.frame, _span(task, drive)))
    return Timing(taken, _memory() - before), sent


def time_receiver(task: Task, sent: dict[str, list[Any]]) -> Timing:
    """Time the receivers, from the data to a mask of the frame's size."""
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
    """Return the CPU milliseconds of calls, without the first ones, and the results of all.

    CPU time includes all threads of a codec, and hardly depends on other load of the machine.
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


def run(task: Task, results: Results, passes: Sequence[str]) -> None:
    """Measure the missing figures, and write the results after each contender."""
    everything = task.contenders()
    # The quick ones come first, in both passes, so that an interrupted run has them complete.
    for quick in (True,) if task.quick else (True, False):
        some = {key: each for key, each in everything.items() if each.quick == quick}
        if "quality" in passes:
            todo = [key for key, each in some.items() if results.lacks(each, QUALITY)]
            for key, figures in _parallel(task, todo):
                results.add(everything[key], figures)
                results.write(list(everything.values()))
        if "timing" in passes:
            todo = [key for key, each in some.items() if results.lacks(each, TIMING)]
            for key, figures in _in_turn(task, todo):
                results.add(everything[key], figures)
                results.write(list(everything.values()))


def _parallel(task: Task, todo: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the quality of each contender when it is measured."""
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
    """Return the keys grouped by the value that `by` gives, in order."""
    groups: dict[Any, list[str]] = {}
    for key in keys:
        groups.setdefault(by(key), []).append(key)
    return groups


def _in_turn(task: Task, todo: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the timing of contenders.

    All settings of a codec share a sender process, and a receiver process for each expert; equal
    data is encoded once.
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
    """Measure the missing figures, and print the table."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.rate_quality", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled frames")
    parser.add_argument("--json", type=Path, default=Path("out/benchmark.json"), help="results")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    parser.add_argument(
        "--reference",
        type=Path,
        default=BUNDLE,
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
                "reference": bundle.name,
                "expert": str(bundle.semantic.record["expert"]["sha256"])[:16],
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
