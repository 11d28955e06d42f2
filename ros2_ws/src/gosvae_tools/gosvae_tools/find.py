"""`gosvae find`: when a class was seen, from the tables that `gosvae decode` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute, dataset

from gosvae_common.errors import UsageError

DEPTH = ["nearest", "median"]
"""Of a task of depths, which has no classes."""
GAP_NS = 2_000_000_000
"""Between two frames that count as one sighting, at most."""


@dataclass
class Sighting:
    """A class seen in successive frames of a camera."""

    recording: str
    camera: str
    task: str
    begin_ns: int
    """Time of recording of the first frame."""
    end_ns: int
    """Of the last."""
    frames: int
    most: float
    """Greatest share of the pixels, 0 to 1; of boxes, the greatest score."""

    def values(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)


def find(paths: Sequence[Path], name: str, share: float, score: float) -> list[Sighting]:
    """Return when a class was seen, by recording, camera, task and time.

    Args:
        paths: tables, or folders of such.
        name: of the class.
        share: of the pixels known that it has at least, where it is one of masks; 0 to 1.
        score: of a box that counts, at least; 0 to 1.

    Raises:
        UsageError: a path has no tables, or none of them knows the class.
    """
    found: list[Sighting] = []
    known: set[str] = set()
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path}: has no tables; write some with `gosvae decode -o T.parquet`")
        for file in files:
            try:
                found += _find_in(file, name, share, score, known)
            except (OSError, pa.ArrowInvalid, KeyError) as error:
                raise UsageError(f"{file}: not a table of decoded frames: {error}") from error
    if name not in known and not found:
        raise UsageError(f"class {name!r}: never seen; the tables know {', '.join(sorted(known))}")
    return sorted(found, key=lambda each: (each.recording, each.camera, each.task, each.begin_ns))


def _find_in(
    file: Path, name: str, share: float, score: float, known: set[str]
) -> Iterator[Sighting]:
    """Yield the sightings in one table; `known` gets the names of its classes."""
    table = dataset.dataset(file, format="parquet")
    where = ["recording", "camera", "time_ns"]
    for column in table.schema:
        kind = column.type
        if pa.types.is_list(kind):
            rows = table.to_table([*where, column.name]).to_pylist()
            known |= {box["name"] for row in rows for box in row[column.name]}
            best = [
                max((b["score"] for b in row[column.name] if b["name"] == name), default=0.0)
                for row in rows
            ]
            least = score
        elif pa.types.is_struct(kind) and [each.name for each in kind] != DEPTH:
            known |= {field.name for field in kind}
            if kind.get_field_index(name) < 0:
                continue
            shares = compute.field(column.name, name)
            wanted = {each: compute.field(each) for each in where}
            rows = table.to_table({**wanted, "share": shares}).to_pylist()
            best, least = [row["share"] for row in rows], share
        else:
            continue
        # A least share of 0 does not mean a class that is not there.
        pairs = zip(rows, best, strict=True)
        seen = [(row, most) for row, most in pairs if most >= least and most > 0]
        seen.sort(key=lambda each: (each[0]["camera"], each[0]["time_ns"]))
        yield from _join(seen, column.name)


def _join(seen: Sequence[tuple[dict[str, Any], float]], task: str) -> Iterator[Sighting]:
    """Yield frames of a table in which a class was seen as sightings; they are in order."""
    last: Sighting | None = None
    for row, most in seen:
        time = row["time_ns"]
        if last and last.camera == row["camera"] and time - last.end_ns <= GAP_NS:
            last.end_ns, last.frames, last.most = time, last.frames + 1, max(last.most, most)
            continue
        if last:
            yield last
        last = Sighting(row["recording"], row["camera"], task, time, time, 1, most)
    if last:
        yield last
