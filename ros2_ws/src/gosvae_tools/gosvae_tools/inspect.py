"""`gosvae inspect`: what is in a model bundle, a bag, or a file that holds one packet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rclpy.serialization import deserialize_message

from gosvae_codec import ModelBundle, Packet, PacketError, Task
from gosvae_codec.manifest import MANIFEST
from gosvae_codec.packets import MAX_SERIALIZED_BYTES, SEALED_VERSION, VERSION
from gosvae_common.messages import from_packet_message
from gosvae_msgs.msg import TokenPacket

from .assembly import Assembly
from .bags import feedbacks, packets, reading
from .drives import SourceError, is_storage
from .tables import Table


class Inspection(NamedTuple):
    """What was found, as values for JSON and as tables for people.

    Of a bag, the value `notes` tells in one line each what is odd, or could not be read.
    """

    values: Mapping[str, Any]
    tables: list[Table]


def inspect(path: Path, each_packet: bool = False) -> Inspection:
    """Return what is in a bundle's folder, a bag (folder, .mcap or .db3), or a packet as CDR.

    Args:
        path: of it.
        each_packet: whether to list a bag's packets one by one.

    Raises:
        SourceError: it is none of these, or cannot be read.
        BundleError: the bundle is damaged.
        PacketError: the packet is.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a model bundle, a bag or a packet")
    if (path / MANIFEST).exists():
        return _bundle(path)
    if path.is_dir() or is_storage(path):
        return _bag(path, each_packet)
    return _packet(path)


def _bundle(path: Path) -> Inspection:
    bundle = ModelBundle.load(path)
    files = {
        name: int(record.get("bytes", (path / name).stat().st_size))
        for name, record in bundle.files.items()
    }
    height, width = bundle.input_size
    values = {
        "kind": "bundle",
        "name": bundle.name,
        "fingerprint": f"{bundle.fingerprint:016x}",
        "input_size": f"{width}x{height}",
        "tokens": bundle.grid[0] * bundle.grid[1],
        "grid": f"{bundle.grid[1]}x{bundle.grid[0]}",
        "levels": bundle.levels,
        "codes": bundle.codes,
        "bytes_at_fixed_length": [
            -(-level * bundle.grid[0] * bundle.grid[1] * (bundle.codes - 1).bit_length() // 8)
            for level in range(1, bundle.levels + 1)
        ],
        "tasks": {name: _task(bundle, task) for name, task in bundle.tasks.items()},
        "files": files,
    }
    first = {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in values.items()
        if key not in ("tasks", "files", "kind")
    }
    tables = [
        Table.of(f"bundle {path}", first),
        Table("files", ("file", "bytes"), list(files.items())),
    ]
    for name, task in bundle.tasks.items():
        about = {key: value for key, value in _task(bundle, task).items() if key != "labels"}
        tables.append(Table.of(f"task {name}", about))
        if "labels" in task.record:
            labels = [
                (label.id, label.name, "#{:02x}{:02x}{:02x}".format(*label.color))
                for label in task.labels.labels
            ]
            tables.append(Table(f"labels of {name}", ("id", "name", "colour"), labels))
    return Inspection(values, tables)


def _task(bundle: ModelBundle, task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": task.kind, "version": task.version[:16]}
    if "expert" in task.record:
        path = bundle.expert_path(task)
        found["expert"] = str(path) if path.exists() else "not here"
    if "unit" in task.record:
        found["unit"] = task.record["unit"]
    if "labels" in task.record:
        found["labels"] = {label.id: label.name for label in task.labels.labels}
    return found


def _packet(path: Path) -> Inspection:
    try:
        message = deserialize_message(path.read_bytes()[: 2 * MAX_SERIALIZED_BYTES], TokenPacket)
        packet = from_packet_message(message)
    except Exception as error:  # rclpy raises exceptions of many types
        raise SourceError(
            f"{path} is no model bundle, no bag and no packet ({error}); give the folder of a "
            "bundle, a bag, or a gosvae_msgs/TokenPacket as CDR"
        ) from error
    values = {
        "kind": "packet",
        "fingerprint": f"{packet.fingerprint:016x}",
        "version": packet.version,
        "stream": f"{packet.stream:08x}",
        "sequence": packet.sequence,
        "stamp": f"{packet.header.sec}.{packet.header.nanosec:09d}",
        "frame_id": packet.header.frame_id,
        "frame": f"{packet.source_width}x{packet.source_height}",
        "what": _kind(packet),
        "levels": packet.levels,
        "slice": packet.slice_index,
        "slices": packet.slice_count,
        "payload_bytes": len(packet.payload),
        "bytes": packet.serialized_size(),
        "intact": packet.checksum == packet.crc32c,
    }
    if packet.version not in (VERSION, SEALED_VERSION) or not values["intact"]:
        raise PacketError(
            f"{path}: version {packet.version}, CRC-32C {packet.checksum:08x}, packet says "
            f"{packet.crc32c:08x}: not an intact packet of version {VERSION} or {SEALED_VERSION}"
        )
    return Inspection(values, [Table.of(f"packet {path}", values)])


def _kind(packet: Packet) -> str:
    if packet.parity:
        return "parity"
    return f"predicted, {packet.reference} back" if packet.reference else "intra"


@dataclass
class _Stream:
    """What a camera's packets add up to."""

    frames: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    """Bytes by stream and sequence number."""
    intra: set[tuple[int, int]] = field(default_factory=set)
    fingerprints: Counter[int] = field(default_factory=Counter)
    levels: Counter[int] = field(default_factory=Counter)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    packets: int = 0
    parity: int = 0
    damaged: int = 0
    first: int | None = None
    last: int = 0
    assembly: Assembly = field(default_factory=Assembly)
    told: tuple[int, int] | None = None
    """Packets received and lost, as feedback has them."""

    def add(self, packet: Packet, time: int) -> None:
        """Add one packet, recorded at `time` in ns."""
        self.first = time if self.first is None else min(self.first, time)
        self.last = max(self.last, time)
        self.packets += 1
        if packet.version != VERSION or packet.checksum != packet.crc32c:
            self.damaged += 1
            return
        for _ in self.assembly.push(packet, time):
            pass
        key = packet.stream, packet.sequence
        self.frames[key] += packet.serialized_size()
        if packet.reference == 0:
            self.intra.add(key)
        self.parity += packet.parity
        self.fingerprints[packet.fingerprint] += 1
        self.levels[packet.levels] += 1
        self.sizes.add((packet.source_width, packet.source_height))

    def values(self) -> dict[str, Any]:
        """Return the figures."""
        for _ in self.assembly.finish():
            pass
        sizes = list(self.frames.values())
        slices = self.packets - self.parity - self.damaged
        lost = self.assembly.lost
        seconds = (self.last - (self.first or 0)) / 1e9
        # The last frame takes as long as the others.
        if len(self.frames) > 1:
            seconds *= len(self.frames) / (len(self.frames) - 1)
        return {
            "bundles": [f"{each:016x}" for each in self.fingerprints],
            "streams": len({stream for stream, _ in self.frames}),
            "frame_sizes": [f"{width}x{height}" for width, height in sorted(self.sizes)],
            "frames": len(self.frames),
            "intra": len(self.intra),
            "predicted": len(self.frames) - len(self.intra),
            "packets": self.packets,
            "parity": self.parity,
            "damaged": self.damaged,
            "levels": _mean(self.levels),
            "frames_per_s": round(len(self.frames) / seconds, 3) if seconds else None,
            "bytes_per_frame": round(float(np.mean(sizes)), 1) if sizes else None,
            "bytes_per_frame_p95": round(float(np.percentile(sizes, 95)), 1) if sizes else None,
            "kbit_per_s": round(sum(sizes) * 8e-3 / seconds, 2) if seconds else None,
            "loss": round(lost / (lost + slices), 4) if slices else None,
            "loss_told_by_receiver": self.told and round(self.told[1] / max(sum(self.told), 1), 4),
        }


def _mean(counts: Counter[int]) -> float | None:
    total = sum(counts.values())
    return round(sum(key * count for key, count in counts.items()) / total, 2) if total else None


def _bag(path: Path, each_packet: bool) -> Inspection:
    streams: dict[str, _Stream] = defaultdict(_Stream)
    listed: list[tuple[Any, ...]] = []
    with reading(path) as reader:
        start, duration = reader.span
        counts: Counter[tuple[str, str]] = Counter()
        for each in reader.connections:
            counts[each.topic, each.msgtype] += each.msgcount
        for camera, time, message, size in packets(reader):
            packet = from_packet_message(message)
            streams[camera].add(packet, time)
            if each_packet:
                listed.append(_row(packet, camera, (time - start) / 1e9, size))
        for camera, _, message, _ in feedbacks(reader):
            if camera in streams:
                streams[camera].told = message.packets_received, message.packets_lost
    topics = [
        {"topic": topic, "type": msgtype, "messages": count}
        for (topic, msgtype), count in sorted(counts.items())
    ]
    figures = {camera: stream.values() for camera, stream in streams.items()}
    values: dict[str, Any] = {
        "kind": "bag",
        "seconds": round(duration / 1e9, 3),
        "notes": list(reader.notes),
        "cameras": figures,
        "topics": topics,
    }
    tables = list(_tables(path, values))
    if each_packet:
        values["packets"] = [dict(zip(_COLUMNS, row, strict=True)) for row in listed]
        tables.append(Table("packets", _COLUMNS, listed))
    return Inspection(values, tables)


_COLUMNS = ("seconds", "camera", "sequence", "what", "levels", "slice", "slices", "bytes", "intact")


def _row(packet: Packet, camera: str, seconds: float, size: int) -> tuple[Any, ...]:
    return (
        *(round(seconds, 6), camera, packet.sequence, _kind(packet), packet.levels),
        *(packet.slice_index, packet.slice_count, size, packet.checksum == packet.crc32c),
    )


def _tables(path: Path, values: Mapping[str, Any]) -> Iterator[Table]:
    for camera, figures in values["cameras"].items():
        shown = {
            name: ", ".join(value) if isinstance(value, list) else value
            for name, value in figures.items()
        }
        yield Table.of(f"packets of {camera}", shown)
    yield Table(
        f"bag {path}, {values['seconds']:.1f} s",
        ("topic", "type", "messages"),
        [tuple(topic.values()) for topic in values["topics"]],
    )
