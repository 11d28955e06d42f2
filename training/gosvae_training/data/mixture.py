"""Several datasets as one."""

from __future__ import annotations

from collections.abc import Sequence, Sized

import numpy as np
import torch

from .augment import Items
from .samples import Dataset, Sample


class Ends:
    """Where parts end that are laid end to end."""

    def __init__(self, parts: Sequence[Sized]) -> None:
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def find(self, index: int) -> tuple[int, int]:
        """Return the number of the part that an index lies in, and its place there."""
        part = int(np.searchsorted(self._ends, index, "right"))
        return part, index - (int(self._ends[part - 1]) if part else 0)


class Concatenation:
    """Several datasets one after another."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = parts
        self.title = " and ".join(part.title for part in parts)
        self.terms = "; ".join(dict.fromkeys(part.terms for part in parts))
        self._ends = Ends(parts)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part, place = self._ends.find(index)
        return self.parts[part][place]


class Mixture(Items):
    """Items of several datasets, interleaved by their shares, always in the same order."""

    _PERIOD = 1000

    def __init__(self, parts: Sequence[Items], shares: Sequence[float]) -> None:
        self._parts = parts
        whole = self._PERIOD * np.asarray(shares) / sum(shares)
        # Rounded so that their sum stays: by the ends of the shares laid end to end.
        ends = np.rint(np.cumsum(whole)).astype(int)
        self._counts = np.diff(ends, prepend=0)
        places = np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in self._counts])
        owners = np.repeat(np.arange(len(parts)), self._counts)
        self._owners = owners[np.argsort(places, kind="stable")]
        self._ranks = np.zeros(self._PERIOD, int)
        for part in range(len(parts)):
            own = self._owners == part
            self._ranks[own] = np.arange(own.sum())

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        period, place = divmod(index, self._PERIOD)
        part = self._owners[place]
        return self._parts[part][int(period * self._counts[part] + self._ranks[place])]
