"""Reading ahead in a thread."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield `items`, which a thread reads up to `depth` ahead; what it raises is raised here."""
    ready: SimpleQueue[Any] = SimpleQueue()
    room = Semaphore(depth)
    end = object()
    closed = False

    def read() -> None:
        try:
            for item in items:
                room.acquire()
                if closed:
                    break
                ready.put((item, None))
        except BaseException as error:  # it belongs to the thread that consumes
            ready.put((None, error))
        ready.put((end, None))

    thread = Thread(target=read, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
            room.release()
    finally:
        closed = True
        room.release()
        thread.join()
