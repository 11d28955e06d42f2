"""Which storage files a bag consists of, and what its metadata.yaml says of them."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
import zstandard

from .mcap_file import MAGIC as MCAP
from .mcap_file import McapFile
from .source import SourceError, first_line
from .sqlite_file import MAGIC as SQLITE
from .sqlite_file import SqliteFile
from .storage import Storage

BAG_SUFFIXES = (".mcap", ".db3")
ZSTD = b"\x28\xb5\x2f\xfd"
"""How zstd data begins; no serialised message does."""

_COMPRESSED = ".zstd"
_ROS1 = ".bag"
METADATA = "metadata.yaml"
_INFORMATION = "rosbag2_bagfile_information"


class Declared(NamedTuple):
    """What metadata.yaml says of a topic: its number of messages, its type's hash, its QoS."""

    messages: int = 0
    digest: str = ""
    qos: Any = ""


class BagFiles(NamedTuple):
    """A bag's storage files in order, what metadata.yaml says of its topics, and what is odd."""

    paths: Sequence[Path]
    declared: Mapping[str, Declared]
    notes: Sequence[str]


def is_storage(path: Path) -> bool:
    """Tell whether a file is named as one of a bag: .mcap, .db3, each also .zstd, or .bag."""
    return path.name.lower().removesuffix(_COMPRESSED).endswith((*BAG_SUFFIXES, _ROS1))


def is_bag_folder(path: Path) -> bool:
    """Tell whether a folder holds a bag's files, or the metadata.yaml of one."""
    metadata = path / METADATA
    is_described = metadata.is_file() and _INFORMATION in metadata.read_text(errors="replace")
    return is_described or bool(find_storages(path))


def find_storages(path: Path) -> list[Path]:
    """Return the storage files in a folder in natural order, each once if also compressed."""
    files = [each for each in path.iterdir() if each.is_file() and is_storage(each)]
    files = [each for each in files if each.suffix != _ROS1 and not each.name.startswith(".")]
    plain = {each.name for each in files}
    return sorted(
        (
            each
            for each in files
            if not each.name.endswith(_COMPRESSED)
            or each.name.removesuffix(_COMPRESSED) not in plain
        ),
        key=lambda each: [int(part) if part.isdigit() else part for part in _parts(each.name)],
    )


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def bag_files(path: Path) -> BagFiles:
    """Find the files of a bag: a storage file, or a folder with or without metadata.yaml.

    Raises:
        SourceError: there are none, or those of several bags.
    """
    if not path.is_dir():
        return BagFiles([path], {}, [])
    there = find_storages(path)
    metadata = path / METADATA
    notes: list[str] = []
    if metadata.exists():
        try:
            listed, declared = _metadata(metadata)
        except Exception as error:  # anything may be in there
            reason = first_line(error)
            notes.append(f"{metadata} cannot be read ({reason}): the files beside it are read")
        else:
            return _listed(path, there, listed, declared)
    if not there:
        raise SourceError(f"bag {path} has no .mcap or .db3 files")
    if len({re.sub(r"_\d+$", "", _stem(each)) for each in there}) > 1:
        raise SourceError(
            f"{path} has no {METADATA} and holds the files of several recordings: "
            f"{', '.join(each.name for each in there)}; give one of them"
        )
    return BagFiles(there, {}, notes)


def _stem(path: Path) -> str:
    return path.name.removesuffix(_COMPRESSED).rpartition(".")[0]


def _metadata(path: Path) -> tuple[list[str], dict[str, Declared]]:
    """Return the files that a metadata.yaml names, and what it says of the topics."""
    information: Any = yaml.safe_load(path.read_text())[_INFORMATION]
    # Up to version 3 paths began at the folder above.
    files = [Path(str(each)).name for each in information["relative_file_paths"]]
    declared: dict[str, Declared] = {}
    for topic in information.get("topics_with_message_count") or ():
        about = topic["topic_metadata"]
        # A topic has an entry for each of its types.
        count = int(topic["message_count"]) + declared.get(about["name"], Declared()).messages
        digest, qos = about.get("type_description_hash"), about.get("offered_qos_profiles")
        declared[about["name"]] = Declared(count, digest or "", qos or "")
    return files, declared


def _listed(
    path: Path, there: list[Path], listed: list[str], declared: dict[str, Declared]
) -> BagFiles:
    """Choose among the files that are there those that are listed; all if none of those is."""
    found: list[Path] = []
    missing: list[str] = []
    for name in listed:
        options = (name, name.removesuffix(_COMPRESSED), f"{name}{_COMPRESSED}")
        names = [each for each in options if (path / each).is_file()]
        if names:
            found.append(path / names[0])
        else:
            missing.append(name)
    notes = []
    if not found and not there:
        raise SourceError(
            f"bag {path}: {METADATA} names {', '.join(missing) or 'no files'}, and there is no "
            "other .mcap or .db3 file"
        )
    if missing:
        notes.append(f"{path}: {', '.join(missing)} of {METADATA} is not there")
    others = [each.name for each in there if each not in found]
    if not found:
        notes.append(f"{path}: {', '.join(others)} is read")
    elif others:
        notes.append(f"{path}: {', '.join(others)} is not in {METADATA}, and not read")
    return BagFiles(found or there, declared, notes)


def open_storage(path: Path) -> Storage:
    """Open a storage file by what is in it, whatever its name.

    Raises:
        SourceError: it is none, or cannot be read at all.
    """
    with path.open("rb") as file:
        begin = file.read(16)
    if begin.startswith(ZSTD):
        return _unpacked(path)
    # Of a database that was never checkpointed all is in the write-ahead log.
    if not begin and path.with_name(f"{path.name}-wal").exists():
        return SqliteFile(path, path)
    return _open(path, path)


def _open(file: Path, path: Path) -> Storage:
    """Open `file`, which is told of as `path`."""
    with file.open("rb") as stream:
        begin = stream.read(16)
    if begin.startswith(MCAP):
        return McapFile(file, path)
    if begin.startswith(SQLITE):
        return SqliteFile(file, path)
    if begin.startswith(b"#ROSBAG"):
        raise SourceError(
            f"{path} is a ROS 1 bag; convert it with "
            f"`rosbags-convert --src {path} --dst {path.with_suffix('')}`"
        )
    what = "is empty" if not begin else f"begins with {begin[:8]!r}"
    raise SourceError(f"{path} {what}: it is neither an MCAP nor an sqlite3 file")


def _unpacked(path: Path) -> Storage:
    """Open what is in a compressed file, as far as that goes, from a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="gosvae_bag_"))
    inside = folder / path.name.removesuffix(_COMPRESSED)
    try:
        _decompress(path, inside)
        storage = _open(inside, path)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SourceError(
            f"{path} cannot be decompressed: {error}; make room in {folder.parent}, or set TMPDIR"
        ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(storage, shutil.rmtree, folder, ignore_errors=True)
    return storage


def _decompress(path: Path, target: Path) -> None:
    try:
        with path.open("rb") as source, target.open("wb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
            while piece := reader.read(1 << 16):
                file.write(piece)
    except zstandard.ZstdError as error:
        if not target.stat().st_size:
            raise SourceError(f"{path} does not decompress: {error}") from error
    if not target.stat().st_size:
        raise SourceError(f"{path} was cut off: nothing of it decompresses")
