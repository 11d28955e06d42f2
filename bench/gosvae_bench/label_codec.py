"""Label maps at a part of a frame's sides: shrunk by majority, enlarged smoothly."""

from __future__ import annotations

import cv2
import numpy as np

from gosvae_codec import LabelSpace
from gosvae_codec.masks import Mask


def shrink_labels(mask: Mask, scale: int, labels: LabelSpace) -> Mask:
    """Return the class that holds most of each block of scale x scale pixels, as its index."""
    height, width = mask.shape
    small = (-(-width // scale), -(-height // scale))
    planes = [(mask == label).astype(np.float32) for label in labels.ids]
    shrunk = [cv2.resize(each, small, interpolation=cv2.INTER_AREA) for each in planes]
    return np.argmax(shrunk, 0).astype(np.uint8)


def enlarge_labels(classes: Mask, size: tuple[int, int], labels: LabelSpace) -> Mask:
    """Return label ids at `size`: class by class, bilinearly, and the strongest."""
    planes = [
        cv2.resize((classes == index).astype(np.float32), size[::-1])
        for index in range(len(labels))
    ]
    return np.asarray(labels.ids[np.argmax(planes, 0)], np.uint8)
