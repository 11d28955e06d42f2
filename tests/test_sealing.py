"""Sealed packets and feedback between real nodes over DDS."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from harness import Pipeline, pixels, random_frame

from gosvae_codec import Decoder, Encoder, Header, ModelBundle
from gosvae_codec.keys import generate
from gosvae_codec.packets import MAX_SERIALIZED_BYTES, SEALED_VERSION
from gosvae_common.messages import to_packet_message
from gosvae_msgs.msg import Feedback, TokenPacket

TX, RX = "gosvae_tx: camera", "gosvae_rx: camera"


def write_keys(path: Path, *lines: str) -> Path:
    # Whole or not at all, and newer than before however coarse the file system's clock is.
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.chmod(0o600)
    os.utime(new, ns=(time.time_ns(), time.time_ns()))
    new.replace(path)
    return path


def told(pipeline: Pipeline, side: str) -> str:
    return pipeline.status[side].message if side in pipeline.status else ""


def test_sealed_packets_give_masks_and_forged_ones_none(
    pipeline: Pipeline, bundle: ModelBundle, tmp_path: Path
) -> None:
    key_file = write_keys(tmp_path / "vehicle.key", generate()[1])
    masks = pipeline.masks()
    packets = pipeline.collect(TokenPacket, "camera/image_raw/gosvae", "packets")
    said = pipeline.collect(Feedback, "camera/image_raw/gosvae/feedback", "packets")
    pipeline.transmitter(key_file=key_file)
    pipeline.receiver(key_file=key_file)
    frame = random_frame(1)
    mask = pipeline.send(frame, masks)
    expected = Decoder(bundle).decode(Encoder(bundle).encode(frame)).mask
    np.testing.assert_array_equal(pixels(mask), expected)
    # Predicted frames need feedback that opens.
    pipeline.wait(
        "a predicted frame",
        lambda: pipeline.send(random_frame(1), masks) and packets[-1].reference > 0,
    )
    assert {each.version for each in packets} == {SEALED_VERSION}
    assert all(len(each.seal) == 28 for each in said)
    recorded = packets[0]

    # Forged without the key, with the vehicle's own stream; and what was recorded, once more.
    publisher = pipeline.packet_publisher()
    encoder = Encoder(bundle)
    encoder.stream = recorded.stream
    (forged,) = encoder.encode(random_frame(2), Header(99, 0, "forged"), levels=1)
    count = len(masks)

    def refused() -> bool:
        publisher.publish(to_packet_message(forged))
        return "packets are not sealed" in told(pipeline, RX)

    pipeline.wait("the receiver to tell", refused)

    def replayed() -> bool:
        publisher.publish(recorded)
        return "replayed" in told(pipeline, RX)

    pipeline.wait("the receiver to tell of the replay", replayed)
    assert pipeline.status[RX].level == b"\x02"
    assert int(pipeline.figures(RX)["not sealed"]) > 1
    assert all(each.header.frame_id != "forged" for each in masks) and len(masks) == count
    # Forged feedback does not ask for intra frames.
    feedback = pipeline.publisher(Feedback, "camera/image_raw/gosvae/feedback", "packets")
    pipeline.wait("the transmitter", lambda: feedback.get_subscription_count() > 0)

    def ignored() -> bool:
        feedback.publish(Feedback(stream=recorded.stream, receiver=9, request_intra=True))
        return "feedback is not sealed" in told(pipeline, TX)

    pipeline.wait("the transmitter to tell", ignored)
    assert pipeline.figures(TX)["receivers"] == "1"
    assert pipeline.send(random_frame(3), masks)


def test_the_wrong_key_has_a_line_on_both_sides(pipeline: Pipeline, tmp_path: Path) -> None:
    (ours, mine), (theirs, other) = generate(), generate()
    masks = pipeline.masks()
    transmitter = pipeline.transmitter(key_file=write_keys(tmp_path / "a.key", mine))
    receiver = pipeline.receiver(key_file=write_keys(tmp_path / "b.key", other))
    ids = f"{ours.id:08x}", f"{theirs.id:08x}"

    def explained() -> bool:
        pipeline.publish(random_frame(0))
        return f"packets sealed with key {ids[0]}, but key file" in told(
            pipeline, RX
        ) and f"feedback sealed with key {ids[1]}, but key file" in told(pipeline, TX)

    pipeline.wait("both diagnostics to tell", explained)
    assert masks == [] and transmitter.running and receiver.running
    for process, key in ((transmitter, mine), (receiver, other)):
        assert key not in process.output()


def test_a_key_on_one_side_only_is_told_on_both(pipeline: Pipeline, tmp_path: Path) -> None:
    masks = pipeline.masks()
    key_file = write_keys(tmp_path / "vehicle.key", generate()[1])
    pipeline.transmitter()
    receiver = pipeline.receiver(key_file=key_file)

    def explained() -> bool:
        pipeline.publish(random_frame(0))
        return "are not sealed" in told(pipeline, RX) and "expects sealed" in told(pipeline, TX)

    pipeline.wait("both diagnostics to tell", explained)
    receiver.stop()
    transmitter = pipeline.processes[0]
    transmitter.stop()
    pipeline.transmitter(key_file=key_file)
    pipeline.receiver()

    def explained_again() -> bool:
        pipeline.publish(random_frame(0))
        return "set key_file" in told(pipeline, RX) and "is not sealed" in told(pipeline, TX)

    pipeline.wait("both diagnostics to tell", explained_again)
    assert masks == []


def test_a_key_is_replaced_while_masks_go_on(pipeline: Pipeline, tmp_path: Path) -> None:
    (_, old), (_, new) = generate(), generate()
    vehicle = write_keys(tmp_path / "vehicle.key", old)
    edge = write_keys(tmp_path / "edge.key", old)
    masks = pipeline.masks()
    transmitter = pipeline.transmitter(key_file=vehicle)
    receiver = pipeline.receiver(key_file=edge)
    pipeline.send(random_frame(0), masks)
    for process, path, lines in (
        (receiver, edge, (old, new)),
        (transmitter, vehicle, (new, old)),
        (transmitter, vehicle, (new,)),
        (receiver, edge, (new,)),
    ):
        before = process.output().count("holds keys")
        write_keys(path, *lines)

        def read(process=process, before=before) -> bool:
            return process.output().count("holds keys") > before

        pipeline.wait("the key file to be read again", read)
        pipeline.send(random_frame(1), masks)
    assert int(pipeline.figures(RX)["not sealed"]) == 0
    assert int(pipeline.figures(TX)["feedback not sealed"]) == 0
    write_keys(edge, "nonsense")
    pipeline.wait(
        "the node to tell",
        lambda: "line 1: not 64 hex" in told(pipeline, "gosvae_rx"),
    )
    pipeline.send(random_frame(2), masks)


def test_a_bad_key_file_is_one_line(pipeline: Pipeline, tmp_path: Path) -> None:
    process = pipeline.receiver(key_file=tmp_path / "missing.key")
    pipeline.wait("the reason", lambda: "cannot configure: key file" in process.output())
    assert "missing.key cannot be read" in process.output()


def test_sealed_packets_stay_within_a_datagram(pipeline: Pipeline, tmp_path: Path) -> None:
    from rclpy.serialization import serialize_message

    key_file = write_keys(tmp_path / "vehicle.key", generate()[1])
    masks = pipeline.masks()
    packets = pipeline.collect(TokenPacket, "camera/image_raw/gosvae", "packets")
    pipeline.transmitter(key_file=key_file, parity=1, slices=2)
    pipeline.receiver(key_file=key_file)
    for seed in range(3):
        pipeline.send(random_frame(seed), masks)
    assert max(len(serialize_message(each)) for each in packets) <= MAX_SERIALIZED_BYTES
