"""The rate controller over a simulated bottleneck: a queue, then a sender of limited rate."""

import math
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_codec.congestion import MIN_BITRATE, Report
from gosvae_codec.rate import PACING_SHARE, WINDOW, RateController


class Bottleneck:
    """A link that carries `rate` bit/s, queues `queue` seconds, and loses a share at random."""

    def __init__(self, rate: float, queue: float, loss: float, delay: float, seed: int) -> None:
        self.rate, self.queue, self.loss, self.delay = rate, queue, loss, delay
        self.random = random.Random(seed)
        self.idle_at = 0.0

    def send(self, size: int, now: float) -> float | None:
        wait = max(self.idle_at - now, 0.0)
        if wait > self.queue:
            return None
        self.idle_at = now + wait + size * 8 / self.rate
        return None if self.random.random() < self.loss else self.idle_at + self.delay


class Run:
    """A camera of 15 Hz whose frames take `sizes` bytes, the least first, over a bottleneck."""

    def __init__(self, link: Bottleneck, sizes: tuple[int, int] = (500, 1200)) -> None:
        self.link, self.sizes = link, sizes
        self.control = RateController()
        self.sent: list[tuple[float, int]] = []
        self.delays: list[tuple[float, float]] = []
        self.coming: deque[tuple[float, Report]] = deque()
        self.now, self.received, self.missing, self.sequence = 0.0, 0, 0, 0

    def go(self, seconds: float, feedback: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            while self.coming and self.coming[0][0] <= self.now:
                time, report = self.coming.popleft()
                self.control.on_feedback(report, time)
            self.step(feedback)
            self.now += 1 / 15

    def step(self, feedback: bool) -> None:
        control, now = self.control, self.now
        if not control.ready(now):
            return
        for size in sorted(self.sizes, reverse=True):
            if control.fits(size, size == min(self.sizes), now):
                break
        else:
            control.skip(now)
            return
        control.sent(self.sequence, [size], now)
        self.sent.append((now, size))
        arrival = self.link.send(size, now)
        if arrival is None:
            self.missing += 1
        else:
            self.received += 1
            self.delays.append((now, arrival - now))
            if feedback:
                # Another clock, which wraps around now and then.
                clock = round(arrival * 1e6 + 4.29e9) % (1 << 32)
                report = Report(self.received, self.missing, self.sequence, clock)
                self.coming.append((arrival + self.link.delay, report))
        self.sequence += 1

    def rate(self, last: float) -> float:
        return sum(8 * size for time, size in self.sent if time >= self.now - last) / last

    def worst_delay(self, last: float) -> float:
        return max(delay for time, delay in self.delays if time >= self.now - last)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_second_ever_takes_more_than_the_budget(data: st.DataObject) -> None:
    control = RateController()
    control.latency = data.draw(st.floats(0, 2))
    sent: list[tuple[float, int]] = []
    now, since = 0.0, 0
    control.limit = limit = data.draw(st.floats(8e3, 1e6))
    for sequence in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.floats(0, 0.3))
        if data.draw(st.integers(0, 19)) == 0:
            control.limit = limit = data.draw(st.floats(8e3, 1e6))
            # What was sent before was within the budget before.
            since = len(sent)
        if control.ready(now):
            size = data.draw(st.integers(100, 10_000))
            if control.fits(size, data.draw(st.booleans()), now):
                control.sent(sequence, [size], now)
                sent.append((now, size))
        if data.draw(st.booleans()):
            numbers = data.draw(st.tuples(*[st.integers(0, (1 << 32) - 1)] * 2))
            near = data.draw(st.integers(max(sequence - 3, 0), sequence + 1))
            arrival = data.draw(st.integers(0, (1 << 32) - 1))
            control.on_feedback(Report(*numbers, near, arrival), now)
            assert control.target >= min(MIN_BITRATE, PACING_SHARE * limit)
            assert 0 <= control.loss <= 1
        window = [size for time, size in sent[since:] if time >= now - WINDOW]
        assert sum(window) * 8 <= limit * WINDOW + 1e-6


@pytest.mark.parametrize("limit", [16e3, 32e3, 64e3, 128e3, 256e3])
def test_a_budget_is_made_use_of(limit: float) -> None:
    run = Run(Bottleneck(10 * limit, 1, 0, 0.05, 0))
    run.control.limit = limit
    run.go(20)
    most = 15 * 8 * 1200
    assert run.rate(10) > 0.6 * min(limit, most)
    assert run.control.state(run.now) == "at the limit"


def test_more_is_sent_only_where_the_next_frame_need_not_wait() -> None:
    run = Run(Bottleneck(1e6, 1, 0, 0.05, 0))
    for limit, sizes in ((70e3, {500}), (200e3, {1200}), (70e3, {500})):
        run.control.limit = limit
        run.go(5)
        assert {size for time, size in run.sent if time > run.now - 3} == sizes
    assert run.control.skipped < 15


@pytest.mark.parametrize("limit", [1e6, 256e3])
@pytest.mark.parametrize("rate", [32e3, 64e3, 100e3])
def test_a_link_that_carries_less_than_the_limit_is_found_out(rate: float, limit: float) -> None:
    run = Run(Bottleneck(rate, 1, 0, 0.05, 0))
    run.control.limit = limit
    run.go(10)
    missing = run.missing
    run.go(20)
    assert 0.5 * rate < run.rate(20) <= rate * 1.05
    # A frame takes its own time, and what is ahead of it.
    assert run.worst_delay(20) < 0.05 + 2 * 500 * 8 / rate + 0.35
    assert run.missing == missing


@pytest.mark.parametrize("loss", [0.1, 0.2, 0.3])
def test_random_loss_is_no_reason_to_send_less(loss: float) -> None:
    for seed in range(5):
        run = Run(Bottleneck(200e3, 0.3, loss, 0.05, seed))
        run.control.limit = limit = 160e3
        for _ in range(60):
            run.go(1)
            assert run.control.target == PACING_SHARE * limit
        assert run.rate(50) > 0.8 * limit
        assert 0.02 < run.control.loss < 0.55


@pytest.mark.parametrize("loss", [0.4, 0.6])
def test_loss_that_does_not_respond_to_the_rate_is_put_up_with(loss: float) -> None:
    run = Run(Bottleneck(1e6, 1, 0, 0.05, 0))
    run.control.limit = 160e3
    run.go(10)
    run.link.loss = loss
    states = set()
    for _ in range(60):
        run.go(0.1)
        states.add(run.control.state(run.now))
    assert states >= {"backing off", "at the limit"}
    for _ in range(20):
        run.go(1)
        assert run.control.target == PACING_SHARE * 160e3


@pytest.mark.parametrize("loss", [0, 0.1])
@pytest.mark.parametrize("rate", [100e3, 60e3])
def test_it_backs_off_within_a_second_of_a_growing_queue(rate: float, loss: float) -> None:
    for seed in range(5):
        run = Run(Bottleneck(200e3, 2, loss, 0.05, seed))
        run.control.limit = 160e3
        run.go(20)
        assert run.control.queue < 0.05
        run.link.rate = rate
        run.go(0.6)
        longest = run.link.idle_at - run.now
        run.go(0.4)
        assert run.control.target < 1.3 * rate
        run.go(2)
        assert run.link.idle_at - run.now < longest / 2
        run.go(20)
        assert run.rate(15) > 0.6 * rate
        assert run.worst_delay(15) < 0.5


def test_the_slowest_of_several_receivers_decides() -> None:
    run = Run(Bottleneck(1e6, 1, 0, 0.05, 0))
    slow = Bottleneck(60e3, 5, 0, 0.05, 1)
    run.control.limit = 160e3
    coming: deque[tuple[float, Report]] = deque()
    received = 0

    def both(seconds: float) -> None:
        nonlocal received
        end, known = run.now + seconds, len(run.sent)
        while run.now < end:
            run.go(1 / 15)
            for time, size in run.sent[known:]:
                arrival = slow.send(size, time)
                assert arrival is not None
                received += 1
                clock = round(arrival * 1e6) % (1 << 32)
                report = Report(received, 0, run.sequence - 1, clock)
                coming.append((arrival + slow.delay, report))
            known = len(run.sent)
            while coming and coming[0][0] <= run.now:
                time, report = coming.popleft()
                run.control.on_feedback(report, run.now, receiver=7)

    both(30)
    assert len(run.control.receivers) == 2
    assert 0.5 * 60e3 < run.rate(15) <= 60e3 * 1.05
    # It leaves: the other one alone decides.
    run.go(3)
    assert list(run.control.receivers) == [0]
    run.go(5)
    assert run.rate(3) > 0.8 * 160e3


def test_few_receivers_are_remembered_however_many_report() -> None:
    run = Run(Bottleneck(1e6, 1, 0, 0.05, 0))
    run.go(1)
    for receiver in range(100):
        run.control.on_feedback(Report(1, 0, 0, 0), run.now + receiver / 1e3, receiver)
    assert list(run.control.receivers) == list(range(92, 100))


def test_a_link_that_drops_what_it_cannot_carry_is_found_out_by_loss() -> None:
    run = Run(Bottleneck(1e6, 0.001, 0, 0.05, 0))
    run.control.limit = 1e6
    run.go(10)
    assert run.rate(5) == pytest.approx(15 * 8 * 1200, rel=0.05)
    run.link.rate = 60e3
    run.go(30)
    assert run.rate(10) < 0.75 * 15 * 8 * 1200


def test_it_rises_again_when_the_link_does() -> None:
    run = Run(Bottleneck(64e3, 1, 0, 0.05, 0))
    run.control.limit = 200e3
    run.go(20)
    assert run.control.target < 90e3
    assert run.control.state(run.now) in ("recovering", "backing off")
    run.link.rate = 1e6
    run.go(40)
    assert run.control.target == PACING_SHARE * 200e3
    assert run.rate(2) == pytest.approx(15 * 8 * 1200, rel=0.1)


def test_a_longer_way_is_not_a_queue() -> None:
    run = Run(Bottleneck(1e6, 1, 0, 0.02, 0))
    run.control.limit = 200e3
    run.go(10)
    run.link.delay = 0.15
    run.go(20)
    assert run.control.target > 0.7 * 200e3


def test_without_feedback_the_budget_is_all_there_is_to_go_by() -> None:
    run = Run(Bottleneck(1e6, 1, 0, 0.02, 0))
    run.control.limit = 200e3
    run.go(5, feedback=False)
    assert run.rate(3) == pytest.approx(15 * 8 * 1200, rel=0.1)


def test_when_feedback_ends_little_is_sent_until_it_is_back() -> None:
    run = Run(Bottleneck(1e6, 1, 0, 0.02, 0))
    run.control.limit = 200e3
    run.go(5)
    run.go(5, feedback=False)
    assert run.control.state(run.now) == "no feedback"
    assert 0 < run.rate(3) < 0.4 * 200e3
    run.go(3)
    assert run.rate(2) == pytest.approx(15 * 8 * 1200, rel=0.1)


def test_another_clock_at_the_receiver_begins_anew() -> None:
    run = Run(Bottleneck(1e6, 1, 0, 0.02, 0))
    run.control.limit = 200e3
    run.go(5)
    shifted = [
        (time, each._replace(arrival_us=(each.arrival_us + 10**9) % (1 << 32)))
        for time, each in run.coming
    ]
    run.coming.clear()
    run.coming.extend(shifted)
    run.go(10)
    assert run.rate(5) == pytest.approx(15 * 8 * 1200, rel=0.1)


def test_without_a_budget_everything_is_sent_whatever_the_receiver_says() -> None:
    run = Run(Bottleneck(64e3, 1, 0, 0.05, 0))
    run.go(10)
    assert len(run.sent) >= 150 and run.control.skipped == 0
    assert run.control.state(run.now) == "unlimited" and math.isinf(run.control.target)
    run.control.limit = 200e3
    run.go(20)
    assert run.rate(5) < 70e3
