"""The entropy coder: lossless, bounded, exact to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_codec import BundleError, PacketError
from gosvae_codec.entropy import TokenCoder
from gosvae_codec.prior import Prior
from gosvae_codec.testing import random_coder, write_random_prior

VECTORS = Path(__file__).with_name("vectors")
SIZES = st.sampled_from([(1, 2, (1, 1)), (1, 300, (5, 7)), (2, 64, (4, 6)), (3, 33, (9, 4))])


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 2**32 - 1), agreement=st.floats(0, 1), data=st.data())
def test_every_band_comes_back_with_and_without_reference(
    size: tuple[int, int, tuple[int, int]], seed: int, agreement: float, data: st.DataObject
) -> None:
    levels, codes, grid = size
    coder = random_coder(levels, codes, grid)
    rng = np.random.default_rng(seed)
    tokens, other = rng.integers(0, codes, (2, levels, *grid), np.uint16)
    reference = np.where(rng.random(tokens.shape) < agreement, tokens, other)
    reference = reference[: data.draw(st.integers(1, levels))]
    sent = data.draw(st.integers(1, levels))
    first = data.draw(st.integers(0, grid[0] - 1))
    end = data.draw(st.integers(first + 1, grid[0]))
    band = tokens[:sent, first:end]
    for past in (None, reference):
        payload = coder.encode(band, first, past)
        found = coder.decode(payload, sent, first, end - first, past)
        np.testing.assert_array_equal(found, band)


@settings(max_examples=100, deadline=None)
@given(size=SIZES, payload=st.binary(max_size=120), predicted=st.booleans())
def test_any_payload_is_refused_or_is_the_only_one_of_its_band(
    size: tuple[int, int, tuple[int, int]], payload: bytes, predicted: bool
) -> None:
    levels, codes, grid = size
    coder = random_coder(levels, codes, grid)
    reference = np.zeros((levels, *grid), np.uint16) if predicted else None
    try:
        tokens = coder.decode(payload, levels, 0, grid[0], reference)
    except PacketError:
        return
    assert tokens.shape == (levels, *grid) and tokens.max() < codes
    assert coder.encode(tokens, 0, reference) == payload


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_damaged_payload_is_refused_or_is_the_only_one_of_its_band(
    seed: int, data: st.DataObject
) -> None:
    coder = random_coder(2, 64, (4, 6))
    tokens = np.random.default_rng(seed).integers(0, 64, (2, 4, 6), np.uint16)
    payload = bytearray(coder.encode(tokens, 0, None))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    try:
        found = coder.decode(bytes(payload), 2, 0, 4, None)
    except PacketError:
        return
    assert coder.encode(found, 0, None) == payload
    assert (found != tokens).any()


def test_cut_and_lengthened_payloads_are_refused() -> None:
    coder = random_coder(2, 64, (4, 6))
    payload = coder.encode(np.ones((2, 4, 6), np.uint16), 0, None)
    for broken in (payload[:-1], payload + b"\0", b"", payload[:3]):
        with pytest.raises(PacketError, match="no band of 2 levels, 4 rows"):
            coder.decode(broken, 2, 0, 4, None)


def test_a_band_needs_its_own_reference() -> None:
    coder = random_coder(1, 64, (4, 6))
    rng = np.random.default_rng(0)
    tokens, reference, other = rng.integers(0, 64, (3, 1, 4, 6), np.uint16)
    payload = coder.encode(tokens, 0, reference)
    for wrong in (None, other):
        with pytest.raises(PacketError):
            coder.decode(payload, 1, 0, 4, wrong)


@pytest.mark.parametrize("name", ["intra", "predicted", "band"])
def test_committed_vectors_decode_and_encode_to_the_bit(name: str) -> None:
    """Pins docs/wire-format.md: if this fails, raise the version instead of changing the test."""
    vector = json.loads((VECTORS / f"{name}.json").read_text())
    levels, codes, grid = vector["levels"], vector["codes"], tuple(vector["grid"])
    coder = TokenCoder(Prior.load(VECTORS / "prior.npz", levels, codes, grid), codes, grid)
    tokens = np.array(vector["tokens"], np.uint16)
    reference = vector["reference"] and np.array(vector["reference"], np.uint16)
    payload = bytes.fromhex(vector["payload"])
    sent, rows, _ = tokens.shape
    found = coder.decode(payload, sent, vector["first_row"], rows, reference)
    np.testing.assert_array_equal(found, tokens)
    assert coder.encode(tokens, vector["first_row"], reference) == payload


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, np.ndarray]:
    write_random_prior(tmp_path / "prior.npz", 2, 20, (3, 4), np.random.default_rng(0))
    return dict(np.load(tmp_path / "prior.npz"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sigmoid", lambda a: a * 0, "sigmoid: must rise"),
        ("sigmoid", lambda a: a[:-1], r"sigmoid: uint16 \(1535,\)"),
        ("sigmoid", None, "lacks sigmoid"),
        ("contexts_0", lambda a: a[:0], "0 contexts, 1 to 64"),
        ("contexts_0", lambda a: a * 0, "cannot be known in time"),
        ("contexts_1", lambda a: a + 50, "cannot be known in time"),
        ("hidden_0", lambda a: a.astype(np.float32), "hidden_0: float32"),
        ("hidden_1", lambda a: np.zeros((300, 16), np.int8), "at most 256 units"),
        ("hidden_bias_0", lambda a: a * 0 - (1 << 30) - 1, r"beyond 2\^30"),
        ("embedding_1", lambda a: a[:, :-1], r"embedding_1: int8 \(2, 19, 8\)"),
        ("leaf_0", lambda a: a * 0, "leaf_0: must be a permutation"),
        ("node_1", lambda a: a[:-1], "node_1"),
        ("row_0", lambda a: a.astype(object), "not an archive"),
    ],
)
def test_a_prior_that_does_not_fit_is_explained(
    arrays: dict[str, np.ndarray], tmp_path: Path, name: str, change: object, message: str
) -> None:
    array = arrays.pop(name)
    if change is not None:
        arrays[name] = change(array)  # type: ignore[operator]
    np.savez(tmp_path / "broken.npz", **arrays)
    with pytest.raises(BundleError, match=rf"broken\.npz.*{message}"):
        Prior.load(tmp_path / "broken.npz", 2, 20, (3, 4))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_of_the_same_shapes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray((VECTORS / "prior.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(damaged)
    try:
        prior = Prior.load(path, 2, 20, (3, 4))
    except BundleError:
        return
    assert [level.row.shape for level in prior.levels] == [(3, 16)] * 2


def test_a_huge_archive_is_not_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "huge.npz", sigmoid=np.zeros(1 << 27, np.uint8))
    with pytest.raises(BundleError, match="over 67108864 bytes"):
        Prior.load(tmp_path / "huge.npz", 1, 2, (1, 1))
