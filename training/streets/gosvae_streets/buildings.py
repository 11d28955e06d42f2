"""Houses, shops and offices: facades with recessed windows, shop fronts, roofs, balconies.

A building's front stands on y = 0 and looks towards -y, from x = 0 to its width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .mesh import Mesh, Tint, pose

BRICKS = (
    (0.55, 0.33, 0.25),
    (0.62, 0.42, 0.30),
    (0.48, 0.28, 0.22),
    (0.72, 0.62, 0.45),
    (0.66, 0.56, 0.42),
    (0.42, 0.30, 0.26),
)
RENDERS = (
    (0.86, 0.83, 0.76),
    (0.90, 0.88, 0.85),
    (0.80, 0.72, 0.58),
    (0.78, 0.66, 0.56),
    (0.68, 0.72, 0.74),
    (0.82, 0.76, 0.62),
    (0.74, 0.56, 0.46),
    (0.70, 0.75, 0.68),
)
STONES = ((0.66, 0.62, 0.54), (0.58, 0.56, 0.52), (0.74, 0.68, 0.56))
SLATES = ((0.30, 0.31, 0.34), (0.45, 0.27, 0.20), (0.38, 0.30, 0.26), (0.26, 0.25, 0.26))
FRONTS = (
    (0.12, 0.22, 0.18),
    (0.45, 0.10, 0.10),
    (0.10, 0.14, 0.28),
    (0.14, 0.14, 0.15),
    (0.62, 0.55, 0.40),
    (0.80, 0.78, 0.74),
    (0.16, 0.38, 0.42),
    (0.72, 0.36, 0.10),
    (0.36, 0.16, 0.30),
)
SIGNS = (
    (0.75, 0.12, 0.10),
    (0.08, 0.24, 0.52),
    (0.06, 0.38, 0.24),
    (0.92, 0.74, 0.12),
    (0.90, 0.88, 0.84),
    (0.10, 0.10, 0.11),
    (0.85, 0.42, 0.08),
    (0.42, 0.12, 0.36),
)
INK = ((0.95, 0.93, 0.88), (0.95, 0.80, 0.30), (0.12, 0.12, 0.12))


@dataclass(frozen=True)
class Opening:
    """A hole in a wall: metres, and what is in it."""

    x0: float
    x1: float
    z0: float
    z1: float
    kind: str


def _glass(rng: np.random.Generator) -> tuple[str, Tint]:
    """Draw what stands behind a window: darkness, a curtain, or at night a light."""
    chance = rng.random()
    if chance < 0.16:
        return "window_lit", (0.80, 0.66, 0.45, 0.1)
    if chance < 0.36:
        return "glass", (*(rng.uniform(0.35, 0.6) * np.array((1, 0.97, 0.9))), 0.12)
    return "glass", (*(rng.uniform(0.03, 0.12) * np.array((0.9, 1.0, 1.1))), 0.04)


class Facade:
    """A wall with openings, built into a mesh."""

    def __init__(
        self, rng: np.random.Generator, wall: str, tint: Tint, trim: Tint, depth: float = 0.16
    ) -> None:
        self._rng = rng
        self._wall, self._tint, self._trim, self._depth = wall, tint, trim, depth

    def build(self, width: float, height: float, openings: list[Opening]) -> Mesh:
        """Return the wall from x = 0 to `width`, z = 0 to `height`."""
        mesh = Mesh()
        xs = np.unique(np.round([0, width, *(v for o in openings for v in (o.x0, o.x1))], 4))
        zs = np.unique(np.round([-0.6, height, *(v for o in openings for v in (o.z0, o.z1))], 4))
        cx, cz = np.meshgrid((xs[:-1] + xs[1:]) / 2, (zs[:-1] + zs[1:]) / 2, indexing="ij")
        solid = np.ones(cx.shape, bool)
        for o in openings:
            solid &= ~((cx > o.x0) & (cx < o.x1) & (cz > o.z0) & (cz < o.z1))
        i, j = np.nonzero(solid)
        zero = np.zeros(len(i))
        corners = [
            np.stack((xs[i + a], zero, zs[j + b]), -1) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        mesh.quads(np.stack(corners, 1), self._wall, self._tint)
        for o in openings:
            self._fill(mesh, o)
        return mesh

    def _fill(self, mesh: Mesh, o: Opening) -> None:
        d = 0.32 if o.kind == "shop" else self._depth
        a, b, c, e = o.x0, o.x1, o.z0, o.z1
        reveal = [
            [(a, 0, c), (a, d, c), (a, d, e), (a, 0, e)][::-1],
            [(b, 0, c), (b, d, c), (b, d, e), (b, 0, e)],
            [(a, 0, e), (b, 0, e), (b, d, e), (a, d, e)],
            [(a, 0, c), (b, 0, c), (b, d, c), (a, d, c)][::-1],
        ]
        shade = (*(0.85 * np.asarray(self._tint[:3])), 0.9)
        mesh.quads(reveal, "plaster", shade)
        if o.kind == "door":
            self._door(mesh, o, d)
        elif o.kind == "shop":
            self._shop_window(mesh, o, d)
        else:
            self._window(mesh, o, d)

    def _pane(
        self,
        mesh: Mesh,
        a: float,
        b: float,
        c: float,
        e: float,
        y: float,
        material: str,
        tint: Tint,
    ) -> None:
        mesh.quads([[(a, y, c), (b, y, c), (b, y, e), (a, y, e)]], material, tint)

    def _window(self, mesh: Mesh, o: Opening, d: float) -> None:
        a, b, c, e = o.x0, o.x1, o.z0, o.z1
        material, tint = _glass(self._rng)
        if o.kind == "sash" and self._rng.random() < 0.5:
            # Curtains on both sides.
            cloth = (*(np.array((0.75, 0.70, 0.62)) * self._rng.uniform(0.6, 1.1)), 0.3)
            w = 0.22 * (b - a)
            self._pane(mesh, a, a + w, c, e, d - 0.001, "glass", cloth)
            self._pane(mesh, b - w, b, c, e, d - 0.001, "glass", cloth)
            self._pane(mesh, a + w, b - w, c, e, d, material, tint)
        else:
            self._pane(mesh, a, b, c, e, d, material, tint)
        t, y0, y1 = 0.055, d - 0.05, d - 0.005
        bars = [(a, a + t, c, e), (b - t, b, c, e), (a, b, c, c + t), (a, b, e - t, e)]
        if o.kind == "sash":
            bars.append((a, b, (c + e) / 2 - 0.025, (c + e) / 2 + 0.025))
            bars.append(((a + b) / 2 - 0.014, (a + b) / 2 + 0.014, c, e))
        elif o.kind == "casement":
            n = max(2, round((b - a) / 0.7))
            bars += [(x - 0.03, x + 0.03, c, e) for x in np.linspace(a, b, n + 1)[1:-1]]
            bars.append((a, b, e - 0.38 * (e - c), e - 0.38 * (e - c) + 0.04))
        for p, q, r, s in bars:
            mesh.box((p, y0, r), (q, y1, s), "matte", self._trim)
        if o.kind != "office":
            sill = (0.80, 0.78, 0.72, 0.9)
            mesh.box((a - 0.08, -0.07, c - 0.07), (b + 0.08, d, c), "matte", sill)
            if o.kind == "sash":
                mesh.box((a - 0.10, -0.025, e), (b + 0.10, 0.02, e + 0.17), "matte", sill)

    def _door(self, mesh: Mesh, o: Opening, d: float) -> None:
        color = FRONTS[self._rng.integers(len(FRONTS))]
        tint = (*color, 0.35)
        a, b, c, e = o.x0, o.x1, o.z0, o.z1
        light = e - 0.38
        self._pane(mesh, a, b, light, e, d, *_glass(self._rng))
        mesh.box((a, d - 0.06, c), (b, d, light), "matte", tint)
        for x in (a + 0.12, (a + b) / 2 + 0.05):
            for z0, z1 in ((c + 0.2, c + 0.85), (c + 1.05, light - 0.15)):
                mesh.box(
                    (x, d - 0.075, z0),
                    (x + (b - a) / 2 - 0.18, d - 0.05, z1),
                    "matte",
                    (*(0.8 * np.array(color)), 0.35),
                )
        mesh.ellipsoid(
            (b - 0.12, d - 0.1, c + 1.0), (0.035, 0.035, 0.035), "metal", (0.8, 0.7, 0.3, 0.3), 6
        )
        for x in (a - 0.09, b):
            mesh.box((x, -0.04, c), (x + 0.09, d - 0.02, e + 0.09), "matte", self._trim)
        mesh.box((a - 0.09, -0.06, e), (b + 0.09, d - 0.02, e + 0.12), "matte", self._trim)
        mesh.box((a - 0.15, -0.45, c - 0.4), (b + 0.15, 0.1, c), "matte", (0.62, 0.60, 0.56, 0.9))

    def _shop_window(self, mesh: Mesh, o: Opening, d: float) -> None:
        rng = self._rng
        a, b, c, e = o.x0, o.x1, o.z0, o.z1
        frame = (*FRONTS[rng.integers(len(FRONTS))], 0.4)
        panes = max(1, round((b - a) / 1.5))
        edges = np.linspace(a, b, panes + 1)
        door = int(rng.integers(panes)) if panes > 1 else -1
        for k, (p, q) in enumerate(pairwise(edges)):
            low = c if k == door else c + 0.45
            if k != door:
                mesh.box((p, d - 0.06, c), (q, d, low), "matte", frame)
            warm = rng.uniform(0.16, 0.45) * np.array((1.0, 0.92, 0.78))
            self._pane(mesh, p, q, low, e, d, "shop", (*warm, 0.05))
            # Goods, seen through the pane.
            for _ in range(int(rng.integers(2, 7))):
                x, z = rng.uniform(p + 0.1, q - 0.35), low + rng.uniform(0.05, 0.55 * (e - low))
                w, h = rng.uniform(0.12, 0.4), rng.uniform(0.15, 0.6)
                color = np.array(SIGNS[rng.integers(len(SIGNS))]) * rng.uniform(0.3, 0.85)
                self._pane(
                    mesh, x, min(x + w, q - 0.06), z, z + h, d - 0.004, "shop", (*color, 0.1)
                )
            if rng.random() < 0.3:
                x = rng.uniform(p + 0.1, q - 0.5)
                self._pane(
                    mesh,
                    x,
                    x + 0.4,
                    low + 0.7,
                    low + 1.2,
                    d - 0.006,
                    "matte",
                    (*SIGNS[rng.integers(8)], 0.5),
                )
            for x in (p, q):
                mesh.box((x - 0.04, d - 0.09, c), (x + 0.04, d + 0.01, e), "matte", frame)
        mesh.box((a, d - 0.09, e - 0.09), (b, d, e), "matte", frame)
        mesh.box((a, d - 0.08, e - 0.62), (b, d - 0.02, e - 0.57), "matte", frame)


def _lettering(
    mesh: Mesh,
    rng: np.random.Generator,
    x0: float,
    x1: float,
    z: float,
    height: float,
    y: float,
    tint: Tint,
) -> None:
    """Add what looks like a name from afar."""
    x, t = x0, 0.17 * height
    while x < x1 - height * 0.6:
        w = height * rng.uniform(0.42, 0.7)
        kind = rng.integers(5)
        bars = [(x, x + t, z, z + height)]
        if kind in (0, 1):
            bars.append((x + w - t, x + w, z, z + height))
        if kind in (0, 2, 3):
            bars += [(x, x + w, z + height - t, z + height)]
        if kind in (1, 2, 4):
            bars += [(x, x + w, z, z + t)]
        if kind in (2, 3, 0):
            bars += [(x, x + w * 0.9, z + 0.45 * height, z + 0.45 * height + t)]
        if rng.random() < 0.9:
            for p, q, r, s in bars:
                mesh.quads([[(p, y, r), (q, y, r), (q, y, s), (p, y, s)]], "matte", tint)
        x += w + 0.16 * height


def building(
    rng: np.random.Generator, width: float, style: str, sides: bool = True
) -> tuple[Mesh, float]:
    """Return a building of a style, and its height without the roof.

    Args:
        rng: draws everything that the style leaves open.
        width: of its front in m.
        style: "terrace", "villa", "shop", "flats", "office" or "shed".
        sides: whether the walls at its sides can be seen.
    """
    depth = {"shed": 22.0, "office": 16.0}.get(style, 10.0) * rng.uniform(0.9, 1.1)
    storeys = {
        "terrace": lambda: rng.integers(2, 4),
        "villa": lambda: 2,
        "shop": lambda: rng.integers(2, 5),
        "flats": lambda: rng.integers(3, 7),
        "office": lambda: rng.integers(4, 8),
        "shed": lambda: 1,
    }[style]()
    storey = {"shed": 6.0, "office": 3.5}.get(style, rng.uniform(2.7, 3.3))
    ground = rng.uniform(3.3, 4.0) if style == "shop" else storey
    wall = rng.choice(
        ["brick", "plaster", "stone"],
        p={
            "terrace": (0.7, 0.25, 0.05),
            "villa": (0.55, 0.4, 0.05),
            "shop": (0.5, 0.35, 0.15),
            "flats": (0.45, 0.5, 0.05),
            "office": (0.2, 0.3, 0.5),
            "shed": (0.3, 0.7, 0.0),
        }[style],
    )
    palette = {"brick": BRICKS, "plaster": RENDERS, "stone": STONES}[wall]
    color = np.array(palette[rng.integers(len(palette))]) * rng.uniform(0.9, 1.06)
    tint: Tint = (*np.clip(color, 0, 1), 0.9)
    trim: Tint = (0.90, 0.89, 0.86, 0.5) if rng.random() < 0.7 else (0.16, 0.15, 0.15, 0.5)
    height = ground + (storeys - 1) * storey + (0.25 if style != "shed" else 0.0)
    mesh = Mesh()
    facade = Facade(rng, wall, tint, trim)

    kind = {"office": "office", "flats": "casement", "shed": "office"}.get(style) or str(
        rng.choice(["sash", "casement"])
    )
    bay = {"office": 1.8, "flats": 2.9, "shed": 5.0}.get(style, 2.5) * rng.uniform(0.9, 1.1)
    bays = max(1, round(width / bay))
    pitch = width / bays
    share = {"office": 0.86, "sash": 0.44, "casement": 0.56, "shed": 0.5}.get(
        style if style == "shed" else kind, 0.5
    )
    openings: list[Opening] = []
    doors = set(rng.choice(bays, max(1, bays // 4), replace=False).tolist())
    for floor in range(storeys):
        base = 0.0 if floor == 0 else ground + (floor - 1) * storey
        if style == "shop" and floor == 0:
            openings.append(Opening(0.35, width - 0.35, 0.02, ground - 0.75, "shop"))
            continue
        for k in range(bays):
            middle = (k + 0.5) * pitch
            half = share * pitch / 2
            if floor == 0 and k in doors and style != "shed":
                openings.append(Opening(middle - 0.5, middle + 0.5, 0.12, 2.55, "door"))
            elif style == "office":
                openings.append(
                    Opening(
                        middle - half,
                        middle + half,
                        base + (0.6 if floor else 0.35),
                        base + storey - 0.45,
                        "office",
                    )
                )
            elif style == "shed":
                low = 0.0 if k in doors else 3.4
                openings.append(
                    Opening(middle - half, middle + half, max(low, 0.05), 4.4, "office")
                )
            else:
                openings.append(
                    Opening(middle - half, middle + half, base + 0.85, base + storey - 0.42, kind)
                )
    front = facade.build(width, height, openings)
    mesh.append(front)
    blank = []
    if sides and style not in ("shed",):
        for floor in range(1, storeys):
            base = ground + (floor - 1) * storey
            for y in np.arange(1.6, depth - 2, 2.7):
                if style == "office" or rng.random() < 0.7:
                    blank.append(Opening(y, y + 1.05, base + 0.9, base + storey - 0.5, kind))
    flank = facade.build(depth, height, blank)
    left, right = pose(0, depth, 0, -np.pi / 2), pose(width, 0, 0, np.pi / 2)
    mesh.append(flank, left)
    mesh.append(flank, right)
    mesh.quads(
        [[(width, depth, -0.6), (0, depth, -0.6), (0, depth, height), (width, depth, height)]],
        wall,
        tint,
    )

    if style == "shop":
        _shop_front(mesh, rng, width, ground)
    if style == "flats" or (style == "shop" and rng.random() < 0.15):
        _balconies(mesh, rng, openings, ground)
    if style == "villa" and rng.random() < 0.7:
        _bay_window(mesh, rng, facade, openings, kind, storey)
    gabled = style in ("terrace", "villa") or (style == "shop" and rng.random() < 0.6)
    if gabled:
        _gable(mesh, rng, width, depth, height, wall, tint)
    else:
        _flat_roof(mesh, rng, width, depth, height, wall, tint, style)
    if style in ("shop", "terrace") and rng.random() < 0.6:
        z = ground + 0.02
        mesh.box((0, -0.08, z), (width, 0.0, z + 0.16), "matte", (0.82, 0.80, 0.75, 0.9))
    x = rng.choice([0.12, width - 0.2])
    mesh.tube((x, -0.07, 0), (x, -0.07, height), 0.045, "matte", (0.15, 0.15, 0.15, 0.6), sides=6)
    return mesh, height


def _shop_front(mesh: Mesh, rng: np.random.Generator, width: float, ground: float) -> None:
    color = np.array(SIGNS[rng.integers(len(SIGNS))])
    low, high = ground - 0.78, ground - 0.12
    mesh.box((0.1, -0.20, low), (width - 0.1, 0.0, high), "matte", (*color, 0.4))
    mesh.box((0.05, -0.24, high), (width - 0.05, 0.0, high + 0.09), "matte", (*(0.8 * color), 0.5))
    light = color.mean() > 0.5
    ink = INK[2] if light else INK[rng.integers(2)]
    span = min(width - 0.8, rng.uniform(2.2, 4.5))
    middle = width / 2 + rng.uniform(-0.2, 0.2) * (width - span - 0.8)
    _lettering(
        mesh, rng, middle - span / 2, middle + span / 2, low + 0.16, 0.36, -0.205, (*ink, 0.5)
    )
    front = (*FRONTS[rng.integers(len(FRONTS))], 0.5)
    for x in (0.05, width - 0.33):
        mesh.box((x, -0.12, 0), (x + 0.28, 0.02, low), "matte", front)
        mesh.box((x - 0.03, -0.16, 0), (x + 0.31, 0.02, 0.35), "matte", front)
    if rng.random() < 0.4:
        tint = np.array(SIGNS[rng.integers(len(SIGNS))])
        stripes = np.arange(0.3, width - 0.3, 0.32)
        for k, x in enumerate(stripes):
            shade = (*(tint if k % 2 else np.array((0.92, 0.90, 0.86))), 0.9)
            e = min(x + 0.32, width - 0.3)
            mesh.quads(
                [
                    [
                        (x, -1.25, low - 0.55),
                        (e, -1.25, low - 0.55),
                        (e, -0.15, low - 0.02),
                        (x, -0.15, low - 0.02),
                    ]
                ],
                "matte",
                shade,
            )
            mesh.quads(
                [
                    [
                        (x, -1.25, low - 0.75),
                        (e, -1.25, low - 0.75),
                        (e, -1.25, low - 0.55),
                        (x, -1.25, low - 0.55),
                    ]
                ],
                "matte",
                shade,
            )
    if rng.random() < 0.5:
        x = rng.uniform(0.3, width - 0.3)
        z = ground + 0.5
        mesh.tube(
            (x, 0, z + 0.5), (x, -0.95, z + 0.5), 0.02, "metal", (0.1, 0.1, 0.1, 0.5), sides=5
        )
        tint = (*SIGNS[rng.integers(len(SIGNS))], 0.5)
        mesh.box((x - 0.03, -0.9, z - 0.25), (x + 0.03, -0.2, z + 0.42), "matte", tint)


def _balconies(
    mesh: Mesh, rng: np.random.Generator, openings: list[Opening], ground: float
) -> None:
    iron = (0.12, 0.12, 0.13, 0.5)
    chosen = [o for o in openings if o.z0 > ground and o.kind != "door"]
    columns = {round(o.x0, 2) for o in chosen if rng.random() < 0.4}
    for o in chosen:
        if round(o.x0, 2) not in columns:
            continue
        a, b, z = o.x0 - 0.3, o.x1 + 0.3, o.z0 - 0.2
        mesh.box((a, -1.1, z - 0.16), (b, 0, z), "matte", (0.72, 0.70, 0.66, 0.9))
        for y0, y1, x0, x1 in ((-1.1, -1.07, a, b), (-1.1, 0, a, a + 0.03), (-1.1, 0, b - 0.03, b)):
            mesh.box((x0, y0, z + 1.0), (x1, y1, z + 1.05), "metal", iron)
        for x in np.arange(a, b, 0.14):
            mesh.box((x, -1.095, z), (x + 0.018, -1.077, z + 1.0), "metal", iron)


def _bay_window(
    mesh: Mesh,
    rng: np.random.Generator,
    facade: Facade,
    openings: list[Opening],
    kind: str,
    storey: float,
) -> None:
    ground = [o for o in openings if o.z0 < storey and o.kind != "door"]
    if not ground:
        return
    o = ground[int(rng.integers(len(ground)))]
    a, b = o.x0 - 0.35, o.x1 + 0.35
    top = storey
    width = b - a
    front = facade.build(width, top, [Opening(0.15, width - 0.15, 0.85, top - 0.4, kind)])
    flank = facade.build(0.8, top, [Opening(0.15, 0.65, 0.85, top - 0.4, "office")])
    mesh.append(front, pose(a, -0.8, 0))
    mesh.append(flank, pose(a, 0, 0, -np.pi / 2))
    mesh.append(flank, pose(b, -0.8, 0, np.pi / 2))
    tint = (*SLATES[rng.integers(len(SLATES))], 0.9)
    mesh.quads(
        [
            [
                (a - 0.1, -0.95, top),
                (b + 0.1, -0.95, top),
                (b - 0.2, 0.02, top + 0.5),
                (a + 0.2, 0.02, top + 0.5),
            ],
            [
                (a - 0.1, 0.0, top),
                (a - 0.1, -0.95, top),
                (a + 0.2, 0.02, top + 0.5),
                (a + 0.2, 0.02, top + 0.5),
            ],
            [
                (b + 0.1, -0.95, top),
                (b + 0.1, 0.0, top),
                (b - 0.2, 0.02, top + 0.5),
                (b - 0.2, 0.02, top + 0.5),
            ],
        ],
        "roof",
        tint,
    )


def _gable(
    mesh: Mesh,
    rng: np.random.Generator,
    width: float,
    depth: float,
    height: float,
    wall: str,
    tint: Tint,
) -> None:
    slate = (*(np.array(SLATES[rng.integers(len(SLATES))]) * rng.uniform(0.85, 1.15)), 0.9)
    rise = depth / 2 * np.tan(np.radians(rng.uniform(32, 44)))
    o = 0.35
    drop = o * rise / (depth / 2)
    ridge = height + rise
    for y0, y1 in ((-o, depth / 2), (depth + o, depth / 2)):
        slope = [
            (-0.1, y0, height - drop),
            (width + 0.1, y0, height - drop),
            (width + 0.1, y1, ridge),
            (-0.1, y1, ridge),
        ]
        upper = np.array(slope if y0 < 0 else slope[::-1]) + (0, 0, 0.14)
        mesh.quads([upper], "roof", slate)
    for x, flip in ((0.0, 1), (width, -1)):
        mesh.polygon(
            [(x, depth, height), (x, 0, height), (x, depth / 2, ridge)][::flip], wall, tint
        )
    gutter = (0.14, 0.14, 0.15, 0.5)
    mesh.box(
        (-0.1, -o - 0.06, height - drop - 0.06),
        (width + 0.1, -o + 0.06, height - drop + 0.12),
        "matte",
        gutter,
    )
    mesh.box(
        (-0.1, -o, height - drop), (width + 0.1, 0, height - 0.02), "matte", (0.8, 0.78, 0.75, 0.6)
    )
    for x in (0.15, width - 1.05):
        if rng.random() < 0.65:
            y = depth / 2
            mesh.box(
                (x, y - 0.4, height),
                (x + 0.9, y + 0.4, ridge + 1.1),
                "brick",
                (0.5, 0.32, 0.25, 0.9),
            )
            mesh.box(
                (x - 0.06, y - 0.46, ridge + 1.1),
                (x + 0.96, y + 0.46, ridge + 1.22),
                "matte",
                (0.6, 0.58, 0.54, 0.9),
            )
            for dx in (0.22, 0.68):
                mesh.tube(
                    (x + dx, y, ridge + 1.2),
                    (x + dx, y, ridge + 1.62),
                    0.12,
                    "matte",
                    (0.62, 0.36, 0.25, 0.9),
                    end=0.10,
                )
    if rng.random() < 0.25 and width > 5:
        x = width / 2
        y0, z0 = depth * 0.16, height + rise * 0.32
        mesh.box(
            (x - 0.8, y0, z0 - 0.4),
            (x + 0.8, depth / 2, z0 + 1.3),
            "plaster",
            (0.8, 0.78, 0.74, 0.9),
        )
        mesh.quads(
            [
                [
                    (x - 0.55, y0 - 0.01, z0 + 0.15),
                    (x + 0.55, y0 - 0.01, z0 + 0.15),
                    (x + 0.55, y0 - 0.01, z0 + 1.1),
                    (x - 0.55, y0 - 0.01, z0 + 1.1),
                ]
            ],
            *_glass(rng),
        )
        mesh.box((x - 0.95, y0 - 0.15, z0 + 1.3), (x + 0.95, depth / 2, z0 + 1.42), "roof", slate)


def _flat_roof(
    mesh: Mesh,
    rng: np.random.Generator,
    width: float,
    depth: float,
    height: float,
    wall: str,
    tint: Tint,
    style: str,
) -> None:
    mesh.quads(
        [[(0, 0, height), (width, 0, height), (width, depth, height), (0, depth, height)]],
        "matte",
        (0.35, 0.35, 0.35, 0.95),
    )
    parapet = rng.uniform(0.5, 0.9)
    trim = (0.80, 0.78, 0.73, 0.9) if style != "office" else (0.4, 0.41, 0.43, 0.6)
    for low, high in (
        ((-0.02, -0.02, height), (width + 0.02, 0.25, height + parapet)),
        ((-0.02, 0, height), (0.25, depth, height + parapet)),
        ((width - 0.25, 0, height), (width + 0.02, depth, height + parapet)),
    ):
        mesh.box(low, high, wall, tint)
    mesh.box((-0.08, -0.22, height - 0.12), (width + 0.08, 0.0, height + 0.12), "matte", trim)
    mesh.box(
        (-0.06, -0.10, height + parapet),
        (width + 0.06, 0.3, height + parapet + 0.09),
        "matte",
        trim,
    )
    if style in ("office", "flats"):
        x = rng.uniform(0.2, 0.6) * width
        mesh.box(
            (x, depth * 0.35, height),
            (x + 3.2, depth * 0.7, height + 2.6),
            "plaster",
            (0.66, 0.66, 0.65, 0.9),
        )
    if style == "shed":
        band = (*SIGNS[rng.integers(len(SIGNS))], 0.5)
        mesh.box((0.5, -0.12, height - 1.3), (width - 0.5, 0, height - 0.4), "matte", band)
        _lettering(
            mesh, rng, width * 0.3, width * 0.7, height - 1.15, 0.6, -0.13, (0.95, 0.95, 0.92, 0.5)
        )


def block(rng: np.random.Generator, width: float, height: float, depth: float = 12.0) -> Mesh:
    """Return a distant building: a plain body with rows of dark windows."""
    mesh = Mesh()
    palette = (*BRICKS, *RENDERS)
    tint = (*palette[rng.integers(len(palette))], 0.9)
    mesh.box((0, 0, -2), (width, depth, height), "plaster", tint)
    quads = []
    for z in np.arange(1.2, height - 1.6, 3.1):
        for x in np.arange(0.9, width - 1.4, 2.4):
            quads.append(
                [(x, -0.02, z), (x + 1.2, -0.02, z), (x + 1.2, -0.02, z + 1.5), (x, -0.02, z + 1.5)]
            )
    if quads:
        mesh.quads(quads, "glass", (0.08, 0.09, 0.1, 0.05))
    if rng.random() < 0.6:
        slate = (*SLATES[rng.integers(4)], 0.9)
        y, rise = depth / 2, depth * 0.4
        mesh.quads(
            [
                [
                    (-0.3, -0.3, height),
                    (width + 0.3, -0.3, height),
                    (width + 0.3, y, height + rise),
                    (-0.3, y, height + rise),
                ],
                [
                    (width + 0.3, depth + 0.3, height),
                    (-0.3, depth + 0.3, height),
                    (-0.3, y, height + rise),
                    (width + 0.3, y, height + rise),
                ],
            ],
            "roof",
            slate,
        )
        for x in (0.0, width):
            mesh.polygon(
                [(x, 0, height), (x, depth, height), (x, y, height + rise)], "plaster", tint
            )
    return mesh
