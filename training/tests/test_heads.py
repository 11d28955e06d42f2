"""Bundles with several heads on one network of features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import yaml
from tiny import CONFIG, SIZE
from torch import Tensor, nn

from gosvae_codec import CAMVID, Decoder, DetectionResult, Encoder, Expert, ModelBundle
from gosvae_codec.manifest import PRIOR, dump, list_labels, record
from gosvae_codec.sessions import Session
from gosvae_codec.tasks import FEATURES_KEY, KINDS
from gosvae_codec.testing import OBJECTS, write_random_prior
from gosvae_training.bundle.card import model_card
from gosvae_training.bundle.graphs import EncoderGraph, FeaturesGraph
from gosvae_training.bundle.networks import Head, Networks, share_expert, write_networks
from gosvae_training.bundle.onnx_export import to_onnx
from gosvae_training.models import settings
from gosvae_training.models.suppression import with_least_score, with_suppression
from gosvae_training.models.token_network import TokenNetwork, build_tokens


class Boxes(nn.Module):
    """Features to a box and two scores for each of their places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 6, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        made = self.layer(features).flatten(2)
        corner = made[:, :2].sigmoid() * 0.5
        boxes = torch.cat([corner, corner + made[:, 2:4].sigmoid() * 0.5], 1).mT
        return boxes, made[:, 4:].sigmoid()


class FrameBoxes(nn.Module):
    """An expert for the same."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Boxes(3)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(frames.float().permute(0, 3, 1, 2)[:, :, ::16, ::16] / 255)


class Depth(nn.Module):
    """Features to depths."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features).exp()[:, 0]


NAMES = ["all_boxes", "all_scores"]


def network() -> TokenNetwork:
    torch.manual_seed(0)
    described = settings.Tokens.model_validate(
        {
            **CONFIG["tokens"],
            "encoder": {"kind": "convolutional", "stride": 16, "width": 8, "blocks": 0},
            "decoder": {"kind": "masks", "width": 16, "blocks": 1},
        }
    )
    made = build_tokens(described, len(CAMVID)).eval().requires_grad_(False)
    for layer in made.quantizer.layers:
        layer._codebook.embed.normal_()
        layer._codebook.initted.fill_(True)
    return made


def test_a_bundle_of_three_tasks_is_written_and_runs(tmp_path: Path) -> None:
    codec, folder = network(), tmp_path / "models" / "several"
    folder.mkdir(parents=True)
    features = FeaturesGraph(codec, SIZE)
    frames = [torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8) for _ in range(3)]
    example = torch.rand(2, 64, *(side // 4 for side in SIZE))
    raw = to_onnx(Boxes(64).eval(), (example,), (["features"], NAMES))
    expert = to_onnx(FrameBoxes().eval(), (torch.cat(frames),), (["pixels"], NAMES))
    shared = share_expert(
        with_suppression(expert, 0.5, 0.5),
        "boxes of pixels",
        frames,
        list(KINDS["detection"].outputs),
        folder.parent,
    )
    labels = {"labels": list_labels(CAMVID), "label_space": "camvid"}
    heads = {
        "semantic": Head("semantic", codec.decoder.classifier, labels),
        "detection": Head(
            "detection",
            with_suppression(raw, 0.5, 0.5),
            {"labels": list_labels(OBJECTS)},
            shared,
        ),
        "depth": Head("depth", Depth(64).eval(), {"unit": "relative"}),
    }
    encoder = EncoderGraph(codec)
    written = write_networks(
        Networks(encoder, features, heads),
        folder,
        frames,
        frames,
        ["encoder.onnx", "features.onnx", "tasks/depth.onnx"],
    )
    levels, codes, _ = codec.codebooks().shape
    grid = SIZE[0] // 16, SIZE[1] // 16
    write_random_prior(folder / PRIOR, levels, codes, grid, np.random.default_rng(0))
    manifest = {
        "format": 3,
        "name": "several",
        "input_size": list(SIZE),
        "grid": list(grid),
        "levels": levels,
        "codes": codes,
        "dim": 8,
        "inertia": list(encoder.inertia),
        "files": {**written.files, PRIOR: record(folder / PRIOR)},
        "tasks": written.tasks,
        "compute": {**written.compute, "expert_macs": 0},
        "figures": {},
        "provenance": {
            **dict.fromkeys(("data", "license", "initial_weights", "commit"), "x"),
            "seed": 1,
        },
    }
    (folder / "manifest.yaml").write_text(dump(manifest))
    bundle = ModelBundle.load(folder)
    frame = frames[0][0].numpy()
    decoded = Decoder(bundle, batch=2).decode(Encoder(bundle).encode(frame))
    assert list(decoded.tasks) == ["semantic", "detection", "depth"]
    assert decoded.mask.shape == SIZE
    found = decoded.tasks["detection"], Expert(bundle, task="detection").apply(frame)
    for boxes in found:
        assert isinstance(boxes, DetectionResult) and (boxes.scores >= 0.5).all()
    assert len(found[1].boxes) > 0
    assert written.compute["receiver_macs"] > 0
    assert list(written.tasks["semantic"]["files"]) == ["tasks/semantic.onnx"]
    for name in ("tasks/depth.onnx", "tasks/depth.int8.onnx"):
        head = Session(folder / name, ["cpu"], 1)
        assert head.metadata[FEATURES_KEY] == manifest["files"]["features.onnx"]["sha256"]
        assert name in written.tasks["depth"]["files"]
    card = model_card(manifest)
    for text in ("camvid: sky", "car, person", "boxes of pixels", "unit: relative"):
        assert text in card
    assert yaml.safe_load(dump(manifest)) == manifest


def test_suppression_keeps_the_best_of_overlapping_boxes_by_falling_score() -> None:
    class Given(nn.Module):
        def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
            boxes = torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.52], [0.5, 0.5, 1, 1]])
            scores = torch.tensor([[0.6, 0.7, 0.1], [0.2, 0.3, 0.9]])
            nothing = features.sum((1, 2, 3))[:, None, None] * 0
            return boxes[None] + nothing, scores[None] + nothing

    raw = to_onnx(Given(), (torch.zeros(2, 1, 2, 2),), (["features"], NAMES))
    head = with_suppression(raw, 0.5, 0.25)
    run = ort.InferenceSession(head.SerializeToString()).run
    boxes, scores, classes, frames = run(None, {"features": np.zeros((2, 1, 2, 2), np.float32)})
    first = frames == 0
    np.testing.assert_allclose(scores[first], [0.9, 0.7, 0.3])
    assert classes[first].tolist() == [1, 0, 1] and frames.tolist().count(1) == 3
    wanted = [[0.5, 0.5, 1, 1], [0, 0, 0.5, 0.52], [0, 0, 0.5, 0.52]]
    np.testing.assert_allclose(boxes[first], wanted)
    nothing = with_suppression(raw, 0.5, 0.95)
    empty = ort.InferenceSession(nothing.SerializeToString()).run(
        None, {"features": np.zeros((1, 1, 2, 2), np.float32)}
    )
    assert [each.shape for each in empty] == [(0, 4), (0,), (0,), (0,)]
    more = ort.InferenceSession(with_least_score(nothing, 0.25).SerializeToString())
    again = more.run(None, {"features": np.zeros((2, 1, 2, 2), np.float32)})
    np.testing.assert_array_equal(again[1], scores)
    with pytest.raises(ValueError, match="0 constants nms/least"):
        with_least_score(raw, 0.5)
    with pytest.raises(ValueError, match="expected all_boxes, all_scores"):
        with_suppression(head, 0.5, 0.5)
