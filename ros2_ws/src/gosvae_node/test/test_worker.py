"""The queue drops the oldest, counts it, and no camera starves another."""

import math
from threading import Event, Semaphore

import pytest

from gosvae_node.meters import Meter
from gosvae_node.qos import QOS_NAMES, qos_profile
from gosvae_node.worker import FrameWorker

WAIT = 10.0


class Recorder:
    """Takes one frame for each permit and notes it."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.permits = Semaphore(0)
        self.entered = Semaphore(0)

    def __call__(self, camera: str, frame: int) -> None:
        self.entered.release()
        assert self.permits.acquire(timeout=WAIT)
        self.taken.append((camera, frame))


def test_the_oldest_frame_gives_way_and_is_counted() -> None:
    recorder = Recorder()
    worker = FrameWorker(["a"], 2, recorder)
    worker.put("a", 0)
    assert recorder.entered.acquire(timeout=WAIT)
    for frame in range(1, 6):
        worker.put("a", frame)
    assert worker.dropped("a") == 3
    for _ in range(3):
        recorder.permits.release()
    for _ in range(2):
        assert recorder.entered.acquire(timeout=WAIT)
    worker.stop()
    assert recorder.taken == [("a", 0), ("a", 4), ("a", 5)]


def test_cameras_take_turns() -> None:
    recorder = Recorder()
    worker = FrameWorker(["a", "b"], 10, recorder)
    worker.put("a", 0)
    assert recorder.entered.acquire(timeout=WAIT)
    for frame in range(1, 4):
        worker.put("a", frame)
    worker.put("b", 10)
    for _ in range(5):
        recorder.permits.release()
    for _ in range(4):
        assert recorder.entered.acquire(timeout=WAIT)
    worker.stop()
    assert recorder.taken[1] == ("b", 10)
    assert [frame for camera, frame in recorder.taken if camera == "a"] == [0, 1, 2, 3]


def test_stopping_forgets_what_is_queued() -> None:
    entered, leave = Event(), Event()
    taken = []

    def handle(camera: str, frame: int) -> None:
        taken.append(frame)
        entered.set()
        assert leave.wait(WAIT)

    worker = FrameWorker(["a"], 5, handle)
    worker.put("a", 0)
    assert entered.wait(WAIT)
    worker.put("a", 1)
    leave.set()
    worker.stop()
    assert taken in ([0], [0, 1])


def test_meters_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gosvae_node.meters.time.monotonic", lambda: now)
    meter = Meter(window=10)
    assert math.isnan(meter.percentile(0.5))
    for value in range(1, 6):
        now += 1
        meter.add(value)
    assert meter.rate() == 1.0
    assert meter.sum_rate() == 3.0
    assert (meter.percentile(0.5), meter.percentile(0.95)) == (3, 5)
    now += 8
    assert meter.percentile(0.0) == 3
    now += 100
    assert meter.rate() == 0.0


def test_qos_names_are_profiles_and_others_are_refused() -> None:
    for name in QOS_NAMES:
        assert qos_profile(name).depth > 0
    with pytest.raises(ValueError, match=r"'best': choose one of sensor_data"):
        qos_profile("best")
