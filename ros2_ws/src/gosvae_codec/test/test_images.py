"""Every input encoding against the same scene, with padded rows and broken messages."""

from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_codec import ImageError
from gosvae_codec.images import resize_frame, to_rgb


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = [255 * x / width, 255 * y / height, 255 - 255 * (x + y) / (width + height)]
    return np.stack(planes, -1).astype(np.uint8)


def image(
    encoding: str, rows: np.ndarray, size: tuple[int, int], pad: int = 0, big: bool = False
) -> SimpleNamespace:
    rows = rows.reshape(len(rows), -1)
    padded = np.pad(rows, ((0, 0), (0, pad)), constant_values=77)
    return SimpleNamespace(
        encoding=encoding,
        height=size[0],
        width=size[1],
        step=padded.shape[1],
        is_bigendian=int(big),
        data=array("B", padded.tobytes()),
    )


def pack(encoding: str, rgb: np.ndarray) -> np.ndarray:
    """The scene as a driver would publish it, uint8 (rows, bytes)."""
    r, g, b = (rgb[..., channel] for channel in range(3))
    if encoding.startswith("bayer_"):
        order = encoding[6:10]
        raw = np.empty(rgb.shape[:2], np.uint8)
        for place, letter in enumerate(order):
            rows, columns = divmod(place, 2)
            raw[rows::2, columns::2] = {"r": r, "g": g, "b": b}[letter][rows::2, columns::2]
        return raw
    if encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"):
        yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
        h, w = rgb.shape[:2]
        y = yuv[:h]
        u, v = yuv[h:].reshape(2, h // 2, w // 2)
        if encoding in ("nv12", "nv21"):
            pair = (u, v) if encoding == "nv12" else (v, u)
            return np.vstack([y, np.stack(pair, -1).reshape(h // 2, w)])
        u, v = (np.repeat(plane, 2, 0) for plane in (u, v))
        packed = np.empty((h, w // 2, 4), np.uint8)
        parts = (u, y[:, ::2], v, y[:, 1::2])
        if encoding in ("yuv422_yuy2", "yuyv"):
            parts = (y[:, ::2], u, y[:, 1::2], v)
        for index, part in enumerate(parts):
            packed[..., index] = part
        return packed.reshape(h, -1)
    if encoding == "mono8":
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    alpha = np.full_like(r, 9)
    order = {"rgb8": (r, g, b), "bgr8": (b, g, r), "rgba8": (r, g, b, alpha)}
    order["bgra8"] = (b, g, r, alpha)
    return np.stack(order[encoding], -1)


ENCODINGS = ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "nv12", "nv21"]
ENCODINGS += ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"]
ENCODINGS += [f"bayer_{order}8" for order in ("rggb", "bggr", "gbrg", "grbg")]

BRIDGED = [each for each in ENCODINGS if each[:2] != "nv" and each not in ("uyvy", "yuyv")]


@pytest.mark.parametrize("pad", [0, 12])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_scene(encoding: str, pad: int) -> None:
    rgb = scene()
    found = to_rgb(image(encoding, pack(encoding, rgb), rgb.shape[:2], pad))
    assert found.shape == rgb.shape and found.dtype == np.uint8
    if encoding == "mono8":
        rgb = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, -1)
    exact = encoding in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")
    # Bayer and chroma subsampling smooth the gradients; a swapped channel is 100 off.
    inside = np.abs(found.astype(int) - rgb)[2:-2, 2:-2]
    assert inside.max() <= (0 if exact else 12)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bgr16", "bayer_rggb16"])
def test_sixteen_bits_are_scaled_to_eight(encoding: str, big: bool) -> None:
    rgb = scene()
    narrow = pack(encoding.replace("16", "8"), rgb)
    wide = (narrow.astype(np.uint16) * 257).astype(">u2" if big else "<u2")
    message = image(encoding, wide.reshape(len(wide), -1).view(np.uint8), rgb.shape[:2], 6, big)
    eight = to_rgb(image(encoding.replace("16", "8"), narrow, rgb.shape[:2]))
    assert np.abs(to_rgb(message).astype(int) - eight).max() <= 1


@pytest.mark.parametrize("encoding", [*BRIDGED, "mono16", "rgb16", "bgr16", "bayer_grbg16"])
def test_every_encoding_is_converted_as_cv_bridge_does(encoding: str) -> None:
    cv_bridge = pytest.importorskip("cv_bridge", reason="comes with ROS 2 installations only")
    pytest.importorskip("cv_bridge.boost.cv_bridge_boost", reason="built for another numpy")
    rgb = scene()
    packed = pack(encoding.replace("16", "8"), rgb)
    if encoding.endswith("16"):
        packed = (packed.astype(np.uint16) * 257).reshape(len(packed), -1).view(np.uint8)
    message = image(encoding, packed, rgb.shape[:2])
    try:
        bridged = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
    except cv_bridge.CvBridgeError as error:
        pytest.skip(f"cv_bridge cannot convert it: {error}")
    assert np.abs(to_rgb(message).astype(int) - bridged).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_compressed_images_give_the_scene(suffix: str) -> None:
    rgb = scene()
    data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    found = to_rgb(SimpleNamespace(format="jpeg", data=array("B", data.tobytes())))
    assert np.abs(found.astype(int) - rgb).mean() < 3
    gray = cv2.imencode(suffix, rgb[..., 0])[1].tobytes()
    assert to_rgb(SimpleNamespace(format="mono8; jpeg compressed", data=gray)).shape == rgb.shape


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"nonsense" * 20])
def test_broken_compressed_images_are_explained(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"jpeg.* decode"):
        to_rgb(SimpleNamespace(format="jpeg", data=data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "32FC1"}, "'32FC1' is not supported"),
        ({"encoding": ""}, "'' is not supported"),
        ({"width": 0}, "size 0x48"),
        ({"height": 20000}, "size 64x20000"),
        ({"step": 63}, "step 63 is too short"),
        ({"data": b"\x00" * 100}, "needs 9216 bytes, got 100"),
        ({"encoding": "nv12", "height": 47}, "even sides"),
        ({"encoding": "yuv422", "width": 63}, "even width"),
    ],
)
def test_impossible_messages_are_explained(changes: dict[str, object], message: str) -> None:
    rgb = scene()
    broken = image("rgb8", rgb, rgb.shape[:2])
    for key, value in changes.items():
        setattr(broken, key, value)
    with pytest.raises(ImageError, match=message):
        to_rgb(broken)


@given(
    encoding=st.sampled_from([*ENCODINGS, "16UC1", "jpeg"]),
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    step=st.integers(0, 40),
    data=st.binary(max_size=400),
)
def test_any_message_is_converted_or_explained(
    encoding: str, height: int, width: int, step: int, data: bytes
) -> None:
    message = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=0, data=data
    )
    try:
        found = to_rgb(message)
    except ImageError:
        return
    assert found.shape == (height, width, 3)


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
