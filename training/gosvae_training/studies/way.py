"""A trained row of a study of tasks: from frames to what the receiver has of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..bundle.macs import network_macs, total_macs
from ..models.pixels import to_frames
from ..models.suppression import LEAST_SCORE
from ..models.token_network import resize_logits
from ..tasks.network import TokenSender
from ..tasks.segmenter import LABELS
from ..tasks.settings import Losses
from ..tasks.yolox import decode_maps, select_boxes
from .judge import Experts, Frame, Made, Shape, sides
from .picture import PictureNetwork


class Way:
    """A trained row: from frames to what the receiver has of them."""

    def __init__(self, network: TokenSender, losses: Losses, experts: Experts) -> None:
        """Keep it; `losses` tell what it was trained for."""
        self.network, self._experts = network, experts
        self._masks = bool(losses.imitation or losses.distillation or losses.labels)
        self._boxes = bool(losses.features or losses.objects or losses.boxes)

    @torch.inference_mode()
    def make(self, frame: Frame, shape: Shape) -> Made:
        """Return what the receiver makes of a frame, uint8 (h, w, 3) RGB, for frames of `shape`."""
        frames = torch.from_numpy(frame)[None]
        sent = self.network.send(frames)
        if isinstance(self.network, PictureNetwork):
            drawn = to_frames(self.network.draw(sent.vectors))
            picture = drawn[0].round().byte().numpy()
            # At the size that the segmenter taught at: at its own it sees less, see `make_as_is`.
            mask = _mask(self.network.segment(drawn), shape)
            return Made(mask, self._experts.boxes(picture, shape), picture)
        made = self.network.receive(sent)
        corners, scores = decode_maps(made.boxes)
        found = select_boxes(corners[0].numpy(), scores[0].numpy(), LEAST_SCORE)
        boxes = found._replace(boxes=found.boxes / sides(frame.shape[:2]) * sides(shape))
        mask = _mask(made.logits, shape)
        return Made(mask if self._masks else None, boxes if self._boxes else None)

    @torch.inference_mode()
    def make_as_is(self, frame: Frame, shape: Shape) -> Made:
        """Return what the experts see in the picture at the sizes that they were made for."""
        assert isinstance(self.network, PictureNetwork)
        sent = self.network.send(torch.from_numpy(frame)[None])
        drawn = to_frames(self.network.draw(sent.vectors))
        return self._experts.look(drawn[0].round().byte().numpy(), shape)

    def macs(self, frames: Tensor) -> tuple[int, int | None]:
        """Return the MACs of vehicle and receiver for frames, depth not counted.

        The code search counts; those of the receiver are None where the detector's are not known.
        """
        network, sent = self.network, self.network.send(frames)
        levels, codes, dim = network.codebooks().shape
        search = sent.vectors[:, 0].numel() * levels * codes * dim
        vehicle = network_macs(network.encoder, frames) + search
        if isinstance(network, PictureNetwork):
            draw = network_macs(network.draw, sent.vectors)
            segment = network_macs(_Counted(network.segment), frames.float())
            return vehicle, total_macs([draw, segment, self._experts.detector_macs])
        return vehicle, network_macs(_Counted(network.receive), sent)


def _mask(logits: Tensor, shape: Shape) -> Frame:
    return LABELS.ids[resize_logits(logits, shape).argmax(1)[0].numpy()]


class _Counted(nn.Module):
    """A part of a network, for counting what it computes."""

    def __init__(self, part: Callable[..., Any]) -> None:
        super().__init__()
        self._part = part

    def forward(self, *taken: Any) -> Any:
        return self._part(*taken)
