"""The expert: the teacher network, for evaluation and as the upper bound of the codec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bundle import ModelBundle
from .errors import BundleError
from .images import Frame, as_frame, resize_frame
from .masks import Mask
from .sessions import Provider
from .tasks import Canvas, Result, SemanticResult


class Expert:
    """The network that a task of a bundle imitates, applied to uncoded frames."""

    def __init__(
        self,
        bundle: ModelBundle,
        providers: Sequence[Provider] = ("cpu",),
        threads: int = 1,
        task: str | None = None,
    ) -> None:
        """Load the expert of `task`, or of the bundle's masks.

        Raises:
            ProviderError, BundleError: see :meth:`ModelBundle.expert_session` and
                :meth:`ModelBundle.choose`.
        """
        self.bundle = bundle
        self.task = bundle.semantic if task is None else bundle.choose([task])[task]
        self.session = bundle.expert_session(self.task, providers, threads)

    def apply(self, frame: Frame) -> Result:
        """Return what the task's head is to make of a frame, uint8 (H, W, 3) RGB.

        Raises:
            ImageError: `frame` is not such an array.
        """
        frame = as_frame(frame)
        whole = frame.shape[0], frame.shape[1]
        rows, columns = self.session.input_shapes[0][1:3]
        size = (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else whole
        made = self.session.run_all(resize_frame(frame, size)[None])
        # An expert's graph knows by itself how sure it has to be.
        canvas = Canvas(size, whole, np.zeros(size[0], bool), min_score=0.0)
        return self.task.finish(self.task.split(made, 1)[0], canvas)

    def segment(self, frame: Frame) -> Mask:
        """Return the mask of a frame: uint8 (H, W, 3) RGB -> uint8 (H, W) label ids.

        Raises:
            ImageError: `frame` is not such an array.
            BundleError: the task makes no masks.
        """
        result = self.apply(frame)
        if not isinstance(result, SemanticResult):
            raise BundleError(f"{self.task.name}: its expert makes no masks")
        return result.mask
