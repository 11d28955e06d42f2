"""The receiver's side: packets to masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .bundle import MASK, ModelBundle
from .entropy import Tokens
from .errors import PacketError
from .labels import UNLABELLED
from .masks import Mask, classify, resize_mask
from .packets import Header, Packet


class DecodedFrame(NamedTuple):
    """What a receiver makes of one frame."""

    header: Header
    """Stamp and frame_id of the camera frame, unchanged."""
    sequence: int
    mask: Mask
    """uint8 (H, W) label ids at the camera's size."""
    coverage: float
    """Share of the token rows that arrived, 0 to 1; the rest was concealed."""


class Decoder:
    """Decodes one stream of frames the direct way, tokens to logits without pixels between.

    Several decoders of one bundle share its network. A missing slice is concealed with the tokens
    of the stream's frame decoded before; where there is none, its band of the mask is unlabelled.
    """

    def __init__(
        self, bundle: ModelBundle, providers: Sequence[str] = ("cpu",), threads: int = 1
    ) -> None:
        """Load the mask network.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.session`.
        """
        self.bundle = bundle
        self.session = bundle.session(MASK, providers, threads)
        self._stream: int | None = None
        self._previous = self._absent()

    def decode(self, packets: Sequence[Packet]) -> DecodedFrame:
        """Decode one frame from those of its packets that arrived, in any order.

        Raises:
            PacketError: there is none, they are not of one frame, or one is corrupt or foreign
                (FingerprintError). Nothing of the frame is kept then.
        """
        tokens, coverage = self._unpack(packets)
        first = packets[0]
        logits = self.session.run(tokens[None].astype(np.int32))[0]
        mask = classify(logits, self.bundle.input_size, self.bundle.labels)
        unknown = (tokens[0] == self.bundle.codes).all(axis=1)
        if unknown.any():
            rows = len(unknown)
            lines = np.arange(mask.shape[0]) * rows // mask.shape[0]
            mask[unknown[lines]] = UNLABELLED
        mask = resize_mask(mask, (first.source_height, first.source_width))
        self._stream, self._previous = first.stream, tokens
        return DecodedFrame(first.header, first.sequence, mask, coverage)

    def _absent(self) -> Tokens:
        return np.full((self.bundle.levels, *self.bundle.grid), self.bundle.codes, np.uint16)

    def _unpack(self, packets: Sequence[Packet]) -> tuple[Tokens, float]:
        if not packets:
            raise PacketError("no packets to decode")
        first = packets[0]
        tokens = self._previous.copy() if first.stream == self._stream else self._absent()
        arrived = np.zeros(self.bundle.grid[0], bool)
        for packet in packets:
            packet.check(self.bundle)
            if (packet.stream, packet.sequence, packet.source_width, packet.source_height) != (
                first.stream,
                first.sequence,
                first.source_width,
                first.source_height,
            ):
                raise PacketError(
                    f"packets of frames {first.sequence} and {packet.sequence} decoded together"
                )
            band = slice(packet.first_row, packet.first_row + packet.row_count)
            tokens[packet.levels :, band] = self.bundle.codes
            tokens[: packet.levels, band] = packet.tokens(self.bundle)
            arrived[band] = True
        return tokens, float(arrived.mean())
