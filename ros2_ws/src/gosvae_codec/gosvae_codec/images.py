"""First stage of the transmitter: a camera message becomes an RGB frame of the size wanted."""

from __future__ import annotations

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

_PACKED = ("yuv422", "yuv422_yuy2")

_PIXEL_BYTES = {
    **dict.fromkeys(("rgb8", "bgr8"), 3),
    **dict.fromkeys(("rgba8", "bgra8"), 4),
    **dict.fromkeys(_PACKED, 2),
    **dict.fromkeys(("mono8", "nv12", "nv21"), 1),
    **dict.fromkeys((f"bayer_{order}8" for order in ("rggb", "bggr", "gbrg", "grbg")), 1),
    **dict.fromkeys((f"bayer_{order}16" for order in ("rggb", "bggr", "gbrg", "grbg")), 2),
    **{"mono16": 2, "rgb16": 6, "bgr16": 6},
}
"""Bytes for each pixel of a row, by encoding."""

_ALIASES = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}

_SEMI_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}


def to_rgb(message: Any) -> Frame:
    """Convert a camera message to RGB.

    Args:
        message: ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``, of rclpy or rosbags.
            Rows may be padded. Encodings: rgb8, bgr8, rgba8, bgra8, mono8, bayer_*8, the 16-bit
            ones of rgb, bgr, mono and bayer_*, yuv422
            (or uyvy), yuv422_yuy2 (or yuyv), nv12 and nv21.

    Returns:
        uint8 (H, W, 3), contiguous; it may share the message's memory.

    Raises:
        ImageError: unknown encoding, impossible size, too little data, or a compressed image
            that does not decode.
    """
    if hasattr(message, "format"):
        return _decompress(message)
    encoding = message.encoding.lower()
    encoding = _ALIASES.get(encoding, encoding)
    pixel_bytes = _PIXEL_BYTES.get(encoding)
    if pixel_bytes is None:
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
    if encoding == "rgb8":
        return rows.reshape(height, width, 3)
    if encoding in _SEMI_PLANAR:
        return np.asarray(cv2.cvtColor(rows, _SEMI_PLANAR[encoding]), np.uint8)
    plain = SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=message.is_bigendian,
        step=width * pixel_bytes,
        data=rows.reshape(-1),
    )
    return _convert(plain)


def _convert(message: Any) -> Frame:
    try:
        return np.asarray(image_to_cvimage(message, "rgb8"), np.uint8)
    except (RosbagsImageError, cv2.error) as error:
        raise ImageError(f"{message.encoding}: {error}") from error


def _decompress(message: Any) -> Frame:
    # Straight to OpenCV, as both libraries do: neither turns a grey JPEG into RGB, and a camera's
    # EXIF orientation must not turn the frame away from its camera_info.
    data = np.frombuffer(message.data, np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(data, flags) if data.size else None
    except cv2.error as error:
        raise ImageError(f"compressed image ({message.format!r}): {error}") from error
    if bgr is None:
        raise ImageError(
            f"{data.size} bytes with format {message.format!r} do not decode as JPEG, PNG or "
            "another still image"
        )
    _check_size(*bgr.shape[:2])
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _check_size(height: int, width: int) -> None:
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ImageError(f"size {width}x{height}: each side must be 1 to {MAX_SIDE} pixels")


def resize_frame(frame: Frame, size: tuple[int, int]) -> Frame:
    """Scale a frame to `size` (height, width), averaging areas where it shrinks.

    It is halved while it is at least twice as large, which bilinear scaling does by averaging,
    several times as fast as OpenCV averages areas; what remains is bilinear, too.

    Raises:
        ImageError: `frame` is not uint8 (H, W, 3) with sides from 1 to 16384.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ImageError(f"frame is {frame.dtype} {frame.shape}; give uint8 (H, W, 3) RGB")
    height, width = frame.shape[:2]
    _check_size(height, width)
    while height >= 2 * size[0] or width >= 2 * size[1]:
        height = height // 2 if height >= 2 * size[0] else height
        width = width // 2 if width >= 2 * size[1] else width
        frame = np.asarray(cv2.resize(frame, (width, height)), np.uint8)
    if frame.shape[:2] == size:
        return np.ascontiguousarray(frame)
    return np.asarray(cv2.resize(frame, size[::-1]), np.uint8)
