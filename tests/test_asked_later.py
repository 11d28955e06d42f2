"""A head for a class that a bundle lacked, trained after a drive, reads the drive's recording."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from commands import GOSVAE, ROOT, TRAINING, needs_training, run

from gosvae_codec import CITYSCAPES, ModelBundle
from gosvae_tools.drives import open_source

DRIVE = ROOT / "drives" / "street.mcap"
ROAD = ROOT / "models" / "road"
BUILDING = CITYSCAPES.by_name("building").id
TASK = ("--name", "houses", "--kind", "semantic", "--labels", "houses.yaml")


@pytest.mark.slow
@needs_training
def test_a_recording_answers_what_nobody_had_asked(tmp_path: Path) -> None:
    run(*GOSVAE, "encode", DRIVE, "-o", "packets.mcap", "--bundle", ROAD, cwd=tmp_path)
    frames = list(open_source(DRIVE).frames())
    wanted = [(frame.label == BUILDING).astype(np.uint8) for frame in frames]
    # Every second of the first half is learnt, and every fourth of the second half measured.
    half = len(frames) // 2
    for split, places in (("train", range(0, half, 2)), ("val", range(half, len(frames), 4))):
        for name in ("images", "masks"):
            (tmp_path / "data" / name / split).mkdir(parents=True)
        for place in places:
            file = f"{split}/{place:03}.png"
            cv2.imwrite(str(tmp_path / "data" / "images" / file), frames[place].image[..., ::-1])
            cv2.imwrite(str(tmp_path / "data" / "masks" / file), wanted[place])
    labels = [{"id": 0, "name": "other"}, {"id": 1, "name": "house"}]
    (tmp_path / "houses.yaml").write_text(yaml.safe_dump(labels))
    said = run(
        *(*TRAINING, "gosvae_training.tasks.head", ROAD),
        *("--data", "data", "--labels", "houses.yaml"),
        *("--views", "1", "--steps", "60", "--batch", "4", "--output", "houses.onnx"),
        cwd=tmp_path,
    )
    assert "2 levels: mIoU" in said
    run(*GOSVAE, "add-head", ROAD, "houses.onnx", "road-houses", *TASK, cwd=tmp_path)
    new = ModelBundle.load(tmp_path / "road-houses")
    assert new.fingerprint == ModelBundle.load(ROAD).fingerprint
    run(
        *(*GOSVAE, "decode", "packets.mcap", "-o", "houses"),
        *("--bundle", new.path, "--tasks", "houses"),
        cwd=tmp_path,
    )
    files = sorted((tmp_path / "houses").glob("*.png"))
    assert len(files) == len(frames)
    made = np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files[half:]])
    truth = np.stack(wanted[half:])
    both, either = ((made == 1) & (truth == 1)).sum(), ((made == 1) | (truth == 1)).sum()
    # Who calls everything a house is right where houses are, and nowhere else.
    assert both / either > 1.5 * truth.mean()
