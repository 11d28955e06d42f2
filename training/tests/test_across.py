"""Across drives: splits by drive, and imitation of an expert's features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from tiny import CONFIG, SCHEDULE

from gosvae_codec import CAMVID
from gosvae_training import train
from gosvae_training.config import load_config
from gosvae_training.data.datasets import load_dataset
from gosvae_training.data.samples import DataError, describe
from gosvae_training.evaluate import main as evaluate
from gosvae_training.losses import unexplained_variance
from gosvae_training.models.decoders import UpperDecoder
from gosvae_training.models.expert import Expert
from gosvae_training.strict import ConfigError

DRIVES = {"train": ("0001TP_1", "0006R0_1", "0016E5_1"), "val": ("0016E5_2", "0016E5_3")}


def write_drives(root: Path, names: dict[str, tuple[str, ...]] = DRIVES) -> Path:
    """Write frames of 96x64 whose brightness and label count them, drive by drive."""
    for split, frames in names.items():
        for index, name in enumerate(frames):
            for folder, image in (
                (split, np.full((64, 96, 3), 10 * index + 100 * (split == "val"), np.uint8)),
                (f"{split}annot", np.full((64, 96), index, np.uint8)),
            ):
                (root / folder).mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(root / folder / f"{name}.png"), image)
    return root


def test_a_drive_is_left_out_or_alone_over_both_folders(tmp_path: Path) -> None:
    root = write_drives(tmp_path)
    only, without = (load_dataset(root, f"{kind}-0016E5") for kind in ("only", "without"))
    assert describe(only) == "CamVid only-0016E5, 3 frames at 96x64"
    assert [int(only[index].frame.mean()) for index in range(3)] == [20, 100, 110]
    assert [int(without[index].frame.mean()) for index in range(2)] == [0, 10]
    # Masks come from the folder that their frame came from: pole, sky, building.
    names = ["pole", "sky", "building"]
    ids = [CAMVID.by_name(name).id for name in names]
    assert [int(only[index].mask[0, 0]) for index in range(3)] == ids


@pytest.mark.parametrize("drive", ["0001TP", "0006R0", "0016E5"])
def test_a_drive_and_the_others_are_all_frames_and_share_none(tmp_path: Path, drive: str) -> None:
    root = write_drives(tmp_path)
    parts = [load_dataset(root, f"{kind}-{drive}") for kind in ("only", "without")]
    only, without = ({path.name for path in part.frames} for part in parts)
    assert not only & without and len(only | without) == 5
    assert all(name.startswith(drive) for name in only)


def test_a_drive_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_drives(tmp_path)
    with pytest.raises(DataError, match="no drive '0005VD'; there are 0001TP, 0006R0, 0016E5"):
        load_dataset(root, "only-0005VD")
    alone = write_drives(tmp_path / "alone", {"train": ("0001TP_1",), "val": ("0001TP_2",)})
    with pytest.raises(DataError, match="all frames are of '0001TP', the only drive"):
        load_dataset(alone, "without-0001TP")
    bundle = Path(__file__).parents[2] / "models" / "camvid-f16"
    assert evaluate([str(bundle), "--data", str(root), "--split", "only-x"]) == 1
    assert "no drive 'x'; there are 0001TP, 0006R0, 0016E5" in capsys.readouterr().err


def test_a_configuration_may_train_on_all_drives_but_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {
        "train": {"camvid": {"split": "without-0006R0"}},
        "val": {"camvid": {"split": "only-0006R0"}},
    }
    expert = {**SCHEDULE, "steps": 1}
    config = tmp_path / "across.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "data": data, "expert": expert}))
    root = write_drives(tmp_path / "camvid")
    run = [str(config), "--data", str(root), "--runs", str(tmp_path / "runs")]
    assert train.main([*run, "--stage", "expert"]) == 0
    state = torch.load(tmp_path / "runs/tiny/expert/last.pt", weights_only=True)
    assert state["data"] == "CamVid without-0006R0, 4 frames at 96x64"
    assert "data.train.camvid.split: without-0006R0" in state["identity"]


def test_unexplained_variance_is_none_of_the_same_and_all_of_the_mean() -> None:
    wanted = [torch.randn(4, 3, 16, 16) * torch.tensor([1.0, 5.0, 0.2])[:, None, None] + 2]
    assert unexplained_variance(wanted, wanted) == 0
    mean = [wanted[0].mean((0, 2, 3), keepdim=True).expand_as(wanted[0])]
    assert 0.5 < unexplained_variance(mean, wanted) < 1


def test_a_frozen_upper_part_keeps_weights_and_statistics_in_training() -> None:
    torch.manual_seed(0)
    decoder = UpperDecoder(8, Expert(11), 8, 16, blocks=1, frozen=True).train()
    before = {name: value.clone() for name, value in decoder.expert.state_dict().items()}
    vectors = torch.randn(2, 8, 8, 8)
    loss = decoder(vectors).square().mean()
    loss.backward()
    assert all(
        torch.equal(value, before[name]) for name, value in decoder.expert.state_dict().items()
    )
    assert all(parameter.grad is None for parameter in decoder.expert.parameters())
    assert decoder.enter[0].weight.grad.abs().sum() > 0
    shapes = [tuple(each.shape[1:]) for each in decoder.features(vectors)]
    assert shapes == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]


FEATURES: dict[str, Any] = {
    "levels": 2,
    "codes": 16,
    "dim": 8,
    "encoder": {"kind": "light", "shrink": 1, "blocks": 5, "stride": 8, "width": 8},
    "decoder": {"kind": "upper", "width": 8, "frozen": True},
}


def test_features_are_imitated_without_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expert = Expert(11).state_dict()
    weights = tmp_path / "expert.pt"
    torch.save({"averaged": expert}, weights)
    values = {
        **CONFIG,
        "expert": {**SCHEDULE, "steps": 0, "network": {"weights": str(weights)}},
        "tokens": FEATURES,
        "codec": {**SCHEDULE, "steps": 3},
        "losses": {"features": 1.0, "supervised": 0.0},
    }
    config = tmp_path / "features.yaml"
    config.write_text(yaml.safe_dump(values))
    root = write_drives(tmp_path / "camvid")
    assert train.main([str(config), "--data", str(root), "--runs", str(tmp_path / "runs")]) == 0
    state = torch.load(tmp_path / "runs/tiny/codec/last.pt", weights_only=True)
    kept = {name: value for name, value in state["network"].items() if ".expert." in name}
    assert kept
    for name, value in kept.items():
        assert torch.equal(value, expert[name.removeprefix("decoder.expert.")]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": {"features": 1.0}}, "pixels or upper"),
        (
            {
                "losses": {"features": 1.0},
                "tokens": FEATURES,
                "codec": {**SCHEDULE, "teacher": "frame"},
            },
            "teacher: crop",
        ),
    ],
)
def test_choices_that_exclude_each_other_are_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, **change}))
    with pytest.raises(ConfigError, match=message):
        load_config(config)
