"""Drives to replay: bags, videos and folders of images, all read through one small interface.

    source = open_source("drive.mcap", cameras=["front"])
    for message in source.messages(): ...    # what to publish, in the order of time
    for frame in source.frames(): ...        # the same frames as arrays, with labels

Both read the file anew and keep little in memory. The stamps that they give are the same in every
run: those of a bag's messages, and for inputs without stamps :data:`EPOCH` plus the video's
presentation time, or plus index / fps for a folder.
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, Literal, NamedTuple, TypeVar

import av
import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import Reader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from gosvae_codec.errors import GosvaeError, ImageError
from gosvae_codec.images import to_rgb
from gosvae_codec.labels import camvid_to_train_ids, cityscapes_to_train_ids

Pixels = npt.NDArray[np.uint8]
Role = Literal["image", "label", "camera_info", "tf", "tf_static"]
Transport = Literal["raw", "compressed"]

EPOCH = 1_000_000_000
"""Stamp in ns of the first frame of an input without stamps: ROS takes 0 for "no time yet"."""

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"

BAG_SUFFIXES = (".mcap", ".db3")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

_TYPES = get_typestore(Stores.ROS2_JAZZY)

_LABEL_WAIT = 1_000_000_000
"""How far in ns behind its frame a bag may hold a label."""

Item = TypeVar("Item")


class SourceError(GosvaeError):
    """An input is missing, unreadable, ambiguous, or contradicts itself."""


class AmbiguousTopicsError(SourceError):
    """A bag has several image topics, and nothing tells which ones to play."""


class Channel(NamedTuple):
    """Where a message goes: topic (relative for what belongs to a camera), type, camera, role."""

    topic: str
    msgtype: str
    camera: str
    role: Role


class Message(NamedTuple):
    """Something to publish.

    `time` is when, `stamp` that of its header, both in ns (where there is no header, they are
    equal). `data` is the serialised message of a bag, or pixels: uint8 (H, W, 3) RGB of a frame,
    uint8 (H, W) train ids of a label.
    """

    time: int
    stamp: int
    channel: Channel
    data: bytes | Pixels


class Frame(NamedTuple):
    """A camera frame: stamp in ns, camera, uint8 (H, W, 3) RGB, uint8 (H, W) train ids if any.

    `frame_id` is that of a bag's header.
    """

    stamp: int
    camera: str
    image: Pixels
    label: Pixels | None
    frame_id: str = ""


class Source(ABC):
    """An input that can be read any number of times, each time lazily and from the start.

    Attributes:
        path: what was opened.
        cameras: base names of the cameras that it gives frames of.
        transport: "raw" or "compressed" for each camera.
        channels: all that :meth:`messages` may give.
        start, duration: time of the first message, and from it to the last one, in ns.
        interval: typical time from frame to frame in ns.
        description: one line for people.
    """

    path: Path
    cameras: tuple[str, ...]
    transport: dict[str, Transport]
    channels: tuple[Channel, ...]
    start: int
    duration: int
    interval: int
    description: str

    @abstractmethod
    def __len__(self) -> int:
        """Count frames of all cameras; for a video, as its container tells."""

    @abstractmethod
    def messages(self, offset: int = 0) -> Iterator[Message]:
        """Yield what to publish from `offset` ns after the start, in the order of time.

        Raises:
            SourceError: the input cannot be read on; the message names the file.
        """

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """Yield every camera frame with its label, in the order of time.

        Raises:
            SourceError: as for :meth:`messages`, or an image cannot be converted to RGB.
        """


def open_source(
    path: str | Path,
    cameras: Sequence[str] = ("camera",),
    topics: Sequence[str] = (),
    fps: float = 15.0,
) -> Source:
    """Open a bag (folder, .mcap, .db3), a video, or a folder of images.

    Args:
        path: a rosbag2 folder or storage file; any video file; ``leftImg8bit`` of Cityscapes, a
            split or city in it, or the folder above; a CamVid split with ``<split>annot`` beside
            it; or any folder with images.
        cameras: base names that the frames go by; one for anything but a bag.
        topics: the bag's image topic of each camera. If empty, ``/<camera>/image_raw`` or
            ``/<camera>/image_raw/compressed``, else all image topics in sorted order if they are
            as many as the cameras.
        fps: frames per second of a folder.

    Raises:
        AmbiguousTopicsError: the bag's image topics have to be named.
        SourceError: with one line that names the path or topic, and the remedy.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise SourceError(f"input {path} does not exist")
    cameras = [camera.strip("/") for camera in cameras]
    if not cameras or not all(cameras) or len(set(cameras)) != len(cameras):
        raise SourceError(f"cameras are {cameras}; give different, non-empty names")
    if path.is_dir():
        storages = sorted(each for each in path.iterdir() if each.suffix in BAG_SUFFIXES)
        if (path / "metadata.yaml").exists() or len(storages) == 1:
            return _Bag(path if (path / "metadata.yaml").exists() else storages[0], cameras, topics)
        if storages:
            raise SourceError(
                f"{path} holds {len(storages)} bag files but no metadata.yaml; "
                "run `ros2 bag reindex` on it, or give one of the files"
            )
    elif path.suffix in BAG_SUFFIXES:
        return _Bag(path, cameras, topics)
    if topics:
        raise SourceError(f"{path} is not a bag and has no topics; leave `topics` empty")
    if len(cameras) > 1:
        raise SourceError(
            f"{path} has one stream of frames, {len(cameras)} cameras were asked for: "
            f"{', '.join(cameras)}; give one camera, or a bag"
        )
    if path.is_dir():
        return _Folder(path, cameras[0], fps)
    return _Video(path, cameras[0])


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield `items`, which a thread reads up to `depth` ahead; what it raises is raised here."""
    ready: SimpleQueue[Any] = SimpleQueue()
    room = Semaphore(depth)
    end = object()
    closed = False

    def read() -> None:
        try:
            for item in items:
                room.acquire()
                if closed:
                    break
                ready.put((item, None))
        except BaseException as error:  # it belongs to the thread that consumes
            ready.put((None, error))
        ready.put((end, None))

    thread = Thread(target=read, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
            room.release()
    finally:
        closed = True
        room.release()
        thread.join()


class _Pictures(Source):
    """An input that holds pixels rather than messages, of one camera."""

    def __init__(self, path: Path, camera: str) -> None:
        self.path = path
        self.cameras = (camera,)
        self.transport = {camera: "raw"}
        self.channels = (
            Channel(f"{camera}/image_raw", IMAGE, camera, "image"),
            Channel(f"{camera}/label", IMAGE, camera, "label"),
        )
        self.start = EPOCH

    @abstractmethod
    def _read(self, offset: int) -> Iterator[Frame]:
        """Yield the frames from `offset` ns after the start."""

    def messages(self, offset: int = 0) -> Iterator[Message]:
        image, *label = self.channels
        for frame in self._read(offset):
            yield Message(frame.stamp, frame.stamp, image, frame.image)
            if frame.label is not None:
                yield Message(frame.stamp, frame.stamp, label[0], frame.label)

    def frames(self) -> Iterator[Frame]:
        return self._read(0)


class _Folder(_Pictures):
    """Images in a folder: Cityscapes, CamVid, or any; natural order, stamped with index / fps."""

    def __init__(self, path: Path, camera: str, fps: float) -> None:
        super().__init__(path, camera)
        if not fps > 0:
            raise SourceError(f"fps is {fps}; give a number above 0")
        self._fps = fps
        self._files, self._label_file, self._train_ids, layout = _layout(path)
        self.interval = round(1e9 / fps)
        self.duration = self._stamp(len(self._files) - 1) - EPOCH
        labelled = sum(self._label_file(file) is not None for file in self._files)
        self.description = (
            f"{path}: {layout}, {len(self._files)} frames at {fps:g} Hz, {labelled} with labels"
        )

    def _stamp(self, index: int) -> int:
        return EPOCH + round(index * 1e9 / self._fps)

    def __len__(self) -> int:
        return len(self._files)

    def _read(self, offset: int) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            stamp = self._stamp(index)
            if stamp < EPOCH + offset:
                continue
            bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if bgr is None:
                raise SourceError(f"{file} does not decode as an image")
            image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
            yield Frame(stamp, self.cameras[0], image, self._label(file, image.shape[:2]))

    def _label(self, file: Path, size: tuple[int, ...]) -> Pixels | None:
        label_file = self._label_file(file)
        if label_file is None:
            return None
        ids = cv2.imread(str(label_file), cv2.IMREAD_UNCHANGED)
        if ids is None or ids.ndim != 2 or ids.dtype != np.uint8:
            raise SourceError(f"{label_file} does not decode as an 8-bit image with one channel")
        if ids.shape != size:
            raise SourceError(
                f"label {label_file} is {ids.shape[1]}x{ids.shape[0]} pixels, "
                f"its frame {size[1]}x{size[0]}: they must be equal"
            )
        return np.asarray(self._train_ids(label_file)[ids], np.uint8)


def _layout(
    path: Path,
) -> tuple[list[Path], Callable[[Path], Path | None], Callable[[Path], Pixels], str]:
    """Find the frames of a folder, where each one's label is, and that file's table of ids."""
    same = np.arange(256, dtype=np.uint8)
    absolute = path.resolve()
    tops = [each for each in (absolute, *absolute.parents) if each.name == "leftImg8bit"]
    top = tops[0] if tops else absolute / "leftImg8bit"
    if top.is_dir():
        inside = absolute if tops else top
        files = sorted(filter(_is_image, inside.rglob("*_leftImg8bit.png")), key=_natural)
        if not files:
            raise SourceError(f"{path} has no *_leftImg8bit.png in it; give a split of Cityscapes")
        from_ids = cityscapes_to_train_ids()

        def fine(file: Path) -> Path | None:
            folder = top.parent / "gtFine" / file.parent.relative_to(top)
            stem = file.name.removesuffix("leftImg8bit.png")
            for kind in ("labelTrainIds", "labelIds"):
                if (label := folder / f"{stem}gtFine_{kind}.png").exists():
                    return label
            return None

        def table(label: Path) -> Pixels:
            return same if label.name.endswith("TrainIds.png") else from_ids

        return files, fine, table, "Cityscapes"

    files = sorted(filter(_is_image, path.iterdir()), key=_natural)
    if not files:
        nested = sorted(
            str(folder)
            for folder in path.iterdir()
            if folder.is_dir() and any(map(_is_image, folder.iterdir()))
        )
        hint = f"give one of: {', '.join(nested)}" if nested else "give a folder with images"
        raise SourceError(f"{path} has no images in it; {hint}")
    annotations = absolute.with_name(f"{absolute.name}annot")
    camvid = camvid_to_train_ids()

    def annotation(file: Path) -> Path | None:
        label = (annotations / file.name).with_suffix(".png")
        return label if label.exists() else None

    layout = "CamVid" if annotations.is_dir() else "images"
    return files, annotation, lambda _: camvid, layout


def _is_image(file: Path) -> bool:
    # macOS leaves a "._<name>" beside each file that it copies.
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _natural(file: Path) -> list[Any]:
    """Sort key by which frame_9 comes before frame_10."""
    parts = re.split(r"(\d+)", str(file))
    return [int(part) if part.isdigit() else part for part in parts]


class _Video(_Pictures):
    """A video file, stamped with its presentation times."""

    def __init__(self, path: Path, camera: str) -> None:
        super().__init__(path, camera)
        self.channels = self.channels[:1]
        with self._open() as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            self._count = stream.frames or sum(
                packet.size > 0 for packet in container.demux(stream)
            )
            size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        if not self._count:
            raise SourceError(f"{path} has no frames in its video stream")
        self.interval = round(1e9 / rate)
        self.duration = round((self._count - 1) * 1e9 / rate)
        self.description = f"{path}: video {size}, {self._count} frames at {rate:.4g} Hz"

    def _open(self) -> Any:
        if self.path.suffix == ".bag":
            raise SourceError(
                f"{self.path} is a ROS 1 bag; convert it with "
                f"`rosbags-convert --src {self.path} --dst {self.path.with_suffix('')}`"
            )
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(
                f"{self.path} is neither a bag nor a readable video: {error}"
            ) from error
        if not container.streams.video:
            container.close()
            raise SourceError(f"{self.path} has no video stream")
        return container

    def __len__(self) -> int:
        return self._count

    def _read(self, offset: int) -> Iterator[Frame]:
        last = -1
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if offset and stream.start_time is not None:
                target = stream.start_time + int(offset / 1e9 / stream.time_base)
                container.seek(target, stream=stream)
            try:
                for index, picture in enumerate(container.decode(stream)):
                    if picture.pts is None:
                        stamp = EPOCH + index * self.interval
                    else:
                        ticks = picture.pts - (stream.start_time or 0)
                        stamp = EPOCH + round(ticks * picture.time_base * 1_000_000_000)
                    # A stamp names its frame, so of broken videos' repeated times take the first.
                    if stamp < EPOCH + offset or stamp <= last:
                        continue
                    last = stamp
                    image = picture.to_ndarray(format="rgb24")
                    upright = np.rot90(image, round(picture.rotation / 90))
                    yield Frame(stamp, self.cameras[0], np.ascontiguousarray(upright), None)
            except av.error.FFmpegError as error:
                raise SourceError(f"{self.path} does not decode on: {error}") from error


class _Bag(Source):
    """A rosbag2 folder or storage file, MCAP or sqlite3; messages are passed on unchanged."""

    def __init__(self, path: Path, cameras: Sequence[str], topics: Sequence[str]) -> None:
        self.path = path
        self.cameras = tuple(cameras)
        with self._reading(), Reader(path) as reader:
            types = {each.topic: each.msgtype for each in reader.connections if each.msgcount}
            # A topic has a connection for each of its publishers.
            counts: Counter[tuple[str, str]] = Counter()
            for each in reader.connections:
                counts[each.topic, each.msgtype] += each.msgcount
            self.start = reader.start_time
            self.duration = max(0, reader.duration - 1)
            chosen = self._choose(types, topics)
            first = chosen[self.cameras[0]]
            self.interval = _interval(reader, first, types[first])
        self._channels = dict(self._map(types, chosen))
        self.channels = tuple(self._channels.values())
        self.transport = {
            camera: "compressed" if types[topic] == COMPRESSED_IMAGE else "raw"
            for camera, topic in chosen.items()
        }
        self._count = sum(counts[topic, types[topic]] for topic in chosen.values())
        played = ", ".join(f"{topic} as {camera}" for camera, topic in chosen.items())
        self.description = f"{path}: bag, {self._count} frames: {played}"

    def _choose(self, types: dict[str, str], topics: Sequence[str]) -> dict[str, str]:
        """Return the bag's image topic for each camera."""
        images = sorted(
            topic
            for topic, msgtype in types.items()
            if msgtype in (IMAGE, COMPRESSED_IMAGE)
            and not re.search(
                r"/label(/compressed)?$|/semantic/|/reconstruction$|/compressedDepth$", topic
            )
        )
        there = f"its image topics are: {', '.join(images)}"
        if not images:
            raise SourceError(f"bag {self.path} has no image topics, only: {', '.join(types)}")
        if topics:
            if len(topics) != len(self.cameras):
                raise SourceError(
                    f"{len(topics)} topics given for {len(self.cameras)} cameras "
                    f"({', '.join(self.cameras)}); give one for each, in the same order"
                )
            for topic in topics:
                if types.get(topic) not in (IMAGE, COMPRESSED_IMAGE):
                    raise SourceError(f"bag {self.path} has no images on {topic}; {there}")
            return dict(zip(self.cameras, topics, strict=True))
        named = {
            camera: topic
            for camera in self.cameras
            for ending in ("/compressed", "")
            if (topic := f"/{camera}/image_raw{ending}") in images
        }
        both = {f"{topic}/compressed" for topic in images}
        others = [topic for topic in images if topic not in both and topic not in named.values()]
        unnamed = [camera for camera in self.cameras if camera not in named]
        if unnamed and len(others) != len(unnamed):
            raise AmbiguousTopicsError(
                f"cannot tell which images of bag {self.path} belong to "
                f"{', '.join(unnamed)}: {there}; set `topics` to one for each camera"
            )
        chosen = named | dict(zip(unnamed, others, strict=False))
        return {camera: chosen[camera] for camera in self.cameras}

    def _map(self, types: dict[str, str], chosen: dict[str, str]) -> Iterator[tuple[str, Channel]]:
        """Yield the bag's topics that are played, each with where it goes."""
        for camera, topic in chosen.items():
            ending = "/compressed" if types[topic] == COMPRESSED_IMAGE else ""
            yield topic, Channel(f"{camera}/image_raw{ending}", types[topic], camera, "image")
            base = topic.removesuffix("/compressed").rpartition("/")[0]
            for name, msgtype, role in _BESIDE_IMAGES:
                if types.get(f"{base}/{name}") == msgtype:
                    yield f"{base}/{name}", Channel(f"{camera}/{name}", msgtype, camera, role)
        for topic, role in _TRANSFORMS:
            if types.get(topic) == TF_MESSAGE:
                yield topic, Channel(topic, TF_MESSAGE, "", role)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except Exception as error:  # damaged files make the parsers raise nearly anything
            raise SourceError(
                f"bag {self.path} cannot be read: {error}; if its recording was cut off, "
                "try `ros2 bag reindex` or `mcap recover`"
            ) from error

    def __len__(self) -> int:
        return self._count

    def messages(self, offset: int = 0) -> Iterator[Message]:
        return self._read(self._channels, offset)

    def _read(self, channels: dict[str, Channel], offset: int) -> Iterator[Message]:
        with self._reading(), Reader(self.path) as reader:
            connections = [
                each
                for each in reader.connections
                if each.topic in channels and each.msgtype == channels[each.topic].msgtype
            ]
            start = self.start + offset if offset else None
            for connection, time, data in reader.messages(connections, start):
                channel = channels[connection.topic]
                stamp = time if channel.role in ("tf", "tf_static") else read_stamp(data)
                yield Message(time, stamp, channel, data)

    def frames(self) -> Iterator[Frame]:
        channels = {
            topic: channel
            for topic, channel in self._channels.items()
            if channel.role in ("image", "label")
        }
        labelled = {channel.camera for channel in channels.values() if channel.role == "label"}
        images: deque[Message] = deque()
        labels: dict[tuple[str, int], Message] = {}
        for message in self._read(channels, 0):
            if message.channel.role == "image":
                images.append(message)
            else:
                labels[message.channel.camera, message.stamp] = message
            while images:
                key = (images[0].channel.camera, images[0].stamp)
                late = message.time - images[0].time > _LABEL_WAIT
                if key[0] in labelled and key not in labels and not late:
                    break
                yield self._frame(images.popleft(), labels.pop(key, None))
            oldest = message.time - 2 * _LABEL_WAIT
            labels = {key: label for key, label in labels.items() if label.time > oldest}
        for image in images:
            yield self._frame(image, labels.get((image.channel.camera, image.stamp)))

    def _frame(self, image: Message, label: Message | None) -> Frame:
        where = f"{self.path}, {image.channel.topic} at {image.stamp} ns"
        try:
            content: Any = _TYPES.deserialize_cdr(image.data, image.channel.msgtype)
            rgb = to_rgb(content)
            ids = None
            if label is not None:
                ids = _label_ids(_TYPES.deserialize_cdr(label.data, label.channel.msgtype))
        except (ImageError, SerdeError) as error:
            raise SourceError(f"{where}: {error}") from error
        if ids is not None and ids.shape != rgb.shape[:2]:
            raise SourceError(
                f"{where}: label is {ids.shape[1]}x{ids.shape[0]} pixels, "
                f"its frame {rgb.shape[1]}x{rgb.shape[0]}: they must be equal"
            )
        return Frame(image.stamp, image.channel.camera, rgb, ids, content.header.frame_id)


_BESIDE_IMAGES: tuple[tuple[str, str, Role], ...] = (
    ("label", IMAGE, "label"),
    ("label/compressed", COMPRESSED_IMAGE, "label"),
    ("camera_info", CAMERA_INFO, "camera_info"),
)
_TRANSFORMS: tuple[tuple[str, Role], ...] = (("/tf", "tf"), ("/tf_static", "tf_static"))


def _interval(reader: Reader, topic: str, msgtype: str) -> int:
    """Return the typical time in ns from one message of a topic to the next, at its begin."""
    connections = [
        each for each in reader.connections if (each.topic, each.msgtype) == (topic, msgtype)
    ]
    times = [time for _, time, _ in islice(reader.messages(connections), 50)]
    steps = np.diff(times) if len(times) > 1 else (0,)
    return int(np.median(steps)) or 66_666_667


def _label_ids(message: Any) -> Pixels:
    """Return the ids of a mono8 image, or of one as PNG, uint8 (H, W); else raise ImageError."""
    if message.__msgtype__ == COMPRESSED_IMAGE:
        # PNG alone, as what loses detail makes up ids.
        ids = None
        if bytes(message.data[:4]) == b"\x89PNG":
            ids = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if ids is None or ids.ndim != 2 or ids.dtype != np.uint8:
            raise ImageError(
                f"label has format {message.format!r}; train ids come as PNG of one 8-bit channel"
            )
        return np.asarray(ids, np.uint8)
    if message.encoding != "mono8":
        raise ImageError(f"label has encoding {message.encoding!r}; train ids come as mono8")
    if message.step < message.width or len(message.data) < message.step * message.height:
        raise ImageError(f"label of {message.width}x{message.height} has too little data")
    size = message.height * message.step
    rows = np.frombuffer(message.data, np.uint8, size).reshape(message.height, message.step)
    return rows[:, : message.width]


def _stamp_format(data: bytes) -> str:
    # The second byte of CDR's encapsulation header is 1 for little-endian; a header's stamp,
    # int32 seconds and uint32 nanoseconds, follows the four bytes.
    return "<iI" if data[1] & 1 else ">iI"


def read_stamp(data: bytes) -> int:
    """Return the header stamp in ns of a serialised message that begins with its header."""
    seconds, nanoseconds = struct.unpack_from(_stamp_format(data), data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def shifted(message: Message, by: int) -> Message:
    """Return a copy of a message that is `by` ns later, in its header and transforms too."""
    time, stamp = message.time + by, message.stamp + by
    data = message.data
    if isinstance(data, bytes) and message.channel.msgtype == TF_MESSAGE:
        content: Any = _TYPES.deserialize_cdr(data, TF_MESSAGE)
        for transform in content.transforms:
            at = transform.header.stamp
            at.sec, at.nanosec = divmod(at.sec * 1_000_000_000 + at.nanosec + by, 1_000_000_000)
        data = bytes(_TYPES.serialize_cdr(content, TF_MESSAGE))
    elif isinstance(data, bytes):
        copy = bytearray(data)
        struct.pack_into(_stamp_format(data), copy, 4, *divmod(stamp, 1_000_000_000))
        data = bytes(copy)
    return Message(time, stamp, message.channel, data)
