"""`gosvae decode`: a bag's packets to masks, boxes and depths, without nodes.

A bag may hold packets in any order, see :mod:`.assembly`. Stamps are carried unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gosvae_codec import (
    DecodedFrame,
    Decoder,
    DepthResult,
    DetectionResult,
    EncodedFrame,
    FingerprintError,
    MissingReferenceError,
    ModelBundle,
    Packet,
    PacketError,
    SealError,
    Task,
)
from gosvae_codec.draft import draft
from gosvae_codec.keys import KeyFile
from gosvae_codec.masks import colorize
from gosvae_codec.packets import SEALED_VERSION
from gosvae_codec.sealing import PacketOpener
from gosvae_codec.tasks import MIN_SCORE, Result
from gosvae_common.boxes import boxes_of
from gosvae_common.detections import to_detections
from gosvae_common.messages import (
    from_packet_message,
    to_header_message,
    to_image,
    to_label_info,
)
from gosvae_common.topics import task_base

from .assembly import Assembly
from .bag_writer import BagWriter
from .bags import PACKET_TYPE, packets, reading
from .coding import Coding, progress
from .decoded_files import DecodedFiles
from .drives import SourceError
from .optional import need_pyarrow
from .outcome import MAX_DAMAGED, Outcome, damage_problem

Write = Callable[[str, int, DecodedFrame], None]


def decode(
    source: Path,
    output: Path,
    coding: Coding,
    tasks: Sequence[str] | None = None,
    color: bool = False,
    max_damaged: float = MAX_DAMAGED,
    key_file: str = "",
    min_score: float = MIN_SCORE,
) -> Outcome:
    """Write what a bundle makes of a bag's packets to a bag, a table, or a folder of files.

    Args:
        source: a bag with packets, of `gosvae encode` or recorded.
        output: an MCAP file where it ends in ``.mcap``, a table where it ends in ``.parquet``, see
            :class:`~gosvae_tools.decoded_table.DecodedTable`; else a folder, see
            :class:`~gosvae_tools.decoded_files.DecodedFiles`.
        coding: bundle and providers.
        tasks: names of the bundle's tasks; None: all.
        color: colours of masks instead of label ids.
        max_damaged: share of damaged packets above which the outcome has a problem.
        key_file: opens sealed packets; those that are not sealed are decoded as well.
        min_score: least score of a box that is written, 0 to 1.

    Raises:
        SourceError: the source cannot be read, has no packets, or none that gives a frame.
        OSError: `output` exists, or cannot be written.
        UsageError: a table is wanted, and pyarrow is not installed.
        FingerprintError: a packet was made with another bundle.
        SealError: a packet is sealed, and `key_file` does not open it.
        KeyFileError: as :class:`KeyFile` raises it.
        BundleError, ProviderError: as :class:`Decoder` does; there is no such task.
    """
    bundle = coding.load()
    chosen = bundle.choose(tasks)
    keys = KeyFile(key_file) if key_file else None
    cameras: dict[str, _Camera] = {}
    read = 0
    with reading(source) as reader:
        connections = [each for each in reader.connections if each.msgtype == PACKET_TYPE]
        if not connections:
            topics = ", ".join(sorted({each.topic for each in reader.connections})) or "none"
            notes = "".join(f"; {note}" for note in reader.notes)
            raise SourceError(
                f"bag {source} has no packets, its topics are: {topics}; "
                f"make some with `gosvae encode`, or record with record:={notes}"
            )
        total = sum(each.msgcount + reader.missing.get(each.id, 0) for each in connections)
        several = len({each.topic for each in connections}) > 1
        with (
            draft(output) as path,
            _writing(path, source.name, bundle, chosen, color, several) as write,
            progress() as bar,
        ):
            for name, time, message, _ in bar.track(packets(reader), total, description="read"):
                read += 1
                if name not in cameras:
                    cameras[name] = _Camera(name, bundle, coding, [*chosen], write, keys, min_score)
                cameras[name].push(from_packet_message(message), time)
            for camera in cameras.values():
                camera.finish()
            counts = sum((camera.counts for camera in cameras.values()), Counter())
            if not counts["decoded"]:
                raise SourceError(
                    f"{source}: none of its {read} packets gave a frame: {counts['rejected']} are "
                    f"damaged, {counts['frames_without_reference']} frames lack the one that they "
                    "are predicted from"
                )
    problems = [damage_problem("packets", counts["rejected"], read, max_damaged)]
    if read != total:
        problems.append(f"{read} packets were read, but the bag says to have {total}")
    names = ("frames", "decoded", "decoded_with_lost_slices", "frames_without_reference")
    figures: dict[str, Any] = {
        "output": str(output),
        "bundle": bundle.name,
        "fingerprint": f"{bundle.fingerprint:016x}",
        "tasks": ", ".join(f"{name} {task.version[:16]}" for name, task in chosen.items()),
        "packets": read,
        "packets_lost": counts["lost"],
        "packets_rejected": counts["rejected"],
        "packets_repeated": counts["repeated"],
        **{name: counts[name] for name in (*names, "frames_incomplete")},
    }
    return Outcome(figures, tuple(reader.notes), tuple(filter(None, problems)))


@dataclass
class _Camera:
    """One camera's packets on their way to results, and what became of them."""

    name: str
    bundle: ModelBundle
    coding: Coding
    tasks: Sequence[str]
    write: Write
    keys: KeyFile | None
    min_score: float
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        coding = self.coding
        self.decoder = Decoder(
            self.bundle,
            coding.providers,
            coding.threads,
            tasks=self.tasks,
            min_score=self.min_score,
        )
        self.assembly = Assembly()
        self.opener = None if self.keys is None else PacketOpener(self.keys, replays=True)

    def push(self, packet: Packet, time: int) -> None:
        """Add a packet recorded at `time` in ns.

        Raises:
            FingerprintError: it is of another bundle.
            SealError: it is sealed, and cannot be opened.
        """
        try:
            bundle = self.bundle
            if self.opener is not None and packet.version == SEALED_VERSION:
                packet = self.opener.open(packet)
            packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
        except (FingerprintError, SealError):
            raise
        except PacketError:
            self.counts["rejected"] += 1
            return
        for frame, at in self.assembly.push(packet, time):
            self._decode(frame, at)

    def finish(self) -> None:
        """Decode all that is left."""
        for frame, at in self.assembly.finish():
            self._decode(frame, at)
        self.counts["lost"] = self.assembly.lost
        self.counts["repeated"] = self.assembly.repeated

    def _decode(self, frame: EncodedFrame | None, time: int) -> None:
        """Decode a frame; None is one of which too little is there."""
        self.counts["frames"] += 1
        if frame is None:
            self.counts["frames_incomplete"] += 1
        else:
            self._write(frame, time)

    def _write(self, frame: EncodedFrame, time: int) -> None:
        try:
            decoded = self.decoder.decode(frame.packets)
        except MissingReferenceError:
            self.counts["frames_without_reference"] += 1
        except PacketError:
            self.counts["frames_incomplete"] += 1
        else:
            self.write(self.name, time, decoded)
            self.counts["decoded"] += 1
            self.counts["decoded_with_lost_slices"] += not decoded.complete


@contextmanager
def _writing(
    path: Path,
    recording: str,
    bundle: ModelBundle,
    tasks: Mapping[str, Task],
    color: bool,
    several: bool,
) -> Iterator[Write]:
    """Yield what writes the results of a camera's frame, decoded at a time in ns."""
    if path.suffix == ".parquet":
        need_pyarrow()
        from .decoded_table import DecodedTable

        table = DecodedTable(path, recording, tasks)
        yield table.write
        table.close()
        return
    if path.suffix != ".mcap":
        files = DecodedFiles(path, tasks, color, several)
        yield files.write
        files.check()
        return
    with BagWriter(path) as writer:
        labelled: set[str] = set()

        def write(camera: str, time: int, decoded: DecodedFrame) -> None:
            header = to_header_message(decoded.header)
            if camera not in labelled:
                labelled.add(camera)
                for task in tasks.values():
                    if "labels" in task.record:
                        info = to_label_info(bundle, task.labels, header.stamp)
                        topic = f"/{camera}/{task_base(task.name)}/label_info"
                        writer.write(topic, time, info)
            for name, result in decoded.tasks.items():
                topic, message = _message(tasks[name], result, color, header)
                writer.write(f"/{camera}/{topic}", time, message)

        yield write


def _message(task: Task, result: Result, color: bool, header: Any) -> tuple[str, Any]:
    """Return topic and message of a result, those of the receiver."""
    base = task_base(task.name)
    if isinstance(result, DepthResult):
        return f"{base}/image", to_image(result.depth, "32FC1", header)
    if isinstance(result, DetectionResult):
        # Of our own type: a bag with it can be read where vision_msgs is not installed.
        boxes = boxes_of(result, task.labels)
        return base, to_detections(boxes, task.labels, header, vision=None)
    if color:
        return f"{base}/color", to_image(colorize(result.mask, task.labels), "rgb8", header)
    return f"{base}/mask", to_image(result.mask, "mono8", header)
