"""The library's exceptions; each message names the offending values and a remedy."""

from __future__ import annotations


class GosvaeError(Exception):
    """Base class of all errors that this library raises."""


class LabelError(GosvaeError):
    """A label space is malformed or lacks a requested label."""


class BundleError(GosvaeError):
    """A model bundle is missing, damaged, incompatible or incomplete."""


class ProviderError(GosvaeError):
    """A requested execution provider is not available on this machine."""


class ImageError(GosvaeError):
    """A frame has an encoding, size or layout that cannot be converted."""


class PacketError(GosvaeError):
    """A packet is malformed, corrupt or inconsistent with the bundle."""


class MissingReferenceError(PacketError):
    """A predicted frame refers to a frame that this receiver does not have."""


class KeyFileError(GosvaeError):
    """A key file cannot be used."""


class SealError(PacketError):
    """A packet or feedback is not sealed, not authentic, replayed, or sealed with another key."""


class FingerprintError(PacketError):
    """A packet was made with a bundle other than the receiver's."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(
            f"packet made with bundle {theirs:016x}, this receiver has {ours:016x}: "
            "give transmitter and receiver the same bundle folder"
        )
        self.theirs = theirs
        self.ours = ours
