"""Experts as people export them: each form is taken as what it is, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny import SIZE
from torch import Tensor

from gosvae_codec import CAMVID, CITYSCAPES
from gosvae_codec.labels import ADE20K, Label, LabelSpace
from gosvae_training.bundle.onnx_export import write_onnx
from gosvae_training.models import settings as cfg
from gosvae_training.models.experts import build_expert, with_tasks
from gosvae_training.models.onnx_expert import OnnxExpert
from gosvae_training.models.translate import Translate
from gosvae_training.strict import ConfigError

SHARED = Path(__file__).parents[3] / "shared" / "data"
NAMES = ("road", "car", "sky")
LABELS = LabelSpace("three", tuple(Label(i, name, (i, i, i)) for i, name in enumerate(NAMES)))
RAW = cfg.Picture(mean=(0, 0, 0), std=(1, 1, 1))


FORMS = (
    "free",
    "fixed size",
    "uint8 nhwc",
    "nhwc",
    "float16",
    "normalised",
    "softmax",
    "sigmoid",
    "argmax nhw",
    "argmax n1hw",
    "several",
    "150 classes",
)


def write(path: Path, form: str, size: tuple[int, int] = SIZE, single: bool = True) -> Path:
    """Write a network of one layer, whose classes are the colours, in a form that exporters give.

    By default it takes one frame of one size.
    """
    kind = {"uint8 nhwc": TensorProto.UINT8, "float16": TensorProto.FLOAT16}
    dtype, channels = kind.get(form, TensorProto.FLOAT), 150 if form == "150 classes" else 3
    sides: list[object] = ["height", "width"] if form == "free" else list(size)
    shape = [1 if single else "batch", *([*sides, 3] if "nhwc" in form else [3, *sides])]
    weights, bias = np.zeros((channels, 3, 1, 1), np.float32), np.full(channels, -4, np.float32)
    weights[:3, :, 0, 0], bias[:3] = np.eye(3) / 16, 0
    if form == "normalised":
        # Of (pixels / 255 - 0.5) / 0.25.
        weights[:3], bias[:3] = 63.75 * weights[:3], 127.5 / 16
    if form == "sigmoid":
        bias -= 8
    made: list[tuple[str, int]] = [("scores", TensorProto.FLOAT)]
    nodes = [helper.make_node("Cast", ["image"], ["0"], to=TensorProto.FLOAT)]
    if "nhwc" in form:
        nodes.append(helper.make_node("Transpose", ["0"], ["1"], perm=[0, 3, 1, 2]))
    else:
        nodes.append(helper.make_node("Identity", ["0"], ["1"]))
    last = {"softmax": "2", "sigmoid": "2", "nhwc": "2", "float16": "2"}.get(form, "scores")
    last = "2" if form.startswith("argmax") else last
    nodes.append(helper.make_node("Conv", ["1", "weights", "bias"], [last]))
    if form == "softmax":
        nodes.append(helper.make_node("Softmax", ["2"], ["scores"], axis=1))
    elif form == "sigmoid":
        nodes.append(helper.make_node("Sigmoid", ["2"], ["scores"]))
    elif form == "nhwc":
        nodes.append(helper.make_node("Transpose", ["2"], ["scores"], perm=[0, 2, 3, 1]))
    elif form == "float16":
        nodes.append(helper.make_node("Cast", ["2"], ["scores"], to=TensorProto.FLOAT16))
        made = [("scores", TensorProto.FLOAT16)]
    elif form.startswith("argmax"):
        keep = int(form.endswith("n1hw"))
        nodes.append(helper.make_node("ArgMax", ["2"], ["scores"], axis=1, keepdims=keep))
        made = [("scores", TensorProto.INT64)]
    elif form == "several":
        nodes.append(helper.make_node("GlobalAveragePool", ["scores"], ["pooled"]))
        nodes.append(helper.make_node("Neg", ["scores"], ["negated"]))
        made = [("pooled", TensorProto.FLOAT), *made, ("negated", TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info(name, each, None) for name, each in made],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def frame(size: tuple[int, int] = SIZE) -> tuple[Tensor, np.ndarray]:
    """Return a frame in three colours, uint8 (1, H, W, 3), and which of them is where."""
    truth = np.random.default_rng(0).integers(0, 3, (size[0] // 16, size[1] // 16))
    truth = truth.repeat(16, 0).repeat(16, 1)
    picture = (np.eye(3)[truth] * 200 + 20).astype(np.uint8)
    return torch.from_numpy(picture)[None], truth


def described(path: Path, form: str = "", **more: object) -> cfg.Onnx:
    picture = RAW
    if form == "normalised":
        picture = cfg.Picture(scale=1, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    channels = [*NAMES, *[""] * 147] if form == "150 classes" else list(NAMES)
    return cfg.Onnx(
        **{"kind": "onnx", "path": str(path), "channels": channels, "picture": picture, **more}
    )


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_taken_as_what_it_is(tmp_path: Path, form: str) -> None:
    for single in (True, False):
        path = write(tmp_path / f"{single}.onnx", form, single=single)
        expert = build_expert(described(path, form), LABELS)
        taken, truth = frame()
        logits = expert(torch.cat([taken, taken.flip(2)]))
        assert logits.shape == (2, 3, *SIZE) and torch.isfinite(logits).all()
        assert (logits[0].argmax(0).numpy() == truth).all()
        assert (logits[1].argmax(0).numpy() == truth[:, ::-1]).all()
        assert expert.size == (None if form == "free" else SIZE)
        assert expert.form.single == single


@pytest.mark.parametrize(
    ("form", "single"),
    [("fixed size", False), ("uint8 nhwc", True), ("argmax n1hw", True), ("several", True)],
)
def test_an_exported_expert_is_the_same(tmp_path: Path, form: str, single: bool) -> None:
    expert = build_expert(described(write(tmp_path / "a.onnx", form, single=single), form), LABELS)
    taken, truth = frame()
    write_onnx(expert, [(taken,), (taken,)], (["frames"], ["logits"]), tmp_path / "b.onnx")
    session = ort.InferenceSession(str(tmp_path / "b.onnx"))
    assert [each.name for each in session.get_outputs()] == ["logits"]
    given = session.run(None, {"frames": taken.numpy()})[0]
    assert (given[0].argmax(0) == truth).all()


def test_softmax_is_not_squashed_again(tmp_path: Path) -> None:
    taken = frame()[0]
    wanted, given = (
        build_expert(described(write(tmp_path / f"{form}.onnx", form)), LABELS)(taken)
        for form in ("fixed size", "softmax")
    )
    torch.testing.assert_close(given.softmax(1), wanted.softmax(1), atol=1e-3, rtol=1e-3)


def test_an_expert_looks_at_frames_at_its_own_size(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", "fixed size", (32, 48))
    expert = build_expert(described(path), LABELS)
    taken, truth = frame()
    logits = expert(taken)
    assert logits.shape == (1, 3, 32, 48)
    assert (logits[0].argmax(0).numpy() == truth[::2, ::2]).mean() > 0.95
    path = write(tmp_path / "free.onnx", "free", (32, 48))
    assert build_expert(described(path, size=(32, 48)), LABELS)(taken).shape == (1, 3, 32, 48)
    assert build_expert(described(path), LABELS)(taken).shape == (1, 3, *SIZE)


def test_the_output_wanted_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", "several")
    expert = build_expert(described(path, output="negated"), LABELS)
    assert isinstance(expert, OnnxExpert) and expert.form.made == "negated"
    # Without a name it is the first that is a map of as many classes.
    assert build_expert(described(path), LABELS).form.made == "scores"
    for name, message in (("pooled", "no output is a map of classes"), ("x", "no output 'x'")):
        with pytest.raises(ConfigError, match=message):
            build_expert(described(path, output=name), LABELS)


def test_channels_that_are_not_those_named_are_shown_in_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", "fixed size")
    for names, message in (
        (["road", "car"], r"has 3 channels, but 2 are named[^\n]*\n[^\n]*channel  name"),
        ([*NAMES, ""], "has 3 channels, but 4 are named"),
        (["road", "car", "kennel"], r"(?s)\['kennel'\]: no labels of three, .*\n *2  kennel"),
        (["", "", ""], "no labels of three"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_expert(described(path, channels=names), LABELS)
    labels = described(write(tmp_path / "b.onnx", "argmax nhw"), channels=list(NAMES[:2]))
    with pytest.raises(ConfigError, match="makes labels from 0 to 2, but 2 classes are named"):
        build_expert(labels, LABELS.subset("two", NAMES[:2]))(frame()[0])


def test_a_torch_experts_channels_are_counted_too() -> None:
    network = cfg.Torch(kind="torch", factory="tiny:expert", channels=["road", "car"])
    with pytest.raises(ConfigError, match="has 11 channels, but 2 are named"):
        build_expert(network, CAMVID)(frame()[0])


def test_channels_can_be_a_label_space(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", "150 classes")
    expert = build_expert(described(path, channels="ade20k"), CITYSCAPES)
    assert expert(frame()[0]).shape[1] == len(CITYSCAPES)
    with pytest.raises(ConfigError, match="has 150 channels, but 19 are named"):
        build_expert(described(path, channels="cityscapes"), CITYSCAPES)
    with pytest.raises(ConfigError, match="channels: no label space 'kitti'"):
        build_expert(described(path, channels="kitti"), CITYSCAPES)
    assert not all(
        label for _, label in Translate([e.name for e in ADE20K.labels], CITYSCAPES, ADE20K).table
    )


def test_pictures_on_another_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="are of pixels from 0 to 1: add scale: 1"):
        cfg.Picture(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with pytest.raises(ValueError, match="not of pixels from 0 to 1: leave scale out"):
        cfg.Picture(scale=1, mean=(123.0, 116.0, 103.0), std=(58.0, 57.0, 57.0))
    with pytest.raises(ValueError, match="each has to be above 0"):
        cfg.Picture(std=(0.0, 1.0, 1.0), mean=(2.0, 2.0, 2.0))


def test_what_is_no_expert_is_refused_in_one_line(tmp_path: Path) -> None:
    def refuse(op: str, shapes: list[list[int]], message: str, **more: int) -> None:
        """Refuse a network of one layer that takes pictures of these shapes."""
        names = [f"image{place}" for place in range(len(shapes))]
        kernel = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "kernel")
        taken = [*names, "kernel"] if op == "Conv" else names
        graph = helper.make_graph(
            [helper.make_node(op, taken, ["made"], **more)],
            "strange",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in zip(names, shapes, strict=True)
            ],
            [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)],
            [kernel] if op == "Conv" else [],
        )
        opsets = [helper.make_opsetid("", 13)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "a.onnx")
        with pytest.raises(ConfigError, match=message) as caught:
            build_expert(described(tmp_path / "a.onnx"), LABELS)
        assert "\n" not in str(caught.value)

    one = [1, 3, *SIZE]
    refuse("Add", [one, one], "an expert takes one picture")
    refuse("Relu", [[1, 1, *SIZE]], r"\(N, 3, H, W\) or \(N, H, W, 3\)")
    refuse("Conv", [[4, 3, *SIZE]], "takes 4 frames at a time")
    refuse("Flatten", [one], "no output is a map of classes")
    refuse("ReduceMax", [one], "no output is a map of classes", keepdims=0)
    path = write(tmp_path / "b.onnx", "fixed size")
    with pytest.raises(ConfigError, match=r"takes \(64, 96\), so size cannot be \(32, 48\)"):
        build_expert(described(path, size=(32, 48)), LABELS)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_a_road_network_with_its_own_layout_and_size_sees_a_road() -> None:
    names = ["background", "road", "curb", "mark"]
    labels = LabelSpace("roads", tuple(Label(i, n, (i, i, i)) for i, n in enumerate(names)))
    path = SHARED / "experts_apache" / "road_segmentation_adas_0001.onnx"
    picture = cfg.Picture(order="bgr", mean=(0, 0, 0), std=(1, 1, 1))
    expert = build_expert(described(path, channels=names, picture=picture), labels)
    assert expert.size == (512, 896) and expert.form.layout == "nhwc"
    sample = sorted((SHARED / "camvid" / "val").glob("*.png"))[0]
    shown = cv2.cvtColor(cv2.imread(str(sample)), cv2.COLOR_BGR2RGB)
    mask = expert(torch.from_numpy(shown)[None]).argmax(1)[0]
    # The lower middle is road, the top is not.
    assert (mask[-120:, 300:600] == 1).float().mean() > 0.8
    assert (mask[:100] == 0).float().mean() > 0.95


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_a_detector_makes_no_masks() -> None:
    path = SHARED / "experts_apache" / "yolox_nano_coco_416.onnx"
    with pytest.raises(ConfigError, match=r"no output is a map of classes.*\(1, 3549, 85\)"):
        build_expert(described(path), LABELS)


def test_logits_of_several_experts_lie_one_after_another(tmp_path: Path) -> None:
    first = build_expert(described(write(tmp_path / "a.onnx", "softmax")), LABELS)
    assert with_tasks(first, LABELS, {}) is first
    path = write(tmp_path / "b.onnx", "argmax nhw", (128, 192))
    names = tmp_path / "names.yaml"
    names.write_text("[one, two, three]")
    second = described(path, channels=["one", "two", "three"])
    both = with_tasks(first, LABELS, {"more": cfg.FurtherTask(network=second, labels=str(names))})
    assert both.size == (128, 192)
    shown, truth = frame((128, 192))
    made = both(shown)
    assert made.shape == (1, 6, 128, 192)
    for part in made.split((3, 3), 1):
        assert (part.argmax(1)[0].numpy() == truth).mean() > 0.95
