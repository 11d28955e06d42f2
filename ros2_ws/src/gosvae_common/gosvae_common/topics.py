"""Names of the pipeline's topics, relative to a camera's base name except DIAGNOSTICS.

What a task makes hangs under :func:`task_base`.
"""

from typing import Literal

Side = Literal["both", "tx", "rx"]
"""The machine that something runs on: vehicle (tx), edge computer (rx), or both."""

IMAGE = "image_raw"
COMPRESSED_IMAGE = "image_raw/compressed"
PACKETS = "image_raw/gosvae"
FEEDBACK = "image_raw/gosvae/feedback"
MASK = "semantic/mask"
"""Of the task called ``semantic``, as are COLOR, LABEL_INFO and the like."""
COLOR = "semantic/color"
CONFIDENCE = "semantic/confidence"
OVERLAY = "semantic/overlay"
"""The frame with masks and boxes, whatever the bundle's tasks are called."""
RECONSTRUCTION = "semantic/reconstruction"
SEMANTIC_CAMERA_INFO = "semantic/camera_info"
LABEL_INFO = "semantic/label_info"
VISION_LABEL_INFO = "semantic/label_info_vision"
LEGEND = "semantic/legend"
DETECTIONS = "detections"
"""Of the task called ``detection``."""
DEPTH = "depth/image"
"""Of the task called ``depth``."""
CAMERA_INFO = "camera_info"
LABEL = "label"
COMPRESSED_LABEL = "label/compressed"

DIAGNOSTICS = "/diagnostics"


def task_base(task: str) -> str:
    """Return what the topics of a task hang under: its name, but ``detections`` for detection.

    Detections are published under the base itself, masks as ``mask`` below it, depths as ``image``.
    """
    return DETECTIONS if task == "detection" else task


def camera_info_topic(image_topic: str) -> str:
    """Return the topic of the CameraInfo that belongs to an image topic, as image_transport does.

    It is called ``camera_info`` and stands beside the image topic.
    """
    namespace, slash, _ = image_topic.removesuffix("/compressed").rpartition("/")
    return f"{namespace}{slash}{CAMERA_INFO}"
