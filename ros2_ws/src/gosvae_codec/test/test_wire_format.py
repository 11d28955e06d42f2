"""A decoder written from docs/wire-format.md alone, in plain Python, for the committed vectors."""

import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gosvae_codec import Header, Packet, PacketError
from gosvae_codec.testing import PACKET

VECTORS = Path(__file__).with_name("vectors")
MESSAGE = Path(__file__).parents[2] / "gosvae_common" / "test" / "wire-format-v2.hex"

Grid = list[list[list[int]]]


class RangeDecoder:
    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.state, self.used = int.from_bytes(payload[:4], "big"), 4

    def read(self, q: int) -> int:
        low = self.state % 65536
        bit = low < q
        share, below = (q, 0) if bit else (65536 - q, q)
        self.state = share * (self.state // 65536) + low - below
        while self.state < 1 << 23:
            self.state = 256 * self.state + self.payload[self.used]
            self.used += 1
        return int(bit)


def decode(
    tables: dict[str, np.ndarray],
    payload: bytes,
    sent: int,
    codes: int,
    first: int,
    rows: int,
    reference: Grid | None,
) -> Grid:
    columns = len(tables["column_0"])
    depth = max(1, math.ceil(math.log2(codes)))
    bits = RangeDecoder(payload)
    band: dict[tuple[int, int, int], int] = {}

    def past(level: int, y: int, x: int) -> int | None:
        inside = reference is not None and level < len(reference)
        if not inside or not (0 <= y < len(reference[level]) and 0 <= x < columns):
            return None
        return reference[level][y][x]

    def probabilities(level: int, y: int, x: int) -> Callable[[int], int]:
        t = {k.rsplit("_", 1)[0]: v for k, v in tables.items() if k.endswith(f"_{level}")}
        total = [int(a) + int(b) for a, b in zip(t["row"][y], t["column"][x], strict=True)]
        plain = agreements = 0
        for kind, other, down, right in t["contexts"].tolist():
            own = band.get((other, y + down, x + right))
            before = past(other, y + down, x + right)
            if kind == 2:
                value = 0 if own is None or before is None else 1 + (own == before)
                added = t["agreement"][agreements][value].tolist()
                agreements += 1
            else:
                code = own if kind == 0 else before
                if code is None:
                    added = t["absent"][plain].tolist()
                else:
                    vector = t["embedding"][other, code].tolist()
                    matrix = t["mixing"][plain].tolist()
                    sums = [sum(v * m[d] for v, m in zip(vector, matrix, strict=True))
                            for d in range(len(total))]  # fmt: skip
                    added = [min(max((s + 16) >> 5, -32768), 32767) for s in sums]
                plain += 1
            total = [a + b for a, b in zip(total, added, strict=True)]
        u = [min(max(s, 0), 32767) for s in total]
        v = []
        for d, bias in enumerate(t["hidden_bias"].tolist()):
            s = sum(a * int(w) for a, w in zip(u, t["hidden"][:, d], strict=True)) + bias
            v.append(min(max(s >> 6, 0), 32767))

        def probability(k: int) -> int:
            weights = t["node"][k].tolist()
            z = (sum(a * w for a, w in zip(v, weights, strict=True)) + int(t["node_bias"][k])) >> 6
            return int(tables["sigmoid"][min(max(z + 768, 0), 1535)])

        return probability

    for level in range(sent):
        code_of = np.argsort(tables[f"leaf_{level}"]).tolist()
        for y in range(first, first + rows):
            for x in range(columns):
                probability = probabilities(level, y, x)
                before = past(level, y, x)
                if before is not None and bits.read(probability(0)):
                    band[level, y, x] = before
                    continue
                node = 1
                for _ in range(depth):
                    node = 2 * node + bits.read(probability(node))
                band[level, y, x] = code_of[node - (1 << depth)]
    assert bits.state == 1 << 23 and bits.used == len(payload)
    return [
        [[band[level, y, x] for x in range(columns)] for y in range(first, first + rows)]
        for level in range(sent)
    ]


@pytest.mark.parametrize("name", ["intra", "predicted", "band"])
def test_a_second_decoder_reads_the_committed_vectors(name: str) -> None:
    vector = json.loads((VECTORS / f"{name}.json").read_text())
    tables = dict(np.load(VECTORS / "prior.npz"))
    sent, rows = len(vector["tokens"]), len(vector["tokens"][0])
    payload = bytes.fromhex(vector["payload"])
    first, reference = vector["first_row"], vector["reference"]
    found = decode(tables, payload, sent, vector["codes"], first, rows, reference)
    assert found == vector["tokens"]


def test_the_committed_message_is_written_and_read() -> None:
    data = bytes.fromhex(MESSAGE.read_text())
    assert Packet.from_bytes(data) == PACKET
    assert PACKET.to_bytes() == data
    assert len(data) == PACKET.serialized_size()
    for padding in range(4):
        assert Packet.from_bytes(memoryview(data + bytes(padding))) == PACKET


@given(
    frame_id=st.text(max_size=60),
    payload=st.binary(max_size=1400),
    order=st.sampled_from("<>"),
    sec=st.integers(-(1 << 31), (1 << 31) - 1),
)
def test_messages_of_either_byte_order_are_read(
    frame_id: str, payload: bytes, order: str, sec: int
) -> None:
    frame_id = frame_id.encode("utf-8", "ignore").decode()
    header = Header(sec, 7, frame_id)
    packet = replace(PACKET, header=header, payload=payload).with_checksum()
    data = packet.to_bytes()
    assert len(data) == packet.serialized_size()
    if order == ">":
        name = frame_id.encode() + b"\0"
        place = 12 + len(name)
        place += -place % 8
        layout = f"iII{len(name)}s{place - 12 - len(name)}x QIIIHHBBBBB {-(place + 29) % 4}x I"
        fields = struct.unpack_from("<" + layout, data, 4)
        data = b"\0\0\0\0" + struct.pack(">" + layout, *fields) + payload
    assert Packet.from_bytes(data) == packet


@given(data=st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: b"\0\1\0\0" + tail))
def test_any_bytes_are_read_or_explained(data: bytes) -> None:
    try:
        packet = Packet.from_bytes(data)
    except PacketError as error:
        assert f"{len(data)} bytes are no TokenPacket" in str(error)
    else:
        assert packet.to_bytes()[4:] == data[4 : packet.serialized_size()] or data[:2] == b"\0\0"


def test_messages_that_were_cut_are_refused() -> None:
    data = PACKET.to_bytes()
    for length in range(len(data)):
        with pytest.raises(PacketError, match=f"{length} bytes are no TokenPacket"):
            Packet.from_bytes(data[:length])
    with pytest.raises(PacketError, match="no TokenPacket: payload of 34 bytes"):
        Packet.from_bytes(data + bytes(4))


@pytest.mark.parametrize("header", [Header(1 << 31), Header(1.5), Header(0, -1)])
def test_stamps_that_do_not_fit_are_explained(header: Header) -> None:
    with pytest.raises(PacketError, match="give int32 seconds and uint32 nanoseconds"):
        replace(PACKET, header=header).with_checksum()
