"""One thread that processes the newest frames of several cameras in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Condition, Thread
from typing import Generic, TypeVar

from .meters import Meter

Item = TypeVar("Item")


class FrameWorker(Generic[Item]):
    """A queue for each camera, and a thread that serves the queues round-robin.

    A full queue means that the thread is too slow: the frames that wait are dropped in favour of
    the newest one, so frames are processed in order and never wait longer than the queue is deep.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        depth: int,
        handle: Callable[[Mapping[str, Item]], None],
        failed: Callable[[str, Exception], None],
        batch: int = 1,
    ) -> None:
        """Start the thread.

        Args:
            cameras: names of the queues.
            depth: frames that each queue holds.
            handle: what the thread calls with the next frames, by camera.
            failed: what it calls with each of their cameras and the error if `handle` raised; the
                thread continues.
            batch: largest number of cameras per call of `handle`.
        """
        self._depth = depth
        self._handle = handle
        self._failed = failed
        self._batch = batch
        self._queues: dict[str, deque[Item]] = {camera: deque() for camera in cameras}
        self._dropped = dict.fromkeys(cameras, 0)
        self._drops = {camera: Meter() for camera in cameras}
        self._turns = deque(cameras)
        self._changed = Condition()
        self._stopping = False
        self._thread = Thread(target=self._run, name="frames", daemon=True)
        self._thread.start()

    def put(self, camera: str, item: Item) -> None:
        """Queue a frame; where the queue is full, drop and count the camera's older ones."""
        with self._changed:
            queue = self._queues[camera]
            if len(queue) >= self._depth:
                self._dropped[camera] += len(queue)
                self._drops[camera].add(len(queue))
                queue.clear()
            queue.append(item)
            self._changed.notify()

    def dropped(self, camera: str) -> int:
        """Return how many frames of a camera were dropped in favour of newer ones."""
        return self._dropped[camera]

    def drop_rate(self, camera: str) -> float:
        """Return how many frames of a camera were dropped per second lately."""
        return self._drops[camera].sum_rate()

    def stop(self) -> None:
        """Finish the current frame, discard the queued ones and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> dict[str, Item]:
        """Return the next frames, one per camera; none when the thread is to stop."""
        with self._changed:
            while not self._stopping:
                frames: dict[str, Item] = {}
                for _ in range(len(self._turns)):
                    camera = self._turns[0]
                    self._turns.rotate(-1)
                    if self._queues[camera]:
                        frames[camera] = self._queues[camera].popleft()
                    if len(frames) == self._batch:
                        break
                if frames:
                    return frames
                self._changed.wait()
        return {}

    def _run(self) -> None:
        while frames := self._next():
            try:
                self._handle(frames)
            except Exception as error:  # of any frame; the next one is processed
                for camera in frames:
                    self._failed(camera, error)
