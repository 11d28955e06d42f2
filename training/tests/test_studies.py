"""Studies: every shipped one can be read, a tiny one runs, and so does depth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from tiny import CHANNELS, PIXELS, SIZE
from trees import write_camvid, write_cityscapes

from gosvae_training.data.samples import DataError
from gosvae_training.strict import ConfigError
from gosvae_training.studies import page as pages
from gosvae_training.studies import run as studies
from gosvae_training.studies.depth import DepthFrames, Shuffled, depth_errors, typical_depth
from gosvae_training.studies.measure import ByJpeg

FOLDER = Path(__file__).parents[1] / "studies"
EXPERT = {"kind": "torch", "factory": "tiny:expert", "channels": CHANNELS}
STUDY = {
    "title": "Tiny",
    "base": "tiny.yaml",
    "experts": {"one": EXPERT, "two": EXPERT},
    "rows": {
        "imitation": {"expert": "one", "guides": ["two"]},
        "autoencoder": {"expert": "one", "set": ["tokens.codes=0", "losses.imitation=0.0"]},
        "flow": {"expert": "two", "set": ['tokens={"kind": "labels", "width": 16, "steps": 2}']},
        "JPEG": {"expert": "one", "jpeg": True},
    },
    "prior": {"views": 1, "steps": 2},
}


def test_shipped_studies_load() -> None:
    paths = sorted(set(FOLDER.glob("*.yaml")) - {FOLDER / "tasks.yaml"})
    assert len(paths) == 6
    for path in paths:
        study, configs = studies.load_study(path, {})
        assert configs and set(configs) == set(study.rows)


def test_mistakes_in_a_study_are_named(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "studies")
    shutil.copytree(FOLDER.parent / "configs", tmp_path / "configs")
    path = tmp_path / "studies" / "imitation.yaml"
    with pytest.raises(ConfigError, match="the study's experts are"):
        studies.load_study(path, {"other": "here"})
    values = yaml.safe_load(path.read_text())
    values["rows"]["imitation"]["expert"] = "nobody"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"rows.imitation: no experts \['nobody'\]"):
        studies.load_study(path, {})
    values["rows"]["imitation"] = {"expert": "lite0", "set": ["input_size=[64, 96]"]}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="rows have to share data and input_size"):
        studies.load_study(path, {})


def write_study(root: Path, values: dict[str, object]) -> list[str]:
    write_camvid(root / "camvid")
    base = {**PIXELS, "codec": {**PIXELS["codec"], "steps": 2}}
    (root / "tiny.yaml").write_text(yaml.safe_dump(base))
    (root / "study.yaml").write_text(yaml.safe_dump(values))
    places = ["--runs", str(root / "runs"), "--output", str(root / "docs")]
    return [str(root / "study.yaml"), "--data", str(root / "camvid"), *places]


def test_a_study_becomes_a_table_row_by_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = write_study(tmp_path, STUDY)
    assert studies.main([*arguments, "--row", "nothing"]) == 1
    assert "--row nothing: the study's rows are" in capsys.readouterr().err
    assert studies.main([*arguments, "--row", "flow"]) == 0
    others = ["imitation", "autoencoder", "JPEG"]
    assert studies.main([*arguments, *(part for row in others for part in ("--row", row))]) == 0
    result = json.loads((tmp_path / "docs/study.json").read_text())
    assert set(result["rows"]) == set(STUDY["rows"])
    rows = result["rows"]
    # 16x24 tokens of 4 bits, and of eight numbers.
    assert rows["imitation"]["payload_bytes"] == 192
    assert rows["autoencoder"]["payload_bytes"] == 3072
    assert rows["autoencoder"]["compression_ratio"] == 6
    assert 100 < rows["imitation"]["coded_bytes"] < 300
    assert "coded_bytes" not in rows["autoencoder"] and "coded_bytes" not in rows["flow"]
    # The smallest file of a frame of 96x64 has more than the 192 bytes of the indices.
    assert 192 < rows["JPEG"]["coded_bytes"] == rows["JPEG"]["payload_bytes"] < 1500
    for name, row in rows.items():
        assert set(row["judges"]) == {"one", "two"}
        assert (row["vehicle_macs"] > 0) == (name != "JPEG")
        assert 0 <= row["miou"] <= 1
    assert rows["imitation"]["codes_used"] > 0 == rows["autoencoder"]["codes_used"]
    assert rows["flow"]["training"] == "2 steps of 2 crops of 64x64"
    page = (tmp_path / "docs/README.md").read_text()
    assert (
        page.count("\n| ") == 6
        and "| payload bytes | coded |" in page
        and "| frames, no codec |" in page
    )


def test_jpeg_takes_the_best_quality_of_its_bytes() -> None:
    y, x = np.mgrid[:96, :128]
    waves = 128 + 60 * np.sin(x / 5) + 50 * np.cos(y / 3 + x / 11)
    frame = torch.from_numpy(np.repeat(waves[..., None], 3, 2).astype(np.uint8))[None]
    sizes, errors = [], []
    for budget in (1000, 2000, 4000):
        passed = ByJpeg(budget)(frame)
        assert passed.picture is not None and passed.picture.shape == frame.shape
        sizes.append(passed.payload)
        errors.append((passed.picture - frame.float()).abs().mean())
        assert 0.7 * budget < passed.payload <= budget
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


def test_rows_that_say_the_same_are_one_run(tmp_path: Path) -> None:
    rows = {"first": {"expert": "one"}, "again": {"expert": "one"}}
    arguments = write_study(tmp_path, {**STUDY, "every": 2, "rows": rows})
    assert studies.main(arguments) == 0
    result = json.loads((tmp_path / "docs/study.json").read_text())
    assert "val, one frame in 2, 2 frames" in result["data"]
    first, again = result["rows"].values()
    assert first == again and first["cpu_minutes"] >= 0
    strip = cv2.imread(str(tmp_path / "docs/study.jpg"))
    assert strip.shape == (380, 3 * 240, 3)
    assert len(list((tmp_path / "runs/studies").iterdir())) == 1


def test_a_page_keeps_what_stands_around_a_table() -> None:
    page = pages.render("# Studies\n", "one", "a\n")
    page = pages.render(page + "Of one.\n", "two", "b\n")
    assert pages.render(page, "one", "c\n") == page.replace("a\n<!--", "c\n<!--")


def write_depth(root: Path) -> Path:
    write_cityscapes(root, "labelTrainIds")
    for path in root.glob("leftImg8bit/*/*/*.png"):
        name = path.name.replace("_leftImg8bit", "_depth")
        depth = np.full((64, 128), 256 * 10, np.uint16)
        depth[:8] = 0
        target = root / "depth" / path.parent.parent.name / path.parent.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(target), depth)
    return root


def test_depth_is_read_mirrored_and_judged(tmp_path: Path) -> None:
    frames = DepthFrames(write_depth(tmp_path / "streets"), "train", SIZE)
    frame, metres = frames[0]
    assert frame.shape == (*SIZE, 3) and metres.shape == SIZE
    assert metres.unique().tolist() == [0, 10]
    items = [Shuffled(frames, 12, seed=0)[index] for index in range(12)]
    again = [Shuffled(frames, 12, seed=0)[index] for index in range(12)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(items, again, strict=True))
    assert any(torch.equal(a[0], frame.flip(1)) for a in items)
    errors = depth_errors(lambda frames: torch.full((1, 16, 24), 12.0), frames)
    assert errors["abs_rel"] == pytest.approx(0.2) and errors["delta1"] == 1
    path = next((tmp_path / "streets/depth/train").glob("*/*.png"))
    assert cv2.imwrite(str(path), np.full((64, 128), 256 * 40, np.uint16))
    typical = typical_depth(frames)
    # Only one of the three knows the top; elsewhere the mean of 10, 10 and 40 is geometric.
    assert len(frames) == 3 and typical.shape == (1, *SIZE)
    ends = torch.tensor([40.0, 4000 ** (1 / 3)]).expand(SIZE[1], 2).T
    torch.testing.assert_close(typical[0, [0, -1]], ends)
    with pytest.raises(DataError, match=r"no files \*/\*_depth.png"):
        DepthFrames(tmp_path, "train", SIZE)


def test_a_study_of_depth_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**STUDY, "rows": {"imitation": {"expert": "one"}}, "depth": {"steps": 2, "batch": 2}}
    arguments = write_study(tmp_path, values)
    assert studies.main(arguments) == 1
    assert "add --streets PATH" in capsys.readouterr().err
    streets = write_depth(tmp_path / "streets")
    assert studies.main([*arguments, "--streets", str(streets)]) == 0
    row = json.loads((tmp_path / "docs/study.json").read_text())["rows"]["imitation"]
    assert set(row["depth"]) == {"tokens", "not quantised", "no tokens, the mean of training"}
    assert "| depth from |" in (tmp_path / "docs/README.md").read_text()
