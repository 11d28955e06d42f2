"""Diagnostic messages from levels, texts and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue


class Report(NamedTuple):
    """What a node reports of one camera, or of itself."""

    level: bytes
    text: str
    """One line, the most serious finding first."""
    values: Mapping[str, Any]


def to_status(report: Report, node: str, camera: str = "") -> DiagnosticStatus:
    """Return a report as a message; `camera` is empty for the node itself."""
    return DiagnosticStatus(
        level=report.level,
        name=f"{node}: {camera}" if camera else node,
        message=report.text,
        hardware_id=camera,
        values=[KeyValue(key=key, value=_text(value)) for key, value in report.values.items()],
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.2f}"
    return str(value)
