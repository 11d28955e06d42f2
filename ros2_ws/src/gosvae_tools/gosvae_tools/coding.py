"""What `gosvae encode` and `gosvae decode` share: the bundle, and the progress bar."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gosvae_codec import ModelBundle
from gosvae_common.shipped import find_bundle


@dataclass(frozen=True)
class Coding:
    """Where networks run, and with which bundle."""

    bundle: str = ""
    providers: tuple[str, ...] = ("cpu",)
    threads: int = 1

    def load(self) -> ModelBundle:
        """Return the bundle; raises as :func:`find_bundle` and :meth:`ModelBundle.load` do."""
        return ModelBundle.load(find_bundle(self.bundle))


def progress() -> Progress:
    """Return a progress bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
