"""State, figures and findings of one camera's stream at the receiver, without ROS wiring."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gosvae_codec import DecodedFrame, Decoder, EncodedFrame
from gosvae_codec.keys import KeyFile
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
from gosvae_common.meters import Meter
from gosvae_common.reception import Reception


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


class Stream(Reception):
    """One camera's stream since activation."""

    def __init__(
        self, decoder: Decoder, log: Callable[[str], object], keys: KeyFile | None = None
    ) -> None:
        """See :class:`Reception`."""
        super().__init__(decoder.bundle, log, keys)
        self.decoder = decoder
        self._tasks: tuple[str, ...] = ()
        """What was made of the newest frame."""
        self._frame_bytes, self._decode_ms = Meter(), Meter()
        self._stamps = StampWatch()
        self._loss = LossMeter()

    def on_packet(self, message: Any) -> list[EncodedFrame]:
        """Process a ``gosvae_msgs/TokenPacket``; see :meth:`Reception.receive`."""
        return self.receive(from_packet_message(message))

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
        self.on_unpacked(frame.packets[0].stream, decoded)
        self.on_result(header, decoded.coverage, now)
        self._decode_ms.add(milliseconds)
        self._frame_bytes.add(sum(packet.serialized_size() for packet in frame.packets))
        self._stamps.add(header.sec, header.nanosec)
        self._tasks = tuple(decoded.tasks)

    def on_clock_jump(self) -> None:
        """Discard ages, which were measured against the clock before it jumped."""
        self.age_ms = Meter()

    def report(self, conditions: Conditions) -> Report:
        """Return level, text and figures for diagnostics."""
        self._loss.update(self.reassembler.lost, self.reassembler.received)
        values = self._figures(conditions)
        if conditions.explain_silence is None:
            return Report(WARN, "inactive", values)
        findings = Findings(conditions.judge)
        masks = self.results.rate()
        self._judge_packets(findings, conditions.explain_silence, values, masks)
        self._judge_masks(findings, conditions, values, masks)
        findings.loss(values["loss"])
        findings.drops(share(conditions.drop_rate, masks))
        if self.frames:
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
            "frames": self.frames,
            "packets": self.packets,
            "frames/s": self.results.rate(),
            "bytes/frame": self._frame_bytes.mean(),
            "kbit/s": self.bytes.sum_rate() * 8 / 1000,
            "decode ms p50": self._decode_ms.percentile(0.5),
            "decode ms p95": self._decode_ms.percentile(0.95),
            "mask age ms p50": self.age_ms.percentile(0.5),
            "mask age ms p95": self.age_ms.percentile(0.95),
            "last mask s": self.results.silence() if self.frames else math.nan,
            "coverage": self.coverage,
            "loss": self._loss.value(),
            "lost packets": self.reassembler.lost,
            "stale packets": self.reassembler.stale,
            "dropped": conditions.dropped,
            "without reference": self.undecodable,
            "rejected": self.rejections.count,
            "not sealed": self.rejected["SealError"],
            "last rejection": self.rejections.last,
        }

    def _judge_packets(
        self, findings: Findings, explain: Callable[[], str], values: dict[str, Any], masks: float
    ) -> None:
        """Add what is wrong with the packets that arrive, or that none do."""
        rejected = self.rejections.meter.rate() > 0
        if rejected and self.foreign is not None:
            values["sender fingerprint"] = f"{self.foreign:016x}"
            findings.mismatch("transmitter", self.foreign)
        elif rejected and self.unsealed:
            findings.event("seal", self.unsealed)
        elif rejected:
            findings.add(WARN, f"packets rejected: {self.rejections.last}")
        silence = min(self.bytes.silence(), self.rejections.meter.silence())
        silent = findings.silence("packets", silence, explain)
        if not silent and masks == 0 and not rejected and self.reassembler.stale:
            findings.add(WARN, "packets arrive, but are older than what was decoded")

    def _judge_masks(
        self, findings: Findings, conditions: Conditions, values: dict[str, Any], masks: float
    ) -> None:
        """Add what is wrong with the age of masks."""
        _, limit = conditions.judge.limits("silence_s")
        if self.frames and limit and self.results.silence() >= limit:
            findings.add(STALE, f"the last mask is {self.results.silence():.0f} s old")
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
