"""State, figures and findings of one camera's stream at the receiver, without ROS wiring."""

from __future__ import annotations

import math
import secrets
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gosvae_codec import (
    DecodedFrame,
    Decoder,
    EncodedFrame,
    FingerprintError,
    MissingReferenceError,
    Reassembler,
    SealError,
)
from gosvae_codec.keys import KeyFile
from gosvae_codec.sealing import FeedbackSealer, PacketOpener
from gosvae_common.diagnostics import Report
from gosvae_common.health import (
    STALE,
    WARN,
    Findings,
    Judge,
    LossMeter,
    StampWatch,
    age_problem,
    share,
)
from gosvae_common.messages import from_packet_message
from gosvae_common.meters import ErrorLog, Meter
from gosvae_msgs.msg import Feedback

_COUNTER = 1 << 32
"""Counters of the feedback wrap around there."""


class Conditions(NamedTuple):
    """What the node knows and the stream does not."""

    judge: Judge
    providers: Sequence[str]
    transmitters: int
    """Publishers of the packets."""
    listeners: Mapping[str, int]
    """Subscribers of what each task makes, by its name."""
    dropped: int
    """Frames dropped in favour of newer ones since activation."""
    drop_rate: float
    """The same, per second, lately."""
    clock_stands: bool
    """Whether simulated time is used and nobody publishes it."""
    explain_silence: Callable[[], str] | None
    """Why no packets arrive; None while the node is inactive."""


class Stream:
    """One camera's stream since activation."""

    def __init__(
        self, decoder: Decoder, log: Callable[[str], object], keys: KeyFile | None = None
    ) -> None:
        """Begin to receive; errors of packets are counted and passed to `log`.

        With `keys`, packets must be sealed, and feedback is.
        """
        self.decoder = decoder
        self._opener = None if keys is None else PacketOpener(keys)
        self._sealer = None if keys is None else FeedbackSealer(keys)
        self._unsealed = ""
        """Why the last packet could not be opened; empty if it could."""
        self._unsealed_packets = 0
        self._receiver = secrets.randbits(64)
        """Number by which the transmitter tells this receiver from others of the stream."""
        self._reassembler = Reassembler()
        self._rejections = ErrorLog(log)
        self._foreign: int | None = None
        """Fingerprint of the last packet, where it was made with another bundle."""
        self._frames = self._packets = 0
        self._coverage = 0.0
        self._tasks: tuple[str, ...] = ()
        """What was made of the newest frame."""
        self._age = math.nan
        self._acknowledged: tuple[int, int] | None = None
        """Stream and sequence of the newest frame decoded completely."""
        self._request_intra = False
        """Whether frames refer to one that is missing."""
        self._undecodable = 0
        self._frame_id = ""
        self._feedback_at = -math.inf
        self._bytes, self._frame_bytes = Meter(), Meter()
        self._masks, self._decode_ms, self._age_ms = Meter(), Meter(), Meter()
        self._stamps = StampWatch()
        self._loss = LossMeter()

    def on_packet(self, message: Any) -> list[EncodedFrame]:
        """Process a ``gosvae_msgs/TokenPacket``; return the frames that are ready to be decoded.

        Packets that cannot be used are counted; none raises an error.
        """
        bundle = self.decoder.bundle
        try:
            packet = from_packet_message(message)
            size = packet.serialized_size()
            if self._opener is not None:
                packet = self._opener.open(packet)
            packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
        except Exception as error:
            self._foreign = error.theirs if isinstance(error, FingerprintError) else None
            self._unsealed = str(error) if isinstance(error, SealError) else ""
            self._unsealed_packets += bool(self._unsealed)
            self._rejections.add(error)
            return []
        self._packets += 1
        self._foreign, self._unsealed = None, ""
        self._bytes.add(size)
        return self._reassembler.push(packet, time.monotonic())

    def expire(self, before: float) -> list[EncodedFrame]:
        """Return the frames whose last packet came `before`, on the monotonic clock."""
        return self._reassembler.expire(before)

    def on_mask(
        self, frame: EncodedFrame, decoded: DecodedFrame, milliseconds: float, now: int
    ) -> None:
        """Record a frame that has been decoded.

        Args:
            frame: its packets.
            decoded: what was made of it.
            milliseconds: that decoding took.
            now: ns of the node's clock; 0: not known yet.
        """
        header = decoded.header
        self._decode_ms.add(milliseconds)
        self._frames += 1
        self._masks.add(1)
        self._frame_bytes.add(sum(packet.serialized_size() for packet in frame.packets))
        self._stamps.add(header.sec, header.nanosec)
        self._age = math.nan
        if now and (header.sec or header.nanosec):
            self._age = now / 1e6 - (header.sec * 1e3 + header.nanosec / 1e6)
            self._age_ms.add(self._age)
        self._coverage = decoded.coverage
        self._tasks = tuple(decoded.tasks)
        self._frame_id = header.frame_id
        self._request_intra = False
        if decoded.complete:
            self._acknowledged = (frame.packets[0].stream, decoded.sequence)

    def on_error(self, error: Exception) -> None:
        """Record that a frame could not be decoded."""
        if isinstance(error, MissingReferenceError):
            self._undecodable += 1
            self._request_intra = True
        else:
            self._rejections.add(error)

    def on_clock_jump(self) -> None:
        """Discard ages, which were measured against the clock before it jumped."""
        self._age_ms = Meter()

    def is_feedback_due(self, period: float) -> bool:
        """Return whether packets arrive, and the last feedback is `period` seconds old."""
        received = self._bytes.rate() > 0 or self._rejections.meter.rate() > 0
        return received and time.monotonic() - self._feedback_at >= period

    def feedback(self) -> Feedback:
        """Return the feedback to send now, as a ``gosvae_msgs/Feedback`` without a stamp."""
        stream, acknowledged = self._reassembler.stream or 0, self._acknowledged
        message = Feedback()
        message.header.frame_id = self._frame_id
        message.fingerprint = self.decoder.bundle.fingerprint
        message.stream = stream
        message.receiver = self._receiver
        # The frame may be of a stream that was replaced while it was decoded.
        if acknowledged is not None and acknowledged[0] == stream:
            message.has_acknowledged = True
            message.acknowledged = acknowledged[1]
        message.request_intra = self._request_intra
        message.packets_received = self._reassembler.received % _COUNTER
        message.packets_lost = self._reassembler.lost % _COUNTER
        newest = self._reassembler.newest
        if newest is not None:
            message.newest = newest[0]
            message.newest_arrival_us = round(newest[1] * 1e6) % _COUNTER
        message.packets_rejected = self._rejections.count % _COUNTER
        message.coverage = self._coverage
        message.mask_age_ms = self._age
        self._feedback_at = time.monotonic()
        return message

    def seal(self, feedback: Feedback) -> None:
        """Authenticate feedback whose other fields are all set, where there are keys."""
        if self._sealer is not None and self._opener is not None:
            feedback.seal = array("B", self._sealer.seal(feedback, self._opener.key))

    def report(self, conditions: Conditions) -> Report:
        """Return level, text and figures for diagnostics."""
        self._loss.update(self._reassembler.lost, self._reassembler.received)
        values = self._figures(conditions)
        if conditions.explain_silence is None:
            return Report(WARN, "inactive", values)
        findings = Findings(conditions.judge)
        masks = self._masks.rate()
        self._judge_packets(findings, conditions.explain_silence, values, masks)
        self._judge_masks(findings, conditions, values, masks)
        findings.loss(values["loss"])
        findings.drops(share(conditions.drop_rate, masks))
        if self._frames:
            findings.rate("masks", masks)
        features, heads = self.decoder.networks
        sessions = [features, *(session for _, session in heads.values())]
        slow = next((each for each in sessions if each.fell_back), features)
        findings.fallback(slow, conditions.providers)
        return Report(*findings.summary("receiving"), values)

    def _figures(self, conditions: Conditions) -> dict[str, Any]:
        return {
            "provider": self.decoder.networks.features.provider,
            "transmitters": conditions.transmitters,
            **{f"listeners of {name}": count for name, count in conditions.listeners.items()},
            **{
                f"version of {name}": task.version[:16]
                for name, (task, _) in self.decoder.networks.heads.items()
            },
            "tasks": ", ".join(self._tasks),
            "frames": self._frames,
            "packets": self._packets,
            "frames/s": self._masks.rate(),
            "bytes/frame": self._frame_bytes.mean(),
            "kbit/s": self._bytes.sum_rate() * 8 / 1000,
            "decode ms p50": self._decode_ms.percentile(0.5),
            "decode ms p95": self._decode_ms.percentile(0.95),
            "mask age ms p50": self._age_ms.percentile(0.5),
            "mask age ms p95": self._age_ms.percentile(0.95),
            "last mask s": self._masks.silence() if self._frames else math.nan,
            "coverage": self._coverage,
            "loss": self._loss.value(),
            "lost packets": self._reassembler.lost,
            "stale packets": self._reassembler.stale,
            "dropped": conditions.dropped,
            "without reference": self._undecodable,
            "rejected": self._rejections.count,
            "not sealed": self._unsealed_packets,
            "last rejection": self._rejections.last,
        }

    def _judge_packets(
        self, findings: Findings, explain: Callable[[], str], values: dict[str, Any], masks: float
    ) -> None:
        """Add what is wrong with the packets that arrive, or that none do."""
        rejected = self._rejections.meter.rate() > 0
        if rejected and self._foreign is not None:
            values["sender fingerprint"] = f"{self._foreign:016x}"
            findings.mismatch("transmitter", self._foreign)
        elif rejected and self._unsealed:
            findings.event("seal", self._unsealed)
        elif rejected:
            findings.add(WARN, f"packets rejected: {self._rejections.last}")
        silence = min(self._bytes.silence(), self._rejections.meter.silence())
        silent = findings.silence("packets", silence, explain)
        if not silent and masks == 0 and not rejected and self._reassembler.stale:
            findings.add(WARN, "packets arrive, but are older than what was decoded")

    def _judge_masks(
        self, findings: Findings, conditions: Conditions, values: dict[str, Any], masks: float
    ) -> None:
        """Add what is wrong with the age of masks."""
        _, limit = conditions.judge.limits("silence_s")
        if self._frames and limit and self._masks.silence() >= limit:
            findings.add(STALE, f"the last mask is {self._masks.silence():.0f} s old")
        if problem := self._stamps.problem:
            findings.add(WARN, problem)
        elif masks > 0 and conditions.clock_stands:
            findings.add(WARN, "use_sim_time is set, but nobody publishes /clock")
        median, age = values["mask age ms p50"], values["mask age ms p95"]
        if problem := age_problem(median) or age_problem(age):
            findings.add(WARN, problem)
            return
        findings.figure(
            "mask_age_ms",
            age,
            f"masks are {age:.0f} ms old, of which decoding takes {values['decode ms p95']:.0f} "
            "ms; the rest is the transmitter's encode ms and queue on the way ms, or clocks that "
            "differ",
        )
