"""The networks of one bundle, as a stateless deployment of Ray Serve: tokens to masks."""

from __future__ import annotations

from collections.abc import Sequence

from gosvae_codec import ModelBundle
from gosvae_codec.decoder import Networks, finish, run
from gosvae_codec.masks import Mask
from gosvae_codec.unpacking import UnpackedFrame


def network_name(fingerprint: int) -> str:
    """Return the name of the deployment that makes masks of a bundle's tokens."""
    return f"{fingerprint:016x}"


class Network:
    """One replica."""

    def __init__(self, path: str, providers: Sequence[str], threads: int, batch: int) -> None:
        """Load the networks of the bundle at `path`, for up to `batch` frames in one inference.

        Raises:
            BundleError, ProviderError: see :meth:`Networks.load`.
        """
        self._bundle = ModelBundle.load(path)
        self._task = self._bundle.semantic
        self._task.prepare()
        self._networks = Networks.load(self._bundle, providers, threads, batch, [self._task.name])
        self._batch = batch

    def __call__(self, frames: Sequence[UnpackedFrame]) -> list[Mask]:
        """Return the masks of frames of any streams, uint8 (H, W) label ids each."""
        masks: list[Mask] = []
        for begin in range(0, len(frames), self._batch):
            part = frames[begin : begin + self._batch]
            for frame, made in zip(part, run(self._networks, part), strict=True):
                masks.append(finish(self._bundle, frame, made).mask)
        return masks
