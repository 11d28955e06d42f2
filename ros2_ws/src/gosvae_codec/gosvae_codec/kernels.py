"""Inner loops, compiled by Numba: those of the entropy coder, integers only, and of masks.

A module of its own, so that Numba is imported only where the loops are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from .prior import LOGITS, REACH, REFERENCE, SAME

LOWEST = 1 << 23
"""Smallest state of the range coder (rANS, Duda 2013) between decisions; also its initial state."""

X, AT, FAILED = 0, 1, 2
"""Indices into a decoder's state: coder state, next byte, whether the payload is malformed."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # there is no writable cache folder
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
    logit = np.int32(node_bias[decision])
    for j in range(len(unit)):
        # The sum fits 32 bits; the casts let the compiler vectorise the loop.
        logit = np.int32(logit + np.int32(node[decision, j]) * np.int32(unit[j]))
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
    """Code one level of a band in coding order.

    When decoding, tokens are read from `data` into `current`, and `state` advances. When encoding,
    tokens are taken from `current`, and the probability and bit of each decision are written to
    `ones` and `bits` from index `count` on.

    Args:
        level: residual level.
        current: int32 (levels, rows + 2 REACH, columns + 2 REACH), `codes` where absent.
        reference: the same of the reference frame's whole grid, all absent without one.
        first_row: the band's first row in the grid.
        rows: rows of the band.
        columns: columns of the band and of the grid.
        contexts: this and the following tables as in LevelPrior.
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
        count: number of decisions before this level.

    Returns:
        The number of decisions so far.
    """
    codes = len(leaf)
    depth = 0
    while (1 << depth) < len(node_bias):
        depth += 1
    height, width = hidden.shape
    places = np.empty(len(contexts), np.uintp)
    # Offset of each context in `current` and `reference`, from the top left of the token's reach.
    tokens, past_tokens = current.reshape(-1), reference.reshape(-1)
    _, tall, wide = current.shape
    taller = reference.shape[1]
    offsets = np.empty(len(contexts), np.int64)
    past_offsets = np.empty(len(contexts), np.int64)
    for i in range(len(contexts)):
        down, right = contexts[i, 2] + REACH, contexts[i, 3] + REACH
        offsets[i] = (contexts[i, 1] * tall + down) * wide + right
        past_offsets[i] = (contexts[i, 1] * taller + down) * wide + right
    kinds, firsts = contexts[:, 0].copy(), contexts[:, 4].copy()
    eights = len(places) // 8 * 8
    total = np.empty(width, np.int32)
    # 16 bits, so that processors multiply and add pairs in one instruction.
    amount = np.empty(width, np.int16)
    unit = np.empty(height, np.int16)
    for y in range(rows):
        for x in range(columns):
            for d in range(width):
                total[d] = row[first_row + y, d] + column[x, d]
            corner, past_corner = y * wide + x, (first_row + y) * wide + x
            for i in range(len(kinds)):
                if kinds[i] == REFERENCE:
                    value = past_tokens[past_corner + past_offsets[i]]
                else:
                    value = tokens[corner + offsets[i]]
                    if kinds[i] == SAME:
                        past = past_tokens[past_corner + past_offsets[i]]
                        known = value != codes and past != codes
                        value = 1 + (value == past) if known else 0
                places[i] = firsts[i] + value
            # Eight at once, as loading and storing the totals costs more than adding.
            for i in range(0, eights, 8):
                a, b, c, e = places[i], places[i + 1], places[i + 2], places[i + 3]
                f, g, h, k = places[i + 4], places[i + 5], places[i + 6], places[i + 7]
                for d in range(width):
                    first = np.int32(table[a, d]) + np.int32(table[b, d])
                    second = np.int32(table[c, d]) + np.int32(table[e, d])
                    third = np.int32(table[f, d]) + np.int32(table[g, d])
                    fourth = np.int32(table[h, d]) + np.int32(table[k, d])
                    total[d] += (first + second) + (third + fourth)
            for i in range(eights, len(places)):
                a = places[i]
                for d in range(width):
                    total[d] += table[a, d]
            for d in range(width):
                amount[d] = min(max(total[d], 0), 32767)
            for j in range(height):
                sums = np.int32(hidden_bias[j])
                for d in range(width):
                    sums = np.int32(sums + np.int32(hidden[j, d]) * np.int32(amount[d]))
                unit[j] = min(max(sums >> 6, 0), 32767)

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
    """Encode decisions, last first, into the end of `out`; return where the payload begins.

    Args:
        ones: uint16, probability of a 1 for each decision, in 1/65536.
        bits: uint8, the decisions.
        count: number of decisions.
        out: uint8, at least 4 bytes plus 2 for each decision.
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


@_compiled
def upsampled_argmax(logits, ids, mask):  # type: ignore[no-untyped-def]
    """Fill `mask` with the id of the largest of the logits, scaled up bilinearly to its size.

    Interpolated logits lie between those of the cell's four corners. So most classes cannot win
    within a cell, and where only one can, which is nearly everywhere, nothing is interpolated.

    Args:
        logits: float32 (classes, h, w), at most 255 classes.
        ids: uint8 (classes,).
        mask: uint8 (H, W).
    """
    classes, h, w = logits.shape
    height, width = mask.shape
    winner = _argmax(logits)
    # For each column of the mask: the logits' column to the left, and the distance from it.
    left = np.empty(width, np.int64)
    across = np.empty(width, np.float32)
    for x in range(width):
        place = min(max((x + 0.5) * w / width - 0.5, 0.0), w - 1.0)
        left[x] = min(int(place), max(w - 2, 0))
        across[x] = place - left[x]
    counts = np.empty(w, np.int64)
    able = np.empty((w, classes), np.int64)
    # For a row of cells: initial values of its lines, and the columns to interpolate.
    settled = np.empty(width, np.uint8)
    open_columns = np.empty(width, np.int64)
    open_count = 0
    before = -1
    for y in range(height):
        place = min(max((y + 0.5) * h / height - 0.5, 0.0), h - 1.0)
        top = min(int(place), max(h - 2, 0))
        bottom = min(top + 1, h - 1)
        down = np.float32(place - top)
        if top != before:
            before = top
            _find_possible(logits, winner, top, able, counts)
            open_count = 0
            for x in range(width):
                settled[x] = ids[able[left[x], 0]]
                if counts[left[x]] > 1:
                    open_columns[open_count] = x
                    open_count += 1
        mask[y] = settled
        for each in range(open_count):
            x = open_columns[each]
            cell = left[x]
            right = min(cell + 1, w - 1)
            largest, likeliest = np.float32(-np.inf), able[cell, 0]
            for i in range(counts[cell]):
                k = able[cell, i]
                above = logits[k, top, cell]
                above += (logits[k, top, right] - above) * across[x]
                below = logits[k, bottom, cell]
                below += (logits[k, bottom, right] - below) * across[x]
                value = above + (below - above) * down
                if value > largest:
                    largest, likeliest = value, k
            mask[y, x] = ids[likeliest]


@_compiled
def _argmax(logits):  # type: ignore[no-untyped-def]
    """Return the class of the largest of the logits, uint8 (h, w)."""
    classes, h, w = logits.shape
    best, winner = logits[0].copy(), np.zeros((h, w), np.uint8)
    for k in range(1, classes):
        for y in range(h):
            for x in range(w):
                larger = logits[k, y, x] > best[y, x]
                winner[y, x] = k if larger else winner[y, x]
                best[y, x] = logits[k, y, x] if larger else best[y, x]
    return winner


@_compiled
def _find_possible(logits, winner, top, able, counts):  # type: ignore[no-untyped-def]
    """Fill `able` and `counts` with the classes that can win in each cell below row `top`."""
    classes, h, w = logits.shape
    bottom = min(top + 1, h - 1)
    for x in range(max(w - 1, 1)):
        right = min(x + 1, w - 1)
        one = winner[top, x]
        able[x, 0] = one
        counts[x] = 1
        if one == winner[top, right] and one == winner[bottom, x] and one == winner[bottom, right]:
            continue
        least = -np.inf
        for k in range(classes):
            upper = min(logits[k, top, x], logits[k, top, right])
            lower = min(logits[k, bottom, x], logits[k, bottom, right])
            least = max(least, min(upper, lower))
        counts[x] = 0
        for k in range(classes):
            upper = max(logits[k, top, x], logits[k, top, right])
            lower = max(logits[k, bottom, x], logits[k, bottom, right])
            if max(upper, lower) >= least:
                able[x, counts[x]] = k
                counts[x] += 1


@_compiled
def upsampled_confidence(logits, confidence):  # type: ignore[no-untyped-def]
    """Fill `confidence` with 255 times the largest softmax of the logits, scaled up bilinearly.

    Args:
        logits: float32 (classes, h, w).
        confidence: uint8 (H, W).
    """
    classes, h, w = logits.shape
    height, width = confidence.shape
    values = np.empty(classes, np.float32)
    for y in range(height):
        place = min(max((y + 0.5) * h / height - 0.5, 0.0), h - 1.0)
        top = min(int(place), max(h - 2, 0))
        bottom = min(top + 1, h - 1)
        down = np.float32(place - top)
        for x in range(width):
            place = min(max((x + 0.5) * w / width - 0.5, 0.0), w - 1.0)
            left = min(int(place), max(w - 2, 0))
            right = min(left + 1, w - 1)
            across = np.float32(place - left)
            largest = np.float32(-np.inf)
            for k in range(classes):
                above = logits[k, top, left]
                above += (logits[k, top, right] - above) * across
                below = logits[k, bottom, left]
                below += (logits[k, bottom, right] - below) * across
                values[k] = above + (below - above) * down
                largest = max(largest, values[k])
            total = np.float32(0.0)
            for k in range(classes):
                total += np.exp(values[k] - largest)
            confidence[y, x] = np.uint8(255.0 / total + 0.5)
