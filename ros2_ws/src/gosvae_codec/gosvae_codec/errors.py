"""What can go wrong, each kind with the offending values in its message."""

from __future__ import annotations


class GosvaeError(Exception):
    """Base of all errors that this library raises on purpose."""


class LabelError(GosvaeError):
    """A label space is malformed, or lacks a label that was asked for."""


class BundleError(GosvaeError):
    """A model bundle is missing, truncated, altered, foreign, or lacks a part."""


class ProviderError(GosvaeError):
    """An execution provider was asked for that this machine cannot offer."""


class ImageError(GosvaeError):
    """A frame has an encoding, size or layout that cannot be converted."""


class PacketError(GosvaeError):
    """A packet is malformed, corrupt, or contradicts the bundle."""


class MissingReferenceError(PacketError):
    """A predicted frame refers to one that this receiver does not have."""


class FingerprintError(PacketError):
    """A packet was made with another bundle than the receiver's."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(
            f"packet made with bundle {theirs:016x}, this receiver has {ours:016x}: "
            "give transmitter and receiver the same bundle folder"
        )
        self.theirs = theirs
        self.ours = ours
