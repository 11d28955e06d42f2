from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from gosvae_codec import BundleError, Decoder, Encoder, Expert, ModelBundle
from gosvae_codec.manifest import record
from gosvae_codec.testing import write_tiny_bundle
from gosvae_tools.convert_bundle import convert


def write_mask(path: Path, end: str = "slice") -> None:
    """A network of format 2: tokens (N, 2, 4, 6) to logits (N, 11, 4, 6)."""
    rng = np.random.default_rng(3)
    constants: dict[str, np.ndarray[Any, Any]] = {
        "table": rng.standard_normal((65, 5)).astype(np.float32),
        "one": np.ones(1, np.int64),
        "weights": rng.standard_normal((11, 5, 1, 1)).astype(np.float32),
        "starts": np.zeros(2, np.int64),
        "ends": np.array([4, 6]),
        "axes": np.array([2, 3]),
        "pads": np.array([0, 0, 0, 0, 0, 0, 1, 0]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["vectors"]),
        helper.make_node("ReduceSum", ["vectors", "one"], ["summed"], keepdims=0),
        helper.make_node("Transpose", ["summed"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Pad", ["planes", "pads"], ["padded"]),
    ]
    if end == "labels":
        nodes = nodes[:3]
        nodes[2].output[0] = "logits"
        constants["table"] = rng.standard_normal((65, 11)).astype(np.float32)
    else:
        taken = "padded" if end == "slice" else "planes"
        made = {"slice": "classes", "plain": "logits"}.get(end, "classes")
        nodes.append(helper.make_node("Conv", [taken, "weights"], [made], kernel_shape=[1, 1]))
        if end == "slice":
            ends = ["classes", "starts", "ends", "axes"]
            nodes.append(helper.make_node("Slice", ends, ["logits"]))
        elif end == "relu":
            nodes.append(helper.make_node("Relu", ["classes"], ["logits"]))
    used = {name for node in nodes for name in node.input}
    sizes = {
        name: helper.make_tensor_value_info(name, kind, ["batch", channels, 4, 6])
        for name, kind, channels in (
            ("tokens", TensorProto.INT32, 2),
            ("logits", TensorProto.FLOAT, 11),
        )
    }
    graph = helper.make_graph(
        nodes,
        "mask",
        [sizes["tokens"]],
        [sizes["logits"]],
        [numpy_helper.from_array(v, name) for name, v in constants.items() if name in used],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def write_old(path: Path, end: str = "slice", quantized: bool = False) -> Path:
    """A bundle of format 2 with the tiny bundle's encoder."""
    write_tiny_bundle(path)
    manifest = yaml.safe_load((path / "manifest.yaml").read_text())
    task = manifest.pop("tasks")["semantic"]
    for name in ("features.onnx", "tasks/semantic.onnx"):
        (path / name).unlink()
    (path / "tasks").rmdir()
    names = ["encoder.onnx", "mask.onnx", "prior.npz"]
    write_mask(path / "mask.onnx", end)
    if quantized:
        write_mask(path / "mask.int8.onnx", end)
        names.insert(2, "mask.int8.onnx")
    (path / "README.md").write_text("a card")
    manifest |= {
        "format": 2,
        "label_space": "camvid",
        "labels": task["labels"],
        "expert": task["expert"],
        "files": {name: record(path / name) for name in names},
    }
    (path / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    return path


@pytest.mark.parametrize("end", ["slice", "plain", "labels"])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_converted_bundle_gives_the_same_masks(tmp_path: Path, end: str, quantized: bool) -> None:
    old = write_old(tmp_path / "old" / "tiny", end, quantized)
    outcome = convert(old, tmp_path / "tiny")
    assert not outcome.problems and not outcome.notes
    bundle = ModelBundle.load(tmp_path / "tiny")
    assert outcome.figures["fingerprint"] == f"{bundle.fingerprint:016x}"
    assert ("features.int8.onnx" in bundle.files) == quantized
    assert "mask.onnx" not in {path.name for path in bundle.path.iterdir()}
    assert (bundle.path / "README.md").read_text() == "a card"
    assert list(bundle.manifest)[-2:] == ["tasks", "provenance"]
    tokens = np.random.default_rng(1).integers(0, 65, (3, 2, 4, 6)).astype(np.int32)
    wanted = ort.InferenceSession(str(old / "mask.onnx")).run(None, {"tokens": tokens})[0]
    features = bundle.session("features.onnx", ["cpu"], 1).run(tokens)
    assert features.shape[2:] == (4, 6)
    made = bundle.session("tasks/semantic.onnx", ["cpu"], 1).run(features)
    np.testing.assert_array_equal(made, wanted)
    said = bundle.session("tasks/semantic.onnx", ["cpu"], 1).metadata["gosvae_features"]
    assert said == bundle.manifest["files"]["features.onnx"]["sha256"]
    frame = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
    assert Decoder(bundle).decode(Encoder(bundle).encode(frame)).mask.shape == (64, 96)
    assert Expert(bundle).segment(frame).shape == (64, 96)
    # What was there before is as it was.
    assert yaml.safe_load((old / "manifest.yaml").read_text())["format"] == 2


def test_what_cannot_be_converted_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    new = tmp_path / "new"
    with pytest.raises(BundleError, match="bundle format 3; only format 2 is converted"):
        convert(write_tiny_bundle(tmp_path / "tiny"), new)
    with pytest.raises(BundleError, match=r"ends in \['Conv', 'Relu'\], expected a 1x1 Conv"):
        convert(write_old(tmp_path / "relu", "relu"), new)
    with pytest.raises(BundleError, match="No such file or directory: not a model bundle"):
        convert(tmp_path / "nowhere", new)
    old = write_old(tmp_path / "old")
    (old / "prior.npz").write_bytes(b"")
    with pytest.raises(BundleError, match="0 bytes, should be"):
        convert(old, new)
    assert not new.exists() and not list(tmp_path.glob(".new*"))
    with pytest.raises(FileExistsError, match="exists already"):
        convert(write_old(tmp_path / "whole"), tmp_path / "tiny")


def test_a_missing_expert_is_told_but_does_not_hinder(tmp_path: Path) -> None:
    old = write_old(tmp_path / "old" / "tiny")
    for path in (tmp_path / "old" / "experts").iterdir():
        path.unlink()
    outcome = convert(old, tmp_path / "tiny")
    assert "is missing; nodes do not need it" in outcome.notes[0]
