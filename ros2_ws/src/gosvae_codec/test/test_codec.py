"""Frames to packets to masks and back, and what happens when packets go missing."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gosvae_codec import (
    UNLABELLED,
    BundleError,
    Decoder,
    Encoder,
    Expert,
    FingerprintError,
    Header,
    ImageError,
    MissingReferenceError,
    ModelBundle,
    Packet,
    PacketError,
    Reconstructor,
    Unpacker,
    decode_together,
    finish,
    packets,
    run,
)
from gosvae_codec.encoder import LEAST, SHARES
from gosvae_codec.packets import serialized_overhead
from gosvae_codec.testing import write_tiny_bundle

HEADER = Header(1_700_000_000, 123_456_789, "front_camera_optical_frame")


def sign(packet: Packet, **changes: object) -> Packet:
    return replace(packet, **changes).with_checksum()


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (128, 192, 3), np.uint8)


def test_a_frame_becomes_a_mask_of_its_own_size_with_its_own_header(
    bundle: ModelBundle, frame: np.ndarray
) -> None:
    packets = Encoder(bundle).encode(frame, HEADER)
    decoded = Decoder(bundle).decode(packets)
    assert decoded.header == HEADER
    assert decoded.mask.shape == frame.shape[:2] and decoded.mask.dtype == np.uint8
    assert decoded.coverage == 1.0
    assert set(np.unique(decoded.mask)) <= set(bundle.labels.ids)
    assert len(np.unique(decoded.mask)) > 1


def test_tokens_arrive_as_they_left(bundle: ModelBundle, frame: np.ndarray) -> None:
    encoder = Encoder(bundle)
    (packet,) = encoder.encode(frame, HEADER)
    tokens = bundle.coder.decode(packet.payload, bundle.levels, 0, bundle.grid[0], None)
    np.testing.assert_array_equal(tokens, encoder.tokens(frame))
    # The tiny encoder's token is a quarter of the patch's mean of one channel.
    means = frame.reshape(4, 32, 6, 32, 3).mean((1, 3)) / 4
    np.testing.assert_allclose(tokens[0], means[..., 0], atol=1.01)
    np.testing.assert_allclose(tokens[1], means[..., 1], atol=1.01)


def test_the_sequence_counts_up_and_each_encoder_is_a_stream(
    bundle: ModelBundle, frame: np.ndarray
) -> None:
    encoder = Encoder(bundle)
    sequences = [encoder.encode(frame)[0].sequence for _ in range(3)]
    assert sequences == [0, 1, 2]
    assert Encoder(bundle).stream != encoder.stream


def test_fewer_levels_are_smaller_and_decode(bundle: ModelBundle, frame: np.ndarray) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    (one,) = encoder.encode(frame, levels=1)
    (two,) = encoder.encode(frame, levels=2)
    assert len(two.payload) > len(one.payload)
    alone = decoder.decode([one]).mask
    both = decoder.decode([two]).mask
    assert (alone != both).any(), "the second level must matter"
    np.testing.assert_array_equal(decoder.decode([one]).mask, alone)
    for levels in (0, 3):
        with pytest.raises(ValueError, match=f"levels {levels}: tiny has 1 to 2"):
            encoder.encode(frame, levels=levels)


def test_a_lost_slice_is_concealed_from_the_frame_before(
    bundle: ModelBundle, frame: np.ndarray
) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    other = np.ascontiguousarray(frame[::-1])
    before = decoder.decode(encoder.encode(other)).mask
    upper, lower = encoder.encode(frame, slices=2)
    decoded = decoder.decode([lower])
    assert decoded.coverage == 0.5
    # Bilinear scaling mixes the rows beside the seam only.
    half = len(decoded.mask) // 2
    seam = frame.shape[0] // bundle.grid[0]
    np.testing.assert_array_equal(decoded.mask[: half - seam], before[: half - seam])
    whole = Decoder(bundle).decode([lower, upper])
    assert whole.coverage == 1.0
    np.testing.assert_array_equal(decoded.mask[half + seam :], whole.mask[half + seam :])


def test_a_lost_slice_of_the_first_frame_is_unlabelled(
    bundle: ModelBundle, frame: np.ndarray
) -> None:
    upper, _ = Encoder(bundle).encode(frame, slices=2)
    mask = Decoder(bundle).decode([upper]).mask
    half = len(mask) // 2
    assert (mask[half:] == UNLABELLED).all()
    assert (mask[:half] != UNLABELLED).all()


def test_a_new_stream_is_not_concealed_with_the_old_ones_tokens(
    bundle: ModelBundle, frame: np.ndarray
) -> None:
    decoder = Decoder(bundle)
    decoder.decode(Encoder(bundle).encode(frame))
    _, lower = Encoder(bundle).encode(frame, slices=2)
    mask = decoder.decode([lower]).mask
    assert (mask[: len(mask) // 2] == UNLABELLED).all()


def test_a_failed_decode_leaves_no_trace(bundle: ModelBundle, frame: np.ndarray) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    first = encoder.encode(frame)
    decoder.decode(first)
    upper, lower = encoder.encode(np.ascontiguousarray(frame[::-1]), slices=2)
    for broken in (
        replace(lower, payload=lower.payload[:-1]),
        sign(lower, payload=lower.payload[:-1]),
    ):
        with pytest.raises(PacketError):
            decoder.decode([upper, broken])
    kept = decoder.decode([upper]).mask
    fresh = Decoder(bundle)
    fresh.decode(first)
    np.testing.assert_array_equal(kept, fresh.decode([upper]).mask)


def test_cameras_decoded_together_get_the_masks_they_get_alone(bundle: ModelBundle) -> None:
    rng = np.random.default_rng(5)
    sizes = [(64, 96), (120, 160), (51, 77)]
    encoders = [Encoder(bundle) for _ in sizes]
    together = [Decoder(bundle, batch=3) for _ in sizes]
    alone = [Decoder(bundle) for _ in sizes]
    for _ in range(2):
        frames = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        packets = [each.encode(frame) for each, frame in zip(encoders, frames, strict=True)]
        decoded = decode_together(list(zip(together, packets, strict=True)))
        for one, decoder, few in zip(decoded, alone, packets, strict=True):
            expected = decoder.decode(few)
            np.testing.assert_array_equal(one.mask, expected.mask)
            assert one[0:2] == expected[0:2] and one.coverage == expected.coverage
        for encoder in encoders:
            encoder.acknowledge(decoded[0].sequence)


def test_what_one_camera_lacks_costs_the_others_nothing(
    bundle: ModelBundle, frame: np.ndarray
) -> None:
    encoder = Encoder(bundle)
    encoder.encode(frame)
    encoder.acknowledge(0)
    predicted, intra = encoder.encode(frame), Encoder(bundle).encode(frame)
    decoders = [Decoder(bundle) for _ in range(3)]
    orphan, whole, empty = decode_together(list(zip(decoders, (predicted, intra, []), strict=True)))
    assert isinstance(orphan, MissingReferenceError)
    assert isinstance(empty, PacketError)
    np.testing.assert_array_equal(whole.mask, Decoder(bundle).decode(intra).mask)
    assert decode_together([]) == []


def test_a_stream_whose_masks_are_skipped_goes_on(bundle: ModelBundle) -> None:
    rng = np.random.default_rng(7)
    encoder, decoder, unpacker = Encoder(bundle), Decoder(bundle), Unpacker(bundle)
    for index in range(6):
        packets = encoder.encode(rng.integers(0, 256, (64, 96, 3), np.uint8))
        frame = unpacker.unpack(packets)
        expected = decoder.decode(packets)
        assert packets[0].reference == int(index > 0) and frame.complete
        encoder.acknowledge(frame.sequence)
    # The network may run elsewhere, on frames of several streams at once.
    first, second = run(decoder.networks, [frame, frame])
    np.testing.assert_array_equal(first["semantic"], second["semantic"])
    np.testing.assert_array_equal(finish(bundle, frame, first).mask, expected.mask)


def test_only_the_candidate_that_is_committed_counts(
    bundle: ModelBundle, frame: np.ndarray
) -> None:
    encoder = Encoder(bundle)
    candidates = list(encoder.candidates(frame, parity=1))
    shapes = [(c.packets[0].levels, len(c.packets), len(c.tokens)) for c in candidates]
    assert shapes == [(2, 2, 2), (1, 2, 1), (1, 1, 1)]
    # None was committed: the frame is skipped and leaves no gap.
    encoder.acknowledge(0)
    chosen = list(encoder.candidates(frame))[1]
    assert (chosen.packets[0].sequence, chosen.packets[0].reference) == (0, 0)
    encoder.commit(chosen)
    following = next(encoder.candidates(frame))
    assert (following.packets[0].sequence, following.packets[0].reference) == (1, 1)
    decoder = Decoder(bundle)
    decoder.decode(chosen.packets)
    np.testing.assert_array_equal(decoder.decode(following.packets).tokens, following.tokens)
    for stale in (chosen, next(Encoder(bundle).candidates(frame))):
        with pytest.raises(ValueError, match=r"candidate of frame 0 .* the next is frame 1"):
            encoder.commit(stale)


def test_a_predicted_frame_can_leave_out_the_changes_of_little_worth(bundle: ModelBundle) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    rng = np.random.default_rng(3)
    first, second = (
        rng.integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(2)
    )
    reference = decoder.decode(encoder.encode(first)).tokens[0]
    encoder.acknowledge(0)
    _, whole, *thinned = encoder.candidates(second, least=0)
    assert [each.minimal for each in (whole, *thinned)] == [False] * 3 + [True] * 3
    assert len(list(encoder.candidates(second))) == 2 + sum(share >= LEAST for share in SHARES)
    fresh, size = whole.tokens[0], len(whole.packets[0].payload)
    worth = bundle.coder.worth(whole.tokens, reference[None])
    changed = fresh != reference
    assert (np.isfinite(worth) == changed).all() and changed.sum() > 20
    for share, each in zip(SHARES, thinned, strict=True):
        (tokens,) = each.tokens
        left = tokens != reference
        assert (tokens[left] == fresh[left]).all()
        assert left.sum() == pytest.approx(share * changed.sum(), abs=2)
        # What is left out is worth less than what is not.
        assert worth[changed & ~left].max() < worth[left].min()
        (packet,) = each.packets
        assert len(packet.payload) < size
        size = len(packet.payload)
    encoder.commit(each)
    np.testing.assert_array_equal(decoder.decode(each.packets).tokens[0], tokens)


def test_a_checksum_is_computed_once(
    bundle: ModelBundle, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (packet,) = Encoder(bundle).encode(frame)
    (packet,) = pickle.loads(pickle.dumps([replace(packet)]))
    calls = []
    crc = packets.crc32c
    monkeypatch.setattr(packets, "crc32c", lambda *data: calls.append(data) or crc(*data))
    packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
    once = len(calls)
    Decoder(bundle).decode([packet])
    assert len(calls) == once > 0
    # A changed packet is another packet.
    with pytest.raises(PacketError, match="CRC-32C"):
        replace(packet, sequence=9).check(bundle.fingerprint, bundle.grid, bundle.levels)


def test_packets_and_labels_need_no_onnx_runtime(bundle_path: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from gosvae_codec import ModelBundle, Packet, Unpacker, ProviderError, Encoder\n"
        f"bundle = ModelBundle.load({str(bundle_path)!r})\n"
        "Unpacker(bundle)\n"
        "try:\n    Encoder(bundle)\n"
        "except ProviderError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install gosvae_codec[cpu]" in done.stdout


def test_a_bundle_that_draws_gives_the_picture_at_the_cameras_size(
    frame: np.ndarray, tmp_path: Path
) -> None:
    bundle = ModelBundle.load(write_tiny_bundle(tmp_path / "drawing", reconstructs=True))
    assert bundle.reconstructs
    encoder, reconstructor = Encoder(bundle), Reconstructor(bundle)
    picture = reconstructor.reconstruct(Decoder(bundle).decode(encoder.encode(frame)))
    assert (picture.shape, picture.dtype) == (frame.shape, np.uint8)
    # The tiny bundle draws the mean of its tokens' channels.
    grey = encoder.tokens(frame).mean(0) * 4
    centres = picture[16::32, 16::32]
    np.testing.assert_allclose(centres, np.repeat(grey[..., None], 3, axis=2), atol=1)
    # Of the bands that never came nothing is made up.
    halves = encoder.encode(frame, slices=2)
    decoded = Decoder(bundle).decode(halves[1:])
    picture = reconstructor.reconstruct(decoded)
    np.testing.assert_array_equal(picture[:62], 0)
    np.testing.assert_array_equal(decoded.mask[:64], UNLABELLED)
    assert picture[66:].any(axis=2).all()


def test_a_bundle_that_decodes_to_masks_alone_draws_nothing(bundle: ModelBundle) -> None:
    assert not bundle.reconstructs
    with pytest.raises(BundleError, match=r"it has no reconstruct\.onnx, only: encoder\.onnx"):
        Reconstructor(bundle)


def test_packets_of_different_frames_are_not_mixed(bundle: ModelBundle, frame: np.ndarray) -> None:
    encoder = Encoder(bundle)
    first, second = encoder.encode(frame) + encoder.encode(frame)
    with pytest.raises(PacketError, match="frames 0 and 1"):
        Decoder(bundle).decode([first, second])
    with pytest.raises(PacketError, match="no packets"):
        Decoder(bundle).decode([])


def test_another_bundle_is_named_by_both_fingerprints(
    bundle: ModelBundle, frame: np.ndarray, tmp_path: Path
) -> None:
    other = ModelBundle.load(write_tiny_bundle(tmp_path / "other", seed=9))
    (packet,) = Encoder(other).encode(frame)
    with pytest.raises(FingerprintError) as caught:
        Decoder(bundle).decode([packet])
    assert (caught.value.theirs, caught.value.ours) == (other.fingerprint, bundle.fingerprint)
    assert f"{other.fingerprint:016x}" in str(caught.value)
    assert f"{bundle.fingerprint:016x}" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"slice_count": 0},
        {"slice_count": 5},
        {"levels": 0},
        {"levels": 3},
        {"levels": 1},
        {"source_width": 0},
        {"source_height": 16385},
        {"source_width": 16384, "source_height": 16384},
        {"reference": 5},
        {"reference": 65},
        {"version": 1},
        {"payload": b""},
        {"payload": b"\xff" * 37},
    ],
)
def test_packets_that_contradict_the_bundle_are_refused(
    bundle: ModelBundle, frame: np.ndarray, changes: dict[str, object]
) -> None:
    (packet,) = Encoder(bundle).encode(frame)
    with pytest.raises(PacketError):
        Decoder(bundle).decode([sign(packet, **changes)])


@given(data=st.data())
def test_one_flipped_bit_anywhere_is_noticed(bundle: ModelBundle, data: st.DataObject) -> None:
    frame = np.zeros((64, 96, 3), np.uint8)
    (packet,) = Encoder(bundle).encode(frame, HEADER)
    fields = ["fingerprint", "stream", "sequence", "reference", "levels"]
    fields += ["source_width", "source_height", "slice_index", "slice_count"]
    fields += ["payload", "sec", "nanosec"]
    field = data.draw(st.sampled_from(fields))
    if field == "payload":
        place = data.draw(st.integers(0, len(packet.payload) * 8 - 1))
        payload = bytearray(packet.payload)
        payload[place // 8] ^= 1 << place % 8
        broken = replace(packet, payload=bytes(payload))
    elif field in ("sec", "nanosec"):
        value = getattr(packet.header, field) ^ 1 << data.draw(st.integers(0, 29))
        broken = replace(packet, header=packet.header._replace(**{field: value}))
    else:
        broken = replace(packet, **{field: getattr(packet, field) ^ 1})
    with pytest.raises(PacketError, match="CRC-32C"):
        broken.check(bundle.fingerprint, bundle.grid, bundle.levels)


def test_absent_tokens_are_never_sent(bundle: ModelBundle) -> None:
    with pytest.raises(ValueError, match="token 64 with a codebook of 64"):
        bundle.coder.encode(np.full((1, 1, bundle.grid[1]), 64, np.uint16), 0, None)


def test_overhead_is_that_of_a_short_header() -> None:
    assert serialized_overhead("") == 56


def test_wrong_frames_are_explained(bundle: ModelBundle) -> None:
    encoder = Encoder(bundle)
    for wrong in (
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ):
        with pytest.raises(ImageError):
            encoder.encode(wrong)
    assert encoder.encode(np.zeros((8, 8, 3), np.uint8))[0].sequence == 0


def test_the_expert_segments_at_the_frames_size(bundle: ModelBundle, frame: np.ndarray) -> None:
    mask = Expert(bundle).segment(frame)
    assert mask.shape == frame.shape[:2]
    assert set(np.unique(mask)) <= set(bundle.labels.ids)
