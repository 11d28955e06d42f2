"""Time each stage of a frame in the two nodes: ``python -m gosvae_bench.stages``.

Calls the functions of the nodes in their order, and publishes over DDS without subscribers; then
the same for a vehicle and an edge that use JPEG. Times are medians of CPU times over frames, so
that other load of the machine hardly counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import Decoder, Encoder, Expert, ModelBundle
from gosvae_codec.draft import write_text
from gosvae_codec.images import resize_frame, to_rgb
from gosvae_codec.masks import colorize, resize_mask, upsampled_argmax
from gosvae_codec.packets import Packet
from gosvae_codec.slices import band_of, slice_frame
from gosvae_common.messages import (
    from_header_message,
    from_packet_message,
    to_header_message,
    to_image,
    to_packet_message,
)
from gosvae_common.qos import qos_profile
from gosvae_msgs.msg import TokenPacket
from gosvae_tools.drives import open_source

from .files import BUNDLE
from .tables import markdown_table

SIZES = ((360, 480), (512, 1024), (1024, 2048))
FRAMES = 40
WARM_UP = 5
NETWORKS = ("encoder network", "mask network", "expert network")
JPEG_QUALITY = 80
"""Default of image_transport."""


class Clock:
    """Collects the CPU time of stages."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as one run of a stage."""
        begin = time.thread_time()
        yield
        self.taken[name].append((time.thread_time() - begin) * 1e3)

    def medians(self) -> dict[str, float]:
        """Return the median of each stage in ms, without the first WARM_UP runs."""
        return {k: round(float(np.median(v[WARM_UP:])), 3) for k, v in self.taken.items()}


def measure(bundle: ModelBundle, frames: list[np.ndarray], node: Any) -> dict[str, float]:
    """Return the milliseconds of each stage for frames, uint8 (H, W, 3) RGB of one size.

    All levels are sent, each frame predicted from the one before.
    """
    clock = Clock()
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    _, head = decoder.networks.heads[bundle.semantic.name]
    packets = node.create_publisher(TokenPacket, "packets", qos_profile("packets"))
    masks = node.create_publisher(Image, "mask", qos_profile("sensor_data"))
    colors = node.create_publisher(Image, "color", qos_profile("sensor_data"))
    labels, reference, guess = bundle.labels, None, 1
    for index in range(FRAMES + WARM_UP):
        message = to_image(frames[index % len(frames)], "rgb8", HeaderMessage(frame_id="camera"))
        with clock.stage("convert"):
            frame = to_rgb(message)
        with clock.stage("resize"):
            pixels = resize_frame(frame, bundle.input_size)
        kept = np.full((bundle.levels, *bundle.grid), bundle.codes, np.int32)
        if reference is not None:
            kept[:] = reference
        with clock.stage("encoder network"):
            tokens = np.asarray(encoder.session.run(pixels[None], kept[None])[0], np.uint16)
        template = Packet(
            header=from_header_message(message.header),
            fingerprint=bundle.fingerprint,
            stream=1,
            sequence=index,
            source_width=frame.shape[1],
            source_height=frame.shape[0],
            levels=bundle.levels,
            reference=int(reference is not None),
            slice_index=0,
            slice_count=0,
            payload=b"",
        )
        with clock.stage("entropy coding and packing"):
            sent = slice_frame(tokens, bundle.coder, template, reference, guess=guess)
        with clock.stage("publish packets"):
            messages = [to_packet_message(packet) for packet in sent]
            for each in messages:
                packets.publish(each)
        with clock.stage("unpack and check"):
            received = [from_packet_message(each) for each in messages]
            for each in received:
                each.check(bundle.fingerprint, bundle.grid, bundle.levels)
        with clock.stage("entropy decoding"):
            for each in received:
                first, end = band_of(each.slice_index, each.slice_count, bundle.grid[0])
                bundle.coder.decode(each.payload, bundle.levels, first, end - first, reference)
        with clock.stage("mask network"):
            features = decoder.networks.features.compute(tokens[None].astype(np.int32))
            logits = head.run(*features)[0]
        with clock.stage("classify"):
            small = upsampled_argmax(logits, bundle.input_size, labels)
        with clock.stage("resize mask"):
            mask = resize_mask(small, frame.shape[:2])
        header = to_header_message(received[0].header)
        with clock.stage("publish mask"):
            masks.publish(to_image(mask, "mono8", header))
        with clock.stage("colour"):
            color = colorize(mask, labels)
        with clock.stage("publish colour"):
            colors.publish(to_image(color, "rgb8", header))
        reference, guess = tokens, len(sent)
    for each in (packets, masks, colors):
        node.destroy_publisher(each)
    return clock.medians()


def encode_jpeg(frame: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W, 3) RGB as a JPEG file, uint8 (bytes,)."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1]


def to_compressed(data: np.ndarray, header: HeaderMessage) -> CompressedImage:
    """Return a JPEG file as the message that image_transport would send."""
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data.frombytes(data.tobytes())
    return message


def measure_references(bundle: ModelBundle, frames: list[np.ndarray]) -> dict[str, float]:
    """Return the milliseconds of the stages of vehicle and edge with JPEG."""
    clock = Clock()
    expert = Expert(bundle)
    for index in range(FRAMES + WARM_UP):
        with clock.stage("JPEG encoding"):
            data = encode_jpeg(frames[index % len(frames)])
        message = to_compressed(data, HeaderMessage())
        with clock.stage("JPEG decoding"):
            frame = to_rgb(message)
        with clock.stage("resize"):
            pixels = resize_frame(frame, bundle.input_size)
        with clock.stage("expert network"):
            logits = expert.session.run(pixels[None])[0]
        with clock.stage("classify"):
            small = upsampled_argmax(logits, bundle.input_size, bundle.labels)
        with clock.stage("resize mask"):
            resize_mask(small, frame.shape[:2])
    return clock.medians()


def main() -> None:
    """Print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLE)
    parser.add_argument("--data", type=Path, default=Path("drives/street.mcap"), help="a drive")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rclpy.init()
    node = rclpy.create_node("stages")
    bundle = ModelBundle.load(options.bundle)
    drive = [frame.image for frame in islice(open_source(options.data).frames(), 20)]
    ours, theirs = {}, {}
    # In a thread beside the main one, as in the nodes: malloc deals with the two differently.
    with ThreadPoolExecutor(1) as thread:
        for size in SIZES:
            frames = [resize_frame(frame, size) for frame in drive]
            name = f"{size[1]}x{size[0]}"
            ours[name] = thread.submit(measure, bundle, frames, node).result()
            theirs[name] = thread.submit(measure_references, bundle, frames).result()
    for columns in (ours, theirs):
        rows = [
            (stage, *(f"{each[stage]:.2f}" for each in columns.values()))
            for stage in next(iter(columns.values()))
        ]
        beside = [sum(v for k, v in each.items() if k not in NETWORKS) for each in columns.values()]
        rows.append(("all but the networks", *(f"{each:.2f}" for each in beside)))
        print(f"\n{markdown_table(['stage, ms', *columns], rows)}")
    if options.json:
        results = {"bundle": bundle.name, "stages": ours, "references": theirs}
        write_text(options.json, json.dumps(results, indent=1) + "\n")
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
