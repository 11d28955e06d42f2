"""What a node's figures mean to an operator: thresholds, findings, and why nothing comes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.subscription import Subscription

from .messages import type_name
from .meters import Growth

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
LEVELS = {"ok": OK, "warn": WARN, "error": ERROR}
"""Levels as parameters name them."""

JUMP_SECONDS = 0.5
"""By how much a clock must leave the steady one between two looks to have jumped."""
SHOWN_TOPICS = 8
LEAST_PACKETS = 20
"""Of fewer packets one lost says little."""


@dataclass(frozen=True)
class Threshold:
    """Where a figure begins to worry, as parameters ``diagnostics.<name>.warn`` and ``.error``.

    Attributes:
        name: of the figure.
        what: the figure, with its unit, as a sentence begins.
        warn, error: values at which it gets that level by default; 0: never.
        most: the largest value of the parameters.
        below: whether it is the small values that worry.
    """

    name: str
    what: str
    warn: float
    error: float
    most: float
    below: bool = False

    @property
    def parameters(self) -> dict[str, tuple[float, str]]:
        """Default and description of each parameter, by name."""
        side = "below" if self.below else "from"
        return {
            f"diagnostics.{self.name}.{word}": (
                value,
                f"{self.what}: {word.upper()} {side} this value; 0: never.",
            )
            for word, value in (("warn", self.warn), ("error", self.error))
        }

    def level(self, value: float, warn: float, error: float) -> bytes:
        """Return the level of a value, given the parameters' values; OK for nan."""
        for limit, level in ((error, ERROR), (warn, WARN)):
            if limit and (value < limit if self.below else value >= limit):
                return level
        return OK


class Findings:
    """What there is to tell about a camera, of which the gravest comes first."""

    def __init__(self) -> None:
        self._found: list[tuple[bytes, str]] = []

    def add(self, level: bytes, text: str) -> None:
        """Take in one; at OK it is none."""
        if level != OK:
            self._found.append((level, text))

    def summary(self, otherwise: str) -> tuple[bytes, str]:
        """Return the gravest level and all texts in one line; OK and `otherwise` without any."""
        if not self._found:
            return OK, otherwise
        ordered = sorted(self._found, key=lambda found: found[0], reverse=True)
        return ordered[0][0], "; ".join(text for _, text in ordered)


class ClockWatch:
    """Notices jumps of the clock that stamps are compared with."""

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        """Compare with `steady`, seconds of a clock that is never set."""
        self._steady = steady
        self._before: tuple[float, float] | None = None

    def jump(self, now: float, simulated: bool) -> float:
        """Return by how many seconds the clock jumped since the last call; 0 where it did not.

        Args:
            now: seconds of the clock; 0: not known yet.
            simulated: whether it may run at any speed, or stand, so that only going back counts.
        """
        steady, before = self._steady(), self._before
        self._before = (now, steady) if now else None
        if before is None or not now:
            return 0.0
        change = now - before[0]
        if simulated:
            return change if change < 0 else 0.0
        change -= steady - before[1]
        return change if abs(change) > JUMP_SECONDS else 0.0


def explain_silence(
    node: Node, subscription: Subscription, kinds: Sequence[type], remedy: str
) -> str:
    """Return in a sentence why nothing may come to a subscription, and what to do about it.

    Args:
        node: whose view of the ROS graph counts.
        subscription: to what nothing comes.
        kinds: message types of topics that may have been meant instead.
        remedy: what to do where nobody publishes the topic.
    """
    topic, wanted = subscription.topic_name, type_name(subscription.msg_type)
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        names = {type_name(kind) for kind in kinds}
        others = [
            f"{name} ({', '.join(types)})"
            for name, types in node.get_topic_names_and_types()
            if names & set(types) and "/semantic/" not in name and node.count_publishers(name)
        ]
        there = f"there are {', '.join(others[:SHOWN_TOPICS])}" if others else where(node)
        return f"nobody publishes {topic}; {there}: {remedy}"
    typed = [each for each in publishers if each.topic_type == wanted]
    if not typed:
        return f"{topic} is {publishers[0].topic_type}, not {wanted}: {remedy}"
    for publisher in typed:
        compatibility, reason = qos_check_compatible(
            publisher.qos_profile, subscription.qos_profile
        )
        if compatibility != QoSCompatibility.ERROR:
            return f"{topic} is published by {publisher.node_name}, which sends nothing"
    return (
        f"the QoS of {topic} does not match its publisher {typed[0].node_name}: "
        f"{reason.rstrip(';')}; set image_qos, packet_qos or a qos_overrides parameter"
    )


def where(node: Node) -> str:
    """Return in which part of the network a node sees others."""
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    return (
        f"nothing like it is in ROS_DOMAIN_ID {node.context.get_domain_id()} "
        f"within ROS_AUTOMATIC_DISCOVERY_RANGE {reach}"
    )


def share(part: float, rest: float) -> float:
    """Return the share that `part` has of the whole, 0 to 1; nan of nothing."""
    return part / (part + rest) if part + rest else math.nan


class LossMeter:
    """Share of packets lost over the last seconds, from counts that grow."""

    def __init__(self) -> None:
        self._lost, self._received = Growth(), Growth()

    def update(self, lost: int, received: int) -> None:
        """Take in what the counts are now."""
        self._lost.update(lost)
        self._received.update(received)

    def value(self) -> float:
        """Return the share, 0 to 1; nan of too few packets to tell."""
        lost, received = self._lost.total(), self._received.total()
        return share(lost, received) if lost + received >= LEAST_PACKETS else math.nan


def fallback_text(provider: str, wanted: Sequence[str]) -> str:
    """Return what to tell where networks run on `provider`, not the first of those `wanted`."""
    return (
        f"running on {provider}, not on {wanted[0]}: install onnxruntime-gpu with its CUDA "
        "libraries and check nvidia-smi, or put what there is first in providers; gosvae doctor "
        "tells more"
    )


def mismatch_text(side: str, fingerprint: int) -> str:
    """Return what to tell where the other `side` has another bundle."""
    return (
        f"the {side} has another bundle, {fingerprint:016x}: give both nodes the same folder; "
        "gosvae inspect FOLDER tells its fingerprint"
    )


def age_problem(milliseconds: float) -> str:
    """Return what is odd about the typical age of masks; empty for nothing, or nan."""
    if math.isnan(milliseconds) or -100 <= milliseconds <= 60_000:
        return ""
    seconds = abs(milliseconds) / 1e3
    span = f"{seconds / 86400:.0f} days" if seconds > 2 * 86400 else f"{seconds:.1f} s"
    side = "before their frames' stamps" if milliseconds < 0 else "after their frames' stamps"
    return (
        f"masks come {span} {side}: synchronise the clocks of camera and receiver, or replay "
        "recordings with use_sim_time or restamped"
    )
