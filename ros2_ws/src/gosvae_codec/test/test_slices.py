"""A frame's tokens cut into slices that fit a datagram."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_codec import Header, Packet, PacketError
from gosvae_codec.packets import MAX_SERIALIZED_BYTES
from gosvae_codec.slices import band_of, slice_frame
from gosvae_codec.testing import random_coder


@given(count=st.integers(1, 255), rows=st.integers(1, 300))
def test_bands_cover_the_grid_in_near_equal_parts(count: int, rows: int) -> None:
    count = min(count, rows)
    bands = [band_of(index, count, rows) for index in range(count)]
    assert [first for first, _ in bands] == [0, *(end for _, end in bands[:-1])]
    heights = {end - first for first, end in bands}
    assert bands[-1][1] == rows and min(heights) >= 1 and max(heights) - min(heights) <= 1


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 60),
    levels=st.integers(1, 2),
    least=st.integers(1, 5),
    likely=st.integers(1, 9),
    frame_id=st.text(max_size=100),
)
def test_slices_cover_the_frame_and_keep_within_a_datagram(
    rows: int, columns: int, levels: int, least: int, likely: int, frame_id: str
) -> None:
    coder = random_coder(2, 300, (rows, columns))
    tokens = np.random.default_rng(0).integers(0, 300, (levels, rows, columns), np.uint16)
    header = Header(1, 2, frame_id.encode("utf-8", "ignore").decode())
    template = Packet(header, 1, 2, 3, columns, rows, levels, 0, 0, 0, b"")
    packets = slice_frame(tokens, coder, template, min_slices=least, guess=likely)
    assert [p.slice_index for p in packets] == list(range(packets[0].slice_count))
    assert len(packets) >= min(least, rows)
    for packet in packets:
        assert packet.serialized_size() <= MAX_SERIALIZED_BYTES
        assert packet.crc32c == packet.checksum
        first, end = band_of(packet.slice_index, packet.slice_count, rows)
        band = coder.decode(packet.payload, levels, first, end - first, None)
        np.testing.assert_array_equal(band, tokens[:, first:end])


@pytest.mark.parametrize(("columns", "needed"), [(4, 1), (60, 3)])
def test_slices_are_guessed_from_the_frame_before(
    columns: int, needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder = random_coder(2, 300, (20, columns))
    tokens = np.random.default_rng(0).integers(0, 300, (2, 20, columns), np.uint16)
    template = Packet(Header(), 1, 2, 3, columns, 20, 2, 0, 0, 0, b"")
    fresh = slice_frame(tokens, coder, template)
    assert len(fresh) == needed
    assert slice_frame(tokens, coder, template, guess=9) == fresh
    coded = []
    encode = coder.encode
    monkeypatch.setattr(coder, "encode", lambda *each: coded.append(each) or encode(*each))
    assert slice_frame(tokens, coder, template, guess=needed) == fresh
    assert len(coded) == needed


def test_a_frame_id_that_fills_the_packet_is_explained() -> None:
    template = Packet(Header(0, 0, "x" * 1310), 1, 2, 3, 9, 9, 1, 0, 0, 0, b"")
    with pytest.raises(PacketError, match=r"shorten the frame_id \(1310 characters\)"):
        tokens = np.random.default_rng(0).integers(0, 300, (1, 4, 60), np.uint16)
        slice_frame(tokens, random_coder(1, 300, (4, 60)), template)
