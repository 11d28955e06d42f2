"""Video files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from .source import EPOCH, Frame, Pictures, SourceError


class Video(Pictures):
    """A video file, stamped with its presentation times."""

    def __init__(self, path: Path, camera: str) -> None:
        super().__init__(path, camera)
        self.channels = self.channels[:1]
        with self._open() as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            self._count = stream.frames or sum(
                packet.size > 0 for packet in container.demux(stream)
            )
            size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        if not self._count:
            raise SourceError(f"{path} has no frames in its video stream")
        self.interval = round(1e9 / rate)
        self.duration = round((self._count - 1) * 1e9 / rate)
        self.description = f"{path}: video {size}, {self._count} frames at {rate:.4g} Hz"

    def _open(self) -> Any:
        if self.path.suffix == ".bag":
            raise SourceError(
                f"{self.path} is a ROS 1 bag; convert it with "
                f"`rosbags-convert --src {self.path} --dst {self.path.with_suffix('')}`"
            )
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(
                f"{self.path} is neither a bag nor a readable video: {error}"
            ) from error
        if not container.streams.video:
            container.close()
            raise SourceError(f"{self.path} has no video stream")
        return container

    def __len__(self) -> int:
        return self._count

    def _read(self, offset: int) -> Iterator[Frame]:
        last = -1
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if offset and stream.start_time is not None:
                target = stream.start_time + int(offset / 1e9 / stream.time_base)
                container.seek(target, stream=stream)
            try:
                for index, picture in enumerate(container.decode(stream)):
                    if picture.pts is None:
                        stamp = EPOCH + index * self.interval
                    else:
                        ticks = picture.pts - (stream.start_time or 0)
                        stamp = EPOCH + round(ticks * picture.time_base * 1_000_000_000)
                    # A stamp names its frame, so of broken videos' repeated times take the first.
                    if stamp < EPOCH + offset or stamp <= last:
                        continue
                    last = stamp
                    image = picture.to_ndarray(format="rgb24")
                    upright = np.rot90(image, round(picture.rotation / 90))
                    yield Frame(stamp, self.cameras[0], np.ascontiguousarray(upright), None)
            except av.error.FFmpegError as error:
                raise SourceError(f"{self.path} does not decode on: {error}") from error
