"""A camera and a network of somebody's own: adapt, evaluate, demo, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from commands import GOSVAE, ROOT, TRAINING, needs_training, run
from harness import DOMAINS
from onnx import TensorProto, helper, numpy_helper

from gosvae_codec import ModelBundle
from gosvae_tools.drives import open_source

NAMES = ["dark", "grey", "green", "blue", "bright"]
"""Five classes of a user's own: the colours of a street."""
SIZE = (512, 1024)


def write_expert(path: Path) -> None:
    """A network that takes whole frames, one at a time, and makes probabilities at stride 8."""
    weights = np.zeros((5, 3, 1, 1), np.float32)
    weights[:, :, 0, 0] = [[-1, -1, -1], [0, 0, 0], [-3, 6, -3], [-3, -3, 6], [1, 1, 1]]
    bias = np.array([180, 20, -30, -30, -420], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node(
                "AveragePool", ["image"], ["mean"], kernel_shape=[8, 8], strides=[8, 8]
            ),
            helper.make_node("Conv", ["mean", "weights", "bias"], ["scores"]),
            helper.make_node("Mul", ["scores", "scale"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
        ],
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info("shares", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        ],
    )
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


@pytest.mark.slow
@needs_training
def test_a_users_drive_and_five_classes_become_a_bundle_that_runs(tmp_path: Path) -> None:
    drive = tmp_path / "my drive.avi"
    writer = cv2.VideoWriter(str(drive), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1])
    for frame in open_source(ROOT / "drives" / "street.mcap").frames(labels=False):
        if frame.index < 40:
            writer.write(frame.image[..., ::-1])
    writer.release()
    write_expert(tmp_path / "net.onnx")
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(NAMES))
    said = run(
        *(*GOSVAE, "adapt", "--drive", drive),
        *("--expert", "net.onnx", "--labels", "names.yaml", "--output", "models/mine"),
        *("--pictures", "0..255", "--budget", "tiny", "--minutes", "0.1", "--json", "mine.json"),
        cwd=tmp_path,
    )
    assert "1024x512, one frame at a time" in said and "5 classes as softmax" in said
    result = json.loads((tmp_path / "mine.json").read_text())
    assert result["agreeing_pixels"] > 0.7 and result["bytes_per_frame"] < 1000
    bundle = ModelBundle.load(tmp_path / result["bundle"])
    assert [label.name for label in bundle.labels.labels] == NAMES
    evaluated = run(
        *(
            *TRAINING,
            "gosvae_training.evaluate",
            bundle.path,
            "--data",
            drive,
            "--json",
            "more.json",
        ),
        cwd=tmp_path,
    )
    assert "agreement" in evaluated and "nan" not in evaluated.lower()
    # What was trained on included.
    assert json.loads((tmp_path / "more.json").read_text())["agreeing_pixels"] > 0.7
    domain = {**os.environ, "ROS_DOMAIN_ID": str(next(DOMAINS))}
    done = subprocess.run(
        [
            *(*GOSVAE, "demo", "--input", str(drive)),
            *("--bundle", str(bundle.path), "--json", "demo.json", "--rate", "0.3"),
        ],
        **{"cwd": tmp_path, "env": domain, "capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "demo.json").read_text())
    assert report["miou"] is None and report["classes_compared"] == []
    assert report["frames_scored"] == 40 and report["agreement"] > 0.3
