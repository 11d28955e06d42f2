"""Messages carry what the codec has, byte for byte, and are as small as it thinks."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from gosvae_codec import CAMVID, Header, LabelError, LabelSpace, ModelBundle, Packet
from gosvae_codec.packets import (
    MAX_SERIALIZED_BYTES,
    REFERENCES,
    VERSION,
    serialized_overhead,
)
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.messages import (
    from_header_message,
    from_label_info,
    from_packet_message,
    to_header_message,
    to_image,
    to_packet_message,
    to_vision_label_info,
)
from gosvae_msgs.msg import LabelInfo, TokenPacket

U8, U16, U32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
HEADERS = st.builds(Header, st.integers(0, (1 << 31) - 1), st.integers(0, 999_999_999), TEXT)
PACKETS = st.builds(
    Packet,
    header=HEADERS,
    fingerprint=st.integers(0, (1 << 64) - 1),
    stream=U32,
    sequence=U32,
    source_width=U16,
    source_height=U16,
    levels=U8,
    reference=U8,
    slice_index=U8,
    slice_count=U8,
    payload=st.binary(max_size=1200),
    version=U8,
    crc32c=U32,
)


@settings(deadline=None)  # the first example loads the type support
@given(packet=PACKETS)
def test_packets_cross_the_wire_unchanged_and_as_small_as_computed(packet: Packet) -> None:
    data = serialize_message(to_packet_message(packet))
    assert from_packet_message(deserialize_message(data, TokenPacket)) == packet
    # Fast CDR may pad the end to four bytes.
    assert 0 <= len(data) - packet.serialized_size() < 4


@given(packet=PACKETS)
def test_packets_need_no_ros_for_the_bytes_that_dds_sends(packet: Packet) -> None:
    data = serialize_message(to_packet_message(packet))
    own = packet.to_bytes()
    assert len(own) == packet.serialized_size()
    # Fast CDR leaves what it finds in memory between fields, and may pad the end.
    assert all(theirs == ours or ours == 0 for theirs, ours in zip(data, own, strict=False))
    assert Packet.from_bytes(data) == packet == Packet.from_bytes(own)
    assert from_packet_message(deserialize_message(own, TokenPacket)) == packet


@given(header=HEADERS)
def test_headers_cross_unchanged(header: Header) -> None:
    assert from_header_message(to_header_message(header)) == header


def test_labels_are_read_back_from_their_message() -> None:
    space = LabelSpace("few", CAMVID.labels[:3])
    ids, colors = space.ids, space.palette[space.ids].reshape(-1)
    names = [label.name for label in space.labels]
    message = LabelInfo(bundle="few", ids=ids, names=names, colors=colors)
    assert from_label_info(deserialize_message(serialize_message(message), LabelInfo)) == space
    with pytest.raises(LabelError):
        from_label_info(LabelInfo())


def test_constants_are_those_of_the_message() -> None:
    assert VERSION == TokenPacket.VERSION
    assert MAX_SERIALIZED_BYTES == TokenPacket.MAX_SERIALIZED_BYTES
    assert REFERENCES == TokenPacket.MAX_REFERENCE


def test_an_empty_packet_is_all_overhead() -> None:
    data = serialize_message(TokenPacket())
    assert len(data) == serialized_overhead("")


def test_images_hold_the_pixels_in_rows() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    message = to_image(pixels, "rgb8", to_header_message(Header(1, 2, "camera")))
    assert (message.height, message.width, message.step) == (2, 3, 9)
    assert bytes(message.data) == pixels.tobytes()
    assert (message.header.stamp.nanosec, message.header.frame_id) == (2, "camera")
    mask = to_image(pixels[..., 0], "mono8", message.header)
    assert bytes(mask.data) == pixels[..., 0].tobytes() and mask.step == 3


@pytest.mark.parametrize(
    ("shape", "dtype", "encoding"),
    [
        ((2, 3), "uint8", "rgb8"),
        ((2, 3, 3), "uint8", "mono8"),
        ((2, 3), "uint8", "16UC1"),
        ((2, 3), "float32", "mono8"),
    ],
)
def test_pixels_of_another_shape_are_refused(
    shape: tuple[int, ...], dtype: str, encoding: str
) -> None:
    with pytest.raises(ValueError, match=encoding):
        to_image(np.zeros(shape, dtype), encoding, to_header_message(Header()))


def test_the_committed_packet_reads_as_documented() -> None:
    """Pins docs/wire-format.md: if this fails, raise the version instead of changing the test."""
    fixture = Path(__file__).with_name("wire-format-v2.hex")
    message = deserialize_message(bytes.fromhex(fixture.read_text()), TokenPacket)
    packet = from_packet_message(message)
    assert packet == Packet(
        header=Header(1_700_000_000, 123_456_789, "front_camera"),
        fingerprint=0x0123456789ABCDEF,
        stream=0x89ABCDEF,
        sequence=41,
        source_width=1920,
        source_height=1080,
        levels=2,
        reference=3,
        slice_index=2,
        slice_count=4,
        payload=bytes(range(34)),
        version=2,
        crc32c=0x275E0F14,
    )
    assert packet.checksum == packet.crc32c


@dataclass
class VisionClass:
    """``vision_msgs/VisionClass`` of release 4."""

    class_id: int = 0
    class_name: str = ""


@dataclass
class VisionLabelInfo:
    """``vision_msgs/LabelInfo`` of release 4."""

    header: Any = None
    class_map: list[VisionClass] = field(default_factory=list)
    threshold: float = 0.0


def test_labels_for_vision_msgs(tmp_path: Path) -> None:
    bundle = ModelBundle.load(write_tiny_bundle(tmp_path / "tiny"))
    messages = SimpleNamespace(LabelInfo=VisionLabelInfo, VisionClass=VisionClass)
    info = to_vision_label_info(bundle.labels, Time(sec=7), messages)
    assert info.header.stamp.sec == 7
    assert info.class_map == [VisionClass(each.id, each.name) for each in bundle.labels.labels]
