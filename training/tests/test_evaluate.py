"""Figures: agreement with Cityscapes' own evaluation, and what sending labels costs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from trees import write_camvid, write_cityscapes

from gosvae_codec import CAMVID, CITYSCAPES, ModelBundle
from gosvae_codec.labels import CITYSCAPES_IDS
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.testing import write_tiny_bundle
from gosvae_training import evaluate
from gosvae_training.data.datasets import load_dataset
from gosvae_training.data.samples import iterate
from gosvae_training.evaluate import send_labels, table

KEYS = (
    "miou expert_miou agreement per_class bytes_per_frame vehicle_macs receiver_macs vehicle_ms "
    "receiver_ms levels"
)


def test_miou_is_that_of_cityscapes_own_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="cityscapesscripts is not installed",
    )
    root = write_cityscapes(tmp_path / "towns", "labelIds")
    ids = np.zeros(256, np.uint8)
    ids[list(CITYSCAPES_IDS.values())] = list(CITYSCAPES_IDS)
    rng, matrix = np.random.default_rng(0), ConfusionMatrix()
    truths = sorted((root / "gtFine/val/ulm").glob("*_labelIds.png"))
    guesses = []
    for index, sample in enumerate(iterate(load_dataset(root, "val", CITYSCAPES))):
        guess = np.where(
            rng.random(sample.mask.shape) < 0.3, rng.integers(0, 19, sample.mask.shape), sample.mask
        )
        guess = np.where(guess == 255, 0, guess).astype(np.uint8)
        matrix.add(sample.mask, guess)
        guesses.append(str(tmp_path / f"guess{index}.png"))
        cv2.imwrite(guesses[-1], ids[guess])
    assert len(matrix.iou()) == 19
    official.args.quiet = True
    official.args.JSONOutput = False
    official.args.evalInstLevelScore = False
    result = official.evaluateImgLists(guesses, [str(path) for path in truths], official.args)
    assert matrix.miou() == result["averageScoreClasses"]
    for label, value in matrix.iou().items():
        name = next(each.name for each in CITYSCAPES.labels if each.id == label)
        assert value == result["classScores"][name]


@pytest.mark.parametrize("layout", ["camvid", "cityscapes"])
def test_a_bundle_is_measured_on_any_known_layout(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundles" / "tiny")
    path = bundle.path if isinstance(bundle, ModelBundle) else Path(bundle)
    if layout == "camvid":
        root = write_camvid(tmp_path / "data")
    else:
        root = write_cityscapes(tmp_path / "data", "labelTrainIds")
    file = tmp_path / "figures.json"
    assert evaluate.main([str(path), "--data", str(root), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert set(KEYS.split()) <= set(figures)
    assert figures["levels"][-1]["bytes_per_frame"] == figures["bytes_per_frame"] > 0
    assert figures["vehicle_ms"] > 0 and figures["receiver_ms"] > 0
    assert [row["scale"] for row in figures["labels"]] == [4, 8]
    printed = capsys.readouterr().out
    assert table(figures) in printed and "frames, no codec" in printed
    assert "| tokens, 1 level |" in printed and "| labels, 1 level |" in table(figures, "labels")


def test_labels_that_are_sent_arrive() -> None:
    mask = np.full((96, 128), CAMVID.ids[3], np.uint8)
    mask[:48] = CAMVID.ids[0]
    size, received = send_labels(mask, 4, CAMVID)
    assert np.array_equal(received, mask) and size < 40
    mask[10, 10] = CAMVID.ids[5]
    assert (send_labels(mask, 8, CAMVID)[1] != mask).sum() == 1


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_without_labels_agreement_stands_for_miou(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundles" / "tiny")
    path = bundle.path if isinstance(bundle, ModelBundle) else Path(bundle)
    data = tmp_path / "my drive.mp4"
    frames = [np.full((48, 64, 3), 50 * index, np.uint8) for index in range(4)]
    if kind == "video":
        writer = cv2.VideoWriter(str(data), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
        for frame in frames:
            writer.write(frame)
        writer.release()
    else:
        data.mkdir()
        for index, frame in enumerate(frames):
            cv2.imwrite(str(data / f"{index}.png"), frame)
    file = tmp_path / "figures.json"
    assert evaluate.main([str(path), "--data", str(data), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["miou"] is None and figures["metric"] == "agreement"
    assert 0 <= figures["agreement"] <= 1 and figures["per_class"]
    assert all("agreement" in row for row in figures["labels"] + figures["levels"])
    printed = capsys.readouterr().out
    assert "nan" not in printed.lower() and "mIoU" not in printed
    assert "my drive.mp4, unlabelled, 4 frames at 64x48" in printed
    part = ["--range", "0.5", "1", "--every", "2"]
    assert evaluate.main([str(path), "--data", str(data), *part]) == 0
    assert ", 1 frames at 64x48" in capsys.readouterr().out
