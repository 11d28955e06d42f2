"""Detections as messages of gosvae_msgs, of vision_msgs, and of stand-ins where it is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from gosvae_codec import DetectionResult
from gosvae_codec.testing import OBJECTS
from gosvae_common import detections
from gosvae_common.boxes import Box, boxes_of, draw_boxes
from gosvae_common.detections import (
    detections_type,
    from_detections,
    to_detections,
    to_marker,
)
from gosvae_msgs.msg import Detections


@dataclass(slots=True)
class Point2D:
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class Pose2D:
    position: Point2D = field(default_factory=Point2D)
    theta: float = 0.0


@dataclass(slots=True)
class BoundingBox2D:
    center: Pose2D = field(default_factory=Pose2D)
    size_x: float = 0.0
    size_y: float = 0.0


@dataclass(slots=True)
class ObjectHypothesis:
    class_id: str = ""
    score: float = 0.0


@dataclass(slots=True)
class ObjectHypothesisWithPose:
    hypothesis: ObjectHypothesis = field(default_factory=ObjectHypothesis)
    pose: Any = None


@dataclass(slots=True)
class Detection2D:
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox2D = field(default_factory=BoundingBox2D)
    id: str = ""


@dataclass(slots=True)
class Detection2DArray:
    header: Header = field(default_factory=Header)
    detections: list[Detection2D] = field(default_factory=list)


VISION = SimpleNamespace(
    Detection2DArray=Detection2DArray,
    Detection2D=Detection2D,
    ObjectHypothesisWithPose=ObjectHypothesisWithPose,
)
"""As of vision_msgs 4, which Jazzy has; fields that it has not raise an error."""
INSTALLED = pytest.param(
    detections.VISION,
    marks=pytest.mark.skipif(detections.VISION is None, reason="vision_msgs is not installed"),
    id="vision_msgs",
)


@dataclass(slots=True)
class ImageMarker:
    header: Header
    ns: str
    id: int
    scale: float
    type: int = 0
    action: int = 0
    points: list[Any] = field(default_factory=list)
    outline_colors: list[Any] = field(default_factory=list)


BOXES = [Box("person", 0.875, 10.0, 20.0, 30.5, 60.0), Box("car", 0.5, 0.0, 0.0, 8.0, 4.0)]
HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id="camera")


@pytest.mark.parametrize("vision", [None, VISION, INSTALLED])
@pytest.mark.parametrize("boxes", [BOXES, []])
def test_boxes_come_back_from_either_type(vision: Any, boxes: list[Box]) -> None:
    message = to_detections(boxes, OBJECTS, HEADER, vision)
    assert type(message) is detections_type(vision)
    assert message.header == HEADER
    assert from_detections(message) == boxes


def test_our_own_message_has_ids_and_sides() -> None:
    first, second = to_detections(BOXES, OBJECTS, HEADER, None).detections
    assert detections_type(None) is Detections
    assert (first.class_name, first.class_id, second.class_id) == ("person", 1, 0)
    assert (first.left, first.top, first.right, first.bottom) == (10.0, 20.0, 30.5, 60.0)


@pytest.mark.parametrize("vision", [VISION, INSTALLED])
def test_that_of_vision_msgs_has_names_as_class_ids(vision: Any) -> None:
    first, _ = to_detections(BOXES, OBJECTS, HEADER, vision).detections
    (result,) = first.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("person", 0.875)
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (20.25, 40.0)
    assert (first.bbox.size_x, first.bbox.size_y, first.header) == (20.5, 40.0, HEADER)


def test_a_detection_without_a_hypothesis_has_no_name() -> None:
    (box,) = from_detections(Detection2DArray(detections=[Detection2D()]))
    assert box == Box("", 0.0, 0.0, 0.0, 0.0, 0.0)


def test_a_marker_has_four_lines_a_box_in_its_classes_colour() -> None:
    markers = SimpleNamespace(ImageMarker=ImageMarker)
    marker = to_marker(BOXES, OBJECTS, HEADER, markers)
    assert (marker.type, marker.action, marker.header) == (2, 0, HEADER)
    assert len(marker.points) == 2 * 4 * len(BOXES)
    assert len(marker.outline_colors) == 4 * len(BOXES)
    corners = [(each.x, each.y) for each in marker.points[:8]]
    assert corners[0] == (10.0, 20.0) and corners[0] == corners[-1]
    assert all(corners[index] == corners[index + 1] for index in (1, 3, 5))
    assert marker.outline_colors[0].r == pytest.approx(220 / 255, abs=1e-6)
    # Nothing is found: that of the frame before goes.
    assert to_marker([], OBJECTS, HEADER, markers).action == 1


def test_boxes_of_a_result_have_names() -> None:
    result = DetectionResult(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.array([1])
    )
    assert boxes_of(result, OBJECTS) == [Box("person", 0.5, 1.0, 2.0, 3.0, 4.0)]


def test_boxes_are_drawn_in_their_colours_and_at_the_pictures_scale() -> None:
    picture = np.zeros((60, 80, 3), np.uint8)
    draw_boxes(picture, [Box("car", 0.5, 40, 60, 120, 100)], OBJECTS, scale=0.5)
    assert picture[50, 40].tolist() == [0, 0, 142]
    assert not picture[58:].any()
    # A class that the labels lack is drawn as well.
    draw_boxes(picture, [Box("dog", 0.5, 0, 0, 20, 20)], OBJECTS)
    assert picture[20, 10].any()
