"""What a fleet's service is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOCAL = "local"


@dataclass(frozen=True)
class Settings:
    """What a service is started with. Paths must be the same on all machines of a cluster."""

    vehicles: Path
    certificates: Path
    router: str
    bundles: tuple[Path, ...]
    """That vehicles may use; the first one's fingerprint answers vehicles with others."""
    key_file: str = ""
    holders: int = 2
    replicas: tuple[int, int] = (2, 2)
    """Of each bundle's networks: fewest and most."""
    providers: tuple[str, ...] = ("cpu",)
    gpus: float = 0.0
    """Share of a GPU that a replica takes."""
    threads: int = 1
    batch: int = 1
    """Frames of one inference."""
    address: str = LOCAL
    """Of a Ray cluster; ``local``: a new one on this machine."""
