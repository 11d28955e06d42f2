"""What is published of each task, by its kind: messages of results, and what is latched beside.

The receiver and the fleet's service publish the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import ModelBundle, Task
from gosvae_codec.masks import colorize

from .boxes import boxes_of
from .detections import MARKERS, VISION, detections_type, to_detections, to_marker
from .legend import legend
from .messages import to_image, to_label_info, to_vision_label_info
from .topics import task_base

_LEGEND_WIDTH = 480


class Output(NamedTuple):
    """One message of a task's result."""

    topic: str
    """Below the camera's base name."""
    kind: type
    make: Callable[[Any, HeaderMessage], Any]
    """Returns the message of a result of the task, with the frame's header."""
    for_people: bool = False
    """Whether people look at it, which has more time."""


def outputs_of(task: Task) -> list[Output]:
    """Return the messages that are made of each result of a task."""
    return _OUTPUTS[task.kind](task, task_base(task.name))


def latched_of(bundle: ModelBundle, task: Task, stamp: Time) -> dict[str, Any]:
    """Return what tells the meaning of a task's results, by topic below the camera's base name.

    Args:
        bundle: whose task it is.
        task: of the bundle; one without labels needs nothing.
        stamp: when this is made.
    """
    if "labels" not in task.record:
        return {}
    base, labels = task_base(task.name), task.labels
    picture = to_image(legend(labels, _LEGEND_WIDTH), "rgb8", HeaderMessage(stamp=stamp))
    made: dict[str, Any] = {
        f"{base}/label_info": to_label_info(bundle, labels, stamp),
        f"{base}/legend": picture,
    }
    if VISION is not None:
        made[f"{base}/label_info_vision"] = to_vision_label_info(labels, stamp, VISION)
    return made


def _semantic(task: Task, base: str) -> list[Output]:
    def mask(result: Any, header: HeaderMessage) -> Image:
        return to_image(result.mask, "mono8", header)

    def confidence(result: Any, header: HeaderMessage) -> Image:
        return to_image(result.confidence, "mono8", header)

    def color(result: Any, header: HeaderMessage) -> Image:
        return to_image(colorize(result.mask, task.labels), "rgb8", header)

    return [
        Output(f"{base}/mask", Image, mask),
        Output(f"{base}/confidence", Image, confidence, for_people=True),
        Output(f"{base}/color", Image, color, for_people=True),
    ]


def _detection(task: Task, base: str) -> list[Output]:
    def detections(result: Any, header: HeaderMessage) -> Any:
        return to_detections(boxes_of(result, task.labels), task.labels, header)

    def markers(result: Any, header: HeaderMessage) -> Any:
        return to_marker(boxes_of(result, task.labels), task.labels, header, MARKERS)

    made = [Output(base, detections_type(), detections)]
    if MARKERS is not None:
        made.append(Output(f"{base}/markers", MARKERS.ImageMarker, markers))
    return made


def _depth(_: Task, base: str) -> list[Output]:
    def image(result: Any, header: HeaderMessage) -> Image:
        return to_image(result.depth, "32FC1", header)

    return [Output(f"{base}/image", Image, image)]


_OUTPUTS: Mapping[str, Callable[[Task, str], list[Output]]] = {
    "semantic": _semantic,
    "detection": _detection,
    "depth": _depth,
}
"""By kind of task."""
