"""The transmitter's side: frames to packets."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .bundle import ENCODER, ModelBundle
from .entropy import Tokens
from .images import Frame, resize_frame
from .packets import REFERENCES, Header, Packet, slice_frame
from .redundancy import LENGTH_BYTES, parity_packets
from .sessions import Provider


class Encoder:
    """One stream of frames; several encoders of one bundle share its network.

    A frame is predicted from the newest one that :meth:`acknowledge` named, so that no frame ever
    depends on one that may be lost. Without acknowledgements every frame is intra.
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
        self._coder = bundle.coder
        self._sequence = 0
        self._sent: OrderedDict[int, Tokens] = OrderedDict()
        self._slices: dict[int, int] = {}  # of the last frame cut, by its levels
        self._acknowledged: int | None = None

    def tokens(self, frame: Frame, reference: Tokens | None = None) -> Tokens:
        """Return the token indices of a frame of any size, uint16 (levels, rows, columns).

        Args:
            frame: uint8 (H, W, 3) RGB.
            reference: tokens of the frame that will be referred to, of one or more levels. Where
                one of them fits nearly as well as the nearest code, it is kept: noise changes no
                tokens, and equal tokens cost next to nothing.
        """
        pixels = resize_frame(frame, self.bundle.input_size)
        kept = np.full((self.bundle.levels, *self.bundle.grid), self.bundle.codes, np.int32)
        if reference is not None:
            kept[: len(reference)] = reference
        return np.asarray(self.session.run(pixels[None], kept[None])[0], np.uint16)

    def acknowledge(self, sequence: int | None) -> None:
        """Take in which frame the receiver decoded whole and still has; None: it has none.

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
        accept: Callable[[Sequence[Packet]], bool] | None = None,
    ) -> list[Packet]:
        """Encode the next frame of the stream, or skip it.

        Args:
            frame: uint8 (H, W, 3) RGB of any size; it is scaled to the bundle's input size.
            header: stamp and frame_id, which travel unchanged; zeros by default.
            levels: residual levels to send, 1 to ``bundle.levels``; all by default.
            intra: whether to refer to no other frame, whatever was acknowledged.
            slices: least number of slices; more cost bytes, but each loss less of the frame.
            parity: parity packets to add; as many lost packets then cost nothing of the frame.
            accept: asked whether these packets may be sent; first of all `levels`, then of one
                less each time, at last without parity. Where it never agrees, the frame is skipped.

        Returns:
            The frame's packets in order, each at most 1,400 bytes as CDR; none if it is skipped.

        Raises:
            ImageError: `frame` is no such array.
            PacketError: the header's frame_id leaves no room in a packet.
            ValueError: `levels` or `slices` is out of range.
        """
        levels = self.bundle.levels if levels is None else levels
        if not 1 <= levels <= self.bundle.levels:
            raise ValueError(f"levels {levels}: {self.bundle.name} has 1 to {self.bundle.levels}")
        if slices < 1:
            raise ValueError(f"slices {slices}: give 1 or more")
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

        def versions() -> Iterator[list[Packet]]:
            for count in range(levels, 0, -1):
                spare = LENGTH_BYTES if parity else 0
                likely = self._slices.get(count, 1)
                packets = slice_frame(
                    tokens[:count], self._coder, template, reference, slices, spare, likely
                )
                self._slices[count] = len(packets)
                yield packets + parity_packets(packets, parity)
            if parity:
                yield packets

        for packets in versions():
            if accept is None or accept(packets):
                break
        else:
            return []
        self._sent[self._sequence] = tokens[: packets[0].levels]
        while len(self._sent) > REFERENCES:
            self._sent.popitem(last=False)
        self._sequence = (self._sequence + 1) % (1 << 32)
        return packets

    def _reference(self) -> tuple[int, Tokens | None]:
        """Return how far back the reference lies, and its tokens; 0 and None without one."""
        acknowledged = self._acknowledged
        if acknowledged is None or acknowledged not in self._sent:
            return 0, None
        return (self._sequence - acknowledged) % (1 << 32), self._sent[acknowledged]
