"""Every input encoding against the same scene, with padded rows and broken messages."""

from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gosvae_codec import ImageConverter, ImageError
from gosvae_codec.images import to_rgb


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


SIXTEEN = ["mono16", "rgb16", "bgr16", "rgba16", "bgra16", "16UC3", "16UC4"]
SIXTEEN += [f"bayer_{order}16" for order in ("rggb", "bggr", "gbrg", "grbg")]


def narrow_name(encoding: str) -> str:
    plain = {"16UC3": "bgr8", "16UC4": "bgra8"}
    return plain.get(encoding, encoding.replace("16", "8"))


def widen(narrow: np.ndarray, bits: int) -> np.ndarray:
    """8-bit values as a sensor of `bits` has them in 16 bits, the lowest ones as noise."""
    noise = np.random.default_rng(bits).integers(0, 1 << (bits - 8), narrow.shape)
    return (narrow.astype(np.uint16) << (bits - 8)) + noise.astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("encoding", SIXTEEN)
def test_the_sensors_bits_are_scaled_to_eight(encoding: str, bits: int) -> None:
    rgb = scene()
    narrow = pack(narrow_name(encoding), rgb)
    expected = to_rgb(image(narrow_name(encoding), narrow, rgb.shape[:2]))
    assert expected.max() > 200
    wide = widen(narrow, bits)
    for big in (False, True):
        data = wide.astype(">u2" if big else "<u2").reshape(len(wide), -1).view(np.uint8)
        message = image(encoding, data, rgb.shape[:2], 6, big)
        np.testing.assert_array_equal(to_rgb(message), expected)
        np.testing.assert_array_equal(to_rgb(message, bits), expected)


@pytest.mark.parametrize("encoding", ["rgba16", "bgra16", "16UC4"])
def test_opaque_alpha_does_not_darken_the_picture(encoding: str) -> None:
    rgb = scene()
    wide = widen(pack(narrow_name(encoding), rgb), 12)
    wide[..., 3] = 65535
    message = image(encoding, wide.reshape(len(wide), -1).view(np.uint8), rgb.shape[:2], 4)
    np.testing.assert_array_equal(to_rgb(message), rgb)


def grey(values: np.ndarray) -> SimpleNamespace:
    return image("mono16", values.view(np.uint8), values.shape)


def test_a_streams_scale_does_not_flicker() -> None:
    bright = np.linspace(0, 4095, 48 * 64).astype(np.uint16).reshape(48, 64)
    converter = ImageConverter()
    first = converter.to_rgb(grey(bright))
    assert converter.bits == 12
    # A tunnel: the frame is as dark as it is, and so is the same frame as rgb16.
    dark = converter.to_rgb(grey(bright // 32))
    assert converter.bits == 12 and dark.max() == 7
    wide = np.repeat((bright // 32)[..., None], 3, 2).reshape(48, -1)
    again = converter.to_rgb(image("rgb16", wide.view(np.uint8), (48, 64)))
    np.testing.assert_array_equal(again, dark)
    np.testing.assert_array_equal(converter.to_rgb(grey(bright)), first)
    # From the dark into the light, the scale changes once for every step up.
    converter, seen = ImageConverter(), []
    for limit in (100, 900, 200, 4000, 1000, 4095, 16000, 4000, 65535, 10):
        converter.to_rgb(grey(np.minimum(bright * 16, limit).astype(np.uint16)))
        seen.append(converter.bits)
    assert seen == [8, 10, 10, 12, 12, 12, 14, 14, 16, 16]


def test_hot_pixels_do_not_darken_the_picture() -> None:
    values = np.random.default_rng(0).integers(0, 4096, (200, 300), np.uint16)
    hot = values.copy()
    hot[7, 11:60] = 65535
    converter = ImageConverter()
    expected, found = converter.to_rgb(grey(values)), converter.to_rgb(grey(hot))
    assert converter.bits == 12
    assert (found[7, 11:60] == 255).all()
    found[7, 11:60] = expected[7, 11:60]
    np.testing.assert_array_equal(found, expected)


def test_the_number_of_bits_can_be_given() -> None:
    values = np.full((4, 6), 1000, np.uint16)
    assert (to_rgb(grey(values), 10) == 250).all()
    assert (to_rgb(grey(values), 12) == 62).all()
    assert (to_rgb(grey(values), 9) == 255).all()
    for wrong in (7, 17, -1):
        with pytest.raises(ValueError, match=f"bits {wrong}: give 8 to 16"):
            ImageConverter(wrong)


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


def compressed(values: np.ndarray, kind: str, suffix: str = "png") -> SimpleNamespace:
    """Values as OpenCV compresses them, which takes three channels for BGR."""
    return SimpleNamespace(format=kind, data=cv2.imencode(f".{suffix}", values)[1].tobytes())


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "bmp"])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("kind", ["bayer_{}8; {} compressed ", "BAYER_{}8;{}", "{1}; bayer_{0}8"])
def test_a_compressed_mosaic_is_demosaiced(kind: str, order: str, suffix: str) -> None:
    rgb = scene(96, 128)
    mosaic = pack(f"bayer_{order}8", rgb)
    expected = to_rgb(image(f"bayer_{order}8", mosaic, rgb.shape[:2]))
    found = to_rgb(compressed(mosaic, kind.format(order, suffix), suffix))
    exact = suffix not in ("jpg", "webp")
    difference = np.abs(found.astype(int) - expected)
    assert difference.mean() <= (0 if exact else 3)
    # A colour picture that names the camera's encoding is one already.
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    plain = to_rgb(compressed(bgr, f"bayer_{order}8; png compressed bgr8"))
    np.testing.assert_array_equal(plain, rgb)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("kind", ["bayer_gbrg16; {} compressed ", "bayer_GBRG16;{} compressed"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_compressed_mosaic_of_sixteen_bits_is_scaled(suffix: str, kind: str, bits: int) -> None:
    rgb = scene()
    mosaic = pack("bayer_gbrg8", rgb)
    expected = to_rgb(image("bayer_gbrg8", mosaic, rgb.shape[:2]))
    found = to_rgb(compressed(widen(mosaic, bits), kind.format(suffix), suffix))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        ("mono16; png compressed ", 1),
        ("png", 1),
        ("rgb16; png compressed bgr16", 3),
        ("bgr16; png compressed bgr16", 3),
        ("16UC3; png compressed ", 3),
        ("png", 3),
        ("rgba16; png compressed bgra16", 4),
    ],
)
def test_compressed_images_of_sixteen_bits_are_scaled(kind: str, channels: int, bits: int) -> None:
    rgb = scene()
    narrow = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    expected = rgb
    if channels == 1:
        narrow = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        expected = np.repeat(narrow[..., None], 3, 2)
    elif channels == 4:
        narrow = np.dstack([narrow, np.full(rgb.shape[:2], 9, np.uint8)])
    np.testing.assert_array_equal(to_rgb(compressed(widen(narrow, bits), kind)), expected)


@pytest.mark.parametrize(
    "kind",
    ["rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", "jpeg", "rgb8", "", "yuv422"],
)
def test_colours_are_those_of_the_file_whatever_the_format(kind: str) -> None:
    rgb = scene()
    found = to_rgb(compressed(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), kind, "jpg"))
    assert np.abs(found.astype(int) - rgb).mean() < 3


@pytest.mark.parametrize(
    "kind",
    [
        *("16UC1", "32FC1", "64FC1", "16SC1", "32SC1"),
        *("16UC1; png compressed ", "32FC1; tiff compressed ", "16uc1;png"),
        *("16UC1; compressedDepth", "32FC1; compressedDepth png", "mono16; compressedDepth rvl"),
    ],
)
def test_depth_is_refused(kind: str) -> None:
    depth = np.full((8, 12), 3000, np.uint16)
    messages = [compressed(depth, kind)]
    if ";" not in kind:
        messages.append(image(kind, depth.view(np.uint8), (8, 12)))
    for message in messages:
        with pytest.raises(ImageError, match=f"{kind}.* it holds depth; name the topic"):
            to_rgb(message)


def test_compressed_floats_are_refused() -> None:
    message = compressed(np.ones((8, 12), np.float32), "tiff", "tiff")
    with pytest.raises(ImageError, match="float32"):
        to_rgb(message)


@pytest.mark.parametrize(
    ("opencv", "encoding"), [("8UC1", "mono8"), ("8UC3", "bgr8"), ("8UC4", "bgra8")]
)
def test_opencvs_types_are_read_in_opencvs_order(opencv: str, encoding: str) -> None:
    rgb = scene()
    packed = pack(encoding, rgb)
    expected = to_rgb(image(encoding, packed, rgb.shape[:2]))
    np.testing.assert_array_equal(to_rgb(image(opencv, packed, rgb.shape[:2], 5)), expected)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"nonsense" * 20])
def test_broken_compressed_images_are_explained(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"jpeg.* decode"):
        to_rgb(SimpleNamespace(format="jpeg", data=data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "32FC1"}, "'32FC1' is not supported"),
        ({"encoding": "32FC3"}, "'32FC3' is not supported"),
        ({"encoding": "rgb16"}, "step 192 is too short"),
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
    broken.data = bytes(broken.data)
    for key, value in changes.items():
        setattr(broken, key, value)
    with pytest.raises(ImageError, match=message):
        to_rgb(broken)


@given(
    encoding=st.sampled_from([*ENCODINGS, *SIXTEEN, "16UC1", "8UC3", "jpeg"]),
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
