"""All codecs of the benchmark behind one interface: pictures, video, labels and tokens.

A codec is the vehicle's encoder and the receiver's decoder of one stream of frames. Encoders and
decoders are created at first use, so that a process that only encodes has no decoder in memory.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import av
import cv2
import imagecodecs
import numpy as np

from gosvae_codec import Decoder, Encoder, Expert, GosvaeError, Header, ModelBundle
from gosvae_codec.images import resize_frame
from gosvae_codec.masks import Mask, enlarge_labels, shrink_labels
from gosvae_codec.rate import DATAGRAM_OVERHEAD_BYTES

from .link_streams import DATAGRAM_BYTES, IMAGE_HEADER_BYTES, Image, video_encoder

GOP = 10
"""Frames from one key frame of a video to the next."""
INTRA_FRAMES = 15
"""Frames from one intra frame of predicted tokens to the next: one second."""

Size = tuple[int, int]
"""Height and width in pixels."""


class Codec(ABC):
    """One stream of frames, from the vehicle's camera to the receiver."""

    @abstractmethod
    def encode(self, frame: Image) -> Any:
        """Return the data that the vehicle sends for the next frame, uint8 (H, W, 3) RGB."""

    @abstractmethod
    def decode(self, sent: Any) -> Image | Mask:
        """Return the receiver's picture or mask of a frame.

        A picture, uint8 (H, W, 3) RGB, is for the expert; a mask is uint8 (H, W) label ids.
        """

    def messages(self, sent: Any) -> list[int]:
        """Return the bytes of each ROS message of a frame, as CDR."""
        return [IMAGE_HEADER_BYTES + len(sent)]


def wire_bytes(messages: Sequence[int]) -> int:
    """Return the bytes of messages on Ethernet, in datagrams of at most 1,400 bytes and headers."""
    datagrams = sum(-(-size // DATAGRAM_BYTES) for size in messages)
    return sum(messages) + datagrams * DATAGRAM_OVERHEAD_BYTES


class Still(Codec):
    """Pictures: each frame by itself, scaled to `size` before encoding and to `shown` after."""

    def __init__(
        self,
        size: Size,
        shown: Size,
        pack: Callable[[Image], bytes],
        unpack: Callable[[bytes], Image],
    ) -> None:
        self._size, self._shown = size, shown
        self._pack, self._unpack = pack, unpack

    def encode(self, frame: Image) -> bytes:
        return bytes(self._pack(resize_frame(frame, self._size)))

    def decode(self, sent: bytes) -> Image:
        return _enlarge(self._unpack(sent), self._shown)


class Video(Codec):
    """Video without added latency: one packet per frame, which the receiver decodes at once."""

    def __init__(
        self, size: Size, shown: Size, encoder: str, decoder: str, gop: int, options: dict[str, str]
    ) -> None:
        # 4:2:0 has one chroma sample for two pixels each way.
        self._size = (size[0] // 2 * 2, size[1] // 2 * 2)
        self._shown = shown
        self._names, self._gop, self._options = (encoder, decoder), gop, options
        self._sent = 0

    @cached_property
    def _encoder(self) -> Any:
        # SVT-AV1 would print its settings to stderr, past FFmpeg's logging.
        os.environ.setdefault("SVT_LOG", "0")
        return video_encoder(self._names[0], self._size, self._gop, self._options)

    @cached_property
    def _decoder(self) -> Any:
        decoder = av.CodecContext.create(self._names[1], "r")
        decoder.thread_count = 1
        decoder.options = {"flags": "low_delay"}
        if self._names[1] == "libdav1d":
            decoder.options |= {"max_frame_delay": "1"}
        return decoder

    def encode(self, frame: Image) -> bytes:
        picture = av.VideoFrame.from_ndarray(resize_frame(frame, self._size), format="rgb24")
        picture.pts = self._sent
        self._sent += 1
        packets = self._encoder.encode(picture)
        if len(packets) != 1:
            raise GosvaeError(f"{self._names[0]} gave {len(packets)} packets for a frame, not one")
        return bytes(packets[0])

    def decode(self, sent: bytes) -> Image:
        pictures = self._decoder.decode(av.Packet(sent))
        if len(pictures) != 1:
            raise GosvaeError(
                f"{self._names[1]} gave {len(pictures)} pictures of a packet, not one"
            )
        return _enlarge(pictures[0].to_ndarray(format="rgb24"), self._shown)


class Labels(Codec):
    """Labels: the vehicle runs the expert and sends its mask, shrunk by majority, as JPEG XL.

    Lossless JPEG XL was the smallest of LZMA2, PNG, WebP and JPEG XL for label maps of any size.
    """

    def __init__(self, bundle: ModelBundle, scale: int) -> None:
        self._bundle, self._scale = bundle, scale

    @cached_property
    def _expert(self) -> Expert:
        return Expert(self._bundle)

    def encode(self, frame: Image) -> bytes:
        mask = self._expert.segment(resize_frame(frame, self._bundle.input_size))
        small = shrink_labels(mask, self._scale, self._bundle.labels)
        return bytes(imagecodecs.jpegxl_encode(small, lossless=True, effort=7, numthreads=1))

    def decode(self, sent: bytes) -> Mask:
        small = np.asarray(imagecodecs.jpegxl_decode(sent, numthreads=1))
        return enlarge_labels(small, self._bundle.input_size, self._bundle.labels)


class Tokens(Codec):
    """Tokens: this project's codec, with a given number of residual levels.

    If `predicted`, each frame refers to the previous one, as over a link that acknowledges at once,
    except one intra frame in INTRA_FRAMES.
    """

    def __init__(self, bundle: ModelBundle, levels: int, predicted: bool) -> None:
        self._bundle, self._levels, self._predicted = bundle, levels, predicted
        self._sent = 0

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._bundle)

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self._bundle)

    def encode(self, frame: Image) -> Any:
        intra = not self._predicted or self._sent % INTRA_FRAMES == 0
        packets = self._encoder.encode(frame, Header(0, 0, "camera"), self._levels, intra)
        self._encoder.acknowledge(packets[0].sequence)
        self._sent += 1
        return packets

    def decode(self, sent: Any) -> Mask:
        return self._decoder.decode(sent).mask

    def messages(self, sent: Any) -> list[int]:
        return [packet.serialized_size() for packet in sent]


def _enlarge(picture: Image, size: Size) -> Image:
    if picture.shape[:2] == size:
        return picture
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
