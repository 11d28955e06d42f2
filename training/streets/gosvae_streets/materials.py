"""Procedural materials and skies as Blender shader nodes. Only :mod:`render` imports this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bpy
import numpy as np

from .scene import Sky

LINEAR = tuple[float, float, float]


class _Nodes:
    """Short hand for building a node tree."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        tree.nodes.clear()

    def new(self, kind: str, inputs: dict[Any, Any] | None = None, **properties: Any) -> Any:
        """Add a node; inputs are values, or sockets to link from."""
        node = self.tree.nodes.new(kind)
        for name, value in properties.items():
            setattr(node, name, value)
        for key, value in (inputs or {}).items():
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[key])
            else:
                node.inputs[key].default_value = value
        return node

    def math(self, operation: str, a: Any, b: Any = 0.0, clamp: bool = False) -> Any:
        return self.new(
            "ShaderNodeMath", {0: a, 1: b}, operation=operation, use_clamp=clamp
        ).outputs[0]

    def vector(self, operation: str, a: Any, b: Any = (0, 0, 0)) -> Any:
        node = self.new("ShaderNodeVectorMath", {0: a, 1: b}, operation=operation)
        return node.outputs["Value" if operation in ("DOT_PRODUCT", "LENGTH") else "Vector"]

    def mix(self, share: Any, a: Any, b: Any, blend: str = "MIX") -> Any:
        a, b = (
            value if isinstance(value, bpy.types.NodeSocket) else (*value, 1.0)[:4]
            for value in (a, b)
        )
        node = self.new("ShaderNodeMix", data_type="RGBA", blend_type=blend)
        for index, value in ((0, share), (6, a), (7, b)):
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[index])
            else:
                node.inputs[index].default_value = value
        return node.outputs[2]

    def noise(self, at: Any, scale: float, detail: float = 3.0, roughness: float = 0.6) -> Any:
        inputs = {"Vector": at, "Scale": scale, "Detail": detail, "Roughness": roughness}
        return self.new("ShaderNodeTexNoise", inputs).outputs[0]

    def ramp(
        self, value: Any, low: float, high: float, to_low: float = 0.0, to_high: float = 1.0
    ) -> Any:
        inputs = {0: value, 1: low, 2: high, 3: to_low, 4: to_high}
        return self.new("ShaderNodeMapRange", inputs, clamp=True).outputs[0]

    def grey(self, value: Any) -> Any:
        return self.new("ShaderNodeCombineColor", {0: value, 1: value, 2: value}).outputs[0]

    def scaled(self, color: Any, value: Any) -> Any:
        """Multiply a colour with a number."""
        return self.mix(1.0, color, self.grey(value), "MULTIPLY")


class Materials:
    """The materials of one scene, made when first asked for."""

    def __init__(self, sky: Sky) -> None:
        self._sky = sky
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return the material with that name; KeyError for one that there is not."""
        if name not in self._made:
            build: Callable[[_Nodes, Any, Any, Any], Any] = _BUILD[name]
            material = bpy.data.materials.new(name)
            material.use_nodes = True
            material.cycles.emission_sampling = "NONE"
            nodes = _Nodes(material.node_tree)
            attribute = nodes.new("ShaderNodeAttribute", attribute_name="tint")
            shader = build(nodes, attribute.outputs["Color"], attribute.outputs["Alpha"], self._sky)
            surface = self._haze(nodes, shader)
            nodes.new("ShaderNodeOutputMaterial", {"Surface": surface})
            self._made[name] = material
        return self._made[name]

    def _haze(self, nodes: _Nodes, shader: Any) -> Any:
        distance = nodes.new("ShaderNodeCameraData").outputs["View Distance"]
        share = nodes.math(
            "SUBTRACT", 1.0, nodes.math("EXPONENT", nodes.math("DIVIDE", distance, -self._sky.haze))
        )
        seen = nodes.math(
            "MULTIPLY", share, nodes.new("ShaderNodeLightPath").outputs["Is Camera Ray"]
        )
        haze = nodes.new(
            "ShaderNodeEmission", {"Color": (*self._sky.horizon, 1.0), "Strength": 0.9}
        )
        return nodes.new("ShaderNodeMixShader", {0: seen, 1: shader, 2: haze.outputs[0]}).outputs[0]


def _principled(nodes: _Nodes, color: Any, roughness: Any, **more: Any) -> Any:
    names = {key.replace("_", " "): value for key, value in more.items()}
    inputs = {"Base Color": color, "Roughness": roughness, **names}
    return nodes.new("ShaderNodeBsdfPrincipled", inputs).outputs[0]


def _rough(nodes: _Nodes, color: Any) -> Any:
    # Most of a street is rough: this costs a third of the principled shader.
    return nodes.new("ShaderNodeBsdfDiffuse", {"Color": color, "Roughness": 0.6}).outputs[0]


def _position(nodes: _Nodes) -> Any:
    return nodes.new("ShaderNodeNewGeometry").outputs["Position"]


def _metres(nodes: _Nodes) -> Any:
    return nodes.new("ShaderNodeUVMap").outputs[0]


def _bump(nodes: _Nodes, height: Any, strength: float, distance: float = 0.02) -> Any:
    return nodes.new(
        "ShaderNodeBump", {"Strength": strength, "Distance": distance, "Height": height}
    ).outputs[0]


def _matte(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    return _rough(nodes, tint)


def _sign(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    # Retro-reflective foil looks brighter than paint.
    return _principled(nodes, tint, 0.45, Emission_Color=tint, Emission_Strength=0.08)


def _paint(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    color = nodes.new("ShaderNodeObjectInfo").outputs["Color"]
    return _principled(nodes, color, 0.35, Metallic=0.15, Coat_Weight=1.0, Coat_Roughness=0.04)


def _panel(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    dirt = nodes.ramp(nodes.noise(_position(nodes), 0.8), 0.3, 0.8, 1.0, 0.82)
    return _rough(nodes, nodes.scaled(tint, dirt))


def _glass(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    # Not quite flat, so that what it mirrors wavers as in real panes.
    wave = _bump(nodes, nodes.noise(_position(nodes), 1.3, 0.0), 0.05, 0.06)
    return _principled(nodes, tint, rough, IOR=1.6, Specular_IOR_Level=0.9, Normal=wave)


def _lit(strength: float, day: float = 0.0) -> Callable[[_Nodes, Any, Any, Any], Any]:
    def build(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
        power = strength if sky.lamps else day
        return _principled(nodes, tint, rough, Emission_Color=tint, Emission_Strength=power)

    return build


def _window_lit(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    color = tint if sky.lamps else nodes.scaled(tint, 0.16)
    return _principled(
        nodes,
        color,
        rough,
        IOR=1.6,
        Emission_Color=tint,
        Emission_Strength=0.55 if sky.lamps else 0.0,
    )


def _shop(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    glow = 0.8 if sky.lamps else 0.12
    return _principled(nodes, tint, 0.06, IOR=1.55, Emission_Color=tint, Emission_Strength=glow)


def _metal(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    return _principled(nodes, tint, rough, Metallic=0.55)


def _courses(
    nodes: _Nodes,
    at: Any,
    tint: Any,
    shades: tuple[float, float],
    mortar: tuple[float, ...],
    gap: float,
    size: tuple[float, float],
    bias: float = 0.0,
) -> Any:
    """Bricks, stones, tiles or slabs of `size` (width, height) in m, in two shades of a tint."""
    return nodes.new(
        "ShaderNodeTexBrick",
        {
            "Vector": at,
            "Color1": nodes.scaled(tint, shades[0]),
            "Color2": nodes.scaled(tint, shades[1]),
            "Mortar": mortar,
            "Scale": 1.0,
            "Mortar Size": gap,
            "Brick Width": size[0],
            "Row Height": size[1],
            "Bias": bias,
        },
    )


def _brick(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _metres(nodes)
    texture = _courses(
        nodes, at, tint, (0.72, 1.18), (0.42, 0.39, 0.34, 1), 0.009, (0.235, 0.078), -0.1
    )
    stain = nodes.ramp(nodes.noise(_position(nodes), 0.35, 1.0), 0.3, 0.75, 0.78, 1.08)
    return _rough(nodes, nodes.scaled(texture.outputs["Color"], stain))


def _stone(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _metres(nodes)
    texture = _courses(nodes, at, tint, (0.85, 1.1), (0.26, 0.24, 0.21, 1), 0.008, (0.7, 0.32))
    stain = nodes.ramp(nodes.noise(_position(nodes), 0.5, 2.0), 0.3, 0.75, 0.7, 1.08)
    return _rough(nodes, nodes.scaled(texture.outputs["Color"], stain))


def _plaster(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _position(nodes)
    stretched = nodes.vector("MULTIPLY", at, (1.0, 1.0, 0.18))
    streaks = nodes.ramp(nodes.noise(stretched, 1.6, 2.0), 0.35, 0.8, 1.04, 0.80)
    return _rough(nodes, nodes.scaled(tint, streaks))


def _roof(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _metres(nodes)
    texture = _courses(nodes, at, tint, (0.75, 1.15), (0.03, 0.03, 0.03, 1), 0.012, (0.3, 0.26))
    return _rough(nodes, texture.outputs["Color"])


def _asphalt(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _position(nodes)
    grain = nodes.ramp(nodes.noise(at, 55.0, 1.0, 0.8), 0.3, 0.7, 0.78, 1.2)
    broad = nodes.ramp(nodes.noise(at, 0.22, 3.0, 0.7), 0.3, 0.7, 0.78, 1.14)
    cells = nodes.new(
        "ShaderNodeTexVoronoi", {"Vector": at, "Scale": 0.30}, feature="DISTANCE_TO_EDGE"
    )
    # Cracks waver, and are not everywhere.
    edge = nodes.math(
        "ADD",
        cells.outputs["Distance"],
        nodes.math("MULTIPLY", nodes.math("SUBTRACT", broad, 0.93), 0.35),
    )
    crack = nodes.ramp(nodes.math("ABSOLUTE", edge), 0.0, 0.006, 0.55, 1.0)
    color = nodes.scaled(tint, nodes.math("MULTIPLY", nodes.math("MULTIPLY", grain, broad), crack))
    if not sky.wet:
        return _rough(nodes, color)
    pools = nodes.ramp(nodes.noise(at, 0.33, 3.0), 0.62 - 0.25 * sky.wet, 0.72 - 0.2 * sky.wet)
    color = nodes.scaled(color, nodes.ramp(pools, 0, 1, 0.62, 0.42))
    return _principled(nodes, color, nodes.ramp(pools, 0, 1, 0.34, 0.06), Specular_IOR_Level=0.6)


def _line(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _position(nodes)
    worn = nodes.ramp(nodes.noise(at, 9.0, 3.0, 0.75), 0.50, 0.66)
    where = nodes.ramp(nodes.noise(at, 0.4, 1.0), 0.25, 0.75, 0.25, 0.95)
    share = nodes.math("MULTIPLY", worn, where)
    ground = (0.13, 0.13, 0.13)
    color = nodes.mix(share, tint, ground)
    if sky.wet:
        return _principled(nodes, nodes.scaled(color, 0.7), 0.2, Specular_IOR_Level=0.6)
    return _rough(nodes, color)


def _slab(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _position(nodes)
    texture = _courses(nodes, at, tint, (0.86, 1.08), (0.12, 0.115, 0.11, 1), 0.010, (0.75, 0.5))
    stain = nodes.ramp(nodes.noise(at, 0.8, 3.0, 0.7), 0.3, 0.75, 1.1, 0.72)
    color = nodes.scaled(texture.outputs["Color"], stain)
    if sky.wet:
        return _principled(nodes, nodes.scaled(color, 0.6), 0.25, Specular_IOR_Level=0.6)
    return _rough(nodes, color)


def _concrete(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _position(nodes)
    stain = nodes.ramp(nodes.noise(at, 2.5, 2.0, 0.7), 0.3, 0.75, 1.08, 0.7)
    return _rough(nodes, nodes.scaled(tint, stain))


def _grass(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = _position(nodes)
    dry = nodes.ramp(nodes.noise(at, 0.5, 3.0), 0.35, 0.7)
    color = nodes.mix(dry, nodes.scaled(tint, 0.75), nodes.mix(0.5, tint, (0.30, 0.24, 0.10)))
    return _rough(
        nodes,
        nodes.scaled(color, nodes.ramp(nodes.noise(at, 38.0, 2.0, 0.8), 0.25, 0.75, 0.6, 1.3)),
    )


def _leaf(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    front = nodes.new("ShaderNodeBsdfDiffuse", {"Color": tint}).outputs[0]
    glow = nodes.mix(1.0, nodes.scaled(tint, 1.4), (1.0, 1.05, 0.5), "MULTIPLY")
    through = nodes.new("ShaderNodeBsdfTranslucent", {"Color": glow}).outputs[0]
    return nodes.new("ShaderNodeMixShader", {0: 0.38, 1: front, 2: through}).outputs[0]


def _bark(nodes: _Nodes, tint: Any, rough: Any, sky: Sky) -> Any:
    at = nodes.vector("MULTIPLY", _position(nodes), (9.0, 9.0, 2.0))
    return _rough(
        nodes, nodes.scaled(tint, nodes.ramp(nodes.noise(at, 2.0, 2.0), 0.3, 0.7, 0.6, 1.2))
    )


_BUILD: dict[str, Callable[[_Nodes, Any, Any, Any], Any]] = {
    "matte": _matte,
    "sign": _sign,
    "paint": _paint,
    "panel": _panel,
    "glass": _glass,
    "metal": _metal,
    "headlamp": _lit(14.0, 0.6),
    "taillamp": _lit(3.0, 0.25),
    "lamp": _lit(4.0, 1.0),
    "signal": _lit(5.0, 3.5),
    "streetlamp": _lit(18.0),
    "window_lit": _window_lit,
    "shop": _shop,
    "brick": _brick,
    "stone": _stone,
    "plaster": _plaster,
    "roof": _roof,
    "asphalt": _asphalt,
    "line": _line,
    "slab": _slab,
    "concrete": _concrete,
    "grass": _grass,
    "leaf": _leaf,
    "bark": _bark,
}


def world(sky: Sky, seed: int) -> Any:
    """Return a world with that sky: a gradient, a glow around the sun, and clouds."""
    made = bpy.data.worlds.new("sky")
    made.use_nodes = True
    made.cycles.sampling_method = "MANUAL"
    made.cycles.sample_map_resolution = 256
    nodes = _Nodes(made.node_tree)
    direction = nodes.vector("NORMALIZE", nodes.new("ShaderNodeTexCoord").outputs["Generated"])
    up = nodes.new("ShaderNodeSeparateXYZ", {0: direction}).outputs[2]
    height = nodes.ramp(up, -0.02, 1.0)
    gradient = nodes.mix(nodes.math("POWER", height, 0.5), sky.horizon, sky.zenith)
    toward = sun_direction(sky)
    cosine = nodes.math("MAXIMUM", nodes.vector("DOT_PRODUCT", direction, tuple(toward)), 0.0)
    strength = min(sky.sun / 6.0, 1.0)
    glow = nodes.math(
        "ADD",
        nodes.math("MULTIPLY", nodes.math("POWER", cosine, 6.0), 0.28 * strength),
        nodes.math("MULTIPLY", nodes.math("POWER", cosine, 120.0), 0.9 * strength),
    )
    color = nodes.mix(1.0, gradient, nodes.scaled(_constant(nodes, sky.sun_color), glow), "ADD")
    # Clouds hang in a plane, so that they crowd towards the horizon.
    flat = nodes.math("ADD", nodes.math("MAXIMUM", up, 0.0), 0.12)
    plane = nodes.vector(
        "DIVIDE",
        direction,
        nodes.new("ShaderNodeCombineXYZ", {0: flat, 1: flat, 2: flat}).outputs[0],
    )
    plane = nodes.vector(
        "ADD", nodes.vector("MULTIPLY", plane, (1.0, 1.0, 0.0)), (seed % 97, seed % 89, 0.0)
    )
    puffs = nodes.noise(plane, 0.9, 5.0, 0.56)
    low = 0.72 - 0.42 * sky.clouds
    cover = nodes.math("MULTIPLY", nodes.ramp(puffs, low, low + 0.16), nodes.ramp(up, 0.0, 0.10))
    shade = nodes.ramp(nodes.noise(plane, 2.1, 3.0), 0.3, 0.75, 1.12, 0.72)
    cloud = nodes.scaled(
        _constant(nodes, sky.cloud_color),
        nodes.math("MULTIPLY", shade, nodes.math("ADD", 0.95, nodes.math("MULTIPLY", glow, 0.8))),
    )
    color = nodes.mix(nodes.math("MULTIPLY", cover, 0.9), color, cloud)
    # Clouds cost much; only what is looked at, or mirrored, needs them.
    mean = nodes.mix(0.6 * sky.clouds, gradient, sky.cloud_color)
    plain = nodes.new("ShaderNodeBackground", {"Color": mean})
    full = nodes.new("ShaderNodeBackground", {"Color": color})
    path = nodes.new("ShaderNodeLightPath").outputs
    seen = nodes.math("MAXIMUM", path["Is Camera Ray"], path["Is Glossy Ray"])
    both = nodes.new("ShaderNodeMixShader", {0: seen, 1: plain.outputs[0], 2: full.outputs[0]})
    nodes.new("ShaderNodeOutputWorld", {"Surface": both.outputs[0]})
    return made


def _constant(nodes: _Nodes, color: LINEAR) -> Any:
    node = nodes.new("ShaderNodeRGB")
    node.outputs[0].default_value = (*color, 1.0)
    return node.outputs[0]


def sun_direction(sky: Sky) -> np.ndarray:
    """Return the unit vector towards the sun."""
    flat = np.cos(sky.elevation)
    return np.array(
        (-np.sin(sky.azimuth) * flat, np.cos(sky.azimuth) * flat, np.sin(sky.elevation))
    )
