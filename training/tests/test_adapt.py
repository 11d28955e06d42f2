"""From a drive and somebody's expert to a bundle, and what goes wrong on the way."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from test_detectors import write_detector
from test_experts import NAMES, SHARED, described, frame, write
from tiny import SIZE

from gosvae_codec import Decoder, Encoder, Expert, ModelBundle
from gosvae_codec.labels import Label, LabelSpace
from gosvae_training import adapt, evaluate
from gosvae_training.models.experts import build_expert
from gosvae_training.models.guess import information, rank_pictures

ROOT = Path(__file__).parents[2]
LABELS = LabelSpace("three", tuple(Label(i, name, (i, i, i)) for i, name in enumerate(NAMES)))


def write_drive(path: Path, frames: int = 15, size: tuple[int, int] = (128, 192)) -> Path:
    """A video of blocks in three colours that move."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size[::-1])
    picture = frame((size[0], 2 * size[1]))[0][0].numpy()
    for index in range(frames):
        shown = np.ascontiguousarray(picture[:, 4 * index : 4 * index + size[1]])
        writer.write(shown[..., ::-1])
    writer.release()
    return path


def run(folder: Path, *more: str) -> int:
    labels = folder / "names.yaml"
    labels.write_text(yaml.safe_dump(list(NAMES)))
    return adapt.main(
        [
            *("--drive", str(folder / "my drive.avi"), "--expert", str(folder / "net.onnx")),
            *("--labels", str(labels), "--output", str(folder / "models" / "mine")),
            *("--json", str(folder / "mine.json"), "--minutes", "0.1", *more),
        ]
    )


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A drive, beside the network that is adapted to; trainings are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapt, "STEPS", (60, 60))
    write(tmp_path / "net.onnx", "softmax", (128, 192))
    return write_drive(tmp_path / "my drive.avi")


@pytest.mark.slow
def test_a_drive_and_an_expert_become_a_bundle(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--pictures", "0..255") == 0
    result = json.loads((tmp_path / "mine.json").read_text())
    bundle = ModelBundle.load(result["bundle"])
    assert bundle.input_size == (128, 192)
    assert result["agreement"] > 0.5 and 0 < result["bytes_per_frame"] < 500
    assert set(result["per_class"]) == set(NAMES)
    assert (tmp_path / "runs/mine/contact_sheet.png").exists()
    said = capsys.readouterr().out
    assert "12 frames" not in said and "15 frames, the last fifth held back; 60 steps" in said
    assert "BUNDLE=" in said and "INPUT='" in said and "nan" not in said.lower()
    # The expert of the bundle is the one that was brought.
    picture = frame((128, 192))
    assert (Expert(bundle).segment(picture[0][0].numpy()) == picture[1]).mean() > 0.99
    mask = Decoder(bundle).decode(Encoder(bundle).encode(picture[0][0].numpy())).mask
    assert (mask == picture[1]).mean() > 0.5
    card = (bundle.path / "README.md").read_text()
    assert "gosvae_training.adapt" in card and "agreement" in card and "mIoU 0" not in card
    assert evaluate.main([str(bundle.path), "--data", str(drive)]) == 0
    assert "agreement" in capsys.readouterr().out
    # The same command again has nothing to train; more minutes give more steps.
    assert run(tmp_path, "--pictures", "0..255", "--minutes", "0.15") == 0
    assert "90 steps in all" in capsys.readouterr().out
    assert run(tmp_path, "--pictures", "0..1", "--minutes", "0.2") == 1
    assert "delete that folder, or name another output" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("drive")
def test_several_experts_become_tasks_of_one_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The same colours as labels at the frame's full size, which are called otherwise; and boxes.
    write(tmp_path / "other.onnx", "argmax nhw", (128, 192))
    write_detector(tmp_path / "boxes.onnx", "columns")
    names = {"other names": ["one", "two", "three"], "objects": ["car", "bus", "cyclist"]}
    for stem, each in names.items():
        (tmp_path / f"{stem}.yaml").write_text(yaml.safe_dump(each))
    more = ["--expert", *(str(tmp_path / f"{stem}.onnx") for stem in ("net", "other", "boxes"))]
    more += ["--labels", *(str(tmp_path / f"{stem}.yaml") for stem in ("names", *names))]
    assert run(tmp_path, "--pictures", "0..255", *more) == 0
    result = json.loads((tmp_path / "mine.json").read_text())
    bundle = ModelBundle.load(result["bundle"])
    kinds = {"semantic": "semantic", "other_names": "semantic", "detection": "detection"}
    assert {name: task.kind for name, task in bundle.tasks.items()} == kinds
    for task, each in zip(("other_names", "detection"), names.values(), strict=True):
        assert [label.name for label in bundle.tasks[task].labels.labels] == each
    assert all(result["tasks"][name]["agreement"] > 0.5 for name in ("semantic", "other_names"))
    # Two boxes on each of the three frames held back.
    assert result["tasks"]["detection"]["boxes"] == 6
    picture = frame((128, 192))
    made = Decoder(bundle, min_score=0.0).decode(Encoder(bundle).encode(picture[0][0].numpy()))
    for name in ("semantic", "other_names"):
        mask = Expert(bundle, task=name).apply(picture[0][0].numpy()).mask
        assert (mask == picture[1]).mean() > 0.99
        assert (made.tasks[name].mask == picture[1]).mean() > 0.5
    wanted = Expert(bundle, task="detection").apply(picture[0][0].numpy())
    assert sorted(wanted.classes.tolist()) == [0, 2]
    assert made.tasks["detection"].boxes.shape[1:] == (4,)
    said = capsys.readouterr().out
    assert "task other_names: agreement" in said and "task detection: ap50" in said


def test_mistakes_are_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(message: str, *more: str) -> None:
        assert run(tmp_path, *more) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "runs").exists() and not (tmp_path / "models").exists()

    refuse("my drive.avi: no such file or folder")
    write_drive(tmp_path / "my drive.avi", frames=5)
    refuse("5 frames in")
    write_drive(tmp_path / "my drive.avi")
    refuse("net.onnx: not an ONNX network")
    write(tmp_path / "net.onnx", "150 classes")
    refuse("has 150 channels, but 3 are named")
    write(tmp_path / "net.onnx", "fixed size")
    twice = ["--expert", *[str(tmp_path / "net.onnx")] * 2]
    refuse("2 experts and 1 files of labels", *twice)
    names = str(tmp_path / "names.yaml")
    (tmp_path / "semantic.yaml").write_text(yaml.safe_dump(list(NAMES)))
    taken = ["--labels", names, str(tmp_path / "semantic.yaml")]
    refuse("called 'semantic', which is taken", *twice, *taken)
    refuse("pictures: 3 for 2 experts", *twice, *taken, "--pictures", *["0..1"] * 3)
    write_detector(tmp_path / "boxes.onnx", "centres")
    alone = ["--expert", str(tmp_path / "boxes.onnx")]
    refuse("boxes.onnx: a detector; the first expert has to make masks", *alone)
    refuse("camvid-f16: cannot be a start", "--start", str(ROOT / "models" / "camvid-f16"))


def test_the_pictures_that_an_expert_takes_are_told_by_trying(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 3, (4, 6)).repeat(16, 0).repeat(16, 1) for _ in range(4)]
    frames = [(np.eye(3)[truth] * 180 + 30).astype(np.uint8) for truth in truths]
    for form, names in (
        ("fixed size", {"0..255 rgb", "0..255 bgr"}),
        ("uint8 nhwc", {"rgb", "bgr"}),
    ):
        expert = build_expert(described(write(tmp_path / "a.onnx", form), form), LABELS)
        assert rank_pictures(expert, frames, SIZE)[0].name in names


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_the_pictures_of_a_road_network_are_told() -> None:
    path = SHARED / "experts_apache" / "road_segmentation_adas_0001.onnx"
    names = ["background", "road", "curb", "mark"]
    labels = LabelSpace("roads", tuple(Label(i, n, (i, i, i)) for i, n in enumerate(names)))
    expert = build_expert(described(path, channels=names), labels)
    files = sorted((SHARED / "camvid" / "val").glob("*.png"))[::14]
    frames = [cv2.imread(str(file))[..., ::-1] for file in files]
    best, second, *_ = rank_pictures(expert, frames, (360, 480))
    assert {best.name, second.name} == {"0..255 bgr", "0..255 rgb"}


def test_information_is_great_where_masks_are_certain_varied_and_the_same() -> None:
    classes = torch.randint(0, 3, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    sure = torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float()
    vague, same = 0.1 * sure + 0.3, torch.zeros_like(sure)
    same[:, 0] = 1
    assert information(sure, sure) > 0.9
    assert information(sure, vague) < information(sure, sure)
    assert information(same, same) == pytest.approx(0, abs=1e-6)
    assert information(sure, sure.flip(2)) < 0.5
