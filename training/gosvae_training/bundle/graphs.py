"""What of a trained network goes into each ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.boxes import STRIDE
from ..models.decoders import BoxMaps, LabelDecoder
from ..models.pixels import PixelDecoder, to_frames
from ..models.token_network import TokenNetwork


class Coder(Protocol):
    """What encodes frames and has a codebook for each level."""

    # torch's stubs take attributes such as `stride` for parameters or modules.
    encoder: Any

    def codebooks(self) -> Tensor:
        """Return the codebooks, float (levels, codes, dim)."""


class EncoderGraph(nn.Module):
    """uint8 (N, H, W, 3) RGB and int32 (N, levels, h, w) -> int32 (N, levels, h, w).

    Made are the nearest codes of each residual; but the reference's code, the second input, where
    its squared distance is at most the nearest one's and `inertia`: what another code would cost
    has to buy a nearer one. A reference of `codes` is none.
    """

    codebooks: Tensor

    def __init__(self, network: Coder, inertia: Sequence[float] = ()) -> None:
        super().__init__()
        self.encoder = network.encoder
        self.register_buffer("codebooks", network.codebooks().detach().clone())
        self.inertia = tuple(inertia) or (0.0,) * len(self.codebooks)

    def no_reference(self, frames: Tensor) -> Tensor:
        """Return the second input that stands for none, at `frames`' number and size."""
        levels, codes, _ = self.codebooks.shape
        stride = self.encoder.stride
        rows, columns = (-(-side // stride) for side in frames.shape[1:3])
        return torch.full((len(frames), levels, rows, columns), codes, dtype=torch.int32)

    def forward(self, frames: Tensor, reference: Tensor) -> Tensor:
        residual = self.encoder(frames).permute(0, 2, 3, 1)
        levels = []
        for level, (codebook, inertia) in enumerate(zip(self.codebooks, self.inertia, strict=True)):
            products = residual @ codebook.T
            distances = (codebook * codebook).sum(1) - 2 * products
            distances = distances + (residual * residual).sum(-1, keepdim=True)
            nearest, index = distances.amin(-1), distances.argmin(-1)
            kept = reference[:, level].long()
            present = kept < len(codebook)
            kept = torch.where(present, kept, 0)
            away = distances.gather(-1, kept[..., None])[..., 0]
            index = torch.where(present & (away <= nearest + inertia), kept, index)
            residual = residual - codebook[index]
            levels.append(index)
        return torch.stack(levels, 1).to(torch.int32)


class TokenGraph(nn.Module):
    """What takes tokens, int32 (N, levels, h, w); index `codes` adds nothing."""

    tables: Tensor
    first: Tensor

    def __init__(self, network: Coder) -> None:
        super().__init__()
        codebooks = network.codebooks().detach()
        levels, self.codes, dim = codebooks.shape
        absent = torch.zeros(levels, 1, dim)
        self.register_buffer("tables", torch.cat([codebooks, absent], 1).flatten(0, 1))
        self.register_buffer("first", torch.arange(levels)[:, None, None] * (self.codes + 1))

    def vectors(self, tokens: Tensor) -> Tensor:
        """Return the sums of the levels' codebook vectors, (N, dim, h, w)."""
        vectors = self.tables[tokens.long() + self.first].sum(1)
        return vectors.permute(0, 3, 1, 2)


class _DecoderGraph(TokenGraph):
    """What decodes tokens to frames of `size`."""

    def __init__(self, network: TokenNetwork, size: tuple[int, int]) -> None:
        super().__init__(network)
        self.decoder = network.decoder
        self.size = tuple(-(-side // self.decoder.stride) for side in size)

    def crop(self, made: Tensor) -> Tensor:
        """Return what lies in the frame."""
        return made[:, :, : self.size[0], : self.size[1]]


class FeaturesGraph(_DecoderGraph):
    """int32 (N, levels, h, w) -> float (N, C, fh, fw): what the decoder's last layer sees.

    Labels are their own features, and so are the pixels of a decoder that makes them.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        return self.crop(self.decoder.embed(self.vectors(tokens)))


class PictureGraph(_DecoderGraph):
    """int32 (N, levels, h, w) -> uint8 (N, H, W, 3) RGB."""

    def forward(self, tokens: Tensor) -> Tensor:
        return to_frames(self.crop(self.decoder(self.vectors(tokens)))).round().to(torch.uint8)


class BoxesGraph(nn.Module):
    """Features -> boxes before suppression, see :func:`..models.suppression.with_suppression`.

    float (N, C, fh, fw) -> corners, float (N, fh * fw, 4), and scores, float (N, classes, fh * fw).
    """

    shape: Tensor

    def __init__(self, maps: BoxMaps, classes: slice, input_size: tuple[int, int]) -> None:
        """Take these of the classes of `maps`; features cover `input_size` at 4 pixels."""
        super().__init__()
        self.maps, self.classes = maps, classes
        height, width = input_size
        self.register_buffer("shape", torch.tensor([width, height, width, height]) / STRIDE)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        made = self.maps(features)
        near, distances = made[:, :-4].sigmoid(), made[:, -4:].clamp(max=8).exp()
        rows, columns = features.shape[2:]
        y = (torch.arange(rows) + 0.5)[:, None].expand(rows, columns)
        x = (torch.arange(columns) + 0.5)[None].expand(rows, columns)
        centre = torch.stack([x, y])
        corners = torch.cat([centre - distances[:, :2], centre + distances[:, 2:]], 1)
        return corners.flatten(2).mT / self.shape, near[:, self.classes].flatten(2)


class PixelHead(nn.Module):
    """Features that are pixels -> what the expert sees in them."""

    def __init__(self, expert: nn.Module) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, features: Tensor) -> Tensor:
        return self.expert(to_frames(features))


def semantic_heads(
    network: TokenNetwork, expert: nn.Module, classes: Sequence[int]
) -> list[nn.Module]:
    """Return the heads of masks: float (N, C, fh, fw) -> logits (N, classes, h', w').

    They are the decoder's last layer, taken apart by task; `expert` where the decoder makes
    pixels.

    Args:
        network: whose decoder it is.
        expert: of the first task.
        classes: of each task, in the order of the decoder's logits.
    """
    if reconstructs(network):
        return [PixelHead(expert)]
    whole = network.decoder.classifier
    if len(classes) == 1:
        return [whole]
    heads: list[nn.Module] = []
    parts = zip(whole.weight.split(tuple(classes)), whole.bias.split(tuple(classes)), strict=True)
    for weight, bias in parts:
        head = nn.Conv2d(weight.shape[1], len(weight), 1)
        head.weight, head.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        heads.append(head.requires_grad_(False))
    return heads


def sends_labels(network: TokenNetwork) -> bool:
    """Return whether the tokens are labels."""
    return isinstance(network.decoder, LabelDecoder)


def reconstructs(network: TokenNetwork) -> bool:
    """Return whether the decoder makes pixels."""
    return isinstance(network.decoder, PixelDecoder)
