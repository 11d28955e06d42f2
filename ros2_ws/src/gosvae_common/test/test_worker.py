"""The queue drops the oldest, counts it, and no camera starves another."""

import math
from collections.abc import Mapping
from threading import Event, Semaphore

import pytest

from gosvae_common.meters import ErrorLog, Meter
from gosvae_common.qos import QOS_NAMES, qos_profile
from gosvae_common.worker import FrameWorker

WAIT = 10.0


def never(camera: str, error: Exception) -> None:
    raise AssertionError(f"{camera}: {error}")


class Recorder:
    """Takes one frame for each permit and notes it."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.permits = Semaphore(0)
        self.entered = Semaphore(0)

    def __call__(self, frames: Mapping[str, int]) -> None:
        self.entered.release()
        assert self.permits.acquire(timeout=WAIT)
        self.taken += frames.items()


def test_the_oldest_frame_gives_way_and_is_counted() -> None:
    recorder = Recorder()
    worker = FrameWorker(["a"], 2, recorder, never)
    worker.put("a", 0)
    assert recorder.entered.acquire(timeout=WAIT)
    for frame in range(1, 6):
        worker.put("a", frame)
    assert worker.dropped("a") == 4 and worker.drop_rate("a") > 0
    for _ in range(2):
        recorder.permits.release()
    assert recorder.entered.acquire(timeout=WAIT)
    worker.stop()
    assert recorder.taken == [("a", 0), ("a", 5)]


def test_a_frame_that_fails_is_told_and_the_next_has_its_turn() -> None:
    failures: list[tuple[str, str]] = []
    done = Event()

    def handle(frames: Mapping[str, int]) -> None:
        if frames["a"] == 0:
            raise RuntimeError("broken")
        done.set()

    worker = FrameWorker(["a"], 2, handle, lambda name, error: failures.append((name, str(error))))
    worker.put("a", 0)
    worker.put("a", 1)
    assert done.wait(WAIT)
    worker.stop()
    assert failures == [("a", "broken")]


def test_cameras_take_turns() -> None:
    recorder = Recorder()
    worker = FrameWorker(["a", "b"], 10, recorder, never)
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


def test_frames_of_cameras_that_wait_come_together() -> None:
    calls: list[dict[str, int]] = []
    entered, leave = Semaphore(0), Semaphore(0)
    failures: list[str] = []

    def handle(frames: Mapping[str, int]) -> None:
        calls.append(dict(frames))
        entered.release()
        assert leave.acquire(timeout=WAIT)
        if len(frames) == 3:
            raise RuntimeError("broken")

    worker = FrameWorker("abcd", 10, handle, lambda camera, _: failures.append(camera), batch=3)
    worker.put("a", 0)
    assert entered.acquire(timeout=WAIT)
    for frame, camera in enumerate("abcda", 1):
        worker.put(camera, frame)
    for _ in range(2):
        leave.release()
        assert entered.acquire(timeout=WAIT)
    leave.release()
    worker.stop()
    assert calls == [{"a": 0}, {"a": 1, "b": 2, "c": 3}, {"d": 4, "a": 5}]
    assert failures == ["a", "b", "c"]


def test_stopping_forgets_what_is_queued() -> None:
    entered, leave = Event(), Event()
    taken = []

    def handle(frames: Mapping[str, int]) -> None:
        taken.extend(frames.values())
        entered.set()
        assert leave.wait(WAIT)

    worker = FrameWorker(["a"], 5, handle, never)
    worker.put("a", 0)
    assert entered.wait(WAIT)
    worker.put("a", 1)
    leave.set()
    worker.stop()
    assert taken in ([0], [0, 1])


def test_meters_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gosvae_common.meters.time.monotonic", lambda: now)
    meter = Meter(window=10)
    assert math.isnan(meter.percentile(0.5))
    for value in range(1, 6):
        now += 1
        meter.add(value)
    assert meter.rate() == 1.0
    assert meter.sum_rate() == 3.0
    assert (meter.percentile(0.5), meter.percentile(0.95)) == (3, 5)
    assert meter.mean() == 3
    now += 8
    assert meter.percentile(0.0) == 3
    now += 100
    assert meter.rate() == 0.0 and math.isnan(meter.mean())


def test_errors_are_all_counted_and_some_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gosvae_common.meters.time.monotonic", lambda: now)
    logged: list[str] = []
    errors = ErrorLog(logged.append, period=5)
    for reason in ("a", "b", "c"):
        errors.add(reason)
        now += 2
    errors.add("d")
    assert (errors.count, errors.last) == (4, "d")
    assert logged == ["a", "d"]
    assert errors.meter.rate() > 0


def test_qos_names_are_profiles_and_others_are_refused() -> None:
    for name in QOS_NAMES:
        assert qos_profile(name).depth > 0
    with pytest.raises(ValueError, match=r"'best': choose one of sensor_data"):
        qos_profile("best")
