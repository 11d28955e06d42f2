"""Networks to ONNX files: export, comparison with torch, weights in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ..models.onnx_expert import OPSET, OnnxExpert

LEAST_KEPT = 0.95
"""Share of the tokens that must survive the rounding of the encoder's weights to float16."""


class ExportError(Exception):
    """A run is unfinished, or what was exported differs from what was trained."""


Inputs = tuple[Tensor, ...]
"""What a graph takes."""
Names = tuple[Sequence[str], Sequence[str]]
"""Of a graph's inputs and outputs."""


def to_onnx(
    graph: nn.Module, example: Inputs, names: Names, free_batch: bool = True
) -> onnx.ModelProto:
    """Export, with a free batch size unless told otherwise.

    `names` are those of its inputs and of its outputs.
    """
    batch = [{0: torch.export.Dim("batch")}] * len(example) if free_batch else None
    program = torch.onnx.export(
        graph.eval(),
        example,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(names[0]),
        output_names=list(names[1]),
        dynamic_shapes=batch,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # Metadata of the exporter tells of the machine's paths.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def foreign_to_onnx(expert: OnnxExpert, frame: Tensor) -> onnx.ModelProto:
    """Join somebody's ONNX network with what its adapter does before and after it.

    An expert that was exported here is returned as it is, so that bundles share its file.

    Raises:
        ExportError: it cannot be brought to this project's operator set.
    """
    if expert.is_ours:
        return onnx.load(expert.path)
    free = not expert.form.single
    frames = torch.cat([frame, frame]) if free else frame
    with torch.inference_mode():
        pixels = expert.before(frames)
        made = expert.network(pixels)
    middle = onnx.load(expert.path)
    # Merged graphs have one operator set; newer ones than ours cannot be brought back.
    opset = max([OPSET, *(each.version for each in middle.opset_import if not each.domain)])
    before, after = (
        to_onnx(part, (example,), ([taken], [given]), free)
        for part, example, taken, given in (
            (expert.before, frames, "frames", "pixels"),
            (expert.after, made, "taken", "made"),
        )
    )
    try:
        before, middle, after = (
            onnx.version_converter.convert_version(each, opset) for each in (before, middle, after)
        )
    except RuntimeError as error:
        raise ExportError(f"{expert.path}: cannot convert it to opset {opset}: {error}") from error
    middle = onnx.utils.Extractor(middle).extract_model([expert.form.taken], [expert.form.made])
    parts = [
        before,
        onnx.compose.add_prefix(middle, "foreign/"),
        onnx.compose.add_prefix(after, "after/"),
    ]
    joined = parts[0]
    for part in parts[1:]:
        part.ir_version = joined.ir_version
        io_map = [(joined.graph.output[0].name, part.graph.input[0].name)]
        joined = onnx.compose.merge_models(joined, part, io_map=io_map)
    renamed = onnx.helper.make_node("Identity", [joined.graph.output[0].name], ["logits"])
    joined.graph.node.append(renamed)
    joined.graph.output[0].name = "logits"
    return joined


def write_onnx(
    graph: nn.Module | onnx.ModelProto, examples: Sequence[Inputs], names: Names, path: Path
) -> onnx.ModelProto:
    """Export with a free batch size, check against torch, and store weights as float16.

    A graph that is ONNX already is only stored.

    Returns:
        The network as it was before rounding.

    Raises:
        ExportError: before rounding, a token in a thousand or a logit by 1e-2 differs from torch.
    """
    if isinstance(graph, onnx.ModelProto):
        model = graph
    else:
        if isinstance(graph, OnnxExpert):
            model = foreign_to_onnx(graph, *examples[0])
        else:
            two = tuple(torch.cat(parts) for parts in zip(*examples[:2], strict=True))
            model = to_onnx(graph, two, names)
        check(graph, model.SerializeToString(), examples, path.name)
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    store_as_half(stored.graph)
    onnx.checker.check_model(stored)
    path.write_bytes(stored.SerializeToString())
    return model


def store_as_half(graph: onnx.GraphProto) -> None:
    """Halve the file: keep weights as float16, which ONNX Runtime widens when it loads them.

    Vectors, which are small, stay as they are, and so does what float16 has no range for.
    """
    kept, largest = [], np.finfo(np.float16).max
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or np.abs(values).max() > largest:
            kept.append(tensor)
            continue
        half = f"{tensor.name}.half"
        kept.append(numpy_helper.from_array(values.astype(np.float16), half))
        cast = onnx.helper.make_node("Cast", [half], [tensor.name], to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def check(graph: nn.Module, model: bytes, examples: Sequence[Inputs], name: str) -> None:
    """Compare an exported graph with torch; see :func:`write_onnx`.

    Pixels may be one off.
    """
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for example in examples:
        with torch.inference_mode():
            made = graph(*example)
        outputs = [made] if isinstance(made, Tensor) else list(made)
        for wanted, found in zip(outputs, infer_all(session, example), strict=True):
            _compare(wanted.numpy(), found, name)


def _compare(wanted: np.ndarray, found: np.ndarray, name: str) -> None:
    if wanted.dtype == np.int32:
        if (found != wanted).mean() > 1e-3:
            raise ExportError(f"{name}: {(found != wanted).mean():.2%} of the tokens differ")
    elif wanted.dtype == np.uint8:
        if np.abs(found.astype(int) - wanted).max() > 1:
            raise ExportError(f"{name}: pixels differ by more than one")
    elif np.abs(found - wanted).max(initial=0) > 1e-2:
        raise ExportError(f"{name}: values differ by {np.abs(found - wanted).max():.2g}")


def infer(session: ort.InferenceSession, example: Inputs) -> np.ndarray:
    """Return the first output of the session's network for `example`."""
    return infer_all(session, example)[0]


def infer_all(session: ort.InferenceSession, example: Inputs) -> list[np.ndarray]:
    """Return all outputs of the session's network for `example`."""
    taken = zip(session.get_inputs(), example, strict=True)
    return session.run(None, {each.name: tensor.numpy() for each, tensor in taken})


def tokens_kept(path: Path, examples: list[Inputs], indices: list[Tensor]) -> float:
    """Return the share of `indices`, the unrounded encoder's tokens, that the stored one gives too.

    Raises:
        ExportError: it is below LEAST_KEPT.
    """
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    same = [
        (infer(session, example) == wanted.numpy()).mean()
        for example, wanted in zip(examples, indices, strict=True)
    ]
    kept = float(np.mean(same))
    if kept < LEAST_KEPT:
        raise ExportError(
            f"{path.name}: float16 weights keep {kept:.1%} of the tokens, fewer than "
            f"{LEAST_KEPT:.0%}; train longer or with fewer codes"
        )
    return kept
