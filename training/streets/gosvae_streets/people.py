"""People on foot, on bicycles and on motorcycles; they look along +y."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .mesh import Array, Mesh, Tint

SKINS = ((0.93, 0.76, 0.64), (0.86, 0.66, 0.52), (0.62, 0.44, 0.32), (0.40, 0.27, 0.20))
HAIRS = ((0.10, 0.08, 0.07), (0.24, 0.16, 0.10), (0.45, 0.32, 0.18), (0.62, 0.60, 0.58))
CLOTHES = (
    *((0.12, 0.13, 0.17), (0.20, 0.24, 0.34), (0.45, 0.10, 0.12), (0.70, 0.68, 0.62)),
    *((0.16, 0.28, 0.24), (0.55, 0.42, 0.26), (0.30, 0.30, 0.32), (0.75, 0.55, 0.15)),
    *((0.28, 0.36, 0.58), (0.62, 0.30, 0.36), (0.88, 0.86, 0.84), (0.42, 0.50, 0.40)),
)
TROUSERS = ((0.13, 0.15, 0.22), (0.18, 0.18, 0.19), (0.30, 0.30, 0.34), (0.42, 0.36, 0.28))
PHASES = 8
"""Poses in one stride of two steps."""


@dataclass(frozen=True)
class Looks:
    """How a person is built and dressed; height in m, sRGB colours."""

    height: float
    girth: float
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    coat: tuple[float, float, float]
    trousers: tuple[float, float, float]
    long_coat: bool
    skirt: bool
    bag: bool

    @staticmethod
    def draw(rng: np.random.Generator) -> Looks:
        """Return random looks."""
        child = rng.random() < 0.08
        return Looks(
            height=rng.uniform(1.15, 1.4) if child else rng.normal(1.71, 0.075),
            girth=rng.uniform(0.9, 1.2),
            skin=SKINS[rng.integers(len(SKINS))],
            hair=HAIRS[rng.integers(len(HAIRS))],
            coat=CLOTHES[rng.integers(len(CLOTHES))],
            trousers=TROUSERS[rng.integers(len(TROUSERS))],
            long_coat=bool(rng.random() < 0.3),
            skirt=bool(rng.random() < 0.15),
            bag=bool(rng.random() < 0.4),
        )


def _cloth(color: tuple[float, float, float]) -> Tint:
    return (*color, 0.85)


def _limb(
    mesh: Mesh,
    a: Array,
    b: Array,
    lengths: tuple[float, float],
    bend: tuple[float, float, float],
    radii: tuple[float, float, float],
    tint: Tint,
) -> Array:
    """Add two bones from a towards b with the joint pushed along `bend`; return where they end."""
    upper, lower = lengths
    reach = b - a
    distance = min(float(np.linalg.norm(reach)), 0.999 * (upper + lower))
    along = reach / max(float(np.linalg.norm(reach)), 1e-6)
    end = a + along * distance
    share = (upper**2 - lower**2 + distance**2) / (2 * distance)
    side = np.asarray(bend, float) - along * np.dot(bend, along)
    side /= np.linalg.norm(side)
    joint = a + along * share + side * np.sqrt(max(upper**2 - share**2, 0.0))
    mesh.ellipsoid(a, (1.1 * radii[0],) * 3, "matte", tint, 8)
    mesh.tube(a, joint, radii[0], "matte", tint, end=radii[1], sides=8)
    mesh.ellipsoid(joint, (radii[1],) * 3, "matte", tint, 8)
    mesh.tube(joint, end, radii[1], "matte", tint, end=radii[2], sides=8)
    return end


def _torso(mesh: Mesh, looks: Looks, hip: Array, neck: Array) -> None:
    g = looks.girth
    profile = (
        (0.0, 0.150, 0.105),
        (0.25, 0.150, 0.105),
        (0.55, 0.165, 0.110),
        (0.82, 0.195, 0.105),
        (0.94, 0.165, 0.085),
        (1.0, 0.065, 0.060),
    )
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    axis = neck - hip
    rings = []
    for share, w, d in profile:
        ring = np.stack((w * g * np.cos(angles), d * g * np.sin(angles), np.zeros(12)), -1)
        rings.append(hip + share * axis + ring)
    mesh.loft(rings, "matte", _cloth(looks.coat))
    if looks.long_coat or looks.skirt:
        tint = _cloth(looks.coat if looks.long_coat else looks.trousers)
        flare = ((0.05, 0.155, 0.115), (-0.25, 0.185, 0.15), (-0.42, 0.20, 0.17))
        rings = [
            hip
            + (0, 0, dz)
            + np.stack((w * g * np.cos(angles), d * g * np.sin(angles), np.zeros(12)), -1)
            for dz, w, d in reversed(flare)
        ]
        mesh.loft(rings, "matte", tint)
    else:
        mesh.ellipsoid(hip, (0.155 * g, 0.115 * g, 0.13), "matte", _cloth(looks.trousers), 12)


def _head(mesh: Mesh, looks: Looks, neck: Array, helmet: Tint | None = None) -> None:
    skin = (*looks.skin, 0.6)
    mesh.tube(neck - (0, 0, 0.04), neck + (0, 0.01, 0.10), 0.052, "matte", skin)
    center = neck + (0, 0.02, 0.185)
    mesh.ellipsoid(center, (0.076, 0.096, 0.118), "matte", skin, 12)
    mesh.ellipsoid(center + (0, 0.095, -0.015), (0.014, 0.02, 0.025), "matte", skin, 6)
    if helmet is None:
        mesh.ellipsoid(
            center + (0, -0.018, 0.026),
            (0.086, 0.098, 0.108),
            "matte",
            (*looks.hair, 0.7),
            12,
            -0.35,
        )
        if looks.skirt or looks.hair == HAIRS[2]:
            mesh.ellipsoid(
                center + (0, -0.06, -0.07), (0.085, 0.05, 0.13), "matte", (*looks.hair, 0.7), 10
            )
    else:
        mesh.ellipsoid(center + (0, -0.01, 0.03), (0.10, 0.125, 0.115), "matte", helmet, 12, -0.15)


def walker(looks: Looks, phase: int | None) -> Mesh:
    """Return someone at a phase of their stride, 0 to `PHASES` - 1, or standing for None."""
    mesh = Mesh()
    s = looks.height / 1.75
    swing = 0.0 if phase is None else 2 * np.pi * phase / PHASES
    stride = 0.0 if phase is None else 0.36
    bob = 0.0 if phase is None else 0.025 * np.cos(2 * swing)
    hip = np.array((0, 0, 0.90 + bob))
    neck = np.array((0, 0.03 if phase is not None else 0.0, 1.46 + bob))
    for x, turn in ((-0.09, swing), (0.09, swing + np.pi)):
        lift = 0.0 if phase is None else max(0.0, np.cos(turn)) * 0.12
        foot = np.array((x, stride * np.sin(turn), 0.09 + lift))
        end = _limb(
            mesh,
            hip + (x, 0, -0.02),
            foot,
            (0.44, 0.43),
            (0, 1, 0.1),
            (0.085, 0.06, 0.045),
            _cloth(looks.trousers),
        )
        mesh.ellipsoid(
            end + (0, 0.055, -0.045), (0.047, 0.13, 0.05), "matte", (0.08, 0.07, 0.06, 0.6), 8
        )
    for x, turn in ((-0.2, swing + np.pi), (0.2, swing)):
        reach = 0.0 if phase is None else 0.26 * np.sin(turn)
        hand = np.array((x * 1.2, reach + 0.06, 0.86 + abs(reach) * 0.3))
        end = _limb(
            mesh,
            neck + (x * looks.girth * 0.92, 0, -0.085),
            hand,
            (0.30, 0.28),
            (0, -1, -0.2),
            (0.058, 0.048, 0.038),
            _cloth(looks.coat),
        )
        mesh.ellipsoid(end + (0, 0, -0.04), (0.03, 0.04, 0.06), "matte", (*looks.skin, 0.6), 6)
        if looks.bag and x > 0:
            mesh.box(
                end + (-0.06, -0.17, -0.42),
                end + (0.05, 0.17, -0.12),
                "matte",
                _cloth(CLOTHES[int(looks.height * 100) % 12]),
            )
    _torso(mesh, looks, hip, neck)
    _head(mesh, looks, neck)
    if looks.bag and looks.girth > 1.05:
        mesh.ellipsoid((0, -0.17, 1.22), (0.15, 0.11, 0.22), "matte", _cloth(looks.trousers), 10)
    whole = Mesh()
    whole.append(mesh, np.diag((s, s, s, 1.0)))
    return whole


def rider(looks: Looks, phase: int, motor: bool) -> Mesh:
    """Return someone who rides a bicycle, or a motorcycle, of this project's size."""
    mesh = Mesh()
    if motor:
        hip, neck = np.array((0, -0.28, 0.92)), np.array((0, -0.02, 1.42))
        feet = [np.array((x, -0.12, 0.42)) for x in (-0.2, 0.2)]
        hands = [np.array((x, 0.34, 1.06)) for x in (-0.33, 0.33)]
    else:
        hip, neck = np.array((0, -0.24, 1.04)), np.array((0, 0.02, 1.53))
        turn = 2 * np.pi * phase / PHASES
        feet = [
            np.array((x, -0.08 + 0.16 * np.cos(turn + o), 0.34 + 0.16 * np.sin(turn + o)))
            for x, o in ((-0.11, 0.0), (0.11, np.pi))
        ]
        hands = [np.array((x, 0.36, 1.05)) for x in (-0.27, 0.27)]
    for x, foot in zip((-0.09, 0.09), feet, strict=True):
        out = (0.35 * np.sign(x), 1, 0.2) if motor else (0, 1, 0.1)
        end = _limb(
            mesh,
            hip + (x, 0, -0.02),
            foot + (0, -0.04, 0.07),
            (0.45, 0.44),
            out,
            (0.088, 0.062, 0.046),
            _cloth(looks.trousers),
        )
        mesh.ellipsoid(
            end + (0, 0.07, -0.04), (0.047, 0.13, 0.05), "matte", (0.08, 0.07, 0.06, 0.6), 8
        )
    for x, hand in zip((-0.19, 0.19), hands, strict=True):
        end = _limb(
            mesh,
            neck + (x, 0, -0.085),
            hand,
            (0.32, 0.32),
            (0.3 * np.sign(x), -0.3, -1.0),
            (0.058, 0.048, 0.04),
            _cloth(looks.coat),
        )
        mesh.ellipsoid(end, (0.04, 0.05, 0.04), "matte", (0.1, 0.1, 0.1, 0.7), 6)
    _torso(mesh, looks, hip, neck)
    helmet = (*CLOTHES[int(looks.girth * 1000) % 12], 0.3)
    _head(mesh, looks, neck, helmet if motor or looks.bag else None)
    if motor:
        mesh.ellipsoid(neck + (0, 0.02, 0.185), (0.125, 0.14, 0.145), "matte", helmet, 12)
        mesh.ellipsoid(
            neck + (0, 0.075, 0.20), (0.10, 0.10, 0.06), "glass", (0.03, 0.03, 0.03, 0.1), 10
        )
    return mesh
