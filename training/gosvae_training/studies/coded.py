"""Bytes of a row's tokens by an entropy coder that is fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gosvae_codec.entropy import TokenCoder
from gosvae_codec.manifest import ENCODER, PRIOR
from gosvae_codec.prior import Prior

from ..bundle.graphs import Coder, EncoderGraph
from ..bundle.onnx_export import to_onnx
from ..config import Prior as PriorSettings
from ..data.samples import Dataset
from ..prior import fit_prior


def coded_size(
    network: Coder,
    example: Tensor,
    familiar: Dataset,
    settings: PriorSettings,
    seed: int,
    folder: Path,
) -> Callable[[Tensor], int]:
    """Return what gives the payload of a frame in bytes, each frame by itself, without headers.

    Args:
        network: trained; has an encoder and codebooks.
        example: a frame of the size that it takes, uint8 (1, H, W, 3).
        familiar: frames that the prior is fitted to, those that were trained on.
        settings: how it is fitted.
        seed: of the fit.
        folder: of the row, where the prior is kept; one that is there is not fitted again.
    """
    encoder = EncoderGraph(network).eval()
    nothing = encoder.no_reference(example)
    codebooks = network.codebooks().detach().numpy()
    levels, codes, _ = codebooks.shape
    path = folder / PRIOR
    if not path.exists():
        two = tuple(torch.cat([each, each]) for each in (example, nothing))
        graph = to_onnx(encoder, two, (["frames", "reference"], ["tokens"]))
        (folder / ENCODER).write_bytes(graph.SerializeToString())
        fit_prior(folder, codebooks, familiar, settings, seed)
    grid = (int(nothing.shape[2]), int(nothing.shape[3]))
    coder = TokenCoder(Prior.load(path, levels, codes, grid), codes, grid)

    @torch.inference_mode()
    def size(frame: Tensor) -> int:
        tokens = encoder(frame, nothing)[0]
        return len(coder.encode(tokens.numpy().astype(np.uint16), 0, None))

    return size
