"""Cars, vans, trucks, buses, trams, bicycles and motorcycles.

All stand on z = 0 around the origin and look along +y. The material "paint" takes its colour from
the object, so that vehicles of one shape share a mesh.
"""

from __future__ import annotations

import numpy as np

from .mesh import Mesh, Tint

BLACK = (0.02, 0.02, 0.02, 0.5)
RUBBER = (0.09, 0.09, 0.09, 0.9)
DARK = (0.13, 0.13, 0.14, 0.6)
RIM = (0.62, 0.63, 0.65, 0.3)
CHROME = (0.8, 0.8, 0.8, 0.15)
GLASS = (0.05, 0.07, 0.08, 0.03)
WHITE = (0.95, 0.95, 0.92, 0.4)
YELLOW = (0.95, 0.8, 0.15, 0.4)
HEAD = (1.0, 0.97, 0.88, 0.3)
TAIL = (0.75, 0.02, 0.02, 0.3)
AMBER = (1.0, 0.45, 0.05, 0.3)

# Stations from rear to front: y, half width, floor, belt line, top, half width of the top, and what
# the stretch up to the next station is.
_SHAPES: dict[str, tuple[tuple[float, float, float, float, float, float, str], ...]] = {
    "saloon": (
        (-2.28, 0.74, 0.34, 0.66, 0.74, 0.62, "body"),
        (-2.20, 0.84, 0.24, 0.86, 0.95, 0.70, "body"),
        (-1.62, 0.88, 0.20, 0.91, 1.01, 0.72, "rear"),
        (-0.92, 0.89, 0.19, 0.93, 1.39, 0.60, "cabin"),
        (-0.16, 0.90, 0.19, 0.93, 1.45, 0.62, "pillar"),
        (-0.06, 0.90, 0.19, 0.93, 1.45, 0.62, "cabin"),
        (0.42, 0.90, 0.19, 0.93, 1.40, 0.61, "screen"),
        (1.20, 0.89, 0.20, 0.92, 1.00, 0.74, "body"),
        (1.90, 0.86, 0.21, 0.78, 0.88, 0.68, "body"),
        (2.20, 0.80, 0.24, 0.62, 0.72, 0.60, "body"),
        (2.30, 0.70, 0.34, 0.52, 0.58, 0.52, "body"),
    ),
    "hatchback": (
        (-1.92, 0.72, 0.36, 0.76, 0.84, 0.60, "body"),
        (-1.86, 0.82, 0.25, 0.92, 1.00, 0.66, "rear"),
        (-1.50, 0.85, 0.20, 0.95, 1.38, 0.58, "cabin"),
        (-0.98, 0.86, 0.19, 0.95, 1.46, 0.61, "cabin"),
        (-0.22, 0.86, 0.19, 0.95, 1.49, 0.62, "pillar"),
        (-0.12, 0.86, 0.19, 0.95, 1.49, 0.62, "cabin"),
        (0.34, 0.86, 0.19, 0.95, 1.43, 0.61, "screen"),
        (1.14, 0.85, 0.20, 0.93, 1.02, 0.72, "body"),
        (1.62, 0.82, 0.21, 0.78, 0.90, 0.66, "body"),
        (1.88, 0.76, 0.25, 0.62, 0.70, 0.58, "body"),
        (1.96, 0.66, 0.35, 0.52, 0.58, 0.50, "body"),
    ),
    "estate": (
        (-2.32, 0.74, 0.36, 0.74, 0.84, 0.62, "body"),
        (-2.26, 0.84, 0.25, 0.92, 1.00, 0.68, "rear"),
        (-1.92, 0.88, 0.20, 0.95, 1.40, 0.60, "cabin"),
        (-1.10, 0.89, 0.19, 0.95, 1.47, 0.62, "pillar"),
        (-1.00, 0.89, 0.19, 0.95, 1.47, 0.62, "cabin"),
        (-0.14, 0.90, 0.19, 0.95, 1.49, 0.63, "pillar"),
        (-0.04, 0.90, 0.19, 0.95, 1.49, 0.63, "cabin"),
        (0.46, 0.90, 0.19, 0.95, 1.43, 0.62, "screen"),
        (1.22, 0.89, 0.20, 0.93, 1.02, 0.74, "body"),
        (1.92, 0.86, 0.21, 0.78, 0.88, 0.68, "body"),
        (2.22, 0.80, 0.25, 0.62, 0.72, 0.60, "body"),
        (2.32, 0.70, 0.35, 0.52, 0.58, 0.52, "body"),
    ),
    "suv": (
        (-2.20, 0.78, 0.42, 0.86, 0.96, 0.66, "body"),
        (-2.14, 0.90, 0.34, 1.06, 1.14, 0.74, "rear"),
        (-1.88, 0.93, 0.30, 1.10, 1.60, 0.66, "cabin"),
        (-1.06, 0.94, 0.28, 1.10, 1.70, 0.68, "pillar"),
        (-0.94, 0.94, 0.28, 1.10, 1.71, 0.68, "cabin"),
        (-0.10, 0.94, 0.28, 1.10, 1.72, 0.69, "pillar"),
        (0.02, 0.94, 0.28, 1.10, 1.71, 0.69, "cabin"),
        (0.48, 0.94, 0.28, 1.10, 1.63, 0.68, "screen"),
        (1.12, 0.93, 0.30, 1.08, 1.16, 0.80, "body"),
        (1.90, 0.91, 0.32, 0.98, 1.08, 0.76, "body"),
        (2.14, 0.86, 0.36, 0.78, 0.88, 0.68, "body"),
        (2.22, 0.74, 0.46, 0.66, 0.72, 0.58, "body"),
    ),
    "van": (
        (-2.72, 0.90, 0.42, 1.10, 1.98, 0.80, "body"),
        (-2.64, 0.97, 0.34, 1.12, 2.18, 0.86, "body"),
        (0.62, 0.98, 0.32, 1.12, 2.22, 0.86, "pillar"),
        (0.74, 0.98, 0.32, 1.12, 2.21, 0.86, "cabin"),
        (1.34, 0.98, 0.32, 1.12, 2.10, 0.84, "screen"),
        (2.02, 0.97, 0.33, 1.12, 1.26, 0.84, "body"),
        (2.52, 0.94, 0.34, 0.92, 1.04, 0.78, "body"),
        (2.68, 0.86, 0.40, 0.70, 0.78, 0.70, "body"),
    ),
}
CARS = tuple(_SHAPES)
LENGTHS = {"car": 4.6, "van": 5.4, "truck": 8.2, "bus": 11.4, "train": 28.0}


def car(shape: str) -> Mesh:
    """Return a car or van of one of the `CARS`."""
    mesh = Mesh()
    stations = _SHAPES[shape]
    tall = shape in ("suv", "van")
    rings = []
    for y, w, floor, belt, top, wt, _ in stations:
        middle = floor + 0.55 * (belt - floor)
        half = [
            (0.80 * w, floor),
            (0.97 * w, floor + 0.10),
            (w, middle),
            (0.965 * w, belt),
            (wt, top - 0.05 * (1 + (top - belt > 0.3))),
            (0.80 * wt, top),
            (0.35 * wt, top + 0.025),
        ]
        ring = [(x, y, z) for x, z in half] + [(-x, y, z) for x, z in reversed(half)]
        rings.append(ring)
    points = np.array(rings)
    n = points.shape[1]
    side, roof = (3, 9), (4, 5, 6, 7, 8)
    for i, station in enumerate(stations[:-1]):
        what = station[-1]
        for j in range(n):
            k = (j + 1) % n
            corners = points[[i, i, i + 1, i + 1], [j, k, k, j]][::-1]
            glass = (
                (j in side and what in ("cabin", "screen"))
                or (j in side and what == "rear" and shape != "saloon")
                or (j in roof and what in ("screen", "rear"))
            )
            if glass:
                # A frame of paint around each pane.
                center = corners.mean(0)
                inset = 0.04 if j in side else 0.0
                lengths = np.linalg.norm(corners - center, axis=1, keepdims=True)
                inner = corners + (center - corners) / lengths * min(inset, 0.4 * lengths.min())
                mesh.add(
                    np.concatenate((corners, inner)),
                    [(a, (a + 1) % 4, (a + 1) % 4 + 4, a + 4) for a in range(4)],
                    "paint",
                )
                mesh.quads([inner], "glass", GLASS)
            else:
                dark = j == 13 or (j in (0, 12) and tall)
                mesh.add(corners, [(0, 1, 2, 3)], "matte" if dark else "paint", DARK, False)
    for ring, flip in ((points[0], -1), (points[-1], 1)):
        mesh.polygon(ring[::-flip], "paint", DARK)
    # Pillars beside the windscreen and the rear window.
    for i, station in enumerate(stations[:-1]):
        if station[-1] in ("screen", "rear"):
            for j in (4, 9):
                mesh.tube(points[i, j], points[i + 1, j], 0.032, "paint", sides=6)
    _trim(mesh, shape, stations, tall)
    return mesh


def _trim(mesh: Mesh, shape: str, stations: tuple, tall: bool) -> None:  # type: ignore[type-arg]
    rear, front = stations[0][0], stations[-1][0]
    width = max(s[1] for s in stations)
    floor = min(s[2] for s in stations)
    radius = 0.36 if tall else 0.31
    axle = 0.98 if shape == "van" else 0.82
    for y in (rear + axle + (0.3 if shape == "van" else 0), front - axle):
        for x in (-1, 1):
            mesh.disc(
                (x * (width + 0.002), y, radius + 0.02), (x, 0, 0), radius + 0.07, "matte", BLACK
            )
            wheel(mesh, x, width - 0.20, y, radius)
    mesh.box((-0.80, rear + 0.06, floor - 0.06), (0.80, front - 0.10, floor + 0.1), "matte", BLACK)
    high = 0.30 if tall else 0.0
    lamp = 0.60 + 0.8 * high
    for x in (-1, 1):
        mesh.ellipsoid((x * 0.62, front - 0.12, lamp), (0.17, 0.10, 0.085), "headlamp", HEAD, 8)
        inner, outer = sorted((x * 0.52, x * (width - 0.12)))
        tall_lamp = 0.34 if shape in ("estate", "suv", "van", "hatchback") else 0.15
        z = 0.70 + high
        mesh.box(
            (inner + (0.16 * (x > 0)), rear - 0.015, z),
            (outer - (0.16 * (x < 0)), rear + 0.16, z + tall_lamp),
            "taillamp",
            TAIL,
        )
        mirror = next(s for s in stations if s[-1] == "screen")
        mesh.ellipsoid(
            (x * (width + 0.06), mirror[0] + 0.25, mirror[3] + 0.06), (0.10, 0.07, 0.075), "paint"
        )
        for y in (-0.35, 0.62) if shape != "van" else (0.85,):
            z = stations[4][3] - 0.09
            mesh.box(
                (x * width - 0.02, y - 0.09, z),
                (x * width + 0.02, y + 0.09, z + 0.03),
                "matte",
                DARK,
            )
    mesh.box((-0.45, front - 0.08, 0.44 + high), (0.45, front + 0.012, 0.56 + high), "matte", BLACK)
    mesh.box((-0.62, front - 0.16, 0.27 + high), (0.62, front - 0.02, 0.38 + high), "matte", DARK)
    mesh.box((-0.70, rear - 0.03, 0.36 + high), (0.70, rear + 0.12, 0.47 + high), "matte", DARK)
    mesh.box((-0.26, front, 0.40 + high), (0.26, front + 0.025, 0.50 + high), "matte", WHITE)
    plate = 1.05 if shape == "van" else 0.62 + high
    mesh.box((-0.26, rear - 0.035, plate), (0.26, rear + 0.01, plate + 0.11), "matte", YELLOW)
    if shape == "van":
        mesh.box((-0.008, rear - 0.012, 0.5), (0.008, rear + 0.02, 2.0), "matte", BLACK)
        for x in (-0.43, 0.43):
            mesh.box((x - 0.30, rear - 0.015, 1.32), (x + 0.30, rear + 0.06, 1.80), "glass", GLASS)


def wheel(mesh: Mesh, side: int, x: float, y: float, radius: float, width: float = 0.22) -> None:
    """Add a wheel whose outer face is at |x| + `width` on that side."""
    a, b = side * x, side * (x + width)
    mesh.tube((a, y, radius), (b, y, radius), radius, "matte", RUBBER, sides=20)
    mesh.disc((b + side * 0.004, y, radius), (side, 0, 0), 0.66 * radius, "metal", RIM)
    mesh.disc((b + side * 0.008, y, radius), (side, 0, 0), 0.20 * radius, "matte", DARK, 8)
    for angle in np.arange(5) * 2 * np.pi / 5:
        u = np.array((0, np.cos(angle), np.sin(angle)))
        v = np.array((0, -np.sin(angle), np.cos(angle)))
        at = np.array((b + side * 0.007, y, radius))
        gap = [at + radius * (r * u + t * v) for r, t in ((0.3, 0), (0.58, 0.14), (0.58, -0.14))]
        mesh.polygon(gap if side < 0 else gap[::-1], "matte", BLACK)


def _shell(
    mesh: Mesh,
    low: float,
    high: float,
    rear: float,
    front: float,
    width: float,
    tint: Tint,
    material: str = "paint",
    corner: float = 0.18,
    rake: float = 0.0,
) -> None:
    """Add a body with rounded corners; the top of its front leans back by `rake`."""
    angles = np.linspace(0, np.pi / 2, 4)
    c = corner
    outline = []
    for sx, sy, start in ((1, 1, 0), (-1, 1, 1), (-1, -1, 2), (1, -1, 3)):
        cy = (front if sy > 0 else rear) - sy * c
        for a in angles + start * np.pi / 2:
            outline.append((sx * (width - c) + c * np.cos(a), cy + c * np.sin(a)))
    ring = np.array(outline)
    rings = []
    for z, inset in (
        (low, 0.03),
        (low + 0.08, 0),
        (high - 0.16, 0),
        (high - 0.04, 0.05),
        (high, 0.16),
    ):
        share = (z - low) / (high - low)
        scaled = ring * ((width - inset) / width, 1)
        y = scaled[:, 1] - np.sign(scaled[:, 1] - (rear + front) / 2) * inset
        y = np.where(ring[:, 1] > front - 2 * c, y - rake * max(0.0, share - 0.35), y)
        rings.append(np.stack((scaled[:, 0], y, np.full(len(ring), z)), -1))
    mesh.loft(rings, material, tint)


def bus(decks: int = 1, length: float = 11.0) -> Mesh:
    """Return a city bus with one or two decks."""
    mesh = Mesh()
    front, rear, width = length / 2, -length / 2, 1.26
    high = 3.05 if decks == 1 else 4.35
    _shell(mesh, 0.32, high, rear, front, width, DARK, rake=0.25)
    mesh.box((-1.2, rear + 0.1, 0.22), (1.2, front - 0.1, 0.4), "matte", BLACK)
    bands = [(1.20, 2.45)] if decks == 1 else [(1.15, 2.05), (2.85, 3.75)]
    for low, top in bands:
        for x in (-1, 1):
            for y in np.arange(rear + 0.35, front - 1.2, 1.42):
                end = min(y + 1.34, front - 0.5)
                mesh.box(
                    (min(x * 1.2, x * 1.272), y, low),
                    (max(x * 1.2, x * 1.272), end, top),
                    "glass",
                    GLASS,
                )
        mesh.box((-1.05, rear - 0.012, low + 0.1), (1.05, rear + 0.1, top), "glass", GLASS)
    for x in (-1, 1):
        mesh.box(
            (min(x * 1.2, x * 1.274), front - 1.25, 0.45),
            (max(x * 1.2, x * 1.274), front - 0.3, 2.4),
            "glass",
            GLASS,
        )
    top = high - 0.55
    _front(mesh, front, 1.15, 0.95, top if decks == 1 else 2.1, 0.25, 0.32, high)
    if decks == 2:
        _front(mesh, front, 1.15, 2.85, 3.8, 0.25, 0.32, high)
    sign = (2.55, 2.85) if decks == 1 else (2.25, 2.65)
    mesh.box((-0.75, front - 0.22, sign[0]), (0.75, front + 0.02, sign[1]), "matte", BLACK)
    for k in range(7):
        mesh.box(
            (-0.5 + 0.14 * k, front - 0.1, sign[0] + 0.08),
            (-0.41 + 0.14 * k, front + 0.03, sign[1] - 0.07),
            "lamp",
            AMBER,
        )
    for x in (-1, 1):
        mesh.ellipsoid((x * 0.92, front - 0.02, 0.72), (0.2, 0.07, 0.11), "headlamp", HEAD, 8)
        mesh.box(
            (x * 1.05 - 0.1, rear - 0.02, 0.75), (x * 1.05 + 0.1, rear + 0.1, 1.1), "taillamp", TAIL
        )
        mesh.tube((x * 1.25, front - 0.2, 2.1), (x * 1.45, front + 0.15, 2.0), 0.03, "matte", BLACK)
        mesh.box(
            (x * 1.45 - 0.1, front + 0.1, 1.6), (x * 1.45 + 0.1, front + 0.18, 2.02), "matte", BLACK
        )
        for y in (rear + 2.6, front - 2.4):
            mesh.disc((x * 1.263, y, 0.5), (x, 0, 0), 0.58, "matte", BLACK)
            wheel(mesh, x, 1.02, y, 0.48, 0.25)
    mesh.box((-0.26, rear - 0.03, 0.55), (0.26, rear, 0.66), "matte", YELLOW)
    mesh.box((-0.9, rear - 0.025, 0.45), (0.9, rear + 0.1, 0.95), "matte", DARK)
    mesh.box(
        (-0.9, rear + 1, high - 0.02), (0.9, rear + 3, high + 0.18), "matte", (0.8, 0.8, 0.8, 0.5)
    )
    return mesh


def _front(
    mesh: Mesh,
    front: float,
    w: float,
    low: float,
    top: float,
    rake: float,
    base: float,
    high: float,
) -> None:
    """Add a pane in front of a shell with that rake."""

    def lean(z: float) -> float:
        return front + 0.02 - rake * max(0.0, (z - base) / (high - base) - 0.35)

    mesh.quads(
        [
            [(-w, lean(low), low), (w, lean(low), low), (w, lean(top), top), (-w, lean(top), top)][
                ::-1
            ]
        ],
        "glass",
        GLASS,
    )


def truck(kind: str) -> Mesh:
    """Return a lorry: "box", "flatbed" or "tipper"."""
    mesh = Mesh()
    front, rear = 4.1, -4.0
    _shell(mesh, 0.50, 2.85, front - 1.9, front, 1.2, DARK, rake=0.35)
    _front(mesh, front, 1.02, 1.62, 2.5, 0.35, 0.5, 2.85)
    mesh.box((-0.9, front - 0.1, 0.85), (0.9, front + 0.02, 1.35), "matte", DARK)
    mesh.box((-1.2, front - 0.3, 0.38), (1.2, front + 0.06, 0.72), "matte", (0.25, 0.25, 0.26, 0.6))
    for x in (-1, 1):
        mesh.box(
            (min(x * 1.1, x * 1.214), front - 1.3, 1.65),
            (max(x * 1.1, x * 1.214), front - 0.45, 2.4),
            "glass",
            GLASS,
        )
        mesh.ellipsoid((x * 0.95, front + 0.05, 0.62), (0.16, 0.06, 0.1), "headlamp", HEAD, 8)
        mesh.box(
            (x * 1.36 - 0.1, front - 0.15, 1.7), (x * 1.36 + 0.1, front - 0.05, 2.4), "matte", BLACK
        )
        mesh.box(
            (x * 1.0 - 0.14, rear - 0.02, 0.72),
            (x * 1.0 + 0.14, rear + 0.05, 0.9),
            "taillamp",
            TAIL,
        )
        for y in (front - 1.35, rear + 1.3, rear + 2.35):
            wheel(mesh, x, 0.98, y, 0.48, 0.27)
        mesh.box(
            (x * 1.15 - 0.03, rear + 3.1, 0.45),
            (x * 1.15 + 0.03, front - 2.4, 0.85),
            "matte",
            (0.5, 0.5, 0.5, 0.5),
        )
    mesh.box((-0.45, rear, 0.62), (0.45, front - 0.5, 0.92), "matte", DARK)
    mesh.box((-1.15, rear - 0.03, 0.5), (1.15, rear + 0.06, 0.6), "matte", DARK)
    mesh.box((-0.26, rear - 0.04, 0.62), (0.26, rear, 0.73), "matte", YELLOW)
    if kind == "box":
        mesh.box((-1.26, rear, 1.0), (1.26, front - 2.05, 3.55), "panel", (0.9, 0.9, 0.88, 0.5))
        for x in (-0.6, 0.0, 0.6):
            mesh.box((x - 0.015, rear - 0.03, 1.05), (x + 0.015, rear, 3.5), "metal", RIM)
        mesh.box((-1.262, rear + 0.8, 1.8), (1.262, front - 3.4, 2.7), "paint", DARK)
        mesh.box(
            (-1.2, rear - 0.012, 1.05), (1.2, rear + 0.02, 1.2), "matte", (0.8, 0.1, 0.05, 0.5)
        )
    else:
        mesh.box((-1.25, rear, 0.95), (1.25, front - 2.05, 1.1), "matte", (0.3, 0.25, 0.2, 0.8))
        top = 1.55 if kind == "flatbed" else 2.2
        tint = (0.55, 0.56, 0.58, 0.5) if kind == "flatbed" else (0.85, 0.5, 0.1, 0.5)
        mesh.box((-1.25, rear, 1.1), (-1.2, front - 2.05, top), "matte", tint)
        mesh.box((1.2, rear, 1.1), (1.25, front - 2.05, top), "matte", tint)
        mesh.box((-1.25, rear, 1.1), (1.25, rear + 0.05, top), "matte", tint)
        mesh.box((-1.25, front - 2.15, 1.1), (1.25, front - 2.05, top + 0.5), "matte", tint)
        if kind == "flatbed":
            for k in range(3):
                mesh.box(
                    (-0.9, rear + 0.5 + 1.6 * k, 1.1),
                    (0.9, rear + 1.8 + 1.6 * k, 1.75 + 0.2 * (k % 2)),
                    "matte",
                    (0.62, 0.5, 0.34, 0.9),
                )
        else:
            mesh.ellipsoid(
                (0, (rear + front) / 2 - 1, 1.9), (1.15, 2.6, 0.7), "matte", (0.4, 0.33, 0.26, 1.0)
            )
    return mesh


def tram() -> Mesh:
    """Return a tram of three sections."""
    mesh = Mesh()
    for section in range(3):
        rear = -13.8 + 9.3 * section
        front = rear + 9.0
        _shell(mesh, 0.30, 3.35, rear, front, 1.28, DARK, rake=0.55 if section == 2 else 0.0)
        for x in (-1, 1):
            for y in np.arange(rear + 0.4, front - 1.3, 1.36):
                door = int((y - rear) / 1.36) % 3 == 1
                mesh.box(
                    (min(x * 1.2, x * 1.292), y, 0.5 if door else 1.25),
                    (max(x * 1.2, x * 1.292), y + 1.26, 2.6),
                    "glass",
                    GLASS,
                )
            mesh.box(
                (min(x * 1.2, x * 1.288), rear + 0.2, 0.95),
                (max(x * 1.2, x * 1.288), front - 0.6, 1.1),
                "matte",
                (0.9, 0.9, 0.9, 0.4),
            )
        if section:
            mesh.box((-1.15, rear - 0.35, 0.4), (1.15, rear + 0.1, 3.2), "matte", DARK)
        mesh.box((-0.9, rear + 2, 3.3), (0.9, front - 2, 3.62), "matte", (0.6, 0.6, 0.62, 0.6))
    front, rear = 13.8, -13.8
    _front(mesh, front, 1.08, 1.15, 2.7, 0.55, 0.3, 3.35)
    mesh.box((-1.08, rear - 0.02, 1.2), (1.08, rear + 0.1, 2.6), "glass", GLASS)
    for x in (-1, 1):
        mesh.ellipsoid((x * 0.85, front + 0.0, 0.8), (0.18, 0.07, 0.1), "headlamp", HEAD, 8)
        mesh.box(
            (x * 0.95 - 0.12, rear - 0.03, 0.7),
            (x * 0.95 + 0.12, rear + 0.05, 0.95),
            "taillamp",
            TAIL,
        )
    mesh.box((-0.6, front - 0.6, 2.85), (0.6, front - 0.25, 3.1), "lamp", AMBER)
    mesh.box((-1.1, rear + 0.2, 0.12), (1.1, front - 0.2, 0.4), "matte", BLACK)
    for y in (0.6, -0.6):
        mesh.tube((0, -y, 3.6), (0, 0.9 - y, 4.5), 0.03, "matte", DARK, sides=5)
        mesh.tube((0, 0.9 - y, 4.5), (0, -y * 0.5, 5.2), 0.03, "matte", DARK, sides=5)
    mesh.tube((-0.8, -0.05, 5.2), (0.8, -0.05, 5.2), 0.04, "matte", DARK, sides=5)
    return mesh


def bicycle(tint: Tint) -> Mesh:
    """Return a bicycle 1.7 m long."""
    mesh = Mesh()
    for y in (-0.52, 0.52):
        mesh.torus((0, y, 0.34), 0.32, 0.022, "matte", RUBBER)
        for angle in np.arange(8) * np.pi / 8:
            d = 0.31 * np.array((0, np.cos(angle), np.sin(angle)))
            mesh.tube((0, y, 0.34) - d, (0, y, 0.34) + d, 0.004, "metal", RIM, sides=3, caps=False)
    hub, crank, seat, head, front = (
        (0, -0.52, 0.34),
        (0, -0.08, 0.3),
        (0, -0.2, 0.82),
        (0, 0.36, 0.84),
        (0, 0.52, 0.34),
    )
    bars = ((hub, crank), (hub, seat), (crank, seat), (crank, head), (seat, head), (head, front))
    for a, b in bars:
        mesh.tube(a, b, 0.022, "matte", tint, sides=6)
    mesh.tube(seat, (0, -0.24, 0.95), 0.016, "metal", RIM, sides=6)
    mesh.ellipsoid((0, -0.24, 0.98), (0.08, 0.14, 0.04), "matte", BLACK, 8)
    mesh.tube(head, (0, 0.38, 1.0), 0.018, "metal", RIM, sides=6)
    mesh.tube((-0.28, 0.36, 1.02), (0.28, 0.36, 1.02), 0.018, "matte", BLACK, sides=6)
    mesh.disc((0.05, -0.08, 0.3), (1, 0, 0), 0.1, "metal", DARK, 12)
    for x, dz in ((-0.12, 0.14), (0.12, -0.14)):
        mesh.tube(
            (0.05 * np.sign(x), -0.08, 0.3), (x, -0.08, 0.3 + dz), 0.015, "metal", DARK, sides=4
        )
    mesh.box((-0.03, -0.27, 0.76), (0.03, -0.22, 0.83), "taillamp", TAIL)
    return mesh


def motorcycle(tint: Tint) -> Mesh:
    """Return a motorcycle 2.1 m long."""
    mesh = Mesh()
    for y in (-0.68, 0.70):
        mesh.torus((0, y, 0.32), 0.25, 0.075, "matte", RUBBER)
        mesh.tube((-0.04, y, 0.32), (0.04, y, 0.32), 0.18, "metal", RIM, sides=14)
    for x in (-0.09, 0.09):
        mesh.tube((x, 0.70, 0.32), (x, 0.45, 0.95), 0.03, "metal", CHROME, sides=6)
        mesh.tube((x, -0.68, 0.32), (x, -0.15, 0.45), 0.03, "metal", DARK, sides=6)
    mesh.ellipsoid((0, 0.12, 0.82), (0.17, 0.34, 0.16), "matte", tint)
    mesh.ellipsoid((0, -0.38, 0.80), (0.14, 0.40, 0.08), "matte", BLACK)
    mesh.ellipsoid((0, -0.72, 0.86), (0.11, 0.24, 0.09), "matte", tint)
    mesh.ellipsoid((0, 0.05, 0.50), (0.19, 0.28, 0.22), "metal", (0.35, 0.35, 0.36, 0.4))
    mesh.ellipsoid((0, 0.52, 0.95), (0.18, 0.16, 0.17), "matte", tint)
    mesh.ellipsoid((0, 0.66, 0.93), (0.10, 0.05, 0.09), "headlamp", HEAD, 8)
    mesh.ellipsoid((0, 0.70, 0.58), (0.09, 0.26, 0.09), "matte", tint)
    mesh.tube((-0.36, 0.36, 1.05), (0.36, 0.36, 1.05), 0.02, "matte", BLACK, sides=6)
    mesh.tube((0.17, 0.0, 0.33), (0.18, -0.85, 0.42), 0.055, "metal", CHROME, sides=8)
    mesh.box((-0.07, -0.96, 0.80), (0.07, -0.90, 0.88), "taillamp", TAIL)
    mesh.box((-0.09, -0.94, 0.58), (0.09, -0.91, 0.74), "matte", YELLOW)
    for x in (-1, 1):
        mesh.ellipsoid((x * 0.34, 0.42, 1.22), (0.08, 0.02, 0.05), "matte", BLACK, 6)
        mesh.tube((x * 0.3, 0.38, 1.05), (x * 0.34, 0.42, 1.2), 0.01, "matte", BLACK, sides=4)
    return mesh
