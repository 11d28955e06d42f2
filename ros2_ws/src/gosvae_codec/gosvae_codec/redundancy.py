"""Parity packets, by Reed-Solomon coding (zfec; Rizzo 1997): any k packets restore k slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import zfec

from .packets import Packet

LENGTH_BYTES = 2
"""Extra length of a parity packet over the longest slice: slices' lengths are restored, too."""


def parity_packets(packets: Sequence[Packet], count: int) -> list[Packet]:
    """Return up to `count` parity packets for a frame, given all of its slices in order.

    There are fewer where slices and parity packets would exceed 256.
    """
    slices = len(packets)
    count = min(count, 256 - slices)
    if count < 1:
        return []
    length = LENGTH_BYTES + max(len(packet.payload) for packet in packets)
    blocks = [_block(packet, length) for packet in packets]
    numbers = list(range(slices, slices + count))
    parities = zfec.Encoder(slices, slices + count).encode(blocks, numbers)
    return [
        replace(packets[0], slice_index=number, payload=bytes(parity)).with_checksum()
        for number, parity in zip(numbers, parities, strict=True)
    ]


def restore(packets: Mapping[int, Packet]) -> list[Packet]:
    """Return the slices of a frame in order, including those restored from parity packets.

    Args:
        packets: the packets of the frame that arrived, by slice index. If there are too few, or
            parity packets are inconsistent with the slices, nothing is restored.
    """
    arrived = [packets[index] for index in sorted(packets) if not packets[index].parity]
    parities = [packets[index] for index in sorted(packets) if packets[index].parity]
    slices = next(iter(packets.values())).slice_count
    if len(arrived) == slices or len(packets) < slices:
        return arrived
    used = [*arrived, *parities][:slices]
    length = len(parities[0].payload)
    if any(len(each.payload) != length for each in parities) or any(
        LENGTH_BYTES + len(each.payload) > length for each in arrived
    ):
        return arrived
    numbers = [packet.slice_index for packet in used]
    blocks = [each.payload if each.parity else _block(each, length) for each in used]
    # The sender's number of parity packets is not needed: a block depends on its own number alone.
    restored = zfec.Decoder(slices, max(numbers) + 1).decode(blocks, numbers)
    complete = {packet.slice_index: packet for packet in arrived}
    for index, block in enumerate(restored):
        size = int.from_bytes(block[:LENGTH_BYTES], "big")
        if index not in complete and size <= length - LENGTH_BYTES:
            payload = bytes(block[LENGTH_BYTES : LENGTH_BYTES + size])
            packet = replace(parities[0], slice_index=index, payload=payload)
            complete[index] = packet.with_checksum()
    return [complete[index] for index in sorted(complete)]


def parity_for(loss: float, slices: int, residual: float = 0.05) -> int:
    """Return the number of parity packets that keeps frames complete at a loss.

    Args:
        loss: share of packets lost, independently of each other, 0 to 1.
        slices: number of slices of the frame.
        residual: largest probability that a frame remains incomplete.

    Returns:
        The smallest sufficient number, at most twice the number of slices.
    """
    most = 2 * slices
    for count in range(most):
        total = slices + count
        whole = sum(
            math.comb(total, lost) * loss**lost * (1 - loss) ** (total - lost)
            for lost in range(count + 1)
        )
        if 1 - whole <= residual:
            return count
    return most


def _block(packet: Packet, length: int) -> bytes:
    size = len(packet.payload).to_bytes(LENGTH_BYTES, "big")
    return (size + packet.payload).ljust(length, b"\0")
