"""Which ids and colours Cityscapes gives its classes, and instance ids made from object indices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gosvae_codec.labels import CITYSCAPES, cityscapes_to_train_ids

LABEL_IDS = {
    **{"static": 4, "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17},
    **{"traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23},
    **{"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31},
    **{"motorcycle": 32, "bicycle": 33},
}
"""Id of each class that occurs here, as in Cityscapes' `labels.py`."""


def label_ids(index: npt.NDArray[np.int32], labels: list[str]) -> npt.NDArray[np.uint8]:
    """Turn object indices into Cityscapes label ids.

    Args:
        index: int (H, W); 0 for the sky, k for the thing whose label is `labels[k - 1]`.
        labels: class name of every thing.

    Returns:
        uint8 (H, W).

    Raises:
        ValueError: an index has no thing.
    """
    if index.min() < 0 or index.max() > len(labels):
        raise ValueError(f"object indices are {index.min()} to {index.max()}, things {len(labels)}")
    table = np.array([LABEL_IDS["sky"], *(LABEL_IDS[label] for label in labels)], np.uint8)
    return table[index]


def instance_ids(
    index: npt.NDArray[np.int32], labels: list[str], countable: tuple[str, ...]
) -> npt.NDArray[np.uint16]:
    """Turn object indices into Cityscapes instance ids.

    Args:
        index: as for :func:`label_ids`.
        labels: as for :func:`label_ids`.
        countable: classes whose instances are told apart.

    Returns:
        uint16 (H, W): the label id, or 1000 times the label id plus the number of the instance,
        from 0, within its class and the whole drive.
    """
    table = [LABEL_IDS["sky"]]
    counts = dict.fromkeys(countable, 0)
    for label in labels:
        if label in counts:
            table.append(1000 * LABEL_IDS[label] + counts[label] % 1000)
            counts[label] += 1
        else:
            table.append(LABEL_IDS[label])
    return np.array(table, np.uint16)[index]


def train_ids(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn label ids into train ids, 255 for those without one; uint8 (H, W) both."""
    return cityscapes_to_train_ids()[ids]


def colors(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Paint label ids in Cityscapes' colours, uint8 (H, W, 3) RGB."""
    return CITYSCAPES.palette[train_ids(ids)]
