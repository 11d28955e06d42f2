"""`gosvae archive`: folders of recordings to tables, on one machine or a Ray cluster.

Each recording is decoded by one worker, as frames are predicted from earlier ones. What has a table
already is left as it is, so that an archive grows by running the command again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from gosvae_codec import GosvaeError
from gosvae_common.errors import UsageError
from gosvae_tools.coding import Coding, progress
from gosvae_tools.decode import decode
from gosvae_tools.drives.bag_files import METADATA, is_storage
from gosvae_tools.outcome import Outcome


def recordings(folder: Path) -> Iterator[Path]:
    """Yield the bags in a folder, itself included: rosbag2 folders, MCAP and SQLite files.

    A folder without metadata.yaml holds a recording in each file.
    """
    if is_storage(folder) or (folder / METADATA).is_file():
        yield folder
    elif folder.is_dir():
        for path in sorted(folder.iterdir()):
            yield from recordings(path)


def archive(
    folders: Sequence[Path],
    output: Path,
    coding: Coding,
    tasks: Sequence[str] | None,
    key_file: str,
    min_score: float,
    address: str,
) -> Outcome:
    """Write a table beside its like for each recording that has none; see :func:`decode`.

    Recordings that cannot be decoded are told and do not stop the others.

    Args:
        folders: with recordings; their layout is that of the tables.
        output: folder of the tables.
        coding: bundle and providers; all workers find the bundle at the same path.
        tasks: names of the bundle's tasks; None: all.
        key_file: opens sealed packets.
        min_score: least score of a box that is written, 0 to 1.
        address: of a Ray cluster; empty: processes of this machine.

    Raises:
        UsageError: a folder is missing, there is no recording in any, or two would have one table.
        BundleError: as :meth:`Coding.load` does; or there is no such task.
    """
    coding.load().choose(tasks)
    wanted = tables(folders, output)
    missing = {table: source for table, source in wanted.items() if not table.exists()}
    found: list[dict[str, Any]] = []
    if missing:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address or "local", log_to_driver=False, logging_level="error")
        try:
            found = list(_decode_all(missing, (coding, tasks, key_file, min_score)))
        finally:
            ray.shutdown()
    problems = [f"{each['recording']}: {each['problem']}" for each in found if each["problem"]]
    if len(found) != len(missing):
        problems.append(f"{len(missing)} recordings were given to workers, {len(found)} came back")
    figures = {
        "output": str(output),
        "recordings": len(wanted),
        "with a table before": len(wanted) - len(missing),
        "decoded": sum(1 for each in found if each["frames"]),
        "failed": sum(1 for each in found if not each["frames"]),
        "packets": sum(each["packets"] for each in found),
        "frames": sum(each["frames"] for each in found),
    }
    return Outcome(figures, (), tuple(problems))


def tables(folders: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Return the recordings by the tables that they are to have."""
    wanted: dict[Path, Path] = {}
    for folder in folders:
        if not folder.exists():
            raise UsageError(f"{folder}: no such file or folder")
        for source in recordings(folder):
            name = source.relative_to(folder) if source != folder else Path(source.name)
            table = output / name.with_name(f"{name.name}.parquet")
            if table in wanted:
                raise UsageError(f"{source} and {wanted[table]} would both have the table {table}")
            wanted[table] = source
    if not wanted:
        raise UsageError(f"{', '.join(map(str, folders))}: no recording; give rosbag2 or MCAP")
    return wanted


def _decode_all(missing: dict[Path, Path], how: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Decode recordings on the cluster, and yield what became of each, as it comes."""
    # One bar is ours; Ray's log of its plan says nothing to who waits for tables.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [
        {"recording": str(source.absolute()), "table": str(table.absolute())}
        for table, source in missing.items()
    ]
    # A block for each recording, as they differ in length.
    work = ray.data.from_items(rows, override_num_blocks=len(rows))
    done = work.map(_decode_one, fn_args=how, num_cpus=1)
    with progress() as bar:
        for row in bar.track(done.iter_rows(), len(rows), description="decode"):
            yield dict(row)


def _decode_one(
    row: dict[str, Any],
    coding: Coding,
    tasks: Sequence[str] | None,
    key_file: str,
    min_score: float,
) -> dict[str, Any]:
    """Decode one recording, in a worker."""
    table = Path(row["table"])
    report = {**row, "packets": 0, "frames": 0, "problem": ""}
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        outcome = decode(
            Path(row["recording"]), table, coding, tasks, key_file=key_file, min_score=min_score
        )
    except (GosvaeError, OSError) as error:
        return {**report, "problem": str(error)}
    counts = {"packets": outcome.figures["packets"], "frames": outcome.figures["decoded"]}
    return {**report, **counts, "problem": "; ".join(outcome.problems)}
