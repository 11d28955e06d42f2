"""What decoded frames hold as a table: a Parquet file that is searched without decoding again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gosvae_codec import DecodedFrame, SemanticResult, Task
from gosvae_codec.tasks import DetectionResult, Result
from gosvae_common.boxes import boxes_of

from .bag_writer import BagWriteError

_ROWS = 4096
"""That are held in memory before they are written."""
_FRAME = {
    "recording": pa.string(),
    "camera": pa.string(),
    "time_ns": pa.int64(),
    "stamp_ns": pa.int64(),
    "frame_id": pa.string(),
    "sequence": pa.uint32(),
    "coverage": pa.float32(),
}
_SIDES = ("left", "top", "right", "bottom")
_BOXES = pa.list_(
    pa.struct([("name", pa.string()), *((name, pa.float32()) for name in ("score", *_SIDES))])
)


class DecodedTable:
    """A Parquet file with a row for each frame.

    Columns are recording, camera, time of recording and stamp in ns, frame_id, sequence, coverage,
    and one for each task: of masks, the share of the pixels of each class, 0 to 1, of those whose
    tokens arrived; of boxes, a list of name, score and sides in pixels; of depths, the nearest, a
    hundredth of all pixels, and the median.
    """

    def __init__(self, path: Path, recording: str, tasks: Mapping[str, Task]) -> None:
        """Write to the file `path`; `tasks` have results, by name, and `recording` is its name."""
        self._path, self._recording, self._tasks = path, recording, tasks
        kinds = {name: _type(task) for name, task in tasks.items()}
        self._schema = pa.schema({**_FRAME, **kinds})
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._count = 0

    def write(self, camera: str, time: int, decoded: DecodedFrame) -> None:
        """Add the row of a camera's frame that was recorded at `time` in ns."""
        header = decoded.header
        row = {
            "recording": self._recording,
            "camera": camera,
            "time_ns": time,
            "stamp_ns": header.sec * 1_000_000_000 + header.nanosec,
            "frame_id": header.frame_id,
            "sequence": decoded.sequence,
            "coverage": decoded.coverage,
        }
        made = {name: _summary(self._tasks[name], each) for name, each in decoded.tasks.items()}
        self._rows.append({**row, **made})
        self._count += 1
        if len(self._rows) >= _ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left.

        Raises:
            BagWriteError: the file has not as many rows as were written.
        """
        self._flush()
        self._writer.close()
        found = parquet.read_metadata(self._path).num_rows
        if found != self._count:
            raise BagWriteError(f"{self._count} frames were written, but there are {found} rows")

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows.clear()


def _type(task: Task) -> pa.DataType:
    """Return the type of a task's column."""
    if task.kind == "semantic":
        return pa.struct([(label.name, pa.float32()) for label in task.labels.labels])
    if task.kind == "detection":
        return _BOXES
    return pa.struct([("nearest", pa.float32()), ("median", pa.float32())])


def _summary(task: Task, result: Result) -> Any:
    """Return the value of a task's column."""
    if isinstance(result, SemanticResult):
        counts = np.bincount(result.mask.ravel(), minlength=256)
        labels = task.labels.labels
        known = sum(int(counts[label.id]) for label in labels)
        return {label.name: counts[label.id] / max(known, 1) for label in labels}
    if isinstance(result, DetectionResult):
        return [each._asdict() for each in boxes_of(result, task.labels)]
    depth = result.depth[np.isfinite(result.depth)]
    if not depth.size:
        return None
    return {"nearest": float(np.quantile(depth, 0.01)), "median": float(np.median(depth))}
