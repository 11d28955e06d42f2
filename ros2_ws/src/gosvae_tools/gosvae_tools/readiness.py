"""Whether all nodes of a pipeline receive from each other, by their reports on `/diagnostics`.

DDS discovery is not symmetric: a publisher knows of a subscription some time before that
subscription can receive from it. So both ends of each topic have to report the match.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticArray

from gosvae_common.topics import MASK, PACKETS

TRANSMITTER, RECEIVER, RECORDER = "gosvae_tx", "gosvae_rx", "gosvae_record"


class Need(NamedTuple):
    """A figure in a node's diagnostics of a camera, and how great it has to be."""

    node: str
    camera: str
    key: str
    least: int


class Readiness:
    """What is missing before a drive can be played.

    Args:
        nodes: names of the nodes to wait for: ``gosvae_tx``, ``gosvae_rx``, and recordings, which
            are called ``gosvae_record``, of one side ``gosvae_record_tx`` or ``gosvae_record_rx``.
        cameras: base names of the cameras, each with its topic of labels, empty for none.
    """

    def __init__(self, nodes: Sequence[str], cameras: Mapping[str, str]) -> None:
        self._needs = [
            need
            for camera, label in cameras.items()
            for node in nodes
            for need in _needs(node, camera, label, nodes)
        ]
        self._reported: dict[tuple[str, str], Mapping[str, str]] = {}

    def take(self, message: DiagnosticArray) -> None:
        """Store what a node reports."""
        for status in message.status:
            name, _, camera = status.name.partition(": ")
            values = {pair.key: pair.value for pair in status.values}
            self._reported[name.rpartition("/")[2], camera.strip("/")] = values

    def missing(self) -> list[str]:
        """Return what is missing, one line each; none if the drive can be played."""
        lines = []
        for need in self._needs:
            values = self._reported.get((need.node, need.camera))
            if values is None:
                line = f"{need.node} reports nothing of {need.camera}"
            elif not _reaches(values.get(need.key, ""), need.least):
                found = values.get(need.key) or "no"
                line = f"{need.node} has {found} of {need.least} {need.key} of {need.camera}"
            else:
                continue
            if line not in lines:
                lines.append(line)
        return lines


def _needs(node: str, camera: str, label: str, nodes: Sequence[str]) -> Iterator[Need]:
    recorders = {
        side: any(each in (RECORDER, f"{RECORDER}_{side}") for each in nodes)
        for side in ("tx", "rx")
    }
    if node == TRANSMITTER:
        yield Need(node, camera, "camera publishers", 1)
        listeners = (RECEIVER in nodes) + recorders["tx"]
        yield Need(node, camera, "listeners", listeners)
    elif node == RECEIVER:
        if TRANSMITTER in nodes:
            yield Need(node, camera, "transmitters", 1)
        yield Need(node, camera, "listeners of semantic", int(recorders["rx"]))
    elif node.startswith(RECORDER):
        if TRANSMITTER in nodes and node != f"{RECORDER}_rx":
            yield Need(node, camera, f"publishers of {PACKETS}", 1)
            if label:
                yield Need(node, camera, f"publishers of {label}", 1)
        if RECEIVER in nodes and node != f"{RECORDER}_tx":
            yield Need(node, camera, f"publishers of {MASK}", 1)


def _reaches(text: str, count: int) -> bool:
    return text.isdecimal() and int(text) >= count
