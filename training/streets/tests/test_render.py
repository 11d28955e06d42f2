"""What only Blender can show: exact labels and depth, and a set that goes on where it was left."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs Blender: make test-streets")

from gosvae_streets.mesh import Mesh  # noqa: E402
from gosvae_streets.render import Renderer, silence  # noqa: E402
from gosvae_streets.scene import Scene, Thing  # noqa: E402

WIDTH, HEIGHT = 80, 48


def test_labels_are_exact_to_the_pixel(tmp_path: Path) -> None:
    """A thin bar and a tilted board: a pixel is theirs if the ray through its centre hits them."""
    scene = Scene.draw(1, 0, 1.0, sky="overcast")
    bar = [(0.31, -1, 10), (0.35, -1, 10), (0.35, 1.2, 10), (0.31, 1.2, 10)]
    board = [(-3, -1.3, 14), (-0.6, -1.1, 14), (-0.8, 0.7, 14), (-2.5, 1.1, 14)]
    things = []
    for corners in (board, bar):
        mesh = Mesh()
        mesh.polygon(corners, "matte")
        things.append(Thing("pole", (mesh,), scene.camera))
    scene = dataclasses.replace(scene, things=tuple(things))
    with silence(tmp_path / "log"):
        frame = Renderer(scene, (WIDTH, HEIGHT), 1, 1, 0).render(0.0)
    k = scene.intrinsics(WIDTH, HEIGHT)
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    expected = np.zeros((HEIGHT, WIDTH), np.int32)
    for number, corners in enumerate((board, bar), 1):
        flat = np.array(corners) @ k.T
        flat = flat[:, :2] / flat[:, 2:]
        inside = np.ones(u.shape, bool)
        for a, b in zip(flat, np.roll(flat, -1, 0), strict=True):
            inside &= (b[0] - a[0]) * (v - a[1]) - (b[1] - a[1]) * (u - a[0]) >= 0
        expected[inside] = number
    assert 0 < (expected == 2).sum() < 60
    np.testing.assert_array_equal(frame.index, expected)
    np.testing.assert_allclose(frame.depth[expected == 1], 14, rtol=1e-4)
    np.testing.assert_allclose(frame.depth[expected == 2], 10, rtol=1e-4)
    assert np.isinf(frame.depth[expected == 0]).all()
    assert frame.image.shape == (HEIGHT, WIDTH, 3)


def test_motion_blur_leaves_labels_sharp(tmp_path: Path) -> None:
    scene = Scene.draw(1, 0, 1.0, sky="sun")
    with silence(tmp_path / "log"):
        sharp = Renderer(scene, (WIDTH, HEIGHT), 1, 1, 0).render(0.5)
        blurred = Renderer(scene, (WIDTH, HEIGHT), 1, 1, 0, shutter=1.0, rate=2.0).render(0.5)
    np.testing.assert_array_equal(sharp.index, blurred.index)
    assert np.abs(sharp.image.astype(int) - blurred.image).mean() > 2


def test_a_set_goes_on_where_it_was_left(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "set"
    command = ["render", str(folder), "--frames", "2", "--size", "64x32", "--samples", "1"]
    # In a process that has not loaded Blender, whose children could not load it again.
    first = _run(command)
    assert first.returncode == 0 and first.stdout == "" and "2/2" in first.stderr, first.stderr
    images = sorted(folder.glob("leftImg8bit/train/streets0001/*.png"))
    cameras = sorted(folder.glob("camera/train/streets0001/*.json"))
    assert len(images) == len(cameras) == 2
    before = [path.read_bytes() for path in images]
    times = [path.stat().st_mtime_ns for path in images]
    cameras[1].unlink()
    assert _run(command).returncode == 0
    assert [path.read_bytes() for path in images] == before
    assert images[0].stat().st_mtime_ns == times[0] and images[1].stat().st_mtime_ns > times[1]
    ids = cv2.imread(
        str(folder / "gtFine/train/streets0001/streets0001_000000_000000_gtFine_labelTrainIds.png"),
        cv2.IMREAD_UNCHANGED,
    )
    assert ids.shape == (32, 64)
    assert ids[-1, 32] == 0, "we drive on the road"
    assert json.loads(cameras[1].read_text())["time"] == 1.0
    other = _run([*command, "--samples", "2"])
    assert other.returncode == 1
    assert "begun with samples 1, not 2" in other.stderr and other.stderr.count("\n") == 1


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gosvae_streets", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
