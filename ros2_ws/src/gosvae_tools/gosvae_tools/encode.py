"""`gosvae encode`: a drive's frames to a bag of packets, without nodes.

What is written is what the transmitter would send, under its topics. A file loses nothing, so each
frame is predicted from the one before, until the next intra frame is due. Frames are taken in the
order of recording, and rates are those of the recording's time; stamps are carried unchanged,
whatever they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gosvae_codec import Encoder, Exposure, Header, ImageError, ModelBundle, Packet, PacketError
from gosvae_codec.draft import draft
from gosvae_codec.sender import Sender, Settings
from gosvae_common.errors import UsageError
from gosvae_common.messages import to_packet_message
from gosvae_common.topics import PACKETS

from .bag_writer import BagWriter
from .coding import Coding, progress
from .drives import Frame, Source, SourceError, open_source
from .outcome import MAX_DAMAGED, Outcome, damage_problem

SHOWN_REASONS = 3
"""Damaged frames that are named one by one."""


def encode(
    source: Path,
    output: Path,
    coding: Coding,
    settings: Settings,
    cameras: tuple[str, ...] = ("camera",),
    topics: tuple[str, ...] = (),
    max_damaged: float = MAX_DAMAGED,
) -> Outcome:
    """Write the packets of a drive's frames to a bag.

    Args:
        source: a rosbag2, a video, or a folder of images; see :func:`open_source`.
        output: an MCAP file where it ends in ``.mcap``, else a rosbag2 folder.
        coding: bundle and providers.
        settings: as the transmitter's parameters.
        cameras: base names of the packets' topics.
        topics: the bag's image topic of each camera, where that is not clear.
        max_damaged: share of damaged frames above which the outcome has a problem.

    Raises:
        UsageError: the bundle has fewer levels than are asked for.
        SourceError: the source cannot be read, or no frame of it can be encoded.
        OSError: `output` exists, or cannot be written.
        BundleError, ProviderError: as :class:`Encoder` does.
    """
    bundle = coding.load()
    if settings.levels > bundle.levels:
        raise UsageError(f"levels {settings.levels}: {bundle.name} has 1 to {bundle.levels}")
    drive = open_source(source, cameras, topics)
    run = _Run(bundle, coding, settings, drive.cameras)
    with draft(output) as path, BagWriter(path) as writer, progress() as bar:
        frames = drive.frames(labels=False)
        for frame in bar.track(frames, len(drive), description="encoded"):
            for packet in run.encode(frame):
                message = to_packet_message(packet)
                writer.write(f"/{frame.camera}/{PACKETS}", run.time, message)
        if not run.packets:
            raise SourceError(run.explain_nothing(source))
    return run.outcome(output, drive, max_damaged)


@dataclass
class _Run:
    """The senders of all cameras, and what they have made so far."""

    bundle: ModelBundle
    coding: Coding
    settings: Settings
    cameras: Sequence[str]
    frames: int = 0
    intra: int = 0
    packets: int = 0
    size: int = 0
    unusable: int = 0
    """Frames that are nearly black or nearly constant."""
    first: int | None = None
    time: int = 0
    """When the newest frame was recorded in ns."""

    def __post_init__(self) -> None:
        self.failures: list[str] = []
        self.senders = {
            camera: Sender(
                Encoder(self.bundle, self.coding.providers, self.coding.threads),
                lambda: self.time / 1e9,
            )
            for camera in self.cameras
        }

    @property
    def skipped(self) -> int:
        """Frames that rate control left out."""
        return sum(sender.control.skipped for sender in self.senders.values())

    def encode(self, frame: Frame) -> Sequence[Packet]:
        """Return the packets of a frame; none where it is skipped, or cannot be encoded."""
        self.frames += 1
        # MCAP has no times before 1970, and the senders' clock must not turn back.
        self.time = max(self.time, frame.time)
        self.first = self.time if self.first is None else self.first
        self.unusable += bool(Exposure.of(frame.image).problem)
        sender = self.senders[frame.camera]
        header = Header(*divmod(frame.stamp, 1_000_000_000), frame.frame_id)
        try:
            packets = sender.send(frame.image, header, self.settings)
        except (ImageError, PacketError) as error:
            self.failures.append(f"frame {frame.index} of {frame.camera}: {error}")
            return ()
        if packets:
            self.packets += len(packets)
            self.size += sum(packet.serialized_size() for packet in packets)
            self.intra += packets[0].reference == 0
            sender.encoder.acknowledge(packets[0].sequence)
        return packets

    def explain_nothing(self, source: Path) -> str:
        """Return why there is not one packet."""
        if self.failures:
            return f"no frame of {source} can be encoded: {self.failures[0]}"
        return (
            f"no frame of {source} fits max_kbit_per_s {self.settings.max_kbit_per_s:g}: raise it"
        )

    def outcome(self, output: Path, drive: Source, max_damaged: float) -> Outcome:
        """Return the figures, and what of the drive was not encoded."""
        damaged = drive.lost + len(self.failures)
        encoded = self.frames - self.skipped - len(self.failures)
        total = self.frames + drive.lost
        reasons = [*(loss.reason for loss in drive.losses if loss.kind == "frame"), *self.failures]
        notes = [f"left out: {reason}" for reason in reasons[:SHOWN_REASONS]]
        if len(reasons) > SHOWN_REASONS:
            notes.append(f"left out for like reasons: {len(reasons) - SHOWN_REASONS} more")
        if self.unusable:
            notes.append(
                f"{self.unusable} of {self.frames} frames are nearly black or nearly constant: "
                "their masks mean nothing"
            )
        problems = [damage_problem("frames", damaged, total, max_damaged)]
        if total != len(drive):
            problems.append(f"{total} frames were read, but the input counts {len(drive)}")
        figures: dict[str, Any] = {
            "output": str(output),
            "bundle": self.bundle.name,
            "fingerprint": f"{self.bundle.fingerprint:016x}",
            "frames_in_input": total,
            "frames": self.frames,
            "frames_damaged": damaged,
            "skipped": self.skipped,
            "frames_encoded": encoded,
            "intra_frames": self.intra,
            "packets": self.packets,
            "bytes": self.size,
            "bytes_per_frame": round(self.size / encoded, 1),
            "kbit_per_s": self._rate(drive),
        }
        return Outcome(figures, (*drive.notes, *notes), tuple(filter(None, problems)))

    def _rate(self, drive: Source) -> float | None:
        """Return the packets' rate in kbit/s; None where all frames have one time."""
        assert self.first is not None
        elapsed = self.time - self.first
        if not elapsed and self.frames > len(drive.cameras):
            return None
        return round(self.size * 8e6 / (elapsed + drive.interval), 2)
