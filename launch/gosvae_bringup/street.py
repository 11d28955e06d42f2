"""A drawn drive through a street, with exact labels: something to play where no camera is.

Everything stands in a plain world, in metres: x to the right, y up, z along the street. What is
where follows from the seed alone, so that any frame can be drawn by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gosvae_codec.labels import CITYSCAPES

from .sources import CAMERA_INFO, COMPRESSED_IMAGE, EPOCH, IMAGE, Pixels

Points = Sequence[tuple[float, float, float]]
Color = tuple[float, float, float]

RATE = 15.0
"""Frames per second."""
SPEED = 7.0
"""Speed of the camera in m/s."""
EYE = (1.3, 1.5)
"""Where the camera is in its street: x and y in m."""
VIEW = 110.0
"""Distance in m up to which things are drawn."""
NEAR = 0.4

ROAD, SIDEWALK, BUILDING, POLE, LIGHT, SIGN, TREE, TERRAIN, SKY, PERSON, CAR = (
    CITYSCAPES.by_name(name).id
    for name in (
        *("road", "sidewalk", "building", "pole", "traffic light", "traffic sign"),
        *("vegetation", "terrain", "sky", "person", "car"),
    )
)
HAZE = np.array([196.0, 208.0, 220.0])
WALLS = (
    *((181, 101, 76), (214, 190, 150), (168, 158, 148), (122, 92, 78)),
    *((204, 172, 132), (150, 120, 110), (190, 196, 188), (142, 78, 66)),
)
PAINTS = (
    *((32, 44, 84), (150, 24, 28), (188, 190, 194), (40, 42, 46), (228, 228, 224), (46, 84, 74)),
)


class _Canvas:
    """A frame and its label, drawn into with the same polygons by a camera at `z`."""

    def __init__(self, size: tuple[int, int], z: float) -> None:
        self.height, self.width = size
        self.focal = focal_length(size)
        self.horizon = 0.46 * self.height
        self.z = z
        top, bottom = np.array([96.0, 146.0, 206.0]), np.array([222.0, 228.0, 230.0])
        share = np.clip(np.arange(self.height) / self.horizon, 0, 1)[:, None, None] ** 1.3
        column = top + share * (bottom - top)
        self.image = np.repeat(column, self.width, axis=1).round().astype(np.uint8)
        self.label = np.full(size, SKY, np.uint8)

    def pixels(self, points: Points) -> npt.NDArray[np.int32]:
        """Project to 1/16 pixels, int32 (N, 2), cut at the near plane."""
        corners = np.array(points) - (*EYE, self.z)
        seen = corners[:, 2] >= NEAR
        if not seen.all():
            corners = _cut(corners, seen)
        if len(corners) < 3:
            return np.empty((0, 2), np.int32)
        x, y, z = corners.T
        flat = np.stack(
            (self.width / 2 + self.focal * x / z, self.horizon - self.focal * y / z), axis=1
        )
        return np.clip(flat * 16, -(2**19), 2**19).astype(np.int32)

    def fill(self, points: Points, color: Color, label: int) -> None:
        """Draw a polygon, paler with distance."""
        corners = self.pixels(points)
        if len(corners):
            distance = min(z for *_, z in points) - self.z
            self._paint([corners], color, label, max(distance, 0.0))

    def disc(self, x: float, y: float, z: float, radius: float, color: Color, label: int) -> None:
        """Draw a disc that faces the camera."""
        angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        self.fill(
            [(x + radius * np.cos(a), y + radius * np.sin(a), z) for a in angles], color, label
        )

    def upright(self, x: float, half: float, low: float, high: float, z: float) -> Points:
        """Return the rectangle that faces the camera at `z`."""
        return [(x - half, low, z), (x + half, low, z), (x + half, high, z), (x - half, high, z)]

    def _paint(self, polygons: list[Any], color: Color, label: int, distance: float) -> None:
        share = min(distance / VIEW, 1.0) ** 1.5 * 0.75
        shade = tuple(float(c) for c in np.array(color) * (1 - share) + HAZE * share)
        cv2.fillPoly(self.image, polygons, shade, cv2.LINE_AA, 4)
        cv2.fillPoly(self.label, polygons, label, cv2.LINE_8, 4)


def _cut(corners: npt.NDArray[np.float64], seen: npt.NDArray[np.bool_]) -> Any:
    """Return what of a polygon, float (N, 3), is before the near plane."""
    kept = []
    for k, (a, b) in enumerate(zip(corners, np.roll(corners, -1, axis=0), strict=True)):
        if seen[k]:
            kept.append(a)
        if seen[k] != seen[(k + 1) % len(seen)]:
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept)


def focal_length(size: tuple[int, int]) -> float:
    """Return the focal length in pixels for a frame of `size` (height, width)."""
    return 0.85 * size[1]


def draw(seed: int, index: int, size: tuple[int, int] = (360, 480)) -> tuple[Pixels, Pixels]:
    """Draw frame `index` of the drive `seed`.

    Returns:
        The frame, uint8 (H, W, 3) RGB, and its label, uint8 (H, W) Cityscapes train ids.
    """
    seconds = index / RATE
    canvas = _Canvas(size, SPEED * seconds)
    far = canvas.z + VIEW
    _ground(canvas, far)
    for side in (-1, 1):
        for building in sorted(_buildings(seed, side, canvas.z, far), reverse=True):
            _building(canvas, side, *building)
    things = sorted(_things(seed, canvas.z, seconds), key=lambda thing: -thing[1])
    for draw_thing, z, *rest in things:
        if canvas.z + NEAR < z + 5 and z < far:
            draw_thing(canvas, z, *rest)
    noise = np.random.default_rng((seed, index)).normal(0, 2.5, canvas.image.shape)
    image = np.clip(canvas.image + noise, 0, 255).astype(np.uint8)
    return image, canvas.label


def _cells(seed: int, kind: int, z: float, step: float) -> Iterator[tuple[float, Any]]:
    """Yield the start of each cell of the street in view, and random numbers of its own."""
    for cell in range(int(z // step) - 1, int((z + VIEW) // step) + 1):
        yield cell * step, np.random.default_rng((seed, kind, cell + 1000))


def _ground(canvas: _Canvas, far: float) -> None:
    near = canvas.z - 1

    def strip(left: float, right: float, a: float, b: float, color: Color, label: int) -> None:
        canvas.fill([(left, 0, a), (right, 0, a), (right, 0, b), (left, 0, b)], color, label)

    for a, b in ((far - 60, far + 400), (near, far - 60)):
        strip(-80, 80, a, b, (122, 132, 96), TERRAIN)
        for side in (-1, 1):
            strip(side * 4.2, side * 8.2, a, b, (158, 152, 146), SIDEWALK)
            strip(side * 4.2, side * 4.45, a, b, (190, 188, 184), SIDEWALK)
        strip(-4.2, 4.2, a, b, (88, 88, 92), ROAD)
        for x in (-3.95, 3.9):
            strip(x, x + 0.1, a, b, (206, 204, 196), ROAD)
    for k in range(int(near // 6) - 1, int(far // 6)):
        strip(-0.07, 0.07, k * 6, k * 6 + 3, (232, 230, 222), ROAD)
    for k in range(int(near // 70), int(far // 70) + 1):
        for stripe in np.arange(-3.6, 3.6, 0.9):
            strip(stripe, stripe + 0.5, k * 70 + 40, k * 70 + 43, (226, 224, 218), ROAD)


def _buildings(seed: int, side: int, z: float, far: float) -> Iterator[tuple[Any, ...]]:
    """Yield start, end, height, wall and storey height of the houses on one side."""
    for start, random in _cells(seed, 2 + side, z - 24, 24.0):
        cut = start + random.uniform(9, 15)
        for a, b in ((start, cut), (cut, start + 24 - random.choice((0, 0, 0, 5)))):
            wall = WALLS[random.integers(len(WALLS))]
            if b > z and a < far:
                yield a, b, random.uniform(6.5, 15), wall, random.uniform(2.9, 3.5)


def _building(
    canvas: _Canvas, side: int, a: float, b: float, height: float, wall: Color, storey: float
) -> None:
    x = side * 8.2
    lit = np.array(wall) * (1.06 if side < 0 else 0.86)
    canvas.fill(
        [(x, 0, a), (side * 24, 0, a), (side * 24, height, a), (x, height, a)],
        tuple(lit * 0.78),
        BUILDING,
    )

    def facade(z0: float, z1: float, low: float, high: float, color: Any) -> None:
        canvas.fill(
            [(x, low, z0), (x, low, z1), (x, high, z1), (x, high, z0)], tuple(color), BUILDING
        )

    facade(a, b, 0, height, lit)
    facade(a, b, 0, 0.6, lit * 0.6)
    facade(a, b, height - 0.35, height, lit * 0.7)
    bays = max(2, int((b - a) / 2.6)) if a < canvas.z + 70 else 0
    for floor in range(int((height - 0.6) / storey)):
        base = floor * storey
        for bay in range(bays):
            z0 = a + (bay + 0.27) * (b - a) / bays
            z1 = a + (bay + 0.73) * (b - a) / bays
            door = floor == 0 and bay % 3 == 1
            low, high = (0, 2.2) if door else (base + 0.95, base + 2.45)
            facade(z0 - 0.12, z1 + 0.12, max(low - 0.12, 0), high + 0.12, lit * 1.12)
            glass = (70, 52, 42) if door else (58 + 9 * (bay % 3), 72 + 8 * (floor % 3), 88)
            facade(z0, z1, low, high, glass)


def _things(seed: int, z: float, seconds: float) -> Iterator[tuple[Any, ...]]:
    """Yield what stands and moves between the houses: how to draw it, its z, and the rest."""
    for side in (-1, 1):
        for start, random in _cells(seed, 5 + side, z, 11.0):
            yield _tree, start + random.uniform(0, 3), side * 6.9, random.uniform(0.8, 1.25)
            if random.random() < 0.55:
                yield _car, start + 5.5, side * 3.25, PAINTS[random.integers(len(PAINTS))], side < 0
            if random.random() < 0.75:
                at = start + random.uniform(0, 11) + random.choice((-1.2, 1.1)) * seconds
                yield _person, at, side * random.uniform(4.9, 6.2), seconds, random.integers(99)
        for start, random in _cells(seed, 9 + side, z, 23.0):
            yield _pole, start + 8, side * 4.75, side, int(random.integers(4))
    ahead = np.random.default_rng((seed, 20))
    yield _car, z + 17 + 4 * np.sin(seconds / 3), 1.4, PAINTS[ahead.integers(6)], False
    for k in range(5):
        gap = 46.0 + 14 * k
        at = z + VIEW - (z + VIEW + 9.0 * seconds + gap * k) % (VIEW + gap)
        yield _car, at, -1.3, PAINTS[(k * 2 + 1) % 6], True


def _tree(canvas: _Canvas, z: float, x: float, scale: float) -> None:
    canvas.fill(canvas.upright(x, 0.13 * scale, 0, 2.8 * scale, z), (84, 66, 50), TREE)
    random = np.random.default_rng(int(z * 10))
    for k in range(16):
        angle, away = random.uniform(0, 2 * np.pi), random.uniform(0.2, 1.15) * scale
        dx, dy = away * np.cos(angle), 0.9 * away * np.sin(angle)
        green = np.array((64, 100, 46)) * (0.72 + 0.028 * k) + random.uniform(-6, 6)
        canvas.disc(
            x + dx, 3.9 * scale + dy, z, random.uniform(0.4, 0.75) * scale, tuple(green), TREE
        )


def _pole(canvas: _Canvas, z: float, x: float, side: int, kind: int) -> None:
    grey = (98, 102, 106)
    canvas.fill(canvas.upright(x, 0.06, 0, 2.9 if kind else 6.5, z), grey, POLE)
    if kind == 0:
        arm = [(x, 6.4, z), (x - side * 1.9, 6.5, z), (x - side * 1.9, 6.62, z), (x, 6.55, z)]
        canvas.fill(arm, grey, POLE)
    elif kind == 1:
        canvas.fill(canvas.upright(x, 0.17, 2.3, 3.2, z), (34, 36, 34), LIGHT)
        for y, color in ((3.02, (212, 46, 36)), (2.75, (70, 62, 26)), (2.48, (26, 64, 34))):
            canvas.disc(x, y, z - 0.01, 0.1, color, LIGHT)
    elif kind == 2:
        canvas.disc(x, 2.75, z, 0.38, (196, 30, 34), SIGN)
        canvas.disc(x, 2.75, z - 0.01, 0.27, (240, 240, 236), SIGN)
    else:
        canvas.fill(canvas.upright(x, 0.36, 2.35, 3.07, z), (32, 84, 168), SIGN)
        canvas.fill(canvas.upright(x, 0.14, 2.45, 2.95, z - 0.01), (238, 240, 242), SIGN)


def _car(canvas: _Canvas, z: float, x: float, paint: Color, oncoming: bool) -> None:
    body, glass = np.array(paint, float), (52, 62, 72)
    back, inner = z + 4.2, x - np.sign(x) * 0.9
    top = x - np.sign(x) * 0.68

    def flat(half: float, y: float, a: float, b: float) -> Points:
        return [(x - half, y, a), (x + half, y, a), (x + half, y, b), (x - half, y, b)]

    canvas.fill(flat(1.0, 0.01, z, back), (52, 52, 56), ROAD)
    canvas.fill(flat(0.9, 0.92, z, back), tuple(body * 1.05), CAR)
    canvas.fill(
        [(inner, 0.3, z), (inner, 0.3, back), (inner, 0.92, back), (inner, 0.92, z)],
        tuple(body * 0.8),
        CAR,
    )
    for wheel in (z + 0.8, back - 0.8):
        ring = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        rim = [(inner, 0.32 + 0.32 * np.sin(a), wheel + 0.32 * np.cos(a)) for a in ring]
        canvas.fill(rim, (26, 26, 28), CAR)
    cabin = [(inner, 0.92, z + 0.3), (inner, 0.92, back - 0.8)]
    canvas.fill([*cabin, (top, 1.45, back - 1.6), (top, 1.45, z + 0.9)], glass, CAR)
    canvas.fill(flat(0.68, 1.45, z + 0.9, back - 1.6), tuple(body * 1.1), CAR)
    window = [(x - 0.9, 0.92, z + 0.3), (x + 0.9, 0.92, z + 0.3)]
    canvas.fill([*window, (x + 0.68, 1.45, z + 0.9), (x - 0.68, 1.45, z + 0.9)], glass, CAR)
    for wheel_x in (x - 0.72, x + 0.72):
        canvas.fill(canvas.upright(wheel_x, 0.13, 0, 0.4, z), (24, 24, 26), CAR)
    lamp = (246, 240, 212) if oncoming else (176, 22, 24)
    for at, half, low, high, color in (
        (x, 0.9, 0.28, 0.92, body),
        (x, 0.9, 0.28, 0.42, body * 0.45),
        (x, 0.26, 0.46, 0.6, (230, 230, 220)),
        (x - 0.7, 0.16, 0.64, 0.82, lamp),
        (x + 0.7, 0.16, 0.64, 0.82, lamp),
    ):
        canvas.fill(canvas.upright(at, half, low, high, z), tuple(color), CAR)


def _person(canvas: _Canvas, z: float, x: float, seconds: float, look: int) -> None:
    random = np.random.default_rng(look)
    coat, trousers = random.uniform(30, 190, 3), random.uniform(25, 90, 3)
    stride = 0.2 * np.sin(seconds * 7 + look)
    for foot in (stride, -stride):
        leg = [
            (x - 0.09, 0.85, z),
            (x + 0.09, 0.85, z),
            (x + foot + 0.07, 0, z),
            (x + foot - 0.07, 0, z),
        ]
        canvas.fill(leg, tuple(trousers), PERSON)
        arm = [
            (x - 0.2, 1.4, z),
            (x + 0.2, 1.4, z),
            (x - foot + 0.12, 0.8, z),
            (x - foot - 0.12, 0.8, z),
        ]
        canvas.fill(arm, tuple(coat * 0.85), PERSON)
    canvas.fill(canvas.upright(x, 0.2, 0.78, 1.45, z - 0.01), tuple(coat), PERSON)
    canvas.disc(x, 1.6, z - 0.02, 0.125, (206, 164, 136), PERSON)
    canvas.disc(x, 1.66, z - 0.01, 0.13, (62, 46, 36), PERSON)


def write_bag(
    path: str | Path,
    seconds: float = 12.0,
    size: tuple[int, int] = (360, 480),
    seed: int = 1,
    camera: str = "camera",
) -> None:
    """Write the drive as a rosbag2 MCAP folder: JPEG frames, labels, and the camera's calibration.

    Raises:
        rosbags.rosbag2.WriterError: `path` exists.
    """
    types = get_typestore(Stores.ROS2_JAZZY)
    message = {name.rpartition("/")[2]: each for name, each in types.types.items()}
    height, width = size
    focal = focal_length(size)
    matrix = np.array([focal, 0, width / 2, 0, focal, 0.46 * height, 0, 0, 1])
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        image, label, info = (
            writer.add_connection(f"/{camera}/{name}", msgtype, typestore=types)
            for name, msgtype in (
                ("image_raw/compressed", COMPRESSED_IMAGE),
                ("label", IMAGE),
                ("camera_info", CAMERA_INFO),
            )
        )
        for index in range(round(seconds * RATE)):
            frame, ids = draw(seed, index, size)
            time = EPOCH + round(index * 1e9 / RATE)
            stamp = message["Time"](*divmod(time, 1_000_000_000))
            header = message["Header"](stamp, f"{camera.replace('/', '_')}_optical_frame")
            bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
            _, jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, 90))
            region = message["RegionOfInterest"](0, 0, 0, 0, False)
            projection = np.insert(matrix.reshape(3, 3), 3, 0, axis=1).reshape(-1)
            for connection, content in (
                (
                    info,
                    message["CameraInfo"](
                        *(header, height, width, "plumb_bob", np.zeros(5), matrix),
                        *(np.eye(3).reshape(-1), projection, 0, 0, region),
                    ),
                ),
                (image, message["CompressedImage"](header, "jpeg", jpeg.reshape(-1))),
                (
                    label,
                    message["Image"](header, height, width, "mono8", 0, width, ids.reshape(-1)),
                ),
            ):
                data = types.serialize_cdr(content, connection.msgtype)
                writer.write(connection, time, bytes(data))
