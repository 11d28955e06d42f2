"""Commands as a user runs them, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GOSVAE = (sys.executable, "-m", "gosvae_bringup")
TRAINING = (sys.executable, ROOT / "tools" / "environment.py", "training", "--exec", "python", "-m")
"""Before a module's name: in the environment of training."""

needs_training = pytest.mark.skipif(
    not (ROOT / ".venv-training" / "ready.json").exists(),
    reason=".venv-training is not there; make test-training",
)


def run(*words: object, cwd: Path) -> str:
    """Return what a command prints; fail with all of it where the command does."""
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
