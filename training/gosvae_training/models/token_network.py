"""Encoder, quantiser and decoder in one network, and how a configuration describes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Schedule
from ..strict import ConfigError
from .decoders import LabelDecoder, MaskDecoder, UpperDecoder
from .efficientnet import EfficientNetLite
from .encoders import LightEncoder, TokenEncoder, TrunkEncoder
from .expert import Expert
from .experts import load_weights
from .pixels import ConvolutionalEncoder, PixelDecoder
from .quantizers import RARE, Argmax, LabelsThenCodes, Rounding, rare_use, residual_codes
from .settings import Convolutional, LabelSender, Light, Pixels, Tokens, Trunk, Upper
from .start import load_encoder


class Sent(NamedTuple):
    """What reaches the receiver of N frames."""

    received: Tensor
    """What the decoder takes, float (N, dim, h, w)."""
    commitment: Tensor
    indices: Tensor
    vectors: Tensor
    """These three as in :class:`Coded`."""


class Coded(NamedTuple):
    """What becomes of N frames."""

    made: Tensor
    """Of the decoder, cropped to the frames."""
    commitment: Tensor
    """Loss; zero where vectors were not quantised."""
    indices: Tensor
    """int64 (N, h, w, levels), -1 where the level was dropped; empty without quantisation."""
    vectors: Tensor
    """Of the encoder, float (N, dim, h, w)."""


class TokenNetwork(nn.Module):
    """Encoder, residual quantiser and decoder, the latter to logits or to pixels.

    Residual levels are dropped at random in training, so that every prefix of them decodes
    (SoundStream, Zeghidour et al. 2021, section III-C).
    """

    # Any network: torch's stubs take attributes such as `stride` for parameters or modules.
    encoder: Any
    quantizer: Any
    decoder: Any

    def __init__(self, encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> None:
        """Put the parts together.

        Args:
            encoder: frames -> (N, dim, h, w); its `stride` is the pixels from token to token.
            quantizer: float (N, tokens, dim) -> the same of codes, their indices and a loss.
            decoder: (N, dim, h, w) -> (N, channels, H / stride, W / stride) with its own `stride`.
        """
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder

    def codebooks(self) -> Tensor:
        """Return the codebooks, float (levels, codes, dim)."""
        return self.quantizer.codebooks

    def transmit(self, frames: Tensor, quantize: bool = True) -> Sent:
        """Encode and quantise; without `quantize` vectors reach the decoder unchanged."""
        encoded = vectors = self.encoder(frames)
        commitment, indices = vectors.new_zeros(()), torch.empty(0, dtype=torch.long)
        if quantize:
            with torch.autocast(vectors.device.type, enabled=False):
                flat = vectors.float().flatten(2).mT
                flat, indices, losses = self.quantizer(flat)
            commitment = losses.sum()
            indices = indices.unflatten(1, vectors.shape[2:])
            vectors = flat.mT.unflatten(2, vectors.shape[2:])
        return Sent(vectors, commitment, indices, encoded)

    def forward(self, frames: Tensor, quantize: bool = True) -> Coded:
        """Encode, quantise and decode; see :meth:`transmit`."""
        received, *others = self.transmit(frames, quantize)
        height, width = (-(-size // self.decoder.stride) for size in frames.shape[1:3])
        made = self.decoder(received)[:, :, :height, :width]
        return Coded(made, *others)


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling of logits to `size` (height, width)."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear")


def build_tokens(
    tokens: Tokens | LabelSender,
    classes: int,
    expert: nn.Module | None = None,
    schedule: Schedule | None = None,
    boxes: int = 0,
) -> TokenNetwork:
    """Return the network that a configuration describes.

    Args:
        tokens: the description.
        classes: channels of masks.
        expert: where given, what is pretrained starts with this expert's weights, if it has
            a backbone, else with ImageNet's.
        schedule: where given, rare codes are restarted as suits its batches.
        boxes: classes of boxes, which a decoder of kind masks makes.

    Raises:
        ConfigError: the encoder has no such stride, or a decoder needs an expert with a backbone.
    """
    if isinstance(tokens, LabelSender):
        encoder = _light_encoder(tokens.encoder, classes, expert, normalize=False)
        return TokenNetwork(encoder, Argmax(classes), LabelDecoder(encoder.stride))
    encoder = _encoder(tokens, classes, expert)
    labels = isinstance(tokens.encoder, Trunk) and tokens.encoder.labels
    if labels and (tokens.levels < 2 or tokens.codes < classes):
        raise ConfigError(
            f"tokens: levels {tokens.levels} and codes {tokens.codes}: with labels as the first "
            f"level there have to be a second one, and codes for {classes} classes"
        )
    dim = tokens.dim + (classes if labels else 0)
    decoder: nn.Module
    if isinstance(tokens.decoder, Pixels):
        part = tokens.decoder
        decoder = PixelDecoder(dim, encoder.stride, part.width, part.blocks)
    elif isinstance(tokens.decoder, Upper):
        if not isinstance(expert, Expert):
            raise ConfigError("tokens.decoder.kind: upper needs an expert of kind fpn")
        part = tokens.decoder
        decoder = UpperDecoder(dim, expert, encoder.stride, part.width, part.blocks, part.frozen)
    else:
        decoder = MaskDecoder(
            dim, classes, encoder.stride, tokens.decoder.width, tokens.decoder.blocks, boxes
        )
    quantizer: nn.Module = Rounding()
    if tokens.codes:
        rare = RARE
        if schedule is not None:
            vectors = schedule.batch * math.prod(side / encoder.stride for side in schedule.crop)
            rare = rare_use(vectors, tokens.codes)
        quantizer = residual_codes(tokens.levels - labels, tokens.codes, tokens.dim, rare)
        if labels:
            quantizer = LabelsThenCodes(classes, quantizer)
    return TokenNetwork(encoder, quantizer, decoder)


def _encoder(tokens: Tokens, classes: int, expert: nn.Module | None) -> nn.Module:
    each = tokens.encoder
    if isinstance(each, Convolutional):
        return ConvolutionalEncoder(tokens.dim, each.stride, each.width, each.blocks)
    if isinstance(each, Light):
        return _light_encoder(each, tokens.dim, expert)
    if isinstance(each, Trunk):
        segmenter: nn.Module | None = expert
        if each.label_sender is not None:
            segmenter = _label_sender(each, classes, expert)
        if not isinstance(segmenter, Expert | LightEncoder):
            raise ConfigError("tokens.encoder.kind: trunk needs an expert of kind fpn")
        return TrunkEncoder(
            tokens.dim, segmenter, each.width, each.narrow, each.stride, each.labels
        )
    if isinstance(expert, Expert):
        encoder = TokenEncoder(tokens.dim, variant=expert.backbone.variant)
        encoder.backbone.load_state_dict(expert.backbone.state_dict())
    else:
        encoder = TokenEncoder(tokens.dim)
        if expert is not None:
            encoder.backbone.load_imagenet()
    return encoder


def _label_sender(each: Trunk, classes: int, expert: nn.Module | None) -> LightEncoder:
    """Return the network of a label sender, with its weights if it is to be trained upon."""
    assert each.label_sender is not None
    sender = _light_encoder(each.label_sender, classes, expert, normalize=False)
    if expert is not None and each.weights:
        load_weights(
            sender,
            lambda path: {
                name.removeprefix("encoder."): value
                for name, value in torch.load(path, weights_only=True)["averaged"].items()
                if name.startswith("encoder.")
            },
            each.weights,
            "the label sender described",
        )
    return sender


def _light_encoder(
    each: Light, outputs: int, expert: nn.Module | None, normalize: bool = True
) -> LightEncoder:
    theirs = expert.backbone if isinstance(expert, Expert) else EfficientNetLite()
    if expert is not None and not isinstance(expert, Expert):
        theirs.load_imagenet()
    try:
        encoder = LightEncoder(
            outputs, each.stride, each.shrink, each.blocks, each.width, theirs.variant, normalize
        )
    except ValueError as error:
        raise ConfigError(f"encoder of kind light: {error}") from error
    encoder.backbone.load_first(theirs)
    if each.start:
        load_encoder(encoder, Path(each.start))
    return encoder
