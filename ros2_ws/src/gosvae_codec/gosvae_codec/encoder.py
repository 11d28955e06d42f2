"""The transmitter's network: frames to tokens, and these to packets."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .bundle import ModelBundle
from .entropy import Tokens
from .images import Frame, as_frame, resize_frame
from .manifest import ENCODER
from .packets import REFERENCES, Header, Packet
from .redundancy import LENGTH_BYTES, parity_packets
from .sessions import Provider
from .slices import slice_frame

SHARES = (0.85, 0.7, 0.55, 0.4, 0.25)
"""Shares of the changed tokens that a thinned predicted frame carries."""
LEAST = 0.55
"""Smallest share that pays in a steady stream: with less, masks of moving scenes lose more than
older ones would."""


class Candidate(NamedTuple):
    """One way to send a frame; see :meth:`Encoder.candidates`."""

    packets: list[Packet]
    """The frame's packets in order, each at most 1,400 bytes as CDR."""
    tokens: Tokens
    """What the packets carry, uint16 (levels, rows, columns)."""
    minimal: bool = False
    """Whether smaller ones are not worth it, unless there is no room for this one."""


class Encoder:
    """Encoder of one stream of frames; encoders of one bundle share its network.

    A frame is predicted from the newest frame that :meth:`acknowledge` named, so no frame depends
    on one that may be lost. Without acknowledgements every frame is intra.
    """

    def __init__(
        self, bundle: ModelBundle, providers: Sequence[Provider] = ("cpu",), threads: int = 1
    ) -> None:
        """Load the encoder network.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.session`.
        """
        self.bundle = bundle
        self.session = bundle.session(ENCODER, providers, threads)
        self.stream = secrets.randbits(32)
        """Random number by which receivers tell this stream from one before a restart."""
        self.reserved = 0
        """Bytes to leave free in each packet, for who adds something."""
        self._coder = bundle.coder
        self._sequence = 0
        self._sent: OrderedDict[int, Tokens] = OrderedDict()
        self._slices: dict[int, int] = {}  # of the last frame that was cut, by number of levels
        self._acknowledged: int | None = None

    def tokens(self, frame: Frame, reference: Tokens | None = None) -> Tokens:
        """Return the token indices of a frame of any size, uint16 (levels, rows, columns).

        Args:
            frame: uint8 (H, W, 3) RGB.
            reference: tokens of the reference frame, of one or more levels. A reference token is
                kept where it fits nearly as well as the nearest code (hysteresis): noise then
                changes no tokens, and tokens equal to the reference cost almost no bytes.

        Raises:
            ImageError: `frame` is not such an array.
        """
        pixels = resize_frame(frame, self.bundle.input_size)
        kept = np.full((self.bundle.levels, *self.bundle.grid), self.bundle.codes, np.int32)
        if reference is not None:
            kept[: len(reference)] = reference
        return np.asarray(self.session.run(pixels[None], kept[None])[0], np.uint16)

    def acknowledge(self, sequence: int | None) -> None:
        """Set the frame that the receiver has decoded completely and still holds; None: none.

        May be called from another thread than :meth:`encode`.
        """
        self._acknowledged = sequence

    def encode(
        self,
        frame: Frame,
        header: Header | None = None,
        levels: int | None = None,
        intra: bool = False,
        slices: int = 1,
        parity: int = 0,
    ) -> list[Packet]:
        """Encode the next frame of the stream: the first of its candidates, committed.

        Args:
            frame: as for :meth:`candidates`, like all others.
            header: stamp and frame_id.
            levels: residual levels to send.
            intra: whether to refer to no other frame.
            slices: smallest number of slices.
            parity: parity packets to add.

        Returns:
            The frame's packets in order, each at most 1,400 bytes as CDR.

        Raises:
            ImageError, PacketError, ValueError: as :meth:`candidates` does.
        """
        candidate = next(self.candidates(frame, header, levels, intra, slices, parity))
        self.commit(candidate)
        return candidate.packets

    def candidates(
        self,
        frame: Frame,
        header: Header | None = None,
        levels: int | None = None,
        intra: bool = False,
        slices: int = 1,
        parity: int = 0,
        least: float = LEAST,
    ) -> Iterator[Candidate]:
        """Yield ways to send the next frame of the stream, the largest first.

        Each is made when it is asked for: first with all `levels`, then with one less each time,
        then one level without parity, at last, if the frame is predicted, with only a part of the
        tokens that changed (:data:`SHARES`), down to `least`. :meth:`commit` the one that
        is sent; a frame of which none is committed is skipped.

        Args:
            frame: uint8 (H, W, 3) RGB of any size; it is scaled to the bundle's input size.
            header: stamp and frame_id, which travel unchanged; zeros by default.
            levels: residual levels to send, 1 to ``bundle.levels``; all by default.
            intra: whether to refer to no other frame, whatever was acknowledged.
            slices: smallest number of slices. More slices cost bytes, but a lost packet then
                costs a smaller band.
            parity: parity packets to add: as many lost packets can be restored.
            least: smallest share of the changed tokens to send.

        Raises:
            ImageError: `frame` is not such an array.
            PacketError: the header's frame_id leaves no room in a packet.
            ValueError: `levels` or `slices` is out of range.
        """
        levels = self.bundle.levels if levels is None else levels
        if not 1 <= levels <= self.bundle.levels:
            raise ValueError(f"levels {levels}: {self.bundle.name} has 1 to {self.bundle.levels}")
        if slices < 1:
            raise ValueError(f"slices {slices}: give 1 or more")
        frame = as_frame(frame)
        distance, reference = (0, None) if intra else self._reference()
        tokens = self.tokens(frame, reference)
        template = Packet(
            header=header or Header(),
            fingerprint=self.bundle.fingerprint,
            stream=self.stream,
            sequence=self._sequence,
            source_width=frame.shape[1],
            source_height=frame.shape[0],
            levels=levels,
            reference=distance,
            slice_index=0,
            slice_count=0,
            payload=b"",
        )
        # Levels, share of the changed tokens, and parity of each.
        ways = [(count, 1.0, parity) for count in range(levels, 0, -1)]
        if parity:
            ways.append((1, 1.0, 0))
        if reference is not None:
            ways += [(1, share, 0) for share in SHARES if share >= least]
        for count, share, added in ways:
            sent = tokens[:count]
            if reference is not None and share < 1:
                sent = self._thin(sent, reference, share)
            reserved = self.reserved + (LENGTH_BYTES if added else 0)
            guess = self._slices.get(count, 1)
            packets = slice_frame(sent, self._coder, template, reference, slices, reserved, guess)
            self._slices[count] = len(packets)
            minimal = share <= LEAST or (count, share, added) == ways[-1]
            yield Candidate(packets + parity_packets(packets, added), sent, minimal)

    def _thin(self, tokens: Tokens, reference: Tokens, share: float) -> Tokens:
        """Return one level of tokens with only the most worthy `share` of their changes."""
        worth = self._coder.worth(tokens, reference)
        changed = worth[np.isfinite(worth)]
        least = np.quantile(changed, 1 - share) if changed.size else 0.0
        return np.where(worth < least, reference[:1], tokens)

    def commit(self, candidate: Candidate) -> None:
        """Record that a candidate of the next frame is sent; the frame after it is next.

        Raises:
            ValueError: the candidate is not of the next frame of this stream.
        """
        first = candidate.packets[0]
        if (first.stream, first.sequence) != (self.stream, self._sequence):
            raise ValueError(
                f"candidate of frame {first.sequence} in stream {first.stream:08x}; the next is "
                f"frame {self._sequence} in stream {self.stream:08x}"
            )
        self._sent[self._sequence] = candidate.tokens
        while len(self._sent) > REFERENCES:
            self._sent.popitem(last=False)
        self._sequence = (self._sequence + 1) % (1 << 32)

    def _reference(self) -> tuple[int, Tokens | None]:
        """Return the distance to the reference frame and its tokens; 0 and None without one."""
        acknowledged = self._acknowledged
        if acknowledged is None or acknowledged not in self._sent:
            return 0, None
        return (self._sequence - acknowledged) % (1 << 32), self._sent[acknowledged]
