"""Node `gosvae_view`: shows the pipeline in a browser, and writes a file for the Rerun viewer.

It takes what the receiver and the cameras publish, so that it costs the link nothing, unless it is
at the other end and shows the cameras' own frames. Figures per frame come from the receiver's
feedback, bytes and rates from its diagnostics: packets themselves would cross the link once more
for one more listener.

The data are served to this machine alone; who looks from another one forwards both ports by ssh.
"""

from __future__ import annotations

import os
import socket
import time
import webbrowser
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import numpy.typing as npt
import rerun as rr
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.exceptions import ParameterException
from rclpy.logging import get_logger
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from gosvae_codec.draft import draft
from gosvae_codec.errors import GosvaeError
from gosvae_codec.images import ImageConverter
from gosvae_codec.labels import UNLABELLED
from gosvae_codec.masks import resize_mask
from gosvae_common import topics
from gosvae_common.boxes import UNKNOWN
from gosvae_common.detections import detections_type, from_detections
from gosvae_common.health import share
from gosvae_common.legend import legend
from gosvae_common.messages import IMAGE_TRANSPORTS, from_label_info
from gosvae_common.parameters import ParameterNode
from gosvae_common.process import running, spinning
from gosvae_common.qos import qos_profile
from gosvae_msgs.msg import Feedback, LabelInfo

from .limits import PORT_LIMITS
from .view_layout import FIGURES, blueprint

ADDRESS = "127.0.0.1"
DIAGNOSED = {"bytes/frame": "bytes_per_frame", "kbit/s": "kbit_per_s"}
"""Time series that come from the receiver's diagnostics, by their key there."""
RECEIVERS = ("gosvae_rx", "gosvae_fleet")
"""Ends of names under which streams are diagnosed where they are received."""
SERIES_COLORS = ((255, 140, 0), (64, 160, 255), (120, 220, 120), (230, 90, 200))
LOSS_SECONDS = 5.0
"""Window that the share of lost packets is taken over."""
LEGEND_WIDTH = 640
JPEG_QUALITY = 85
MEMORY = "512MiB"
"""What is kept for browsers that come later, the oldest forgotten first."""

PARAMETERS: tuple[tuple[str, Any, str, tuple[int, int] | None], ...] = (
    ("cameras", ["camera"], "Base names that the cameras' topics hang under.", None),
    (
        "frames",
        True,
        "Show the cameras' own frames and overlays; on the far side they cross the link.",
        None,
    ),
    ("port", 9090, "Port of the page; the next one is that of its data.", PORT_LIMITS),
    ("open_browser", True, "Open the page in a browser, where there is a display.", None),
    ("save", "", "File.rrd to write for the Rerun viewer; empty: none.", None),
    ("max_width", 960, "Width in pixels that larger pictures are scaled to.", (16, 16384)),
)

_LEVELS = {
    DiagnosticStatus.OK: rr.TextLogLevel.INFO,
    DiagnosticStatus.WARN: rr.TextLogLevel.WARN,
    DiagnosticStatus.ERROR: rr.TextLogLevel.ERROR,
    DiagnosticStatus.STALE: rr.TextLogLevel.WARN,
}


class ViewError(GosvaeError):
    """Nothing can be shown: a port is taken, or the file cannot be written."""


class View(ParameterNode):
    """Logs to Rerun what arrives, until :meth:`close`.

    Raises:
        ViewError: a port is taken, or `save` exists or cannot be written.
        ParameterException: a parameter is out of its range.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("gosvae_view", **options)
        for name, default, description, limits in PARAMETERS:
            self.declare(name, default, description, limits, read_only=True)
        self._cameras = [camera.strip("/") for camera in self.value("cameras")]
        self._file = Path(self.value("save")).expanduser() if self.value("save") else None
        self._draft = ExitStack()
        """What makes the file whole when it is closed."""
        self._recording = self._serve()
        self._said: dict[str, tuple[bytes, str]] = {}
        self._losses = {camera: _Loss() for camera in self._cameras}
        self._frames: dict[str, Subscription] = {}
        self._converters: defaultdict[str, ImageConverter] = defaultdict(ImageConverter)
        self._drawn: dict[str, set[str]] = {camera: set() for camera in self._cameras}
        """What there is of each camera beside masks: ``reconstruction``, ``depth``."""
        self._classes: dict[str, dict[str, tuple[int, int, int]]] = {}
        """Colours of each camera's detections by the class's name."""
        self._scales: dict[str, float] = {}
        """Width that each camera's masks are shown in, by their own."""
        for index, camera in enumerate(self._cameras):
            self._show(camera, SERIES_COLORS[index % len(SERIES_COLORS)])
        self._subscribe(DiagnosticArray, topics.DIAGNOSTICS, QoSProfile(depth=10), self._diagnose)
        if self.value("frames"):
            self.create_timer(0.5, self._find_frames)
        self.create_timer(0.5, self._find_more)

    def close(self) -> None:
        """Stop serving, and finish the file.

        Raises:
            ViewError: the file cannot be finished.
        """
        self._recording.disconnect()
        if self._file is not None:
            try:
                self._draft.close()
            except OSError as error:
                raise ViewError(f"save: {self._file} cannot be written: {error}") from error
            self.get_logger().info(f"saved {self._file}; rerun {self._file} shows it")

    def _serve(self) -> rr.RecordingStream:
        """Begin to serve the page and what is logged from now on."""
        port = self.value("port")
        # The data's server would only log that it cannot listen.
        for each in (port, port + 1):
            if not _is_free(each):
                raise ViewError(
                    f"port {each} is taken, by another viewer perhaps: close that, or give another "
                    "`port`"
                )
        sinks: list[Any] = [
            rr.GrpcServerSink(ADDRESS, port + 1, server_memory_limit=MEMORY, newest_first=True)
        ]
        if self._file is not None:
            try:
                sinks.append(rr.FileSink(self._draft.enter_context(draft(self._file))))
            except OSError as error:
                raise ViewError(f"save: {error}") from error
        recording = rr.RecordingStream("gosvae")
        try:
            recording.set_sinks(
                *sinks, default_blueprint=blueprint(self._cameras, self.value("frames"))
            )
            rr.serve_web_viewer(web_port=port, open_browser=False)
        except RuntimeError as error:
            raise ViewError(str(error)) from error
        page = f"http://{ADDRESS}:{port}/?url={quote(sinks[0].uri, safe=':/')}"
        self.get_logger().info(f"open {page}")
        # Without a display this would start a browser in the terminal.
        if self.value("open_browser") and {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
            webbrowser.open(page)
        return recording

    def _show(self, camera: str, color: tuple[int, int, int]) -> None:
        for name in FIGURES:
            style = rr.SeriesLines(colors=[color], names=[camera], widths=[2.0])
            self._recording.log(f"{name}/{camera}", style, static=True)
        sensor_data, latched = qos_profile("sensor_data"), qos_profile("latched")
        inputs: tuple[tuple[Any, str, QoSProfile, Callable[[str, Any], None]], ...] = (
            (LabelInfo, topics.LABEL_INFO, latched, self._learn_labels),
            (Image, topics.MASK, sensor_data, self._show_mask),
            (LabelInfo, f"{topics.DETECTIONS}/label_info", latched, self._learn_classes),
            (detections_type(), topics.DETECTIONS, sensor_data, self._show_boxes),
            (Feedback, topics.FEEDBACK, qos_profile("packets"), self._plot),
        )
        for msgtype, topic, qos, handle in inputs:
            self._subscribe(msgtype, f"{camera}/{topic}", qos, partial(handle, camera))
        if self.value("frames"):
            self._subscribe(
                Image,
                f"{camera}/{topics.OVERLAY}",
                sensor_data,
                partial(self._show_picture, f"{camera}/overlay"),
            )

    def _subscribe(
        self, msgtype: Any, topic: str, qos: QoSProfile, handle: Callable[[Any], None]
    ) -> Subscription:
        def guarded(message: Any) -> None:
            try:
                handle(message)
            except Exception as error:  # a message that cannot be shown must not stop the view
                self.get_logger().error(f"{topic}: {error}", throttle_duration_sec=5.0)

        return self.create_subscription(msgtype, topic, guarded, qos)

    def _find_frames(self) -> None:
        """Subscribe to the frames of cameras that have come, compressed where they offer that."""
        for camera in self._cameras:
            for transport in ("compressed", "raw"):
                suffix, msgtype = IMAGE_TRANSPORTS[transport]
                topic = self.resolve_topic_name(f"{camera}/{topics.IMAGE}{suffix}")
                if camera not in self._frames and self.count_publishers(topic):
                    self._frames[camera] = self._subscribe(
                        msgtype,
                        topic,
                        qos_profile("sensor_data"),
                        partial(self._show_picture, f"{camera}/image"),
                    )

    def _find_more(self) -> None:
        """Subscribe to reconstructions and depths that there are, and make room on the page."""
        more: dict[str, tuple[str, Callable[[str, Any], None]]] = {
            "reconstruction": (topics.RECONSTRUCTION, self._show_picture),
            "depth": (topics.DEPTH, self._show_depth),
        }
        for camera, drawn in self._drawn.items():
            for name, (topic, show) in more.items():
                if name in drawn or not self.count_publishers(f"{camera}/{topic}"):
                    continue
                drawn.add(name)
                handle = partial(show, f"{camera}/{name}")
                self._subscribe(Image, f"{camera}/{topic}", qos_profile("sensor_data"), handle)
                self._recording.send_blueprint(
                    blueprint(self._cameras, self.value("frames"), self._drawn)
                )

    def _learn_labels(self, camera: str, message: LabelInfo) -> None:
        labels = from_label_info(message)
        classes = [(label.id, label.name, label.color) for label in labels.labels]
        context = rr.AnnotationContext([*classes, (UNLABELLED, "unlabelled", (0, 0, 0))])
        self._recording.log(camera, context, static=True)
        self._recording.log("legend", rr.Image(legend(labels, LEGEND_WIDTH)), static=True)

    def _show_mask(self, camera: str, message: Image) -> None:
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        mask = rows[:, : message.width]
        self._set_time(message.header.stamp)
        shown = resize_mask(mask, self._shown_size(mask))
        self._scales[camera] = shown.shape[1] / mask.shape[1]
        self._recording.log(f"{camera}/mask", rr.SegmentationImage(shown))

    def _learn_classes(self, camera: str, message: LabelInfo) -> None:
        labels = from_label_info(message)
        self._classes[camera] = {label.name: label.color for label in labels.labels}

    def _show_boxes(self, camera: str, message: Any) -> None:
        self._set_time(message.header.stamp)
        boxes, classes = from_detections(message), self._classes.get(camera, {})
        sides = np.array([box[2:] for box in boxes], np.float32).reshape(-1, 4)
        shown = rr.Boxes2D(
            array=sides * self._scales.get(camera, 1.0),
            array_format=rr.Box2DFormat.XYXY,
            labels=[f"{box.name} {box.score:.2f}" for box in boxes],
            colors=[classes.get(box.name, UNKNOWN) for box in boxes],
        )
        self._recording.log(f"{camera}/mask/boxes", shown)

    def _show_depth(self, entity: str, message: Image) -> None:
        self._set_time(message.header.stamp)
        depth = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
        self._recording.log(entity, rr.DepthImage(depth, meter=1.0))

    def _show_picture(self, entity: str, message: Image | CompressedImage) -> None:
        frame = self._converters[entity].to_rgb(message)
        size = self._shown_size(frame)
        if size != frame.shape[:2]:
            scaled = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
            frame = np.asarray(scaled, np.uint8)
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        self._set_time(message.header.stamp)
        picture = rr.EncodedImage(contents=jpeg, media_type="image/jpeg")
        self._recording.log(entity, picture)

    def _shown_size(self, picture: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """Return the height and width that a picture is shown in."""
        height, width = picture.shape[:2]
        scale = min(self.value("max_width") / width, 1.0)
        return max(round(height * scale), 1), max(round(width * scale), 1)

    def _plot(self, camera: str, message: Feedback) -> None:
        self._set_time(message.header.stamp)
        values = {
            "mask_age": message.mask_age_ms,
            "coverage": message.coverage * 100,
            "loss": self._losses[camera].share(message) * 100,
        }
        for name, value in values.items():
            if np.isfinite(value):
                self._recording.log(f"{name}/{camera}", rr.Scalars(value))

    def _diagnose(self, message: DiagnosticArray) -> None:
        self._set_time(message.header.stamp)
        for status in message.status:
            node, _, camera = status.name.partition(": ")
            if "gosvae_" not in node:
                continue
            if self._said.get(status.name) != (status.level, status.message):
                self._said[status.name] = status.level, status.message
                text = f"{status.name}: {status.message}"
                self._recording.log("status", rr.TextLog(text, level=_LEVELS.get(status.level)))
            if camera in self._cameras and node.endswith(RECEIVERS):
                for pair in status.values:
                    # Empty before the first frame.
                    if pair.key in DIAGNOSED and pair.value:
                        entity = f"{DIAGNOSED[pair.key]}/{camera}"
                        self._recording.log(entity, rr.Scalars(float(pair.value)))

    def _set_time(self, stamp: Time) -> None:
        nanoseconds = stamp.sec * 1_000_000_000 + stamp.nanosec
        self._recording.set_time("stamp", timestamp=np.datetime64(nanoseconds, "ns"))


class _Loss:
    """The share of packets lost in the last seconds, from counters that wrap around at 2^32."""

    def __init__(self) -> None:
        self._stream = 0
        self._counts: deque[tuple[float, int, int]] = deque()

    def share(self, message: Feedback) -> float:
        """Add the counters, and return the share from 0 to 1; nan while it is unknown."""
        if message.stream != self._stream:
            self._stream = message.stream
            self._counts.clear()
        now = time.monotonic()
        self._counts.append((now, message.packets_received, message.packets_lost))
        while self._counts[0][0] < now - LOSS_SECONDS:
            self._counts.popleft()
        _, *first = self._counts[0]
        _, *last = self._counts[-1]
        received, lost = ((b - a) % (1 << 32) for a, b in zip(first, last, strict=True))
        return share(lost, received)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def main() -> int:
    """Run the node until a signal; return 0, or 1 when it cannot show or save anything."""
    with running() as stop:
        try:
            node = View()
            with spinning(node):
                stop.wait()
            node.close()
        except (ViewError, ParameterException) as error:
            get_logger("gosvae_view").fatal(str(error))
            return 1
    return 0
