"""The view without a browser: what it logs, and what it refuses."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rerun", reason="needs rerun-sdk: the dependency group view")

import rclpy
import rerun as rr
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from gosvae_codec.labels import CAMVID
from gosvae_codec.testing import OBJECTS
from gosvae_common.boxes import Box
from gosvae_common.detections import to_detections
from gosvae_common.messages import to_image
from gosvae_common.qos import qos_profile
from gosvae_msgs.msg import Feedback, LabelInfo
from gosvae_tools.view import _LEVELS, LOSS_SECONDS, View, ViewError, _Loss
from gosvae_tools.view_layout import FIGURES, blueprint

ROOT = Path(__file__).resolve().parents[4]
RERUN = shutil.which("rerun")
Make = Callable[..., View]


@pytest.fixture
def port() -> int:
    return free_port()


def free_port() -> int:
    """A port that is free, as is the next one."""
    while True:
        with socket.socket() as probe, socket.socket() as beside:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            try:
                beside.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture
def make(port: int) -> Iterator[Make]:
    """Return a function that makes the node with parameters; of a context of its own."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=102)
    nodes = []

    def make(*rules: str, **parameters: Any) -> View:
        values = {"port": port, "open_browser": False, **parameters}
        arguments = [part for item in values.items() for part in ("-p", "{}:={}".format(*item))]
        arguments += [part for rule in rules for part in ("-r", rule)]
        nodes.append(View(context=context, cli_args=["--ros-args", *arguments]))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.skipif(RERUN is None, reason="needs the command rerun, which is not installed")
def test_everything_that_arrives_is_in_the_file(make: Make, tmp_path: Path) -> None:
    saved = tmp_path / "view.rrd"
    view = make(save=saved, max_width=40)
    sender = rclpy.create_node("sender", context=view.context)
    executor = SingleThreadedExecutor(context=view.context)
    executor.add_node(view)
    pixels = np.zeros((60, 80), np.uint8)
    frame = np.zeros((60, 80, 3), np.uint8)
    header = Image().header
    colors = [value for label in CAMVID.labels for value in label.color]
    labels = LabelInfo(ids=CAMVID.ids, names=[x.name for x in CAMVID.labels], colors=colors)
    classes = LabelInfo(ids=[0, 1], names=["car", "person"], colors=[0, 0, 142, 220, 20, 60])
    boxes = [Box("car", 0.5, 1.0, 2.0, 3.0, 4.0)]
    depth = np.ones((60, 80), np.float32)
    status = DiagnosticStatus(
        name="gosvae_rx: camera",
        message="no packets",
        values=[KeyValue(key="kbit/s", value="7.5"), KeyValue(key="bytes/frame", value="")],
    )
    of_fleet = DiagnosticStatus(
        name="gosvae_fleet: camera", values=[KeyValue(key="bytes/frame", value="1000")]
    )
    broken = to_image(pixels, "mono8", header)
    broken.step = 7
    sent: list[tuple[str, str, Any]] = [
        ("camera/semantic/label_info", "latched", labels),
        ("camera/semantic/mask", "sensor_data", broken),
        ("camera/semantic/mask", "sensor_data", to_image(pixels, "mono8", header)),
        ("camera/semantic/overlay", "sensor_data", to_image(frame, "rgb8", header)),
        ("camera/semantic/reconstruction", "sensor_data", to_image(frame, "rgb8", header)),
        ("camera/detections/label_info", "latched", classes),
        ("camera/detections", "sensor_data", to_detections(boxes, OBJECTS, header)),
        ("camera/detections", "sensor_data", to_detections([], OBJECTS, header)),
        ("camera/depth/image", "sensor_data", to_image(depth, "32FC1", header)),
        ("camera/image_raw", "sensor_data", to_image(frame, "rgb8", header)),
        ("camera/image_raw/gosvae/feedback", "packets", Feedback(coverage=0.5, mask_age_ms=40.0)),
        ("/diagnostics", "default", DiagnosticArray(status=[status, of_fleet])),
    ]
    publish(sender, sent, executor)
    sender.destroy_node()
    executor.shutdown()
    assert not saved.exists()
    view.close()
    done = subprocess.run([str(RERUN), "rrd", "print", saved], capture_output=True, text=True)
    assert done.returncode == 0
    pictures = ("image", "mask", "mask/boxes", "overlay", "reconstruction", "depth")
    entities = (*(f"camera/{each}" for each in pictures), "legend")
    for series in ("coverage", "mask_age", "kbit_per_s", "bytes_per_frame"):
        assert f"/{series}/camera - data columns: [Scalars" in done.stdout, series
    for entity in (*entities, "status"):
        assert f"/{entity} " in done.stdout, entity


def publish(
    sender: Node, messages: list[tuple[str, str, Any]], executor: SingleThreadedExecutor
) -> None:
    """Publish messages to the view until it has had every one."""
    for topic, qos, message in messages:
        publisher = sender.create_publisher(type(message), topic, qos_profile(qos))
        while not publisher.get_subscription_count():
            executor.spin_once(timeout_sec=0.05)
        for _ in range(10):
            publisher.publish(message)
            executor.spin_once(timeout_sec=0.05)


def test_the_shipped_parameters_exist(make: Make) -> None:
    view = make()
    shipped = yaml.safe_load((ROOT / "launch" / "config" / "pipeline.yaml").read_text())
    parameters = shipped["/**"]["ros__parameters"]
    for name in ("port", "open_browser", "max_width"):
        assert type(view.get_parameter(name).value) is type(parameters[name]), name


def test_the_page_is_opened_where_there_is_a_display(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("gosvae_tools.view.webbrowser.open", opened.append)
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    make(open_browser=True).close()
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    make(open_browser=True, port=free_port())
    assert len(opened) == 1 and opened[0].startswith("http://127.0.0.1:")


def test_a_taken_port_is_named(make: Make, port: int) -> None:
    for taken in (port, port + 1):
        with socket.socket() as other:
            other.bind(("127.0.0.1", taken))
            other.listen()
            with pytest.raises(ViewError, match=rf"port {taken} is taken.*another `port`"):
                make()


def test_a_file_is_not_overwritten(make: Make, tmp_path: Path) -> None:
    (tmp_path / "old.rrd").write_text("precious")
    with pytest.raises(ViewError, match=r"old\.rrd exists already; remove it or name another"):
        make(save=tmp_path / "old.rrd")
    with pytest.raises(ViewError, match="nowhere is not a folder; make it"):
        make(save=tmp_path / "nowhere" / "new.rrd")
    assert (tmp_path / "old.rrd").read_text() == "precious"


def test_the_share_of_lost_packets_is_that_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("gosvae_tools.view.time.monotonic", lambda: now)
    loss = _Loss()

    def share(received: int, lost: int, stream: int = 7) -> float:
        counts = {"packets_received": received % (1 << 32), "packets_lost": lost % (1 << 32)}
        return loss.share(Feedback(stream=stream, **counts))

    assert np.isnan(share(-30, 5))
    assert share(0, 15) == 0.25  # over the wrap-around
    now = LOSS_SECONDS + 0.1
    assert np.isnan(share(90, 15))  # all before is forgotten
    assert share(100, 15) == 0.0
    assert np.isnan(share(0, 0, stream=8))
    assert share(1, 3, stream=8) == 0.75


def test_a_reconstruction_has_a_place_once_one_is_published(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make()
    sent: list[Any] = []
    monkeypatch.setattr(rr.RecordingStream, "send_blueprint", lambda _, page: sent.append(page))
    view._find_more()
    assert sent == []
    sender = rclpy.create_node("sender", context=view.context)
    publisher = sender.create_publisher(Image, "camera/semantic/reconstruction", 1)
    while not publisher.get_subscription_count():
        view._find_more()
    view._find_more()
    sender.destroy_node()
    (page,) = sent
    assert "camera/reconstruction" in set(origins(page.root_container))


def test_frames_of_a_remapped_camera_are_found(make: Make) -> None:
    view = make("camera/image_raw:=/usb/image")
    sender = rclpy.create_node("sender", context=view.context)
    publisher = sender.create_publisher(Image, "/usb/image", 1)
    while not publisher.get_subscription_count():
        view._find_frames()
    sender.destroy_node()


def test_every_level_has_its_colour() -> None:
    status = DiagnosticStatus
    assert set(_LEVELS) == {status.OK, status.WARN, status.ERROR, status.STALE}


@pytest.mark.parametrize("frames", [True, False])
def test_the_page_has_a_place_for_every_camera(frames: bool) -> None:
    cameras = ["front", "rear/left"]

    found = set(origins(blueprint(cameras, frames, {"front": ["reconstruction"]}).root_container))
    kinds = ["mask", *(["image", "overlay"] if frames else [])]
    pictures = {f"{camera}/{kind}" for camera in cameras for kind in kinds}
    pictures.add("front/reconstruction")
    assert found == {*pictures, *FIGURES, "legend", "status"}


def origins(part: Any) -> Iterator[str]:
    """Yield what each view of the page shows."""
    if hasattr(part, "origin"):
        yield part.origin
    else:
        for each in part.contents:
            yield from origins(each)
