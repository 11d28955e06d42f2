"""Transmitter and receiver over real DDS, each in its own process."""

from __future__ import annotations

import itertools
import signal
from array import array
from pathlib import Path

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from harness import DEADLINE, Pipeline, pixels, random_frame
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import CAMVID, Decoder, Encoder, Header, ModelBundle, Reconstructor
from gosvae_codec.packets import MAX_SERIALIZED_BYTES
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.messages import from_packet_message, to_image, to_packet_message
from gosvae_common.shipped import BUNDLE
from gosvae_msgs.msg import Feedback, LabelInfo, TokenPacket


def expected_mask(bundle: ModelBundle, frame: np.ndarray, levels: int | None = None) -> np.ndarray:
    return Decoder(bundle).decode(Encoder(bundle).encode(frame, levels=levels)).mask


@pytest.mark.parametrize("size", [(64, 96), (120, 160), (51, 77)])
def test_masks_are_the_librarys_with_the_cameras_own_header(
    pipeline: Pipeline, bundle: ModelBundle, size: tuple[int, int]
) -> None:
    masks = pipeline.masks()
    packets = pipeline.collect(TokenPacket, "camera/image_raw/gosvae", "packets")
    pipeline.transmitter()
    pipeline.receiver()
    for seed in range(3):
        frame = random_frame(seed, size)
        mask = pipeline.send(frame, masks)
        assert (mask.encoding, mask.header.frame_id) == ("mono8", "camera_frame")
        np.testing.assert_array_equal(pixels(mask), expected_mask(bundle, frame))
    for message in packets:
        assert len(serialize_message(message)) <= MAX_SERIALIZED_BYTES
        assert message.fingerprint == bundle.fingerprint
        assert (message.source_width, message.source_height) == size[::-1]


@pytest.mark.parametrize("first", ["transmitter", "receiver"])
def test_either_node_may_start_first(pipeline: Pipeline, first: str) -> None:
    masks = pipeline.masks()
    second = {"transmitter": "receiver", "receiver": "transmitter"}[first]
    getattr(pipeline, first)()
    name = {"transmitter": "gosvae_tx: camera", "receiver": "gosvae_rx: camera"}
    pipeline.wait(f"diagnostics of the {first}", lambda: name[first] in pipeline.status)
    getattr(pipeline, second)()
    pipeline.send(random_frame(0), masks)


@pytest.mark.parametrize("batch", [1, 2])
def test_two_cameras_do_not_mix(pipeline: Pipeline, bundle: ModelBundle, batch: int) -> None:
    cameras = ["front", "rear/left"]
    masks = {camera: pipeline.masks(camera) for camera in cameras}
    pipeline.transmitter(cameras=str(cameras))
    pipeline.receiver(cameras=str(cameras), batch=batch)
    for seed, camera in enumerate(cameras * 2):
        frame = random_frame(seed)
        mask = pipeline.send(frame, masks[camera], camera)
        assert mask.header.frame_id == f"{camera}_frame"
        np.testing.assert_array_equal(pixels(mask), expected_mask(bundle, frame))
    for camera in cameras:
        assert {mask.header.frame_id for mask in masks[camera]} == {f"{camera}_frame"}


def test_a_receiver_killed_and_restarted_goes_on(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    receiver = pipeline.receiver()
    pipeline.send(random_frame(0), masks)
    receiver.kill()
    pipeline.receiver()
    pipeline.send(random_frame(1), masks)


def test_a_transmitter_killed_and_restarted_goes_on_as_a_new_stream(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    packets = pipeline.collect(TokenPacket, "camera/image_raw/gosvae", "packets")
    transmitter = pipeline.transmitter()
    pipeline.receiver()
    for seed in range(3):
        pipeline.send(random_frame(seed), masks)
    before = packets[-1]
    transmitter.kill()
    pipeline.transmitter()

    def renewed() -> bool:
        pipeline.send(random_frame(9), masks)
        return packets[-1].stream != before.stream

    # The receiver may know the new transmitter before this process does.
    pipeline.wait("packets of another stream", renewed)


def test_a_late_receiver_gets_the_next_frame_and_the_latched_labels(
    pipeline: Pipeline, bundle: ModelBundle
) -> None:
    pipeline.transmitter(lazy=False)
    for seed in range(3):
        pipeline.publish(random_frame(seed))
    pipeline.receiver()
    masks = pipeline.masks()
    pipeline.send(random_frame(7), masks)
    infos = pipeline.collect(LabelInfo, "camera/semantic/label_info", "latched")
    pipeline.wait("label info", lambda: infos)
    info = infos[0]
    assert (info.bundle, info.fingerprint) == (bundle.name, bundle.fingerprint)
    assert list(info.ids) == [label.id for label in CAMVID.labels]
    assert info.names == [label.name for label in CAMVID.labels]
    assert list(info.colors) == [value for label in CAMVID.labels for value in label.color]


def test_the_camera_is_left_alone_while_nobody_listens(pipeline: Pipeline) -> None:
    pipeline.transmitter()
    pipeline.wait("diagnostics", lambda: "gosvae_tx: camera" in pipeline.status)
    assert pipeline.status["gosvae_tx: camera"].message == "waiting for a receiver"
    assert pipeline.node.count_subscribers("camera/image_raw") == 0
    receiver = pipeline.receiver()
    pipeline.wait("demand", lambda: pipeline.node.count_subscribers("camera/image_raw") == 1)
    receiver.stop()
    pipeline.wait("its end", lambda: pipeline.node.count_subscribers("camera/image_raw") == 0)


def test_another_bundle_is_named_on_both_sides_and_nothing_is_decoded(
    pipeline: Pipeline, bundle: ModelBundle, tmp_path: Path
) -> None:
    other = ModelBundle.load(write_tiny_bundle(tmp_path / "other", seed=5))
    masks = pipeline.masks()
    transmitter = pipeline.transmitter(bundle=other.path)
    receiver = pipeline.receiver()

    def explained() -> bool:
        pipeline.publish(random_frame(0))
        rx, tx = (pipeline.status.get(f"gosvae_{side}: camera") for side in ("rx", "tx"))
        told = bool(rx and tx) and "another bundle" in rx.message and "another" in tx.message
        return told and f"{bundle.fingerprint:016x}" in tx.message

    pipeline.wait("both diagnostics to tell", explained)
    figures = pipeline.figures("gosvae_rx: camera")
    assert figures["fingerprint"] == f"{bundle.fingerprint:016x}"
    assert figures["sender fingerprint"] == f"{other.fingerprint:016x}"
    assert int(figures["rejected"]) > 0
    assert pipeline.status["gosvae_rx: camera"].level == b"\x02"
    assert masks == []
    assert transmitter.running and receiver.running
    assert f"{other.fingerprint:016x}" in receiver.output()


def test_hostile_packets_are_counted_and_the_next_good_one_decodes(
    pipeline: Pipeline, bundle: ModelBundle
) -> None:
    masks = pipeline.masks()
    receiver = pipeline.receiver()
    publisher = pipeline.packet_publisher()
    frame = random_frame(1)
    encoder = Encoder(bundle)

    def decoded() -> list[Image]:
        (packet,) = encoder.encode(frame, Header(5, 6, "probe"), levels=1)
        publisher.publish(to_packet_message(packet))
        return masks

    pipeline.wait("a mask", decoded)
    np.testing.assert_array_equal(pixels(masks[0]), expected_mask(bundle, frame, levels=1))
    rng = np.random.default_rng(0)
    (packet,) = encoder.encode(frame, levels=1)
    hostile = [TokenPacket()]
    for _ in range(200):
        message = to_packet_message(packet)
        name = rng.choice(["sequence", "levels", "reference", "slice_count", "version"])
        setattr(message, name, int(rng.integers(0, 256)) ^ 77)
        message.payload = array("B", rng.integers(0, 256, rng.integers(0, 1400), np.uint8))
        if rng.random() < 0.5:
            message.crc32c = from_packet_message(message).checksum
        hostile.append(message)
    for message in hostile:
        publisher.publish(message)
        pipeline.executor.spin_once(timeout_sec=0.001)
    pipeline.wait(
        "rejections", lambda: int(pipeline.figures("gosvae_rx: camera").get("rejected", 0)) > 100
    )
    # A fresh stream, as a hostile sequence number may have run ahead of the old one.
    encoder = Encoder(bundle)
    count = len(masks)

    def decoded_again() -> bool:
        (fresh,) = encoder.encode(random_frame(2), Header(7, 8, "probe"), levels=1)
        publisher.publish(to_packet_message(fresh))
        return any(mask.header.stamp.sec == 7 for mask in masks[count:])

    pipeline.wait("a mask after the hostile packets", decoded_again)
    assert receiver.running


def test_frames_that_cannot_be_converted_are_counted_and_explained(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    transmitter = pipeline.transmitter()
    pipeline.receiver()
    publisher = pipeline.publisher(Image, "camera/image_raw", "default")
    pipeline.wait("a subscription", lambda: publisher.get_subscription_count() > 0)

    for encoding, size, reason in (
        ("32FC1", 8, "'32FC1' is not supported"),
        ("rgb8", 8, "needs 192 bytes, got 5"),
        ("rgb8", 0, "size 0x0"),
    ):
        broken = Image(height=size, width=size, step=size * 3, encoding=encoding, data=b"\0" * 5)

        def explained(broken: Image = broken, reason: str = reason) -> bool:
            publisher.publish(broken)
            return reason in pipeline.figures("gosvae_tx: camera").get("last failure", "")

        pipeline.wait(f"{reason!r} on diagnostics", explained)
    assert int(pipeline.figures("gosvae_tx: camera")["failed"]) >= 3
    pipeline.send(random_frame(0), masks)
    assert transmitter.running
    assert "Traceback" not in transmitter.output()


def test_colour_and_overlay_are_made_on_demand(pipeline: Pipeline, bundle: ModelBundle) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    pipeline.receiver()
    frame = random_frame(3)
    pipeline.send(frame, masks)
    colors, overlays = pipeline.masks(topic="color"), pipeline.masks(topic="overlay")

    def both() -> bool:
        pipeline.send(frame, masks)
        return bool(colors and overlays)

    pipeline.wait("colour and overlay", both)
    color = bundle.labels.palette[expected_mask(bundle, frame)]
    assert colors[-1].encoding == overlays[-1].encoding == "rgb8"
    np.testing.assert_array_equal(pixels(colors[-1]), color)
    blend = (frame.astype(float) + color) / 2
    assert np.abs(pixels(overlays[-1]) - blend).max() <= 1


def test_overlay_and_camera_info_are_those_of_the_mask(pipeline: Pipeline) -> None:
    masks, overlays = pipeline.masks(), pipeline.masks(topic="overlay")
    infos = pipeline.collect(CameraInfo, "camera/semantic/camera_info")
    pipeline.transmitter()
    pipeline.receiver()
    camera = pipeline.publisher(CameraInfo, "camera/camera_info", "default")
    sent = CameraInfo(width=160, height=120, k=[float(each) for each in range(9)])
    sent.header.frame_id = "another_frame"

    def together() -> list[HeaderMessage]:
        camera.publish(sent)
        pipeline.send(random_frame(1), masks)
        stamped = [[each.header for each in kind] for kind in (infos, overlays)]
        return [mask.header for mask in masks if all(mask.header in kind for kind in stamped)]

    headers = pipeline.wait("mask, overlay and camera_info of one frame", together)
    assert headers[0].frame_id == "camera_frame"
    np.testing.assert_array_equal(infos[0].k, sent.k)
    assert (infos[0].width, infos[0].height) == (160, 120)
    # One is enough, as the link is thin.
    pipeline.wait("no more listening", lambda: camera.get_subscription_count() == 0)


def test_a_bundle_that_draws_gives_a_picture_on_demand(pipeline: Pipeline, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "drawing", reconstructs=True)
    bundle = ModelBundle.load(path)
    masks = pipeline.masks()
    pipeline.transmitter(bundle=path)
    pipeline.receiver(bundle=path)
    frame = random_frame(3)
    pipeline.send(frame, masks)
    pictures = pipeline.masks(topic="reconstruction")

    def together() -> list[Image]:
        pipeline.send(frame, masks)
        headers = [mask.header for mask in masks]
        return [picture for picture in pictures if picture.header in headers]

    (picture, *_) = pipeline.wait("a reconstruction with a mask's header", together)
    assert (picture.encoding, picture.header.frame_id) == ("rgb8", "camera_frame")
    decoded = Decoder(bundle).decode(Encoder(bundle).encode(frame))
    np.testing.assert_array_equal(pixels(picture), Reconstructor(bundle).reconstruct(decoded))


def test_a_bundle_that_decodes_to_masks_alone_offers_no_picture(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    pipeline.receiver()
    pipeline.send(random_frame(0), masks)
    assert pipeline.node.count_publishers("camera/semantic/color") == 1
    assert pipeline.node.count_publishers("camera/semantic/reconstruction") == 0


def test_the_legend_shows_all_colours_to_who_comes_late(
    pipeline: Pipeline, bundle: ModelBundle
) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    pipeline.receiver()
    pipeline.send(random_frame(0), masks)
    legends = pipeline.collect(Image, "camera/semantic/legend", "latched")
    pipeline.wait("the legend", lambda: legends)
    colors = {tuple(pixel) for row in pixels(legends[0]) for pixel in row}
    assert {label.color for label in bundle.labels.labels} <= colors


def test_simulated_time_measures_the_masks_age(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter(use_sim_time=True)
    pipeline.receiver(use_sim_time=True)
    clock = pipeline.publisher(Clock, "/clock", "default")
    pipeline.wait("both clocks", lambda: clock.get_subscription_count() == 2)
    now = Clock()
    now.clock.sec = 1000
    now.clock.nanosec = 250_000_000

    def measured() -> bool:
        clock.publish(now)
        pipeline.send(random_frame(0), masks)
        age = float(pipeline.figures("gosvae_rx: camera").get("mask age ms p95") or "nan")
        return abs(age - 250) < 1

    # Frames are stamped 1000 s and a few ns; simulated time stands a quarter of a second later.
    pipeline.wait("the age in simulated time", measured)


def test_the_receiver_acknowledges_and_the_transmitter_hears(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    feedback = pipeline.collect(Feedback, "camera/image_raw/gosvae/feedback", "packets")
    packets = pipeline.collect(TokenPacket, "camera/image_raw/gosvae", "packets")
    pipeline.transmitter()
    pipeline.receiver()
    pipeline.send(random_frame(0), masks)
    pipeline.wait("an acknowledgement", lambda: feedback and feedback[-1].has_acknowledged)
    assert feedback[-1].stream == packets[-1].stream
    assert feedback[-1].acknowledged in [packet.sequence for packet in packets]
    assert feedback[-1].coverage == 1.0 and feedback[-1].packets_rejected == 0
    pipeline.wait(
        "the transmitter to report it",
        lambda: pipeline.figures("gosvae_tx: camera").get("receiver lost") == "0",
    )


def test_lifecycle_and_parameters(pipeline: Pipeline, bundle: ModelBundle) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    pipeline.receiver()
    frame = random_frame(4)
    pipeline.send(frame, masks)

    def call(kind: type, name: str, request: object) -> object:
        client = pipeline.node.create_client(kind, name)
        pipeline.wait(name, client.service_is_ready)
        future = client.call_async(request)
        pipeline.wait(f"an answer of {name}", future.done)
        return future.result()

    def set_parameter(name: str, value: object) -> object:
        parameters = [Parameter(name, value=value).to_parameter_msg()]
        request = SetParameters.Request(parameters=parameters)
        return call(SetParameters, "/gosvae_tx/set_parameters", request).results[0]

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return call(ChangeState, "/gosvae_tx/change_state", request).success

    assert "tiny has 1 to 2" in set_parameter("levels", 3).reason
    assert set_parameter("levels", 1).successful
    for name, value in (("intra_period", 5.0), ("slices", 2), ("parity", -1)):
        assert set_parameter(name, value).successful
    assert not set_parameter("parity", -2).successful
    mask = pipeline.send(frame, masks)
    np.testing.assert_array_equal(pixels(mask), expected_mask(bundle, frame, levels=1))
    refused = set_parameter("queue_depth", 3)
    assert not refused.successful and "clean it up first" in refused.reason
    assert not set_parameter("levels", 300).successful
    assert change(Transition.TRANSITION_DEACTIVATE)
    pipeline.wait("no demand", lambda: pipeline.node.count_subscribers("camera/image_raw") == 0)
    assert change(Transition.TRANSITION_CLEANUP)
    assert set_parameter("queue_depth", 3).successful
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    pipeline.send(frame, masks)


@pytest.mark.slow
def test_a_node_that_cannot_configure_says_why_and_fails(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    mistakes = (
        ({"bundle": tmp_path / "nowhere"}, "nowhere does not exist; give a folder"),
        ({"packet_qos": "best"}, "packet_qos: QoS profile 'best': choose one of"),
        ({"cameras": "[front, front]"}, "give different, non-empty names"),
        ({"cameras": "[front camera]"}, "front camera"),
        ({"image_transport": "theora"}, "image_transport 'theora': choose one of"),
        ({"providers": "[tpu]"}, "providers ['tpu']: give one or more of"),
        ({"levels": 3}, "levels 3: tiny has 1 to 2"),
        ({"diagnostics_period": 0.0}, "diagnostics_period"),
        ({"cameras": "front"}, "lists as [front]"),
        ({"lazy": 1}, "lazy"),
        ({"qos_overrides./camera/image_raw.subscription.reliability": "bogus"}, "reliability"),
        ({"qos_overrides./camera/image_raw/gosvae.publisher.depth": "deep"}, "depth"),
    )
    processes = [pipeline.transmitter(**parameters) for parameters, _ in mistakes]
    for process, (_, reason) in zip(processes, mistakes, strict=True):
        pipeline.wait(f"the end of {reason!r}", lambda process=process: not process.running, 60)
        assert process.popen.returncode in (1, 2)
        assert reason in process.output()
        assert "Traceback" not in process.output()


def test_an_unconfigured_node_keeps_telling_why(pipeline: Pipeline, tmp_path: Path) -> None:
    process = pipeline.receiver(autostart=False, bundle=tmp_path / "nowhere")
    pipeline.wait("diagnostics", lambda: "gosvae_rx" in pipeline.status)
    assert pipeline.status["gosvae_rx"].message == "not configured"
    assert pipeline.status["gosvae_rx"].level == b"\x01"
    client = pipeline.node.create_client(ChangeState, "/gosvae_rx/change_state")
    pipeline.wait("the service", client.service_is_ready)
    transition = Transition(id=Transition.TRANSITION_CONFIGURE)
    future = client.call_async(ChangeState.Request(transition=transition))
    pipeline.wait("an answer", future.done)
    assert not future.result().success
    pipeline.wait(
        "the reason on diagnostics",
        lambda: "nowhere does not exist; give a folder" in pipeline.status["gosvae_rx"].message,
    )
    assert process.running


def test_compressed_frames_are_taken_as_well(pipeline: Pipeline, bundle: ModelBundle) -> None:
    masks = pipeline.masks()
    pipeline.transmitter(image_transport="compressed")
    pipeline.receiver()
    frame = random_frame(6)
    publisher = pipeline.publisher(CompressedImage, "camera/image_raw/compressed", "default")
    pipeline.wait("a subscription", lambda: publisher.get_subscription_count() > 0)
    png = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1]
    message = CompressedImage(format="png", data=png.tobytes())
    message.header.frame_id = "camera_frame"

    def answered() -> list[Image]:
        publisher.publish(message)
        return masks

    pipeline.wait("a mask", answered)
    np.testing.assert_array_equal(pixels(masks[0]), expected_mask(bundle, frame))


def test_nodes_stop_cleanly_under_load(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    nodes = [pipeline.transmitter(), pipeline.receiver()]
    frame = random_frame(0, (1080, 1920))
    pipeline.send(frame, masks)
    for _ in range(5):
        pipeline.publish(frame)
    for number, process in zip((signal.SIGINT, signal.SIGTERM), nodes, strict=True):
        process.popen.send_signal(number)
    for process in nodes:
        assert process.popen.wait(DEADLINE) == 0, process.output()
        assert "Traceback" not in process.output()


def test_a_negative_stamp_is_carried_like_any_other(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    pipeline.receiver()
    pipeline.send(random_frame(0), masks)
    stamp = Time(sec=-5, nanosec=7)
    pipeline.publish(random_frame(1), stamp=stamp)
    pipeline.wait("its mask", lambda: any(mask.header.stamp == stamp for mask in masks))
    pipeline.send(random_frame(2), masks)


def test_a_frame_in_slices_waits_for_them_and_conceals_what_is_lost(
    pipeline: Pipeline, bundle: ModelBundle
) -> None:
    masks = pipeline.masks()
    feedback = pipeline.collect(Feedback, "camera/image_raw/gosvae/feedback", "packets")
    pipeline.receiver()
    publisher = pipeline.packet_publisher()
    encoder = Encoder(bundle)
    frame = random_frame(1)
    stamps = itertools.count()

    def slices() -> list[TokenPacket]:
        header = Header(5, next(stamps), "probe")
        return [to_packet_message(part) for part in encoder.encode(frame, header, 1, slices=2)]

    def whole() -> bool:
        for part in slices():
            publisher.publish(part)
        return bool(masks and feedback) and feedback[-1].coverage == 1.0

    pipeline.wait("masks of two slices", whole)
    assert feedback[-1].has_acknowledged
    np.testing.assert_array_equal(pixels(masks[-1]), expected_mask(bundle, frame, levels=1))
    half = slices()[1]
    publisher.publish(half)
    mask = pipeline.wait(
        "the mask of one slice",
        lambda: next((m for m in masks if m.header.stamp == half.header.stamp), None),
    )
    np.testing.assert_array_equal(pixels(mask), expected_mask(bundle, frame, levels=1))
    pipeline.wait("its coverage", lambda: feedback and feedback[-1].coverage == 0.5)
    assert feedback[-1].packets_lost > 0


def test_frames_are_predicted_from_acknowledged_ones_and_intra_in_time(
    pipeline: Pipeline, bundle: ModelBundle
) -> None:
    masks = pipeline.masks()
    packets = pipeline.collect(TokenPacket, "camera/image_raw/gosvae", "packets")
    pipeline.transmitter(intra_period=2.0)
    pipeline.receiver()

    def predicted() -> list[TokenPacket]:
        frame = random_frame(len(masks))
        np.testing.assert_array_equal(
            pixels(pipeline.send(frame, masks)), expected_mask(bundle, frame)
        )
        return [packet for packet in packets if packet.reference]

    pipeline.wait("predicted frames", lambda: len(predicted()) >= 3)
    first = predicted()[0]
    assert first.sequence - first.reference in [packet.sequence for packet in packets]

    def intra_again() -> bool:
        predicted()
        return any(p.reference == 0 and p.sequence > first.sequence for p in packets)

    pipeline.wait("another intra frame", intra_again)
    pipeline.wait(
        "both on diagnostics",
        lambda: (
            int(pipeline.figures("gosvae_tx: camera").get("predicted frames", 0)) >= 3
            and int(pipeline.figures("gosvae_tx: camera").get("intra frames", 0)) >= 2
        ),
    )


@pytest.mark.slow
def test_two_receivers_share_a_stream(pipeline: Pipeline) -> None:
    masks, others = pipeline.masks(), pipeline.masks("other")
    packets = pipeline.collect(TokenPacket, "camera/image_raw/gosvae", "packets")
    pipeline.transmitter(intra_period=60.0)
    pipeline.receiver()
    remapped = ("-r", "__node:=other", "-r", "camera/semantic/mask:=other/semantic/mask")
    other = pipeline.start("gosvae_rx", "receiver", *pipeline.node_arguments(), *remapped)

    def predicted(known: str) -> bool:
        pipeline.send(random_frame(0), masks)
        return (
            pipeline.figures("gosvae_tx: camera").get("receivers") == known
            and packets[-1].reference > 0
        )

    pipeline.wait("a frame predicted for both", lambda: predicted("2"))
    pipeline.send(random_frame(1), others)
    # Neither lacks what the other one has.
    figures = [pipeline.figures(f"{name}: camera") for name in ("gosvae_rx", "other")]
    lacking = [int(each["without reference"]) for each in figures]
    pipeline.send(random_frame(2), masks)
    pipeline.send(random_frame(3), others)
    figures = [pipeline.figures(f"{name}: camera") for name in ("gosvae_rx", "other")]
    assert [int(each["without reference"]) for each in figures] == lacking
    other.kill()
    pipeline.wait("the other one to be forgotten", lambda: predicted("1"))


def test_a_budget_can_change_while_running_and_is_kept(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    packets = pipeline.collect(TokenPacket, "camera/image_raw/gosvae", "packets")
    pipeline.transmitter()
    pipeline.receiver()
    pipeline.send(random_frame(0), masks)
    assert pipeline.wait("figures", lambda: pipeline.figures("gosvae_tx: camera"))
    assert pipeline.figures("gosvae_tx: camera")["max kbit/s"] == "none"
    client = pipeline.node.create_client(SetParameters, "/gosvae_tx/set_parameters")
    pipeline.wait("the service", client.service_is_ready)

    def set_budget(kbit_per_s: float) -> bool:
        parameters = [Parameter("max_kbit_per_s", value=kbit_per_s).to_parameter_msg()]
        future = client.call_async(SetParameters.Request(parameters=parameters))
        pipeline.wait("an answer", future.done)
        return future.result().results[0].successful

    assert not set_budget(-1.0)
    assert set_budget(8.0)
    before = len(packets)
    frames = itertools.count(1)

    def skipping() -> bool:
        pipeline.publish(random_frame(next(frames)))
        return int(pipeline.figures("gosvae_tx: camera")["skipped"]) > 10

    pipeline.wait("skipped frames", skipping)
    figures = pipeline.figures("gosvae_tx: camera")
    assert (figures["max kbit/s"], figures["target kbit/s"]) == ("8.00", "7.20")
    assert len(packets) - before < next(frames)
    # Nothing of a skipped frame counts as lost.
    assert figures["loss"] == "0.00"
    assert set_budget(1.0)
    pipeline.wait(
        "an error",
        lambda: skipping() and "leaves no room" in pipeline.status["gosvae_tx: camera"].message,
    )


def test_a_receiver_that_lacks_the_reference_says_so_and_gets_an_intra_frame(
    pipeline: Pipeline, bundle: ModelBundle
) -> None:
    masks = pipeline.masks()
    feedback = pipeline.collect(Feedback, "camera/image_raw/gosvae/feedback", "packets")
    pipeline.receiver()
    publisher = pipeline.packet_publisher()
    encoder = Encoder(bundle)
    encoder.encode(random_frame(0))
    encoder.acknowledge(0)

    def send(frame: np.ndarray) -> None:
        for packet in encoder.encode(frame, Header(3, 4, "probe")):
            publisher.publish(to_packet_message(packet))

    def requested() -> bool:
        send(random_frame(1))
        return bool(feedback) and feedback[-1].request_intra

    pipeline.wait("the request", requested)
    assert not feedback[-1].has_acknowledged and masks == []
    encoder.acknowledge(None)

    def answered() -> bool:
        send(random_frame(2))
        return bool(masks) and feedback[-1].has_acknowledged and not feedback[-1].request_intra

    pipeline.wait("a mask, and the request withdrawn", answered)
    pipeline.wait(
        "the count on diagnostics",
        lambda: int(pipeline.figures("gosvae_rx: camera").get("without reference", 0)) > 0,
    )


def test_recorded_packets_can_be_replayed_in_a_loop(
    pipeline: Pipeline, bundle: ModelBundle
) -> None:
    masks = pipeline.masks()
    pipeline.receiver()
    publisher = pipeline.packet_publisher()
    encoder = Encoder(bundle)
    recorded = [
        to_packet_message(encoder.encode(random_frame(seed), Header(5, seed, "probe"), 1)[0])
        for seed in range(4)
    ]

    def played(times: int) -> bool:
        for message in recorded:
            publisher.publish(message)
            pipeline.executor.spin_once(timeout_sec=0.1)
        return sum(mask.header.stamp.nanosec == 3 for mask in masks) >= times

    pipeline.wait("three rounds", lambda: played(3))


def test_the_receiver_can_be_stopped_and_started_by_its_lifecycle(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    receiver = pipeline.receiver()
    client = pipeline.node.create_client(ChangeState, "/gosvae_rx/change_state")
    pipeline.wait("the service", client.service_is_ready)
    for _ in range(2):
        pipeline.send(random_frame(0), masks)
        for transition in (
            Transition.TRANSITION_DEACTIVATE,
            Transition.TRANSITION_CLEANUP,
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_ACTIVATE,
        ):
            request = ChangeState.Request(transition=Transition(id=transition))
            future = client.call_async(request)
            pipeline.wait("an answer", future.done)
            assert future.result().success
    pipeline.send(random_frame(1), masks)
    topic = "/camera/semantic/mask"
    pipeline.wait("one publisher", lambda: pipeline.node.count_publishers(topic) == 1)
    assert receiver.stop() == 0


def test_qos_can_be_overridden_by_parameter(pipeline: Pipeline) -> None:
    name = "qos_overrides./camera/semantic/mask.publisher.reliability"
    pipeline.receiver(**{name: "reliable"})
    topic = "/camera/semantic/mask"
    pipeline.wait("the mask's publisher", lambda: pipeline.node.count_publishers(topic) == 1)
    (info,) = pipeline.node.get_publishers_info_by_topic(topic)
    assert info.qos_profile.reliability.name == "RELIABLE"


def test_messages_made_by_others_need_no_frame_id(pipeline: Pipeline) -> None:
    masks = pipeline.masks()
    pipeline.transmitter()
    pipeline.receiver()
    pipeline.send(random_frame(0), masks)
    stamp = pipeline.publish(random_frame(1), frame_id="")
    mask = pipeline.wait(
        "its mask", lambda: next((m for m in masks if m.header.stamp == stamp), None)
    )
    assert mask.header == HeaderMessage(stamp=stamp)


@pytest.mark.parametrize("transport", ["raw", "compressed"])
@pytest.mark.parametrize("topic", ["/image_raw", "/rig/front/image_rect_color", "image"])
def test_any_topic_can_be_a_cameras_frames(
    pipeline: Pipeline, bundle: ModelBundle, topic: str, transport: str
) -> None:
    if transport == "compressed":
        topic += "/compressed"
    masks, overlays = pipeline.masks(), pipeline.masks(topic="overlay")
    pipeline.transmitter(image_topics=f"[{topic}]")
    pipeline.receiver(image_topics=f"[{topic}]")
    frame = random_frame(6)
    if transport == "compressed":
        png = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1]
        message = CompressedImage(format="png", data=png.tobytes())
    else:
        message = to_image(frame, "rgb8", HeaderMessage())
    message.header = HeaderMessage(stamp=Time(sec=1000), frame_id="optical")
    publisher = pipeline.publisher(type(message), topic, "default")

    def answered() -> list[Image]:
        publisher.publish(message)
        return masks and overlays

    pipeline.wait("mask and overlay", answered)
    np.testing.assert_array_equal(pixels(masks[0]), expected_mask(bundle, frame))
    assert overlays[0].header == message.header
    assert pipeline.node.count_publishers("camera/image_raw/gosvae") == 1


def test_one_camera_of_two_has_a_topic_of_its_own(pipeline: Pipeline) -> None:
    cameras = ["front", "rear"]
    masks = {camera: pipeline.masks(camera) for camera in cameras}
    pipeline.transmitter(cameras=str(cameras), image_topics="['', /rear_image]")
    pipeline.receiver(cameras=str(cameras))
    pipeline.send(random_frame(0), masks["front"], "front")
    publisher = pipeline.publisher(Image, "/rear_image", "default")
    message = to_image(random_frame(1), "rgb8", HeaderMessage(frame_id="rear_frame"))

    def answered() -> list[Image]:
        publisher.publish(message)
        return masks["rear"]

    assert pipeline.wait("a mask", answered)[0].header.frame_id == "rear_frame"
    assert pipeline.node.count_subscribers("rear/image_raw") == 0


def test_image_topics_must_be_one_per_camera(pipeline: Pipeline) -> None:
    process = pipeline.transmitter(cameras="[a, b]", image_topics="[/image]")
    pipeline.wait("its end", lambda: not process.running)
    assert process.popen.returncode == 1
    assert "image_topics has 1 names for 2 cameras (a, b): give one per camera" in process.output()


def test_a_cameras_frames_can_be_remapped(pipeline: Pipeline, bundle: ModelBundle) -> None:
    masks = pipeline.masks()
    remapping = ("-r", "camera/image_raw:=/usb_cam/image_raw")
    pipeline.start("gosvae_tx", "transmitter", *pipeline.node_arguments(), *remapping)
    pipeline.receiver()
    frame = random_frame(2)
    publisher = pipeline.publisher(Image, "/usb_cam/image_raw", "sensor_data")
    message = to_image(frame, "rgb8", HeaderMessage(frame_id="usb"))

    def answered() -> list[Image]:
        publisher.publish(message)
        return masks

    pipeline.wait("a mask", answered)
    np.testing.assert_array_equal(pixels(masks[0]), expected_mask(bundle, frame))


def test_integers_are_taken_for_floating_point_parameters(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("/**:\n  ros__parameters:\n    max_latency_ms: 50\n    intra_period: 2\n")
    arguments = (*pipeline.node_arguments(max_kbit_per_s=64), "--params-file", str(file))
    pipeline.start("gosvae_tx", "transmitter", *arguments)
    pipeline.wait(
        "the budget", lambda: pipeline.figures("gosvae_tx: camera").get("max kbit/s") == "64.00"
    )
    client = pipeline.node.create_client(SetParameters, "/gosvae_tx/set_parameters")
    pipeline.wait("the service", client.service_is_ready)
    values = {"max_kbit_per_s": 32, "levels": 1.0, "lazy": 0, "intra_period": "1"}
    parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    future = client.call_async(SetParameters.Request(parameters=parameters))
    pipeline.wait("an answer", future.done)
    assert [each.successful for each in future.result().results] == [True, False, False, False]
    pipeline.wait(
        "the budget", lambda: pipeline.figures("gosvae_tx: camera").get("max kbit/s") == "32.00"
    )


def test_nodes_find_the_bundle_that_ships(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOSVAE_BUNDLE", raising=False)
    for side, executable in (("tx", "transmitter"), ("rx", "receiver")):
        pipeline.start(f"gosvae_{side}", executable)
        name = f"gosvae_{side}: camera"
        pipeline.wait(name, lambda name=name: pipeline.figures(name).get("bundle"))
        assert pipeline.figures(name)["bundle"] == BUNDLE


def handles_sigterm(pid: int) -> bool:
    """Whether a process has a handler of its own; Python has one for SIGINT from its start."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("executable", ["transmitter", "receiver"])
def test_a_signal_while_a_node_starts_ends_it(pipeline: Pipeline, executable: str) -> None:
    start = getattr(pipeline, executable)
    name = {"transmitter": "gosvae_tx", "receiver": "gosvae_rx"}[executable]
    for sent_at in (
        lambda pid: handles_sigterm(pid),
        lambda pid: "rclpy" in Path(f"/proc/{pid}/maps").read_text(),
        lambda pid: "onnxruntime" in Path(f"/proc/{pid}/maps").read_text(),
        lambda _: name in pipeline.node.get_node_names(),
    ):
        process = start()
        pipeline.wait("the moment", lambda: sent_at(process.popen.pid))  # noqa: B023
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(DEADLINE) == 0, process.output()
        assert "Traceback" not in process.output()
        pipeline.wait("its end", lambda: name not in pipeline.node.get_node_names())


def test_both_nodes_tell_which_others_they_are_matched_with(pipeline: Pipeline) -> None:
    pipeline.transmitter()
    pipeline.receiver()
    tx, rx = "gosvae_tx: camera", "gosvae_rx: camera"

    def figures(name: str, *keys: str) -> list[str | None]:
        return [pipeline.figures(name).get(key) for key in keys]

    sent, received = ("camera publishers", "listeners"), ("transmitters", "listeners of semantic")
    pipeline.wait("each other", lambda: figures(tx, *sent) == ["0", "1"])
    pipeline.wait("each other", lambda: figures(rx, *received) == ["1", "0"])
    publisher = pipeline.publisher(Image, "camera/image_raw", "default")
    pipeline.masks()
    pipeline.wait("the camera", lambda: figures(tx, *sent) == ["1", "1"])
    pipeline.wait("the masks' listener", lambda: figures(rx, *received) == ["1", "1"])
    assert publisher.get_subscription_count() == 1
