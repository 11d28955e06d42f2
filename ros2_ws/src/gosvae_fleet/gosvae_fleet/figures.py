"""What is known of one stream of a service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gosvae_common.diagnostics import Report
from gosvae_common.health import OK, WARN


class Figures(NamedTuple):
    """What is known of one stream."""

    vehicle: str
    camera: str
    bundle: str
    packets: int
    frames: int
    """Of which all was made that somebody listens to."""
    frames_per_s: float
    age_ms_p50: float
    """Age of frames when that is published; compares two clocks. NaN without any."""
    age_ms_p95: float
    last_frame_s: float
    """Since the newest of these frames; infinite before the first."""
    results: Mapping[str, int]
    """Messages published, by topic below the camera's base name."""
    bytes_per_frame: float
    kbit_per_s: float
    lost: int
    """Packets of the current stream that did not arrive."""
    skipped: int
    """Frames of which nothing was made, as a newer one came before a network was free."""
    failed: int
    """Frames whose network died, or failed."""
    without_reference: int
    rejected: Mapping[str, int]
    """Packets that could not be used, by the kind of error."""
    problem: str
    """Why packets are rejected now; empty if none are."""


def to_report(figures: Figures) -> Report:
    """Return what ``/diagnostics`` shows of a stream, in the words of a receiver."""
    values = {
        "bundle": figures.bundle,
        "made": ", ".join(figures.results),
        "frames": figures.frames,
        "packets": figures.packets,
        "frames/s": figures.frames_per_s,
        "bytes/frame": figures.bytes_per_frame,
        "kbit/s": figures.kbit_per_s,
        "mask age ms p50": figures.age_ms_p50,
        "mask age ms p95": figures.age_ms_p95,
        "last mask s": figures.last_frame_s,
        "lost packets": figures.lost,
        "skipped": figures.skipped,
        "failed": figures.failed,
        "without reference": figures.without_reference,
        "rejected": sum(figures.rejected.values()),
    }
    if figures.problem:
        return Report(WARN, f"packets rejected: {figures.problem}", values)
    return Report(OK, "receiving", values)
