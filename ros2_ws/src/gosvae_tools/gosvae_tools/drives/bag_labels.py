"""Label images in a bag: which frame each belongs to, and its ids."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator
from typing import Any

import cv2
import numpy as np

from gosvae_codec.errors import ImageError

from .source import COMPRESSED_IMAGE, Message, Pixels

_LABEL_WAIT = 1_000_000_000
"""How far in ns behind its frame a bag may hold a label."""


def pairs(
    messages: Iterator[Message], labelled: Collection[str]
) -> Iterator[tuple[Message, Message | None]]:
    """Yield each image with its label: the one of its stamp that has the same place.

    Stamps may repeat, fall, or be negative: the first image of a stamp has the first label of it.

    Args:
        messages: images and labels in the order of time.
        labelled: cameras that have labels.
    """
    images: deque[Message] = deque()
    labels: dict[tuple[str, int], deque[Message]] = defaultdict(deque)

    def label_of(image: Message) -> Message | None:
        key = image.channel.camera, image.stamp
        if key not in labels:
            return None
        label = labels[key].popleft()
        if not labels[key]:
            del labels[key]
        return label

    for message in messages:
        if message.channel.role == "image":
            images.append(message)
        else:
            labels[message.channel.camera, message.stamp].append(message)
        while images:
            camera, stamp = images[0].channel.camera, images[0].stamp
            late = message.time - images[0].time > _LABEL_WAIT
            if camera in labelled and (camera, stamp) not in labels and not late:
                break
            yield images[0], label_of(images.popleft())
        oldest = message.time - 2 * _LABEL_WAIT
        for key in [key for key, waiting in labels.items() if waiting[0].time < oldest]:
            del labels[key]
    for image in images:
        yield image, label_of(image)


def label_ids(message: Any) -> Pixels:
    """Return the ids of a mono8 image, or of one as PNG, uint8 (H, W).

    Raises:
        ImageError: it is neither.
    """
    if message.__msgtype__ == COMPRESSED_IMAGE:
        # PNG alone, as what loses detail makes up ids.
        ids = None
        if bytes(message.data[:4]) == b"\x89PNG":
            ids = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if ids is None or ids.ndim != 2 or ids.dtype != np.uint8:
            raise ImageError(
                f"label has format {message.format!r}; train ids come as PNG of one 8-bit channel"
            )
        return np.asarray(ids, np.uint8)
    if message.encoding != "mono8":
        raise ImageError(f"label has encoding {message.encoding!r}; train ids come as mono8")
    if message.step < message.width or len(message.data) < message.step * message.height:
        raise ImageError(f"label of {message.width}x{message.height} has too little data")
    size = message.height * message.step
    rows = np.frombuffer(message.data, np.uint8, size).reshape(message.height, message.step)
    return rows[:, : message.width]
