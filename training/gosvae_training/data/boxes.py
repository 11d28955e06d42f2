"""Boxes of objects as training targets: moved with a crop, and drawn as maps.

The maps are those of TTFNet (Liu et al. 2020, section 3): a Gaussian around each centre, and all
cells under it learn the box, so that few steps suffice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STRIDE = 4
"""Pixels from one cell of the maps to the next."""
_SPREAD = 0.54 / 6
"""Standard deviation of the Gaussian as a share of the box's side (the paper's alpha of 0.54)."""
_VISIBLE = 0.4
"""Least share of a box within a crop that is still taught."""

Boxes = npt.NDArray[np.float32]
"""float32 (M, 5): class; left, top, right, bottom as shares of width and height."""


def move_boxes(
    boxes: Boxes, matrix: npt.NDArray[np.float64], source: tuple[int, int], size: tuple[int, int]
) -> Boxes:
    """Return what an affine map of pixels, (2, 3), makes of boxes, without those it moves out.

    Args:
        boxes: of the frame.
        matrix: from pixels of the frame to those of the crop.
        source: height and width of the frame.
        size: the same of the crop.
    """
    sides = boxes[:, 1:] * np.tile(source[::-1], 2)
    x, y = sides[:, [0, 2, 0, 2]], sides[:, [1, 1, 3, 3]]
    corners = np.einsum("ij,jbk->ibk", matrix[:, :2], np.stack([x, y])) + matrix[:, 2:, None]
    low, high = corners.min(2).T, corners.max(2).T
    limit = np.array(size[::-1])
    seen = np.clip(np.concatenate([low, high], 1), 0, np.tile(limit, 2))
    extent, whole = seen[:, 2:] - seen[:, :2], high - low
    # Of less than two pixels nothing can be told.
    kept = (extent.prod(1) >= _VISIBLE * whole.prod(1)) & (extent.min(1, initial=np.inf) >= 2)
    moved = np.concatenate([boxes[:, :1], seen / np.tile(limit, 2)], 1)[kept]
    return moved.astype(np.float32)


def draw_maps(boxes: Boxes, classes: int, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the maps of a crop of `size` (height, width).

    Returns:
        float32 (classes + 5, H / 4, W / 4): how near a centre of each class is, 1 at its cell; the
        distances from the cell's centre to the box's left, top, right and bottom in cells; and the
        weight of these, 0 where there is no box.
    """
    rows, columns = (side // STRIDE for side in size)
    maps = np.zeros((classes + 5, rows, columns), np.float32)
    y, x = np.arange(rows)[:, None] + 0.5, np.arange(columns)[None] + 0.5
    cells = boxes[:, 1:] * np.tile([columns, rows], 2)
    areas = (cells[:, 2:] - cells[:, :2]).prod(1)
    # Where boxes lie upon each other the smaller one counts.
    for place in np.argsort(-areas):
        left, top, right, bottom = cells[place]
        middle_x = min(int((left + right) / 2), columns - 1) + 0.5
        middle_y = min(int((top + bottom) / 2), rows - 1) + 0.5
        spread_x, spread_y = max((right - left) * _SPREAD, 0.3), max((bottom - top) * _SPREAD, 0.3)
        near = np.exp(
            -((x - middle_x) ** 2) / (2 * spread_x**2) - (y - middle_y) ** 2 / (2 * spread_y**2)
        )
        heat = maps[int(boxes[place, 0])]
        np.maximum(heat, near, out=heat)
        under = near > 0.01
        distances = np.broadcast_arrays(x - left, y - top, right - x, bottom - y)
        # The logarithm keeps large boxes from deciding everything (section 3.3).
        weight = near / near.sum() * np.log(max(areas[place], 1) + np.e)
        for channel, values in zip(maps[classes:], (*distances, weight), strict=True):
            channel[under] = values[under]
    return maps
