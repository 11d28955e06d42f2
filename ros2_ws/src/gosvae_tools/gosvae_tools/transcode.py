"""`gosvae encode` and `gosvae decode`: frames to packets to masks from file to file, without nodes.

What is written is what the nodes would send and publish, under their topics. A file loses nothing,
so that each frame is predicted from the one before, until the next intra frame is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gosvae_codec import (
    DecodedFrame,
    Decoder,
    EncodedFrame,
    Encoder,
    FingerprintError,
    Header,
    MissingReferenceError,
    ModelBundle,
    PacketError,
    Reassembler,
)
from gosvae_codec.masks import colorize
from gosvae_codec.sender import Sender, Settings
from gosvae_common.errors import UsageError
from gosvae_common.messages import (
    from_packet_message,
    to_header_message,
    to_image,
    to_label_info,
    to_packet_message,
)
from gosvae_common.shipped import find_bundle
from gosvae_common.topics import COLOR, LABEL_INFO, MASK, PACKETS

from .bags import PACKET_TYPE, BagWriter, draft, packets, reading
from .drives import SourceError, open_source

SLICE_SECONDS = 0.3
"""For how long a frame's slices are waited for, in the time of the recording."""

Write = Callable[[str, int, DecodedFrame], None]


@dataclass(frozen=True)
class Coding:
    """Where networks run, and with which bundle."""

    bundle: str = ""
    providers: tuple[str, ...] = ("cpu",)
    threads: int = 1

    def load(self) -> ModelBundle:
        """Return the bundle; raises as :func:`find_bundle` and :meth:`ModelBundle.load` do."""
        return ModelBundle.load(find_bundle(self.bundle))


def encode(
    source: Path,
    output: Path,
    coding: Coding,
    settings: Settings,
    cameras: tuple[str, ...] = ("camera",),
    topics: tuple[str, ...] = (),
) -> Mapping[str, Any]:
    """Write the packets of a drive's frames to a bag.

    Args:
        source: a rosbag2, a video, or a folder of images; see :func:`open_source`.
        output: an MCAP file where it ends in ``.mcap``, else a rosbag2 folder.
        coding: bundle and providers.
        settings: as the transmitter's parameters.
        cameras: base names of the packets' topics.
        topics: the bag's image topic of each camera, where that is not clear.

    Returns:
        Figures of all cameras together.

    Raises:
        UsageError: the bundle has fewer levels than are asked for.
        SourceError: the source cannot be read, or `output` exists.
        BundleError, ProviderError, PacketError, ImageError: as :class:`Encoder` does.
    """
    bundle = coding.load()
    if settings.levels > bundle.levels:
        raise UsageError(f"levels {settings.levels}: {bundle.name} has 1 to {bundle.levels}")
    drive = open_source(source, cameras, topics)
    now = 0.0
    senders = {
        camera: Sender(Encoder(bundle, coding.providers, coding.threads), lambda: now)
        for camera in drive.cameras
    }
    frames = intra = count = size = 0
    first = last = None
    with draft(output) as path, BagWriter(path) as writer, _progress() as progress:
        for frame in progress.track(drive.frames(), len(drive), description="encoded"):
            now = frame.stamp / 1e9
            header = Header(*divmod(frame.stamp, 1_000_000_000), frame.frame_id)
            made = senders[frame.camera].send(frame.image, header, settings)
            frames += 1
            first, last = first or frame.stamp, frame.stamp
            for packet in made:
                message = to_packet_message(packet)
                writer.write(f"/{frame.camera}/{PACKETS}", frame.stamp, message)
                size += packet.serialized_size()
            if made:
                count += len(made)
                intra += made[0].reference == 0
                senders[frame.camera].encoder.acknowledge(made[0].sequence)
        if not count:
            raise SourceError(
                f"no frame of {source} fits max_kbit_per_s {settings.max_kbit_per_s:g}: raise it"
            )
    skipped = sum(sender.control.skipped for sender in senders.values())
    assert first is not None and last is not None
    seconds = (last - first + drive.interval) / 1e9
    return {
        "output": str(output),
        "bundle": bundle.name,
        "fingerprint": f"{bundle.fingerprint:016x}",
        "frames": frames,
        "skipped": skipped,
        "intra_frames": intra,
        "packets": count,
        "bytes": size,
        "bytes_per_frame": round(size / (frames - skipped), 1),
        "kbit_per_s": round(size * 8e-3 / seconds, 2),
    }


def decode(
    source: Path, output: Path, coding: Coding, color: bool = False
) -> Mapping[str, int | str]:
    """Write the masks of a bag's packets to a bag, or to a folder of PNG files.

    Args:
        source: a bag with packets, of `gosvae encode` or recorded.
        output: an MCAP file where it ends in ``.mcap``; else a folder with
            ``<seconds>.<nanoseconds>.png`` for each mask, in a folder of its camera where there are
            several.
        coding: bundle and providers.
        color: colours instead of label ids.

    Returns:
        Figures of all cameras together.

    Raises:
        SourceError: the source cannot be read or has no packets, or `output` exists.
        FingerprintError: a packet was made with another bundle.
        BundleError, ProviderError: as :class:`Decoder` does.
    """
    bundle = coding.load()
    reassemblers: dict[str, Reassembler] = {}
    decoders: dict[str, Decoder] = {}
    masks = concealed = undecodable = rejected = 0
    with ExitStack() as stack:
        reader = stack.enter_context(_packets_of(source))
        total = sum(each.msgcount for each in reader.connections if _is_packets(each))
        cameras = {each.topic for each in reader.connections if _is_packets(each)}
        path = stack.enter_context(draft(output))
        write = stack.enter_context(_writing(path, bundle, color, len(cameras) > 1))
        progress = stack.enter_context(_progress())

        def take(camera: str, ready: list[EncodedFrame], time: int) -> None:
            nonlocal masks, concealed, undecodable, rejected
            for frame in ready:
                try:
                    decoded = decoders[camera].decode(frame.packets)
                except MissingReferenceError:
                    undecodable += 1
                except PacketError:
                    rejected += 1
                else:
                    write(camera, time, decoded)
                    masks += 1
                    concealed += not decoded.complete

        time = 0
        for camera, time, message, _ in progress.track(packets(reader), total, description="read"):
            if camera not in decoders:
                decoders[camera] = Decoder(bundle, coding.providers, coding.threads)
                reassemblers[camera] = Reassembler()
            try:
                packet = from_packet_message(message)
                packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
            except FingerprintError:
                raise
            except PacketError:
                rejected += 1
                continue
            reassembler, now = reassemblers[camera], time / 1e9
            take(camera, reassembler.expire(now - SLICE_SECONDS), time)
            take(camera, reassembler.push(packet, now), time)
        for camera, reassembler in reassemblers.items():
            take(camera, reassembler.expire(float("inf")), time)
        lost = sum(each.lost for each in reassemblers.values())
        if not masks:
            raise SourceError(
                f"{source}: none of its {total} packets gave a mask: {rejected} are damaged, "
                f"{undecodable} frames lack the one that they are predicted from"
            )
    return {
        "output": str(output),
        "bundle": bundle.name,
        "fingerprint": f"{bundle.fingerprint:016x}",
        "masks": masks,
        "masks_with_lost_slices": concealed,
        "frames_without_reference": undecodable,
        "packets": total,
        "packets_lost": lost,
        "packets_rejected": rejected,
    }


def _is_packets(connection: Any) -> bool:
    return bool(connection.msgtype == PACKET_TYPE)


@contextmanager
def _packets_of(source: Path) -> Iterator[Any]:
    with reading(source) as reader:
        if not any(map(_is_packets, reader.connections)):
            topics = ", ".join(sorted({each.topic for each in reader.connections})) or "none"
            raise SourceError(
                f"bag {source} has no packets, its topics are: {topics}; "
                "make some with `gosvae encode`, or record with record:="
            )
        yield reader


@contextmanager
def _writing(path: Path, bundle: ModelBundle, color: bool, several: bool) -> Iterator[Write]:
    """Yield what writes a mask of a camera, decoded at a time in ns."""

    def pixels(decoded: DecodedFrame) -> np.ndarray:
        return colorize(decoded.mask, bundle.labels) if color else decoded.mask

    if path.suffix == ".mcap":
        with BagWriter(path) as writer:
            labelled: set[str] = set()

            def write(camera: str, time: int, decoded: DecodedFrame) -> None:
                header = to_header_message(decoded.header)
                if camera not in labelled:
                    labelled.add(camera)
                    info = to_label_info(bundle, header.stamp)
                    writer.write(f"/{camera}/{LABEL_INFO}", time, info)
                encoding, topic = ("rgb8", COLOR) if color else ("mono8", MASK)
                image = to_image(pixels(decoded), encoding, header)
                writer.write(f"/{camera}/{topic}", time, image)

            yield write
        return

    def save(camera: str, time: int, decoded: DecodedFrame) -> None:
        folder = path / camera if several else path
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{decoded.header.sec}.{decoded.header.nanosec:09d}.png"
        picture = pixels(decoded)
        if color:
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(file), picture):
            raise OSError(f"{file} cannot be written")

    yield save


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
