"""A rendered drive as a rosbag2 MCAP file: images, labels, calibration and transforms."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from .mesh import Array
from .output import OutputError, drive

EPOCH = 1_000_000_000
"""Stamp of the first frame in ns: ROS takes 0 for "no time yet"."""
CAMERA = "camera"
FRAME = "camera_optical_frame"


def write_bag(
    root: Path, split: str, number: int, rate: float, path: Path, quality: int = 92
) -> int:
    """Write a drive as one MCAP file.

    Topics: `/camera/image_raw/compressed` (JPEG), `/camera/label/compressed` (PNG of Cityscapes
    train ids, mono8), `/camera/camera_info`, `/tf` (map to base_link) and `/tf_static`
    (base_link to camera_optical_frame), all stamped with frame / `rate` from :data:`EPOCH`.

    Args:
        root: folder that was rendered into.
        split: of the drive: train, val or test.
        number: of the drive.
        rate: frames per second.
        path: file to write; one of that name is replaced.
        quality: of the JPEGs, to 100.

    Returns:
        How many frames it holds.

    Raises:
        OutputError: frames are missing.
        OSError: the file cannot be written.
    """
    types = get_typestore(Stores.ROS2_JAZZY)
    message = {name.rpartition("/")[2]: each for name, each in types.types.items()}
    frames = list(drive(root, split, number))
    if [place.frame for place, _ in frames] != list(range(len(frames))):
        raise OutputError(f"{root} lacks frames of drive {number}; render it to its end first")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        bag = Path(folder) / path.stem
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:

            def connect(topic: str, msgtype: str, qos: tuple[Qos, ...] = ()) -> Any:
                return writer.add_connection(
                    topic, msgtype, typestore=types, offered_qos_profiles=qos
                )

            image = connect(f"/{CAMERA}/image_raw/compressed", "sensor_msgs/msg/CompressedImage")
            label = connect(f"/{CAMERA}/label/compressed", "sensor_msgs/msg/CompressedImage")
            info = connect(f"/{CAMERA}/camera_info", "sensor_msgs/msg/CameraInfo")
            tf = connect("/tf", "tf2_msgs/msg/TFMessage")
            static = connect("/tf_static", "tf2_msgs/msg/TFMessage", (_LATCHED,))

            def write(connection: Any, time: int, content: Any) -> None:
                writer.write(
                    connection, time, bytes(types.serialize_cdr(content, connection.msgtype))
                )

            for place, camera in frames:
                time = EPOCH + round(place.frame * 1e9 / rate)
                stamp = message["Time"](*divmod(time, 1_000_000_000))

                def transform(parent: str, child: str, matrix: Array, stamp: Any = stamp) -> Any:
                    x, y, z = matrix[:3, 3]
                    return message["TFMessage"](
                        [
                            message["TransformStamped"](
                                message["Header"](stamp, parent),
                                child,
                                message["Transform"](
                                    message["Vector3"](x, y, z),
                                    message["Quaternion"](*_quaternion(matrix)),
                                ),
                            )
                        ]
                    )

                world = np.array(camera["vehicle_to_world"]) @ _ROS_BODY
                optical = np.linalg.inv(world) @ np.array(camera["camera_to_world"])
                if place.frame == 0:
                    write(static, time, transform("base_link", FRAME, optical))
                write(tf, time, transform("map", "base_link", world))
                header = message["Header"](stamp, FRAME)
                k = np.array(camera["intrinsics"]).reshape(-1)
                p = np.insert(k.reshape(3, 3), 3, 0, axis=1).reshape(-1)
                region = message["RegionOfInterest"](0, 0, 0, 0, False)
                write(
                    info,
                    time,
                    message["CameraInfo"](
                        header,
                        camera["height"],
                        camera["width"],
                        "plumb_bob",
                        np.zeros(5),
                        k,
                        np.eye(3).reshape(-1),
                        p,
                        0,
                        0,
                        region,
                    ),
                )
                picture = cv2.imread(str(place.image))
                _, jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))
                write(
                    image,
                    time,
                    message["CompressedImage"](
                        header, "bgr8; jpeg compressed bgr8", jpeg.reshape(-1)
                    ),
                )
                ids = cv2.imread(str(place.ground_truth("labelTrainIds")), cv2.IMREAD_UNCHANGED)
                _, png = cv2.imencode(".png", ids, (cv2.IMWRITE_PNG_COMPRESSION, 9))
                write(
                    label,
                    time,
                    message["CompressedImage"](
                        header, "mono8; png compressed mono8", png.reshape(-1)
                    ),
                )
        (file,) = bag.glob("*.mcap")
        file.replace(path)
    return len(frames)


# ROS bodies look along x with y to the left.
_ROS_BODY = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

_NEVER = QosTime(2147483647, 4294967295)
_LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    _NEVER,
    _NEVER,
    QosLiveliness.AUTOMATIC,
    _NEVER,
    False,
)


def _quaternion(matrix: Array) -> tuple[float, float, float, float]:
    """Return x, y, z, w of a rotation, by its greatest component."""
    m = matrix[:3, :3]
    squares = np.array(
        (
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
            1 + m.trace(),
        )
    )
    k = int(squares.argmax())
    rows = np.array(
        (
            (squares[0], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]),
            (m[1, 0] + m[0, 1], squares[1], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]),
            (m[0, 2] + m[2, 0], m[2, 1] + m[1, 2], squares[2], m[1, 0] - m[0, 1]),
            (m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], squares[3]),
        )
    )
    x, y, z, w = rows[k] / np.linalg.norm(rows[k])
    return float(x), float(y), float(z), float(w)
