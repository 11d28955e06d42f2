"""Detectors as people export them, and how their boxes become training targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_experts import LABELS, NAMES, write

from gosvae_codec.labels import COCO
from gosvae_training.bundle.graphs import BoxesGraph
from gosvae_training.data.augment import augment
from gosvae_training.data.boxes import draw_maps, move_boxes
from gosvae_training.data.samples import Sample
from gosvae_training.losses import box_loss
from gosvae_training.models import settings as cfg
from gosvae_training.models.decoders import BoxMaps
from gosvae_training.models.experts import frozen
from gosvae_training.models.onnx_detector import OnnxDetector, probe_detector
from gosvae_training.strict import ConfigError

SIDE = 64
FOUND = {0: (8.0, 16.0, 24.0, 32.0), 2: (32.0, 4.0, 60.0, 12.0)}
"""Boxes in pixels of the network's input, by class."""
FORMS = {"offsets": 84, "centres": 20, "columns": 20, "corners": 20}
"""Rows of boxes that networks of each form make."""


def rows_of(form: str) -> np.ndarray:
    """What a network of a form makes, float32 (1, rows, columns); only the boxes found score."""
    rows = np.zeros((FORMS[form], 8 if form != "corners" else 6), np.float32)
    if form == "columns":
        rows = rows[:, :7]
    if form == "offsets":
        cells = [(x, y, s) for s in (8, 16, 32) for y in range(SIDE // s) for x in range(SIDE // s)]
    for place, (index, (left, top, right, bottom)) in enumerate(FOUND.items()):
        centre = np.array([(left + right) / 2, (top + bottom) / 2])
        sides = np.array([right - left, bottom - top])
        if form == "offsets":
            x, y, stride = cells[10 * place]
            rows[10 * place, :4] = *(centre / stride - (x, y)), *np.log(sides / stride)
            rows[10 * place, 4], rows[10 * place, 5 + index] = 1, 0.9
        elif form == "corners":
            rows[place] = left, top, right, bottom, 0.9, index
        else:
            rows[place, :4] = *centre, *sides
            rows[place, 4:-3] = 1
            rows[place, -3 + index] = 0.9
    if form == "centres":
        # Far from the others, as those of an untrained cell are, with a score of nothing.
        rows[-1, :4] = 60, 60, 4, 4
    return rows[None]


def write_detector(
    path: Path, form: str, size: tuple[int, int] | None = (SIDE, SIDE), dtype: str = "FLOAT"
) -> Path:
    """Write a network whose boxes are always the same, and score as the first number it takes."""
    made = rows_of(form)
    score = np.zeros(made.shape[2], np.float32)
    score[4 if form in ("offsets", "centres", "corners") else slice(4, None)] = 1
    if form == "columns":
        made, score = made.transpose(0, 2, 1), score[:, None]
    kind = getattr(TensorProto, dtype)
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["numbers", "start", "end"], ["pixel"]),
        helper.make_node("Squeeze", ["pixel"], ["bright"]),
        helper.make_node("Mul", ["bright", "score"], ["seen"]),
        helper.make_node("Add", ["seen", "others"], ["factor"]),
        helper.make_node("Mul", ["made", "factor"], ["output"]),
    ]
    ends = {"start": np.zeros(4, np.int64), "end": np.ones(4, np.int64)}
    constants = {**ends, "made": made, "score": score, "others": 1 - score}
    sides: list[object] = ["height", "width"] if size is None else list(size)
    graph = helper.make_graph(
        nodes,
        "boxes",
        [helper.make_tensor_value_info("image", kind, [1, 3, *sides])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, made.shape)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def detector(path: Path, **more: object) -> OnnxDetector:
    values = {"kind": "detector", "path": str(path), "channels": list(NAMES), **more}
    made = frozen(cfg.Detector.model_validate(values), LABELS)
    assert isinstance(made, OnnxDetector)
    return made


RED = np.broadcast_to(np.array([255, 0, 0], np.uint8), (100, 200, 3)).copy()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(SIDE, SIDE), None])
def test_each_form_of_boxes_is_taken_as_what_it_is(
    tmp_path: Path, form: str, size: tuple[int, int] | None
) -> None:
    path = write_detector(tmp_path / "a.onnx", form, size)
    # Whatever YOLOX is shown is BGR from 0 to 255, to the others RGB from 0 to 1.
    picture = cfg.Picture(mean=(0, 0, 0), std=(255, 255, 255))
    expert = detector(path, size=(SIDE, SIDE), picture=picture)
    assert expert.form.layout == form
    boxes = expert.boxes(RED)
    # A frame twice as wide as high fills the upper half of a square.
    wanted = np.array([[index, *box] for index, box in FOUND.items()], np.float32)
    wanted[:, 1:] /= [SIDE, SIDE / 2, SIDE, SIDE / 2]
    np.testing.assert_allclose(boxes[boxes[:, 0].argsort()], wanted, atol=1e-5)
    assert not len(expert.boxes(RED[..., ::-1].copy()))


@pytest.mark.parametrize(("form", "order"), [("offsets", "bgr"), ("columns", "rgb")])
@pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16", "UINT8"])
def test_a_detector_is_shown_what_those_of_its_form_take(
    tmp_path: Path, form: str, order: str, dtype: str
) -> None:
    expert = detector(write_detector(tmp_path / "a.onnx", form, dtype=dtype))
    shown = RED if order == "rgb" else RED[..., ::-1].copy()
    assert len(expert.boxes(shown)) == 2
    assert not len(expert.boxes(shown[..., ::-1].copy()))


def test_what_makes_no_boxes_of_these_classes_is_refused(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "a.onnx", "centres")
    assert probe_detector(path, 80) is None
    assert probe_detector(write(tmp_path / "masks.onnx", "argmax nhw"), 3) is None
    with pytest.raises(ConfigError, match=r"no output has boxes of 80 classes"):
        frozen(cfg.Detector(kind="detector", path=str(path), channels="coco"), COCO)
    with pytest.raises(ConfigError, match="each label needs a channel"):
        detector(path, channels=["road", "car", ""])


def test_boxes_move_with_their_crop() -> None:
    boxes = np.array([[1, 0.25, 0.5, 0.5, 1.0], [0, 0.9, 0.0, 1.0, 0.1]], np.float32)
    # Mirrored, twice as large, around the first box.
    matrix = np.array([[-2.0, 0, 120], [0, 2, -60]])
    moved = move_boxes(boxes, matrix, (60, 100), (60, 80))
    assert moved.tolist() == [[1, 0.25, 0.0, 0.875, 1.0]]
    assert move_boxes(boxes[:0], matrix, (60, 100), (60, 80)).shape == (0, 5)


def test_a_crop_s_boxes_are_where_its_objects_are() -> None:
    rng = np.random.default_rng(1)
    sides = np.array([[40, 24, 64, 56], [100, 60, 140, 84]])
    frame, mask = np.zeros((96, 160, 3), np.uint8), np.zeros((96, 160), np.uint8)
    for index, (left, top, right, bottom) in enumerate(sides, 1):
        mask[top:bottom, left:right] = index
    boxes = np.concatenate([[[0], [1]], sides / [160, 96, 160, 96]], 1).astype(np.float32)
    logits, seen = np.zeros((24, 40, 1), np.float16), 0
    for _ in range(20):
        crop = augment(Sample(frame, mask, logits, boxes), (96, 128), rng)
        for index, *shares in crop.boxes:
            ys, xs = np.nonzero(crop.mask == int(index) + 1)
            bounds = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            # The mask is at half of the sides, and a turned box holds more than the object.
            assert np.abs(np.multiply(shares, [64, 48, 64, 48]) - bounds).max() <= 3
            seen += 1
    assert seen > 10


def test_maps_lead_back_to_the_boxes_that_they_were_drawn_from() -> None:
    size = (64, 128)
    boxes = np.array([[1, 0.1, 0.2, 0.4, 0.9], [0, 0.6, 0.5, 0.7, 0.65]], np.float32)
    maps = torch.from_numpy(draw_maps(boxes, 3, size))
    assert maps.shape == (8, 16, 32) and (maps[:3] == 1).sum() == 2 and (maps[-1] > 0).any()

    class Drawn(BoxMaps):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            sides = maps[None, 3:7].clamp(min=1e-3).log()
            return torch.cat([torch.logit(maps[None, :3].clamp(1e-3, 1 - 1e-3)), sides], 1)

    corners, scores = BoxesGraph(Drawn(8, 3), slice(0, 3), size)(torch.zeros(1, 8, 16, 32))
    for index, *shares in boxes:
        best = int(scores[0, int(index)].argmax())
        assert scores[0, int(index), best] > 0.99
        np.testing.assert_allclose(corners[0, best].numpy(), shares, atol=1e-5)


def test_the_loss_of_boxes_is_least_where_they_are_right() -> None:
    boxes = np.array([[1, 0.1, 0.2, 0.4, 0.9]], np.float32)
    wanted = torch.from_numpy(draw_maps(boxes, 2, (64, 64)))[None]
    right = torch.cat([12 * wanted[:, :2] - 6, wanted[:, 2:6].clamp(min=1e-3).log()], 1)
    elsewhere, larger = right.clone(), right.clone()
    elsewhere[:, :2] = right[:, :2].roll(5, 3)
    larger[:, 2:] += 0.5
    losses = [float(box_loss(made, wanted)) for made in (right, elsewhere, larger)]
    assert losses[0] < 0.3 and losses[1] > 5 and losses[2] > losses[0] + 0.5
    nothing = torch.from_numpy(draw_maps(boxes[:0], 2, (64, 64)))[None]
    assert float(box_loss(torch.full((1, 6, 16, 16), -9.0), nothing)) < 1e-3
    assert torch.isfinite(box_loss(torch.zeros(1, 6, 16, 16, requires_grad=True), nothing))


def test_a_head_learns_boxes_and_gives_them_back() -> None:
    torch.manual_seed(0)
    size, count = (64, 128), 4
    rng = np.random.default_rng(0)
    wanted, features = [], torch.zeros(count, 8, 16, 32)
    for index in range(count):
        left, top = rng.uniform(0, 0.6, 2)
        boxes = np.array([[index % 2, left, top, left + 0.3, top + 0.4]], np.float32)
        wanted.append(torch.from_numpy(draw_maps(boxes, 2, size)))
        rows, columns = slice(int(top * 16), int(top * 16 + 6)), slice(int(left * 32), None)
        features[index, index % 2, rows, columns.start : columns.start + 10] = 1
    maps = BoxMaps(8, 2)
    optimizer = torch.optim.AdamW(maps.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        box_loss(maps(features), torch.stack(wanted)).backward()
        optimizer.step()
    with torch.inference_mode():
        corners, scores = BoxesGraph(maps.eval(), slice(0, 2), size)(features)
    for index in range(count):
        kind, best = divmod(int(scores[index].argmax()), scores.shape[2])
        assert kind == index % 2
        left, top, right, bottom = corners[index, best].tolist()
        assert abs(right - left - 0.3) < 0.06 and abs(bottom - top - 0.4) < 0.1
