"""The receiver's networks: tokens to results of tasks, and to pictures where a bundle can."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .bundle import ModelBundle
from .entropy import Tokens
from .errors import PacketError
from .images import Frame, resize_frame
from .manifest import FEATURES, RECONSTRUCT
from .masks import Mask
from .packets import Header, Packet
from .sessions import Provider, Session
from .tasks import MIN_SCORE, Canvas, Outputs, Result, SemanticResult, Task
from .unpacking import UnpackedFrame, Unpacker


class DecodedFrame(NamedTuple):
    """One frame at the receiver."""

    header: Header
    """Stamp and frame_id of the camera frame, unchanged."""
    sequence: int
    size: tuple[int, int]
    """Height and width of the camera frame in pixels, which results are at."""
    tasks: Mapping[str, Result]
    """What the heads that were run made of it, by task."""
    coverage: float
    """Share of the token rows that arrived, 0 to 1; the rest was concealed."""
    tokens: Tokens
    """Concealed rows included: uint16 (levels, h, w), absent ones `codes`."""

    @property
    def mask(self) -> Mask:
        """Mask of the first semantic task that was run, uint8 (H, W) label ids.

        Raises:
            AttributeError: none was run.
        """
        for result in self.tasks.values():
            if isinstance(result, SemanticResult):
                return result.mask
        raise AttributeError(f"no mask was made of this frame, only: {', '.join(self.tasks)}")

    @property
    def complete(self) -> bool:
        """Whether every row arrived, so that later frames may refer to this one."""
        return self.coverage == 1.0


class Networks(NamedTuple):
    """Networks that decode tokens; see :func:`run`."""

    features: Session
    heads: Mapping[str, tuple[Task, Session]]
    """By task."""

    @classmethod
    def load(
        cls,
        bundle: ModelBundle,
        providers: Sequence[Provider] = ("cpu",),
        threads: int = 1,
        batch: int = 1,
        tasks: Iterable[str] | None = None,
    ) -> Networks:
        """Load the features' network and the heads of `tasks`, or of all, for up to `batch` frames.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.session` and
                :meth:`ModelBundle.choose`.
        """
        heads = {
            name: (task, bundle.session(task.file, providers, threads, batch))
            for name, task in bundle.choose(tasks).items()
        }
        return cls(bundle.session(FEATURES, providers, threads, batch), heads)


class Decoder(Unpacker):
    """Decoder of one stream of frames: tokens to results, without pixels in between.

    :meth:`decode` is three steps that can also be taken apart, to skip frames or to run the
    networks elsewhere: :meth:`Unpacker.unpack`, :func:`run` and :func:`finish`. The stream's state
    is in the first alone. Decoders of one bundle share its networks. A band that never arrived in
    the stream is unlabelled.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        providers: Sequence[Provider] = ("cpu",),
        threads: int = 1,
        batch: int = 1,
        tasks: Iterable[str] | None = None,
        min_score: float = MIN_SCORE,
    ) -> None:
        """Load the networks of `tasks`, or of all, for up to `batch` frames in one :func:`run`.

        Boxes with a score below `min_score`, 0 to 1, are left out.

        Raises:
            ProviderError, BundleError: see :meth:`Networks.load`.
        """
        self.networks = Networks.load(bundle, providers, threads, batch, tasks)
        super().__init__(bundle)
        self.min_score = min_score
        # Compiled now rather than at the first frame.
        for task, _ in self.networks.heads.values():
            task.prepare()

    def decode(
        self, packets: Sequence[Packet], tasks: Collection[str] | None = None
    ) -> DecodedFrame:
        """Decode one frame from those of its packets that arrived, in any order.

        Args:
            packets: of the frame.
            tasks: names of the heads to run; None: all that were loaded.

        Raises:
            MissingReferenceError, PacketError: see :meth:`Unpacker.unpack`.
        """
        frame = self.unpack(packets)
        made = run(self.networks, [frame], tasks)[0]
        return finish(self.bundle, frame, made, self.min_score)


def run(
    networks: Networks, frames: Sequence[UnpackedFrame], tasks: Collection[str] | None = None
) -> list[dict[str, Outputs]]:
    """Run networks on one or more frames of one bundle: the features' once, then the heads.

    Args:
        networks: of the bundle, as :attr:`Decoder.networks`.
        frames: of any streams, at least one.
        tasks: names of the heads to run; None: all. Of none of them, nothing is run.

    Returns:
        For each frame what each head made of it.
    """
    heads = {name: head for name, head in networks.heads.items() if tasks is None or name in tasks}
    results: list[dict[str, Outputs]] = [{} for _ in frames]
    if not heads:
        return results
    tokens = np.stack([frame.tokens for frame in frames]).astype(np.int32)
    features = networks.features.compute(tokens)
    for name, (task, session) in heads.items():
        made = task.split(session.run_all(*features), len(frames))
        for result, outputs in zip(results, made, strict=True):
            result[name] = outputs
    return results


def finish(
    bundle: ModelBundle,
    frame: UnpackedFrame,
    made: Mapping[str, Outputs],
    min_score: float = MIN_SCORE,
) -> DecodedFrame:
    """Return a frame's results from what the heads of the same bundle made of it.

    Boxes with a score below `min_score`, 0 to 1, are left out.
    """
    unknown = unknown_lines(bundle, frame.tokens)
    canvas = Canvas(bundle.input_size, frame.size, unknown, min_score)
    tasks = {name: bundle.tasks[name].finish(outputs, canvas) for name, outputs in made.items()}
    return DecodedFrame(
        frame.header, frame.sequence, frame.size, tasks, frame.coverage, frame.tokens
    )


def decode_together(
    frames: Sequence[tuple[Decoder, Sequence[Packet]]],
    tasks: Sequence[Collection[str]] | None = None,
) -> list[DecodedFrame | PacketError]:
    """Decode one frame for each of several decoders in one inference.

    Args:
        frames: different decoders of one bundle on the same providers, each with packets as for
            :meth:`Decoder.decode`.
        tasks: for each frame the names of its tasks; None: all. A head that one frame needs is run
            on all.

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
    wanted = [*tasks] if tasks is not None else [decoder.networks.heads] * len(frames)
    made = iter(run(decoder.networks, unpacked, set().union(*wanted)))
    return [
        each
        if isinstance(each, PacketError)
        else finish(
            decoder.bundle,
            each,
            {name: outputs for name, outputs in next(made).items() if name in names},
            each_decoder.min_score,
        )
        for (each_decoder, _), each, names in zip(frames, results, wanted, strict=True)
    ]


class Reconstructor:
    """Makes pictures of decoded frames for people to look at; no result depends on them."""

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
        picture[unknown_lines(self.bundle, decoded.tokens)] = 0
        return resize_frame(picture, decoded.size)


def unknown_lines(bundle: ModelBundle, tokens: Tokens) -> npt.NDArray[np.bool_]:
    """Return for each line of the network's input, (H,), whether its tokens never arrived."""
    unknown = (tokens[0] == bundle.codes).all(axis=1)
    height = bundle.input_size[0]
    return np.asarray(unknown[np.arange(height) * len(unknown) // height])
