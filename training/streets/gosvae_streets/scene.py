"""A street scene that follows from its seed alone: what there is, what it is, and where it goes.

    scene = Scene.draw(seed=7, drive=0, seconds=10.0)
    scene.things[3].label      # name of a Cityscapes class
    scene.things[3].pose(2.5)  # 4x4, where it is after 2.5 s
    scene.camera(2.5)          # 4x4, x right, y down, z ahead

Nothing here needs Blender.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from . import buildings, furniture, people, plants, vehicles
from .mesh import Array, Mesh, pose
from .street import KERB, Junction, Look, Path, Street, course, surfaces

MOVING = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
"""Classes of which Cityscapes tells instances apart."""

KINDS = ("high street", "terraces", "suburb", "boulevard", "park", "outskirts")
SKIES = ("sun", "low sun", "clouds", "overcast", "dusk", "rain")
PAINTS = (
    *((0.75, 0.76, 0.78), (0.55, 0.56, 0.58), (0.10, 0.10, 0.11), (0.86, 0.86, 0.85)),
    *((0.22, 0.24, 0.27), (0.10, 0.16, 0.34), (0.48, 0.05, 0.06), (0.62, 0.06, 0.05)),
    *((0.08, 0.22, 0.16), (0.28, 0.36, 0.46), (0.44, 0.38, 0.30), (0.16, 0.32, 0.52)),
)
LIVERIES = (
    *((0.72, 0.05, 0.05), (0.10, 0.24, 0.52), (0.90, 0.88, 0.84), (0.10, 0.38, 0.24)),
    *((0.92, 0.66, 0.08), (0.32, 0.58, 0.74), (0.80, 0.38, 0.08)),
)


@dataclass(frozen=True)
class Thing:
    """One labelled object.

    Attributes:
        label: name of its class in Cityscapes' `labels.py`.
        meshes: one, or poses that follow each other in a cycle.
        pose: 4x4 matrix at a time in seconds.
        color: sRGB of what is painted.
        step: seconds from one mesh to the next.
        moves: whether the pose ever changes.
    """

    label: str
    meshes: tuple[Mesh, ...]
    pose: Callable[[float], Array]
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    step: float = 1.0
    moves: bool = False

    def mesh(self, time: float) -> Mesh:
        """Return the mesh at a time in seconds."""
        return self.meshes[int(time / self.step) % len(self.meshes)]


@dataclass(frozen=True)
class Sky:
    """Light and weather: angles in radians, colours linear RGB.

    Attributes:
        kind: one of `SKIES`.
        elevation, azimuth: of the sun; azimuth from +y to the left.
        sun, sun_color: its strength in W/m2, and colour.
        zenith, horizon: colours of the sky.
        clouds, cloud_color: share of the sky that they cover, and colour.
        exposure: in stops.
        lamps: whether lamps and windows are lit.
        wet: 0 to 1.
        haze: distance in m over which two thirds of the contrast go.
    """

    kind: str
    elevation: float
    azimuth: float
    sun: float
    sun_color: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    clouds: float
    cloud_color: tuple[float, float, float]
    exposure: float
    lamps: bool
    wet: float
    haze: float

    @staticmethod
    def draw(rng: np.random.Generator, kind: str) -> Sky:
        """Return a sky of a kind."""
        azimuth = rng.uniform(-np.pi, np.pi)
        if kind == "sun":
            return Sky(
                kind,
                np.radians(rng.uniform(28, 58)),
                azimuth,
                9.0,
                (1.0, 0.95, 0.86),
                (0.22, 0.38, 0.68),
                (0.70, 0.80, 0.92),
                rng.uniform(0.25, 0.5),
                (1.0, 1.0, 1.0),
                0.05,
                False,
                0.0,
                1600.0,
            )
        if kind == "low sun":
            return Sky(
                kind,
                np.radians(rng.uniform(9, 20)),
                azimuth,
                8.5,
                (1.0, 0.78, 0.52),
                (0.26, 0.38, 0.62),
                (0.92, 0.80, 0.66),
                rng.uniform(0.1, 0.5),
                (1.0, 0.92, 0.84),
                0.45,
                False,
                0.0,
                1000.0,
            )
        if kind == "clouds":
            return Sky(
                kind,
                np.radians(rng.uniform(25, 50)),
                azimuth,
                5.5,
                (1.0, 0.96, 0.90),
                (0.22, 0.38, 0.66),
                (0.76, 0.82, 0.90),
                rng.uniform(0.5, 0.75),
                (0.95, 0.96, 1.0),
                0.1,
                False,
                0.0,
                1200.0,
            )
        if kind == "overcast":
            return Sky(
                kind,
                np.radians(50),
                azimuth,
                0.35,
                (1.0, 1.0, 1.0),
                (0.62, 0.66, 0.72),
                (0.88, 0.90, 0.93),
                0.9,
                (0.80, 0.82, 0.86),
                0.45,
                False,
                0.0,
                700.0,
            )
        if kind == "dusk":
            return Sky(
                kind,
                np.radians(rng.uniform(2.5, 5)),
                azimuth,
                0.5,
                (1.0, 0.55, 0.30),
                (0.11, 0.15, 0.25),
                (0.56, 0.44, 0.36),
                rng.uniform(0.2, 0.6),
                (0.32, 0.28, 0.30),
                1.2,
                True,
                rng.choice([0.0, 0.0, 0.7]),
                700.0,
            )
        return Sky(
            kind,
            np.radians(45),
            azimuth,
            0.15,
            (1.0, 1.0, 1.0),
            (0.42, 0.45, 0.50),
            (0.66, 0.69, 0.73),
            0.95,
            (0.52, 0.55, 0.60),
            0.7,
            True,
            rng.uniform(0.7, 1.0),
            380.0,
        )


@dataclass(frozen=True)
class Camera:
    """A pinhole camera behind a windscreen: heights in m, angles in radians."""

    height: float
    pitch: float
    fov: float
    shake: Array


@dataclass(frozen=True)
class Scene:
    """A street, what stands and moves in it, its sky, and the car that we look out of."""

    street: Street
    things: tuple[Thing, ...]
    sky: Sky
    view: Camera
    speed: float
    offset: float

    @staticmethod
    def draw(seed: int, drive: int, seconds: float, kind: str = "", sky: str = "") -> Scene:
        """Return the scene of a drive; the same numbers give the same scene.

        Args:
            seed: any number from 0.
            drive: number of the drive under that seed.
            seconds: how long it lasts.
            kind: one of `KINDS`, drawn if empty.
            sky: one of `SKIES`, drawn if empty.
        """
        rng = np.random.default_rng((seed, drive))
        drawn = str(rng.choice(KINDS, p=(0.28, 0.2, 0.16, 0.14, 0.11, 0.11)))
        drawn_sky = str(rng.choice(SKIES, p=(0.26, 0.18, 0.22, 0.18, 0.08, 0.08)))
        return _Builder(rng, kind or drawn, sky or drawn_sky, seconds).scene()

    def ego(self, time: float) -> Array:
        """Return the 4x4 pose of the car in the world; x right, y ahead, z up."""
        t = time
        phases = self.view.shake
        pitch = 0.0022 * np.sin(7.1 * t + phases[0]) + 0.0012 * np.sin(17.3 * t + phases[1])
        bounce = 0.008 * np.sin(8.3 * t + phases[2]) + 0.004 * np.sin(21 * t + phases[3])
        sway = 0.08 * np.sin(0.6 * t + phases[4])
        base = self.street.path.pose(self.speed * t, self.offset + sway, bounce)
        return base @ pose(pitch=pitch)

    def camera(self, time: float) -> Array:
        """Return the 4x4 pose of the camera in the world, in its optical frame: z is ahead."""
        mount = pose(0, 0.6, self.view.height, pitch=self.view.pitch)
        optical = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
        return self.ego(time) @ mount @ optical

    def intrinsics(self, width: int, height: int) -> Array:
        """Return the 3x3 camera matrix in pixels, the top left pixel's centre at (0, 0)."""
        focal = width / 2 / np.tan(self.view.fov / 2)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


@cache
def _car_mesh(shape: str) -> Mesh:
    return vehicles.car(shape)


@cache
def _bus_mesh(decks: int) -> Mesh:
    return vehicles.bus(decks)


@cache
def _truck_mesh(kind: str) -> Mesh:
    return vehicles.truck(kind)


class _Builder:
    """Puts one scene together."""

    def __init__(self, rng: np.random.Generator, kind: str, sky: str, seconds: float) -> None:
        self.rng, self.kind, self.seconds = rng, kind, seconds
        self.things: list[Thing] = []
        self.sky = Sky.draw(rng, sky)
        self.speed = rng.uniform(6.0, 9.5)
        self.street = self._street()
        self._vehicles: list[tuple[float, float, float, float]] = []

    def scene(self) -> Scene:
        rng = self.rng
        street = self.street
        for label, mesh in surfaces(street, rng).items():
            self.put(label, mesh, np.eye(4))
        self._far_ground()
        for side in (-1, 1):
            self._frontage(side)
        self._side_streets()
        self._horizon()
        self._trees()
        self._lamps_and_signs()
        self._signals()
        self._clutter()
        self._traffic()
        self._parked()
        self._cyclists()
        self._walkers()
        view = Camera(
            height=rng.uniform(1.22, 1.48),
            pitch=np.radians(rng.uniform(-2.5, 0.6)),
            fov=np.radians(rng.uniform(56, 70)),
            shake=rng.uniform(0, 6.3, 8),
        )
        offset = street.hand * street.lane * (0.5 if street.lanes == 1 else rng.choice([0.5, 1.5]))
        return Scene(street, tuple(self.things), self.sky, view, self.speed, float(offset))

    def _street(self) -> Street:
        rng, kind = self.rng, self.kind
        length = self.speed * self.seconds
        wide = kind == "boulevard"
        parking = {
            "high street": 0.5,
            "terraces": 0.9,
            "suburb": 0.5,
            "boulevard": 0.6,
            "park": 0.5,
            "outskirts": 0.1,
        }[kind]
        verge = {
            "high street": 0.05,
            "terraces": 0.0,
            "suburb": 0.6,
            "boulevard": 0.6,
            "park": 0.4,
            "outskirts": 0.8,
        }[kind]
        junctions: list[Junction] = []
        s = rng.uniform(28, 70)
        while s < length + 130:
            sides = (-1, 1) if rng.random() < 0.55 else (int(rng.choice([-1, 1])),)
            junctions.append(Junction(s, rng.uniform(2.8, 4.2), sides))
            s += rng.uniform(60, 120)
        crossings = []
        for junction in junctions:
            if rng.random() < 0.5:
                crossings.append(junction.s - junction.half - 9.0)
        s = rng.uniform(15, 60)
        if kind in ("high street", "terraces") and all(abs(s - j.s) > 25 for j in junctions):
            crossings.append(s)
        grey = rng.uniform(0.34, 0.50)
        warm = rng.uniform(-0.012, 0.02)
        fronts = {
            "high street": ("paved", "paved"),
            "terraces": ("grass", "grass"),
            "suburb": ("grass", "grass"),
            "boulevard": ("paved", "paved"),
            "park": ("grass", "paved"),
            "outskirts": ("grass", "grass"),
        }[kind]
        turn = 1 if rng.random() < 0.5 else -1
        slab = np.array((0.62, 0.60, 0.56)) * rng.uniform(0.8, 1.1)
        look = Look(
            asphalt=(grey + warm, grey, grey - warm, 0.85),
            paving=str(rng.choice(["slab", "slab", "asphalt"])),
            slab=(*slab, 0.9),
            grass=(*np.array((0.30, 0.38, 0.15)) * rng.uniform(0.8, 1.15), 1.0),
            fronts={turn: fronts[0], -turn: fronts[1]},
            park_side=turn,
            side_pavement=2.2,
            centre=str(
                rng.choice(["dashes", "dashes", "dashes", "solid", "double", "yellow double"])
            ),
            kerb_line=str(rng.choice(["double yellow", "white", "none", "cycle"])),
        )
        hills = float(rng.choice([0.0, 0.015, 0.05], p=[0.4, 0.35, 0.25]))
        bend = float(rng.choice([0.0, 0.003, 0.008], p=[0.3, 0.4, 0.3]))
        return Street(
            path=course(rng, length, tuple(junctions), bend, hills),
            hand=1 if rng.random() < 0.5 else -1,
            lane=rng.uniform(3.0, 3.5),
            lanes=2 if wide else 1,
            parking=2.3 if rng.random() < parking else 0.0,
            verge=rng.uniform(1.4, 2.4) if rng.random() < verge else 0.0,
            pavement=rng.uniform(2.7, 4.2) if kind != "outskirts" else 2.7,
            length=length,
            junctions=tuple(junctions),
            crossings=tuple(crossings),
            rails=wide and bool(rng.random() < 0.75),
            look=look,
        )

    # --- placing

    def put(
        self,
        label: str,
        mesh: Mesh,
        matrix: Array,
        color: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        """Add something that stays where it is."""
        if len(mesh):
            self.things.append(Thing(label, (mesh,), lambda _: matrix, color))

    def stand(
        self,
        label: str,
        mesh: Mesh,
        s: float,
        d: float,
        turn: float = 0.0,
        scale: float = 1.0,
        h: float | None = None,
    ) -> None:
        """Put something upright beside the road."""
        x, y, z = self.street.path.at(s, d, KERB + 0.02 if h is None else h)
        yaw = float(self.street.path.heading(s)) + turn
        self.put(label, mesh, pose(x, y, z, yaw) @ np.diag((scale, scale, scale, 1)))

    def _along(self, path: Path, side: int, a: float, b: float, d: float) -> Array:
        """Return the pose of what extends along x from one s to another, its front to the road."""
        first, last = (a, b) if side < 0 else (b, a)
        p, q = path.at(first, side * d), path.at(last, side * d)
        yaw = np.arctan2(q[1] - p[1], q[0] - p[0])
        return pose(p[0], p[1], min(p[2], q[2]) + KERB, yaw)

    def _far_ground(self) -> None:
        path = self.street.path
        low = float(path.at(path.s)[:, 2].min()) - 1.2
        mesh = Mesh()
        middle = path.at(self.street.length / 2)
        mesh.disc(
            (middle[0], middle[1], low), (0, 0, 1), 1500.0, "grass", self.street.look.grass, 40
        )
        self.put("terrain", mesh, np.eye(4))

    def _row(
        self,
        path: Path,
        side: int,
        a: float,
        b: float,
        d: float,
        styles: tuple[str, ...],
        gap: tuple[float, float],
    ) -> None:
        """Put buildings side by side along a path."""
        rng = self.rng
        s = a
        style = styles[int(rng.integers(len(styles)))]
        while s < b - 4:
            if rng.random() < 0.4:
                style = styles[int(rng.integers(len(styles)))]
            width = {
                "terrace": rng.uniform(4.5, 6.5),
                "villa": rng.uniform(8, 12),
                "shop": rng.uniform(5, 11),
                "flats": rng.uniform(11, 20),
                "office": rng.uniform(16, 28),
                "shed": rng.uniform(18, 30),
            }[style]
            width = min(width, b - s)
            end = s + width
            if width > 4:
                space = rng.uniform(*gap)
                mesh, _ = buildings.building(
                    rng, width, style, space > 0.5 or s == a or end > b - 5
                )
                self.put("building", mesh, self._along(path, side, s, end, d))
                end += space
            s = end

    def _frontage(self, side: int) -> None:
        rng, street, kind = self.rng, self.street, self.kind
        park = kind == "park" and side == street.look.park_side
        lo, hi = -55.0, street.length + 190
        setback = {
            "high street": 0.0,
            "terraces": rng.choice([0.0, 2.4]),
            "suburb": rng.uniform(5, 9),
            "boulevard": rng.uniform(0, 2),
            "park": 0.3,
            "outskirts": rng.uniform(6, 14),
        }[kind]
        styles = {
            "high street": ("shop", "shop", "shop", "terrace", "flats"),
            "terraces": ("terrace",) if rng.random() < 0.7 else ("terrace", "shop"),
            "suburb": ("villa",),
            "boulevard": ("flats", "office", "shop"),
            "park": ("terrace", "flats", "villa"),
            "outskirts": ("shed", "office", "villa"),
        }[kind]
        gap = {
            "high street": (-1.0, 0.4),
            "terraces": (-1.0, 0.05),
            "suburb": (2.5, 7.0),
            "boulevard": (-1, 4.0),
            "park": (-1, 3),
            "outskirts": (4, 18),
        }[kind]
        gap = (max(gap[0], 0.0), max(gap[1], 0.01))
        for a, b in street.stretches(side, street.look.side_pavement + 0.05):
            a, b = max(a, lo), min(b, hi)
            if b - a < 6:
                continue
            front = street.front
            if park:
                self._park(side, a, b)
                continue
            self._row(
                street.path,
                side,
                a + (0.0 if setback < 3 else 1.5),
                b - (0.0 if setback < 3 else 1.5),
                front + setback,
                styles,
                gap,
            )
            if setback > 1.5:
                self._boundary(side, a, b, front + 0.05, setback)

    def _boundary(self, side: int, a: float, b: float, d: float, setback: float) -> None:
        """Put hedges, walls and fences along the front line, with gaps to go in."""
        rng = self.rng
        kinds = {
            "terraces": ("low wall", "railing", "hedge", "low wall"),
            "suburb": ("hedge", "low wall", "boards", "none", "hedge"),
            "outskirts": ("mesh", "none", "wall", "mesh", "hedge"),
        }.get(self.kind, ("none", "railing"))
        s = a
        while s < b - 2:
            length = min(rng.uniform(4, 11), b - s)
            kind = kinds[int(rng.integers(len(kinds)))]
            self._barrier(kind, side, s, s + length, d)
            if setback > 4 and rng.random() < 0.5 and s > -20:
                mesh = plants.shrub(rng, rng.uniform(0.5, 1.1))
                self.stand("vegetation", mesh, s + length / 2, side * (d + rng.uniform(1.5, 3)))
            s += length + rng.choice([0.0, 1.1, 3.0])

    def _barrier(self, kind: str, side: int, a: float, b: float, d: float) -> None:
        rng = self.rng
        length = b - a
        matrix = self._along(self.street.path, side, a, b, d)
        if kind == "hedge":
            self.put("vegetation", plants.hedge(rng, length, rng.uniform(0.9, 2.0)), matrix)
        elif kind in ("low wall", "wall"):
            height = rng.uniform(0.5, 1.0) if kind == "low wall" else rng.uniform(1.6, 2.4)
            self.put("wall", furniture.wall(rng, length, height), matrix)
        elif kind == "railing":
            self.put("fence", furniture.railing(length, rng.uniform(0.9, 1.4)), matrix)
        elif kind == "boards":
            self.put("fence", furniture.boards(rng, length, rng.uniform(1.2, 1.9)), matrix)
        elif kind == "mesh":
            self.put("fence", furniture.mesh_fence(length), matrix)

    def _park(self, side: int, a: float, b: float) -> None:
        rng, street = self.rng, self.street
        kind = str(rng.choice(["railing", "wall", "hedge", "railing"]))
        for s in np.arange(a, b - 1, 8.0):
            if rng.random() < 0.93:
                self._barrier(kind, side, s, min(s + 8.0, b), street.front + 0.1)
        shapes = self._tree_shapes(4)
        for _ in range(int((b - a) / 3.2)):
            self.stand(
                "vegetation",
                shapes[int(rng.integers(4))],
                rng.uniform(a, b),
                side * (street.front + rng.uniform(3, 38)),
                rng.uniform(0, 6.3),
                rng.uniform(0.8, 1.4),
                0.1,
            )
        for _ in range(int((b - a) / 9)):
            self.stand(
                "vegetation",
                plants.shrub(rng, rng.uniform(0.6, 1.5)),
                rng.uniform(a, b),
                side * (street.front + rng.uniform(2, 20)),
            )

    def _side_streets(self) -> None:
        rng, street = self.rng, self.street
        styles = {
            "high street": ("shop", "terrace"),
            "outskirts": ("villa", "shed"),
            "suburb": ("villa",),
        }.get(self.kind, ("terrace", "flats"))
        for junction in street.junctions:
            if junction.s > street.length + 90:
                continue
            for side in junction.sides:
                path = street.path.side(junction.s, side, 120.0)
                for hand in (-1, 1):
                    self._row(
                        path, hand, street.front + 18, 84.0, junction.half + 2.3, styles, (0, 2)
                    )
                block = buildings.block(rng, 26.0, rng.uniform(7, 12))
                x, y, z = path.at(104.0, -13.0)
                self.put("building", block, pose(x, y, z, float(path.heading(0))))
                if rng.random() < 0.7:
                    d = street.hand * -junction.half / 2
                    shape = vehicles.CARS[int(rng.integers(5))]
                    matrix = path.pose(street.half + 3.4, d, 0.0, np.pi)
                    self.put("car", _car_mesh(shape), matrix, self._paint())
                for _ in range(int(rng.integers(0, 4))):
                    hand = int(rng.choice([-1, 1]))
                    matrix = path.pose(
                        rng.uniform(street.front + 6, 60),
                        hand * (junction.half - 1.05),
                        0.0,
                        np.pi * (hand == street.hand),
                    )
                    self.put(
                        "car", _car_mesh(vehicles.CARS[int(rng.integers(5))]), matrix, self._paint()
                    )

    def _horizon(self) -> None:
        """Close the view: second rows of buildings, trees, and the end of the road."""
        rng, street = self.rng, self.street
        built = self.kind in ("high street", "boulevard", "terraces")
        for side in (-1, 1):
            for s in np.arange(-30, street.length + 210, 34.0):
                if any(abs(s + 14 - j.s) < 24 and side in j.sides for j in street.junctions):
                    continue
                d = street.front + rng.uniform(34, 52)
                if rng.random() < (0.75 if built else 0.3):
                    width = rng.uniform(14, 26)
                    mesh = buildings.block(rng, width, rng.uniform(7, 17 if built else 9))
                    self.put("building", mesh, self._along(street.path, side, s, s + width, d))
                else:
                    self.put(
                        "vegetation",
                        plants.backdrop(rng, 34.0),
                        self._along(street.path, side, s, s + 34.0, d + 6),
                    )
        end = float(street.path.s[-1]) - 60
        for k in range(-4, 5):
            x, y, z = street.path.at(end + rng.uniform(0, 30), k * 24.0 - 12)
            yaw = float(street.path.heading(end))
            if rng.random() < 0.6:
                self.put("vegetation", plants.backdrop(rng, 26.0), pose(x, y, z - 0.5, yaw))
            else:
                self.put(
                    "building",
                    buildings.block(rng, 22.0, rng.uniform(8, 18)),
                    pose(x, y, z - 0.5, yaw),
                )

    def _tree_shapes(self, count: int) -> list[Mesh]:
        rng = self.rng
        bare = rng.random() < 0.22
        shapes = []
        for _ in range(count):
            if rng.random() < 0.12 and not bare:
                shapes.append(plants.conifer(rng, rng.uniform(6, 10)))
            else:
                shapes.append(plants.tree(rng, rng.uniform(6.0, 10.5), bare=bare))
        return shapes

    def _trees(self) -> None:
        rng, street = self.rng, self.street
        chance = {
            "high street": 0.35,
            "terraces": 0.25,
            "suburb": 0.85,
            "boulevard": 0.95,
            "park": 0.6,
            "outskirts": 0.7,
        }[self.kind]
        if rng.random() > chance:
            return
        shapes = self._tree_shapes(3)
        pitch = rng.uniform(8, 16)
        for side in (-1, 1):
            if rng.random() < 0.2:
                continue
            d = street.half + (street.verge / 2 if street.verge else 0.75)
            for s in np.arange(-30 + rng.uniform(0, pitch), street.length + 170, pitch):
                if street.is_clear(s, 7) and rng.random() < 0.85:
                    self.stand(
                        "vegetation",
                        shapes[int(rng.integers(3))],
                        s + rng.normal(0, 0.5),
                        side * d,
                        rng.uniform(0, 6.3),
                        rng.uniform(0.75, 1.1),
                    )
                    if not street.verge:
                        mesh = Mesh()
                        mesh.box(
                            (-0.6, -0.6, 0), (0.6, 0.6, 0.012), "matte", (0.28, 0.22, 0.16, 1.0)
                        )
                        self.stand("terrain", mesh, s, side * d)

    def _lamps_and_signs(self) -> None:
        rng, street = self.rng, self.street
        old = self.kind in ("high street", "park", "terraces") and rng.random() < 0.4
        height = rng.uniform(3.4, 4.2) if old else rng.uniform(6.5, 9.0)
        lamp = furniture.lamp_post(height, rng.uniform(1.0, 2.0), old)
        pitch = rng.uniform(22, 32)
        alternate = rng.random() < 0.6
        for k, s in enumerate(np.arange(-30 + rng.uniform(0, 20), street.length + 180, pitch)):
            for side in (-1, 1):
                if (alternate and (k + side) % 4 in (1, 2)) or not street.is_clear(s, 3):
                    continue
                self.stand("pole", lamp, s, side * (street.half + 0.45), np.pi if side > 0 else 0.0)
        post = furniture.pole(2.9)
        s = rng.uniform(6, 22)
        while s < street.length + 110:
            side = int(rng.choice([-1, 1]))
            if street.is_clear(s, 3):
                kind = furniture.SIGNS[int(rng.integers(len(furniture.SIGNS)))]
                turn = 0.0 if side == street.hand else np.pi
                if rng.random() < 0.3:
                    turn = 0.0
                self._sign(kind, post, s, side, turn)
                if rng.random() < 0.25:
                    self._sign_plate("parking", s, side, turn, 1.45)
            s += rng.uniform(8, 26)
        for s in street.crossings:
            for side in (-1, 1):
                if self.kind in ("high street", "terraces") and street.hand < 0:
                    self.stand(
                        "pole",
                        furniture.beacon(),
                        s - 1.9 * side * street.hand,
                        side * (street.half + 0.35),
                    )
                else:
                    self._sign(
                        "crossing",
                        post,
                        s - 2.2 * side * street.hand,
                        side,
                        0.0 if side == street.hand else np.pi,
                    )

    def _sign(self, kind: str, post: Mesh, s: float, side: int, turn: float) -> None:
        rng = self.rng
        height = rng.uniform(2.2, 2.6)
        if kind == "direction":
            self.stand("pole", furniture.pole(3.4, 0.05), s, side * (self.street.half + 0.7))
            self._sign_plate(kind, s, side, turn, 2.9, 0.7)
            return
        self.stand("pole", post, s, side * (self.street.half + 0.5))
        self._sign_plate(kind, s, side, turn, height)

    def _sign_plate(
        self, kind: str, s: float, side: int, turn: float, height: float, reach: float = 0.5
    ) -> None:
        matrix = self.street.path.pose(s, side * (self.street.half + reach), KERB + height)
        matrix[:3, :3] = pose(
            yaw=float(self.street.path.heading(s)) + turn + self.rng.normal(0, 0.08)
        )[:3, :3]
        # In front of its post, from where it is read.
        self.put("traffic sign", furniture.sign(kind, self.rng), matrix @ pose(0, -0.06, 0))

    def _signals(self) -> None:
        rng, street = self.rng, self.street
        for junction in street.junctions:
            if len(junction.sides) < 2 or rng.random() < 0.3:
                continue
            state = int(rng.choice(3, p=(0.3, 0.1, 0.6)))
            if junction.s < street.length + 25:
                state = 2
            for direction, turn in ((street.hand, 0.0), (-street.hand, np.pi)):
                head = furniture.traffic_light(state)
                near = junction.s - (1 if turn == 0 else -1) * (junction.half + 3.4)
                far = junction.s + (1 if turn == 0 else -1) * (junction.half + 1.5)
                for s, side in ((near, direction), (far, direction), (near, -direction)):
                    d = side * (street.half + 0.6)
                    self.stand("pole", furniture.pole(3.3, 0.055), s, d)
                    matrix = street.path.pose(s, d, KERB + 2.85)
                    self.put("traffic light", head, matrix @ pose(yaw=turn) @ pose(0, -0.2, 0))
                if street.lanes > 1:
                    d = direction * (street.half + 0.7)
                    reach = street.half * 0.62
                    mast = furniture.pole(6.0, 0.09)
                    mast.tube(
                        (0, 0, 5.7), (-direction * reach, 0, 6.0), 0.06, "metal", furniture.STEEL
                    )
                    self.stand("pole", mast, far, d)
                    for share in (0.55, 1.0):
                        matrix = street.path.pose(far, d - direction * reach * share, KERB + 5.35)
                        self.put("traffic light", head, matrix @ pose(yaw=turn) @ pose(0, -0.2, 0))
            for side in junction.sides:
                path = street.path.side(junction.s, side, 30.0)
                head = furniture.traffic_light(2 - state if state != 1 else 0)
                s, d = street.front - 0.6, -street.hand * (junction.half + 0.5)
                x, y, z = path.at(s, d, KERB)
                yaw = float(path.heading(0)) + np.pi
                self.put("pole", furniture.pole(3.3, 0.055), pose(x, y, z, yaw))
                self.put("traffic light", head, pose(x, y, z + 2.85, yaw) @ pose(0, -0.2, 0))

    def _clutter(self) -> None:
        rng, street = self.rng, self.street
        bollard = furniture.bollard(int(rng.integers(2)))
        busy = {"high street": 1.0, "boulevard": 0.8, "terraces": 0.5, "park": 0.6}.get(
            self.kind, 0.3
        )
        for side in (-1, 1):
            if rng.random() < 0.6 * busy:
                start = rng.uniform(0, street.length + 40)
                for s in np.arange(start, start + rng.uniform(10, 40), rng.uniform(1.6, 2.6)):
                    if street.is_clear(s, 1):
                        self.stand("pole", bollard, s, side * (street.half + 0.35))
            if rng.random() < 0.25 * busy + 0.1:
                start = rng.uniform(5, street.length + 60)
                if street.is_clear(start + 6, 10):
                    self._barrier("railing", side, start, start + 12, street.half + 0.3)
            for s in np.arange(rng.uniform(0, 20), street.length + 80, rng.uniform(18, 40)):
                if not street.is_clear(s, 4) or rng.random() > busy:
                    continue
                what = rng.random()
                if what < 0.4:
                    self.stand("static", furniture.litter_bin(), s, side * (street.half + 0.7))
                elif what < 0.6:
                    self.stand(
                        "static",
                        furniture.bench(),
                        s,
                        side * (street.front - 0.6),
                        np.pi / 2 * -side,
                    )
                elif what < 0.75 and street.pavement > 3.2:
                    self.stand(
                        "static",
                        furniture.shelter(),
                        s,
                        side * (street.front - 1.0),
                        -np.pi / 2 * side,
                    )
                else:
                    tint = (*PAINTS[int(rng.integers(len(PAINTS)))], 0.4)
                    for k in range(int(rng.integers(1, 6))):
                        bike = vehicles.bicycle(
                            tint if rng.random() < 0.5 else (0.1, 0.1, 0.1, 0.4)
                        )
                        self.stand(
                            "bicycle",
                            bike,
                            s + 0.7 * k,
                            side * (street.front - 1.0),
                            np.pi / 2 + rng.normal(0, 0.15),
                        )

    # --- what moves

    def _paint(self) -> tuple[float, float, float]:
        return PAINTS[int(self.rng.integers(len(PAINTS)))]

    def _drive(
        self,
        label: str,
        meshes: tuple[Mesh, ...],
        s: float,
        d: float,
        speed: float,
        color: tuple[float, float, float],
        forward: bool,
        step: float = 1.0,
    ) -> None:
        path = self.street.path
        turn = 0.0 if forward else np.pi
        velocity = speed if forward else -speed
        low, high = float(path.s[0]) + 5, float(path.s[-1]) - 5

        def where(time: float) -> Array:
            return path.pose(float(np.clip(s + velocity * time, low, high)), d, 0.0, turn)

        self.things.append(Thing(label, meshes, where, color, step, moves=speed > 0))

    def _vehicle(self, s: float, d: float, speed: float, forward: bool) -> float:
        """Add a random vehicle in traffic; return its length."""
        rng = self.rng
        what = rng.random()
        livery = LIVERIES[int(rng.integers(len(LIVERIES)))]
        if what < 0.74:
            shape = vehicles.CARS[int(rng.choice(5, p=(0.24, 0.30, 0.16, 0.18, 0.12)))]
            color = self._paint() if shape != "van" or rng.random() < 0.3 else (0.9, 0.9, 0.9)
            label, mesh, length = "car", _car_mesh(shape), vehicles.LENGTHS["car"]
        elif what < 0.84:
            label, mesh, length = (
                "bus",
                _bus_mesh(2 if self.street.hand < 0 and rng.random() < 0.6 else 1),
                vehicles.LENGTHS["bus"],
            )
            color = livery
        elif what < 0.94:
            label, mesh, length = (
                "truck",
                _truck_mesh(str(rng.choice(["box", "box", "flatbed", "tipper"]))),
                vehicles.LENGTHS["truck"],
            )
            color = livery
        else:
            looks = people.Looks.draw(rng)
            tint = (*LIVERIES[int(rng.integers(7))], 0.3)
            self._drive("motorcycle", (vehicles.motorcycle(tint),), s, d, speed, (0, 0, 0), forward)
            self._drive("rider", (people.rider(looks, 0, True),), s, d, speed, (0, 0, 0), forward)
            return 2.2
        self._drive(label, (mesh,), s, d, speed, color, forward)
        return length

    def _lane(
        self, s: float, end: float, d: float, speed: float, forward: bool, gaps: tuple[float, float]
    ) -> None:
        """Fill a lane with traffic of one speed."""
        while s < end:
            length = self._vehicle(s, d, speed, forward)
            self._vehicles.append((s, d, speed if forward else -speed, length))
            s += length + self.rng.uniform(*gaps) + 6.0

    def _traffic(self) -> None:
        rng, street = self.rng, self.street
        hand, lane = street.hand, street.lane
        end = street.length + 180
        busy = rng.uniform(0.4, 1.0)
        tram = street.rails
        for k in range(street.lanes):
            d = hand * (k + 0.5) * lane
            # Nobody comes nearer to us than the gap, in whatever lane we are.
            speed = self.speed * rng.uniform(0.95, 1.2)
            first = rng.uniform(13, 34) + 4 + max(0.0, (self.speed - speed) * self.seconds)
            self._lane(first, end, d, speed, True, (8 / busy, 45 / busy))
            oncoming = rng.uniform(6, 11)
            begin = -30.0 + (rng.uniform(0, 25))
            if tram and k == 0:
                livery = LIVERIES[int(rng.integers(len(LIVERIES)))]
                at = rng.uniform(30, 75)
                self._drive(
                    "train",
                    (vehicles.tram(),),
                    at + oncoming * self.seconds * 0.4,
                    -d,
                    oncoming * 0.6,
                    livery,
                    False,
                )
                self._vehicles.append(
                    (at + oncoming * self.seconds * 0.4, -d, -oncoming * 0.6, 28.0)
                )
                continue
            self._lane(
                begin, end + oncoming * self.seconds, -d, oncoming, False, (6 / busy, 50 / busy)
            )

    def _parked(self) -> None:
        rng, street = self.rng, self.street
        if not street.parking:
            return
        for side in (-1, 1):
            full = rng.uniform(0.35, 0.95)
            for s in np.arange(-30.0, street.length + 150, 6.0):
                if not street.is_clear(s + 3, 9) or rng.random() > full:
                    continue
                d = side * (street.half - 1.12 + rng.normal(0, 0.06))
                forward = side == street.hand or rng.random() < 0.15
                what = rng.random()
                if what < 0.93:
                    shape = vehicles.CARS[int(rng.choice(5, p=(0.22, 0.34, 0.16, 0.18, 0.10)))]
                    color = (
                        self._paint() if shape != "van" or rng.random() < 0.4 else (0.9, 0.9, 0.9)
                    )
                    self._drive(
                        "car",
                        (_car_mesh(shape),),
                        s + 3 + rng.normal(0, 0.2),
                        d,
                        0.0,
                        color,
                        forward,
                    )
                else:
                    tint = (*LIVERIES[int(rng.integers(7))], 0.3)
                    self._drive(
                        "motorcycle",
                        (vehicles.motorcycle(tint),),
                        s + 3,
                        d,
                        0.0,
                        (0, 0, 0),
                        forward,
                    )

    def _cyclists(self) -> None:
        rng, street = self.rng, self.street
        for _ in range(int(rng.choice([0, 1, 2, 3], p=(0.35, 0.35, 0.2, 0.1)))):
            forward = bool(rng.random() < 0.6)
            edge = street.lane * street.lanes - 0.45
            d = street.hand * edge * (1 if forward else -1)
            speed = rng.uniform(3.5, 5.5)
            s = rng.uniform(14, 60) if forward else rng.uniform(25, 110)
            looks = people.Looks.draw(rng)
            tint = (*PAINTS[int(rng.integers(len(PAINTS)))], 0.35)
            riders = tuple(people.rider(looks, phase, False) for phase in range(people.PHASES))
            self._drive("bicycle", (vehicles.bicycle(tint),), s, d, speed, (0, 0, 0), forward)
            self._drive("rider", riders, s, d, speed, (0, 0, 0), forward, step=0.11)

    def _walkers(self) -> None:
        rng, street = self.rng, self.street
        crowd = {
            "high street": 26,
            "boulevard": 18,
            "terraces": 9,
            "park": 12,
            "suburb": 6,
            "outskirts": 3,
        }[self.kind]
        if self.sky.kind == "rain":
            crowd //= 2
        for _ in range(int(rng.poisson(crowd * (street.length + 90) / 160))):
            side = int(rng.choice([-1, 1]))
            s = rng.uniform(4, street.length + 90)
            d = side * (street.half + street.verge + rng.uniform(0.8, street.pavement - 0.5))
            for k in range(int(rng.choice([1, 2, 3], p=(0.72, 0.23, 0.05)))):
                if rng.random() < 0.18:
                    self._person(s, d + 0.5 * k * -side, rng.uniform(0, 6.3), 0.0)
                else:
                    self._person(
                        s + rng.normal(0, 0.1),
                        d + 0.6 * k * -side,
                        0.0 if k == 0 and rng.random() < 0.5 else np.pi * (s % 2 < 1),
                        rng.uniform(1.0, 1.6) if k == 0 else 1.3,
                    )
        for s in street.crossings:
            for _ in range(int(rng.integers(0, 4))):
                self._cross(s + rng.uniform(-1.2, 1.2))

    def _person(self, s: float, d: float, turn: float, speed: float) -> None:
        looks = people.Looks.draw(self.rng)
        path = self.street.path
        forward = np.cos(turn) > 0
        start = self.rng.uniform(0, 1)
        if not speed:
            x, y, z = path.at(s, d, KERB + 0.02)
            self.put(
                "person", people.walker(looks, None), pose(x, y, z, float(path.heading(s)) + turn)
            )
            return
        cycle = tuple(people.walker(looks, phase) for phase in range(people.PHASES))
        turn = 0.0 if forward else np.pi
        velocity = speed if forward else -speed
        height = KERB + 0.02

        def where(time: float) -> Array:
            at = s + velocity * (time + start)
            junction = any(
                abs(at - j.s) < j.half + 0.3 and (1 if d > 0 else -1) in j.sides
                for j in self.street.junctions
            )
            x, y, z = path.at(at, d, 0.01 if junction else height)
            return pose(x, y, z, float(path.heading(at)) + turn)

        # A stride of two steps covers 1.44 m.
        self.things.append(
            Thing("person", cycle, where, step=1.44 / speed / people.PHASES, moves=True)
        )

    def _cross(self, s: float) -> None:
        """Let someone cross the road, unless a vehicle would have to brake."""
        rng, street = self.rng, self.street
        side = int(rng.choice([-1, 1]))
        begin, speed = rng.uniform(-4, self.seconds), rng.uniform(1.1, 1.6)
        duration = 2 * street.half / speed
        everyone = [(0.0, street.hand * street.lane / 2, self.speed, 4.5), *self._vehicles]
        for time in np.linspace(begin, begin + duration, 12):
            if any(abs(at + v * time - s) < length / 2 + 5 for at, _, v, length in everyone):
                return
        looks = people.Looks.draw(rng)
        cycle = tuple(people.walker(looks, phase) for phase in range(people.PHASES))
        path = street.path

        def where(time: float) -> Array:
            gone = (time - begin) * speed
            d = side * (street.half - gone)
            x, y, z = path.at(s, d, 0.01 if abs(d) < street.half else KERB + 0.02)
            return pose(x, y, z, float(path.heading(s)) + side * np.pi / 2)

        self.things.append(
            Thing("person", cycle, where, step=1.44 / speed / people.PHASES, moves=True)
        )
