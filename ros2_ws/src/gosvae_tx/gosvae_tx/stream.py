"""State, figures and findings of one camera's stream at the transmitter, without ROS wiring."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gosvae_codec import Encoder, Exposure, ImageConverter, Packet
from gosvae_codec.congestion import Report as LinkReport
from gosvae_codec.keys import KeyFile
from gosvae_codec.sealing import FeedbackOpener, PacketSealer
from gosvae_codec.sender import Feedback, Sender, Settings, datagram_size
from gosvae_common.delivery import DeliveryMeter
from gosvae_common.diagnostics import Report
from gosvae_common.fastdds import PROFILE_VARIABLE
from gosvae_common.health import ERROR, WARN, Findings, Judge, LossMeter, StampWatch, share
from gosvae_common.messages import from_header_message
from gosvae_common.meters import ErrorLog, Meter

FEEDBACK_SECONDS = 5.0
"""How long feedback from the receiver is taken as current."""
UNUSABLE_FRAMES = 10
"""Frames in a row that show nothing before this is reported, as cameras adapt within a second."""
MAX_DROPS = 0.5
"""Share of dropped frames above which this process itself may fail to take frames in time, as at a
replay of many times the camera's rate."""


class Conditions(NamedTuple):
    """What the node knows and the stream does not."""

    judge: Judge
    providers: Sequence[str]
    max_kbit_per_s: float
    camera_publishers: int
    """Publishers of the frames; 0 while they are not subscribed to."""
    listeners: int
    """Subscribers of the packets."""
    dropped: int
    """Frames dropped in favour of newer ones since activation."""
    drop_rate: float
    """The same, per second, lately."""
    feedback_topic: str
    profile: str
    """Path of the Fast DDS profile that ships."""
    explain_silence: Callable[[], str] | None
    """Why no frames arrive; None while they are not subscribed to."""


class Stream:
    """One camera's stream since activation."""

    def __init__(
        self,
        encoder: Encoder,
        converter: ImageConverter,
        log: Callable[[str], object],
        keys: KeyFile | None = None,
    ) -> None:
        """Begin a stream; errors of frames are counted and passed to `log`.

        With `keys`, packets are sealed, and feedback must be authentic.
        """
        self._sender = Sender(encoder, sealer=None if keys is None else PacketSealer(keys))
        self._opener = None if keys is None else FeedbackOpener(keys)
        self._unsealed = ""
        """Why the last feedback was dropped; empty if it was not."""
        self._unsealed_feedback = 0
        self._converter = converter
        self._feedback: Any = None
        self._heard = self._heard_any = 0.0
        self._begun = math.inf
        """When the first frame was sent."""
        self._frames = self._intra_frames = self._packets = 0
        self._bytes, self._link_bytes = Meter(), Meter()
        self._encode_ms, self._levels, self._parity = Meter(), Meter(), Meter()
        self._distance, self._intra, self._skips = Meter(), Meter(), Meter()
        self._unusable = 0
        self._exposure = ""
        self._loss = LossMeter()
        self._failures = ErrorLog(log)
        self.expect_frames()

    def expect_frames(self) -> None:
        """Measure from now on whether frames arrive."""
        self._arrivals, self._delivery, self._stamps = Meter(), DeliveryMeter(), StampWatch()

    def on_frame(self, message: Any) -> None:
        """Record that a frame has been received, a ``sensor_msgs`` message."""
        stamp = message.header.stamp
        self._arrivals.add(1)
        self._stamps.add(stamp.sec, stamp.nanosec)
        self._delivery.add(stamp.sec * 1_000_000_000 + stamp.nanosec)

    def encode(self, message: Any, settings: Settings) -> Sequence[Packet]:
        """Return the packets of a frame; none if it is skipped.

        Raises:
            ImageError, PacketError, ValueError: see :meth:`Sender.send` and
                :meth:`ImageConverter.to_rgb`.
        """
        begin = time.perf_counter()
        frame = self._converter.to_rgb(message)
        self._exposure = Exposure.of(frame).problem
        self._unusable = self._unusable + 1 if self._exposure else 0
        packets = self._sender.send(frame, from_header_message(message.header), settings)
        if packets:
            self._count(packets, (time.perf_counter() - begin) * 1e3)
        else:
            self._skips.add(1)
        return packets

    def _count(self, packets: Sequence[Packet], milliseconds: float) -> None:
        self._encode_ms.add(milliseconds)
        self._bytes.add(sum(packet.serialized_size() for packet in packets))
        self._link_bytes.add(sum(map(datagram_size, packets)))
        self._begun = min(self._begun, time.monotonic())
        self._frames += 1
        self._packets += len(packets)
        first = packets[0]
        self._levels.add(first.levels)
        self._parity.add(len(packets) - first.slice_count)
        if first.reference == 0:
            self._intra.add(1)
            self._intra_frames += 1
        else:
            self._distance.add(first.reference)

    def on_error(self, error: Exception) -> None:
        """Record that a frame could not be encoded."""
        self._failures.add(error)

    def on_feedback(self, message: Any) -> None:
        """Process a ``gosvae_msgs/Feedback`` of the receiver."""
        self._heard_any = time.monotonic()
        try:
            if self._opener is not None:
                self._opener.check(message)
        except Exception as error:
            self._unsealed = str(error)
            self._unsealed_feedback += 1
            return
        self._unsealed = ""
        if self._opener is None and len(message.seal):
            self._unsealed = "the receiver expects sealed packets, but no key file is given here"
        self._feedback = message
        self._heard = time.monotonic()
        if message.fingerprint != self._sender.encoder.bundle.fingerprint:
            return
        usable = message.has_acknowledged and not message.request_intra
        link = LinkReport(
            message.packets_received,
            message.packets_lost,
            message.newest,
            message.newest_arrival_us,
        )
        acknowledged = message.acknowledged if usable else None
        self._sender.on_feedback(Feedback(message.stream, acknowledged, link, message.receiver))

    def report(self, conditions: Conditions, active: bool) -> Report:
        """Return level, text and figures for diagnostics."""
        values = self._figures(conditions)
        if not active:
            return Report(WARN, "inactive", values)
        findings = Findings(conditions.judge)
        self._judge_feedback(findings, values)
        if conditions.explain_silence is None:
            return Report(*findings.summary("waiting for a receiver"), values)
        rate = self._bytes.rate()
        drops = share(conditions.drop_rate, rate)
        self._judge_frames(findings, conditions, rate)
        self._judge_input(findings, conditions, values["undelivered"], drops)
        if rate > 0:
            unanswered = time.monotonic() - max(self._heard, self._begun)
            findings.figure(
                "feedback_s",
                unanswered,
                f"no feedback for {unanswered:.0f} s, so no frame is predicted: is the receiver "
                f"active, and does {conditions.feedback_topic} come back over the link?",
            )
        findings.drops(drops)
        findings.fallback(self._sender.encoder.session, conditions.providers)
        return Report(*findings.summary("sending"), values)

    def _figures(self, conditions: Conditions) -> dict[str, Any]:
        control, intra = self._sender.control, self._intra.rate()
        return {
            "provider": self._sender.encoder.session.provider,
            "camera publishers": conditions.camera_publishers,
            "listeners": conditions.listeners,
            "levels": self._levels.mean(),
            "frames": self._frames,
            "intra frames": self._intra_frames,
            "predicted frames": self._frames - self._intra_frames,
            "reference distance": self._distance.mean(),
            "packets": self._packets,
            "frames/s": self._bytes.rate(),
            "bytes/frame": self._bytes.mean(),
            "kbit/s": self._bytes.sum_rate() * 8 / 1000,
            "kbit/s with headers": self._link_bytes.sum_rate() * 8 / 1000,
            "max kbit/s": conditions.max_kbit_per_s or "none",
            "target kbit/s": control.target / 1000 if math.isfinite(control.target) else "none",
            "rate control": control.state(time.monotonic()),
            "receivers": len(control.receivers),
            "queue on the way ms": control.queue * 1e3,
            "feedback not sealed": self._unsealed_feedback,
            "skipped": control.skipped,
            "skipped/s": self._skips.rate(),
            "intra spacing s": 1 / intra if intra else math.nan,
            "parity/frame": self._parity.mean(),
            "encode ms p50": self._encode_ms.percentile(0.5),
            "encode ms p95": self._encode_ms.percentile(0.95),
            "bits": self._converter.bits,
            "undelivered": self._delivery.lost_share(),
            "dropped": conditions.dropped,
            "failed": self._failures.count,
            "last failure": self._failures.last,
        }

    def _judge_feedback(self, findings: Findings, values: dict[str, Any]) -> None:
        """Add what the receiver tells, where its feedback is current."""
        if self._unsealed and time.monotonic() - self._heard_any < FEEDBACK_SECONDS:
            findings.event("seal", self._unsealed)
        feedback = self._feedback
        if feedback is None or time.monotonic() - self._heard >= FEEDBACK_SECONDS:
            return
        values["receiver fingerprint"] = f"{feedback.fingerprint:016x}"
        values["receiver lost"] = feedback.packets_lost
        values["loss"] = self._sender.control.loss
        values["receiver rejected"] = feedback.packets_rejected
        if feedback.fingerprint != self._sender.encoder.bundle.fingerprint:
            findings.mismatch("receiver", feedback.fingerprint)
        self._loss.update(feedback.packets_lost, feedback.packets_received)
        findings.loss(self._loss.value())

    def _judge_frames(self, findings: Findings, conditions: Conditions, rate: float) -> None:
        """Add why no frames, or too few, are sent."""
        explain = conditions.explain_silence
        if explain and findings.silence("frames", self._arrivals.silence(), explain):
            return
        if self._skips.rate() > 0 and rate == 0:
            limit = conditions.max_kbit_per_s
            text = f"max_kbit_per_s {limit:g} leaves no room for a single frame: raise it"
            findings.add(ERROR, text)
        elif self._failures.meter.rate() > 0:
            level = WARN if rate > 0 else ERROR
            findings.add(level, f"frames that cannot be encoded: {self._failures.last}")
        elif self._frames:
            findings.rate("frames sent", rate)

    def _judge_input(
        self, findings: Findings, conditions: Conditions, undelivered: float, drops: float
    ) -> None:
        """Add what is wrong with the frames that arrive."""
        if not drops > MAX_DROPS:
            findings.figure(
                "undelivered",
                undelivered,
                f"{undelivered:.0%} of the camera's frames do not arrive, as the gaps between "
                "their stamps show: its driver probably runs without the Fast DDS profile that "
                f"has room for images; export {PROFILE_VARIABLE}={conditions.profile} before the "
                "driver starts, or lower the size or rate of its images",
            )
        if problem := self._stamps.problem:
            findings.add(WARN, problem)
        if self._unusable >= UNUSABLE_FRAMES:
            findings.add(
                WARN,
                f"{self._exposure}: masks mean nothing; check lens cap and exposure and, for "
                "16-bit encodings, the parameter bits",
            )
