import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gosvae_codec import EncodedFrame, Header, Packet, Reassembler


def packet(sequence: int, index: int = 0, count: int = 1, stream: int = 1) -> Packet:
    sequence %= 1 << 32
    return Packet(Header(), 0, stream, sequence, 1, 1, 1, 0, index, count, b"")


def sequences(frames: list[EncodedFrame]) -> list[int]:
    return [frame.packets[0].sequence for frame in frames]


def test_a_frame_is_ready_with_its_last_slice_in_any_order() -> None:
    reassembler = Reassembler()
    assert reassembler.push(packet(0, 2, 3), 0) == []
    assert reassembler.push(packet(0, 0, 3), 0) == []
    (frame,) = reassembler.push(packet(0, 1, 3), 0)
    assert frame.complete
    assert [p.slice_index for p in frame.packets] == [0, 1, 2]
    assert (reassembler.received, reassembler.lost, reassembler.stale) == (3, 0, 0)


def test_a_newer_complete_frame_pushes_out_the_incomplete_one_before_it() -> None:
    reassembler = Reassembler()
    reassembler.push(packet(0, 0, 2), 0)
    frames = reassembler.push(packet(1, 0, 1), 0)
    assert sequences(frames) == [0, 1]
    assert [frame.complete for frame in frames] == [False, True]
    assert reassembler.lost == 1


def test_nothing_older_than_what_was_handed_on_comes_out() -> None:
    reassembler = Reassembler()
    assert sequences(reassembler.push(packet(5), 0)) == [5]
    assert reassembler.push(packet(4), 0) == []
    assert reassembler.push(packet(5), 0) == []
    assert reassembler.stale == 2


def test_frames_never_seen_count_as_lost() -> None:
    reassembler = Reassembler()
    reassembler.push(packet(0), 0)
    reassembler.push(packet(4), 0)
    assert reassembler.lost == 3


def test_waiting_has_an_end() -> None:
    reassembler = Reassembler()
    reassembler.push(packet(0, 0, 2), 10.0)
    reassembler.push(packet(1, 0, 2), 10.2)
    assert reassembler.expire(before=10.0) == []
    assert sequences(reassembler.expire(before=10.1)) == [0]
    assert sequences(reassembler.expire(before=10.3)) == [1]
    assert reassembler.expire(before=99) == []
    assert reassembler.lost == 2


def test_a_frame_whose_slices_keep_coming_is_waited_for() -> None:
    reassembler = Reassembler()
    for index, now in enumerate((10.0, 10.2, 10.4)):
        reassembler.push(packet(0, index, 4), now)
    # What came already makes nothing younger.
    reassembler.push(packet(0, 0, 4), 10.6)
    assert reassembler.expire(before=10.4) == []
    assert sequences(reassembler.expire(before=10.5)) == [0]


def test_the_newest_frame_is_told_with_the_arrival_of_its_first_packet() -> None:
    reassembler = Reassembler()
    assert reassembler.newest is None
    for sequence, index, now in ((7, 1, 1.0), (7, 0, 1.1), (6, 0, 1.2)):
        reassembler.push(packet(sequence, index, 2), now)
        assert reassembler.newest == (7, 1.0)
    reassembler.push(packet(8), 1.3)
    assert reassembler.newest == (8, 1.3)
    reassembler.push(packet(0, stream=2), 1.4)
    assert reassembler.newest == (0, 1.4)


def test_a_flood_of_incomplete_frames_is_bounded() -> None:
    reassembler = Reassembler()
    out = [frame for s in range(1000) for frame in reassembler.push(packet(s, 0, 2), 0)]
    assert sequences(out) == list(range(len(out)))
    assert len(out) >= 990


def test_a_restarted_transmitter_begins_anew_and_its_past_stays_past() -> None:
    reassembler = Reassembler()
    reassembler.push(packet(900, stream=1), 0)
    assert sequences(reassembler.push(packet(0, stream=2), 0)) == [0]
    assert reassembler.push(packet(901, stream=1), 0) == []
    assert (reassembler.stream, reassembler.received, reassembler.stale) == (2, 1, 1)


def test_a_replay_that_begins_again_is_followed_after_a_second() -> None:
    reassembler = Reassembler()
    for sequence in range(30):
        reassembler.push(packet(sequence), sequence / 16)
    out = [reassembler.push(packet(s), 2 + s / 16) for s in range(30)]
    assert [bool(frames) for frames in out[:10]] == [False] * 10
    assert sequences([frame for frames in out for frame in frames]) == list(range(14, 30))
    assert reassembler.push(packet(0, stream=2), 4.1) != []
    assert reassembler.push(packet(30), 4.2) == []
    assert sequences(reassembler.push(packet(31), 5.3)) == [31]
    assert reassembler.stream == 1


def test_the_sequence_may_wrap_around() -> None:
    reassembler = Reassembler()
    last = (1 << 32) - 1
    assert sequences(reassembler.push(packet(last), 0)) == [last]
    assert sequences(reassembler.push(packet(0), 0)) == [0]
    assert reassembler.push(packet(last), 0) == []
    assert reassembler.lost == 0


def test_slices_that_disagree_on_their_number_are_not_mixed() -> None:
    reassembler = Reassembler()
    reassembler.push(packet(0, 0, 2), 0)
    assert reassembler.push(packet(0, 1, 3), 0) == []
    (frame,) = reassembler.push(packet(0, 1, 2), 0)
    assert frame.complete


def test_parity_completes_a_frame_and_a_late_slice_is_not_lost() -> None:
    reassembler = Reassembler()
    assert reassembler.push(packet(0, 2, 2), 0) == []
    (frame,) = reassembler.push(packet(0, 1, 2), 0)
    assert frame.complete and [p.slice_index for p in frame.packets] == [1, 2]
    assert (reassembler.received, reassembler.lost) == (1, 1)
    assert reassembler.push(packet(0, 0, 2), 0) == []
    assert reassembler.push(packet(0, 0, 2), 0) == []
    assert (reassembler.received, reassembler.lost, reassembler.stale) == (3, 0, 2)


def test_slices_that_refer_to_different_frames_are_not_mixed() -> None:
    reassembler = Reassembler()
    reassembler.push(packet(9, 0, 2), 0)
    assert reassembler.push(replace(packet(9, 1, 2), reference=3), 0) == []
    (frame,) = reassembler.push(packet(9, 1, 2), 0)
    assert frame.complete


@given(
    seed=st.integers(0, 2**32),
    frames=st.integers(1, 30),
    count=st.integers(1, 4),
    loss=st.floats(0, 0.9),
    start=st.sampled_from([0, (1 << 32) - 10]),
)
def test_any_link_gives_each_frame_once_in_order(
    seed: int, frames: int, count: int, loss: float, start: int
) -> None:
    rng = random.Random(seed)
    sent = [packet(start + s, i, count) for s in range(frames) for i in range(count)]
    arriving = [(place + rng.uniform(0, 6), p) for place, p in enumerate(sent)]
    arriving += [(place + 3, p) for place, p in arriving if rng.random() < 0.2]
    arriving = [each for each in arriving if rng.random() >= loss]
    reassembler = Reassembler()
    out: list[EncodedFrame] = []
    for place, each in sorted(arriving, key=lambda pair: pair[0]):
        out += reassembler.push(each, place / 1000)
    out += reassembler.expire(before=1e9)
    order = [(s - start) % (1 << 32) for s in sequences(out)]
    assert order == sorted(set(order))
    for frame in out:
        indices = [p.slice_index for p in frame.packets]
        assert indices == sorted(set(indices)) and indices
    if loss == 0:
        assert reassembler.received == len(arriving)
