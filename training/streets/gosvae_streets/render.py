"""Build a scene in Blender and render its frames, labels and depths with Cycles on the CPU.

The labels come from a second rendering of the same scene at the same instant: one ray through the
centre of every pixel, no motion blur, that brings back the index of the object it hits.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import bpy
import cv2
import numpy as np
import numpy.typing as npt
import OpenEXR

from .materials import Materials, sun_direction, world
from .mesh import Array, Arrays, Mesh
from .scene import Scene


class Rendered(NamedTuple):
    """One frame.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        index: int32 (H, W), 0 for the sky, k for `scene.things[k - 1]`.
        depth: float32 (H, W), distance along the optical axis in m, inf for the sky.
    """

    image: npt.NDArray[np.uint8]
    index: npt.NDArray[np.int32]
    depth: npt.NDArray[np.float32]


class Renderer:
    """A scene in Blender, whose frames can be rendered at any time of the drive.

    Args:
        scene: what to render.
        size: (width, height) in pixels.
        samples: paths per pixel, before denoising.
        threads: of the CPU.
        seed: of the noise.
        shutter: share of the time from frame to frame that the shutter is open; 0 for no blur.
        rate: frames per second; matters for the blur only.
    """

    def __init__(
        self,
        scene: Scene,
        size: tuple[int, int],
        samples: int,
        threads: int,
        seed: int,
        shutter: float = 0.0,
        rate: float = 10.0,
    ) -> None:
        self._scene, self._size, self._samples = scene, size, samples
        self._shutter, self._rate = shutter, rate
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self._meshes: dict[int, Any] = {}
        self._materials = Materials(scene.sky)
        self._objects = []
        collection = bpy.context.scene.collection
        for number, thing in enumerate(scene.things, 1):
            made = bpy.data.objects.new(thing.label, self._mesh(thing.meshes[0]))
            made.pass_index = number
            made.color = (*(c**2.2 for c in thing.color), 1.0)
            collection.objects.link(made)
            _place(made, thing.pose(0.0))
            self._objects.append(made)
        self._light(seed)
        self._camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
        self._camera.data.sensor_fit = "HORIZONTAL"
        self._camera.data.angle = scene.view.fov
        self._camera.data.clip_start, self._camera.data.clip_end = 0.05, 5000.0
        self._camera.rotation_mode = "QUATERNION"
        collection.objects.link(self._camera)
        self._settings(threads, seed)

    def render(self, time: float) -> Rendered:
        """Render the frame at a time in seconds."""
        if self._shutter:
            self._animate(time)
        else:
            self._pose(time)
        scene = bpy.context.scene
        with tempfile.TemporaryDirectory() as folder:
            picture, passes = Path(folder, "image.png"), Path(folder, "passes.exr")
            self._beauty()
            scene.render.filepath = str(picture)
            bpy.ops.render.render(write_still=True)
            image = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
            self._exact()
            if self._shutter:
                self._still()
                self._pose(time)
            scene.render.filepath = str(passes)
            bpy.ops.render.render(write_still=True)
            index, depth = _read_passes(passes)
        depth[index == 0] = np.inf
        return Rendered(np.asarray(image, np.uint8), index, depth)

    def _pose(self, time: float) -> None:
        for thing, made in zip(self._scene.things, self._objects, strict=True):
            if thing.moves:
                _place(made, thing.pose(time))
                if len(thing.meshes) > 1:
                    made.data = self._mesh(thing.mesh(time))
        _place(self._camera, self._optical(time))

    def _animate(self, time: float) -> None:
        """Set key frames half a shutter before and after, for Cycles to blur in between."""
        half = 0.5 * self._shutter / self._rate
        self._still()
        moving = [
            pair for pair in zip(self._scene.things, self._objects, strict=True) if pair[0].moves
        ]
        for frame, at in ((0, time - half), (1, time), (2, time + half)):
            for thing, made in moving:
                _place(made, thing.pose(at))
                for path in ("location", "rotation_quaternion"):
                    made.keyframe_insert(path, frame=frame)
            _place(self._camera, self._optical(at))
            for path in ("location", "rotation_quaternion"):
                self._camera.keyframe_insert(path, frame=frame)
        for thing, made in moving:
            if len(thing.meshes) > 1:
                made.data = self._mesh(thing.mesh(time))
        scene = bpy.context.scene
        scene.render.motion_blur_shutter = 2.0
        scene.frame_set(1)

    def _still(self) -> None:
        for each in (*self._objects, self._camera):
            each.animation_data_clear()

    def _optical(self, time: float) -> Array:
        # Blender's cameras look along -z with y up.
        return self._scene.camera(time) @ np.diag((1.0, -1.0, -1.0, 1.0))

    def _light(self, seed: int) -> None:
        scene, sky = bpy.context.scene, self._scene.sky
        scene.world = world(sky, seed)
        lamp = bpy.data.lights.new("sun", "SUN")
        lamp.energy, lamp.color = sky.sun, sky.sun_color
        lamp.angle = np.radians(0.6 if sky.sun > 1 else 8.0)
        sun = bpy.data.objects.new("sun", lamp)
        sun.rotation_mode = "QUATERNION"
        toward = sun_direction(sky)
        side = np.cross((0.0, 0.0, 1.0), toward)
        side /= np.linalg.norm(side)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack((side, np.cross(toward, side), toward), 1)
        _place(sun, matrix)
        scene.collection.objects.link(sun)

    def _settings(self, threads: int, seed: int) -> None:
        scene = bpy.context.scene
        scene.camera = self._camera
        render, cycles = scene.render, scene.cycles
        render.engine = "CYCLES"
        cycles.device = "CPU"
        render.resolution_x, render.resolution_y = self._size
        render.resolution_percentage = 100
        render.threads_mode, render.threads = "FIXED", threads
        render.use_persistent_data = True
        render.use_compositing = render.use_sequencer = False
        cycles.seed = seed % 2**31
        cycles.use_adaptive_sampling = cycles.use_light_tree = False
        cycles.sample_clamp_indirect = 4.0
        cycles.sample_clamp_direct = 30.0
        cycles.caustics_reflective = cycles.caustics_refractive = False
        cycles.blur_glossy = 1.0
        # Light from the second bounce on is estimated from how open a place is: half the time.
        cycles.use_fast_gi, cycles.fast_gi_method, cycles.ao_bounces_render = True, "REPLACE", 1
        scene.world.light_settings.distance = 8.0
        scene.view_settings.view_transform = "Khronos PBR Neutral"
        scene.view_settings.exposure = self._scene.sky.exposure
        layer = bpy.context.view_layer
        layer.use_pass_object_index = True
        layer.use_pass_z = True
        cycles.use_denoising = True
        cycles.denoiser = "OPENIMAGEDENOISE"
        cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
        cycles.denoising_prefilter = "FAST"
        cycles.denoising_quality = "BALANCED"

    def _beauty(self) -> None:
        scene = bpy.context.scene
        cycles, output = scene.cycles, scene.render.image_settings
        cycles.samples = self._samples
        cycles.use_denoising = True
        cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 3, 2, 2
        cycles.transmission_bounces, cycles.transparent_max_bounces = 2, 2
        cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
        scene.render.use_motion_blur = bool(self._shutter)
        output.media_type = "IMAGE"
        output.file_format, output.color_mode, output.color_depth = "PNG", "RGB", "8"
        output.compression = 0

    def _exact(self) -> None:
        scene = bpy.context.scene
        cycles, output = scene.cycles, scene.render.image_settings
        cycles.samples = 1
        cycles.use_denoising = False
        cycles.max_bounces = cycles.diffuse_bounces = cycles.glossy_bounces = 0
        # The narrowest filter there is: every ray goes through the centre of its pixel.
        cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 0.01
        scene.render.use_motion_blur = False
        output.media_type = "MULTI_LAYER_IMAGE"
        output.file_format, output.color_depth = "OPEN_EXR_MULTILAYER", "32"
        output.exr_codec = "ZIP"

    def _mesh(self, mesh: Mesh) -> Any:
        if id(mesh) not in self._meshes:
            self._meshes[id(mesh)] = self._convert(mesh.arrays())
        return self._meshes[id(mesh)]

    def _convert(self, arrays: Arrays) -> Any:
        made = bpy.data.meshes.new("mesh")
        made.vertices.add(len(arrays.vertices))
        made.vertices.foreach_set("co", arrays.vertices.astype(np.float32).reshape(-1))
        made.loops.add(len(arrays.corners))
        made.loops.foreach_set("vertex_index", arrays.corners)
        starts = np.concatenate(([0], np.cumsum(arrays.sizes)[:-1])).astype(np.int32)
        made.polygons.add(len(arrays.sizes))
        made.polygons.foreach_set("loop_start", starts)
        for name in arrays.names:
            made.materials.append(self._materials[name])
        made.polygons.foreach_set("material_index", arrays.materials)
        made.polygons.foreach_set("use_smooth", arrays.smooth)
        tint = made.attributes.new("tint", "FLOAT_COLOR", "CORNER")
        tint.data.foreach_set(
            "color", np.repeat(arrays.tints, arrays.sizes, 0).astype(np.float32).reshape(-1)
        )
        layer = made.uv_layers.new(name="metres")
        layer.uv.foreach_set("vector", metres(arrays, starts).astype(np.float32).reshape(-1))
        made.update(calc_edges=True)
        if arrays.smooth.any():
            made.set_sharp_from_angle(angle=np.radians(38))
        return made


def metres(arrays: Arrays, starts: npt.NDArray[np.int32]) -> Array:
    """Return texture coordinates in m for every corner, float (L, 2), from which way faces look."""
    points = arrays.vertices[arrays.corners]
    a = points[starts]
    normal = np.cross(points[starts + 1] - a, points[starts + 2] - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    level = np.abs(normal[:, 2]) > 0.98
    across = np.stack((-normal[:, 1], normal[:, 0], np.zeros(len(normal))), -1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    across[level] = (1, 0, 0)
    up = np.cross(normal, across)
    across, up = (np.repeat(v, arrays.sizes, 0) for v in (across, up))
    return np.stack(((points * across).sum(1), (points * up).sum(1)), -1)


def _place(made: Any, matrix: Array) -> None:
    from mathutils import Matrix

    made.rotation_mode = "QUATERNION"
    location, rotation, scale = Matrix(matrix.tolist()).decompose()
    made.location, made.rotation_quaternion, made.scale = location, rotation, scale


def _read_passes(path: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = {
            name: channel.pixels for part in file.parts for name, channel in part.channels.items()
        }
    index = next(v for k, v in channels.items() if "IndexOB" in k or "Object Index" in k)
    depth = next(
        v
        for k, v in channels.items()
        if k.endswith(("Depth.Z", "Depth.V", "Depth.X")) or ".Depth." in k
    )
    return np.rint(index).astype(np.int32), np.array(depth, np.float32)


@contextmanager
def silence(log: Path) -> Iterator[None]:
    """Send what Blender's libraries print to a file."""
    saved = os.dup(1)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)
