"""Files of results, written whole or not at all, and the machine that they are of."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def machine() -> dict[str, Any]:
    """Return what the timings depend on."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {"cpu": model, "cores": os.cpu_count(), "gpu": None}
