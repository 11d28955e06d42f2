"""Video files."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from .mp4 import Part, PartOfFile, mp4_parts
from .source import EPOCH, Frame, Loss, Pictures, Pixels, SourceError

_SECOND = 1_000_000_000
_JOINT_BACK = _SECOND
"""How far in ns presentation times fall where one file was joined to another."""
_JOINT_AHEAD = 60 * _SECOND
"""How far in ns they rise there."""
_FAILURES = 100
"""Errors in a row after which a container is not read on."""
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_TIMELESS = "avi"
"""Container without times of presentation: FFmpeg's fall where there are B-frames. Its packets are
evenly spaced, empty ones included, and its pictures take their places in turn."""
_CONCEALED = "mjpeg"
"""Codec whose decoder by default conceals damage without marking the picture as corrupt."""
_MAX_RATE = 1000
"""Frames per second above which a container's rate is a default, not a rate."""


class Video(Pictures):
    """A video file, stamped with its presentation times.

    Of several streams the largest of the film's is played, never an attached picture. Times rise
    from frame to frame: where files were joined end to end, they go on one frame's time later.
    """

    def __init__(self, path: Path, camera: str) -> None:
        super().__init__(path, camera)
        self.channels = self.channels[:1]
        self._parts = mp4_parts(path)
        counts, self._joined = self._count_frames()
        with self._open(self._parts[0]) as container:
            stream = self._choose(container, counts)
            self._stream = stream.index
            self._count = counts[stream.index]
            self._indexed = container.format.name in _INDEXED and not self._joined
            rates = [stream.average_rate, stream.guessed_rate]
            if container.format.name == _TIMELESS and stream.duration:
                rates.insert(0, self._count / (stream.duration * stream.time_base))
            rate = next((float(each) for each in rates if each and each <= _MAX_RATE), 25.0)
        losses: list[Loss] = []
        pictures = self._decoded(losses)
        first = next(pictures, None)
        pictures.close()
        if first is None:
            reason = f": {losses[0].reason}" if losses else ""
            raise SourceError(f"{path} has no frames in its video stream{reason}")
        self._first = first.pts
        height, width = _upright(first).shape[:2]
        self.interval = round(_SECOND / rate)
        self.duration = round((self._count - 1) * _SECOND / rate)
        self.description = f"{path}: video {width}x{height}, {self._count} frames at {rate:.4g} Hz"

    def _open(self, part: Part | None) -> Any:
        try:
            container = av.open(str(self.path) if part is None else PartOfFile(self.path, part))
        except (av.error.FFmpegError, OSError) as error:
            with self.path.open("rb") as file:
                is_mp4 = file.read(8)[4:] == b"ftyp"
            if is_mp4 and isinstance(error, av.error.InvalidDataError):
                raise SourceError(
                    f"{self.path} has no index (moov): its recording was cut off; a tool such as "
                    "untrunc can rebuild it from another video of the same camera"
                ) from error
            raise SourceError(
                f"{self.path} is neither a bag nor a readable video: {error}"
            ) from error
        if not container.streams.video:
            container.close()
            raise SourceError(f"{self.path} has no video stream")
        return container

    def _count_frames(self) -> tuple[Counter[int], bool]:
        """Return how many frames each video stream has, and whether files were joined in it."""
        total: Counter[int] = Counter()
        joined = len(self._parts) > 1
        for part in self._parts:
            with self._open(part) as container:
                counts = {stream.index: stream.frames for stream in container.streams.video}
                if not all(counts.values()) or container.format.name == _TIMELESS:
                    counts, restarts = _count_packets(container)
                    joined |= restarts
            total.update(counts)
        return total, joined

    def _choose(self, container: Any, counts: Counter[int]) -> Any:
        """Return the stream with the largest pictures among those that run as long as any."""
        films = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if not films:
            raise SourceError(f"{self.path} has an attached picture but no film")
        most = max(counts[stream.index] for stream in films)
        if not most:
            raise SourceError(f"{self.path} has no frames in its video stream")
        whole = [stream for stream in films if 2 * counts[stream.index] >= most]
        chosen = max(whole, key=lambda stream: stream.width * stream.height)
        if len(whole) > 1:
            self.notes = (
                f"{self.path} has {len(whole)} video streams; stream {chosen.index}, "
                f"{chosen.width}x{chosen.height}, is played",
            )
        return chosen

    def __len__(self) -> int:
        return self._count

    def _decoded(self, losses: list[Loss], offset: int = 0) -> Generator[Any, None, None]:
        """Yield the stream's pictures, from about `offset` ns on."""
        for part in self._parts:
            with self._open(part) as container:
                stream = container.streams[self._stream]
                stream.thread_type = "AUTO"
                if stream.codec_context.name == _CONCEALED:
                    stream.codec_context.options = {"err_detect": "explode"}
                if offset:
                    start = self._first + int(offset / _SECOND / stream.time_base)
                    container.seek(start, stream=stream)
                times: deque[int | None] | None = (
                    deque() if container.format.name == _TIMELESS else None
                )
                for packet, error in _packets(container, [stream]):
                    if times is not None and packet is not None and packet.size:
                        times.append(packet.dts)
                    if error is not None:
                        losses.append(Loss("frame", 0, f"{self.path} does not read on: {error}"))
                        continue
                    try:
                        pictures = packet.decode()
                    except av.error.FFmpegError as error:
                        if times:
                            times.popleft()
                        reason = f"{self.path}: a frame does not decode: {error}"
                        losses.append(Loss("frame", 1, reason))
                        continue
                    for picture in pictures:
                        if times:
                            picture.pts = times.popleft()
                        if picture.is_corrupt:
                            losses.append(Loss("frame", 1, f"{self.path}: a frame is damaged"))
                        else:
                            yield picture

    def _read(self, offset: int, labels: bool, losses: list[Loss]) -> Iterator[Frame]:
        last = EPOCH - self.interval
        shift = count = 0
        # Without an index, or where times begin anew, a time does not say where to go on.
        sought = offset if self._first is not None and self._indexed else 0
        for picture in self._decoded(losses, sought):
            stamp = self._stamp(picture, shift)
            if stamp is None:
                stamp = last + self.interval
            elif not sought and not last - _JOINT_BACK < stamp < last + _JOINT_AHEAD:
                shift += last + self.interval - stamp
                stamp = last + self.interval
            # Times that repeat must differ, as a stamp names its frame.
            stamp = max(stamp, last + 1_000) if count else max(stamp, EPOCH)
            count += 1
            last = stamp
            if stamp >= EPOCH + offset:
                image = _upright(picture)
                yield Frame(stamp, self.cameras[0], image, None, time=stamp, index=count - 1)
        lost = self._count - count - sum(loss.count for loss in losses)
        if lost > 0 and not sought:
            reason = f"its container tells of {self._count} frames, {count} decode"
            losses.append(Loss("frame", lost, f"{self.path}: {reason}"))
        if not sought:
            # Some containers tell of fewer than they hold.
            self._count = count + sum(loss.count for loss in losses)

    def _stamp(self, picture: Any, shift: int) -> int | None:
        if picture.pts is None or self._first is None:
            return None
        since = float((picture.pts - self._first) * picture.time_base * _SECOND)
        return EPOCH + round(since) + shift


def _packets(container: Any, streams: Any) -> Iterator[tuple[Any, Exception | None]]:
    """Yield each packet, or the error in its place, and go on behind errors."""
    failures = 0
    while failures < _FAILURES:
        try:
            for packet in container.demux(*streams):
                failures = 0
                yield packet, None
            return
        except av.error.FFmpegError as error:
            failures += 1
            if failures == 1:
                yield None, error


def _count_packets(container: Any) -> tuple[dict[int, int], bool]:
    """Return how many frames each video stream has, and whether times begin anew in one."""
    counts = {stream.index: 0 for stream in container.streams.video}
    last: dict[int, int] = {}
    restarts = False
    for packet, error in _packets(container, container.streams.video):
        if error is not None or packet.size == 0:
            continue
        index = packet.stream_index
        counts[index] += 1
        if packet.dts is not None:
            step = (packet.dts - last.get(index, packet.dts)) * packet.time_base * _SECOND
            restarts |= not -_JOINT_BACK < step < _JOINT_AHEAD
            last[index] = packet.dts
    return counts, restarts


def _upright(picture: Any) -> Pixels:
    image = picture.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(picture.rotation / 90)))
