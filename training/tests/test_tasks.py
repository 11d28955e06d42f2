"""Tokens of several tasks: experts, views, network, losses."""

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
from onnx import TensorProto, helper
from tiny_experts import write_tiny_segmenter, write_tiny_yolox

from gosvae_codec import Decoder, Encoder, Expert, Header, ModelBundle
from gosvae_codec.manifest import FEATURES, record
from gosvae_codec.tasks import FEATURES_KEY, DetectionResult
from gosvae_training.average_precision import AveragePrecision
from gosvae_training.models.onnx_network import OnnxNetwork
from gosvae_training.models.suppression import CONFIDENT
from gosvae_training.strict import ConfigError
from gosvae_training.tasks.compare import main as compare
from gosvae_training.tasks.compare import with_unlikely_boxes
from gosvae_training.tasks.exact import boxes_of_instances
from gosvae_training.tasks.exact import main as exact
from gosvae_training.tasks.expert_graphs import detector_graph, segmenter_graph
from gosvae_training.tasks.export import main as export
from gosvae_training.tasks.head import main as head
from gosvae_training.tasks.network import TaskNetwork
from gosvae_training.tasks.objective import TaskObjective, detection_loss
from gosvae_training.tasks.segmenter import LABELS, RoadSegmenter
from gosvae_training.tasks.settings import Config, Losses, Tokens
from gosvae_training.tasks.train import DETECTOR, SEGMENTER
from gosvae_training.tasks.train import main as train
from gosvae_training.tasks.views import ViewItems, Views, random_view
from gosvae_training.tasks.yolox import (
    CLASSES,
    SIDE,
    Heads,
    decode_maps,
    select_boxes,
    trunk_of,
)

MODELS = Path(__file__).parents[2] / "models"
SHARED = Path(__file__).parents[3] / "shared/data/experts_apache"
TINY = Tokens(levels=2, codes=16, dim=8, width=16, features=16, blocks=1)


HEADS = ["1062", "1063", "1045", "1104", "1105", "1087", "1146", "1147", "1129"]


class Yolox:
    """The detector in torch, asked about whole frames, for comparison with its graph."""

    def __init__(self, path: Path) -> None:
        self._trunk, self._heads = trunk_of(path).eval(), Heads(path).eval()

    @torch.inference_mode()
    def detect(self, frame: np.ndarray, confident: float = CONFIDENT) -> DetectionResult:
        height, width = frame.shape[:2]
        scale = SIDE / max(height, width)
        square = np.full((SIDE, SIDE, 3), 114, np.uint8)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        square[: size[1], : size[0]] = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
        pixels = torch.from_numpy(square[..., ::-1].copy()).permute(2, 0, 1)[None].float()
        corners, scores = decode_maps(self._heads(*self._trunk(pixels)[1:]))
        return select_boxes(corners[0].numpy() / scale, scores[0].numpy(), confident)


@pytest.fixture(scope="module")
def yolox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_yolox(tmp_path_factory.mktemp("yolox") / "tiny.onnx")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_segmenter(tmp_path_factory.mktemp("segmenter") / "tiny.onnx")


@pytest.fixture
def network(yolox: Path) -> TaskNetwork:
    torch.manual_seed(0)
    return TaskNetwork(TINY, 4, trunk_of(yolox), Heads(yolox), rare=0.1)


def random_frames(count: int = 2, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)


# --- ONNX networks as torch modules


def check_against_onnx_runtime(path: Path) -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    wanted = ort.InferenceSession(str(path)).run(None, {"images": pixels})[0]
    with torch.no_grad():
        maps = Heads(path)(*trunk_of(path)(torch.from_numpy(pixels))[1:])
    made = torch.cat([each.flatten(2) for each in maps], 2).mT
    made[..., 4:] = made[..., 4:].sigmoid()
    channels = [*range(5), *(5 + channel for channel in CLASSES.values())]
    np.testing.assert_allclose(made.numpy(), wanted[..., channels], atol=1e-3)


def test_trunk_and_heads_compute_what_onnx_runtime_computes(yolox: Path) -> None:
    check_against_onnx_runtime(yolox)


def test_the_parts_of_an_onnx_network_make_the_whole(yolox: Path) -> None:
    pixels = torch.rand(2, 3, 64, 96) * 255
    cut = ["956", "990", "1024"]
    with torch.no_grad():
        whole = OnnxNetwork(yolox, ["images"], HEADS)(pixels)
        parts = OnnxNetwork(yolox, cut, HEADS)(*OnnxNetwork(yolox, ["images"], cut)(pixels))
    for ours, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_unknown_tensor_is_named(yolox: Path) -> None:
    with pytest.raises(ConfigError, match="no tensor 'nowhere'"):
        OnnxNetwork(yolox, ["images"], ["nowhere"])


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "erf", [value], [made])
    onnx.save(helper.make_model(graph), tmp_path / "erf.onnx")
    with pytest.raises(ConfigError, match="operator Erf of y is not known here; known: Conv, Add"):
        OnnxNetwork(tmp_path / "erf.onnx", ["x"], ["y"])


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ConfigError, match=r"text\.onnx: not an ONNX network"):
        OnnxNetwork(tmp_path / "text.onnx", ["x"], ["y"])


# --- boxes


def test_a_cell_becomes_a_box() -> None:
    maps = [torch.full((1, 5 + len(CLASSES), side, side), -20.0) for side in (8, 4, 2)]
    # Cell in row 2, column 1 of the middle map, which has 16 pixels to a cell.
    maps[1][0, :, 2, 1] = torch.tensor([0.5, 0.25, np.log(3.0), np.log(2.0), 20] + [-20] * 9)
    maps[1][0, 5 + list(CLASSES).index("car"), 2, 1] = 20
    corners, scores = decode_maps(maps)
    boxes = select_boxes(corners[0].numpy(), scores[0].numpy(), 0.5)
    np.testing.assert_allclose(boxes.boxes, [[24 - 24, 36 - 16, 24 + 24, 36 + 16]], atol=1e-4)
    assert boxes.scores == pytest.approx([1.0])
    assert list(boxes.classes) == [list(CLASSES).index("car")]


def test_overlapping_boxes_of_a_class_become_one_and_of_two_classes_stay() -> None:
    corners = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10]], np.float32)
    scores = np.zeros((2, 3), np.float32)
    scores[0, :2], scores[1, 2] = (0.6, 0.9), 0.7
    boxes = select_boxes(corners, scores, 0.3)
    assert boxes.scores == pytest.approx([0.9, 0.7])
    assert list(boxes.classes) == [0, 1]


def test_no_box_is_no_error() -> None:
    boxes = select_boxes(np.zeros((5, 4), np.float32), np.zeros((9, 5), np.float32), 0.3)
    assert boxes.boxes.shape == (0, 4)
    assert boxes.scores.shape == boxes.classes.shape == (0,)


def some_boxes(*rows: tuple[float, float, float, float, float, int]) -> DetectionResult:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return DetectionResult(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_average_precision_of_what_is_right_and_of_what_is_missed() -> None:
    truth = some_boxes((0, 0, 20, 20, 0.9, 2), (40, 40, 60, 60, 0.8, 2), (0, 30, 9, 50, 0.7, 0))
    counted = AveragePrecision(list(CLASSES))
    counted.add(truth, truth)
    assert counted.mean() == pytest.approx(1.0)
    half = AveragePrecision(list(CLASSES))
    half.add(truth, some_boxes((1, 0, 20, 20, 0.9, 2)))
    found = half.per_class()
    assert found["person"] == 0
    assert found["car"] == pytest.approx(0.5, abs=0.01)
    assert half.mean() == pytest.approx(0.25, abs=0.01)


def test_average_precision_without_any_box_is_not_a_number() -> None:
    empty = AveragePrecision(list(CLASSES))
    empty.add(some_boxes(), some_boxes((0, 0, 20, 20, 0.9, 2)))
    assert np.isnan(empty.mean())


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/experts_apache")
def test_yolox_itself_computes_what_onnx_runtime_computes() -> None:
    check_against_onnx_runtime(SHARED / "yolox_nano_coco_416.onnx")


def test_the_detector_gives_boxes_in_the_frame_s_pixels(yolox: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    boxes = Yolox(yolox).detect(frame, confident=0.01)
    assert boxes.boxes.dtype == np.float32
    assert (np.diff(boxes.scores) <= 0).all()


def test_the_segmenter_gives_probabilities_of_frames_of_any_size(segmenter: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    probabilities = RoadSegmenter(segmenter).segment(frame)
    assert probabilities.shape == (128, 224, len(LABELS))
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_a_segmenter_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ConfigError, match=r"text\.onnx: not an ONNX network"):
        RoadSegmenter(tmp_path / "text.onnx")


# --- experts as graphs from frame to results


@pytest.mark.parametrize("size", [(300, 500), (500, 300), (416, 416), (33, 900)])
def test_the_detector_s_graph_finds_what_the_detector_finds(
    yolox: Path, size: tuple[int, int]
) -> None:
    coarse = np.random.default_rng(1).integers(0, 256, (12, 12, 3), np.uint8)
    frame = cv2.resize(coarse, size[::-1])
    wanted = Yolox(yolox).detect(frame)
    session = ort.InferenceSession(detector_graph(yolox).SerializeToString())
    boxes, scores, _, frames = session.run(None, {"pixels": frame[None]})
    assert (frames == 0).all()
    assert (np.diff(scores) <= 0).all()
    assert scores[0] == pytest.approx(wanted.scores[0], abs=0.02)
    height, width = size
    # The most likely, as the graph makes no more than a hundred of a class.
    sides = boxes[:20] * [width, height, width, height]
    assert len(sides) == 20
    assert all(np.abs(wanted.boxes - box).max(1).min() < 0.01 * max(size) for box in sides)


def test_the_segmenter_s_graph_gives_what_the_segmenter_gives(segmenter: Path) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (300, 500, 3), np.uint8)
    session = ort.InferenceSession(segmenter_graph(segmenter).SerializeToString())
    (logits,) = session.run(None, {"frames": frame[None]})
    wanted = RoadSegmenter(segmenter).segment(frame)
    assert (logits[0].argmax(0) == wanted.argmax(-1)).mean() > 0.98


# --- network and losses


def test_the_network_gives_each_task_its_shape(network: TaskNetwork) -> None:
    with torch.no_grad():
        made = network.eval()(random_frames())
    assert made.logits.shape == (2, 4, 32, 48)
    assert [tuple(each.shape[2:]) for each in made.boxes] == [(8, 12), (4, 6), (2, 3)]
    assert made.sent.indices.shape == (2, 4, 6, 2)


def test_training_leaves_the_experts_as_they_are(network: TaskNetwork) -> None:
    objective = TaskObjective(network, Losses(), torch.ones(4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    target = torch.randint(0, 256, (2, 4, 32, 48), dtype=torch.uint8)
    network.train()
    terms = objective(random_frames(), target, False)
    terms["loss"].backward()
    optimizer.step()
    assert set(terms) >= {"imitation", "distillation", "labels", "features", "objects", "boxes"}
    changed = {
        name for name, value in network.state_dict().items() if not value.equal(before[name])
    }
    experts = ("encoder.trunk", "detection.heads")
    assert not [name for name in changed if name.startswith(experts)]
    for part in ("encoder.project", "features", "semantic", "detection.stride8"):
        assert [name for name in changed if name.startswith(part)], part


def test_the_loss_of_the_detector_is_least_for_the_detector_itself() -> None:
    torch.manual_seed(0)
    wanted = [torch.randn(2, 5 + len(CLASSES), side, side) for side in (8, 4, 2)]
    same = detection_loss(wanted, wanted)
    assert same["objects"] == pytest.approx(0, abs=1e-4)
    assert same["boxes"] == 0
    other = detection_loss([each + 0.5 for each in wanted], wanted)
    assert other["objects"] > 0.01
    assert other["boxes"] > 0.01


# --- views


class Numbered:
    """Frames, each of one colour."""

    title, terms = "numbered", "none"

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> object:
        from gosvae_training.data.samples import Sample

        frame = np.full((90, 160, 3), 60 * index, np.uint8)
        return Sample(frame, np.full((90, 160), 255, np.uint8))


def make_views(folder: Path, asked: list[int]) -> Views:
    def segment(frame: np.ndarray) -> np.ndarray:
        asked.append(int(frame[0, 0, 0]))
        return np.full((16, 24, 4), 0.25, np.float32)

    return Views(Numbered(), 2, (64, 96), segment, "expert", folder, seed=3)


def test_views_are_made_once(tmp_path: Path) -> None:
    asked: list[int] = []
    views = make_views(tmp_path, asked)
    assert asked == [0, 0, 60, 60, 120, 120]
    assert views.frames.shape == (6, 64, 96, 3)
    assert views.targets.shape == (6, 4, 32, 48)
    assert (views.targets == 64).all()
    again = make_views(tmp_path, asked)
    assert len(asked) == 6
    assert (again.frames == views.frames).all()


def test_views_that_were_not_finished_are_made_again(tmp_path: Path) -> None:
    def fail(frame: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Views(Numbered(), 2, (64, 96), fail, "expert", tmp_path, seed=3)
    assert not list(tmp_path.glob("*.npy"))
    assert len(make_views(tmp_path, [])) == 6


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (37, 400)])
def test_a_view_lies_in_the_frame_and_has_about_the_aspect_ratio(size: tuple[int, int]) -> None:
    frame = np.zeros((*size, 3), np.uint8)
    for seed in range(50):
        view = random_view(frame, 1.5, np.random.default_rng(seed))
        height, width = view.shape[:2]
        assert 0 < height <= size[0] and 0 < width <= size[1]
        assert abs(np.log(width / height / 1.5)) < 0.2


def test_items_are_the_same_each_time_and_use_every_view(tmp_path: Path) -> None:
    views = make_views(tmp_path, [])
    items = ViewItems([views, views], 24, seed=5)
    for index in (0, 7, 23):
        for first, second in zip(items[index], items[index], strict=True):
            assert first.equal(second)
    frame, target = items[0]
    assert frame.shape == (64, 96, 3) and target.shape == (4, 32, 48)


# --- a bundle


def retrain_head(folder: Path, frames: Path) -> int:
    """Train a head of two classes, left and right, on a plain dataset of the same frames."""
    data = folder / "data"
    shutil.copytree(frames, data / "images" / "train")
    shutil.copytree(frames, data / "images" / "val")
    mask = np.zeros((90, 120), np.uint8)
    mask[:, 60:] = 1
    for split in ("train", "val"):
        (data / "masks" / split).mkdir(parents=True)
        for path in frames.iterdir():
            cv2.imwrite(str(data / "masks" / split / path.name), mask)
    labels = folder / "sides.yaml"
    labels.write_text("[{id: 0, name: left}, {id: 1, name: right}]")
    options = [str(folder / "models" / "tiny"), "--data", str(data), "--labels", str(labels)]
    options += ["--views", "1", "--steps", "2", "--batch", "2"]
    return head([*options, "--output", str(folder / "lanes.onnx")])


def test_a_run_becomes_a_bundle(
    yolox: Path, segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experts, frames = tmp_path / "experts", tmp_path / "frames"
    experts.mkdir()
    shutil.copy(yolox, experts / DETECTOR)
    shutil.copy(segmenter, experts / SEGMENTER)
    frames.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        picture = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (120, 90))
        cv2.imwrite(str(frames / f"{index}.png"), picture)
    config = tmp_path / "tiny.yaml"
    values = json.loads(json.dumps(settings(tokens=TINY.model_dump())))
    config.write_text(yaml.safe_dump(values | {"prior": {"views": 1, "steps": 2}}))
    options = [str(config), "--data", f"a={frames}", "--experts", str(experts)]
    options += ["--runs", str(tmp_path / "runs")]
    assert train([*options, "codec.steps=1"]) == 0
    # The same run goes on.
    assert train(options) == 0
    assert export([*options, "--models", str(tmp_path / "models")]) == 0
    bundle = ModelBundle.load(tmp_path / "models" / "tiny")
    assert "warning" not in capsys.readouterr().err
    measured = bundle.manifest["figures"]
    assert measured["metric"] == "agreement"
    assert 0 <= measured["tasks"]["semantic"]["agreement"] <= 1
    assert 0 <= measured["tasks"]["detection"]["ap50"] <= 1
    assert [row["levels"] for row in measured["tasks"]["detection"]["levels"]] == [1, 2]
    assert bundle.manifest["compute"]["expert_macs"] > 0
    frame = np.full((100, 130, 3), 90, np.uint8)
    decoded = Decoder(bundle).decode(Encoder(bundle).encode(frame, Header(0, 0, "camera")))
    assert decoded.mask.shape == (100, 130)
    assert decoded.tasks["detection"].boxes.shape[1] == 4
    wanted = Expert(bundle, task="detection").apply(frame)
    assert wanted.boxes.shape[1] == 4
    figures = tmp_path / "figures.json"
    compared = [str(tmp_path / "models" / "tiny"), "--data", str(frames), "--in-order"]
    assert compare([*compared, "--json", str(figures)]) == 0
    rows = json.loads(figures.read_text())["rows"]
    lossless = next(row for row in rows if row["setting"] == "masks at 1/1 of the sides")
    assert lossless["tasks"]["semantic"]["agreement"] == 1
    assert {row["name"] for row in rows} == {"tokens", "experts' outputs", "JPEG", "AVIF", "H.264"}
    assert retrain_head(tmp_path, frames) == 0
    session = ort.InferenceSession(str(tmp_path / "lanes.onnx"))
    features = record(bundle.path / FEATURES)["sha256"]
    assert session.get_modelmeta().custom_metadata_map == {FEATURES_KEY: features}
    assert session.get_outputs()[0].shape[1] == 2
    jpeg = [row["bytes_per_frame"] for row in rows if row["name"] == "JPEG"]
    assert jpeg[:4] == sorted(jpeg[:4])


# --- configuration


def settings(**changes: object) -> dict[str, object]:
    codec = {
        "steps": 2,
        "batch": 2,
        "crop": (64, 96),
        "learning_rate": 1e-3,
        "backbone_learning_rate": 0.0,
        "frozen_blocks": 0,
    }
    return {
        "name": "tiny",
        "seed": 1,
        "input_size": (64, 96),
        "train": {"a": {"split": "all"}},
        "val": {"a": {"split": "all"}},
        "tokens": {"levels": 2, "codes": 16, "dim": 8},
        "codec": codec,
    } | changes


def test_a_configuration_is_checked() -> None:
    assert Config(**settings()).tokens.width == 192
    with pytest.raises(ValueError, match="divide by 32"):
        Config(**settings(input_size=(60, 96)))
    with pytest.raises(ValueError, match="has to be input_size"):
        Config(**settings(input_size=(96, 96)))
    with pytest.raises(ValueError, match="1 numbers for 2 levels"):
        Config(**settings(inertia=(1.0,)))


# --- exact boxes


def test_boxes_of_instances_are_those_of_what_is_visible(
    yolox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = np.zeros((90, 120), np.uint16)
    ids[10:40, 20:60] = 26001  # a car
    ids[20:30, 20:40] = 24007  # a person before it
    ids[50:70, 90:120] = 25001  # a rider
    ids[80:87, 0:50] = 26002  # too low
    ids[50:80, 0:30] = 29001  # a caravan, which the detector does not know
    ids[0:10, 0:120] = 26  # no instance
    found = boxes_of_instances(ids)
    names = [list(CLASSES)[index] for index in found.classes]
    boxes = dict(zip(names, found.boxes.tolist(), strict=True))
    assert names == ["person", "person", "car"]
    assert boxes["car"] == [20, 10, 60, 40] and boxes["person"] == [90, 50, 120, 70]
    assert found.boxes[0].tolist() == [20, 20, 40, 30]
    assert len(boxes_of_instances(np.zeros((4, 4), np.uint16)).boxes) == 0

    city = tmp_path / "streets" / "{}" / "val" / "city"
    for folder, name, picture in (
        ("gtFine", "a_gtFine_instanceIds.png", ids),
        ("leftImg8bit", "a_leftImg8bit.png", np.full((90, 120, 3), 90, np.uint8)),
    ):
        path = Path(str(city).format(folder)) / name
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), picture)
    shutil.copy(yolox, tmp_path / DETECTOR)
    options = ["--data", str(tmp_path / "streets"), "--experts", str(tmp_path)]
    assert exact([str(MODELS / "road"), *options]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()[2:]
    assert "person (2) | car (1)" in head and len(lines) == 3
    assert exact([str(MODELS / "camvid-f16"), *options]) == 1
    assert "camvid-f16: it has no boxes of person" in capsys.readouterr().err
    assert exact([str(MODELS / "road"), *options, "--split", "test"]) == 1


def test_experts_at_the_receiver_may_be_as_unsure_as_tokens() -> None:
    expert = Expert(ModelBundle.load(MODELS / "road"), task="detection")
    picture = cv2.imread(str(MODELS.parent / "docs" / "images" / "road-depth.jpg"))
    frame = np.ascontiguousarray(picture[:144, :208, ::-1])
    sure, unsure = expert.apply(frame), with_unlikely_boxes(expert).apply(frame)
    assert isinstance(sure, DetectionResult) and isinstance(unsure, DetectionResult)
    count = len(sure.scores)
    assert len(unsure.scores) > count > 0
    assert unsure.scores.min() < CONFIDENT <= sure.scores.min()
    np.testing.assert_array_equal(unsure.boxes[:count], sure.boxes)
