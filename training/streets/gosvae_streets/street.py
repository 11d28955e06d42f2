"""The road itself: its course, its cross-section, and the surfaces of road, kerb and pavement."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .mesh import Array, Mesh, Tint, pose

KERB = 0.12
CORNER = 2.6
"""Radius in m of the kerb at the corners of side streets."""
BEFORE, BEYOND = 160.0, 320.0
"""How far in m the road goes on behind the start, and beyond the end of the drive."""

PAINT = (0.86, 0.86, 0.84, 0.7)
YELLOW = (0.86, 0.68, 0.16, 0.7)
STONE = (0.62, 0.60, 0.57, 0.9)


class Path:
    """A curve over the ground: s along it, d to its right, h above it, all in m."""

    def __init__(self, s: Array, heading: Array, z: Array, start: Array | None = None) -> None:
        """Begin at `start`, float (3,); heading in radians, 0 along +y, turning left."""
        self.s = s
        self._heading, self._z = heading, z
        step = np.diff(s, prepend=s[0])
        middle = (heading + np.concatenate((heading[:1], heading[:-1]))) / 2
        origin = np.zeros(3) if start is None else start
        self._x = origin[0] - np.cumsum(np.sin(middle) * step)
        self._y = origin[1] + np.cumsum(np.cos(middle) * step)

    def heading(self, s: Any) -> Any:
        """Return the heading at s."""
        return np.interp(s, self.s, self._heading)

    def at(self, s: Any, d: Any = 0.0, h: Any = 0.0) -> Array:
        """Return points, float (..., 3)."""
        s, d, h = np.broadcast_arrays(np.asarray(s, float), d, h)
        heading = self.heading(s)
        x = np.interp(s, self.s, self._x) + d * np.cos(heading)
        y = np.interp(s, self.s, self._y) + d * np.sin(heading)
        return np.stack((x, y, np.interp(s, self.s, self._z) + h), -1)

    def pose(self, s: float, d: float = 0.0, h: float = 0.0, turn: float = 0.0) -> Array:
        """Return the 4x4 pose of what stands there and looks along the road, turned left."""
        x, y, z = self.at(s, d, h)
        grade = float(np.interp(s + 1, self.s, self._z) - np.interp(s - 1, self.s, self._z)) / 2
        return pose(x, y, z, float(self.heading(s)) + turn, np.arctan(grade * np.cos(turn)))

    def side(self, s: float, side: int, length: float) -> Path:
        """Return the straight path that leaves to the right (1) or left (-1)."""
        at = np.arange(0.0, length + 1, 1.0)
        heading = np.full(len(at), float(self.heading(s)) - side * np.pi / 2)
        start = self.at(s)
        return Path(at, heading, np.full(len(at), start[2]), start)


@dataclass(frozen=True)
class Junction:
    """A side street at s, of that half width, to the sides where it goes (1 right, -1 left)."""

    s: float
    half: float
    sides: tuple[int, ...]


@dataclass(frozen=True)
class Look:
    """What a street's surfaces look like.

    Attributes:
        asphalt, slab, grass: tints.
        paving: material of the pavement, "slab" or "asphalt".
        fronts: "paved" or "grass" beyond the front line, by side.
        park_side: where the park is, if the street has one.
        side_pavement: width in m of side streets' pavements.
        centre: "dashes", "solid", "double" or "yellow double".
        kerb_line: "double yellow", "white", "cycle" or "none".
    """

    asphalt: Tint
    slab: Tint
    grass: Tint
    paving: str
    fronts: dict[int, str]
    park_side: int
    side_pavement: float
    centre: str
    kerb_line: str


@dataclass(frozen=True)
class Street:
    """The course of a road and its cross-section, metres.

    Attributes:
        path: along the middle of the road.
        hand: 1 where traffic keeps right, -1 where it keeps left.
        lane, lanes: width of a lane, and lanes in each direction.
        parking: width of the strip for parked vehicles on either side, or 0.
        verge, pavement: widths between kerb and front line.
        length: of the drive.
        junctions: side streets.
        crossings: s of the zebra crossings.
        rails: whether trams run on the inner lanes.
        look: of its surfaces.
    """

    path: Path
    hand: int
    lane: float
    lanes: int
    parking: float
    verge: float
    pavement: float
    length: float
    junctions: tuple[Junction, ...]
    crossings: tuple[float, ...]
    rails: bool
    look: Look

    @property
    def half(self) -> float:
        """From the middle of the road to the kerb."""
        return self.lane * self.lanes + self.parking

    @property
    def front(self) -> float:
        """From the middle of the road to the front line."""
        return self.half + self.verge + self.pavement

    def stretches(self, side: int, margin: float = 0.0) -> list[tuple[float, float]]:
        """Return the intervals of s between side streets, shortened by `margin` at each."""
        ends = [(float(self.path.s[0]), float(self.path.s[0]))]
        ends += [(j.s - j.half, j.s + j.half) for j in self.junctions if side in j.sides]
        ends += [(float(self.path.s[-1]), float(self.path.s[-1]))]
        between = pairwise(ends)
        return [(a[1] + margin, b[0] - margin) for a, b in between]

    def is_clear(self, s: float, margin: float) -> bool:
        """Return whether no side street or crossing is within `margin` of s."""
        return all(abs(s - j.s) > j.half + margin for j in self.junctions) and all(
            abs(s - c) > 2 + margin for c in self.crossings
        )


def course(
    rng: np.random.Generator,
    length: float,
    junctions: tuple[Junction, ...],
    bend: float,
    hills: float,
) -> Path:
    """Draw a course with curves and hills that is straight and level at its junctions.

    Args:
        rng: draws where the curves are.
        length: of the drive in m.
        junctions: where it must be straight.
        bend: greatest curvature in 1/m.
        hills: greatest grade.
    """
    s = np.arange(-BEFORE, length + BEYOND + 1, 1.0)
    window = np.ones(len(s))
    for junction in junctions:
        window *= np.clip((np.abs(s - junction.s) - 25) / 25, 0, 1)
    waves = [np.sin(2 * np.pi * s / rng.uniform(120, 260) + rng.uniform(0, 6.3)) for _ in range(2)]
    curvature = bend * window * (waves[0] + 0.5 * waves[1]) / 1.5
    grade = hills * np.sin(2 * np.pi * s / rng.uniform(150, 320) + rng.uniform(0, 6.3))
    grade *= 0.25 + 0.75 * window
    heading = np.cumsum(curvature)
    z = np.cumsum(grade)
    zero = int(BEFORE)
    path = Path(s, heading - heading[zero], z - z[zero])
    start = path.at(0.0)
    return Path(s, heading - heading[zero], z - z[zero], np.array((-start[0], -start[1], 0.0)))


def strip(
    mesh: Mesh, path: Path, s: Any, d0: Any, d1: Any, h0: Any, h1: Any, material: str, tint: Tint
) -> None:
    """Add a band along s between two offsets, each with its height."""
    a, b = path.at(s, d0, h0), path.at(s, d1, h1)
    mesh.quads(np.stack((a[:-1], b[:-1], b[1:], a[1:]), 1), material, tint)


def _samples(a: float, b: float) -> Array:
    """Return s from a to b, close together at both ends."""
    fine = np.arange(0, CORNER + 0.1, 0.26)
    inner = np.arange(a + CORNER + 1, b - CORNER - 1, 2.0)
    return np.unique(np.concatenate((a + fine, inner, b - fine)))


def surfaces(street: Street, rng: np.random.Generator) -> dict[str, Mesh]:
    """Return the ground by label: "road", "sidewalk" and "terrain"."""
    road, pavement, terrain = Mesh(), Mesh(), Mesh()
    path, half, look = street.path, street.half, street.look
    asphalt, slab = look.asphalt, look.slab
    whole = np.arange(path.s[0], path.s[-1] + 0.1, 2.0)
    strip(road, path, whole, -half, half, 0.0, 0.0, "asphalt", asphalt)
    for side in (-1, 1):
        _sides(street, side, pavement, terrain, road, slab)
    for junction in street.junctions:
        for side in junction.sides:
            _side_street(street, junction, side, road, pavement, terrain)
    _wear(street, rng, road)
    _markings(street, rng, road)
    return {"road": road, "sidewalk": pavement, "terrain": terrain}


def _band(
    mesh: Mesh,
    path: Path,
    side: int,
    s: Array,
    d0: Any,
    d1: Any,
    h0: float,
    h1: float,
    material: str,
    tint: Tint,
) -> None:
    """Add a strip on one side, `d0` nearer to the road than `d1`."""
    d0, d1 = np.broadcast_to(d0, s.shape), np.broadcast_to(d1, s.shape)
    if side > 0:
        strip(mesh, path, s, d0, d1, h0, h1, material, tint)
    else:
        strip(mesh, path, s, -d1, -d0, h1, h0, material, tint)


def _sides(
    street: Street, side: int, pavement: Mesh, terrain: Mesh, road: Mesh, slab: Tint
) -> None:
    path, half, front, look = street.path, street.half, street.front, street.look
    ends = (float(path.s[0]), float(path.s[-1]))
    for a, b in street.stretches(side):
        s = _samples(a, b)
        gap = np.full(len(s), CORNER)
        if a != ends[0]:
            gap = np.minimum(gap, s - a)
        if b != ends[1]:
            gap = np.minimum(gap, b - s)
        kerb = half + CORNER - np.sqrt(CORNER**2 - (CORNER - gap) ** 2)
        _band(pavement, path, side, s, kerb, kerb + 0.02, 0.0, KERB, "concrete", STONE)
        _band(pavement, path, side, s, kerb + 0.02, kerb + 0.16, KERB, KERB, "concrete", STONE)
        inner = kerb + 0.16
        if street.verge:
            edge = np.where(gap >= CORNER, half + street.verge, inner)
            _band(
                terrain,
                path,
                side,
                s,
                inner,
                np.maximum(edge, inner),
                KERB,
                KERB + 0.02,
                "grass",
                look.grass,
            )
            inner = np.maximum(edge, inner)
        _band(pavement, path, side, s, inner, front, KERB, KERB + 0.03, look.paving, slab)
        # Beside a side street stands its own pavement.
        width = look.side_pavement
        c = a if a == ends[0] else a + width
        e = b if b == ends[1] else b - width
        for inside, outside in zip((c, e), (a, b), strict=True):
            if inside != outside:
                corner = np.array(sorted((inside, outside)))
                _band(
                    pavement,
                    path,
                    side,
                    corner,
                    front,
                    front + 0.01,
                    KERB + 0.03,
                    KERB,
                    look.paving,
                    slab,
                )
        s = np.unique(np.clip(np.arange(c, e + 4, 4.0), c, e))
        garden = look.fronts[side]
        if garden == "paved":
            _band(
                pavement,
                path,
                side,
                s,
                front,
                front + 14,
                KERB + 0.03,
                KERB + 0.03,
                look.paving,
                slab,
            )
            _band(terrain, path, side, s, front + 14, front + 60, KERB, 0.0, "grass", look.grass)
        else:
            _band(terrain, path, side, s, front, front + 60, KERB + 0.02, 0.3, "grass", look.grass)
    # Gutter: a darker seam along the kerb.
    for a, b in street.stretches(side, CORNER):
        s = np.unique(np.clip(np.arange(a, b + 2, 2.0), a, b))
        tint = (*(0.72 * np.asarray(look.asphalt[:3])), 0.9)
        _band(road, path, side, s, half - 0.28, half + 0.01, 0.003, 0.003, "asphalt", tint)


def _side_street(
    street: Street, junction: Junction, side: int, road: Mesh, pavement: Mesh, terrain: Mesh
) -> None:
    look, half = street.look, junction.half
    reach = 120.0
    path = street.path.side(junction.s, side, reach)
    s = np.arange(street.half - 0.3, reach, 4.0)
    strip(road, path, s, -half, half, 0.001, 0.001, "asphalt", look.asphalt)
    near = np.array((street.half - 0.2, street.half + CORNER))
    strip(road, path, near, -half - CORNER, half + CORNER, 0.0005, 0.0005, "asphalt", look.asphalt)
    width = look.side_pavement
    s = np.arange(street.front, reach, 4.0)
    for hand in (-1, 1):
        _band(pavement, path, hand, s, half, half + 0.02, 0.0, KERB, "concrete", STONE)
        _band(pavement, path, hand, s, half + 0.02, half + 0.16, KERB, KERB, "concrete", STONE)
        _band(
            pavement,
            path,
            hand,
            s,
            half + 0.16,
            half + width,
            KERB,
            KERB + 0.02,
            look.paving,
            look.slab,
        )
        near = np.array((street.half + CORNER, street.front + 0.1))
        _band(pavement, path, hand, near, half, half + 0.02, 0.0, KERB, "concrete", STONE)
    # Its middle line, and where it gives way.
    for t in np.arange(street.half + 6, reach - 3, 5.0):
        strip(road, path, np.array((t, t + 2.0)), -0.05, 0.05, 0.006, 0.006, "line", PAINT)
    for e in np.arange(0.2, half - 0.4, 0.9):
        a, b = sorted((-street.hand * e, -street.hand * (e + 0.5)))
        strip(
            road,
            path,
            np.array((street.half + 0.5, street.half + 0.8)),
            a,
            b,
            0.006,
            0.006,
            "line",
            PAINT,
        )


def _wear(street: Street, rng: np.random.Generator, road: Mesh) -> None:
    """Add patches, sealed cracks, wheel tracks, manholes and drains."""
    path, half = street.path, street.half
    base = np.asarray(street.look.asphalt[:3])
    end = street.length + 120
    # Every layer has a height of its own: coinciding surfaces would shade each other.
    for layer in range(int(rng.integers(4, 16))):
        s, length = rng.uniform(-15, end), rng.uniform(1, 14)
        width = rng.uniform(0.6, 2.2)
        d = rng.uniform(-half + 0.5, half - 0.5 - width)
        shade = (*np.clip(base * rng.uniform(0.62, 1.22), 0, 1), 0.9)
        at = np.linspace(s, s + length, max(2, int(length / 2) + 1))
        h = 0.0036 + 0.0002 * layer
        strip(road, path, at, d, d + width, h, h, "asphalt", shade)
    for lane in np.arange(street.lanes) + 0.5:
        for side in (-1, 1):
            for track in (-0.78, 0.78):
                d = side * lane * street.lane + track
                s = np.arange(path.s[0] + 40, path.s[-1] - 40, 4.0)
                shade = (*(base * 0.93), 0.8)
                strip(road, path, s, d - 0.22, d + 0.22, 0.0025, 0.0025, "asphalt", shade)
    for layer in range(int(rng.integers(5, 14))):
        s = rng.uniform(-10, end)
        d = rng.uniform(-half + 0.7, half - 0.7)
        center = path.at(s, d, 0.0092 + 0.00002 * layer)
        road.disc(center, (0, 0, 1), 0.33, "metal", (0.20, 0.19, 0.18, 0.7), 18)
        road.disc(center + (0, 0, 0.001), (0, 0, 1), 0.27, "asphalt", (0.26, 0.25, 0.24, 0.7), 18)
    for s in np.arange(-10, end, 24.0):
        for side in (-1, 1):
            a = side * (half - 0.42)
            strip(
                road,
                path,
                np.array((s, s + 0.45)),
                min(a, a + side * 0.36),
                max(a, a + side * 0.36),
                0.0095,
                0.0095,
                "metal",
                (0.13, 0.13, 0.13, 0.7),
            )
    if street.rails:
        for track in (-1, 1):
            middle = track * street.lane / 2
            s = np.arange(path.s[0], path.s[-1], 2.0)
            strip(
                road,
                path,
                s,
                middle - 1.1,
                middle + 1.1,
                0.0080,
                0.0080,
                "slab",
                (0.45, 0.44, 0.42, 0.9),
            )
            for rail in (-0.72, 0.72):
                strip(
                    road,
                    path,
                    s,
                    middle + rail - 0.035,
                    middle + rail + 0.035,
                    0.0090,
                    0.0090,
                    "metal",
                    (0.62, 0.61, 0.60, 0.25),
                )
                strip(
                    road,
                    path,
                    s,
                    middle + rail + 0.035,
                    middle + rail + 0.08,
                    0.0086,
                    0.0086,
                    "matte",
                    (0.08, 0.08, 0.08, 0.9),
                )


def _markings(street: Street, rng: np.random.Generator, road: Mesh) -> None:
    path, half, hand = street.path, street.half, street.hand
    h = 0.011

    def clear(s: float, margin: float = 2.0) -> bool:
        return street.is_clear(s, margin)

    def line(
        d: float, width: float = 0.1, dash: float = 0.0, gap: float = 0.0, tint: Tint = PAINT
    ) -> None:
        step = dash + gap if dash else 2.0
        for s in np.arange(-100.0, path.s[-1] - 30, step):
            if clear(s + step / 2, 3.0):
                at = np.array((s, s + (dash or step)))
                strip(road, path, at, d - width / 2, d + width / 2, h, h, "line", tint)

    style = street.look.centre
    tint = YELLOW if style.startswith("yellow") else PAINT
    if style.endswith("double"):
        line(-0.12, tint=tint)
        line(0.12, tint=tint)
    elif style.endswith("solid"):
        line(0.0, 0.12, tint=tint)
    else:
        line(0.0, 0.11, *((3.0, 3.0) if rng.random() < 0.5 else (4.0, 2.0)), tint=tint)
    for k in range(1, street.lanes):
        for side in (-1, 1):
            line(side * k * street.lane, 0.1, 2.0, 4.0)
    edge = street.lane * street.lanes
    if street.parking:
        for side in (-1, 1):
            line(side * edge, 0.09, 1.0, 1.0)
            for s in np.arange(-60.0, path.s[-1] - 60, 6.0):
                if clear(s, 9):
                    a, b = sorted((side * edge, side * (half - 0.3)))
                    strip(
                        road,
                        path,
                        np.array((s, s + 0.09)),
                        a,
                        b,
                        h + 0.0005,
                        h + 0.0005,
                        "line",
                        PAINT,
                    )
    elif street.look.kerb_line == "double yellow":
        for side in (-1, 1):
            line(side * (half - 0.35), 0.07, tint=YELLOW)
            line(side * (half - 0.55), 0.07, tint=YELLOW)
    elif street.look.kerb_line == "white":
        for side in (-1, 1):
            line(side * (half - 0.45), 0.12)
    elif street.look.kerb_line == "cycle":
        for side in (-1, 1):
            line(side * (half - 1.5), 0.12)
            s = np.arange(-100.0, path.s[-1] - 30, 2.0)
            d0, d1 = sorted((side * (half - 1.44), side * (half - 0.28)))
            strip(road, path, s, d0, d1, 0.0074, 0.0074, "asphalt", (0.42, 0.29, 0.26, 0.9))
    for s in street.crossings:
        for d in np.arange(-half + 0.35, half - 0.6, 1.05):
            strip(
                road,
                path,
                np.array((s - 1.5, s + 1.5)),
                d,
                d + 0.52,
                h + 0.001,
                h + 0.001,
                "line",
                PAINT,
            )
        for side in (-1, 1):
            a, b = sorted((side * hand * 0.2, side * hand * (edge - 0.1)))
            at = s - side * 3.6
            strip(
                road,
                path,
                np.array((at - 0.15, at + 0.15)),
                a,
                b,
                h + 0.0015,
                h + 0.0015,
                "line",
                PAINT,
            )
    for junction in street.junctions:
        for side in (1, -1):
            if len(junction.sides) < 2:
                continue
            a, b = sorted((side * hand * 0.2, side * hand * (edge - 0.1)))
            at = junction.s - side * (junction.half + 3.4)
            strip(
                road,
                path,
                np.array((at - 0.16, at + 0.16)),
                a,
                b,
                h + 0.0015,
                h + 0.0015,
                "line",
                PAINT,
            )
            if street.lanes > 1:
                for k in range(street.lanes):
                    _arrow(
                        road, path, at - side * 7, side * hand * (k + 0.5) * street.lane, side, h
                    )
        for s in np.arange(junction.s - junction.half, junction.s + junction.half - 0.5, 1.2):
            strip(road, path, np.array((s, s + 0.5)), -0.05, 0.05, h, h, "line", PAINT)


def _arrow(road: Mesh, path: Path, s: float, d: float, side: int, h: float) -> None:
    """Paint an arrow that points along the traffic of a side."""
    shaft = np.array(sorted((s, s - side * 2.4)))
    strip(road, path, shaft, d - 0.08, d + 0.08, h, h, "line", PAINT)
    tip, base = (
        path.at(s + side * 1.4, d, h),
        path.at(np.array((s, s)), np.array((d - 0.36, d + 0.36)), h),
    )
    road.polygon([base[0], base[1], tip][::side], "line", PAINT)
