"""Bags as they are found: cut off, damaged, compressed, renamed, edited, of other writers."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gosvae_tools.drives import SourceError, open_source
from gosvae_tools.drives.recording import Recording
from gosvae_tools.drives.times import span, typical_interval
from gosvae_tools.inspect import inspect

TYPES = get_typestore(Stores.ROS2_JAZZY)
MESSAGE: dict[str, Any] = {name.rpartition("/")[2]: each for name, each in TYPES.types.items()}
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
H, W = 8, 10
START, STEP = 1_700_000_000 * 10**9, 10**8
TOPIC = "/camera/image_raw"
NOISE = np.random.default_rng(1).integers(0, 256, (100, H, W, 3), np.uint8)


def image(index: int, encoding: str = "rgb8", data: np.ndarray | None = None) -> bytes:
    """Return a message whose first value is `index`; the rest is noise, which does not compress."""
    pixels = NOISE[index % 100].copy() if data is None else data
    if data is None:
        pixels[0, 0, 0] = index
    header = MESSAGE["Header"](MESSAGE["Time"](*divmod(START + index * STEP, 10**9)), "eye")
    values = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
    message = MESSAGE["Image"](header, H, W, encoding, 0, values.size // H, values)
    return bytes(TYPES.serialize_cdr(message, IMAGE))


def compressed(data: bytes, form: str) -> bytes:
    header = MESSAGE["Header"](MESSAGE["Time"](1, 0), "eye")
    message = MESSAGE["CompressedImage"](header, form, np.frombuffer(data, np.uint8))
    return bytes(TYPES.serialize_cdr(message, COMPRESSED))


def write_bag(
    path: Path,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    mode: CompressionMode = CompressionMode.NONE,
    frames: int = 12,
    first: int = 0,
    times: list[int] | None = None,
) -> Path:
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, IMAGE, typestore=TYPES)
        for index in range(first, first + frames):
            time = times[index] if times else START + index * STEP
            writer.write(connection, time, image(index))
    return path


def storage(path: Path) -> Path:
    (file,) = (each for each in path.iterdir() if each.name != "metadata.yaml")
    return file


def write_mcap(
    path: Path,
    others: tuple[tuple[str, str, str], ...] = (),
    chunk_size: int = 1000,
    msgtype: str = IMAGE,
    profile: str = "ros2",
    frames: int = 12,
    **options: Any,
) -> Path:
    """Write images, and messages of `others`: topic, message encoding, schema encoding or ""."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=chunk_size, **options)
        writer.start(profile, "test")
        definition = TYPES.generate_msgdef(IMAGE)[0].encode()
        schema = writer.register_schema(msgtype, "ros2msg", definition)
        channel = writer.register_channel(TOPIC, "cdr", schema)
        more = [
            writer.register_channel(
                topic, encoding, writer.register_schema("x/Y", form, b"") if form else 0
            )
            for topic, encoding, form in others
        ]
        for index in range(frames):
            time = START + index * STEP
            writer.add_message(channel, time, image(index), time, index)
            for each in more:
                writer.add_message(each, time, b"{}", time)
        writer.finish()
    return path


def indices(path: Path, **arguments: Any) -> list[int]:
    """Return the places of the frames that are read, which come in order and unharmed."""
    frames = list(open_source(path, **arguments).frames())
    found = [int(frame.image[0, 0, 0]) for frame in frames]
    for frame, index in zip(frames, found, strict=True):
        expected = NOISE[index % 100].copy()
        expected[0, 0, 0] = index
        np.testing.assert_array_equal(frame.image, expected)
    return found


ALL = list(range(12))


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("index_types", [IndexType.ALL, IndexType.NONE, IndexType.CHUNK])
@pytest.mark.parametrize("use_statistics", [True, False])
@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("use_chunking", [True, False])
def test_mcap_of_any_writer(
    tmp_path: Path,
    compression: CompressionType,
    index_types: IndexType,
    use_statistics: bool,
    repeat: bool,
    use_chunking: bool,
) -> None:
    path = write_mcap(
        tmp_path / "a.mcap",
        compression=compression,
        index_types=index_types,
        use_statistics=use_statistics,
        repeat_channels=repeat,
        repeat_schemas=repeat,
        use_chunking=use_chunking,
        use_summary_offsets=repeat,
    )
    source = open_source(path)
    assert (source.start, source.duration, source.interval) == (START, 11 * STEP, STEP)
    assert indices(path) == ALL and len(source) == 12 and not source.notes


def test_mcap_of_other_encodings_beside_cdr(tmp_path: Path) -> None:
    others = (
        ("/json", "json", "jsonschema"),
        ("/proto", "protobuf", "protobuf"),
        ("/one", "ros1", "ros1msg"),
        ("/bare", "json", ""),
        ("/none", "cdr", ""),
    )
    path = write_mcap(tmp_path / "a.mcap", others)
    source = open_source(path)
    assert indices(path) == ALL and source.cameras == ("camera",)
    notes = "\n".join(source.notes)
    for topic, encoding, _ in others:
        what = "without a schema" if topic == "/none" else encoding
        assert f"12 messages of {topic} are {what}: ignored" in notes


@pytest.mark.parametrize("profile", ["", "x-robot", "ros2"])
def test_mcap_of_other_profiles_and_short_types(tmp_path: Path, profile: str) -> None:
    path = write_mcap(tmp_path / "a.mcap", profile=profile, msgtype="sensor_msgs/Image")
    assert indices(path) == ALL


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 10**6),
    st.sampled_from(list(CompressionType)),
    st.sampled_from([300, 1000, 10**6]),
)
def test_mcap_cut_off_anywhere_is_read_up_to_there(
    tmp_path_factory: pytest.TempPathFactory,
    cut: int,
    compression: CompressionType,
    chunk_size: int,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = write_mcap(folder / "a.mcap", compression=compression, chunk_size=chunk_size)
    data = path.read_bytes()
    cut %= len(data)
    path.write_bytes(data[:cut])
    try:
        found = indices(path)
    except SourceError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        found = []
    assert found == ALL[: len(found)]
    if 0 < len(found) < 12:
        assert any("was cut off" in note for note in open_source(path).notes)
    # A message takes 347 bytes, and its chunk as much again for other records.
    if compression == CompressionType.NONE:
        assert len(found) >= (cut - 3000) // 420
    elif chunk_size < 10**6:
        assert len(found) >= (cut - 3000) // 420 - chunk_size // 347 - 1
    shutil.rmtree(folder)


def test_a_large_chunk_that_was_cut_off_is_salvaged(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", mode=CompressionMode.STORAGE, frames=100)
    path = tmp_path / "a.mcap"
    data = storage(bag).read_bytes()
    # zstd gives whole blocks of 128 KiB only: here there is one for all.
    counts = []
    for share in (0.2, 0.5, 0.95):
        path.write_bytes(data[: int(len(data) * share)])
        try:
            counts.append(len(indices(path)))
        except SourceError:
            counts.append(0)
    assert counts == sorted(counts)
    with path.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=10**7)
        writer.start("ros2", "test")
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        channel = writer.register_channel(TOPIC, "cdr", schema)
        for index in range(2000):
            writer.add_message(channel, START + index * STEP, image(index % 100), 0)
        writer.finish()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 1000 < len(open_source(path)) < 2000


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.integers(1, 600), st.sampled_from([b"\0", b"\xff", b"\x06"]))
def test_damaged_mcap_gives_the_rest(
    tmp_path_factory: pytest.TempPathFactory, place: int, length: int, value: bytes
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    path = write_mcap(folder / "a.mcap", compression=CompressionType.ZSTD)
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place : place + length] = (value * length)[: len(data) - place]
    path.write_bytes(data)
    try:
        source = open_source(path)
        found = [frame.time for frame in source.frames()]
    except SourceError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert found == sorted(found) and len(found) + source.lost == len(source)
        assert len(found) == 12 or source.notes or source.losses
    shutil.rmtree(folder)


def test_a_damaged_chunk_costs_its_messages_alone(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", compression=CompressionType.ZSTD)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x04\0\0\0zstd", len(data) // 3) + 60
    data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    source = open_source(path)
    found = [int(frame.image[0, 0, 0]) for frame in source.frames()]
    assert 8 <= len(found) < 12 and len(found) + source.lost == 12 == len(source)
    assert any("chunk at byte" in loss.reason for loss in source.losses)


@pytest.mark.parametrize("name", ["run #3", "a?b=c", "100%20", "with space", "straße", "a&b;c"])
@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_names_that_urls_cannot_have(tmp_path: Path, name: str, plugin: StoragePlugin) -> None:
    path = write_bag(tmp_path / "plain", plugin).rename(tmp_path / name)
    assert indices(path) == indices(storage(path)) == ALL
    file = storage(path)
    file.rename(path / f"{name}_0{file.suffix}")
    assert indices(path) == indices(storage(path)) == ALL


def wal(folder: Path, checkpointed: int = 5, frames: int = 12) -> Path:
    """Leave an sqlite3 bag as a recorder that was killed does."""
    folder.mkdir()
    whole = storage(write_bag(folder.with_name("whole"), StoragePlugin.SQLITE3, frames=frames))
    live = folder / "live.db3"
    with sqlite3.connect(whole) as source:
        script = [row[0] for row in source.execute("SELECT sql FROM sqlite_master WHERE sql > ''")]
        tables = ("schema", "topics", "message_definitions", "messages")
        rows = {name: source.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
    database = sqlite3.connect(live)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    for line in script:
        database.execute(line)
    for name in tables:
        for index, row in enumerate(rows[name]):
            if name == "messages" and index == checkpointed:
                database.commit()
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.execute(f"INSERT INTO {name} VALUES ({','.join('?' * len(row))})", row)
    database.commit()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{live}{suffix}", folder / f"bag_0.db3{suffix}")
    database.close()
    for file in folder.glob("live*"):
        file.unlink()
    return folder


@pytest.mark.parametrize("checkpointed", [-1, 0, 5, 11])
def test_messages_in_a_write_ahead_log(tmp_path: Path, checkpointed: int) -> None:
    folder = wal(tmp_path / "bag", checkpointed)
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    for path in (folder, folder / "bag_0.db3"):
        assert indices(path) == ALL
        assert "bag_0.db3-wal" in open_source(path).notes[0]
    after = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    assert before == after


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_write_ahead_log_in_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = wal(tmp_path / "bag")
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert indices(folder) == ALL
    finally:
        folder.chmod(stat.S_IRWXU)


def test_a_write_ahead_log_that_was_cut_off(tmp_path: Path) -> None:
    folder = wal(tmp_path / "bag")
    log = folder / "bag_0.db3-wal"
    log.write_bytes(log.read_bytes()[:-10])
    assert indices(folder) == ALL[:5]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.booleans())
@example(32835, True)  # its first pages point back: that went on for ever
@example(15963, False)  # a topic without a name
def test_damaged_sqlite_gives_the_rest(
    tmp_path_factory: pytest.TempPathFactory, place: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    path = storage(write_bag(folder / "bag", StoragePlugin.SQLITE3, frames=100))
    data = bytearray(path.read_bytes())
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place : place + 300] = bytes(min(300, len(data) - place))
    path.write_bytes(data)
    try:
        source = open_source(path)
        found = [frame.time for frame in source.frames()]
    except SourceError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert found == sorted(found) and len(found) + source.lost == len(source)
        assert len(found) == 100 or source.notes or source.losses or place > 4096
    shutil.rmtree(folder)


def test_sqlite_text_that_is_no_text(tmp_path: Path) -> None:
    path = storage(write_bag(tmp_path / "bag", StoragePlugin.SQLITE3))
    path.write_bytes(path.read_bytes().replace(b"uint32 height", b"uint32\xffheight"))
    assert indices(path) == ALL


def test_sqlite_without_its_last_third(tmp_path: Path) -> None:
    path = storage(write_bag(tmp_path / "bag", StoragePlugin.SQLITE3, frames=100))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    found = indices(path)
    assert found == list(range(len(found))) and 30 <= len(found) < 100
    assert "is damaged" in open_source(path).notes[0]
    source = open_source(path.parent)
    assert len(list(source.frames())) == len(found) and source.lost == 100 - len(found)


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_one_file_of_a_bag_whose_messages_are_compressed(
    tmp_path: Path, plugin: StoragePlugin
) -> None:
    if plugin == StoragePlugin.MCAP:
        pytest.skip("rosbags does not write it")
    bag = write_bag(tmp_path / "bag", plugin, CompressionMode.MESSAGE)
    assert indices(storage(bag)) == ALL
    (bag / "metadata.yaml").unlink()
    assert indices(bag) == ALL


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_compressed_files(tmp_path: Path, plugin: StoragePlugin) -> None:
    bag = write_bag(tmp_path / "bag", plugin, CompressionMode.FILE)
    file = storage(bag)
    assert file.name.endswith(".zstd")
    assert indices(bag) == indices(file) == ALL
    (bag / "metadata.yaml").unlink()
    assert indices(bag) == ALL
    renamed = file.rename(tmp_path / file.name.removesuffix(".zstd"))
    assert indices(renamed) == ALL
    renamed.write_bytes(renamed.read_bytes()[:-400])
    with pytest.raises(SourceError, match=r"was cut off: nothing of it decompresses"):
        open_source(renamed)


def test_a_stream_of_zstd_frames(tmp_path: Path) -> None:
    data = write_mcap(tmp_path / "a.mcap").read_bytes()
    parts = [zstandard.compress(data[k : k + 500]) for k in range(0, len(data), 500)]
    (tmp_path / "b.mcap.zstd").write_bytes(b"".join(parts))
    assert indices(tmp_path / "b.mcap.zstd") == ALL


def split_bag(folder: Path, plugin: StoragePlugin, parts: int = 3) -> Path:
    """Write a recording of several files, bag_0 to bag_11, of two frames each."""
    folder.mkdir()
    for part in range(parts):
        bag = write_bag(folder.with_name(f"part{part}"), plugin, frames=2, first=2 * part)
        file = storage(bag)
        file.rename(folder / f"bag_{part}{file.suffix}")
    return folder


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_split_recordings_without_metadata(tmp_path: Path, plugin: StoragePlugin) -> None:
    folder = split_bag(tmp_path / "bag", plugin, 11)
    assert indices(folder) == list(range(22))
    (folder / "unrelated.mcap").write_bytes(b"")
    with pytest.raises(SourceError, match=r"files of several recordings: bag_0.*give one of them"):
        open_source(folder)


def metadata(folder: Path, names: list[str], **changes: Any) -> Path:
    information = {
        "version": 9,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": 1},
        "starting_time": {"nanoseconds_since_epoch": 5},
        "message_count": 6,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": TOPIC,
                    "type": IMAGE,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": "",
                },
                "message_count": 6,
            }
        ],
        "relative_file_paths": names,
        **changes,
    }
    text = yaml.safe_dump({"rosbag2_bagfile_information": information})
    (folder / "metadata.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 8, 9, 10, 99])
def test_metadata_of_any_version_decides_nothing(tmp_path: Path, version: int) -> None:
    folder = split_bag(tmp_path / "bag", StoragePlugin.MCAP)
    names = [f"bag/bag_{k}.mcap" if version < 4 else f"bag_{k}.mcap" for k in range(3)]
    metadata(folder, names, version=version)
    source = open_source(folder)
    assert indices(folder) == list(range(6)) and source.lost == 0
    assert (source.start, source.duration) == (START, 5 * STEP)


def test_metadata_that_names_files_that_are_not_there(tmp_path: Path) -> None:
    folder = split_bag(tmp_path / "bag", StoragePlugin.MCAP)
    metadata(folder, [f"bag_{k}.mcap" for k in range(3)])
    (folder / "bag_1.mcap").unlink()
    source = open_source(folder)
    assert [int(frame.image[0, 0, 0]) for frame in source.frames()] == [0, 1, 4, 5]
    assert "bag_1.mcap of metadata.yaml is not there" in source.notes[0]
    assert source.lost == 2 and len(source) == 6
    (folder / "bag_0.mcap").rename(folder / "renamed_0.mcap")
    (folder / "bag_2.mcap").rename(folder / "renamed_2.mcap")
    source = open_source(folder)
    assert len(list(source.frames())) == 4 and source.lost == 2
    for file in folder.glob("*.mcap"):
        file.unlink()
    with pytest.raises(SourceError, match=r"names bag_0\.mcap.*no other \.mcap or \.db3 file"):
        open_source(folder)


def test_metadata_beside_compressed_and_further_files(tmp_path: Path) -> None:
    folder = split_bag(tmp_path / "bag", StoragePlugin.MCAP)
    metadata(folder, ["bag_0.mcap", "bag_1.mcap"])
    file = folder / "bag_0.mcap"
    (folder / "bag_0.mcap.zstd").write_bytes(zstandard.compress(file.read_bytes()))
    file.unlink()
    source = open_source(folder)
    assert [int(frame.image[0, 0, 0]) for frame in source.frames()] == [0, 1, 2, 3]
    assert "bag_2.mcap is not in metadata.yaml, and not read" in source.notes[0]


@pytest.mark.parametrize("text", ["", "a: [", "rosbag2_bagfile_information: 3", "- 1", "\0\1"])
def test_metadata_that_is_none(tmp_path: Path, text: str) -> None:
    folder = split_bag(tmp_path / "bag", StoragePlugin.MCAP)
    (folder / "metadata.yaml").write_text(text)
    assert indices(folder) == list(range(6))
    assert "metadata.yaml cannot be read" in open_source(folder).notes[0]


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("profiles", [[], "", "junk: [", [{"history": 3, "depth": 1}], 5, None])
def test_qos_decides_nothing(tmp_path: Path, plugin: StoragePlugin, profiles: Any) -> None:
    path = write_bag(tmp_path / "bag", plugin)
    file = path / "metadata.yaml"
    content = yaml.safe_load(file.read_text())
    (topic,) = content["rosbag2_bagfile_information"]["topics_with_message_count"]
    topic["topic_metadata"]["offered_qos_profiles"] = profiles
    file.write_text(yaml.safe_dump(content))
    assert indices(path) == ALL


ODD = st.sampled_from([0, 1, START - 10**15, START + 10**15, 2**63 - 1])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.permutations(range(8)), ODD, st.sampled_from(list(StoragePlugin)))
def test_times_in_any_order_with_an_absurd_one(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], odd: int, plugin: StoragePlugin
) -> None:
    folder = tmp_path_factory.mktemp("times")
    times = [START + place * STEP for place in order]
    path = write_bag(folder / "bag", plugin, frames=9, times=[*times, odd])
    source = open_source(path)
    assert (source.start, source.duration, source.interval) == (START, 7 * STEP, STEP)
    frames = list(source.frames())
    assert [frame.time for frame in frames] == sorted([*times, odd])
    assert len(list(source.messages(3 * STEP))) == 5 + (odd > START)
    shutil.rmtree(folder)


def test_spans_keep_what_is_no_stray() -> None:
    hour = 3600 * 10**9
    assert span([]) == (0, 0) and span([7]) == (7, 0)
    assert span([0, *range(START, START + 100, 10)]) == (START, 90)
    assert span([*range(0, 50, 10), *range(hour, hour + 50, 10)]) == (0, hour + 40)
    assert span([*range(0, 10**12, 10**11)]) == (0, 9 * 10**11)
    assert typical_interval([5]) == typical_interval([5, 5]) == 66_666_667
    assert typical_interval([0, START, START + 2, START + 4, 2**64 - 1]) == 2


def test_time_of_other_topics_is_not_the_cameras(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        camera = writer.add_connection(TOPIC, IMAGE, typestore=TYPES)
        static = writer.add_connection("/tf_static", "tf2_msgs/msg/TFMessage", typestore=TYPES)
        data = bytes(TYPES.serialize_cdr(MESSAGE["TFMessage"]([]), "tf2_msgs/msg/TFMessage"))
        writer.write(static, 0, data)
        for index in ALL:
            writer.write(camera, START + index * STEP, image(index))
    source = open_source(tmp_path / "bag")
    assert (source.start, source.duration) == (START, 11 * STEP)
    assert [message.channel.role for message in source.messages()][:2] == ["tf_static", "image"]


def png16(value: int = 3000) -> bytes:
    return cv2.imencode(".png", np.full((H, W), value, np.uint16))[1].tobytes()


DEPTHS: tuple[tuple[str, bytes], ...] = (
    (IMAGE, image(0, "16UC1", np.zeros((H, W), np.uint16))),
    (IMAGE, image(0, "32FC1", np.zeros((H, W), np.float32))),
    (COMPRESSED, compressed(png16(), "16UC1; png compressed ")),
    (COMPRESSED, compressed(bytes(12) + png16(), "16UC1; compressedDepth png")),
    (COMPRESSED, compressed(bytes(12) + png16(), "32FC1; compressedDepth")),
    (COMPRESSED, compressed(b"\1" * 40, "16UC1; compressedDepth rvl")),
)


@pytest.mark.parametrize(("msgtype", "data"), DEPTHS)
@pytest.mark.parametrize("topic", ["/camera/aligned/image_raw", "/camera/image_raw", "/a/b"])
def test_depth_is_not_taken_for_a_camera(
    tmp_path: Path, msgtype: str, data: bytes, topic: str
) -> None:
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        depth = writer.add_connection(topic, msgtype, typestore=TYPES)
        colour = writer.add_connection("/x/colour", IMAGE, typestore=TYPES)
        for index in ALL:
            writer.write(depth, START + index * STEP, data)
            writer.write(colour, START + index * STEP, image(index))
    assert indices(tmp_path / "bag") == ALL
    with pytest.raises(SourceError, match=rf"has depth on {topic} \(.*its image topics are"):
        open_source(tmp_path / "bag", topics=[topic])
    with Writer(tmp_path / "alone", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        depth = writer.add_connection(topic, msgtype, typestore=TYPES)
        writer.write(depth, START, data)
    with pytest.raises(SourceError, match="has depth but no pictures"):
        open_source(tmp_path / "alone")


def test_connections_have_definitions_and_counts(tmp_path: Path) -> None:
    for plugin in StoragePlugin:
        recording = Recording(write_bag(tmp_path / plugin.name, plugin))
        (connection,) = recording.connections
        assert (connection.topic, connection.msgtype, connection.msgcount) == (TOPIC, IMAGE, 12)
        assert "uint32 height" in connection.msgdef.data
        assert recording.span == (START, 11 * STEP)
        read = list(recording.messages(start=START + 2 * STEP))
        assert len(read) == 10 and not recording.damage and not +recording.losses


def test_equal_times_keep_the_order_of_recording(tmp_path: Path) -> None:
    for plugin in StoragePlugin:
        path = write_bag(tmp_path / plugin.name, plugin, times=[START] * 12)
        assert indices(path) == ALL
    path = write_mcap(tmp_path / "a.mcap", chunk_size=400)
    assert indices(path) == ALL


def test_inspect_tells_what_is_odd(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    path.write_bytes(path.read_bytes()[:4000])
    assert "was cut off" in inspect(path).values["notes"][0]


def test_what_is_no_bag_says_so(tmp_path: Path) -> None:
    def reason(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError) as caught:
            open_source(tmp_path / name)
        assert "reindex" not in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    assert "is empty" in reason("a.mcap", b"")
    assert "neither an MCAP nor an sqlite3 file" in reason("b.mcap", b"something else")
    for name in ("b.bag", "b.mcap", "b.db3.zstd"):
        assert "is a ROS 1 bag; convert it with `rosbags-convert" in reason(name, b"#ROSBAG V2.0\n")
    assert "no messages in CDR" in reason("c.mcap", b"\x89MCAP0\r\n")
    buffer = io.BytesIO()
    sqlite3.connect(tmp_path / "d.db3").execute("CREATE TABLE other (x)").connection.close()
    assert "no table messages, topics" in reason("d.db3", (tmp_path / "d.db3").read_bytes())
    writer = McapWriter(buffer)
    writer.start("ros1", "test")
    schema = writer.register_schema("sensor_msgs/Image", "ros1msg", b"")
    writer.add_message(writer.register_channel("/x", "ros1", schema), 0, b"", 0)
    writer.finish()
    assert "1 messages of /x are ros1" in reason("e.mcap", buffer.getvalue())


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let copies be made where they can be seen, and see that none is left."""
    import gc
    import tempfile

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    gc.collect()
    assert not list(folder.iterdir())
