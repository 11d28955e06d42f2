"""Masks: from logits to label ids at the camera's size, their colours, and smaller ones."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from .labels import LabelSpace

Mask = npt.NDArray[np.uint8]
"""Label ids, uint8 (H, W); 255 is unlabelled."""


def upsampled_argmax(
    logits: npt.NDArray[np.float32], input_size: tuple[int, int], labels: LabelSpace
) -> Mask:
    """Return the label with the largest logit for every pixel of the network's input.

    Compiled at the first call on a machine, which takes seconds.

    Args:
        logits: float32 (classes, h, w), scaled up bilinearly before the argmax.
        input_size: height and width of the result in pixels.
        labels: meaning of the classes.

    Returns:
        uint8 label ids of shape `input_size`.
    """
    from . import kernels

    mask = np.empty(input_size, np.uint8)
    kernels.upsampled_argmax(np.ascontiguousarray(logits, np.float32), labels.ids, mask)
    return mask


def upsampled_confidence(
    logits: npt.NDArray[np.float32], input_size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Return the softmax probability of each pixel's label; see :func:`upsampled_argmax`.

    Args:
        logits: float32 (classes, h, w), scaled up bilinearly before the softmax.
        input_size: height and width of the result in pixels.

    Returns:
        uint8 of shape `input_size`, 255 for a probability of 1.
    """
    from . import kernels

    confidence = np.empty(input_size, np.uint8)
    kernels.upsampled_confidence(np.ascontiguousarray(logits, np.float32), confidence)
    return confidence


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Scale a mask to `size` (height, width) by nearest neighbour."""
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def shrink_labels(mask: Mask, scale: int, labels: LabelSpace) -> Mask:
    """Return the class that holds most of each block of pixels, for senders of labels.

    Args:
        mask: uint8 (H, W) label ids.
        scale: sides of a block in pixels.
        labels: the classes; ids of no class are not counted.

    Returns:
        uint8 (ceil(H / scale), ceil(W / scale)) indices of classes, not their ids.
    """
    height, width = mask.shape
    small = (-(-width // scale), -(-height // scale))
    planes = [(mask == label).astype(np.float32) for label in labels.ids]
    shrunk = [cv2.resize(each, small, interpolation=cv2.INTER_AREA) for each in planes]
    return np.asarray(np.argmax(shrunk, 0), np.uint8)


def enlarge_labels(classes: Mask, size: tuple[int, int], labels: LabelSpace) -> Mask:
    """Return label ids at `size` (height, width) from what :func:`shrink_labels` returned.

    Each class is scaled bilinearly by itself, and each pixel has the strongest: contours are
    smoother, and masks better, than by nearest neighbour.
    """
    planes = [
        cv2.resize((classes == index).astype(np.float32), size[::-1])
        for index in range(len(labels))
    ]
    return np.asarray(labels.ids[np.argmax(planes, 0)], np.uint8)


def colorize(mask: Mask, labels: LabelSpace) -> npt.NDArray[np.uint8]:
    """Paint a mask, uint8 (H, W), in its labels' colours, uint8 (H, W, 3) RGB."""
    return np.asarray(cv2.applyColorMap(mask, labels.palette[:, None]), np.uint8)
