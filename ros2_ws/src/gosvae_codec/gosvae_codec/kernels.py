"""The entropy coder's inner loops, compiled by numba; integers only.

Apart from the module :mod:`entropy` so that only who codes waits for numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from .prior import LOGITS, REACH, REFERENCE, SAME

LOWEST = 1 << 23
"""Least state of the range coder (rANS, Duda 2013) between two decisions, and its first one."""

X, AT, FAILED = 0, 1, 2
"""Places in a decoder's state: the coder's state, the next byte, whether the payload is bad."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to cache in: compile in every process
        return numba.njit(nogil=True)(function)


@_compiled
def _read_bit(data, state, ones):  # type: ignore[no-untyped-def]
    """Decode one decision whose probability of 1 is `ones` in 1/65536."""
    x = state[X]
    low = x & 65535
    if low < ones:
        bit = 1
        x = ones * (x >> 16) + low
    else:
        bit = 0
        x = (65536 - ones) * (x >> 16) + low - ones
    while x < LOWEST:
        if state[AT] == len(data):
            state[FAILED] = 1
            break
        x = (x << 8) | data[state[AT]]
        state[AT] += 1
    state[X] = x
    return bit


@_compiled
def _probability(unit, node, node_bias, decision, sigmoid):  # type: ignore[no-untyped-def]
    """Return the probability in 1/65536 that a decision is 1."""
    logit = node_bias[decision]
    for j in range(len(unit)):
        # Cut to 32 bits, which hold it, so that the loop is vectorised.
        logit = np.int32(logit + node[decision, j] * unit[j])
    place = (logit >> 6) + LOGITS // 2
    return np.int64(sigmoid[min(max(place, 0), LOGITS - 1)])


@_compiled
def code_level(  # type: ignore[no-untyped-def]
    level,
    current,
    reference,
    first_row,
    rows,
    columns,
    contexts,
    table,
    row,
    column,
    hidden,
    hidden_bias,
    node,
    node_bias,
    leaf,
    code,
    sigmoid,
    decoding,
    data,
    state,
    ones,
    bits,
    count,
):
    """Walk over one level of a band in coding order; return the number of decisions so far.

    Decoding, the tokens are read from `data` into `current`, and `state` moves on; encoding, they
    are taken from `current`, and each decision's probability and bit go to `ones` and `bits` from
    `count` on.

    Args:
        level: which one.
        current: int32 (levels, rows + 2 REACH, columns + 2 REACH), `codes` where absent.
        reference: the same of the reference frame's whole grid, all absent without one.
        first_row: the band's first row in the grid.
        rows: of the band.
        columns: of the band and the grid.
        contexts: this and what follows as in LevelPrior.
        table: see there.
        row: see there.
        column: see there.
        hidden: see there.
        hidden_bias: see there.
        node: see there.
        node_bias: see there.
        leaf: see there.
        code: see there.
        sigmoid: as in Prior.
        decoding: whether to decode.
        data: uint8, the payload.
        state: int64 (3,), see X, AT, FAILED.
        ones: uint16, at least `rows` * `columns` * (depth + 1) more than `count`.
        bits: uint8, likewise.
        count: decisions before.
    """
    codes = len(leaf)
    depth = 0
    while (1 << depth) < len(node_bias):
        depth += 1
    width, height = hidden.shape
    total = np.empty(width, np.int32)
    sums = np.empty(height, np.int32)
    unit = np.empty(height, np.int32)
    for y in range(rows):
        for x in range(columns):
            for d in range(width):
                total[d] = row[first_row + y, d] + column[x, d]
            for i in range(len(contexts)):
                kind, source = contexts[i, 0], contexts[i, 1]
                down, right = contexts[i, 2] + REACH, contexts[i, 3] + REACH
                past = reference[source, first_row + y + down, x + right]
                value = past
                if kind != REFERENCE:
                    value = current[source, y + down, x + right]
                if kind == SAME:
                    known = value != codes and past != codes
                    value = 1 + (value == past) if known else 0
                place = contexts[i, 4] + value
                for d in range(width):
                    total[d] += table[place, d]
            for j in range(height):
                sums[j] = hidden_bias[j]
            for d in range(width):
                amount = min(total[d], 32767)
                if amount > 0:
                    for j in range(height):
                        sums[j] += hidden[d, j] * amount
            for j in range(height):
                unit[j] = min(max(sums[j] >> 6, 0), 32767)

            token = current[level, y + REACH, x + REACH]
            before = reference[level, first_row + y + REACH, x + REACH]
            if before != codes:
                chance = _probability(unit, node, node_bias, 0, sigmoid)
                if decoding:
                    same = _read_bit(data, state, chance)
                else:
                    same = 1 if token == before else 0
                    ones[count], bits[count] = chance, same
                    count += 1
                if same == 1:
                    current[level, y + REACH, x + REACH] = before
                    continue
            place = 1
            for each in range(depth):
                chance = _probability(unit, node, node_bias, place, sigmoid)
                if decoding:
                    bit = _read_bit(data, state, chance)
                else:
                    bit = (leaf[token] >> (depth - 1 - each)) & 1
                    ones[count], bits[count] = chance, bit
                    count += 1
                place = 2 * place + bit
            if decoding:
                place -= 1 << depth
                if place >= codes or code[place] == before:
                    state[FAILED] = 1
                    place = 0
                current[level, y + REACH, x + REACH] = code[place]
                if state[FAILED] == 1:
                    return count
    return count


@_compiled
def write_bits(ones, bits, count, out):  # type: ignore[no-untyped-def]
    """Encode decisions, last first; return where in `out` (uint8) the payload begins, to its end.

    `out` must hold 4 bytes and 2 for each decision.
    """
    state = np.int64(LOWEST)
    at = len(out)
    for index in range(count - 1, -1, -1):
        one = np.int64(ones[index])
        share = one if bits[index] == 1 else 65536 - one
        while state >= share << 15:
            at -= 1
            out[at] = state & 255
            state >>= 8
        low = 0 if bits[index] == 1 else one
        state = ((state // share) << 16) + state % share + low
    for _ in range(4):
        at -= 1
        out[at] = state & 255
        state >>= 8
    return at
