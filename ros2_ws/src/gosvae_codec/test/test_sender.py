"""A stream under rate control, on a clock that stands still unless told otherwise."""

from dataclasses import fields

import numpy as np
import pytest

from gosvae_codec import Decoder, Encoder, Header, MissingReferenceError, ModelBundle
from gosvae_codec.congestion import Report
from gosvae_codec.sender import (
    AUTOMATIC,
    SETTINGS,
    Feedback,
    Sender,
    Settings,
    datagram_size,
)

FRAME = np.zeros((64, 96, 3), np.uint8)
HEADER = Header(1, 2, "camera")


class Stream:
    """A sender with a clock, and a receiver that hears everything at once."""

    def __init__(self, bundle: ModelBundle, seed: int = 0) -> None:
        self.now = 100.0
        self.sender = Sender(Encoder(bundle), lambda: self.now)
        self.received = 0
        self.rng = np.random.default_rng(seed)

    def send(self, settings: Settings):
        frame = self.rng.integers(0, 256, (4, 6, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        packets = self.sender.send(frame, HEADER, settings)
        self.now += 1 / 15
        return packets

    def on_feedback(self, acknowledged: int | None, lost: int = 0, queue: float = 0) -> None:
        self.received += 1
        arrival = round((self.now + queue) * 1e6) % (1 << 32)
        report = Report(self.received, lost, acknowledged or 0, arrival)
        self.sender.on_feedback(Feedback(self.sender.encoder.stream, acknowledged, report))


def test_without_a_budget_every_frame_is_sent_whole(bundle: ModelBundle) -> None:
    stream = Stream(bundle)
    for index in range(20):
        (packet,) = stream.send(Settings())
        assert (packet.sequence, packet.levels, packet.header) == (index, 2, HEADER)


def test_an_intra_frame_comes_within_every_period(bundle: ModelBundle) -> None:
    stream = Stream(bundle)
    intra = []
    for index in range(60):
        begin = stream.now
        (packet,) = stream.send(Settings(intra_period=0.5))
        if packet.reference == 0:
            intra.append(begin)
        if index not in (30, 31):
            stream.on_feedback(packet.sequence)
    assert np.diff(intra).max() <= 0.5 + 1e-6
    assert len(intra) < 12
    stream.on_feedback(None)
    assert stream.send(Settings())[0].reference == 0


def test_a_thin_budget_costs_levels_first_and_then_frames(bundle: ModelBundle) -> None:
    sizes = {}
    for limit in (0, 25, 8):
        stream = Stream(bundle)
        sent = [stream.send(Settings(max_kbit_per_s=limit)) for _ in range(60)]
        frames = [packets for packets in sent if packets]
        sizes[limit] = len(frames), np.mean([packets[0].levels for packets in frames])
        # A skipped frame leaves no hole that would look like a loss.
        assert [packets[0].sequence for packets in frames] == list(range(len(frames)))
        assert stream.sender.control.skipped == 60 - len(frames)
        times = 100 + np.arange(60) / 15
        for begin in times:
            second = [p for t, p in zip(times, sent, strict=True) if begin <= t <= begin + 1]
            total = sum(datagram_size(each) for packets in second for each in packets)
            assert not limit or total * 8 <= limit * 1000
    assert sizes[0] == (60, 2)
    assert sizes[25][1] < 2
    assert sizes[8][0] < sizes[25][0] <= 60 and sizes[8][1] == 1


def test_what_is_skipped_is_never_referred_to(bundle: ModelBundle) -> None:
    stream, decoder = Stream(bundle), Decoder(bundle)
    references = []
    for _ in range(60):
        packets = stream.send(Settings(max_kbit_per_s=16))
        if packets:
            references.append(packets[0].reference)
            stream.on_feedback(decoder.decode(packets).sequence)
    assert set(references) == {0, 1}


def test_redundancy_follows_the_loss_where_the_budget_leaves_room(bundle: ModelBundle) -> None:
    for limit, most in ((0, 2), (20, 1)):
        stream = Stream(bundle)
        lost = 0
        counts = []
        for index in range(60):
            packets = stream.send(Settings(max_kbit_per_s=limit, parity=AUTOMATIC))
            lost += index % 4 == 0
            if packets:
                counts.append(len(packets))
                stream.on_feedback(packets[0].sequence, lost)
        assert (counts[0], max(counts)) == (1, most)


def test_what_a_full_queue_drops_is_no_reason_to_send_more(bundle: ModelBundle) -> None:
    stream = Stream(bundle)
    lost = 0
    counts = []
    for index in range(60):
        packets = stream.send(Settings(parity=AUTOMATIC))
        lost += index > 5
        counts.append(len(packets))
        stream.on_feedback(packets[0].sequence, lost, queue=0.3 * (index > 2))
    assert set(counts) == {1}


def test_foreign_feedback_is_not_heeded(bundle: ModelBundle) -> None:
    stream = Stream(bundle)
    stream.send(Settings())
    feedback = Feedback(stream.sender.encoder.stream ^ 1, 0, Report(1, 0, 0, 0))
    stream.sender.on_feedback(feedback)
    assert stream.send(Settings())[0].reference == 0


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_several_receivers_share_a_stream(bundle: ModelBundle, loss: float) -> None:
    stream, rng = Stream(bundle), np.random.default_rng(1)
    decoders = {number: Decoder(bundle) for number in (11, 22, 33)}
    newest: dict[int, int | None] = {}
    references = []
    for index in range(120):
        if index == 60:
            # It restarts: without references, and with a number of its own.
            del decoders[33]
            decoders[44] = Decoder(bundle)
        (packet,) = stream.send(Settings(intra_period=60))
        references.append(packet.reference)
        for number, decoder in decoders.items():
            if rng.random() < loss:
                continue
            try:
                newest[number] = decoder.decode([packet]).sequence
            except MissingReferenceError:
                newest[number] = None
                # Only one that has not reported yet lacks what the others have.
                assert index < 10 or (number == 44 and 60 <= index < 75)
            if rng.random() >= loss:
                arrival = round(stream.now * 1e6) % (1 << 32)
                report = Report(packet.sequence, 0, packet.sequence, arrival)
                stream.sender.on_feedback(
                    Feedback(packet.stream, newest[number], report, receiver=number)
                )
    predicted = np.array(references) > 0
    # After a restart every frame is intra until the old receiver is forgotten.
    assert predicted[10:55].mean() > 0.9 and predicted[100:].all()
    assert set(stream.sender.control.receivers) == {11, 22, 44}


def test_an_intra_frame_without_room_may_wait_for_a_second_period(bundle: ModelBundle) -> None:
    stream = Stream(bundle)
    settings = Settings(max_kbit_per_s=12, intra_period=1, max_latency_ms=1000)
    sent: list[tuple[float, int]] = []
    for _ in range(150):
        begin = stream.now
        if packets := stream.send(settings):
            sent.append((begin, packets[0].reference))
            stream.on_feedback(packets[0].sequence)
    intra = [time for time, reference in sent if reference == 0]
    assert len(intra) < len(sent) and np.diff(intra).max() < 2.5
    assert np.diff([time for time, _ in sent]).max() < 1


def test_levels_out_of_range_are_refused(bundle: ModelBundle) -> None:
    with pytest.raises(ValueError, match="levels 3"):
        Stream(bundle).send(Settings(levels=3))


def test_settings_are_declared_once_with_their_ranges() -> None:
    assert [each.name for each in SETTINGS] == [each.name for each in fields(Settings)]
    for setting in SETTINGS:
        low, high = setting.limits
        assert low <= setting.default <= high and setting.description
        assert not setting.problem(low) and not setting.problem(high)
        for value in (low - 1, high + 1):
            with pytest.raises(ValueError, match=f"{setting.name} is .*: give {low:g} to"):
                Settings(**{setting.name: value})
