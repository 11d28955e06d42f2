"""First stage of the transmitter: a camera message becomes an RGB frame of the size wanted."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.image import ImageError as RosbagsImageError
from rosbags.image import image_to_cvimage

from .errors import ImageError

Frame = npt.NDArray[np.uint8]
"""An image, uint8 (H, W, 3), RGB."""

MAX_SIDE = 16384
"""Longest side of a frame in pixels, as the wire format has it."""

SENSOR_BITS = (8, 10, 12, 14, 16)
"""Significant bits that are told apart in 16-bit encodings."""
CLIPPED_SHARE = 1e-3
"""Share of the values that may exceed the range, so that hot pixels do not widen it."""

_CHANNELS = {
    **{"mono": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4},
    **{f"bayer_{order}": 1 for order in ("rggb", "bggr", "gbrg", "grbg")},
}
_PACKED = ("yuv422", "yuv422_yuy2")
_SEMI_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}

_PIXEL_BYTES = {
    **{f"{name}8": channels for name, channels in _CHANNELS.items()},
    **{f"{name}16": 2 * channels for name, channels in _CHANNELS.items()},
    **dict.fromkeys(_PACKED, 2),
    **dict.fromkeys(_SEMI_PLANAR, 1),
}
"""Bytes for each pixel of a row, by encoding."""

_ALIASES = {
    **{"uyvy": "yuv422", "yuyv": "yuv422_yuy2"},
    # OpenCV's type names say nothing of colour; OpenCV's own order is BGR.
    **{"8uc1": "mono8", "8uc3": "bgr8", "8uc4": "bgra8", "16uc3": "bgr16", "16uc4": "bgra16"},
}

_DEPTH = re.compile(r"\b(?:16[us]|32[sf]|64f)(?:c1)?\b|compresseddepth")
_BAYER = re.compile(r"bayer_(?:rggb|bggr|gbrg|grbg)")


class ImageConverter:
    """Converts the images of one camera to RGB, with one scale for all of them.

    16-bit encodings hold the 10, 12 or 14 bits of a sensor without saying how many. The number is
    observed: the smallest of :data:`SENSOR_BITS` whose range holds all but :data:`CLIPPED_SHARE` of
    an image's values. It only ever rises, at most four times, so the scale does not flicker.
    """

    def __init__(self, bits: int = 0) -> None:
        """Set the number of significant bits, 8 to 16; 0 for the observed number.

        Raises:
            ValueError: another number.
        """
        if bits and not SENSOR_BITS[0] <= bits <= SENSOR_BITS[-1]:
            raise ValueError(f"bits {bits}: give 8 to 16, or 0 for the number observed")
        self.bits = bits or SENSOR_BITS[0]
        """Significant bits of 16-bit encodings so far."""
        self._observe = not bits

    def to_rgb(self, message: Any) -> Frame:
        """Convert the next image.

        Args:
            message: ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``, of rclpy or rosbags.
                Rows may be padded. Encodings: mono, rgb, bgr, rgba, bgra and bayer_* of 8 and 16
                bits, either byte order, 8UC1, 8UC3, 8UC4, 16UC3 and 16UC4 (BGR), yuv422 (or uyvy),
                yuv422_yuy2 (or yuyv), nv12 and nv21. Compressed images are what OpenCV decodes;
                those of one channel whose format names a Bayer encoding are mosaics.

        Returns:
            uint8 (H, W, 3), contiguous; it may share the message's memory.

        Raises:
            ImageError: unknown encoding, depth, impossible size, too little data, or a compressed
                image that does not decode.
        """
        if hasattr(message, "format"):
            encoding, values = _decompress(message)
        else:
            encoding, values = _unpack(message)
        if values.dtype == np.uint16:
            encoding, values = encoding.removesuffix("16") + "8", self._narrow(values)
        return _convert(encoding, values)

    def _narrow(self, values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
        """Scale 16-bit values to 8 bits, whole bits at a time: the same everywhere."""
        if self._observe and values.max(initial=0) >> self.bits:
            most = values.size * CLIPPED_SHARE
            self.bits = next(
                bits
                for bits in SENSOR_BITS
                if bits >= self.bits and np.count_nonzero(values >> bits) <= most
            )
        narrow: npt.NDArray[np.uint8] = np.minimum(values >> (self.bits - 8), 255).astype(np.uint8)
        return narrow


def to_rgb(message: Any, bits: int = 0) -> Frame:
    """Convert a single image to RGB; for streams, keep an :class:`ImageConverter`.

    Args:
        message: as for :meth:`ImageConverter.to_rgb`.
        bits: significant bits of 16-bit encodings, 8 to 16; 0: those that this image shows.

    Returns:
        uint8 (H, W, 3), contiguous; it may share the message's memory.

    Raises:
        ImageError: see :meth:`ImageConverter.to_rgb`.
    """
    return ImageConverter(bits).to_rgb(message)


def _unpack(message: Any) -> tuple[str, npt.NDArray[Any]]:
    """Return an image's canonical encoding and its values, uint8 or uint16 (H, W[, channels])."""
    encoding = message.encoding.lower()
    encoding = _ALIASES.get(encoding, encoding)
    pixel_bytes = _PIXEL_BYTES.get(encoding)
    if pixel_bytes is None:
        _refuse_depth(message.encoding)
        raise ImageError(
            f"encoding {message.encoding!r} is not supported; have the camera driver or "
            f"image_proc publish one of: {', '.join(sorted(_PIXEL_BYTES))}"
        )
    height, width, step = message.height, message.width, message.step
    _check_size(height, width)
    if step < width * pixel_bytes:
        raise ImageError(f"step {step} is too short for {width} pixels of {encoding}")
    if encoding in _SEMI_PLANAR and (height % 2 or width % 2):
        raise ImageError(f"{encoding} needs even sides, got {width}x{height}")
    if encoding in _PACKED and width % 2:
        raise ImageError(f"{encoding} needs an even width, got {width}x{height}")
    lines = height * 3 // 2 if encoding in _SEMI_PLANAR else height
    if len(message.data) < lines * step:
        raise ImageError(
            f"{width}x{height} {encoding} with step {step} needs {lines * step} bytes, "
            f"got {len(message.data)}"
        )
    rows = np.frombuffer(message.data, np.uint8, lines * step).reshape(lines, step)
    rows = np.ascontiguousarray(rows[:, : width * pixel_bytes])
    if encoding.endswith("16"):
        values = rows.view(">u2" if message.is_bigendian else "<u2").astype(np.uint16, copy=False)
        if encoding in ("rgba16", "bgra16"):
            # Alpha fills all 16 bits, whatever the sensor does.
            return f"{encoding[:3]}16", values.reshape(height, width, 4)[..., :3]
        return encoding, values
    return encoding, rows


def _decompress(message: Any) -> tuple[str, npt.NDArray[Any]]:
    """Return a compressed image's encoding and its values, as :func:`_unpack` does."""
    _refuse_depth(message.format)
    data = np.frombuffer(message.data, np.uint8)
    # A camera's EXIF orientation must not turn the frame away from its camera_info.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        values = cv2.imdecode(data, flags) if data.size else None
    except cv2.error as error:
        raise ImageError(f"compressed image ({message.format!r}): {error}") from error
    if values is None:
        raise ImageError(
            f"{data.size} bytes with format {message.format!r} do not decode as JPEG, PNG or "
            "another still image"
        )
    _check_size(*values.shape[:2])
    if values.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"compressed image ({message.format!r}) of {values.dtype}: no picture")
    suffix = 8 * values.itemsize
    mosaic = _BAYER.search(message.format.lower())
    if mosaic and values.ndim == 3 and np.ptp(values, axis=2).max() <= 2:
        # WebP and GIF, for one, have no images of a single channel.
        values = np.ascontiguousarray(values[..., 0])
    if values.ndim == 3:
        return f"bgr{suffix}", values
    return f"{mosaic.group() if mosaic else 'mono'}{suffix}", values


def _refuse_depth(encoding: str) -> None:
    if _DEPTH.search(encoding.lower()):
        raise ImageError(
            f"{encoding!r} is not supported: it holds depth; name the topic of a colour camera "
            "(grey pictures of 16 bits must be published as mono16)"
        )


def _convert(encoding: str, values: npt.NDArray[np.uint8]) -> Frame:
    """Convert uint8 values of a canonical encoding to RGB."""
    height, width = values.shape[:2]
    if encoding in _SEMI_PLANAR:
        return np.asarray(cv2.cvtColor(values, _SEMI_PLANAR[encoding]), np.uint8)
    width = values.size // height // _PIXEL_BYTES[encoding]
    if encoding == "rgb8":
        return values.reshape(height, width, 3)
    data = values.reshape(-1)
    plain: Any = SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=False, data=data
    )
    try:
        return np.asarray(image_to_cvimage(plain, "rgb8"), np.uint8)
    except (RosbagsImageError, cv2.error) as error:
        raise ImageError(f"{encoding}: {error}") from error


def _check_size(height: int, width: int) -> None:
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ImageError(f"size {width}x{height}: each side must be 1 to {MAX_SIDE} pixels")


def as_frame(frame: object) -> Frame:
    """Return `frame` as an array if it is one or can be viewed as one, like a PIL image in RGB.

    Raises:
        ImageError: it is not uint8 (H, W, 3) with sides from 1 to 16384.
    """
    try:
        array = np.asarray(frame)
    except Exception as error:  # whatever the object's own conversion raises
        raise ImageError(f"frame is {type(frame).__name__}: {error}") from error
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        given = "" if isinstance(frame, np.ndarray) else f"{type(frame).__name__} of "
        raise ImageError(
            f"frame is {given}{array.dtype} {array.shape}: give uint8 (H, W, 3) RGB, as "
            "np.array(values, np.uint8) or a PIL image's convert('RGB') does"
        )
    _check_size(*array.shape[:2])
    return array


def resize_frame(frame: Frame, size: tuple[int, int]) -> Frame:
    """Scale a frame to `size` (height, width), averaging areas where it shrinks.

    It is halved while it is at least twice as large: bilinear scaling by two averages, several
    times as fast as OpenCV's INTER_AREA. The rest is bilinear scaling, too.

    Raises:
        ImageError: `frame` is not uint8 (H, W, 3) with sides from 1 to 16384.
    """
    frame = as_frame(frame)
    height, width = frame.shape[:2]
    while height >= 2 * size[0] or width >= 2 * size[1]:
        height = height // 2 if height >= 2 * size[0] else height
        width = width // 2 if width >= 2 * size[1] else width
        frame = np.asarray(cv2.resize(frame, (width, height)), np.uint8)
    if frame.shape[:2] == size:
        return np.ascontiguousarray(frame)
    return np.asarray(cv2.resize(frame, size[::-1]), np.uint8)
