"""Datasets together with an expert's logits, which are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from gosvae_codec.draft import whole_file

from .augment import fit_rows
from .samples import Dataset, Sample, iterate

STRIDE = 4
"""Pixels from one cell of cached logits to the next."""


def at_stride(logits: Tensor, size: Sequence[int], stride: int = STRIDE) -> Tensor:
    """Resize logits that cover a frame to one cell for `stride` x `stride` pixels of it.

    Finer logits are averaged, coarser ones interpolated, in either case about the centres of the
    cells made.

    Args:
        logits: float (classes, h, w), cells of any size.
        size: the frame's height and width; its last cells may reach beyond it.
        stride: pixels from cell to cell.

    Returns:
        float (classes, H / stride, W / stride), rounded up.
    """
    rows, columns = (-(-side // stride) for side in size)
    if tuple(logits.shape[1:]) == (rows, columns):
        return logits
    extent = [float(side) for side in size]
    # Halved until one cell made has no more than four of these, which interpolation averages.
    while all(side / n < 0.375 * stride for side, n in zip(extent, logits.shape[1:], strict=True)):
        halves = [-(-n // 2) for n in logits.shape[1:]]
        extent = [
            side * 2 * half / n
            for side, half, n in zip(extent, halves, logits.shape[1:], strict=True)
        ]
        logits = F.avg_pool2d(logits, 2, ceil_mode=True)
    y, x = (
        (stride * (torch.arange(n) + 0.5)) / side * 2 - 1
        for n, side in zip((rows, columns), extent, strict=True)
    )
    places = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
    made = F.grid_sample(
        logits[None], places[None].to(logits), padding_mode="border", align_corners=False
    )
    return made[0]


class Taught(NamedTuple):
    """What experts say of a frame."""

    logits: Tensor
    """float (classes, h, w) of all of it, at any stride."""
    boxes: npt.NDArray[np.float32] | None = None
    """Of detectors, see :mod:`.boxes`."""


class CachedLogits:
    """Samples at the height that networks see them at, in memory, with what experts say of them."""

    def __init__(
        self, samples: Dataset, rows: int, teach: Callable[[np.ndarray], Taught], file: Path
    ) -> None:
        """Ask the expert once for each frame, or read what it said.

        Args:
            samples: what to keep; read once, in order.
            rows: height that frames are brought to.
            teach: uint8 (H, W, 3), a frame as it is -> what is said of it.
            file: NPZ file with arrays for each frame, written if there is none; its name has to
                tell apart experts and samples.
        """
        self.title, self.terms = samples.title, samples.terms
        known = np.load(file) if file.exists() else None
        made: dict[str, np.ndarray] = {}
        self._samples: list[Sample] = []
        progress = tqdm(
            iterate(samples), desc="expert's logits", unit="frame", total=len(samples), leave=False
        )
        for index, sample in enumerate(progress):
            fitted = fit_rows(sample, rows)
            name = f"boxes_{index}"
            if known is not None:
                logits, boxes = known[f"arr_{index}"], known.get(name)
            else:
                taught = teach(sample.frame)
                found = at_stride(taught.logits, fitted.mask.shape)
                logits, boxes = found.permute(1, 2, 0).numpy().astype(np.float16), taught.boxes
                made[f"arr_{index}"] = logits
                if boxes is not None:
                    made[name] = boxes
            self._samples.append(fitted._replace(logits=logits, boxes=boxes))
        if known is not None:
            known.close()
        else:
            with whole_file(file) as draft:
                np.savez(draft, allow_pickle=False, **made)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]
