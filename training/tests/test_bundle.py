"""What a bundle's files hold, and what is left of it when something fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from tiny import CHANNELS, SIZE, SMALL, TinyExpert
from torch import Tensor, nn
from trees import write_camvid

from gosvae_codec import CAMVID, Decoder, Encoder, ModelBundle
from gosvae_training import export, train
from gosvae_training.bundle import write
from gosvae_training.bundle.card import model_card
from gosvae_training.bundle.graphs import EncoderGraph, FeaturesGraph
from gosvae_training.bundle.macs import expert_macs, graph_macs, network_macs
from gosvae_training.bundle.onnx_export import infer, store_as_half, to_onnx, write_onnx
from gosvae_training.data.datasets import load_dataset
from gosvae_training.models import settings
from gosvae_training.models.expert import Expert
from gosvae_training.models.experts import frozen
from gosvae_training.models.token_network import build_tokens


def make(root: Path, values: Mapping[str, Any]) -> int:
    """Train and export; return the exit status of the export."""
    write_camvid(root / "camvid")
    (root / "tiny.yaml").write_text(yaml.safe_dump(dict(values)))
    run = [str(root / "tiny.yaml"), "--data", str(root / "camvid"), "--runs", str(root / "runs")]
    assert train.main(run) == 0
    return export.main([*run, "--models", str(root / "models")])


FAST = {**SMALL, "codec": {**SMALL["codec"], "steps": 2}, "prior": {"views": 1, "steps": 5}}


# --- half precision


def test_float_networks_hold_half_precision_and_masks_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    described = settings.Tokens(levels=2, codes=16, dim=8)
    network = build_tokens(described, len(CAMVID), Expert(len(CAMVID))).eval()
    for layer in network.quantizer.layers:
        layer._codebook.embed.normal_()
        layer._codebook.initted.fill_(True)
    network.requires_grad_(False)
    samples = load_dataset(write_camvid(tmp_path / "camvid"), "train")
    frames = torch.from_numpy(np.stack([samples[index].frame for index in range(len(samples))]))
    encoder = EncoderGraph(network)
    mask = nn.Sequential(FeaturesGraph(network, SIZE), network.decoder.classifier)
    tokens = [(each[None],) for each in encoder(frames, encoder.no_reference(frames))]
    path = tmp_path / "mask.onnx"
    whole = write_onnx(mask, tokens, (["tokens"], ["logits"]), path)
    kinds = {each.data_type: 0 for each in onnx.load(path).graph.initializer}
    for each in onnx.load(path).graph.initializer:
        kinds[each.data_type] += int(np.prod(each.dims))
    assert kinds[TensorProto.FLOAT16] > 50 * kinds[TensorProto.FLOAT]
    assert path.stat().st_size < 0.55 * len(whole.SerializeToString())
    before, after = (ort.InferenceSession(x) for x in (whole.SerializeToString(), str(path)))
    assert after.get_outputs()[0].type == "tensor(float)"
    changed = [
        (infer(before, each).argmax(1) != infer(after, each).argmax(1)).mean() for each in tokens
    ]
    assert np.mean(changed) < 1e-3


def test_what_half_precision_has_no_range_for_stays_float() -> None:
    large, small = (
        onnx.numpy_helper.from_array(np.full((2, 2), value, np.float32), name)
        for name, value in (("large", 1e5), ("small", 0.1))
    )
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["y"]),
        helper.make_node("MatMul", ["y", "small"], ["z"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xz"]
    graph = helper.make_graph(nodes, "scales", ends[:1], ends[1:], [large, small])
    store_as_half(graph)
    assert {each.name: each.data_type for each in graph.initializer} == {
        "large": TensorProto.FLOAT,
        "small.half": TensorProto.FLOAT16,
    }
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(made.SerializeToString())
    assert np.isfinite(session.run(None, {"x": np.ones((1, 2), np.float32)})[0]).all()


# --- multiply-accumulates


class Mixed(nn.Module):
    """Convolutions of all kinds, and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.Conv2d(8, 8, 5, padding=2, groups=4),
            nn.ConvTranspose2d(8, 6, 2, stride=2),
            nn.Conv2d(6, 4, 3, dilation=2, bias=False),
        )
        self.linear = nn.Linear(4, 7)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.layers(pixels)
        return (
            x.permute(0, 2, 3, 1) @ x.mean((2, 3))[:, None, :, None]
            + self.linear(x.mean((2, 3))).sum()
        )


@pytest.mark.parametrize("count", [1, 3])
def test_a_graph_has_the_macs_of_the_network_that_it_is_of(count: int) -> None:
    network, pixels = Mixed().eval(), torch.rand(2, 3, 17, 24)
    model = to_onnx(network, (pixels,), (["pixels"], ["made"]))
    taken = pixels[:1].expand(count, -1, -1, -1)
    assert graph_macs(model, tuple(taken.shape)) == network_macs(network, taken) > 0


def test_macs_that_cannot_be_counted_are_unknown_and_not_none() -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in "xy"]
    node = helper.make_node("Einsum", ["x", "x"], ["y"], equation="ij,kj->ik")
    graph = helper.make_graph([node], "products", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    assert graph_macs(model, (2, 3)) is None


def write_foreign(path: Path) -> Path:
    """The tiny expert as somebody's ONNX file, with a free batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TinyExpert().eval()
    onnx.save(to_onnx(network, (torch.zeros(2, 3, *SIZE),), (["image"], ["scores"])), path)
    return path


def test_a_bundle_of_an_onnx_expert_is_written_and_has_its_macs(tmp_path: Path) -> None:
    path = str(write_foreign(tmp_path / "foreign.onnx"))
    network = {"kind": "onnx", "path": path, "channels": CHANNELS}
    # The file takes frames of one size only.
    codec = {**FAST["codec"], "crop": list(SIZE)}
    expert = {**SMALL["expert"], "steps": 0, "network": network}
    assert make(tmp_path, {**FAST, "expert": expert, "codec": codec}) == 0
    bundle = ModelBundle.load(tmp_path / "models" / "tiny")
    wanted = network_macs(TinyExpert(), torch.zeros(1, 3, *SIZE))
    assert bundle.manifest["compute"]["expert_macs"] == wanted > 0
    assert bundle.manifest["figures"]["expert_macs"] == wanted
    brought = frozen(settings.Onnx(**network), CAMVID)
    assert expert_macs(brought, torch.zeros(1, *SIZE, 3, dtype=torch.uint8)) == wanted


# --- whole or not at all


def test_a_bundle_is_kept_when_its_figures_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(write, "evaluate", fail)
    assert make(tmp_path, FAST) == 0
    assert "complete but has no figures: ZeroDivisionError" in capsys.readouterr().err
    bundle = ModelBundle.load(tmp_path / "models" / "tiny")
    assert "levels" not in bundle.manifest["figures"] and bundle.expert_path().exists()
    frame = load_dataset(tmp_path / "camvid", "val")[0].frame
    assert Decoder(bundle).decode(Encoder(bundle).encode(frame)).mask.shape == SIZE
    card = (bundle.path / "README.md").read_text()
    assert "Not measured" in card and "research and education only" in card

    # Measured afterwards, it is as if it had been at once.
    monkeypatch.undo()
    samples = load_dataset(tmp_path / "camvid", "val")
    write.report(bundle.path, samples)
    measured = ModelBundle.load(bundle.path).manifest
    assert len(measured["figures"]["float16_miou"]) == bundle.levels
    assert "agreement" in (bundle.path / "README.md").read_text()

    unknown = {**measured, "compute": {**measured["compute"], "expert_macs": None}}
    assert "unknown GMACs" in model_card(unknown)
    # Files of somebody's own are in no danger.
    (bundle.path / "notes.txt").write_text("mine")
    assert make(tmp_path, FAST) == 1
    assert "notes.txt would be lost; move it away" in capsys.readouterr().err
    assert (bundle.path / "notes.txt").read_text() == "mine"
