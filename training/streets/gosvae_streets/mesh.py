"""Polygon meshes as numpy arrays, and the shapes that everything in a street is made of.

Metres; x to the right, y ahead, z up. Every face has a material by name, and a tint: sRGB in 0..1
and a roughness, which the material uses as it sees fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Tint = Sequence[float] | Array

GREY: Tint = (0.5, 0.5, 0.5, 0.6)


class Arrays(NamedTuple):
    """A finished mesh: V vertices, L corners, F faces.

    Attributes:
        vertices: float (V, 3).
        corners: int (L,), vertex of each corner, face after face.
        sizes: int (F,), corners of each face.
        materials: int (F,), index into `names`.
        names: materials.
        tints: float (F, 4), linear RGB and roughness.
        smooth: bool (F,).
    """

    vertices: Array
    corners: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int32]
    materials: npt.NDArray[np.int32]
    names: tuple[str, ...]
    tints: Array
    smooth: npt.NDArray[np.bool_]


class Mesh:
    """Faces that are added bit by bit."""

    def __init__(self) -> None:
        self._vertices: list[Array] = []
        self._faces: list[tuple[npt.NDArray[np.int64], str, Array, bool]] = []
        self._count = 0

    def __len__(self) -> int:
        return sum(len(faces) for faces, *_ in self._faces)

    def add(
        self, vertices: Any, faces: Any, material: str, tint: Tint = GREY, smooth: bool = False
    ) -> None:
        """Add faces with k corners each.

        Args:
            vertices: float (N, 3).
            faces: int (F, k), indices into `vertices`, counter-clockwise from outside.
            material: name.
            tint: float (4,), or (F, 4) for one each.
            smooth: whether to shade across edges that are not sharp.
        """
        vertices = np.asarray(vertices, float).reshape(-1, 3)
        faces = np.atleast_2d(np.asarray(faces, np.int64))
        tints = np.broadcast_to(np.asarray(tint, float), (len(faces), 4))
        self._vertices.append(vertices)
        self._faces.append((faces + self._count, material, tints, smooth))
        self._count += len(vertices)

    def append(self, other: Mesh, pose: Array | None = None) -> None:
        """Add a copy of another mesh, moved by a 4x4 matrix."""
        for vertices in other._vertices:
            moved = vertices if pose is None else vertices @ pose[:3, :3].T + pose[:3, 3]
            self._vertices.append(moved)
        for faces, *rest in other._faces:
            self._faces.append((faces + self._count, *rest))  # type: ignore[arg-type]
        self._count += other._count

    def arrays(self) -> Arrays:
        """Return everything in a few arrays."""
        names = tuple(dict.fromkeys(material for _, material, *_ in self._faces))
        tints = np.concatenate([tints for *_, tints, _ in self._faces])
        tints[:, :3] = np.clip(tints[:, :3], 0, 1) ** 2.2
        return Arrays(
            np.concatenate(self._vertices),
            np.concatenate([faces.reshape(-1) for faces, *_ in self._faces]).astype(np.int32),
            np.concatenate([np.full(len(f), f.shape[1]) for f, *_ in self._faces]).astype(np.int32),
            np.concatenate(
                [np.full(len(f), names.index(material)) for f, material, *_ in self._faces]
            ).astype(np.int32),
            names,
            tints,
            np.concatenate([np.full(len(f), smooth) for f, *_, smooth in self._faces]),
        )

    def quads(self, corners: Any, material: str, tint: Tint = GREY) -> None:
        """Add separate quadrangles, float (N, 4, 3)."""
        corners = np.asarray(corners, float).reshape(-1, 3)
        self.add(corners, np.arange(len(corners)).reshape(-1, 4), material, tint)

    def polygon(self, points: Any, material: str, tint: Tint = GREY) -> None:
        """Add one polygon, float (N, 3)."""
        points = np.asarray(points, float)
        self.add(points, np.arange(len(points))[None], material, tint)

    def box(
        self, low: Sequence[float], high: Sequence[float], material: str, tint: Tint = GREY
    ) -> None:
        """Add a box between two corners."""
        (a, b, c), (d, e, f) = low, high
        corners = [(x, y, z) for z in (c, f) for y in (b, e) for x in (a, d)]
        faces = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
        self.add(corners, faces, material, tint)

    def loft(
        self,
        rings: Any,
        material: str,
        tint: Tint = GREY,
        smooth: bool = True,
        caps: bool = True,
    ) -> None:
        """Add the skin over rings, float (M, N, 3), each counter-clockwise seen from its end."""
        rings = np.asarray(rings, float)
        m, n = rings.shape[:2]
        i, j = np.meshgrid(np.arange(m - 1), np.arange(n), indexing="ij")
        k = (j + 1) % n
        faces = np.stack((i * n + j, i * n + k, (i + 1) * n + k, (i + 1) * n + j), -1)
        self.add(rings, faces.reshape(-1, 4), material, tint, smooth)
        if caps:
            self.polygon(rings[0][::-1], material, tint)
            self.polygon(rings[-1], material, tint)

    def tube(
        self,
        a: Sequence[float] | Array,
        b: Sequence[float] | Array,
        radius: float,
        material: str,
        tint: Tint = GREY,
        end: float | None = None,
        sides: int = 8,
        caps: bool = True,
    ) -> None:
        """Add a round bar from a to b, with another radius at its end if given."""
        a, b = np.asarray(a, float), np.asarray(b, float)
        u, v = _across(b - a)
        angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        ring = np.cos(angles)[:, None] * u + np.sin(angles)[:, None] * v
        end = radius if end is None else end
        self.loft([a + radius * ring, b + end * ring], material, tint, sides > 4, caps)

    def ellipsoid(
        self,
        center: Sequence[float] | Array,
        radii: Sequence[float],
        material: str,
        tint: Tint = GREY,
        sides: int = 10,
        low: float = -1.0,
    ) -> None:
        """Add an ellipsoid, cut off below the share `low` of its height."""
        theta = np.linspace(np.arcsin(max(low, -0.99)), np.arcsin(0.99), max(4, sides // 2 + 2))
        angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        ring = np.stack((np.cos(angles), np.sin(angles), np.zeros(sides)), -1)
        rings = [np.cos(t) * ring + (0, 0, np.sin(t)) for t in theta]
        self.loft(np.array(rings) * radii + np.asarray(center, float), material, tint)

    def disc(
        self,
        center: Sequence[float] | Array,
        normal: Sequence[float],
        radius: float,
        material: str,
        tint: Tint = GREY,
        sides: int = 20,
    ) -> None:
        """Add a flat disc."""
        u, v = _across(np.asarray(normal, float))
        angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        ring = np.cos(angles)[:, None] * u + np.sin(angles)[:, None] * v
        self.polygon(np.asarray(center, float) + radius * ring, material, tint)

    def torus(
        self,
        center: Sequence[float],
        radius: float,
        thickness: float,
        material: str,
        tint: Tint = GREY,
        sides: int = 24,
    ) -> None:
        """Add a ring around the x axis through `center`."""
        turns = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        around = np.linspace(0, 2 * np.pi, 6, endpoint=False)
        reach = radius + thickness * np.cos(around)
        points = np.stack(
            (
                np.broadcast_to(thickness * np.sin(around), (sides, 6)),
                np.cos(turns)[:, None] * reach,
                np.sin(turns)[:, None] * reach,
            ),
            -1,
        )
        i, j = np.meshgrid(np.arange(sides), np.arange(6), indexing="ij")
        a, b = (i + 1) % sides, (j + 1) % 6
        faces = np.stack((i * 6 + j, i * 6 + b, a * 6 + b, a * 6 + j), -1).reshape(-1, 4)
        self.add(points.reshape(-1, 3) + np.asarray(center, float), faces, material, tint, True)


def _across(axis: Array) -> tuple[Array, Array]:
    axis = axis / max(float(np.linalg.norm(axis)), 1e-9)
    helper = np.array((1.0, 0, 0)) if abs(axis[2]) > 0.9 else np.array((0, 0, 1.0))
    u = np.cross(helper, axis)
    u /= np.linalg.norm(u)
    return u, np.cross(axis, u)


def pose(x: float = 0, y: float = 0, z: float = 0, yaw: float = 0, pitch: float = 0) -> Array:
    """Return the 4x4 matrix that pitches the nose up, turns left by yaw (radians), then moves."""
    c, s = np.cos(yaw), np.sin(yaw)
    cp, sp = np.cos(pitch), np.sin(pitch)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ tilt
    matrix[:3, 3] = (x, y, z)
    return matrix
