"""Conversion between ROS messages and the codec's types."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import Header, Label, LabelSpace, ModelBundle, Packet
from gosvae_msgs.msg import LabelInfo, TokenPacket

IMAGE_TRANSPORTS: Mapping[str, tuple[str, type]] = {
    "raw": ("", Image),
    "compressed": ("/compressed", CompressedImage),
}
"""Suffix of the topic and message type by the name of an image_transport."""

_ENCODINGS = {
    "mono8": (np.uint8, 1),
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "32FC1": (np.float32, 1),
}
"""Data type and channels by encoding."""


def type_name(kind: type) -> str:
    """Return the ROS name of a message class, such as ``sensor_msgs/msg/Image``."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def to_image(pixels: npt.NDArray[Any], encoding: str, header: HeaderMessage) -> Image:
    """Return an image message.

    Args:
        pixels: uint8 (H, W) for mono8, (H, W, 3) for rgb8 and bgr8; float32 (H, W) for 32FC1.
        encoding: one of these four.
        header: stamp and frame_id of the message.

    Raises:
        ValueError: another encoding, or `pixels` is not of its shape.
    """
    shape = pixels.shape[2:] or (1,)
    if _ENCODINGS.get(encoding) != (pixels.dtype, *shape):
        raise ValueError(
            f"{pixels.dtype} {pixels.shape} as {encoding!r}: give uint8 for mono8, rgb8, bgr8, "
            "float32 for 32FC1"
        )
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.step = pixels.shape[1] * shape[0] * pixels.itemsize
    # rclpy copies an array('B') at once, anything else element by element: 0.1 ms against 100 ms.
    data = array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    message.data = data
    return message


def to_header_message(header: Header) -> HeaderMessage:
    """Return the codec's header as ``std_msgs/Header``."""
    return HeaderMessage(
        stamp=Time(sec=header.sec, nanosec=header.nanosec), frame_id=header.frame_id
    )


def from_header_message(message: HeaderMessage) -> Header:
    """Return a ``std_msgs/Header`` as the codec's."""
    return Header(message.stamp.sec, message.stamp.nanosec, message.frame_id)


_COPIED = (
    "fingerprint",
    "stream",
    "sequence",
    "crc32c",
    "source_width",
    "source_height",
    "version",
    "levels",
    "reference",
    "slice_index",
    "slice_count",
)


def to_packet_message(packet: Packet) -> TokenPacket:
    """Return a packet as ``gosvae_msgs/TokenPacket``."""
    fields = {name: getattr(packet, name) for name in _COPIED}
    return TokenPacket(
        header=to_header_message(packet.header), payload=array("B", packet.payload), **fields
    )


def from_packet_message(message: TokenPacket) -> Packet:
    """Return a ``gosvae_msgs/TokenPacket`` as the codec's packet, unchecked."""
    fields = {name: getattr(message, name) for name in _COPIED}
    return Packet(
        header=from_header_message(message.header), payload=bytes(message.payload), **fields
    )


def to_label_info(bundle: ModelBundle, space: LabelSpace, stamp: Time) -> LabelInfo:
    """Return the meaning of label ids of a task of the bundle as ``gosvae_msgs/LabelInfo``."""
    labels = space.labels
    return LabelInfo(
        header=HeaderMessage(stamp=stamp),
        bundle=bundle.name,
        fingerprint=bundle.fingerprint,
        ids=array("B", [label.id for label in labels]),
        names=[label.name for label in labels],
        colors=array("B", [value for label in labels for value in label.color]),
    )


def to_vision_label_info(labels: LabelSpace, stamp: Time, messages: Any) -> Any:
    """Return the meaning of label ids as ``vision_msgs/LabelInfo``.

    Args:
        labels: of a task.
        stamp: when this is made.
        messages: the module ``vision_msgs.msg``, which is optional.
    """
    classes = [
        messages.VisionClass(class_id=label.id, class_name=label.name) for label in labels.labels
    ]
    return messages.LabelInfo(header=HeaderMessage(stamp=stamp), class_map=classes)


def from_label_info(message: LabelInfo) -> LabelSpace:
    """Return the label space of a ``gosvae_msgs/LabelInfo``, named like its bundle.

    Raises:
        LabelError: it has no labels, or invalid ones.
    """
    colors = np.array(message.colors, np.uint8).reshape(-1, 3).tolist()
    labels = zip(message.ids, message.names, colors, strict=True)
    return LabelSpace(
        message.bundle, tuple(Label(i, name, (r, g, b)) for i, name, (r, g, b) in labels)
    )
