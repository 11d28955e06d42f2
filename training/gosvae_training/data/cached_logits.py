"""Datasets together with an expert's logits, which are computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gosvae_codec.draft import whole_file

from .augment import fit_rows
from .datasets import Dataset, Sample, iterate


class CachedLogits:
    """Samples at the height that networks see them at, in memory, with an expert's logits."""

    def __init__(
        self, samples: Dataset, rows: int, teach: Callable[[np.ndarray], np.ndarray], file: Path
    ) -> None:
        """Ask the expert once for each frame, or read what it said.

        Args:
            samples: what to keep.
            rows: height that frames are brought to.
            teach: uint8 (H, W, 3) -> logits (H/4, W/4, classes).
            file: NPZ file with an array for each frame, written if there is none; its name has to
                tell apart experts and samples.
        """
        self.title, self.terms = samples.title, samples.terms
        fitted = [fit_rows(sample, rows) for sample in iterate(samples)]
        if not file.exists():
            progress = tqdm(fitted, desc="expert's logits", unit="frame")
            made = [teach(sample.frame).astype(np.float16) for sample in progress]
            with whole_file(file) as draft:
                np.savez(draft, *made)
        with np.load(file) as logits:
            self._samples = [
                sample._replace(logits=logits[f"arr_{index}"])
                for index, sample in enumerate(fitted)
            ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]
