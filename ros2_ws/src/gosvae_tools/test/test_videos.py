"""Videos as cameras, phones and tools leave them: cut, joined, turned, with odd times."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gosvae_tools.drives import EPOCH, SourceError, open_source

W, H = 96, 64
RATE = 10


def gray(index: int, size: tuple[int, int] = (H, W)) -> np.ndarray:
    """Return a frame whose brightness tells its place."""
    return np.full((*size, 3), 20 + index * 10, np.uint8)


def write(
    path: Path,
    frames: int = 12,
    codec: str = "mpeg4",
    first: int = 0,
    times: list[int] | None = None,
    **options: str,
) -> Path:
    """Write frames at `times` in ms, else evenly."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(gray(first + index), format="rgb24")
            frame.pts = times[index] if times else index * 1000 // RATE
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def places(path: Path) -> list[int]:
    """Return what :func:`gray` was called with for each frame."""
    return [round((float(f.image.mean()) - 20) / 10) for f in open_source(path).frames()]


def times(path: Path) -> list[float]:
    """Return the frames' times in ms."""
    return [(frame.stamp - EPOCH) / 1e6 for frame in open_source(path).frames()]


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4", "mov"])
def test_files_joined_end_to_end_go_on(tmp_path: Path, suffix: str) -> None:
    parts = [write(tmp_path / f"{k}.{suffix}", 8, first=8 * k) for k in range(2)]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = open_source(joined)
    stamps = [frame.stamp for frame in source.frames()]
    assert len(stamps) + source.lost == len(source) == 16
    assert len(stamps) >= 15 and places(joined) == sorted(places(joined))
    assert np.all(np.diff(stamps) > 0) and np.all(np.diff(stamps) < 500_000_000)
    later = [message.stamp for message in source.messages(1_000_000_000)]
    assert later == [stamp for stamp in stamps if stamp >= EPOCH + 1_000_000_000]


def test_variable_rate_and_b_frames_keep_their_times(tmp_path: Path) -> None:
    wanted = [0, 40, 80, 400, 440, 1900, 1933, 2000, 2500, 2501, 2600, 9000]
    path = write(tmp_path / "v.mkv", 12, "libx264", times=wanted, bf="3")
    assert times(path) == wanted
    assert places(path) == list(range(12))


@pytest.mark.parametrize("suffix", ["h264", "avi", "ts", "mov", "mkv"])
def test_b_frames_and_streams_without_times(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"v.{suffix}", 12, "libx264", bf="3")
    source = open_source(path)
    steps = np.diff([frame.stamp for frame in source.frames()])
    assert np.all(np.abs(steps - source.interval) < 2_000_000)
    assert places(path) == list(range(12)) and source.lost == 0
    later = [message.stamp for message in source.messages(5 * source.interval)]
    assert later == [frame.stamp for frame in source.frames()][5:]


def test_an_attached_picture_is_not_the_film(tmp_path: Path) -> None:
    film, cover = write(tmp_path / "film.mp4"), tmp_path / "cover.mp4"
    with av.open(str(film)) as source, av.open(str(cover), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 640, 480, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream_from_template(source.streams.video[0])
        still = av.VideoFrame.from_ndarray(gray(23, (480, 640)), format="rgb24")
        container.mux(picture.encode(still))
        container.mux(picture.encode())
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    source = open_source(cover)
    assert len(source) == 12 and f"{W}x{H}" in source.description
    assert places(cover) == list(range(12))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_described_as_it_is_played(tmp_path: Path, degrees: int) -> None:
    turned = write(tmp_path / "turned.mp4")
    data = bytearray(turned.read_bytes())
    sine, cosine = {90: (1, 0), 180: (0, -1), 270: (-1, 0)}[degrees]
    matrix = [cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30]
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *matrix)
    turned.write_bytes(data)
    source = open_source(turned)
    height, width = next(source.frames()).image.shape[:2]
    assert (width, height) == ((W, H) if degrees == 180 else (H, W))
    assert f"{width}x{height}" in source.description


@pytest.mark.parametrize("suffix", ["mkv", "ts", "avi"])
@pytest.mark.parametrize("damage", ["zeros", "cut"])
def test_damage_is_left_out_and_counted(tmp_path: Path, suffix: str, damage: str) -> None:
    path = write(tmp_path / f"v.{suffix}", 20, g="5")
    data = bytearray(path.read_bytes())
    if damage == "zeros":
        data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    else:
        del data[len(data) * 3 // 4 :]
    path.write_bytes(data)
    source = open_source(path)
    frames = list(source.frames())
    assert 5 <= len(frames) <= 20 and len(frames) + source.lost == len(source)
    assert all(str(path) in loss.reason for loss in source.losses)


@pytest.mark.parametrize("suffix", ["avi", "mov"])
def test_a_damaged_motion_jpeg_is_left_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (12, H, W, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuvj420p"
        for each in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        container.mux(stream.encode())
    assert len(list(open_source(path).frames())) == len(noise)
    data = bytearray(path.read_bytes())
    # The whole picture: what is left of one is decoded or not as its processor's encoder wrote it.
    start = data.index(b"\xff\xd8\xff", len(data) // 2)
    end = data.index(b"\xff\xd9", start)
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    source = open_source(path)
    frames = list(source.frames())
    assert source.lost in (1, 2) and len(frames) + source.lost == len(noise)


def test_a_video_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(SourceError, match=r"v\.mp4 .*recording was cut off"):
        open_source(path)
