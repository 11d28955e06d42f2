"""What a vehicle could send instead: pictures, video, labels, tokens, all behind one interface.

A codec is the vehicle's encoder and the receiver's decoder of one stream of frames. Encoders and
decoders are made at first use, so that a process that only encodes holds no decoder.
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
"""Frames from one intra frame of predicted tokens to the next: a second."""

Size = tuple[int, int]
"""Height and width in pixels."""


class Codec(ABC):
    """One stream of frames, from the vehicle's camera to the receiver."""

    @abstractmethod
    def encode(self, frame: Image) -> Any:
        """Return what the vehicle sends of the next frame, uint8 (H, W, 3) RGB."""

    @abstractmethod
    def decode(self, sent: Any) -> Image | Mask:
        """Return what the receiver makes of it.

        Either a picture, uint8 (H, W, 3) RGB, for the expert to segment, or a mask, uint8 (H, W)
        label ids.
        """

    def messages(self, sent: Any) -> list[int]:
        """Return the bytes of the ROS messages that carry it, as CDR."""
        return [IMAGE_HEADER_BYTES + len(sent)]


def wire_bytes(messages: Sequence[int]) -> int:
    """Return what messages take on Ethernet, cut into datagrams of at most 1,400 bytes."""
    datagrams = sum(-(-size // DATAGRAM_BYTES) for size in messages)
    return sum(messages) + datagrams * DATAGRAM_OVERHEAD_BYTES


class Still(Codec):
    """Each frame a picture of its own, scaled to `size` first, and back to `shown` after."""

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
    """Video without latency: each frame one packet, which the receiver decodes at once."""

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
        # SVT-AV1 tells its settings on stderr otherwise, past FFmpeg's logging.
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
    """A vehicle that segments by itself and sends the labels, shrunk by majority, as JPEG XL.

    Lossless JPEG XL was the smallest of LZMA2, PNG, WebP and JPEG XL for label maps of any size.
    The receiver enlarges them smoothly, class by class: the best that it can do with them.
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
    """This project's codec, its residual levels as many as given.

    Predicted, each frame refers to the one before, as over a link that acknowledges at once, but
    for one in INTRA_FRAMES.
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
