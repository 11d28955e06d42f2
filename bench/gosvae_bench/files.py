"""Which bundle is measured, on which machine, and figures written whole or not at all."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from gosvae_codec.draft import draft

BUNDLE = Path("models/camvid-base-layered")
"""In this repository; measured where no other is named, as the Makefile does."""


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure of Matplotlib, whole or not at all."""
    with draft(path, replace=True) as new:
        figure.savefig(new, dpi=dpi)


def machine() -> dict[str, Any]:
    """Return what timings depend on: the model of the CPU and the number of its cores."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {"cpu": model, "cores": os.cpu_count(), "gpu": None}
