"""Every kind of input, from generated files and, where they are, from real drives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gosvae_tools.drives import EPOCH, SourceError, open_source
from gosvae_tools.drives.prefetch import prefetch
from gosvae_tools.drives.stamps import read_stamp, shifted

DATA = Path(__file__).resolve().parents[5] / "shared" / "data"
TYPES = get_typestore(Stores.ROS2_JAZZY)
MESSAGE: dict[str, Any] = {name.rpartition("/")[2]: each for name, each in TYPES.types.items()}
H, W = 24, 32


def picture(index: int) -> np.ndarray:
    """Return an RGB frame that no other index has."""
    frame = np.zeros((H, W, 3), np.uint8)
    frame[..., 0], frame[..., 1] = index * 20, np.arange(W) * 7
    frame[..., 2] = np.arange(H)[:, None] * 9
    return frame


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def write_bag(
    path: Path,
    topics: dict[str, str],
    frames: int = 4,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    mode: CompressionMode = CompressionMode.NONE,
) -> Path:
    """Write one message of each topic's kind for each frame, 0.1 s apart from 50 s on."""
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind in topics.items():
            msgtype = {
                "raw": "sensor_msgs/msg/Image",
                "label": "sensor_msgs/msg/Image",
                "png label": "sensor_msgs/msg/CompressedImage",
                "jpeg label": "sensor_msgs/msg/CompressedImage",
                "compressed": "sensor_msgs/msg/CompressedImage",
                "imu": "sensor_msgs/msg/Temperature",
                "tf": "tf2_msgs/msg/TFMessage",
            }[kind]
            connections[topic] = writer.add_connection(topic, msgtype, typestore=TYPES)
        for index in range(frames):
            nanoseconds = 50_000_000_000 + index * 100_000_000
            header = MESSAGE["Header"](
                MESSAGE["Time"](*divmod(nanoseconds - 1234, 1_000_000_000)), "eye"
            )
            for topic, kind in topics.items():
                rgb, ids = picture(index), np.full((H, W), index, np.uint8)
                png = cv2.imencode(".png", rgb[..., ::-1])[1].reshape(-1)
                packed = {
                    f"{kind} label": MESSAGE["CompressedImage"](
                        header,
                        f"mono8; {kind} compressed",
                        cv2.imencode(f".{kind}", ids)[1].reshape(-1),
                    )
                    for kind in ("png", "jpeg")
                }
                vector, turn = MESSAGE["Vector3"](1, 2, 3), MESSAGE["Quaternion"](0, 0, 0, 1)
                move = MESSAGE["Transform"](vector, turn)
                message = {
                    **packed,
                    "raw": MESSAGE["Image"](header, H, W, "rgb8", 0, W * 3, rgb.reshape(-1)),
                    "label": MESSAGE["Image"](header, H, W, "mono8", 0, W, ids.reshape(-1)),
                    "compressed": MESSAGE["CompressedImage"](header, "png", png),
                    "imu": MESSAGE["Temperature"](header, 20.0, 0.0),
                    "tf": MESSAGE["TFMessage"]([MESSAGE["TransformStamped"](header, "b", move)]),
                }[kind]
                data = TYPES.serialize_cdr(message, connections[topic].msgtype)
                writer.write(connections[topic], nanoseconds, bytes(data))
    return path


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    for index in range(3):
        save(tmp_path / "val" / f"d_{index}.png", picture(index))
        save(tmp_path / "valannot" / f"d_{index}.png", np.full((H, W), index, np.uint8))
    return tmp_path / "val"


def test_camvid_folder_gives_frames_labels_and_even_stamps(camvid: Path) -> None:
    source = open_source(camvid, ["front"], fps=10)
    frames = list(source.frames())
    assert [frame.stamp for frame in frames] == [EPOCH + k * 100_000_000 for k in range(3)]
    assert len(source) == 3 and source.duration == 200_000_000
    assert [int(frame.label[0, 0]) for frame in frames] == [10, 2, 5]  # sky, building, pole
    for index, frame in enumerate(frames):
        assert frame.camera == "front"
        np.testing.assert_array_equal(frame.image, picture(index))


def test_messages_and_frames_agree(camvid: Path) -> None:
    source = open_source(camvid)
    messages = list(source.messages())
    assert [message.channel.topic for message in messages] == [
        "camera/image_raw",
        "camera/label",
    ] * 3
    for frame, image, label in zip(source.frames(), messages[::2], messages[1::2], strict=True):
        assert frame.stamp == image.stamp == label.stamp == image.time
        np.testing.assert_array_equal(frame.image, image.data)
        np.testing.assert_array_equal(frame.label, label.data)


def test_offset_keeps_stamps(camvid: Path) -> None:
    source = open_source(camvid, fps=10)
    later = [message.stamp for message in source.messages(150_000_000)]
    assert later == [EPOCH + 200_000_000] * 2


@pytest.mark.parametrize("inside", [".", "leftImg8bit", "leftImg8bit/val", "leftImg8bit/val/bonn"])
def test_cityscapes_folder_at_any_depth(tmp_path: Path, inside: str) -> None:
    root = tmp_path / "cityscapes"
    name = "val/bonn/bonn_000000_00000{}_"
    for index in range(3):
        stem = name.format(index)
        save(root / "leftImg8bit" / f"{stem}leftImg8bit.png", picture(index))
    fine = root / "gtFine"
    save(fine / f"{name.format(0)}gtFine_labelIds.png", np.full((H, W), 7, np.uint8))
    save(fine / f"{name.format(1)}gtFine_labelIds.png", np.full((H, W), 7, np.uint8))
    save(fine / f"{name.format(1)}gtFine_labelTrainIds.png", np.full((H, W), 13, np.uint8))
    labels = [frame.label for frame in open_source(root / inside).frames()]
    assert np.all(labels[0] == 0) and np.all(labels[1] == 13) and labels[2] is None


def test_plain_folder_in_natural_order(tmp_path: Path) -> None:
    for index in (10, 9, 1):
        save(tmp_path / f"frame_{index}.png", picture(index))
    reds = [int(frame.image[0, 0, 0]) for frame in open_source(tmp_path).frames()]
    assert reds == [20, 180, 200]


def test_video_is_stamped_with_its_presentation_times(tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(12):
            pixels = np.full((48, 64, 3), index * 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    source = open_source(path)
    frames = list(source.frames())
    assert len(frames) == len(source) == 12 and source.transport == {"camera": "raw"}
    assert [frame.stamp - EPOCH for frame in frames] == [k * 100_000_000 for k in range(12)]
    assert all(abs(float(f.image.mean()) - k * 20) < 6 for k, f in enumerate(frames))
    sought = [message.stamp for message in source.messages(450_000_000)]
    assert sought == [frame.stamp for frame in frames[5:]]


@pytest.mark.parametrize(
    ("plugin", "mode"),
    [
        (StoragePlugin.MCAP, CompressionMode.NONE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    ],
)
@pytest.mark.parametrize("kind", ["raw", "compressed"])
def test_bag(tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode, kind: str) -> None:
    topic = "/camera/image_raw" + ("/compressed" if kind == "compressed" else "")
    path = write_bag(
        tmp_path / "bag", {topic: kind, "/camera/label": "label", "/t": "imu"}, 4, plugin, mode
    )
    source = open_source(path)
    assert source.transport == {"camera": kind} and len(source) == 4
    assert source.start == 50_000_000_000 and source.duration == 300_000_000
    assert source.interval == 100_000_000
    messages = list(source.messages())
    assert [each.channel.topic for each in messages] == [topic[1:], "camera/label"] * 4
    for index, frame in enumerate(source.frames()):
        assert frame.stamp == messages[2 * index].stamp == 49_999_998_766 + index * 100_000_000
        assert read_stamp(messages[2 * index].data) == frame.stamp
        np.testing.assert_array_equal(frame.image, picture(index))
        assert np.all(frame.label == index)
    assert len(list(source.messages(250_000_000))) == 2


def test_single_storage_file_and_folder_without_metadata(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", {"/camera/image_raw": "raw"})
    (path / "metadata.yaml").unlink()
    assert len(open_source(path)) == len(open_source(path / "bag.mcap")) == 4


def test_label_may_come_before_or_never(tmp_path: Path) -> None:
    topics = {"/camera/label": "label", "/camera/image_raw": "raw"}
    frames = list(open_source(write_bag(tmp_path / "before", topics)).frames())
    assert [int(frame.label[0, 0]) for frame in frames] == [0, 1, 2, 3]
    frames = list(open_source(write_bag(tmp_path / "none", {"/camera/image_raw": "raw"})).frames())
    assert [frame.label for frame in frames] == [None] * 4


def test_labels_come_as_png_but_not_as_jpeg(tmp_path: Path) -> None:
    topics = {"/camera/image_raw/compressed": "compressed", "/camera/label/compressed": "png label"}
    source = open_source(write_bag(tmp_path / "png", topics))
    assert len(source) == 4
    for index, frame in enumerate(source.frames()):
        np.testing.assert_array_equal(frame.label, np.full((H, W), index))
    topics["/camera/label/compressed"] = "jpeg label"
    source = open_source(write_bag(tmp_path / "jpeg", topics))
    assert [frame.label for frame in source.frames()] == [None] * 4
    assert [(loss.kind, loss.count) for loss in source.losses] == [("label", 1)] * 4
    assert "train ids come as PNG of one 8-bit channel" in source.losses[0].reason
    assert len(list(source.frames(labels=False))) == 4 and not source.losses


@pytest.mark.parametrize("bad", [(0,), (2,), (0, 3), (1, 2, 3)])
@pytest.mark.parametrize("data", [b"", bytes(5000), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_frames_that_do_not_decode_are_left_out(
    tmp_path: Path, bad: tuple[int, ...], data: bytes
) -> None:
    topic, msgtype = "/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage"
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(topic, msgtype, typestore=TYPES)
        for index in range(4):
            png = cv2.imencode(".png", picture(index)[..., ::-1])[1].tobytes()
            content = np.frombuffer(data if index in bad else png, np.uint8)
            header = MESSAGE["Header"](MESSAGE["Time"](index, 0), "eye")
            message = MESSAGE["CompressedImage"](header, "png", content)
            time = 1_000_000_000 * (index + 5)
            writer.write(connection, time, bytes(TYPES.serialize_cdr(message, msgtype)))
    source = open_source(tmp_path / "bag")
    for _ in range(2):
        frames = list(source.frames())
        good = [index for index in range(4) if index not in bad]
        assert [frame.index for frame in frames] == good
        assert [frame.time for frame in frames] == [1_000_000_000 * (k + 5) for k in good]
        assert source.lost == len(bad)
        assert f"{topic} at {bad[0] + 5}000000000 ns" in source.losses[0].reason
    assert len(list(source.messages())) == 4 and source.lost == 0


def test_messages_that_are_cut_off_are_left_out(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/i", "sensor_msgs/msg/Image", typestore=TYPES)
        header = MESSAGE["Header"](MESSAGE["Time"](1, 0), "eye")
        image = MESSAGE["Image"](header, H, W, "rgb8", 0, W * 3, picture(0).reshape(-1))
        data = bytes(TYPES.serialize_cdr(image, "sensor_msgs/msg/Image"))
        for length in range(0, len(data) + 1, 7):
            writer.write(connection, length, data[:length])
        writer.write(connection, 10**6, data)
    source = open_source(tmp_path / "bag")
    frames = list(source.frames())
    np.testing.assert_array_equal(frames[-1].image, picture(0))
    assert len(frames) + source.lost == len(source)


def test_nothing_that_decodes_is_an_error_with_the_reason(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(bytes(index))
    with pytest.raises(SourceError, match=r"no frame could be read: .*0\.png: it does not decode"):
        list(open_source(tmp_path).frames())
    save(tmp_path / "1.png", picture(1))
    source = open_source(tmp_path)
    assert [frame.index for frame in source.frames()] == [1] and source.lost == 2


@pytest.mark.parametrize("stamps", [[0, 0, 0, 0], [4, 3, 2, 1], [-5, -5, 7, -5], [1, 2, 1, 2]])
def test_labels_find_their_frames_by_stamp_and_order(tmp_path: Path, stamps: list[int]) -> None:
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        image, label = (
            writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=TYPES)
            for topic in ("/camera/image_raw", "/camera/label")
        )
        for index, stamp in enumerate(stamps):
            header = MESSAGE["Header"](MESSAGE["Time"](stamp, 0), "eye")
            ids = np.full(H * W, index, np.uint8)
            for connection, message, late in (
                (
                    image,
                    MESSAGE["Image"](header, H, W, "rgb8", 0, W * 3, picture(index).reshape(-1)),
                    0,
                ),
                (label, MESSAGE["Image"](header, H, W, "mono8", 0, W, ids), 150_000_000),
            ):
                data = bytes(TYPES.serialize_cdr(message, "sensor_msgs/msg/Image"))
                writer.write(connection, index * 100_000_000 + late, data)
    frames = list(open_source(tmp_path / "bag").frames())
    assert [frame.stamp for frame in frames] == [stamp * 1_000_000_000 for stamp in stamps]
    assert [int(frame.label[0, 0]) for frame in frames] == [0, 1, 2, 3]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 20, 40, 60]


def test_bag_topics_are_chosen_by_name_then_order_then_parameter(tmp_path: Path) -> None:
    topics = {
        "/b/image_raw": "raw",
        "/a/image_color": "raw",
        "/a/image_color/compressed": "compressed",
    }
    others = {"/a/label": "label", "/b/semantic/mask": "label", "/b/detections/legend": "raw"}
    path = write_bag(tmp_path / "bag", topics | others)

    def chosen(*cameras: str, topics: tuple[str, ...] = ()) -> list[str]:
        source = open_source(path, cameras, topics)
        assert [each.channel.camera for each in source.messages()] != []
        return source.description.partition("frames: ")[2].split(", ")

    assert chosen("b") == ["/b/image_raw as b"]
    assert chosen("x", "y") == ["/a/image_color as x", "/b/image_raw as y"]
    assert chosen("b", "y") == ["/b/image_raw as b", "/a/image_color as y"]
    compressed = "/a/image_color/compressed"
    assert chosen("x", topics=(compressed,)) == [f"{compressed} as x"]
    labels = {each.channel.topic for each in open_source(path, ["x"], [compressed]).messages()}
    assert labels == {"x/image_raw/compressed", "x/label"}


def test_shifting_moves_headers_and_transforms(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", {"/camera/image_raw": "raw", "/tf": "tf"}, frames=1)
    image, transforms = (shifted(each, 2_000_001_234) for each in open_source(path).messages())
    decoded: Any = TYPES.deserialize_cdr(image.data, "sensor_msgs/msg/Image")
    assert (decoded.header.stamp.sec, decoded.header.stamp.nanosec) == (52, 0)
    assert image.stamp == 52_000_000_000 and decoded.header.frame_id == "eye"
    np.testing.assert_array_equal(decoded.data, picture(0).reshape(-1))
    decoded = TYPES.deserialize_cdr(transforms.data, "tf2_msgs/msg/TFMessage")
    assert decoded.transforms[0].header.stamp.sec == 52


def test_hidden_files_are_no_frames(camvid: Path) -> None:
    (camvid / "._d_0.png").write_bytes(b"macOS was here")
    assert len(open_source(camvid)) == 3


def test_interval_and_count_are_the_cameras_own(tmp_path: Path) -> None:
    none = QosTime(0, 0)
    best_effort = Qos(
        *(QosHistory.KEEP_LAST, 5, QosReliability.BEST_EFFORT, QosDurability.VOLATILE),
        *(none, none, QosLiveliness.AUTOMATIC, none, False),
    )
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        image, other, transform = (
            writer.add_connection(topic, msgtype, typestore=TYPES, offered_qos_profiles=qos)
            for topic, msgtype, qos in (
                ("/camera/image_raw", "sensor_msgs/msg/Image", []),
                ("/camera/image_raw", "sensor_msgs/msg/Image", [best_effort]),
                ("/tf", "tf2_msgs/msg/TFMessage", []),
            )
        )
        for index in range(4):
            writer.write((image, other)[index % 2], 50_000_000_000 + index * 20_000_000, bytes(64))
        writer.write(transform, 90_000_000_000, bytes(8))
    source = open_source(tmp_path / "bag")
    assert (source.interval, len(source)) == (20_000_000, 4)
    single = open_source(write_bag(tmp_path / "single", {"/camera/image_raw": "raw"}, frames=1))
    assert single.interval == 66_666_667


def test_errors_name_value_and_remedy(tmp_path: Path, camvid: Path) -> None:
    def message(path: Path, *args: Any) -> str:
        with pytest.raises(SourceError) as caught:
            list(open_source(path, *args).frames())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nowhere does not exist" in message(tmp_path / "nowhere")
    assert "1 topics given for 2 cameras" in message(
        write_bag(tmp_path / "a", {"/l/image_raw": "raw", "/r/image_raw": "raw"}),
        ["l", "r"],
        ["/l"],
    )
    ambiguous = message(tmp_path / "a", ["front"])
    assert "/l/image_raw, /r/image_raw" in ambiguous and "topics" in ambiguous
    assert "no images on /x" in message(tmp_path / "a", ["front"], ["/x"])
    assert "no image topics" in message(write_bag(tmp_path / "t", {"/t": "imu"}))
    assert "one camera" in message(camvid, ["l", "r"])
    assert "fps is 0" in message(camvid, ["camera"], (), 0.0)
    for suffix in (".mcap", ".db3", ".mp4", ".txt"):
        broken = tmp_path / f"broken{suffix}"
        broken.write_bytes(b"this is nothing at all" * 10)
        assert str(broken) in message(broken)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes((tmp_path / "a" / "a.mcap").read_bytes()[:3000])
    assert "cut off" in message(cut)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images" in message(empty)
    save(camvid.with_name("valannot") / "d_1.png", np.zeros((H, W + 1), np.uint8))
    source = open_source(camvid)
    labels = [frame.label is None for frame in source.frames()]
    assert labels == [False, True, False]
    assert f"it is {W + 1}x{H} pixels, its frame {W}x{H}" in source.losses[0].reason
    assert str(camvid.with_name("valannot") / "d_1.png") in source.losses[0].reason


def test_prefetch_reads_ahead_but_not_far_and_passes_errors_on() -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number
        raise SourceError("the end is broken")

    ahead = prefetch(numbers(), 4)
    assert [next(ahead) for _ in range(10)] == list(range(10))
    ahead.close()
    assert len(read) <= 16
    with pytest.raises(SourceError, match="broken"):
        list(prefetch(numbers(), 4))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no drives in {DATA}")
def test_real_drives() -> None:
    camvid = open_source(DATA / "camvid" / "val")
    assert len(camvid) == 101 and sum(1 for _ in camvid.frames()) == 101
    video = open_source(DATA / "udacity_highway" / "solidWhiteRight.mp4")
    frames = [(frame.stamp, frame.image.shape) for frame in video.frames()]
    assert len(frames) == len(video) == 221 and set(shape for _, shape in frames) == {(540, 960, 3)}
    assert np.all(np.diff([stamp for stamp, _ in frames]) == 40_000_000)
