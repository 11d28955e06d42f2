"""What the repository holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 56 * 2**20


def test_tracked_files_stay_small() -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    sizes = {
        name: (ROOT / name).lstat().st_size
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file()
    }
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    assert sum(sizes.values()) < MAX_BYTES, f"the largest are {largest}"
