"""One thread that works off the newest frames of several cameras in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import Generic, TypeVar

from .meters import Meter

Item = TypeVar("Item")


class FrameWorker(Generic[Item]):
    """A queue for each camera, and a thread that takes turns.

    A full queue means that the thread cannot keep up: what waits is dropped for the newest frame,
    so that frames come out in order and never older than the queue is long.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        depth: int,
        handle: Callable[[str, Item], None],
        failed: Callable[[str, Exception], None],
    ) -> None:
        """Start the thread.

        Args:
            cameras: names of the queues.
            depth: frames that each queue holds.
            handle: what the thread calls with camera and frame.
            failed: what it calls with camera and error where `handle` raised; it goes on after.
        """
        self._depth = depth
        self._handle = handle
        self._failed = failed
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
        """Return how many frames of a camera gave way to newer ones."""
        return self._dropped[camera]

    def drop_rate(self, camera: str) -> float:
        """Return how many frames a second of a camera gave way lately."""
        return self._drops[camera].sum_rate()

    def stop(self) -> None:
        """Finish the frame in hand, forget the queued ones and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> tuple[str, Item] | None:
        with self._changed:
            while not self._stopping:
                for _ in range(len(self._turns)):
                    camera = self._turns[0]
                    self._turns.rotate(-1)
                    if self._queues[camera]:
                        return camera, self._queues[camera].popleft()
                self._changed.wait()
        return None

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                self._handle(*task)
            except Exception as error:  # whatever a frame holds, the next one has its turn
                self._failed(task[0], error)
