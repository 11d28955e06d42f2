"""Frames as arrays: what is taken, how it is scaled, and whether it shows anything."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_codec import Encoder, Expert, Exposure, ImageError, ModelBundle
from gosvae_codec.images import as_frame, resize_frame


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = [255 * x / width, 255 * y / height, 255 - 255 * (x + y) / (width + height)]
    return np.stack(planes, -1).astype(np.uint8)


def test_resizing_keeps_what_fits_and_averages_what_shrinks() -> None:
    rgb = scene()
    assert resize_frame(rgb, rgb.shape[:2]) is rgb
    checkers = np.zeros((64, 64, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 200
    assert (resize_frame(checkers, (32, 32)) == 100).all()


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    wanted=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 9),
)
def test_resizing_moves_nothing_and_keeps_the_mean(
    size: tuple[int, int], wanted: tuple[int, int], seed: int
) -> None:
    flat = np.random.default_rng(seed).integers(0, 256, 3).astype(np.uint8)
    rgb = np.broadcast_to(flat, (*size, 3))
    resized = resize_frame(np.ascontiguousarray(rgb), wanted)
    assert resized.shape == (*wanted, 3)
    assert (resized == flat).all()


@pytest.mark.parametrize("size", [(512, 1024), (1024, 2048), (540, 960), (480, 640)])
def test_resizing_is_close_to_cutting_areas(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (45, 60, 3), np.uint8)
    rgb = np.asarray(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    exact = cv2.resize(rgb, (480, 360), interpolation=cv2.INTER_AREA)
    difference = resize_frame(rgb, (360, 480)).astype(float) - exact
    assert np.abs(difference).mean() < 2
    assert np.abs(difference.mean()) < 0.5


def test_frames_that_show_nothing_are_told() -> None:
    rng = np.random.default_rng(0)
    street = resize_frame(scene(), (480, 640))
    for sound in (street, street // 4, 255 - street // 8, rng.integers(0, 60, (9, 9, 3), np.uint8)):
        assert Exposure.of(sound).problem == ""
    for black in (street // 16, street * 0, rng.integers(0, 8, (1080, 1920, 3), np.uint8)):
        assert "nearly black (mean" in Exposure.of(black).problem
    noise = rng.normal(0, 1.5, street.shape)
    for flat in (np.full_like(street, 255), (noise + np.array([90, 20, 200])).astype(np.uint8)):
        assert "nearly constant (standard deviation" in Exposure.of(flat).problem


def test_what_is_no_array_is_taken_or_explained(bundle: ModelBundle) -> None:
    rgb = scene(64, 96)
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.fromarray(rgb)
    encoder = Encoder(bundle)
    np.testing.assert_array_equal(as_frame(picture), rgb)
    expected = encoder.tokens(rgb)
    np.testing.assert_array_equal(encoder.tokens(picture), expected)
    packet = encoder.encode(picture)[0]
    assert (packet.source_width, packet.source_height) == (96, 64)
    assert Expert(bundle).segment(picture).shape == (64, 96)
    # Views that are not contiguous, as BGR turned round is.
    np.testing.assert_array_equal(encoder.tokens(rgb[..., ::-1][..., ::-1]), expected)
    for wrong, words in [
        (rgb.tolist(), r"list of int64 \(64, 96, 3\)"),
        ([[1, 2], [3]], "frame is list: "),
        (picture.convert("L"), r"Image of uint8 \(64, 96\): give .* convert\('RGB'\)"),
        (picture.convert("RGBA"), r"\(64, 96, 4\)"),
        (rgb / 255, r"frame is float64"),
        (None, "NoneType of object"),
        ("frame.png", "str of"),
        (rgb[:0], "size 96x0"),
    ]:
        for use in (encoder.encode, encoder.tokens, Expert(bundle).segment):
            with pytest.raises(ImageError, match=words):
                use(wrong)
