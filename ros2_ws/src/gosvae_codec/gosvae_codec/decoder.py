"""The receiver's side: packets to masks, and to pictures where the bundle draws any."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .bundle import MASK, RECONSTRUCT, ModelBundle
from .entropy import Tokens
from .errors import MissingReferenceError, PacketError
from .images import Frame, resize_frame
from .labels import UNLABELLED
from .masks import Mask, classify, resize_mask
from .packets import REFERENCES, Header, Packet, band_of
from .redundancy import restore
from .sessions import Provider


class DecodedFrame(NamedTuple):
    """What a receiver makes of one frame."""

    header: Header
    """Stamp and frame_id of the camera frame, unchanged."""
    sequence: int
    mask: Mask
    """uint8 (H, W) label ids at the camera's size."""
    coverage: float
    """Share of the token rows that arrived, 0 to 1; the rest was concealed."""
    tokens: Tokens
    """What was decoded, concealed rows included: uint16 (levels, h, w), absent ones `codes`."""

    @property
    def complete(self) -> bool:
        """Whether every row arrived, so that later frames may refer to this one."""
        return self.coverage == 1.0


class Decoder:
    """Decodes one stream of frames the direct way, tokens to logits without pixels between.

    Several decoders of one bundle share its network. A missing slice is concealed with the tokens
    of the stream's frame decoded before; where there is none, its band of the mask is unlabelled.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        providers: Sequence[Provider] = ("cpu",),
        threads: int = 1,
        batch: int = 1,
    ) -> None:
        """Load the mask network, for as many as `batch` frames of :func:`decode_together`.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.session`.
        """
        self.bundle = bundle
        self.session = bundle.session(MASK, providers, threads, batch)
        self._coder = bundle.coder
        # Compiled now, rather than at the first frame.
        classify(np.zeros((len(bundle.labels.ids), 1, 1), np.float32), (1, 1), bundle.labels)
        self._stream: int | None = None
        self._previous = self._absent()
        self._held: OrderedDict[int, Tokens] = OrderedDict()

    def decode(self, packets: Sequence[Packet]) -> DecodedFrame:
        """Decode one frame from those of its packets that arrived, in any order.

        Raises:
            MissingReferenceError: the frame refers to one that never came, or not whole, or too
                long ago; only an intra frame helps.
            PacketError: there is none, they are not of one frame, or one is corrupt or foreign
                (FingerprintError). In either case nothing of the frame is kept.
        """
        (result,) = decode_together([(self, packets)])
        if isinstance(result, PacketError):
            raise result
        return result

    def _finish(
        self,
        packets: Sequence[Packet],
        tokens: Tokens,
        coverage: float,
        logits: npt.NDArray[np.float32],
    ) -> DecodedFrame:
        """Make the mask of unpacked `tokens` from their logits, and keep what later frames need."""
        first = packets[0]
        mask = classify(logits, self.bundle.input_size, self.bundle.labels)
        mask[_unknown_lines(self.bundle, tokens)] = UNLABELLED
        mask = resize_mask(mask, (first.source_height, first.source_width))
        if first.stream != self._stream:
            self._held.clear()
        self._stream, self._previous = first.stream, tokens
        if coverage == 1.0:
            self._held.pop(first.sequence, None)
            self._held[first.sequence] = tokens[: first.levels]
            while len(self._held) > REFERENCES:
                self._held.popitem(last=False)
        return DecodedFrame(first.header, first.sequence, mask, coverage, tokens)

    def _absent(self) -> Tokens:
        return np.full((self.bundle.levels, *self.bundle.grid), self.bundle.codes, np.uint16)

    def _reference(self, packet: Packet) -> Tokens | None:
        if packet.reference == 0:
            return None
        sequence = (packet.sequence - packet.reference) % (1 << 32)
        held = self._held.get(sequence) if packet.stream == self._stream else None
        if held is None:
            raise MissingReferenceError(
                f"frame {packet.sequence} is predicted from frame {sequence}, which this receiver "
                "does not have"
            )
        return held

    def _unpack(self, packets: Sequence[Packet]) -> tuple[Tokens, float]:
        if not packets:
            raise PacketError("no packets to decode")
        first = packets[0]
        for packet in packets:
            packet.check(self.bundle)
            if packet.frame != first.frame:
                raise PacketError(
                    f"packets of frames {first.sequence} and {packet.sequence} decoded together"
                )
        reference = self._reference(first)
        tokens = self._previous.copy() if first.stream == self._stream else self._absent()
        rows = self.bundle.grid[0]
        arrived = np.zeros(rows, bool)
        slices = restore({packet.slice_index: packet for packet in packets})
        if not slices:
            raise PacketError(f"parity of frame {first.sequence} without enough else to restore it")
        for packet in slices:
            begin, end = band_of(packet.slice_index, packet.slice_count, rows)
            tokens[packet.levels :, begin:end] = self.bundle.codes
            tokens[: packet.levels, begin:end] = self._coder.decode(
                packet.payload, packet.levels, begin, end - begin, reference
            )
            arrived[begin:end] = True
        return tokens, float(arrived.mean())


class Reconstructor:
    """Draws what was decoded, for people to look at; no mask depends on it."""

    def __init__(
        self, bundle: ModelBundle, providers: Sequence[Provider] = ("cpu",), threads: int = 1
    ) -> None:
        """Load the network.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.session`; the latter also where
                `bundle` decodes to masks alone, see :attr:`ModelBundle.draws`.
        """
        self.bundle = bundle
        self.session = bundle.session(RECONSTRUCT, providers, threads)

    def reconstruct(self, decoded: DecodedFrame) -> Frame:
        """Return the picture of a frame of this bundle, uint8 (H, W, 3) RGB at the camera's size.

        Bands that are unlabelled in the mask for want of tokens are black.
        """
        picture = self.session.run(decoded.tokens[None].astype(np.int32))[0]
        picture[_unknown_lines(self.bundle, decoded.tokens)] = 0
        height, width = decoded.mask.shape
        return resize_frame(picture, (height, width))


def _unknown_lines(bundle: ModelBundle, tokens: Tokens) -> npt.NDArray[np.bool_]:
    """Return for each line of the network's input, (H,), whether its tokens never came."""
    unknown = (tokens[0] == bundle.codes).all(axis=1)
    height = bundle.input_size[0]
    return np.asarray(unknown[np.arange(height) * len(unknown) // height])


def decode_together(
    frames: Sequence[tuple[Decoder, Sequence[Packet]]],
) -> list[DecodedFrame | PacketError]:
    """Decode one frame for each of several decoders in one inference.

    Args:
        frames: different decoders of one bundle on the same providers, each with packets as for
            :meth:`Decoder.decode`.

    Returns:
        For each, in order, the frame, or the error that :meth:`Decoder.decode` would raise: what
        one stream lacks costs the others nothing.
    """
    unpacked: dict[int, tuple[Tokens, float]] = {}
    results: dict[int, DecodedFrame | PacketError] = {}
    for place, (decoder, packets) in enumerate(frames):
        try:
            unpacked[place] = decoder._unpack(packets)
        except PacketError as error:
            results[place] = error
    if unpacked:
        stacked = np.stack([tokens for tokens, _ in unpacked.values()]).astype(np.int32)
        logits = frames[0][0].session.run(stacked)
        for (place, (tokens, coverage)), each in zip(unpacked.items(), logits, strict=True):
            decoder, packets = frames[place]
            results[place] = decoder._finish(packets, tokens, coverage, each)
    return [results[place] for place in range(len(frames))]
