"""A head of depths on what a bundle's receiver makes of tokens."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch

from gosvae_codec.manifest import FEATURES, record
from gosvae_codec.tasks import FEATURES_KEY
from gosvae_codec.testing import write_tiny_bundle
from gosvae_training.tasks.depth_head import depth_loss
from gosvae_training.tasks.head import main as head


def write_streets(root: Path) -> None:
    """Two frames of each split: brighter on the left, where things are at 4 m; at 16 m right."""
    for split in ("train", "val"):
        for index in range(2):
            frame = np.full((64, 96, 3), 40 + 5 * index, np.uint8)
            frame[:, :48] += 150
            metres = np.where(frame[..., 0] > 100, 4, 16) * 256
            for folder, name, picture in (
                ("leftImg8bit", f"{index}_leftImg8bit.png", frame),
                ("depth", f"{index}_depth.png", metres.astype(np.uint16)),
            ):
                (root / folder / split / "city").mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / folder / split / "city" / name), picture)


def test_unknown_depths_cost_nothing() -> None:
    metres = torch.tensor([[[0.0, 2.0], [8.0, 500.0]]])
    made = torch.tensor([[[9.0, 2.0], [8.0, 9.0]]], requires_grad=True)
    assert depth_loss(made, metres).item() == 0
    assert depth_loss(2 * made, metres).item() == pytest.approx(np.log(2))
    assert depth_loss(made, torch.zeros(1, 2, 2)).item() == 0


def test_a_head_of_depths_learns_what_tokens_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "models" / "tiny")
    write_streets(tmp_path / "streets")
    file = tmp_path / "depth.onnx"
    options = [str(bundle), "--kind", "depth", "--data", str(tmp_path / "streets")]
    options += ["--views", "40", "--steps", "240", "--batch", "4", "--output", str(file)]
    assert head(options) == 0
    lines = capsys.readouterr().out.splitlines()
    errors = {line.split(":")[0]: float(line.split()[-4].rstrip(",")) for line in lines[1:]}
    assert list(errors) == ["1 levels", "2 levels", "mean of each place", "mean of each row"]
    # A row's mean is 8 m; a place's is exact, as all frames are alike.
    assert errors["mean of each row"] == pytest.approx(0.75, abs=0.01)
    assert errors["2 levels"] < 0.5 * errors["mean of each row"]
    session = ort.InferenceSession(str(file))
    features = record(bundle / FEATURES)["sha256"]
    assert session.get_modelmeta().custom_metadata_map == {FEATURES_KEY: features}
    assert [each.name for each in session.get_outputs()] == ["depth"]
    assert head([*options, "--split", "test"]) == 1
    assert "no files" in capsys.readouterr().err
