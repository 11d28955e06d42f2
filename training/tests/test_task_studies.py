"""The study of several tasks: a picture for experts beside heads, judged alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from test_studies import FOLDER, write_depth
from tiny_experts import write_tiny_segmenter, write_tiny_yolox

from gosvae_training.data.samples import Sample
from gosvae_training.models.onnx_network import OnnxNetwork
from gosvae_training.strict import ConfigError
from gosvae_training.studies import tasks as studies
from gosvae_training.studies.judge import Experts, Judge, Made
from gosvae_training.studies.picture import (
    Detector,
    PictureLosses,
    PictureNetwork,
    PictureObjective,
)
from gosvae_training.tasks.segmenter import RoadSegmenter, network_of
from gosvae_training.tasks.settings import Tokens
from gosvae_training.tasks.train import DETECTOR, SEGMENTER
from gosvae_training.tasks.yolox import Heads, trunk_of

MASKS_ONLY = [f"losses.{name}=0" for name in ("features", "objects", "boxes")]
TOKENS = {"levels": 2, "codes": 16, "dim": 8, "width": 16, "features": 16, "blocks": 1}
CODEC = {
    "steps": 2,
    "batch": 2,
    "crop": [64, 128],
    "learning_rate": 1e-3,
    "backbone_learning_rate": 0.0,
    "frozen_blocks": 0,
}


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    write_tiny_yolox(folder / DETECTOR)
    write_tiny_segmenter(folder / SEGMENTER)
    return folder


def test_the_segmenter_in_torch_computes_what_onnx_runtime_computes(experts: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (512, 896, 3), np.uint8)
    pixels = torch.from_numpy(frame[None, ..., ::-1].astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        (logits,) = network_of(experts / SEGMENTER)(pixels)
    wanted = RoadSegmenter(experts / SEGMENTER).segment(frame)
    np.testing.assert_allclose(logits[0].softmax(0).permute(1, 2, 0), wanted, atol=1e-4)


def test_a_network_resizes_linearly_and_averages_as_onnx_runtime_does(tmp_path: Path) -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 4, 2], np.float32), "scales")
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Resize", ["a", "", "scales"], ["y"], mode="linear"),
        ],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 12, 8])],
        [scales],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "r.onnx")
    x = np.random.default_rng(0).normal(size=(1, 2, 6, 8)).astype(np.float32)
    (wanted,) = ort.InferenceSession(str(tmp_path / "r.onnx")).run(None, {"x": x})
    (made,) = OnnxNetwork(tmp_path / "r.onnx", ["x"], ["y"])(torch.from_numpy(x))
    np.testing.assert_allclose(made.numpy(), wanted, atol=1e-5)


def test_a_picture_learns_and_its_experts_do_not(experts: Path) -> None:
    torch.manual_seed(0)
    detector = Detector(trunk_of(experts / DETECTOR), Heads(experts / DETECTOR))
    segmenter = network_of(experts / SEGMENTER)
    network = PictureNetwork(Tokens(**TOKENS), (8, 1), segmenter, detector, rare=0.1)
    losses = PictureLosses(pixels=2.0, distillation=0, labels=0, features=0, objects=0, boxes=0)
    objective = PictureObjective(network, losses, torch.ones(4))
    for part in objective.pretrained:
        part.requires_grad_(False)
    frames = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8)
    target = torch.randint(0, 256, (2, 4, 32, 64), dtype=torch.uint8)
    terms = objective(frames, target, False)
    terms["loss"].backward()
    assert terms["pixels"] > 0 and terms["imitation"] > 0
    drawn = next(network.draw.parameters()).grad
    assert drawn is not None and drawn.abs().sum() > 0
    assert all(each.grad is None for each in [*segmenter.parameters(), *detector.parameters()])
    # The picture's own loss is not all that moves it: so does what the segmenter sees.
    network.zero_grad()
    losses = losses.model_copy(update={"pixels": 0.0})
    PictureObjective(network, losses, torch.ones(4))(frames, target, False)["loss"].backward()
    assert next(network.draw.parameters()).grad.abs().sum() > 0


class Noise:
    """Frames of noise."""

    title, terms = "noise", "none"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        frame = np.random.default_rng(index).integers(0, 256, (90, 120, 3), np.uint8)
        return Sample(frame, frame[..., 0])


def test_experts_agree_with_themselves_and_not_with_nothing(experts: Path) -> None:
    asked = Experts(experts)
    judge = Judge(Noise(), asked, (90, 120))
    own = judge.figures(lambda frame, shape: asked.look(frame, shape))
    assert own["agreement"] == 1
    other = judge.figures(lambda frame, shape: Made(np.full(shape, 9, np.uint8), None))
    assert other == {"agreement": 0}


def write_study(root: Path) -> list[str]:
    write_depth(root / "streets")
    base = {
        "name": "base",
        "seed": 1,
        "input_size": [64, 128],
        "train": {"streets": {"split": "train"}},
        "val": {"streets": {"split": "val"}},
        "tokens": TOKENS,
        "codec": CODEC,
    }
    study = {
        "title": "Tiny",
        "base": "base.yaml",
        "rows": {
            "drawn": {"picture": {"width": 8, "blocks": 1, "pixels": 2.0}},
            "masks alone": {"set": MASKS_ONLY},
        },
        "depth": {"steps": 1, "batch": 2},
        "prior": {"views": 1, "steps": 1},
    }
    (root / "base.yaml").write_text(yaml.safe_dump(base))
    (root / "study.yaml").write_text(yaml.safe_dump(study))
    places = ["--runs", str(root / "runs"), "--output", str(root / "docs")]
    return [str(root / "study.yaml"), "--data", f"streets={root / 'streets'}", *places]


def test_a_study_of_tasks_becomes_a_section(
    experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*write_study(tmp_path), "--experts", str(experts)]
    assert studies.main([*arguments, "--row", "nothing"]) == 1
    assert "--row nothing: the study's rows are" in capsys.readouterr().err
    assert studies.main(arguments) == 0
    result = json.loads((tmp_path / "docs/study.json").read_text())
    drawn, masks = result["rows"].values()
    # 4x8 places of two levels of 4 bits.
    assert drawn["payload_bytes"] == masks["payload_bytes"] == 32
    assert set(drawn["judged"]["streets"]) == {"agreement", "ap50"}
    assert set(masks["judged"]["streets"]) == {"agreement"}
    assert set(drawn["as_is"]["streets"]) == {"agreement", "ap50"} and "as_is" not in masks
    for row in (drawn, masks):
        assert row["depth"]["abs_rel"] >= 0 and row["coded_bytes"]["streets"] > 0
        assert row["receiver_macs"] > 0 and row["vehicle_macs"] == drawn["vehicle_macs"]
    page = (tmp_path / "docs/README.md").read_text()
    assert "| frames, no codec |" in page and page.count("\n| ") == 5
    strip = cv2.imread(str(tmp_path / "docs/study.jpg"))
    assert strip.shape == (560, 3 * 240, 3)
    before = (tmp_path / "docs/study.json").read_text()
    # Everything is kept: nothing is trained again, and the same comes out.
    assert studies.main([*arguments, "--row", "drawn"]) == 0
    assert (tmp_path / "docs/study.json").read_text() == before


def test_the_shipped_study_of_tasks_loads_and_mistakes_are_named(tmp_path: Path) -> None:
    path = FOLDER / "tasks.yaml"
    study, configs = studies.load_study(path)
    assert set(configs) == set(study.rows) and len({c.codec.steps for c in configs.values()}) == 1
    shutil.copytree(FOLDER, tmp_path / "studies")
    shutil.copytree(FOLDER.parent / "configs", tmp_path / "configs")
    values = yaml.safe_load(path.read_text())
    changed = tmp_path / "studies" / "tasks.yaml"
    values["rows"]["other"] = {"set": ["seed=2"]}
    changed.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="rows have to share train, val, input_size and seed"):
        studies.load_study(changed)
