"""A head for a class that a bundle lacked, trained after a drive, reads the drive's recording."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from gosvae_codec import ModelBundle
from gosvae_tools.drives import open_source

ROOT = Path(__file__).resolve().parents[1]
READY = ROOT / ".venv-training" / "ready.json"
DRIVE = ROOT / "drives" / "street.mcap"
ROAD = ROOT / "models" / "road"
TASK = ("--name", "light", "--kind", "semantic", "--labels", "light.yaml")


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bright(frame: np.ndarray) -> np.ndarray:
    """Return the mask that the head is to learn: 1 where a frame, (H, W, 3), is bright, else 0."""
    smooth = cv2.GaussianBlur(frame.mean(2), (0, 0), 8)
    return (smooth > 128).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.skipif(not READY.exists(), reason=".venv-training is not there; make test-training")
def test_a_recording_answers_what_nobody_had_asked(tmp_path: Path) -> None:
    gosvae = (sys.executable, "-m", "gosvae_bringup")
    run(*gosvae, "encode", DRIVE, "-o", "packets.mcap", "--bundle", ROAD, cwd=tmp_path)
    frames = [each.image for each in open_source(DRIVE).frames(labels=False)]
    # Every second of the first half is learnt, and every fourth of the second half measured.
    half = len(frames) // 2
    for split, some in (("train", frames[:half:2]), ("val", frames[half::4])):
        for name in ("images", "masks"):
            (tmp_path / "data" / name / split).mkdir(parents=True)
        for index, frame in enumerate(some):
            file = f"{split}/{index:03}.png"
            cv2.imwrite(str(tmp_path / "data" / "images" / file), frame[..., ::-1])
            cv2.imwrite(str(tmp_path / "data" / "masks" / file), bright(frame))
    labels = [{"id": 0, "name": "dark"}, {"id": 1, "name": "bright"}]
    (tmp_path / "light.yaml").write_text(yaml.safe_dump(labels))
    said = run(
        *(sys.executable, ROOT / "tools" / "environment.py", "training", "--exec", "python"),
        *("-m", "gosvae_training.tasks.head", ROAD, "--data", "data", "--labels", "light.yaml"),
        *("--views", "1", "--steps", "60", "--batch", "2", "--output", "light.onnx"),
        cwd=tmp_path,
    )
    assert "2 levels: mIoU" in said
    run(*gosvae, "add-head", ROAD, "light.onnx", "road-light", *TASK, cwd=tmp_path)
    new = ModelBundle.load(tmp_path / "road-light")
    assert new.fingerprint == ModelBundle.load(ROAD).fingerprint
    run(
        *(*gosvae, "decode", "packets.mcap", "-o", "light"),
        *("--bundle", new.path, "--tasks", "light"),
        cwd=tmp_path,
    )
    files = sorted((tmp_path / "light").glob("*.png"))
    assert len(files) == len(frames)
    masks = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files[half:]]
    wanted = np.stack([bright(frame) for frame in frames[half:]])
    right = np.mean(np.stack(masks) == wanted)
    # Whoever says the commoner label everywhere is right less often.
    assert right > 0.5 + max(np.mean(wanted), 1 - np.mean(wanted)) / 2
