"""Packets to tokens: the state of one stream at the receiver. Runs no network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .bundle import ModelBundle
from .entropy import Tokens
from .errors import MissingReferenceError, PacketError
from .packets import REFERENCES, Header, Packet
from .redundancy import restore
from .slices import band_of


class UnpackedFrame(NamedTuple):
    """The tokens of one frame, which a mask is made of."""

    header: Header
    """Stamp and frame_id of the camera frame, unchanged."""
    sequence: int
    size: tuple[int, int]
    """Height and width of the camera frame in pixels."""
    tokens: Tokens
    """Concealed rows included: uint16 (levels, h, w), absent ones `codes`."""
    coverage: float
    """Share of the token rows that arrived, 0 to 1; the rest was concealed."""

    @property
    def complete(self) -> bool:
        """Whether every row arrived, so that later frames may refer to this one."""
        return self.coverage == 1.0


class Unpacker:
    """Unpacks one stream of frames.

    A missing slice is concealed with the tokens of the stream's previous frame. Frames that later
    ones may refer to are held, whether or not masks are made of them.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        """Load the entropy coder.

        Raises:
            BundleError: see :attr:`ModelBundle.coder`.
        """
        self.bundle = bundle
        self._coder = bundle.coder
        self._stream: int | None = None
        self._previous = self._absent()
        self._held: OrderedDict[int, Tokens] = OrderedDict()

    def unpack(self, packets: Sequence[Packet]) -> UnpackedFrame:
        """Unpack one frame from those of its packets that arrived, in any order.

        Raises:
            MissingReferenceError: the frame refers to one that did not arrive, or not completely,
                or too long ago; only an intra frame helps.
            PacketError: there are no packets, they are not of one frame, or one is corrupt or
                foreign (FingerprintError). In either case the stream's state is unchanged.
        """
        first = self._check(packets)
        reference = self._reference(first)
        tokens = self._previous.copy() if first.stream == self._stream else self._absent()
        rows = self.bundle.grid[0]
        arrived = np.zeros(rows, bool)
        slices = restore({packet.slice_index: packet for packet in packets})
        if not slices:
            raise PacketError(f"parity of frame {first.sequence}, but too little to restore it")
        for packet in slices:
            begin, end = band_of(packet.slice_index, packet.slice_count, rows)
            tokens[packet.levels :, begin:end] = self.bundle.codes
            tokens[: packet.levels, begin:end] = self._coder.decode(
                packet.payload, packet.levels, begin, end - begin, reference
            )
            arrived[begin:end] = True
        size = first.source_height, first.source_width
        frame = UnpackedFrame(first.header, first.sequence, size, tokens, float(arrived.mean()))
        self._keep(first, frame)
        return frame

    def _check(self, packets: Sequence[Packet]) -> Packet:
        """Return the first packet, after checking them all."""
        if not packets:
            raise PacketError("no packets to decode")
        bundle, first = self.bundle, packets[0]
        for packet in packets:
            packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
            if packet.frame != first.frame:
                raise PacketError(
                    f"packets of frames {first.sequence} and {packet.sequence} decoded together"
                )
        return first

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

    def _keep(self, packet: Packet, frame: UnpackedFrame) -> None:
        """Keep what later frames need."""
        if packet.stream != self._stream:
            self._held.clear()
        self._stream, self._previous = packet.stream, frame.tokens
        if frame.complete:
            self._held.pop(frame.sequence, None)
            self._held[frame.sequence] = frame.tokens[: packet.levels]
            while len(self._held) > REFERENCES:
                self._held.popitem(last=False)

    def _absent(self) -> Tokens:
        return np.full((self.bundle.levels, *self.bundle.grid), self.bundle.codes, np.uint16)
