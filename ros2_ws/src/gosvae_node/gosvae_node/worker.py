"""One thread that works off the newest frames of several cameras in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FrameWorker(Generic[Item]):
    """A queue for each camera that keeps its newest frames, and a thread that takes turns."""

    def __init__(
        self, cameras: Sequence[str], depth: int, handle: Callable[[str, Item], None]
    ) -> None:
        """Start the thread.

        Args:
            cameras: names of the queues.
            depth: frames that each queue holds; the oldest gives way to a new one.
            handle: what the thread calls with camera and frame; it must not raise.
        """
        self._depth = depth
        self._handle = handle
        self._queues: dict[str, deque[Item]] = {camera: deque() for camera in cameras}
        self._dropped = dict.fromkeys(cameras, 0)
        self._turns = deque(cameras)
        self._changed = Condition()
        self._stopping = False
        self._thread = Thread(target=self._run, name="frames", daemon=True)
        self._thread.start()

    def put(self, camera: str, item: Item) -> None:
        """Queue a frame; drop and count the camera's oldest where the queue is full."""
        with self._changed:
            queue = self._queues[camera]
            if len(queue) >= self._depth:
                queue.popleft()
                self._dropped[camera] += 1
            queue.append(item)
            self._changed.notify()

    def dropped(self, camera: str) -> int:
        """Return how many frames of a camera gave way to newer ones."""
        return self._dropped[camera]

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
            self._handle(*task)
