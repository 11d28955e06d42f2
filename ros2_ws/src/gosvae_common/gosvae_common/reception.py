"""Receiving one stream without ROS wiring or networks: packets to frames, and feedback on them."""

from __future__ import annotations

import math
import secrets
import time
from array import array
from collections import Counter
from collections.abc import Callable

from gosvae_codec import (
    DecodedFrame,
    EncodedFrame,
    FingerprintError,
    Header,
    MissingReferenceError,
    ModelBundle,
    Packet,
    Reassembler,
    SealError,
)
from gosvae_codec.keys import KeyFile
from gosvae_codec.sealing import FeedbackSealer, PacketOpener
from gosvae_codec.unpacking import UnpackedFrame
from gosvae_msgs.msg import Feedback

from .meters import ErrorLog, Meter

_COUNTER = 1 << 32
"""Counters of the feedback wrap around there."""


class Reception:
    """One stream's packets as they arrive, what became of its frames, and the feedback on both."""

    def __init__(
        self, bundle: ModelBundle, log: Callable[[str], object], keys: KeyFile | None = None
    ) -> None:
        """Begin to receive; errors of packets are counted and passed to `log`.

        With `keys`, packets must be sealed, and feedback is.
        """
        self.bundle = bundle
        self.rejections = ErrorLog(log)
        self.rejected: Counter[str] = Counter()
        """Packets that could not be used, by the class of the error."""
        self.foreign: int | None = None
        """Fingerprint of the last packet, where it was made with another bundle."""
        self.unsealed = ""
        """Why the last packet could not be opened; empty if it could."""
        self.packets = self.frames = 0
        """Packets accepted, and frames of which something was made."""
        self.undecodable = 0
        """Frames that referred to one that is missing."""
        self.frame_id = ""
        self.coverage = 0.0
        """Of the newest frame of which something was made."""
        self.age = math.nan
        """Its age in ms; NaN where there is none yet, or without a clock."""
        self.bytes, self.results, self.age_ms = Meter(), Meter(), Meter()
        self.reassembler = Reassembler()
        self._opener = None if keys is None else PacketOpener(keys)
        self._sealer = None if keys is None else FeedbackSealer(keys)
        self._receiver = secrets.randbits(64)
        """Number by which the transmitter tells this receiver from others of the stream."""
        self._acknowledged: tuple[int, int] | None = None
        """Stream and sequence of the newest frame that arrived completely."""
        self._request_intra = False
        """Whether frames refer to one that is missing."""
        self._feedback_at = -math.inf

    def receive(self, packet: Packet) -> list[EncodedFrame]:
        """Process a packet; return the frames that are ready to be unpacked.

        Packets that cannot be used are counted; none raises an error.
        """
        bundle = self.bundle
        try:
            size = packet.serialized_size()
            if self._opener is not None:
                packet = self._opener.open(packet)
            packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
        except Exception as error:
            self.reject(error)
            return []
        self.packets += 1
        self.foreign, self.unsealed = None, ""
        self.bytes.add(size)
        return self.reassembler.push(packet, time.monotonic())

    def reject(self, error: Exception) -> None:
        """Count a packet that cannot be used."""
        self.foreign = error.theirs if isinstance(error, FingerprintError) else None
        self.unsealed = str(error) if isinstance(error, SealError) else ""
        self.rejected[type(error).__name__] += 1
        self.rejections.add(error)

    def expire(self, before: float) -> list[EncodedFrame]:
        """Return the frames whose last packet came `before`, on the monotonic clock."""
        return self.reassembler.expire(before)

    def on_unpacked(self, stream: int, frame: UnpackedFrame | DecodedFrame) -> None:
        """Record that a frame of a stream was unpacked: later ones may refer to it."""
        self.frame_id = frame.header.frame_id
        self._request_intra = False
        if frame.complete:
            self._acknowledged = stream, frame.sequence

    def on_result(self, header: Header, coverage: float, now: int) -> None:
        """Record that something was made of a frame; `now` in ns, 0: not known yet."""
        self.frames += 1
        self.results.add(1)
        self.coverage = coverage
        self.age = math.nan
        if now and (header.sec or header.nanosec):
            self.age = now / 1e6 - (header.sec * 1e3 + header.nanosec / 1e6)
            self.age_ms.add(self.age)

    def on_error(self, error: Exception) -> None:
        """Record that a frame could not be decoded."""
        if isinstance(error, MissingReferenceError):
            self.undecodable += 1
            self._request_intra = True
        else:
            self.rejections.add(error)

    def is_feedback_due(self, period: float) -> bool:
        """Return whether packets arrive, and the last feedback is `period` seconds old."""
        received = self.bytes.rate() > 0 or self.rejections.meter.rate() > 0
        return received and time.monotonic() - self._feedback_at >= period

    def feedback(self) -> Feedback:
        """Return the feedback to send now, as a ``gosvae_msgs/Feedback`` without a stamp."""
        reassembler, acknowledged = self.reassembler, self._acknowledged
        stream = reassembler.stream or 0
        message = Feedback()
        message.header.frame_id = self.frame_id
        message.fingerprint = self.bundle.fingerprint
        message.stream = stream
        message.receiver = self._receiver
        # The frame may be of a stream that was replaced while it was decoded.
        if acknowledged is not None and acknowledged[0] == stream:
            message.has_acknowledged = True
            message.acknowledged = acknowledged[1]
        message.request_intra = self._request_intra
        message.packets_received = reassembler.received % _COUNTER
        message.packets_lost = reassembler.lost % _COUNTER
        newest = reassembler.newest
        if newest is not None:
            message.newest = newest[0]
            message.newest_arrival_us = round(newest[1] * 1e6) % _COUNTER
        message.packets_rejected = self.rejections.count % _COUNTER
        message.coverage = self.coverage
        message.mask_age_ms = self.age
        self._feedback_at = time.monotonic()
        return message

    def seal(self, feedback: Feedback) -> None:
        """Authenticate feedback whose other fields are all set, where there are keys."""
        if self._sealer is not None and self._opener is not None:
            feedback.seal = array("B", self._sealer.seal(feedback, self._opener.key))
