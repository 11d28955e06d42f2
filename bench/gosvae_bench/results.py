"""The benchmark's file of results: its conditions, its rows, and which figures are missing."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import imagecodecs
import onnxruntime

from gosvae_codec import GosvaeError
from gosvae_codec.draft import write_text

from .contenders import Contender

QUALITY = (
    "bytes_per_frame",
    "bytes_p95",
    "wire_bytes_per_frame",
    "miou",
    "miou_ci95",
    "agreement",
    "agreement_ci95",
)
TIMING = (
    "encode_ms",
    "encode_ms_p95",
    "decode_ms",
    "decode_ms_p95",
    "encode_mb",
    "decode_mb",
)


class Results:
    """The JSON file: conditions of the measurement, and a row for each contender."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """Open the file, or start an empty one.

        Raises:
            GosvaeError: it holds results of something else, or no results.
        """
        self._path = path
        self._about = about
        self._rows: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            self._rows = {row["key"]: row for row in found["rows"]}
            different = [name for name in about if found.get(name) != about[name]]
        except (ValueError, KeyError, TypeError) as error:
            raise GosvaeError(f"{path} holds no results: remove it, or name another") from error
        different = [name for name in different if name != "date"]
        if different:
            raise GosvaeError(
                f"{path} has results of other {', '.join(different)}: remove it, or name another"
            )

    def lacks(self, contender: Contender, figures: Sequence[str]) -> bool:
        """Return whether any of these figures of a contender is missing."""
        row = self._rows.get(contender.key, {})
        return any(row.get(name) is None for name in figures)

    def add(self, contender: Contender, figures: dict[str, Any]) -> None:
        """Add figures of a contender, in memory."""
        empty = dict.fromkeys((*QUALITY, *TIMING))
        row = {
            "codec": contender.codec,
            "setting": contender.setting,
            "sends": contender.sends,
            "expert": contender.expert_name,
            **empty,
            **self._rows.get(contender.key, {}),
            "vehicle_macs": contender.vehicle_macs,
            "receiver_macs": contender.receiver_macs,
            "key": contender.key,
        }
        self._rows[contender.key] = row | figures

    def write(self, everything: Sequence[Contender]) -> None:
        """Write the file, whole or not at all, with the rows in the order of the contenders.

        Rows of bundles and experts that are no longer there are kept, after those of pictures,
        labels or tokens that are. Rows that a newer model or another setting replaces are not.
        """
        order = {each.key: place for place, each in enumerate(everything)}
        present = {(each.codec, each.expert_name) for each in everything}
        last = {each.sends: place for place, each in enumerate(everything)}
        kept = [
            row
            for key, row in self._rows.items()
            if key in order or (row["codec"], row["expert"]) not in present
        ]
        kept.sort(key=lambda row: order.get(row["key"], last.get(row["sends"], len(order)) + 0.5))
        text = json.dumps({**self._about, "rows": kept}, indent=1) + "\n"
        write_text(self._path, text)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that encode and compute."""
    libraries = dict(each.split("-", 1) for each in imagecodecs.version().split(", "))
    wanted = ("libjpeg_turbo", "libwebp", "libavif", "libjxl")
    return {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
        "imagecodecs": imagecodecs.__version__,
        **{name: libraries.get(name, "unknown") for name in wanted},
    }
