"""What stands beside a road: lamps, signs, traffic lights, fences, walls, bollards, bins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .mesh import Mesh, Tint

STEEL = (0.42, 0.43, 0.44, 0.5)
DARK = (0.10, 0.11, 0.11, 0.5)
CONCRETE = (0.62, 0.60, 0.56, 0.9)
RED = (0.72, 0.04, 0.05, 0.4)
BLUE = (0.02, 0.20, 0.55, 0.4)
WHITE = (0.92, 0.92, 0.90, 0.4)
YELLOW = (0.95, 0.72, 0.05, 0.4)
GREEN = (0.02, 0.36, 0.22, 0.4)
SIGNS = (
    "limit",
    "warning",
    "yield",
    "stop",
    "no entry",
    "parking",
    "crossing",
    "keep",
    "direction",
    "one way",
)


def lamp_post(height: float, reach: float, old: bool = False) -> Mesh:
    """Return a street lamp whose arm, if any, points along +x."""
    mesh = Mesh()
    tint = DARK if old else STEEL
    mesh.tube((0, 0, 0), (0, 0, 1.1), 0.095, "metal", tint, sides=10)
    mesh.tube((0, 0, 1.1), (0, 0, height), 0.065, "metal", tint, end=0.045, sides=10)
    if old:
        mesh.tube((0, 0, height), (0, 0, height + 0.12), 0.06, "metal", tint, end=0.14)
        mesh.tube(
            (0, 0, height + 0.12), (0, 0, height + 0.5), 0.13, "streetlamp", WHITE, end=0.2, sides=6
        )
        mesh.tube(
            (0, 0, height + 0.5), (0, 0, height + 0.72), 0.23, "metal", tint, end=0.03, sides=6
        )
        return mesh
    points = [
        np.array((reach * t, 0, height + 0.45 * np.sin(t * np.pi / 2)))
        for t in np.linspace(0, 1, 6)
    ]
    for a, b in pairwise(points):
        mesh.tube(a, b, 0.04, "metal", tint, sides=7)
    end = points[-1]
    mesh.ellipsoid(end + (0.25, 0, 0.02), (0.42, 0.14, 0.08), "metal", tint)
    mesh.ellipsoid(end + (0.28, 0, -0.03), (0.3, 0.11, 0.06), "streetlamp", WHITE)
    return mesh


def pole(height: float, radius: float = 0.045, tint: Tint = STEEL) -> Mesh:
    """Return a plain post."""
    mesh = Mesh()
    mesh.tube((0, 0, 0), (0, 0, height), radius, "metal", tint)
    return mesh


def sign(kind: str, rng: np.random.Generator) -> Mesh:
    """Return the plate of one of `SIGNS`, around the origin, facing -y."""
    mesh = Mesh()
    front = (0, -1, 0)

    def disc(radius: float, y: float, tint: Tint) -> None:
        mesh.disc((0, y, 0), front, radius, "sign", tint, 28)

    def polygon(points: object, y: float, tint: Tint) -> None:
        flat = np.asarray(points, float)
        mesh.polygon(np.stack((flat[:, 0], np.full(len(flat), y), flat[:, 1]), -1), "sign", tint)

    def regular(n: int, radius: float, turn: float) -> np.ndarray:
        a = turn + np.arange(n) * 2 * np.pi / n
        return radius * np.stack((np.cos(a), np.sin(a)), -1)

    def plate(w: float, h: float, y: float, tint: Tint, x: float = 0, z: float = 0) -> None:
        polygon([(x - w, z - h), (x + w, z - h), (x + w, z + h), (x - w, z + h)], y, tint)

    back = (0.45, 0.46, 0.47, 0.5)
    if kind == "limit":
        mesh.disc((0, 0.012, 0), (0, 1, 0), 0.34, "metal", back)
        disc(0.34, 0, RED)
        disc(0.25, -0.004, WHITE)
        for x in (-0.075, 0.085):
            for dx, dz, w, h in (
                (0, 0.1, 0.05, 0.018),
                (0, -0.1, 0.05, 0.018),
                (0.05, 0, 0.018, 0.11),
                (-0.05, 0.0, 0.018, 0.11 if x > 0 else 0.02),
                (0, 0, 0.05, 0.016 if x < 0 else 0.0),
            ):
                plate(w, h, -0.008, DARK, x + dx, dz)
    elif kind in ("warning", "yield"):
        turn = np.pi / 2 if kind == "warning" else -np.pi / 2
        polygon(regular(3, 0.46, turn), 0, RED)
        polygon(regular(3, 0.32, turn), -0.004, WHITE)
        mesh.polygon([(x, 0.012, z) for x, z in regular(3, 0.46, turn)[::-1]], "metal", back)
        if kind == "warning":
            plate(0.03, 0.1, -0.008, DARK, 0, 0.03)
            disc_points = regular(10, 0.035, 0) + (0, -0.12)
            polygon(disc_points, -0.008, DARK)
    elif kind == "stop":
        polygon(regular(8, 0.40, np.pi / 8), 0, WHITE)
        polygon(regular(8, 0.375, np.pi / 8), -0.004, RED)
        mesh.polygon([(x, 0.012, z) for x, z in regular(8, 0.40, np.pi / 8)[::-1]], "metal", back)
        for x in (-0.2, -0.07, 0.07, 0.2):
            plate(0.018, 0.09, -0.008, WHITE, x - 0.03)
            plate(0.045, 0.018, -0.008, WHITE, x, 0.075)
            plate(0.045, 0.018, -0.008, WHITE, x, -0.075 if x < 0.1 else 0.0)
    elif kind == "no entry":
        mesh.disc((0, 0.012, 0), (0, 1, 0), 0.34, "metal", back)
        disc(0.34, 0, RED)
        plate(0.24, 0.06, -0.004, WHITE)
    elif kind in ("parking", "crossing", "one way"):
        wide = kind == "one way"
        w, h = (0.5, 0.18) if wide else (0.31, 0.31)
        mesh.box((-w, 0, -h), (w, 0.012, h), "metal", back)
        plate(w, h, -0.003, BLUE)
        if kind == "parking":
            plate(0.035, 0.19, -0.008, WHITE, -0.09)
            for dx, dz, a, b in (
                (0.0, 0.16, 0.1, 0.033),
                (0.0, -0.01, 0.1, 0.033),
                (0.1, 0.075, 0.033, 0.11),
            ):
                plate(a, b, -0.008, WHITE, dx, dz)
        elif kind == "crossing":
            polygon([(-0.22, -0.2), (0.22, -0.2), (0, 0.22)], -0.006, WHITE)
            plate(0.025, 0.08, -0.01, DARK, 0, -0.05)
        else:
            plate(0.3, 0.03, -0.008, WHITE, -0.05)
            polygon([(0.22, -0.11), (0.42, 0), (0.22, 0.11)], -0.008, WHITE)
    elif kind == "keep":
        mesh.disc((0, 0.012, 0), (0, 1, 0), 0.32, "metal", back)
        disc(0.32, 0, WHITE)
        disc(0.30, -0.003, BLUE)
        polygon(
            [
                (-0.14, 0.16),
                (-0.08, 0.2),
                (0.1, -0.03),
                (0.16, 0.03),
                (0.17, -0.2),
                (-0.06, -0.16),
                (0.02, -0.1),
            ][::-1],
            -0.008,
            WHITE,
        )
    else:
        w, h = rng.uniform(0.8, 1.3), rng.uniform(0.45, 0.8)
        tint = (GREEN, BLUE, WHITE)[rng.integers(3)]
        ink = WHITE if tint is not WHITE else DARK
        mesh.box((-w, 0, -h), (w, 0.03, h), "metal", back)
        plate(w, h, -0.003, ink)
        plate(w - 0.03, h - 0.03, -0.006, tint)
        for row in np.arange(h - 0.22, -h + 0.1, -0.26):
            x = -w + 0.12
            while x < w - 0.45:
                letter = rng.uniform(0.05, 0.09)
                if rng.random() < 0.85:
                    plate(letter / 2, 0.075, -0.01, ink, x + letter / 2, row)
                x += letter + 0.03
            polygon(np.array([(0, -0.09), (0.16, 0), (0, 0.09)]) + (w - 0.3, row), -0.01, ink)
    return mesh


def traffic_light(state: int) -> Mesh:
    """Return a signal head around the origin, facing -y; state 0 red, 1 amber, 2 green."""
    mesh = Mesh()
    mesh.box((-0.23, 0.09, -0.55), (0.23, 0.11, 0.55), "matte", (0.04, 0.04, 0.04, 0.6))
    mesh.box((-0.235, 0.088, -0.555), (0.235, 0.095, 0.555), "matte", (0.85, 0.85, 0.83, 0.6))
    mesh.box((-0.15, -0.11, -0.46), (0.15, 0.12, 0.46), "matte", (0.06, 0.06, 0.06, 0.5))
    colors = ((1.0, 0.06, 0.03), (1.0, 0.55, 0.05), (0.1, 1.0, 0.55))
    for k, color in enumerate(colors):
        z = 0.29 - 0.29 * k
        lit = k == state
        tint = (*color, 0.4) if lit else (*(0.18 * c for c in color), 0.3)
        mesh.disc((0, -0.115, z), (0, -1, 0), 0.105, "signal" if lit else "matte", tint)
        for turn in np.linspace(-0.1, np.pi + 0.1, 9)[:-1]:
            a, b = turn, turn + (np.pi + 0.2) / 8
            arc = [
                (0.12 * np.cos(t), y, z + 0.12 * np.sin(t))
                for t, y in ((a, -0.11), (b, -0.11), (b, -0.3), (a, -0.3))
            ]
            mesh.quads([arc], "matte", (0.04, 0.04, 0.04, 0.6))
    return mesh


def railing(length: float, height: float = 1.1, tint: Tint = DARK) -> Mesh:
    """Return an iron fence along x from 0 to `length`."""
    mesh = Mesh()
    for z in (0.15, height - 0.1):
        mesh.box((0, -0.02, z), (length, 0.02, z + 0.035), "metal", tint)
    for x in np.arange(0.06, length, 0.13):
        mesh.box((x - 0.009, -0.009, 0.02), (x + 0.009, 0.009, height), "metal", tint)
    for x in np.arange(0, length + 0.1, 2.4):
        mesh.box((x - 0.03, -0.03, -0.1), (x + 0.03, 0.03, height + 0.06), "metal", tint)
    return mesh


def boards(rng: np.random.Generator, length: float, height: float = 1.7) -> Mesh:
    """Return a wooden fence along x."""
    mesh = Mesh()
    wood = np.array((0.50, 0.38, 0.26)) * rng.uniform(0.7, 1.2)
    for x in np.arange(0, length - 0.01, 0.145):
        shade = rng.uniform(0.8, 1.1)
        mesh.box(
            (x, 0, 0.04),
            (min(x + 0.14, length), 0.022, height - rng.uniform(0, 0.02)),
            "matte",
            (*(wood * shade), 0.9),
        )
    for x in np.arange(0, length + 0.1, 1.8):
        mesh.box(
            (x - 0.05, 0.02, -0.1), (x + 0.05, 0.12, height + 0.05), "matte", (*(wood * 0.8), 0.9)
        )
    return mesh


def mesh_fence(length: float, height: float = 2.0) -> Mesh:
    """Return a fence of welded wire along x."""
    mesh = Mesh()
    tint = (0.16, 0.30, 0.22, 0.5)
    for x in np.arange(0, length + 0.1, 2.5):
        mesh.box((x - 0.03, -0.03, -0.1), (x + 0.03, 0.03, height + 0.05), "metal", tint)
    for x in np.arange(0.1, length, 0.10):
        mesh.box((x - 0.005, -0.005, 0.05), (x + 0.005, 0.005, height), "metal", tint)
    for z in np.arange(0.08, height, 0.3):
        mesh.box((0, -0.008, z), (length, 0.008, z + 0.016), "metal", tint)
    return mesh


def wall(rng: np.random.Generator, length: float, height: float) -> Mesh:
    """Return a free-standing garden wall along x, of brick, stone or concrete."""
    mesh = Mesh()
    kind = rng.integers(3)
    material = ("brick", "stone", "plaster")[kind]
    tint = ((0.52, 0.32, 0.24, 0.9), (0.60, 0.56, 0.48, 0.9), (0.70, 0.68, 0.64, 0.9))[kind]
    mesh.box((0, 0, -0.3), (length, 0.24, height), material, tint)
    mesh.box((-0.02, -0.04, height), (length + 0.02, 0.28, height + 0.07), "matte", CONCRETE)
    for x in (0.0, length - 0.36):
        mesh.box((x, -0.05, -0.3), (x + 0.36, 0.29, height + 0.14), material, tint)
        mesh.box(
            (x - 0.03, -0.08, height + 0.14), (x + 0.39, 0.32, height + 0.22), "matte", CONCRETE
        )
    return mesh


def bollard(kind: int) -> Mesh:
    """Return a bollard of iron, 0, or of steel, 1."""
    mesh = Mesh()
    if kind == 0:
        mesh.tube((0, 0, 0), (0, 0, 0.9), 0.085, "metal", DARK, end=0.07, sides=10)
        mesh.ellipsoid((0, 0, 0.94), (0.085, 0.085, 0.07), "metal", DARK)
        mesh.tube((0, 0, 0.72), (0, 0, 0.8), 0.082, "matte", WHITE, sides=10)
    else:
        mesh.tube((0, 0, 0), (0, 0, 1.0), 0.055, "metal", (0.7, 0.7, 0.7, 0.3), sides=10)
    return mesh


def beacon() -> Mesh:
    """Return the striped post with a yellow globe of a British crossing."""
    mesh = Mesh()
    for k in range(8):
        mesh.tube(
            (0, 0, 0.34 * k),
            (0, 0, 0.34 * (k + 1)),
            0.06,
            "matte",
            WHITE if k % 2 else DARK,
            sides=10,
        )
    mesh.ellipsoid((0, 0, 2.92), (0.22, 0.22, 0.22), "lamp", (1.0, 0.6, 0.05, 0.4), 14)
    return mesh


def litter_bin() -> Mesh:
    """Return a litter bin."""
    mesh = Mesh()
    mesh.tube((0, 0, 0.05), (0, 0, 1.0), 0.26, "matte", (0.09, 0.10, 0.10, 0.6), end=0.29, sides=14)
    mesh.ellipsoid((0, 0, 1.02), (0.3, 0.3, 0.16), "matte", (0.07, 0.08, 0.08, 0.5), 14, -0.1)
    mesh.tube((0, 0, 0.8), (0, 0, 0.86), 0.295, "matte", (0.75, 0.62, 0.2, 0.5), sides=14)
    return mesh


def bench() -> Mesh:
    """Return a bench along x."""
    mesh = Mesh()
    wood = (0.42, 0.28, 0.16, 0.8)
    for y in (-0.2, -0.06, 0.08):
        mesh.box((-0.8, y, 0.43), (0.8, y + 0.11, 0.47), "matte", wood)
    for z in (0.6, 0.76):
        mesh.box((-0.8, 0.22, z), (0.8, 0.26, z + 0.11), "matte", wood)
    for x in (-0.65, 0.65):
        mesh.box((x - 0.03, -0.2, 0), (x + 0.03, 0.24, 0.43), "metal", DARK)
        mesh.box((x - 0.03, 0.2, 0.4), (x + 0.03, 0.24, 0.86), "metal", DARK)
    return mesh


def shelter() -> Mesh:
    """Return a bus shelter along x, open towards -y."""
    mesh = Mesh()
    for x in (-1.9, 0.0, 1.9):
        mesh.box((x - 0.04, 0.6, 0), (x + 0.04, 0.68, 2.4), "metal", STEEL)
    mesh.box((-2.05, -0.7, 2.4), (2.05, 0.75, 2.5), "matte", (0.2, 0.22, 0.24, 0.5))
    mesh.box((-1.86, 0.62, 0.3), (-0.04, 0.64, 2.25), "glass", (0.25, 0.3, 0.3, 0.05))
    mesh.box((0.04, 0.62, 0.3), (1.86, 0.64, 2.25), "glass", (0.25, 0.3, 0.3, 0.05))
    mesh.box((1.86, -0.5, 0.3), (1.94, 0.6, 2.25), "matte", (0.85, 0.55, 0.2, 0.4))
    mesh.box((-1.5, 0.25, 0.45), (1.2, 0.5, 0.5), "metal", STEEL)
    return mesh
