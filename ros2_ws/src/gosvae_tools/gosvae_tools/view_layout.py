"""How the page of `gosvae view` is arranged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import rerun.blueprint as rrb

FIGURES = {
    "bytes_per_frame": "bytes per frame",
    "kbit_per_s": "kbit/s",
    "mask_age": "mask age, ms",
    "loss": "packets lost, %",
    "coverage": "coverage of the mask, %",
}
"""Titles of the time series, by the entity that their cameras' lie under."""
SHOWN_SECONDS = 60.0
"""Length of the time series in view."""


def blueprint(
    cameras: Sequence[str], frames: bool, drawn: Mapping[str, Collection[str]] | None = None
) -> rrb.Blueprint:
    """Return the page's layout: each camera's pictures on the left, its figures on the right.

    Args:
        cameras: base names of their topics.
        frames: whether there are frames and overlays beside the masks.
        drawn: what there is of each camera beside masks: ``reconstruction``, ``depth``.
    """
    blocks: list[rrb.Vertical | rrb.Horizontal] = []
    for camera in cameras:
        received = [rrb.Spatial2DView(origin=f"{camera}/mask", name=f"{camera}: mask")]
        for name in sorted((drawn or {}).get(camera, ())):
            received.append(rrb.Spatial2DView(origin=f"{camera}/{name}", name=f"{camera}: {name}"))
        if frames:
            image = rrb.Spatial2DView(origin=f"{camera}/image", name=f"{camera}: frame")
            overlay = rrb.Spatial2DView(origin=f"{camera}/overlay", name=f"{camera}: overlay")
            beside = rrb.Horizontal(image, *received)
            blocks.append(rrb.Vertical(overlay, beside, row_shares=[2, 1], name=camera))
        else:
            blocks.append(rrb.Horizontal(*received, name=camera))
    lately = rrb.VisibleTimeRange(
        "log_time",
        start=rrb.TimeRangeBoundary.cursor_relative(seconds=-SHOWN_SECONDS),
        end=rrb.TimeRangeBoundary.cursor_relative(),
    )
    plots = (
        rrb.TimeSeriesView(
            origin=name,
            name=title,
            axis_y=rrb.ScalarAxis(range=(0.0, 100.0)) if title.endswith("%") else None,
            time_ranges=lately,
        )
        for name, title in FIGURES.items()
    )
    below = rrb.Horizontal(
        rrb.Spatial2DView(origin="legend", name="labels"),
        rrb.TextLogView(origin="status", name="status"),
    )
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(rrb.Grid(*blocks), below, row_shares=[4, 1]),
            rrb.Vertical(*plots),
            column_shares=[5, 2],
        ),
        # Stamps of two clocks, or of one that has not begun, would tear the time line apart.
        rrb.TimePanel(state="collapsed", timeline="log_time"),
        collapse_panels=True,
    )
