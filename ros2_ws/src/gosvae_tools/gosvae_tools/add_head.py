"""`gosvae add-head`: a bundle with one more task, for the same packets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gosvae_codec import BundleError, ModelBundle
from gosvae_codec.draft import draft, write_text
from gosvae_codec.labels import label_space
from gosvae_codec.manifest import (
    FEATURES,
    MANIFEST,
    TASKS,
    dump,
    head_file,
    int8,
    list_labels,
    record,
)
from gosvae_codec.sessions import Session
from gosvae_codec.tasks import FEATURES_KEY, read_task

from .outcome import Outcome


def add_head(
    bundle: Path, head: Path, output: Path, name: str, kind: str, labels: str = "", unit: str = ""
) -> Outcome:
    """Write the bundle to the folder `output`, with the head as its task `name`.

    A task of that name is replaced. Encoder, prior and features stay, and so does the fingerprint:
    the receiver takes the new bundle, vehicles and recordings of packets keep the old one.

    Args:
        bundle: folder of the bundle; it is not changed.
        head: ONNX file, features -> what heads of `kind` make.
        output: folder to write.
        name: of the task, lower-case letters, digits and _.
        kind: ``semantic``, ``detection`` or ``depth``.
        labels: name of a label space or a YAML file of labels, in the order of the head's channels
            or classes; for the kinds that have labels.
        unit: ``metres`` or ``relative``, for depths.

    Raises:
        BundleError: the bundle is damaged, there is no such kind, the head was made for other
            features or makes something else, or labels or unit are missing.
        LabelError: there is no such label space, or the file holds none.
        OSError: `output` exists, or a file cannot be read or written.
    """
    old = ModelBundle.load(bundle)
    features = str(old.manifest["files"][FEATURES]["sha256"])
    made_for = Session(head, ("cpu",), 1).metadata.get(FEATURES_KEY)
    entry: dict[str, Any] = {"kind": kind, "features": made_for or features}
    if labels:
        space = label_space(labels)
        entry |= {"label_space": space.name, "labels": list_labels(space)}
    if unit:
        entry["unit"] = unit
    file = head_file(name)
    entry["files"] = {file: record(head)}
    read_task(name, entry, old.manifest["files"])
    with draft(output) as folder:
        shutil.copytree(bundle, folder)
        (folder / TASKS).mkdir(exist_ok=True)
        (folder / int8(file)).unlink(missing_ok=True)
        shutil.copyfile(head, folder / file)
        tasks = {**old.manifest["tasks"], name: entry}
        write_text(folder / MANIFEST, dump({**old.manifest, "tasks": tasks}))
        new = ModelBundle.load(folder)
        new.session(file, ("cpu",), 1)
    if new.fingerprint != old.fingerprint:
        raise BundleError(f"{output}: its fingerprint is not that of {bundle}")
    notes: tuple[str, ...] = ()
    if made_for is None:
        notes = (f"{head} does not say what features it was made for; it runs on these",)
    expert = old.path.resolve().parent / "experts"
    if expert.is_dir() and output.resolve().parent != expert.parent:
        notes += (f"experts stay in {expert}; nodes do not need them",)
    figures = {
        "output": str(output),
        "fingerprint": f"{new.fingerprint:016x}",
        "tasks": ", ".join(new.tasks),
        "version": new.tasks[name].version[:16],
    }
    return Outcome(figures, notes)
