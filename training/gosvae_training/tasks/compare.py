"""Compare a bundle of several tasks with other ways to send them.

``python -m gosvae_training.tasks.compare`` prints what reaches the receiver of each task, beside
what is sent, for tokens; for experts in the vehicle whose outputs are sent; and for experts at the
receiver of pictures and video.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from datetime import date
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import onnx
from tqdm import tqdm

from gosvae_codec import Decoder, Encoder, Expert, GosvaeError, ModelBundle
from gosvae_codec.draft import write_text
from gosvae_codec.images import resize_frame
from gosvae_codec.sessions import Session
from gosvae_codec.tasks import DetectionResult, Result, SemanticResult

from ..data.datasets import default_split, load_dataset
from ..data.samples import DataError, Part, describe, iterate
from ..evaluate import HEADER, INTRA_FRAMES, gigamacs, send_labels
from ..models.suppression import LEAST_SCORE, with_least_score
from ..tables import markdown_table
from ..task_meters import task_meters

Frame = npt.NDArray[np.uint8]
Results = Mapping[str, Result]
Sent = Iterator[tuple[int, Results]]
"""For each frame, the bytes that were sent and what the receiver has of each task."""

BOX_BYTES = 10
"""Of a box that is sent as it is: four sides of 16 bits, class and score of 8."""
PACKET_BYTES = 56
"""Of a message beside its payload, as a packet's."""
RATE = 15
"""Frames a second of video."""
STILLS = {
    "JPEG": (".jpg", cv2.IMWRITE_JPEG_QUALITY, (5, 15, 40, 80)),
    "AVIF": (".avif", cv2.IMWRITE_AVIF_QUALITY, (10, 25, 45, 70)),
}
"""Ending, OpenCV's parameter and its values, of pictures."""
SHRINKS = (2, 1)
"""Parts of the sides that pictures are sent at."""
KBIT_PER_S = (80, 160, 320, 640, 1280)
"""Rates of video."""
WAYS = ("tokens", "experts' outputs", *STILLS, "H.264")
"""Ways to send frames."""
MASK_SCALES = (1, 2, 4, 8)
"""Parts of the sides that masks are sent at."""


class Contest:
    """Frames, and what the experts make of them."""

    def __init__(self, bundle: ModelBundle, frames: Sequence[Frame]) -> None:
        """Ask the experts of all tasks that name one."""
        self.bundle, self.frames = bundle, frames
        self._experts = {
            name: Expert(bundle, task=name)
            for name, task in bundle.tasks.items()
            if "expert" in task.record
        }
        self._receivers = {
            name: with_unlikely_boxes(expert) for name, expert in self._experts.items()
        }
        self.wanted = [self.ask(frame) for frame in tqdm(frames, desc="experts", unit="frame")]

    def ask(self, frame: Frame) -> Results:
        """Return what the experts make of a frame, uint8 (H, W, 3) RGB."""
        return {name: expert.apply(frame) for name, expert in self._experts.items()}

    def ask_receiver(self, frame: Frame) -> Results:
        """Return what experts at the receiver make of a frame: boxes that are unlikely as well.

        Average precision takes these from tokens, too.
        """
        return {name: expert.apply(frame) for name, expert in self._receivers.items()}

    def row(self, name: str, setting: str, sent: Sent) -> dict[str, Any]:
        """Return the figures of one way to send the frames."""
        meters, sizes = task_meters(self.bundle), []
        progress = tqdm(sent, desc=f"{name} {setting}", total=len(self.frames), leave=False)
        for wanted, (size, made) in zip(self.wanted, progress, strict=True):
            sizes.append(size)
            for task, meter in meters.items():
                meter.add(wanted[task], made[task])
        figures = {task: meter.figures() for task, meter in meters.items()}
        return {
            "name": name,
            "setting": setting,
            "bytes_per_frame": round(float(np.mean(sizes)), 1),
            "tasks": figures,
        }

    def tokens(self, levels: int, predicted: bool) -> Sent:
        """Send tokens: each frame by itself, or all but one in INTRA_FRAMES from the one before."""
        encoder, decoder = Encoder(self.bundle), Decoder(self.bundle, min_score=0.0)
        for index, frame in enumerate(self.frames):
            intra = not predicted or index % INTRA_FRAMES == 0
            packets = encoder.encode(frame, HEADER, levels, intra)
            decoded = decoder.decode(packets)
            encoder.acknowledge(decoded.sequence if predicted else None)
            yield sum(packet.serialized_size() for packet in packets), decoded.tasks

    def outputs(self, scale: int) -> Sent:
        """Send what experts in the vehicle make: masks at a part of the sides, and all boxes."""
        for wanted in self.wanted:
            size, made = PACKET_BYTES, dict(wanted)
            for name, result in wanted.items():
                if isinstance(result, SemanticResult):
                    labels = self.bundle.tasks[name].labels
                    packed, mask = send_labels(result.mask, scale, labels)
                    size, made[name] = size + packed, ReceivedMask(mask)
                elif isinstance(result, DetectionResult):
                    size += BOX_BYTES * len(result.scores)
            yield size, made

    def stills(self, ending: str, parameter: int, quality: int, shrink: int) -> Sent:
        """Send pictures, which experts at the receiver look at."""
        for frame in self.frames:
            height, width = frame.shape[:2]
            smaller = resize_frame(frame, (height // shrink, width // shrink))
            bgr = cv2.cvtColor(smaller, cv2.COLOR_RGB2BGR)
            _, packed = cv2.imencode(ending, bgr, [parameter, quality])
            picture = cv2.cvtColor(_decoded(packed), cv2.COLOR_BGR2RGB)
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
            yield PACKET_BYTES + len(packed), self.ask_receiver(np.asarray(picture, np.uint8))

    def video(self, kbit_per_s: int) -> Sent:
        """Send H.264, an intra frame a second, which experts at the receiver look at."""
        height, width = (side // 2 * 2 for side in self.frames[0].shape[:2])
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.framerate, encoder.time_base = Fraction(RATE), Fraction(1, RATE)
        encoder.bit_rate, encoder.gop_size = kbit_per_s * 1000, INTRA_FRAMES
        encoder.options = {"preset": "medium", "tune": "zerolatency"}
        decoder = av.CodecContext.create("h264", "r")
        for index, frame in enumerate(self.frames):
            given = av.VideoFrame.from_ndarray(resize_frame(frame, (height, width)), "rgb24")
            given.pts = index
            # Without latency each frame is a packet, and comes out as soon as it went in.
            (packet,) = encoder.encode(given)
            (received,) = decoder.decode(packet) or decoder.decode(None)
            picture = np.asarray(received.to_ndarray(format="rgb24"), np.uint8)
            seen = resize_frame(picture, frame.shape[:2])
            yield PACKET_BYTES + packet.size, self.ask_receiver(seen)


def with_unlikely_boxes(expert: Expert) -> Expert:
    """Return an expert whose boxes have LEAST_SCORE or more; of another kind, as it is."""
    if expert.task.kind != "detection":
        return expert
    model = with_least_score(onnx.load(expert.session.path), LEAST_SCORE)
    made = copy(expert)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "detector.onnx"
        onnx.save(model, str(path))
        made.session = Session(path, ("cpu",), 1)
    return made


class ReceivedMask(SemanticResult):
    """A mask that was sent as such."""

    def __init__(self, mask: Frame) -> None:
        object.__setattr__(self, "mask", mask)


def _decoded(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    picture = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture, np.uint8)


def compare(
    bundle: ModelBundle, frames: Sequence[Frame], in_order: bool, only: str | None = None
) -> list[dict[str, Any]]:
    """Return the rows of all ways to send `frames`; of video and prediction, if `in_order`.

    `only` is the name of the one way whose rows are wanted.
    """
    contest, rows = Contest(bundle, frames), []

    def add(name: str, setting: str, sent: Callable[..., Sent], *arguments: Any) -> None:
        if only in (None, name):
            rows.append(contest.row(name, setting, sent(*arguments)))

    for levels in range(1, bundle.levels + 1):
        add("tokens", f"{levels} of {bundle.levels} levels", contest.tokens, levels, False)
        if in_order:
            setting = f"{levels} of {bundle.levels} levels, predicted"
            add("tokens", setting, contest.tokens, levels, True)
    for scale in MASK_SCALES:
        add("experts' outputs", f"masks at 1/{scale} of the sides", contest.outputs, scale)
    for name, (ending, parameter, qualities) in STILLS.items():
        for shrink in SHRINKS:
            for quality in qualities:
                setting = f"quality {quality}, 1/{shrink} of the sides"
                add(name, setting, contest.stills, ending, parameter, quality, shrink)
    if in_order:
        for rate in KBIT_PER_S:
            add("H.264", f"{rate} kbit/s", contest.video, rate)
    return rows


def table(bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    compute = bundle.manifest.get("compute", {})
    vehicle = {"tokens": compute.get("vehicle_macs"), "experts' outputs": compute["expert_macs"]}
    names = {"semantic": "agreement", "detection": "ap50", "depth": "relative_error"}
    tasks = [(name, names[task.kind]) for name, task in bundle.tasks.items()]
    titles = [f"{name}: {figure.replace('_', ' ')}" for name, figure in tasks]
    lines = [
        [
            row["name"],
            row["setting"],
            gigamacs(vehicle.get(row["name"], 0)),
            f"{row['bytes_per_frame']:.0f}",
            *(_figure(row["tasks"].get(name, {}).get(figure)) for name, figure in tasks),
        ]
        for row in rows
    ]
    return markdown_table(["sent", "how", "vehicle GMACs", "bytes a frame", *titles], lines)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison on a drive, or on one split of a dataset."""
    parser = argparse.ArgumentParser(prog="gosvae_training.tasks.compare", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", type=Path, required=True, help="a dataset, bag, video or folder")
    parser.add_argument("--split", help="train, val (the default) or test; all without labels")
    parser.add_argument("--every", type=int, default=1, help="take one frame in so many")
    parser.add_argument(
        "--in-order", action="store_true", help=f"frames are video of {RATE} Hz: predict"
    )
    parser.add_argument("--only", choices=WAYS, help="one way to send the frames")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        bundle = ModelBundle.load(options.bundle)
        split = options.split or default_split(options.data)
        part = Part(max(options.every, 1), (0.0, 1.0), "")
        samples = load_dataset(options.data, split, bundle.labels, part)
        frames = [sample.frame for sample in iterate(samples)]
        rows = compare(bundle, frames, options.in_order, options.only)
    except (GosvaeError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{bundle.name}, {describe(samples)}, {date.today()}\n\n{table(bundle, rows)}")
    if options.json:
        figures = {"data": describe(samples), "date": str(date.today()), "rows": rows}
        write_text(options.json, json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
