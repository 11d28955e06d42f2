"""Heads that come to a bundle later, and recordings that are read again with them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from drives import write_drive
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from gosvae_bringup import cli
from gosvae_codec import BundleError, LabelError, ModelBundle
from gosvae_codec.manifest import FEATURES, head_file, record
from gosvae_codec.testing import OBJECTS, write_tiny_bundle, write_tiny_head
from gosvae_common.detections import from_detections
from gosvae_common.messages import from_label_info
from gosvae_msgs.msg import Detections, LabelInfo
from gosvae_tools.add_head import add_head
from gosvae_tools.bags import reading

FRAMES = 5


def gosvae(*arguments: object) -> int:
    return cli.main([str(each) for each in arguments])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "models" / "tiny")


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    path = tmp_path / "objects.yaml"
    labels = [{"name": each.name, "color": list(each.color)} for each in OBJECTS.labels]
    path.write_text(yaml.safe_dump(labels))
    return path


def test_an_old_recording_is_read_with_a_new_head(
    tmp_path: Path, bundle: Path, objects: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_drive(tmp_path / "drive", FRAMES, (64, 96))
    packets = tmp_path / "packets.mcap"
    assert gosvae("encode", tmp_path / "drive", "-o", packets, "--bundle", bundle) == 0
    head = write_tiny_head(tmp_path / "detection.onnx", "detection")
    new = tmp_path / "models" / "new"
    task = ("--name", "detection", "--kind", "detection", "--labels", objects)
    capsys.readouterr()
    assert gosvae("add-head", bundle, head, new, *task, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["tasks"] == "semantic, detection"
    assert "does not say what features it was made for" in said.err
    before, after = ModelBundle.load(bundle), ModelBundle.load(new)
    assert after.fingerprint == before.fingerprint
    assert after.tasks["detection"].version == record(head)["sha256"]
    assert [each.name for each in after.tasks["detection"].labels.labels] == ["car", "person"]

    output = tmp_path / "found.mcap"
    arguments = ("--bundle", new, "--tasks", "detection")
    assert gosvae("decode", packets, "-o", output, *arguments) == 0
    with reading(output) as reader:
        found = {each.topic: each for each in reader.connections}
        assert set(found) == {"/camera/detections", "/camera/detections/label_info"}
        boxes = [
            from_detections(deserialize_message(bytes(data), Detections))
            for _, _, data in reader.messages([found["/camera/detections"]])
        ]
        ((_, _, data),) = reader.messages([found["/camera/detections/label_info"]])
    assert len(boxes) == FRAMES and any(boxes)
    labels = from_label_info(deserialize_message(bytes(data), LabelInfo))
    assert [each.name for each in labels.labels] == ["car", "person"]

    folder = tmp_path / "files"
    assert gosvae("decode", packets, "-o", folder, "--bundle", new) == 0
    assert {each.name for each in folder.iterdir()} == {"semantic", "detection"}
    files = sorted((folder / "detection").iterdir())
    assert [file.suffix for file in files] == [".json"] * FRAMES
    for file, wanted in zip(files, boxes, strict=True):
        stored = json.loads(file.read_text())
        assert [each["name"] for each in stored] == [box.name for box in wanted]
    assert len(list((folder / "semantic").glob("*.png"))) == FRAMES


def test_boxes_are_written_that_are_likely_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", tasks=["detection"])
    write_drive(tmp_path / "drive", FRAMES, (64, 96))
    packets = tmp_path / "packets.mcap"
    assert gosvae("encode", tmp_path / "drive", "-o", packets, "--bundle", bundle) == 0

    def scores(least: float) -> list[float]:
        folder = tmp_path / f"at least {least}"
        given = ("--bundle", bundle, "--min-score", least)
        assert gosvae("decode", packets, "-o", folder, *given) == 0
        files = sorted(folder.iterdir())
        return [box["score"] for file in files for box in json.loads(file.read_text())]

    everything = scores(0)
    middle = sorted(everything)[len(everything) // 2]
    assert min(everything) < middle
    assert scores(middle) == [each for each in everything if each >= middle]
    assert gosvae("decode", packets, "-o", tmp_path / "no", "--min-score", 2) == 2
    assert "--min-score 2: give a number from 0 to 1" in capsys.readouterr().err


def test_depths_go_to_bags_and_to_files(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", tasks=["depth"])
    write_drive(tmp_path / "drive", FRAMES, (51, 77))
    packets, bag = tmp_path / "packets.mcap", tmp_path / "depths.mcap"
    assert gosvae("encode", tmp_path / "drive", "-o", packets, "--bundle", bundle) == 0
    assert gosvae("decode", packets, "-o", bag, "--bundle", bundle) == 0
    assert gosvae("decode", packets, "-o", tmp_path / "files", "--bundle", bundle) == 0
    with reading(bag) as reader:
        (connection,) = reader.connections
        assert connection.topic == "/camera/depth/image"
        images = [deserialize_message(bytes(d), Image) for _, _, d in reader.messages()]
    files = sorted((tmp_path / "files").iterdir())
    for image, file in zip(images, files, strict=True):
        depth = np.frombuffer(image.data, np.float32).reshape(image.height, image.width)
        np.testing.assert_array_equal(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), depth)


def test_a_head_replaces_the_one_of_its_name_and_its_8_bit_version(
    tmp_path: Path, bundle: Path
) -> None:
    head = write_tiny_head(tmp_path / "semantic.onnx", "semantic", 11)
    model = onnx.load(head)
    model.doc_string = "another"
    onnx.save(model, str(head))
    add_head(bundle, head, tmp_path / "new", "semantic", "semantic", "camvid")
    task = ModelBundle.load(tmp_path / "new").tasks["semantic"]
    assert task.version == record(head)["sha256"] != ModelBundle.load(bundle).semantic.version


@pytest.mark.parametrize(
    ("name", "kind", "labels", "unit", "message"),
    [
        ("depth", "boxes", "", "", "unknown kind 'boxes'; there are: semantic, detection, depth"),
        ("Depth", "depth", "", "metres", "'Depth' is no name"),
        ("depth", "depth", "", "", r"of kind depth needs \['unit'\]"),
        ("depth", "depth", "", "feet", "unit 'feet': give one of metres, relative"),
        ("depth", "semantic", "camvid", "", "a head of kind semantic makes logits"),
    ],
)
def test_what_is_no_head_is_refused_and_leaves_nothing(
    tmp_path: Path, bundle: Path, name: str, kind: str, labels: str, unit: str, message: str
) -> None:
    head = write_tiny_head(tmp_path / "depth.onnx", "depth")
    with pytest.raises(BundleError, match=message):
        add_head(bundle, head, tmp_path / "new", name, kind, labels, unit)
    assert not (tmp_path / "new").exists()


def test_a_head_of_another_bundle_is_refused_by_name(tmp_path: Path, bundle: Path) -> None:
    head = write_tiny_head(tmp_path / "depth.onnx", "depth")
    model = onnx.load(head)
    onnx.helper.set_model_props(model, {"gosvae_features": "f" * 64})
    onnx.save(model, str(head))
    with pytest.raises(BundleError, match=r"tasks/depth.onnx was made for other features, ffff"):
        add_head(bundle, head, tmp_path / "new", "depth", "depth", unit="metres")
    ours = str(record(bundle / FEATURES)["sha256"])
    onnx.helper.set_model_props(model, {"gosvae_features": ours})
    onnx.save(model, str(head))
    outcome = add_head(bundle, head, tmp_path / "new", "depth", "depth", unit="metres")
    assert not any("does not say" in note for note in outcome.notes)
    assert (tmp_path / "new" / head_file("depth")).exists()


def test_labels_that_are_not_there_are_named(tmp_path: Path, bundle: Path) -> None:
    head = write_tiny_head(tmp_path / "semantic.onnx", "semantic")
    with pytest.raises(LabelError, match="no label space 'streets'"):
        add_head(bundle, head, tmp_path / "new", "semantic", "semantic", "streets")
    with pytest.raises(FileExistsError):
        add_head(bundle, head, bundle, "semantic", "semantic", "camvid")
