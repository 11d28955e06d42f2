"""Trees, hedges and shrubs: wood from tubes, foliage from thousands of separate leaves."""

from __future__ import annotations

import numpy as np

from .mesh import Array, Mesh

GREENS = ((0.27, 0.38, 0.13), (0.22, 0.34, 0.12), (0.34, 0.42, 0.16), (0.18, 0.29, 0.12))
AUTUMN = ((0.62, 0.40, 0.12), (0.56, 0.28, 0.10), (0.60, 0.50, 0.16))
BARK = (0.30, 0.25, 0.20, 0.95)


def _leaves(
    mesh: Mesh,
    rng: np.random.Generator,
    centers: Array,
    size: float,
    color: tuple[float, float, float],
    flat: float = 0.0,
) -> None:
    """Add a folded leaf at each of the centres, float (N, 3)."""
    n = len(centers)
    u = rng.normal(size=(n, 3))
    u[:, 2] *= 1 - flat
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(u, rng.normal(size=(n, 3)))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    scale = size * rng.uniform(0.6, 1.3, (n, 1))
    u, v = u * scale, v * scale * 0.55
    corners = np.stack((centers - u, centers - v, centers + u, centers + v), 1)
    tints = np.ones((n, 4)) * 0.6
    shade = rng.uniform(0.75, 1.2, (n, 1)) * (
        1 + 0.25 * rng.normal(size=(n, 1)) * (rng.random((n, 1)) < 0.1)
    )
    tints[:, :3] = np.array(color) * shade * rng.uniform(0.94, 1.06, (n, 3))
    mesh.quads(corners, "leaf", np.clip(tints, 0, 1))  # type: ignore[arg-type]


def tree(rng: np.random.Generator, height: float, leaves: int = 5200, bare: bool = False) -> Mesh:
    """Return a broad-leaved tree, its crown from `leaves` leaves, or without them."""
    mesh = Mesh()
    tips: list[Array] = []
    radius = 0.017 * height + 0.05
    trunk = height * rng.uniform(0.24, 0.34)
    lean = rng.normal(0, 0.03, 2)
    top = np.array((lean[0] * trunk, lean[1] * trunk, trunk))
    mesh.tube((0, 0, -0.2), (0, 0, 0.3), radius * 1.5, "bark", BARK, end=radius * 1.08, sides=10)
    mesh.tube(
        (0, 0, 0.3), top, radius * 1.08, "bark", BARK, end=radius * 0.85, sides=10, caps=False
    )
    depth_limit = 5 if bare else 4

    def grow(start: Array, direction: Array, length: float, thickness: float, depth: int) -> None:
        wander = rng.normal(0, 0.12, 3)
        end = start + (direction + wander) * length
        sides = 7 if depth < 2 else 5 if depth < 3 else 3
        mesh.tube(
            start, end, thickness, "bark", BARK, end=thickness * 0.62, sides=sides, caps=False
        )
        if depth >= 2:
            tips.append(end)
        if depth >= depth_limit:
            return
        for _ in range(3 if depth < 3 or bare else 2):
            spread = rng.normal(size=3)
            spread -= direction * np.dot(spread, direction)
            spread /= np.linalg.norm(spread)
            turned = direction + spread * rng.uniform(0.45, 0.95)
            turned[2] += 0.12
            turned /= np.linalg.norm(turned)
            grow(end, turned, length * rng.uniform(0.62, 0.82), thickness * 0.58, depth + 1)

    start = rng.uniform(0, 2 * np.pi)
    boughs = int(rng.integers(3, 6))
    for k in range(boughs):
        angle = start + 2 * np.pi * k / boughs + rng.normal(0, 0.2)
        out = rng.uniform(0.35, 0.75)
        direction = np.array((out * np.cos(angle), out * np.sin(angle), 1.0))
        grow(
            top,
            direction / np.linalg.norm(direction),
            height * rng.uniform(0.20, 0.26),
            radius * 0.6,
            1,
        )
    if not bare:
        color = (AUTUMN if rng.random() < 0.12 else GREENS)[rng.integers(3)]
        nodes = np.array(tips)
        at = nodes[rng.integers(len(nodes), size=leaves)]
        centers = at + rng.normal(0, 0.055 * height, (leaves, 3)) * (1, 1, 0.8)
        centers[:, 2] = np.maximum(centers[:, 2], trunk * 0.85)
        _leaves(mesh, rng, centers, 0.019 * height + 0.07, color)
    return mesh


def conifer(rng: np.random.Generator, height: float, leaves: int = 4200) -> Mesh:
    """Return a slim evergreen."""
    mesh = Mesh()
    mesh.tube((0, 0, -0.2), (0, 0, height * 0.9), 0.02 * height, "bark", BARK, end=0.01)
    share = rng.power(1.7, leaves)
    radius = (share * height * rng.uniform(0.14, 0.20) + 0.1) * rng.uniform(0.55, 1.0, leaves)
    angle = rng.uniform(0, 2 * np.pi, leaves)
    z = height * (1 - share * 0.93) - radius * 0.25
    centers = np.stack((radius * np.cos(angle), radius * np.sin(angle), z), -1)
    _leaves(mesh, rng, centers, 0.018 * height + 0.06, (0.13, 0.23, 0.12), 0.6)
    return mesh


def hedge(rng: np.random.Generator, length: float, height: float, depth: float = 0.7) -> Mesh:
    """Return a clipped hedge along x, from 0 to `length`, its front on y = 0, its back behind."""
    mesh = Mesh()
    green = GREENS[rng.integers(4)]
    mesh.box(
        (0, 0.06, -0.2), (length, depth - 0.06, height - 0.06), "leaf", (0.07, 0.10, 0.04, 0.9)
    )
    n = int(min(7000, 260 * length * (height + depth)))
    x = rng.uniform(0, length, n)
    where = rng.random(n)
    top = depth / (depth + height)
    wave = 0.05 * np.sin(x * 2.3) + 0.04 * np.sin(x * 5.1)
    y = np.where(where < top, rng.uniform(0, depth, n), wave * 0.5 + rng.normal(0.03, 0.035, n))
    z = np.where(where < top, height + wave + rng.normal(0, 0.04, n), rng.uniform(0.02, height, n))
    _leaves(mesh, rng, np.stack((x, y, z), -1), 0.075, green)
    return mesh


def shrub(rng: np.random.Generator, radius: float) -> Mesh:
    """Return a round bush."""
    mesh = Mesh()
    n = int(900 * radius + 300)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    centers = direction * radius * rng.uniform(0.7, 1.0, (n, 1)) * (1, 1, 0.85) + (
        0,
        0,
        0.7 * radius,
    )
    mesh.ellipsoid(
        (0, 0, 0.65 * radius),
        (0.8 * radius, 0.8 * radius, 0.66 * radius),
        "leaf",
        (0.08, 0.11, 0.05, 0.9),
    )
    _leaves(mesh, rng, centers, 0.09, GREENS[rng.integers(4)])
    return mesh


def backdrop(rng: np.random.Generator, length: float) -> Mesh:
    """Return a far row of trees along x, of big leaves."""
    mesh = Mesh()
    n = int(55 * length)
    x = rng.uniform(0, length, n)
    ridge = (
        7 + 2.2 * np.sin(x * 0.21 + rng.uniform(0, 6)) + 1.6 * np.sin(x * 0.53 + rng.uniform(0, 6))
    )
    z = ridge * np.sqrt(rng.random(n))
    y = rng.normal(0, 1.8, n)
    mesh.box((0, 0.6, -1), (length, 1.6, 4), "leaf", (0.09, 0.13, 0.06, 0.9))
    _leaves(mesh, rng, np.stack((x, y, z), -1), 0.55, GREENS[rng.integers(4)])
    return mesh
