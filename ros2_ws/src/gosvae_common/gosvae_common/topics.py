"""Names of the pipeline's topics, relative to a camera's base name except DIAGNOSTICS."""

from typing import Literal

Side = Literal["both", "tx", "rx"]
"""The machine that something runs on: vehicle (tx), edge computer (rx), or both."""

IMAGE = "image_raw"
COMPRESSED_IMAGE = "image_raw/compressed"
PACKETS = "image_raw/gosvae"
FEEDBACK = "image_raw/gosvae/feedback"
MASK = "semantic/mask"
COLOR = "semantic/color"
OVERLAY = "semantic/overlay"
RECONSTRUCTION = "semantic/reconstruction"
SEMANTIC_CAMERA_INFO = "semantic/camera_info"
LABEL_INFO = "semantic/label_info"
VISION_LABEL_INFO = "semantic/label_info_vision"
LEGEND = "semantic/legend"
CAMERA_INFO = "camera_info"
LABEL = "label"
COMPRESSED_LABEL = "label/compressed"

DIAGNOSTICS = "/diagnostics"


def camera_info_topic(image_topic: str) -> str:
    """Return the topic of the CameraInfo that belongs to an image topic, as image_transport does.

    It is called ``camera_info`` and stands beside the image topic.
    """
    namespace, slash, _ = image_topic.removesuffix("/compressed").rpartition("/")
    return f"{namespace}{slash}{CAMERA_INFO}"
