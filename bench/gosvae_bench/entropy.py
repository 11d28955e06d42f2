"""Time entropy coding and decoding by number of tokens: ``python -m gosvae_bench.entropy``.

Random tokens, which cost the most, with the prior of a bundle that ships, stretched to larger
grids; all residual levels, one thread. Times are CPU times, so that other load does not count.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gosvae_codec import ModelBundle
from gosvae_codec.draft import write_text
from gosvae_codec.entropy import TokenCoder
from gosvae_codec.prior import Prior

from .files import BUNDLE
from .tables import markdown_table

SIZES = {"480x360": (23, 30), "960x540": (34, 60), "1280x720": (45, 80), "2048x1024": (64, 128)}
"""Token grids at 16 pixels a token, by camera size."""


def stretched(bundle: ModelBundle, grid: tuple[int, int]) -> TokenCoder:
    """Return a coder for another grid with the same tables, rows and columns repeated."""
    prior = Prior.load(bundle.path / "prior.npz", bundle.levels, bundle.codes, bundle.grid)
    levels = tuple(
        replace(
            level,
            row=np.resize(level.row, (grid[0], level.row.shape[1])),
            column=np.resize(level.column, (grid[1], level.column.shape[1])),
        )
        for level in prior.levels
    )
    return TokenCoder(replace(prior, levels=levels), bundle.codes, grid)


def median_ms(call: Callable[[], object], times: int) -> float:
    """Return the median CPU time of a call in ms, after one that does not count."""
    call()
    taken = []
    for _ in range(times):
        begin = time.thread_time()
        call()
        taken.append(time.thread_time() - begin)
    return float(np.median(taken)) * 1e3


def measure(coder: TokenCoder, shape: tuple[int, int, int], codes: int, times: int) -> dict:
    """Return times in ms of an intra and a predicted frame, half of it as in the reference."""
    rng = np.random.default_rng(0)
    tokens, other = rng.integers(0, codes, (2, *shape), np.uint16)
    reference = np.where(rng.random(shape) < 0.5, tokens, other)
    row = {}
    for name, past in (("intra", None), ("predicted", reference)):
        payload = coder.encode(tokens, 0, past)
        row[f"{name}_encode_ms"] = median_ms(lambda p=past: coder.encode(tokens, 0, p), times)
        row[f"{name}_decode_ms"] = median_ms(
            lambda p=past, d=payload: coder.decode(d, shape[0], 0, shape[1], p), times
        )
    return row


def main() -> None:
    """Print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLE)
    parser.add_argument("--times", type=int, default=100, help="repetitions")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    bundle = ModelBundle.load(options.bundle)
    rows, lines = [], []
    for size, grid in SIZES.items():
        shape = (bundle.levels, *grid)
        row = measure(stretched(bundle, grid), shape, bundle.codes, options.times)
        tokens = int(np.prod(shape))
        both = [
            row[f"{name}_encode_ms"] + row[f"{name}_decode_ms"] for name in ("intra", "predicted")
        ]
        nanoseconds = f"{max(both) / tokens * 1e6:.0f}"
        lines.append((size, tokens, *(f"{each:.2f} ms" for each in both), nanoseconds))
        rows.append({"size": size, "tokens": tokens, **{k: round(v, 3) for k, v in row.items()}})
    heads = ["camera", "tokens", "intra, both ways", "predicted, both ways", "ns a token"]
    print(markdown_table(heads, lines))
    if options.json:
        figures = {"bundle": bundle.name, "machine": platform.processor(), "rows": rows}
        write_text(options.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
