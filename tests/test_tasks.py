"""Several tasks of one stream over DDS, with listeners that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import Pipeline, pixels, random_frame
from sensor_msgs.msg import CameraInfo, Image

from gosvae_codec import (
    DecodedFrame,
    Decoder,
    DepthResult,
    DetectionResult,
    Encoder,
    ModelBundle,
    SemanticResult,
)
from gosvae_codec.testing import OBJECTS, write_tiny_bundle
from gosvae_common.boxes import boxes_of
from gosvae_common.detections import detections_type, from_detections
from gosvae_common.messages import from_label_info
from gosvae_common.qos import qos_profile
from gosvae_msgs.msg import LabelInfo

NAME = "gosvae_rx: camera"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("models") / "tasks"
    return ModelBundle.load(write_tiny_bundle(folder, tasks=("semantic", "detection", "depth")))


@pytest.fixture
def pipeline(tmp_path: Path, bundle: ModelBundle) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path, bundle.path)
    try:
        yield pipeline
    finally:
        pipeline.close()


def expected(bundle: ModelBundle, frame: np.ndarray) -> DecodedFrame:
    return Decoder(bundle).decode(Encoder(bundle).encode(frame))


def test_each_task_is_published_with_the_frames_own_header(
    pipeline: Pipeline, bundle: ModelBundle
) -> None:
    masks = pipeline.masks()
    confidences = pipeline.collect(Image, "camera/semantic/confidence")
    found = pipeline.collect(detections_type(), "camera/detections")
    depths = pipeline.collect(Image, "camera/depth/image")
    infos = pipeline.collect(LabelInfo, "camera/detections/label_info", "latched")
    pipeline.transmitter()
    pipeline.receiver()
    frame = random_frame(3)
    mask = pipeline.send(frame, masks)
    wanted = expected(bundle, frame).tasks
    semantic, detection, depth = (wanted[name] for name in ("semantic", "detection", "depth"))
    assert isinstance(semantic, SemanticResult) and isinstance(detection, DetectionResult)
    assert isinstance(depth, DepthResult)

    def same(messages: list[Image]) -> Image:
        def match() -> Image | None:
            stamp = mask.header.stamp
            return next((each for each in messages if each.header.stamp == stamp), None)

        return pipeline.wait("each task's result", match)

    assert (same(confidences).encoding, same(depths).encoding) == ("mono8", "32FC1")
    np.testing.assert_array_equal(pixels(same(confidences)), semantic.confidence)
    message = same(depths)
    read = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
    np.testing.assert_array_equal(read, depth.depth)
    boxes = from_detections(same(found))
    assert same(found).header == mask.header and len(boxes) > 0
    for ours, theirs in zip(boxes, boxes_of(detection, OBJECTS), strict=True):
        assert ours.name == theirs.name
        np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-6)
    pipeline.wait("the classes", lambda: infos)
    assert from_label_info(infos[0]).labels == OBJECTS.labels


def test_heads_run_while_somebody_listens(pipeline: Pipeline) -> None:
    pipeline.transmitter()
    pipeline.receiver()
    frame, node = random_frame(3), pipeline.node

    def running(*names: str) -> None:
        def arrived() -> bool:
            pipeline.publish(frame)
            figures = pipeline.figures(NAME)
            return figures.get("frames", "0") != "0" and figures["tasks"] == ", ".join(names)

        pipeline.wait(f"the tasks {names}", arrived)

    # Packets arrive and are acknowledged, and nothing is computed.
    running()
    assert float(pipeline.figures(NAME)["coverage"]) == 1
    boxes = node.create_subscription(
        detections_type(), "camera/detections", print, qos_profile("sensor_data")
    )
    running("detection")
    assert pipeline.figures(NAME)["listeners of detection"] == "1"
    assert pipeline.figures(NAME)["listeners of semantic"] == "0"
    color = node.create_subscription(
        Image, "camera/semantic/color", lambda _: None, qos_profile("sensor_data")
    )
    running("semantic", "detection")
    node.destroy_subscription(boxes)
    running("semantic")
    node.destroy_subscription(color)
    running()


def test_the_overlay_has_masks_and_boxes(pipeline: Pipeline, bundle: ModelBundle) -> None:
    overlays = pipeline.masks(topic="overlay")
    pipeline.transmitter()
    pipeline.receiver()
    frame = random_frame(3)
    overlay = pixels(pipeline.send(frame, overlays))
    assert pipeline.figures(NAME)["tasks"] in ("", "semantic, detection")
    result = expected(bundle, frame).tasks["detection"]
    assert isinstance(result, DetectionResult)
    box = boxes_of(result, OBJECTS)[0]
    color = OBJECTS.by_name(box.name).color
    # The lower edge; names stand at the upper.
    row, column = round(box.bottom) - 1, round((box.left + box.right) / 2)
    assert overlay[row, column].tolist() == list(color)


def test_depth_has_the_cameras_calibration(pipeline: Pipeline) -> None:
    depths = pipeline.collect(Image, "camera/depth/image")
    infos = pipeline.collect(CameraInfo, "camera/depth/camera_info")
    pipeline.transmitter()
    pipeline.receiver()
    publisher = pipeline.publisher(CameraInfo, "camera/camera_info", "default")
    pipeline.wait("demand for it", lambda: publisher.get_subscription_count() > 0)
    publisher.publish(CameraInfo(width=160, height=120))

    def calibrated() -> bool:
        depth = pipeline.send(random_frame(1), depths)
        return any(each.header.stamp == depth.header.stamp for each in infos)

    pipeline.wait("calibration", calibrated)
    assert (infos[-1].width, infos[-1].header.frame_id) == (160, "camera_frame")
