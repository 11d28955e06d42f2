"""The expert: the teacher network, for evaluation and as the upper bound of the codec."""

from __future__ import annotations

from collections.abc import Sequence

from .bundle import ModelBundle
from .images import Frame, as_frame, resize_frame
from .masks import Mask, resize_mask, upsampled_argmax
from .sessions import Provider


class Expert:
    """The segmentation network that a bundle imitates, applied to uncoded frames."""

    def __init__(
        self, bundle: ModelBundle, providers: Sequence[Provider] = ("cpu",), threads: int = 1
    ) -> None:
        """Load the expert.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.expert_session`.
        """
        self.bundle = bundle
        self.session = bundle.expert_session(providers, threads)

    def segment(self, frame: Frame) -> Mask:
        """Return the mask of a frame: uint8 (H, W, 3) RGB -> uint8 (H, W) label ids.

        Raises:
            ImageError: `frame` is not such an array.
        """
        frame = as_frame(frame)
        pixels = resize_frame(frame, self.bundle.input_size)
        logits = self.session.run(pixels[None])[0]
        mask = upsampled_argmax(logits, self.bundle.input_size, self.bundle.labels)
        return resize_mask(mask, frame.shape[:2])
