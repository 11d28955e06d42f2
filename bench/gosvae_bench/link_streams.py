"""Streams that are sent over a simulated link: tokens, JPEG images, H.264 video.

Each is a sender and a receiver in one object, run on simulated time by :mod:`sweep`. What crosses
is datagrams of at most 1,400 bytes of ROS message; a JPEG image or H.264 frame takes several, and
is lost with any of them. Where there are pixels at the receiver, its masks are the expert's.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

import gosvae_codec as codec
from gosvae_codec import (
    Decoder,
    EncodedFrame,
    Encoder,
    Expert,
    Header,
    MissingReferenceError,
    ModelBundle,
    Reassembler,
)
from gosvae_codec.congestion import Report
from gosvae_codec.masks import Mask
from gosvae_codec.rate import DATAGRAM_OVERHEAD_BYTES
from gosvae_codec.sender import AUTOMATIC, Feedback, Sender, Settings, datagram_size

Image = npt.NDArray[np.uint8]

RATE = 15
"""Frames per second of CamVid's val split."""
DATAGRAM_BYTES = 1400
IMAGE_HEADER_BYTES = 60
"""Of a CompressedImage or FFMPEGPacket before its data, as CDR."""
SLICE_TIMEOUT = 0.3
FEEDBACK_RATE = 5.0
"""Defaults of the receiver's parameters, in seconds and Hz."""
FEEDBACK_BYTES = 92
"""Of a Feedback message about frames of "camera", as CDR."""
REMEMBERED = 2000
"""Number of outputs that are kept of each network."""
SHARE = 0.9
"""Share of a link's rate that a sender uses which knows it."""


class Datagram(NamedTuple):
    """Bytes on the wire, headers included, and the content that the receiver decodes."""

    size: int
    content: Any


class Shown(NamedTuple):
    """A mask that the receiver publishes, with the index of its frame and its coverage."""

    index: int
    mask: Mask
    coverage: float


class Networks:
    """A bundle's networks with a cache of outputs, as one drive is sent over many links."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle
        self.expert = Expert(bundle)
        self.encoder = _Remembering(Encoder(bundle).session.run)
        task = bundle.semantic
        features, heads = Decoder(bundle, tasks=[task.name]).networks
        _, head = heads[task.name]
        remembered = _Remembering(lambda tokens: head.run(*features.compute(tokens)))
        self.masks: Any = codec.Networks(_Deferred(), {task.name: (task, remembered)})
        session = self.expert.session
        remembering: Any = _Remembering(session.run, session.input_shapes)
        self.expert.session = remembering


class _Deferred:
    """Stands for the features' network: a head that remembers computes features if it has to."""

    def compute(self, tokens: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return [tokens]


class _Remembering:
    """A session of one output with a cache of it."""

    def __init__(
        self, run: Callable[..., npt.NDArray[Any]], input_shapes: Sequence[Any] = ()
    ) -> None:
        self._run, self.input_shapes = run, input_shapes
        self._outputs: dict[bytes, npt.NDArray[Any]] = {}

    def run_all(self, *arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return [self.run(*arrays)]

    def run(self, *arrays: npt.NDArray[Any]) -> npt.NDArray[Any]:
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        key = digest.digest()
        if key not in self._outputs:
            output = self._run(*arrays)
            self._outputs[key] = output.astype(np.float16) if output.dtype.kind == "f" else output
            # The outputs of a whole sweep would fill the memory.
            if len(self._outputs) > REMEMBERED:
                del self._outputs[next(iter(self._outputs))]
        output = self._outputs[key]
        return output.astype(np.float32) if output.dtype == np.float16 else output


class Stream:
    """One sender and its receiver; times are in seconds."""

    def send(self, index: int, time: float) -> list[Datagram]:
        """Return the datagrams of a frame; none if the sender skips it."""
        raise NotImplementedError

    def receive(self, datagram: Datagram, time: float) -> list[Shown]:
        """Return the masks that the receiver publishes when a datagram arrives."""
        raise NotImplementedError

    def tick(self, time: float) -> list[Shown]:
        """Return the masks that the receiver publishes because time has passed."""
        return []

    def feedback(self, time: float) -> Datagram | None:
        """Return the feedback that the receiver sends now, if any.

        Called after every arrival and every tick.
        """
        return None

    def on_feedback(self, feedback: Datagram, time: float) -> None:
        """Handle feedback at the sender."""


class _Pacer:
    """Admits a frame unless earlier ones still occupy a link of known rate for a frame's time."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    def admits(self, time: float) -> bool:
        """Return whether a frame may be sent now."""
        return self._free_at - time <= 1 / RATE

    def sent(self, datagrams: list[Datagram], time: float) -> list[Datagram]:
        """Count the datagrams of a frame, and return them."""
        if self._rate is not None:
            bits = 8 * sum(each.size for each in datagrams)
            self._free_at = max(self._free_at, time) + bits / (SHARE * self._rate)
        return datagrams


class Tokens(Stream):
    """This project's codec as the two nodes run it, with their defaults except `settings`."""

    def __init__(
        self, networks: Networks, frames: Sequence[Image], rate: float | None, settings: Settings
    ) -> None:
        self._frames = frames
        self._settings = replace(settings, max_kbit_per_s=(rate or 0) / 1000)
        encoder, self._decoder = Encoder(networks.bundle), Decoder(networks.bundle)
        encoder.session = networks.encoder
        self._decoder.networks = networks.masks
        # Reproducible where a payload depends on it.
        encoder.stream = 1
        self._now = 0.0
        self._sender = Sender(encoder, lambda: self._now)
        self._reassembler = Reassembler()
        self._acknowledged: int | None = None
        self._request_intra = self._urgent = False
        self._said_at = 0.0

    def send(self, index: int, time: float) -> list[Datagram]:
        self._now = time
        header = Header(0, index, "camera")
        packets = self._sender.send(self._frames[index], header, self._settings)
        return [Datagram(datagram_size(each), each) for each in packets]

    def receive(self, datagram: Datagram, time: float) -> list[Shown]:
        bundle = self._decoder.bundle
        datagram.content.check(bundle.fingerprint, bundle.grid, bundle.levels)
        return self._decode(self._reassembler.push(datagram.content, time))

    def tick(self, time: float) -> list[Shown]:
        return self._decode(self._reassembler.expire(time - SLICE_TIMEOUT))

    def _decode(self, frames: Sequence[EncodedFrame]) -> list[Shown]:
        shown = []
        for frame in frames:
            self._urgent = True
            try:
                decoded = self._decoder.decode(frame.packets)
            except MissingReferenceError:
                self._request_intra = True
                continue
            self._request_intra = False
            if decoded.complete:
                self._acknowledged = decoded.sequence
            shown.append(Shown(decoded.header.nanosec, decoded.mask, decoded.coverage))
        return shown

    def feedback(self, time: float) -> Datagram | None:
        reassembler = self._reassembler
        if reassembler.newest is None:
            return None
        if not self._urgent and time - self._said_at < 1 / FEEDBACK_RATE:
            return None
        self._urgent, self._said_at = False, time
        sequence, arrival = reassembler.newest
        report = Report(
            reassembler.received, reassembler.lost, sequence, round(arrival * 1e6) % (1 << 32)
        )
        usable = None if self._request_intra else self._acknowledged
        size = FEEDBACK_BYTES + DATAGRAM_OVERHEAD_BYTES
        return Datagram(size, Feedback(1, usable, report))

    def on_feedback(self, feedback: Datagram, time: float) -> None:
        self._now = time
        self._sender.on_feedback(feedback.content)


class _Whole(Stream):
    """Frames that need all of their datagrams, and are dropped if a later one was shown before."""

    def __init__(self, networks: Networks) -> None:
        self._expert = networks.expert
        self._parts: dict[int, int] = defaultdict(int)
        self._newest = -1

    def receive(self, datagram: Datagram, time: float) -> list[Shown]:
        index, parts, data = datagram.content
        self._parts[index] += 1
        if self._parts[index] < parts or index <= self._newest:
            return []
        self._newest = index
        return [Shown(i, self._expert.segment(image), 1.0) for i, image in self.decode(index, data)]

    def decode(self, index: int, data: Any) -> list[tuple[int, Image]]:
        """Return the images decoded from a complete frame, with their indices."""
        raise NotImplementedError


def _datagrams(index: int, data: Any, size: int) -> list[Datagram]:
    size += IMAGE_HEADER_BYTES
    sizes = [min(DATAGRAM_BYTES, size - at) for at in range(0, size, DATAGRAM_BYTES)]
    return [Datagram(each + DATAGRAM_OVERHEAD_BYTES, (index, len(sizes), data)) for each in sizes]


class Jpeg(_Whole):
    """JPEG as image_transport sends it: one image per frame; skips frames to stay within a rate."""

    def __init__(
        self, networks: Networks, frames: Sequence[Image], rate: float | None, quality: int
    ) -> None:
        super().__init__(networks)
        self._frames, self._quality = frames, quality
        self._pacer = _Pacer(rate)

    def send(self, index: int, time: float) -> list[Datagram]:
        if not self._pacer.admits(time):
            return []
        bgr = cv2.cvtColor(self._frames[index], cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, self._quality))
        return self._pacer.sent(_datagrams(index, data, data.size), time)

    def decode(self, index: int, data: Any) -> list[tuple[int, Image]]:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return [(index, np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))]


class H264(_Whole):
    """H.264 as ffmpeg_image_transport sends it: x264 without latency, a key frame every 10 frames.

    The encoder has the target `bit_rate`, or that of a link of known rate. After a lost frame and
    until the next key frame FFmpeg decides: pictures with artefacts of the loss, or none.
    """

    def __init__(
        self, networks: Networks, frames: Sequence[Image], rate: float | None, bit_rate: int
    ) -> None:
        super().__init__(networks)
        if rate is not None:
            bit_rate = round(max(SHARE * rate - RATE * 8 * DATAGRAM_OVERHEAD_BYTES, 0.2 * rate))
        self._packets = _encode_h264(frames, bit_rate)
        self._decoder = av.CodecContext.create("h264", "r")
        self._decoder.thread_count = 1
        self._decoder.options = {"flags": "low_delay"}

    def send(self, index: int, time: float) -> list[Datagram]:
        return _datagrams(index, self._packets[index], len(self._packets[index]))

    def decode(self, index: int, data: Any) -> list[tuple[int, Image]]:
        packet = av.Packet(data)
        packet.pts = packet.dts = index
        try:
            decoded = self._decoder.decode(packet)
        except FFmpegError:  # not decodable after a loss
            return []
        return [(int(each.pts or 0), each.to_ndarray(format="rgb24")) for each in decoded]


def video_encoder(name: str, size: tuple[int, int], gop: int, options: dict[str, str]) -> Any:
    """Return FFmpeg's encoder `name` of frames of `size` (height, width) at RATE, one thread."""
    encoder = av.CodecContext.create(name, "w")
    encoder.height, encoder.width = size
    encoder.pix_fmt, encoder.framerate = "yuv420p", Fraction(RATE)
    encoder.time_base = Fraction(1, RATE)
    encoder.gop_size, encoder.thread_count, encoder.options = gop, 1, options
    return encoder


def _encode_h264(frames: Sequence[Image], bit_rate: int) -> list[bytes]:
    options = {
        "preset": "medium",
        "tune": "zerolatency",
        # At most the mean rate over any third of a second, or bursts would fill the queue.
        "x264-params": "scenecut=0:keyint=10:min-keyint=10:"
        f"vbv-maxrate={max(bit_rate // 1000, 1)}:vbv-bufsize={max(bit_rate // 3000, 1)}",
    }
    encoder = video_encoder("libx264", frames[0].shape[:2], 10, options)
    encoder.bit_rate = bit_rate
    packets: dict[int, bytes] = {}
    for index, pixels in enumerate([*frames, None]):
        frame = None
        if pixels is not None:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
        for packet in encoder.encode(frame):
            packets[int(packet.pts or 0)] = bytes(packet)
    return [packets[index] for index in range(len(frames))]


Maker = Callable[[Networks, Sequence[Image], float | None], Stream]

STREAMS: dict[str, Maker] = {
    "tokens": lambda *given: Tokens(*given, Settings()),
    "tokens, automatic parity": lambda *given: Tokens(*given, Settings(parity=AUTOMATIC)),
    "tokens, 1 level": lambda *given: Tokens(*given, Settings(levels=1)),
    "tokens, 4 slices": lambda *given: Tokens(*given, Settings(slices=4)),
    "JPEG, quality 80": lambda *given: Jpeg(*given, quality=80),
    "JPEG, quality 10": lambda *given: Jpeg(*given, quality=10),
    "H.264, 256 kbit/s": lambda *given: H264(*given, bit_rate=256_000),
}
"""All streams. 80 is image_transport's default; on a link of limited rate H.264 has that rate."""
