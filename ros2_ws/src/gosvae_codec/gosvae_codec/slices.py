"""Slices: a frame's tokens cut into bands of rows, one packet each."""

from __future__ import annotations

from dataclasses import replace

from .entropy import TokenCoder, Tokens
from .errors import PacketError
from .packets import MAX_SERIALIZED_BYTES, Packet, serialized_overhead


def band_of(index: int, count: int, rows: int) -> tuple[int, int]:
    """Return the first row of slice `index` of `count`, and the one after its last, of `rows`."""
    return rows * index // count, rows * (index + 1) // count


def slice_frame(
    tokens: Tokens,
    coder: TokenCoder,
    template: Packet,
    reference: Tokens | None = None,
    min_slices: int = 1,
    reserved: int = 0,
    guess: int = 1,
) -> list[Packet]:
    """Cut a frame into as few bands of nearly equal height as fit the packet size.

    Args:
        tokens: uint16 (levels, rows, columns).
        coder: entropy coder of the bundle.
        template: a packet with all fields set but those of the slice.
        reference: tokens of the frame that `template` refers to; None for intra.
        min_slices: smallest number of slices, limited by the number of rows.
        reserved: bytes to leave free in each packet.
        guess: number of slices to try first, best that of the previous frame, as each attempt
            codes the whole frame; fewer are tried if the bytes allow it.

    Returns:
        The packets in order, each with its checksum.

    Raises:
        PacketError: a single row does not fit beside the header, whose frame_id may be too long.
    """
    rows = tokens.shape[1]
    room = MAX_SERIALIZED_BYTES - serialized_overhead(template.header.frame_id) - reserved
    most = min(rows, 255)

    def cut(count: int) -> list[bytes]:
        bands = (band_of(index, count, rows) for index in range(count))
        return [coder.encode(tokens[:, first:end], first, reference) for first, end in bands]

    count = min(max(min_slices, guess), most)
    while True:
        payloads = cut(count)
        longest = max(map(len, payloads))
        if longest <= room:
            break
        if count == most:
            raise PacketError(
                f"no slice of {tokens.shape} tokens fits {room} bytes; shorten the frame_id "
                f"({len(template.header.frame_id)} characters) or send fewer levels"
            )
        # Proportional steps keep the number of attempts small for large frames.
        count = min(max(count + 1, count * longest // max(room, 1)), most)
    fewer = max(min_slices, -(-sum(map(len, payloads)) // room))
    if fewer < count <= guess:
        fitting = cut(fewer)
        if max(map(len, fitting)) <= room:
            count, payloads = fewer, fitting
    return [
        replace(
            template, levels=len(tokens), slice_index=index, slice_count=count, payload=payload
        ).with_checksum()
        for index, payload in enumerate(payloads)
    ]
