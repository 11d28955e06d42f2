"""`gosvae convert-bundle`: bundles of format 2, with one network for masks, to format 3.

The network is cut before its last convolution: what comes before makes the features, the rest is
the head of the task `semantic`. Masks stay as they were, in every pixel.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gosvae_codec import BundleError, ModelBundle
from gosvae_codec.draft import draft, write_text
from gosvae_codec.manifest import (
    FEATURES,
    FORMAT,
    MANIFEST,
    TASKS,
    check_file,
    dump,
    head_file,
    int8,
    read_yaml,
    record,
)
from gosvae_codec.tasks import FEATURES_KEY

from .outcome import Outcome

_MASK = "mask.onnx"
_SEMANTIC = "semantic"
_LABELS = ("label_space", "labels", "expert")
"""Keys of the old manifest that are the task's in the new one."""


def convert(old: Path, new: Path) -> Outcome:
    """Write the bundle `old` of format 2 to the folder `new` in format 3; `old` is not changed.

    The expert's file is copied beside it, where it is not there.

    Raises:
        BundleError: `old` is no bundle of format 2, a file of it is damaged, its network ends in
            another way than those that this project exported, or the package onnx is missing.
        OSError: `new` exists, or cannot be written.
    """
    manifest = read_yaml(old / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != 2:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleError(f"{old / MANIFEST}: bundle format {found!r}; only format 2 is converted")
    missing = [key for key in ("files", "labels", "inertia", "expert") if key not in manifest]
    if missing:
        raise BundleError(f"{old / MANIFEST}: lacks {missing}")
    for name, about in manifest["files"].items():
        check_file(old / name, str(about["sha256"]), about.get("bytes"))
    with draft(new) as folder:
        folder.mkdir()
        (folder / TASKS).mkdir()
        networks = {_MASK: (FEATURES, head_file(_SEMANTIC))}
        networks[int8(_MASK)] = tuple(map(int8, networks[_MASK]))  # type: ignore[assignment]
        for name in manifest["files"]:
            if name in networks:
                features, head = networks[name]
                _cut(old / name, folder / features, folder / head)
            else:
                shutil.copyfile(old / name, folder / name)
        for path in old.iterdir():
            if path.is_file() and not (folder / path.name).exists() and path.name not in networks:
                shutil.copyfile(path, folder / path.name)
        for path in (folder / TASKS).iterdir():
            _say(path, FEATURES_KEY, str(record(folder / FEATURES)["sha256"]))
        write_text(folder / MANIFEST, dump(_converted(manifest, folder)))
        ModelBundle.load(folder)
    bundle = ModelBundle.load(new)
    expert = bundle.expert_path(bundle.semantic)
    source = old.resolve().parent / "experts" / expert.name
    notes: tuple[str, ...] = ()
    if source.exists() and not expert.exists():
        expert.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, expert)
    elif not expert.exists():
        notes = (f"the expert {source} is missing; nodes do not need it",)
    figures = {
        "output": str(new),
        "fingerprint": f"{bundle.fingerprint:016x}",
        "tasks": ", ".join(bundle.tasks),
    }
    return Outcome(figures, notes, ())


def _converted(old: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the manifest of format 3, with records of the files in `folder`."""
    heads = [head_file(_SEMANTIC), int8(head_file(_SEMANTIC))]
    task = {
        "kind": _SEMANTIC,
        "features": record(folder / FEATURES)["sha256"],
        **{key: old[key] for key in _LABELS if key in old},
        "files": {name: record(folder / name) for name in heads if (folder / name).exists()},
    }
    networks = {_MASK: FEATURES, int8(_MASK): int8(FEATURES)}
    names = [networks.get(name, name) for name in old["files"]]
    files = {name: record(folder / name) for name in names}
    new = {key: value for key, value in old.items() if key not in _LABELS}
    order = list(new)
    new |= {"format": FORMAT, "files": files, "tasks": {_SEMANTIC: task}}
    order.insert(order.index("files") + 1, "tasks")
    return {key: new[key] for key in order}


def _cut(network: Path, features: Path, head: Path) -> None:
    """Write the two parts of a mask network.

    Raises:
        BundleError: it does not end in a 1x1 convolution, or one and a slice, nor has none.
    """
    try:
        import onnx
    except ImportError as error:
        raise BundleError(f"to cut networks, onnx is needed ({error}): install onnx") from error
    model = onnx.load(network)
    graph, made = model.graph, model.graph.output[0].name
    last = max((i for i, node in enumerate(graph.node) if node.op_type == "Conv"), default=None)
    if last is None:  # labels, which are their own logits
        graph.node.append(onnx.helper.make_node("Identity", ["features"], [f"{made}.cut"]))
        _rename(graph, made, "features")
        _rename(graph, f"{made}.cut", made)
    else:
        conv, tail = graph.node[last], list(graph.node[last + 1 :])
        kernel = [each.ints for each in conv.attribute if each.name == "kernel_shape"]
        if [node.op_type for node in tail] not in ([], ["Slice"]) or kernel != [[1, 1]]:
            raise BundleError(
                f"{network}: ends in {[node.op_type for node in graph.node[last:]]}, expected a "
                "1x1 Conv, and a Slice or nothing: export the bundle again"
            )
        taken = conv.input[0]
        del graph.node[last:]
        if tail:  # a slice of pixels, which a 1x1 convolution commutes with
            tail[0].input[0], tail[0].output[0] = taken, "features"
            graph.node.append(tail[0])
        else:
            graph.node.append(onnx.helper.make_node("Identity", [taken], ["features"]))
        conv.input[0], conv.output[0] = "features", made
        graph.node.append(conv)
    model = onnx.shape_inference.infer_shapes(model)
    parts = onnx.utils.Extractor(model)
    tokens = model.graph.input[0].name
    for path, ends in ((features, (tokens, "features")), (head, ("features", made))):
        part = parts.extract_model([ends[0]], [ends[1]])
        del part.graph.value_info[:]
        onnx.checker.check_model(part)
        onnx.save(part, path)


def _say(network: Path, key: str, value: str) -> None:
    """Add an entry to a network's metadata."""
    import onnx

    model = onnx.load(network)
    onnx.helper.set_model_props(model, {key: value})
    onnx.save(model, network)


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
