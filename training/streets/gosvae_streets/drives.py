"""Sets of drives, rendered by several processes, from where they were left."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .output import Place, write_frame
from .scene import Scene


@dataclass(frozen=True)
class Job:
    """How all drives of a set are rendered."""

    root: Path
    split: str
    seed: int
    frames: int
    rate: float
    size: tuple[int, int]
    samples: int
    threads: int
    shutter: float
    kind: str
    sky: str

    def places(self, drive: int) -> list[Place]:
        """Return where the frames of a drive go."""
        return [Place(self.root, self.split, self.seed, drive, k) for k in range(self.frames)]

    def settings(self) -> dict[str, Any]:
        """Return what decides how frames look."""
        names = ("split", "seed", "frames", "rate", "size", "samples", "shutter", "kind", "sky")
        values = {name: getattr(self, name) for name in names}
        return {**values, "size": list(self.size)}


_done: Any = None


def _start(done: Any) -> None:
    global _done
    _done = done


def _render_drive(job: Job, drive: int) -> None:
    """Render the frames of a drive that are not there yet; runs in a process of its own."""
    missing = [place for place in job.places(drive) if not place.camera.exists()]
    if not missing:
        return
    from .render import Renderer, silence

    log = job.root / "blender.log"
    scene = Scene.draw(job.seed, drive, job.frames / job.rate, job.kind, job.sky)
    with silence(log):
        renderer = Renderer(
            scene,
            job.size,
            job.samples,
            job.threads,
            1000 * job.seed + drive,
            job.shutter,
            job.rate,
        )
        for place in missing:
            time = place.frame / job.rate
            write_frame(place, scene, time, *renderer.render(time))
            _done.put(1)


def render_drives(job: Job, drives: Sequence[int], workers: int) -> None:
    """Render what is missing of these drives, showing progress.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a process was killed.
        ImportError: Blender cannot be loaded.
        OSError: something cannot be written.
    """
    context = multiprocessing.get_context("spawn")
    done = context.Manager().Queue()
    # One drive per process: Blender gives back little of what it took.
    pool = ProcessPoolExecutor(workers, context, _start, (done,), max_tasks_per_child=1)
    there = sum(place.camera.exists() for drive in drives for place in job.places(drive))
    total = len(drives) * job.frames
    with tqdm(total=total, initial=there, unit="frame", smoothing=0.05) as bar, pool:
        running = {pool.submit(_render_drive, job, drive) for drive in drives}
        try:
            while running:
                finished, running = wait(running, timeout=0.3, return_when=FIRST_COMPLETED)
                while True:
                    try:
                        bar.update(done.get_nowait())
                    except queue.Empty:
                        break
                for future in finished:
                    future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
