"""The reference is what the code declares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent


@pytest.mark.dds
def test_the_reference_is_current() -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("rerun", reason="needs rerun-sdk: the dependency group view")
    command = [sys.executable, str(TOOLS / "reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
