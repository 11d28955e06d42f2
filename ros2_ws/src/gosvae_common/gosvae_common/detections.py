"""Detections as messages: those of vision_msgs where that is installed, else of gosvae_msgs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import LabelSpace
from gosvae_msgs.msg import Detection, Detections

from .boxes import UNKNOWN, Box


def _optional(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        return None


VISION = _optional("vision_msgs.msg")
"""The module, None where it is not installed."""
MARKERS = _optional("visualization_msgs.msg")
"""The module, None where it is not installed."""
_LINE_LIST, _ADD, _REMOVE = 2, 0, 1
"""Of visualization_msgs/ImageMarker."""
_LINE_WIDTH = 2.0


def detections_type(vision: Any = VISION) -> Any:
    """Return the type of the topic of detections; `vision` is the module ``vision_msgs.msg``."""
    return Detections if vision is None else vision.Detection2DArray


def to_detections(
    boxes: Sequence[Box], labels: LabelSpace, header: HeaderMessage, vision: Any = VISION
) -> Any:
    """Return the objects of a frame as a message of :func:`detections_type`.

    In ``vision_msgs/Detection2DArray`` the id of a class is its name, and an object has one
    hypothesis without a pose.
    """
    if vision is not None:
        found = [_to_vision(box, header, vision) for box in boxes]
        return vision.Detection2DArray(header=header, detections=found)
    return Detections(
        header=header,
        detections=[
            Detection(
                class_name=box.name,
                class_id=labels.by_name(box.name).id,
                score=box.score,
                left=box.left,
                top=box.top,
                right=box.right,
                bottom=box.bottom,
            )
            for box in boxes
        ],
    )


def _to_vision(box: Box, header: HeaderMessage, vision: Any) -> Any:
    made = vision.Detection2D(header=header)
    made.bbox.center.position.x = (box.left + box.right) / 2
    made.bbox.center.position.y = (box.top + box.bottom) / 2
    made.bbox.size_x = box.right - box.left
    made.bbox.size_y = box.bottom - box.top
    result = vision.ObjectHypothesisWithPose()
    result.hypothesis.class_id = box.name
    result.hypothesis.score = box.score
    made.results = [result]
    return made


def from_detections(message: Any) -> list[Box]:
    """Return the objects of a message of either type; of several hypotheses the first."""
    return [
        _from_vision(each)
        if hasattr(each, "bbox")
        else Box(each.class_name, each.score, each.left, each.top, each.right, each.bottom)
        for each in message.detections
    ]


def _from_vision(each: Any) -> Box:
    center, box = each.bbox.center.position, each.bbox
    name, score = "", 0.0
    if len(each.results):
        name, score = each.results[0].hypothesis.class_id, each.results[0].hypothesis.score
    return Box(
        name,
        score,
        center.x - box.size_x / 2,
        center.y - box.size_y / 2,
        center.x + box.size_x / 2,
        center.y + box.size_y / 2,
    )


def to_marker(boxes: Sequence[Box], labels: LabelSpace, header: HeaderMessage, markers: Any) -> Any:
    """Return the boxes of a frame as one ``visualization_msgs/ImageMarker`` of lines.

    It replaces that of the frame before; where there are no boxes it removes it.

    Args:
        boxes: of the frame.
        labels: the classes' colours.
        header: of the frame.
        markers: the module ``visualization_msgs.msg``, which is optional.
    """
    marker = markers.ImageMarker(header=header, ns="gosvae", id=0, scale=_LINE_WIDTH)
    marker.type = _LINE_LIST
    marker.action = _ADD if boxes else _REMOVE
    colors = {label.name: label.color for label in labels.labels}
    for box in boxes:
        red, green, blue = (value / 255 for value in colors.get(box.name, UNKNOWN))
        corners = [
            Point(x=float(x), y=float(y))
            for x, y in (
                (box.left, box.top),
                (box.right, box.top),
                (box.right, box.bottom),
                (box.left, box.bottom),
            )
        ]
        for index, corner in enumerate(corners):
            marker.points += [corner, corners[(index + 1) % 4]]
            marker.outline_colors.append(ColorRGBA(r=red, g=green, b=blue, a=1.0))
    return marker
