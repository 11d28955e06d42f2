"""The paper's way to several tasks: tokens to a picture, at which frozen experts look."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..models.onnx_network import OnnxNetwork
from ..models.pixels import PixelDecoder, to_frames
from ..tasks.network import TOKEN_STRIDE, Outputs, Seen, Sent, TokenSender
from ..tasks.objective import TaskObjective
from ..tasks.settings import Losses, Tokens
from ..tasks.yolox import Heads

SEEN_BY_SEGMENTER = (256, 448)
"""Height and width: half the sides that it is made for, as it teaches in a quarter of the time."""
EVERY = 4
"""In training, experts look at one picture in so many, for the same reason."""


class PictureLosses(Losses):
    """Weights of the terms, that of the picture among them."""

    pixels: float
    """Mean absolute difference of pixels, 0 to 1."""


class Detector(nn.Module):
    """The whole detector: its trunk, and the heads that boxes come from."""

    def __init__(self, trunk: OnnxNetwork, heads: Heads) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, heads


class PictureNetwork(TokenSender):
    """Tokens to a picture, and this to each task by its expert, which is frozen."""

    def __init__(
        self,
        tokens: Tokens,
        decoder: tuple[int, int],
        segmenter: nn.Module,
        detector: Detector,
        rare: float,
    ) -> None:
        """Make it.

        Args:
            tokens: its description; its `features` and `blocks` are of no use here.
            decoder: width and blocks of what draws.
            segmenter: see :func:`..tasks.segmenter.network_of`.
            detector: its trunk is the encoder's as well.
            rare: vectors of a batch with fewer of which a code is restarted.
        """
        super().__init__(tokens, detector.trunk, rare)
        self.draw = PixelDecoder(tokens.dim, TOKEN_STRIDE, *decoder)
        self.segmenter, self.detection = segmenter, detector

    def receive(self, sent: Sent) -> Outputs:
        picture = self.draw(sent.vectors)
        frames = to_frames(picture)[:: EVERY if self.training else 1]
        pyramid = self.encoder.see(frames).pyramid
        return Outputs(self.segment(frames), pyramid, self.detection.heads(*pyramid), sent, picture)

    def segment(self, frames: Tensor) -> Tensor:
        """Return logarithms of probabilities at 2 pixels, float (N, classes, H/2, W/2)."""
        height, width = frames.shape[1:3]
        pixels = frames.permute(0, 3, 1, 2).flip(1)
        shown = F.interpolate(pixels, SEEN_BY_SEGMENTER, mode="bilinear")
        said = self.segmenter(shown)[0].softmax(1)
        halved = F.interpolate(said, (height // 2, width // 2), mode="area")
        return halved.clamp(min=1e-6).log()


class PictureObjective(TaskObjective):
    """A picture like the frame, in which experts see what they see in the frame."""

    network: PictureNetwork

    def __init__(
        self, network: PictureNetwork, losses: PictureLosses, class_weights: Tensor
    ) -> None:
        super().__init__(network, losses, class_weights)

    @property
    def pretrained(self) -> list[nn.Module]:
        return [*super().pretrained, self.network.segmenter]

    def terms(self, made: Outputs, frames: Tensor, seen: Seen, target: Tensor) -> dict[str, Tensor]:
        assert made.picture is not None
        difference = made.picture.float().permute(0, 2, 3, 1) - frames.float()
        seen = Seen(seen.stem[::EVERY], [each[::EVERY] for each in seen.pyramid])
        terms = super().terms(made, frames[::EVERY], seen, target[::EVERY])
        return {**terms, "pixels": difference.abs().mean() / 255}
