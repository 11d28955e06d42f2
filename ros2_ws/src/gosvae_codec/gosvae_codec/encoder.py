"""The transmitter's side: frames to packets."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np

from .bundle import ENCODER, ModelBundle
from .entropy import Tokens
from .images import Frame, resize_frame
from .packets import KIND_INTRA, Header, Packet, coder_of, slice_frame


class Encoder:
    """One stream of frames; several encoders of one bundle share its network."""

    def __init__(
        self, bundle: ModelBundle, providers: Sequence[str] = ("cpu",), threads: int = 1
    ) -> None:
        """Load the encoder network.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.session`.
        """
        self.bundle = bundle
        self.session = bundle.session(ENCODER, providers, threads)
        self.stream = secrets.randbits(32)
        """Random number by which receivers tell this stream from one before a restart."""
        self._coder = coder_of(bundle)
        self._sequence = 0

    def tokens(self, frame: Frame) -> Tokens:
        """Return the token indices of a frame of any size, uint16 (levels, rows, columns)."""
        pixels = resize_frame(frame, self.bundle.input_size)
        return np.asarray(self.session.run(pixels[None])[0], np.uint16)

    def encode(
        self, frame: Frame, header: Header | None = None, levels: int | None = None
    ) -> list[Packet]:
        """Encode the next frame of the stream.

        Args:
            frame: uint8 (H, W, 3) RGB of any size; it is scaled to the bundle's input size.
            header: stamp and frame_id, which travel unchanged; zeros by default.
            levels: residual levels to send, 1 to ``bundle.levels``; all by default.

        Returns:
            The frame's packets in order, each at most 1,400 bytes as CDR.

        Raises:
            ImageError: `frame` is no such array.
            PacketError: the header's frame_id leaves no room in a packet.
            ValueError: `levels` is out of range.
        """
        levels = self.bundle.levels if levels is None else levels
        if not 1 <= levels <= self.bundle.levels:
            raise ValueError(f"levels {levels}: {self.bundle.name} has 1 to {self.bundle.levels}")
        tokens = self.tokens(frame)[:levels]
        template = Packet(
            header=header or Header(),
            fingerprint=self.bundle.fingerprint,
            stream=self.stream,
            sequence=self._sequence,
            reference=self._sequence,
            first_row=0,
            row_count=0,
            source_width=frame.shape[1],
            source_height=frame.shape[0],
            kind=KIND_INTRA,
            levels=levels,
            slice_index=0,
            slice_count=0,
            payload=b"",
        )
        packets = slice_frame(tokens, self._coder, template)
        self._sequence = (self._sequence + 1) % (1 << 32)
        return packets
