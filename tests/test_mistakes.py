"""The likeliest mistakes of a new user: each is told what is wrong, and what to do."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from ament_index_python.packages import get_package_prefix
from drives import write_drive
from harness import DEADLINE, DOMAINS, Pipeline, random_frame
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.messages import to_image

GOSVAE = Path(get_package_prefix("gosvae_bringup")) / "lib" / "gosvae_bringup" / "gosvae"
EAGER = {"diagnostics.silence_s.warn": 0.5, "diagnostics.silence_s.error": 1.5}
OK, WARN, ERROR, STALE = b"\x00", b"\x01", b"\x02", b"\x03"


def run(*arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next(DOMAINS))}
    command = [*prefix, str(GOSVAE), "run", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=4 * DEADLINE, check=False
    )


def wait_for(pipeline: Pipeline, name: str, level: bytes, *parts: str) -> None:
    """Wait until a status has this level, and its message all parts."""

    def told() -> bool:
        status = pipeline.status.get(name)
        return (
            status is not None
            and status.level == level
            and all(part in status.message for part in parts)
        )

    try:
        pipeline.wait(f"{name} to tell {parts}", told)
    finally:
        status = pipeline.status.get(name)
        print(status and (status.level, status.message))


def test_no_bag() -> None:
    done = run("--bag", "nowhere.mcap")
    assert done.returncode == 2
    assert "nowhere.mcap does not exist; give a rosbag2 folder or file, a video" in done.stderr


def test_a_wrong_topic_of_a_bag(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive", 2, (64, 96), camera="front")
    done = run("--bag", tmp_path / "drive", "--topics", "/camera/image")
    assert done.returncode != 0
    assert "no images on /camera/image" in done.stderr
    assert "its image topics are: /front/image_raw/compressed" in done.stderr


@pytest.mark.parametrize(
    ("camera", "topic", "arguments"),
    [
        ("camera", "/usb_cam/image", ("--topics", "/usb_cam/image")),
        ("zed/left", "/zed/left/image_rect", ("cameras:=/zed/left", "topics:=zed/left/image_rect")),
        (
            *("front", "/image_raw"),
            ("--cameras", "front", "--ros-args", "-r", "front/image_raw:=/image_raw"),
        ),
    ],
)
def test_live_cameras_have_topics_of_any_name(
    camera: str, topic: str, arguments: tuple[str, ...], pipeline: Pipeline
) -> None:
    bundle = ("--bundle", str(pipeline.bundle))
    pipeline.start("gosvae_bringup", "gosvae", "run", *bundle, *arguments)
    publisher = pipeline.publisher(Image, topic, "default")
    masks = pipeline.masks(camera)
    pipeline.wait("a subscription", lambda: publisher.get_subscription_count() > 0)
    message = to_image(random_frame(0), "rgb8", Header(frame_id="there"))
    for _ in range(200):
        message.header.stamp = pipeline.node.get_clock().now().to_msg()
        publisher.publish(message)
        again = time.monotonic() + 0.2
        if pipeline.wait("a mask", lambda: masks or time.monotonic() > again) is masks:  # noqa: B023
            break
    assert masks[0].header.frame_id == "there"


def test_a_wrong_topic_of_a_camera(pipeline: Pipeline) -> None:
    pipeline.publisher(Image, "front/image_raw", "default")
    pipeline.publisher(CompressedImage, "rear/image_raw/compressed", "default")
    pipeline.transmitter(lazy=False, **EAGER)
    wait_for(
        pipeline,
        "gosvae_tx: camera",
        ERROR,
        "nobody publishes /camera/image_raw; there are ",
        "/front/image_raw (sensor_msgs/msg/Image)",
        "/rear/image_raw/compressed (sensor_msgs/msg/CompressedImage)",
        "set cameras and image_transport, or remap",
    )


def test_a_topic_of_another_type(pipeline: Pipeline) -> None:
    pipeline.publisher(CompressedImage, "camera/image_raw", "default")
    pipeline.transmitter(lazy=False, **EAGER)
    wait_for(
        pipeline,
        "gosvae_tx: camera",
        ERROR,
        "/camera/image_raw is sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image",
    )


def test_wrong_qos(pipeline: Pipeline) -> None:
    pipeline.publisher(Image, "camera/image_raw", "sensor_data")
    pipeline.transmitter(lazy=False, image_qos="default", **EAGER)
    wait_for(
        pipeline,
        "gosvae_tx: camera",
        ERROR,
        "the QoS of /camera/image_raw does not match its publisher probe",
        "Best effort publisher and reliable subscription",
        "set image_qos, packet_qos or a qos_overrides parameter",
    )


def test_a_missing_bundle(pipeline: Pipeline, tmp_path: Path) -> None:
    done = run("--bundle", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere does not exist; give a folder like models/road" in done.stderr
    (tmp_path / "empty").mkdir()
    node = pipeline.receiver(bundle=tmp_path / "empty")
    pipeline.wait("its end", lambda: not node.running)
    assert "not a model bundle" in node.output()


def test_a_bundle_of_another_version(pipeline: Pipeline, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "old")
    manifest = yaml.safe_load((path / "manifest.yaml").read_text())
    (path / "manifest.yaml").write_text(yaml.safe_dump({**manifest, "format": 1}))
    node = pipeline.receiver(bundle=path)
    pipeline.wait("its end", lambda: not node.running)
    assert node.popen.returncode == 1
    assert "bundle format 1, this software reads 3: export the bundle again" in node.output()


@pytest.mark.slow
def test_no_free_shared_memory(bundle_path: Path, tmp_path: Path) -> None:
    small = (
        *("unshare", "--mount", "sh", "-c"),
        'mount -t tmpfs -o size=1m gosvae /dev/shm && exec "$@"',
        "sh",
    )
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root, to mount a small /dev/shm")
    write_drive(tmp_path / "drive", 5, (64, 96))
    # LOCALHOST adds shared memory of its own.
    reach = ("env", "ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET")
    arguments = ("--bag", tmp_path / "drive", "--bundle", bundle_path, "--record", tmp_path / "bag")
    done = run(*arguments, prefix=(*small, *reach))
    assert "/dev/shm has 1 MB free, 4 processes take 268 MB" in done.stderr
    assert "--shm-size=512m" in done.stderr
    # Small images make it over UDP.
    assert done.returncode == 0, done.stderr


def test_another_domain_id(pipeline: Pipeline) -> None:
    pipeline.receiver(**EAGER)
    domain, pipeline.domain = pipeline.domain, next(DOMAINS)
    pipeline.transmitter(lazy=False)
    wait_for(
        pipeline,
        "gosvae_rx: camera",
        ERROR,
        "nobody publishes /camera/image_raw/gosvae",
        f"nothing like it is in ROS_DOMAIN_ID {domain}",
        "start the transmitter with the same cameras, domain and discovery range",
    )


@pytest.mark.slow
def test_a_camera_that_stops(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter(**EAGER)
    pipeline.receiver(**EAGER)
    pipeline.send(random_frame(0), masks)
    stopped = "no frames for ", "/camera/image_raw is published by probe, which sends nothing"
    wait_for(pipeline, "gosvae_tx: camera", ERROR, *stopped)
    stale = "the last mask is ", "no packets for ", "which sends nothing"
    wait_for(pipeline, "gosvae_rx: camera", STALE, *stale)
    # And it recovers by itself.
    pipeline.wait(
        "another word",
        lambda: (
            pipeline.send(random_frame(1), masks)
            and "no frames" not in pipeline.status["gosvae_tx: camera"].message
        ),
    )


def test_no_gpu(pipeline: Pipeline) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    refuses = pipeline.transmitter(providers="[cuda]")
    deaf = {"diagnostics.silence_s.warn": 0.0, "diagnostics.silence_s.error": 0.0}
    pipeline.receiver(providers="[cuda, cpu]", **deaf)
    remedy = "install onnxruntime-gpu with its CUDA libraries"
    wait_for(pipeline, "gosvae_rx: camera", WARN, "running on cpu, not on cuda", remedy)
    pipeline.wait("the end of the other", lambda: not refuses.running)
    assert refuses.popen.returncode == 1
    assert "none of ['cuda'] is available" in refuses.output()
    assert "or add cpu to the providers" in refuses.output()


def test_a_clock_that_jumps(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter(use_sim_time=True)
    receiver = pipeline.receiver(use_sim_time=True)
    clock = pipeline.publisher(Clock, "/clock", "default")
    pipeline.wait("both clocks", lambda: clock.get_subscription_count() == 2)
    now = Clock()

    def tell(second: int) -> bool:
        now.clock.sec = second
        clock.publish(now)
        return pipeline.send(random_frame(second), masks) is not None

    pipeline.wait(
        "an age",
        lambda: tell(1001) and pipeline.figures("gosvae_rx: camera").get("mask age ms p50"),
    )
    told = "the clock jumped by -501.0 s"
    pipeline.wait("the word", lambda: tell(500) and told in pipeline.status["gosvae_rx"].message)
    assert pipeline.status["gosvae_rx"].level == WARN
    assert "loop:=true" in receiver.output()


def test_simulated_time_without_a_clock(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    pipeline.receiver(use_sim_time=True)
    pipeline.send(random_frame(0), masks)
    told = "use_sim_time is set, but nobody publishes /clock"
    wait_for(pipeline, "gosvae_rx: camera", WARN, told)
