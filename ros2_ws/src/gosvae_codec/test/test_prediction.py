"""Predicted frames and parity over links that lose, delay, repeat and reorder packets."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_codec import (
    Decoder,
    Encoder,
    Header,
    MissingReferenceError,
    ModelBundle,
    Packet,
    PacketError,
    Reassembler,
)
from gosvae_codec.packets import MAX_SERIALIZED_BYTES, REFERENCES, serialized_overhead
from gosvae_codec.redundancy import LENGTH_BYTES, parity_for, parity_packets, restore
from gosvae_codec.testing import write_tiny_bundle


def slice_of(index: int, count: int, payload: bytes) -> Packet:
    return Packet(Header(), 1, 2, 3, 4, 5, 1, 0, index, count, payload).with_checksum()


def drive(frames: int, seed: int = 0) -> list[np.ndarray]:
    """Frames of which each differs from the one before in a few patches."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (4, 6, 3), np.uint8)
    out = []
    for _ in range(frames):
        patches = patches.copy()
        patches[rng.integers(0, 4), rng.integers(0, 6)] = rng.integers(0, 256, 3)
        out.append(np.repeat(np.repeat(patches, 16, 0), 16, 1))
    return out


def test_frames_are_intra_until_one_is_acknowledged_and_when_asked(bundle: ModelBundle) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    distances = []
    for index, frame in enumerate(drive(8)):
        packets = encoder.encode(frame, intra=index == 5)
        distances.append(packets[0].reference)
        decoded = decoder.decode(packets)
        fresh = Decoder(bundle).decode(Encoder(bundle).encode(frame))
        np.testing.assert_array_equal(decoded.mask, fresh.mask)
        if index in (1, 2, 6):
            encoder.acknowledge(decoded.sequence)
        if index == 4:
            encoder.acknowledge(1)
    assert distances == [0, 0, 1, 1, 2, 0, 5, 1]
    encoder.acknowledge(None)
    assert encoder.encode(frame)[0].reference == 0


def test_what_was_never_sent_or_long_ago_is_not_referred_to(bundle: ModelBundle) -> None:
    encoder = Encoder(bundle)
    frame = drive(1)[0]
    encoder.encode(frame)
    for unknown in (1, 77, (1 << 32) - 1):
        encoder.acknowledge(unknown)
        assert encoder.encode(frame, intra=unknown == 1)[0].reference == 0
    encoder = Encoder(bundle)
    encoder.encode(frame)
    encoder.acknowledge(0)
    distances = [encoder.encode(frame)[0].reference for _ in range(REFERENCES + 2)]
    assert distances == [*range(1, REFERENCES + 1), 0, 0]


def test_an_unchanged_scene_costs_next_to_nothing(bundle: ModelBundle) -> None:
    # The tiny bundle's prior knows nothing, so that only the flags can be cheaper.
    encoder = Encoder(bundle)
    frame = drive(1)[0]
    (first,) = encoder.encode(frame)
    encoder.acknowledge(0)
    (second,) = encoder.encode(frame)
    assert len(second.payload) < len(first.payload) / 3


def test_a_missing_reference_is_told_apart_and_leaves_no_trace(bundle: ModelBundle) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    frames = drive(4)
    encoder.encode(frames[0])
    encoder.acknowledge(0)
    predicted = encoder.encode(frames[1])
    with pytest.raises(MissingReferenceError, match="frame 1 is predicted from frame 0"):
        decoder.decode(predicted)
    encoder.acknowledge(None)
    decoded = decoder.decode(encoder.encode(frames[2]))
    assert decoded.complete
    encoder.acknowledge(decoded.sequence)
    assert decoder.decode(encoder.encode(frames[3])).complete


def test_an_incomplete_frame_is_no_reference(bundle: ModelBundle) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    frames = drive(2)
    upper, _ = encoder.encode(frames[0], slices=2)
    assert not decoder.decode([upper]).complete
    encoder.acknowledge(0)
    with pytest.raises(MissingReferenceError):
        decoder.decode(encoder.encode(frames[1]))


def test_a_reference_of_another_stream_is_not_used(bundle: ModelBundle) -> None:
    decoder = Decoder(bundle)
    frames = drive(2)
    first, second = Encoder(bundle), Encoder(bundle)
    decoder.decode(first.encode(frames[0]))
    second.encode(frames[0])
    second.acknowledge(0)
    with pytest.raises(MissingReferenceError):
        decoder.decode(second.encode(frames[1]))


def test_levels_may_change_between_a_frame_and_its_reference(bundle: ModelBundle) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    for index, (frame, levels) in enumerate(zip(drive(6), [2, 1, 2, 2, 1, 1], strict=True)):
        decoded = decoder.decode(encoder.encode(frame, levels=levels))
        alone = Decoder(bundle).decode(Encoder(bundle).encode(frame, levels=levels))
        np.testing.assert_array_equal(decoded.mask, alone.mask)
        encoder.acknowledge(index)


class Link:
    """Both ends in one process, in rounds: what is sent now arrives later, if at all."""

    def __init__(self, bundle: ModelBundle, seed: int, loss: float, delay: int) -> None:
        self.encoder, self.decoder = Encoder(bundle), Decoder(bundle)
        self.reassembler = Reassembler()
        self.rng = random.Random(seed)
        self.loss, self.delay = loss, delay
        self.forward: list[tuple[float, Packet]] = []
        self.back: list[tuple[float, int | None, bool]] = []
        self.published: list[tuple[int, bool, np.ndarray]] = []
        self.acknowledged: int | None = None
        self.requesting = False

    def send(self, packets: Sequence[Packet], now: int) -> None:
        for packet in packets:
            copies = 2 if self.rng.random() < 0.05 else 1
            for _ in range(copies):
                if self.rng.random() >= self.loss:
                    self.forward.append((now + self.rng.uniform(0, self.delay), packet))

    def receive(self, now: int) -> None:
        due = sorted((each for each in self.forward if each[0] <= now), key=lambda each: each[0])
        self.forward = [each for each in self.forward if each[0] > now]
        frames = [f for _, packet in due for f in self.reassembler.push(packet, now / 15)]
        frames += self.reassembler.expire((now - 2) / 15)
        for frame in frames:
            try:
                decoded = self.decoder.decode(frame.packets)
            except MissingReferenceError:
                self.requesting = True
            else:
                self.requesting = False
                if decoded.complete:
                    self.acknowledged = decoded.sequence
                self.published.append((decoded.sequence, decoded.complete, decoded.mask))
            if self.rng.random() >= self.loss:
                arrival = now + self.rng.uniform(0, self.delay)
                self.back.append((arrival, self.acknowledged, self.requesting))

    def feed_back(self, now: int) -> None:
        due = sorted((e for e in self.back if e[0] <= now), key=lambda each: each[0])
        for _, acknowledged, requesting in due:
            self.encoder.acknowledge(None if requesting else acknowledged)
        self.back = [each for each in self.back if each[0] > now]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    delay=st.integers(0, 5),
    slices=st.integers(1, 3),
    parity=st.integers(0, 2),
)
def test_on_any_link_whole_frames_are_right_and_in_order(
    bundle: ModelBundle, seed: int, loss: float, delay: int, slices: int, parity: int
) -> None:
    link = Link(bundle, seed, loss, delay)
    frames = drive(40, seed)
    predicted = 0
    for now, frame in enumerate(frames):
        link.feed_back(now)
        packets = link.encoder.encode(frame, intra=now % 15 == 0, slices=slices, parity=parity)
        assert len(packets) == slices + parity
        predicted += packets[0].reference > 0
        link.send(packets, now)
        link.receive(now)
    for now in range(40, 50):
        link.receive(now)
    sequences = [sequence for sequence, _, _ in link.published]
    assert sequences == sorted(set(sequences))
    alone = Decoder(bundle)
    for sequence, complete, mask in link.published:
        if complete:
            expected = alone.decode(Encoder(bundle).encode(frames[sequence])).mask
            np.testing.assert_array_equal(mask, expected)
    if loss == 0:
        # Frames that overtake others make them stale.
        assert predicted > 20 and (delay or sequences == list(range(40)))


def test_a_receiver_that_comes_late_or_forgets_gets_an_intra_frame_in_one_round_trip(
    bundle: ModelBundle,
) -> None:
    link = Link(bundle, 0, 0.0, 0)
    frames = drive(20)
    for now, frame in enumerate(frames):
        link.feed_back(now)
        if now == 10:
            link.decoder = Decoder(bundle)
        link.send(link.encoder.encode(frame), now)
        link.receive(now)
    lost = set(range(20)) - {sequence for sequence, _, _ in link.published}
    assert lost == {10}


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    count=st.integers(0, 6),
    data=st.data(),
)
def test_any_packets_as_many_as_slices_restore_the_frame(
    sizes: list[int], count: int, data: st.DataObject
) -> None:
    rng = random.Random(len(sizes))
    slices = [slice_of(index, len(sizes), rng.randbytes(size)) for index, size in enumerate(sizes)]
    parities = parity_packets(slices, count)
    assert len(parities) == count and all(packet.parity for packet in parities)
    for packet in parities:
        assert len(packet.payload) == max(sizes) + LENGTH_BYTES
        assert packet.crc32c == packet.checksum
    everything = slices + parities
    kept = data.draw(st.permutations(everything))[: len(slices)]
    assert restore({packet.slice_index: packet for packet in kept}) == slices
    fewer = {packet.slice_index: packet for packet in kept[1:]}
    if fewer:
        assert restore(fewer) == sorted(
            (p for p in kept[1:] if not p.parity), key=lambda p: p.slice_index
        )


def test_parity_that_contradicts_the_slices_restores_nothing() -> None:
    slices = [slice_of(index, 2, b"abcdef") for index in range(2)]
    (parity,) = parity_packets(slices, 1)
    short = replace(parity, payload=parity.payload[:5])
    assert restore({0: slices[0], 2: short}) == [slices[0]]
    lying = replace(parity, payload=b"\xff" * 8)
    assert restore({0: slices[0], 2: lying}) == [slices[0]]
    other = replace(parity, slice_index=3, payload=parity.payload + b"x")
    assert restore({2: parity, 3: other}) == []


def test_parity_restores_a_frame_for_the_decoder(bundle: ModelBundle) -> None:
    frame = drive(1)[0]
    packets = Encoder(bundle).encode(frame, slices=3, parity=2)
    whole = Decoder(bundle).decode(packets)
    decoded = Decoder(bundle).decode([packets[4], packets[1], packets[3]])
    assert decoded.complete
    np.testing.assert_array_equal(decoded.mask, whole.mask)
    partial = Decoder(bundle).decode([packets[4], packets[1]])
    assert partial.coverage == pytest.approx(0.25)
    with pytest.raises(PacketError):
        Decoder(bundle).decode([packets[4]])


def test_parity_leaves_room_for_itself(bundle: ModelBundle) -> None:
    (packet,) = Encoder(bundle).encode(drive(1)[0])
    room = MAX_SERIALIZED_BYTES - serialized_overhead("x" * 1200)
    frame_id = "x" * (1200 + room - len(packet.payload) - 1)
    packets = Encoder(bundle).encode(drive(1)[0], Header(0, 0, frame_id), parity=1)
    assert all(each.serialized_size() <= MAX_SERIALIZED_BYTES for each in packets)


def test_parity_grows_with_the_loss() -> None:
    assert [parity_for(loss, 1) for loss in (0, 0.005, 0.05, 0.3)] == [0, 0, 1, 2]
    assert [parity_for(loss, 4) for loss in (0, 0.02, 0.1, 1)] == [0, 1, 2, 8]


def test_noise_changes_no_tokens_where_they_are_inert(tmp_path: Path) -> None:
    quiet = Encoder(ModelBundle.load(write_tiny_bundle(tmp_path / "inert", inertia=1)))
    still = np.full((64, 96, 3), 90, np.uint8)
    first = quiet.tokens(still)
    noisy = still + np.random.default_rng(0).integers(0, 6, still.shape, np.uint8)
    # A mean 2.5 brighter is a token one more at most.
    assert (quiet.tokens(noisy) != first).any()
    assert (quiet.tokens(noisy, first) == first).all()
    assert (quiet.tokens(noisy + 40, first) != first).all()
    # A level that the reference lacks is encoded afresh.
    np.testing.assert_array_equal(quiet.tokens(noisy, first[:1])[1], quiet.tokens(noisy)[1])
