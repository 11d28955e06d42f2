"""The receiver's networks: tokens to masks, and to pictures with bundles that reconstruct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .bundle import MASK, RECONSTRUCT, ModelBundle
from .entropy import Tokens
from .errors import PacketError
from .images import Frame, resize_frame
from .labels import UNLABELLED
from .masks import Mask, resize_mask, upsampled_argmax
from .packets import Header, Packet
from .sessions import Provider, Session
from .unpacking import UnpackedFrame, Unpacker


class DecodedFrame(NamedTuple):
    """One frame at the receiver."""

    header: Header
    """Stamp and frame_id of the camera frame, unchanged."""
    sequence: int
    mask: Mask
    """uint8 (H, W) label ids at the camera's size."""
    coverage: float
    """Share of the token rows that arrived, 0 to 1; the rest was concealed."""
    tokens: Tokens
    """Concealed rows included: uint16 (levels, h, w), absent ones `codes`."""

    @property
    def complete(self) -> bool:
        """Whether every row arrived, so that later frames may refer to this one."""
        return self.coverage == 1.0


class Decoder(Unpacker):
    """Decoder of one stream of frames: tokens to logits, without pixels in between.

    :meth:`decode` is three steps that can also be taken apart, to skip masks or to run the network
    elsewhere: :meth:`Unpacker.unpack`, :func:`run` and :func:`finish`. The stream's state is in the
    first alone. Decoders of one bundle share its network. A band that never arrived in the stream
    is unlabelled.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        providers: Sequence[Provider] = ("cpu",),
        threads: int = 1,
        batch: int = 1,
    ) -> None:
        """Load the mask network, for up to `batch` frames in one :func:`run`.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.session`.
        """
        self.session = bundle.session(MASK, providers, threads, batch)
        super().__init__(bundle)
        # Compiled now rather than at the first frame.
        upsampled_argmax(np.zeros((len(bundle.labels), 1, 1), np.float32), (1, 1), bundle.labels)

    def decode(self, packets: Sequence[Packet]) -> DecodedFrame:
        """Decode one frame from those of its packets that arrived, in any order.

        Raises:
            MissingReferenceError, PacketError: see :meth:`Unpacker.unpack`.
        """
        frame = self.unpack(packets)
        return finish(self.bundle, frame, run(self.session, [frame])[0])


def run(session: Session, frames: Sequence[UnpackedFrame]) -> npt.NDArray[np.float32]:
    """Run the mask network on one or more frames of one bundle.

    Args:
        session: the bundle's mask network, as :attr:`Decoder.session`.
        frames: of any streams, at least one.

    Returns:
        Logits, float32 (N, classes, h, w).
    """
    return session.run(np.stack([frame.tokens for frame in frames]).astype(np.int32))


def finish(
    bundle: ModelBundle, frame: UnpackedFrame, logits: npt.NDArray[np.float32]
) -> DecodedFrame:
    """Return the frame with the mask that its logits, float32 (classes, h, w), stand for."""
    mask = upsampled_argmax(logits, bundle.input_size, bundle.labels)
    mask[_unknown_lines(bundle, frame.tokens)] = UNLABELLED
    mask = resize_mask(mask, frame.size)
    return DecodedFrame(frame.header, frame.sequence, mask, frame.coverage, frame.tokens)


def decode_together(
    frames: Sequence[tuple[Decoder, Sequence[Packet]]],
) -> list[DecodedFrame | PacketError]:
    """Decode one frame for each of several decoders in one inference.

    Args:
        frames: different decoders of one bundle on the same providers, each with packets as for
            :meth:`Decoder.decode`.

    Returns:
        For each, in order, the frame, or the error that :meth:`Decoder.decode` would raise: an
        error of one stream does not affect the others.
    """
    results: list[UnpackedFrame | PacketError] = []
    for decoder, packets in frames:
        try:
            results.append(decoder.unpack(packets))
        except PacketError as error:
            results.append(error)
    unpacked = [each for each in results if isinstance(each, UnpackedFrame)]
    if not unpacked:
        return [each for each in results if isinstance(each, PacketError)]
    decoder = frames[0][0]
    logits = iter(run(decoder.session, unpacked))
    return [
        each if isinstance(each, PacketError) else finish(decoder.bundle, each, next(logits))
        for each in results
    ]


class Reconstructor:
    """Makes pictures of decoded frames for people to look at; no mask depends on them."""

    def __init__(
        self, bundle: ModelBundle, providers: Sequence[Provider] = ("cpu",), threads: int = 1
    ) -> None:
        """Load the network.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.session`; the latter also where
                the bundle cannot reconstruct, see :attr:`ModelBundle.reconstructs`.
        """
        self.bundle = bundle
        self.session = bundle.session(RECONSTRUCT, providers, threads)

    def reconstruct(self, decoded: DecodedFrame) -> Frame:
        """Return the picture of a frame of this bundle, uint8 (H, W, 3) RGB at the camera's size.

        Bands without tokens, which are unlabelled in the mask, are black.
        """
        picture = self.session.run(decoded.tokens[None].astype(np.int32))[0]
        picture[_unknown_lines(self.bundle, decoded.tokens)] = 0
        height, width = decoded.mask.shape
        return resize_frame(picture, (height, width))


def _unknown_lines(bundle: ModelBundle, tokens: Tokens) -> npt.NDArray[np.bool_]:
    """Return for each line of the network's input, (H,), whether its tokens never arrived."""
    unknown = (tokens[0] == bundle.codes).all(axis=1)
    height = bundle.input_size[0]
    return np.asarray(unknown[np.arange(height) * len(unknown) // height])
