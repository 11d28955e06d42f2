"""The whole way from a tiny CamVid to a bundle, and the parts that can go wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from gosvae_codec import CAMVID, UNLABELLED, Decoder, Encoder, Expert, ModelBundle
from gosvae_codec.entropy import TokenCoder
from gosvae_codec.prior import Prior
from gosvae_training import export, train
from gosvae_training.config import ConfigError, load_config
from gosvae_training.config import Prior as PriorConfig
from gosvae_training.data import DataError, RandomCrops, Sample, augment, load_camvid
from gosvae_training.evaluate import evaluate
from gosvae_training.export import EncoderGraph, MaskGraph
from gosvae_training.losses import class_weights, imitation_loss, segmentation_loss
from gosvae_training.networks import EfficientNetLite0, TokenSegmenter
from gosvae_training.prior import (
    context_values,
    encode_pairs,
    fit_level,
    leaves,
    write_prior,
)
from gosvae_training.refit import refit

SIZE = (64, 96)
CONFIG = {
    "name": "tiny",
    "seed": 3,
    "input_size": list(SIZE),
    "expert": {
        "steps": 4,
        "batch": 2,
        "crop": [64, 64],
        "learning_rate": 1e-3,
        "backbone_learning_rate": 1e-4,
        "frozen_blocks": 3,
    },
    "tokens": {"levels": 2, "codes": 16, "dim": 8},
    "prior": {"views": 2, "steps": 30},
}
CONFIG["segmenter"] = {**CONFIG["expert"], "steps": 20}


def write_camvid(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in (root / split, root / f"{split}annot"):
            folder.mkdir(parents=True)
        for index in range(4):
            mask = np.repeat(np.repeat(rng.integers(0, 12, (4, 6), np.uint8), 16, 0), 16, 1)
            frame = np.stack([mask * 20, 255 - mask * 20, mask * 10], -1)
            cv2.imwrite(str(root / split / f"{index}.png"), frame)
            cv2.imwrite(str(root / f"{split}annot" / f"{index}.png"), mask)
    return root


def write_config(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("training")
    data, config = write_camvid(root / "camvid"), write_config(root / "tiny.yaml")
    arguments = [str(config), "--data", str(data), "--runs", str(root / "runs")]
    assert train.main([*arguments, "--threads", "2"]) == 0
    assert export.main([*arguments, "--models", str(root / "models")]) == 0
    return root


def test_a_run_becomes_a_bundle_that_the_codec_runs(trained: Path) -> None:
    bundle = ModelBundle.load(trained / "models" / "tiny")
    assert (bundle.input_size, bundle.grid) == (SIZE, (4, 6))
    assert (bundle.levels, bundle.codes) == (2, 16)
    frame = load_camvid(trained / "camvid", "val")[0].frame
    packets = Encoder(bundle).encode(frame)
    mask = Decoder(bundle).decode(packets).mask
    assert mask.shape == SIZE and set(np.unique(mask)) <= set(CAMVID.ids)
    assert Expert(bundle).segment(frame).shape == SIZE
    card = (bundle.path / "README.md").read_text()
    assert "research and education only" in card
    assert bundle.manifest["figures"]["levels"][0]["bytes_per_frame"] < 200
    assert "prior.npz" in bundle.manifest["files"]


def test_the_exported_encoder_gives_the_tokens_of_training(trained: Path) -> None:
    bundle = ModelBundle.load(trained / "models" / "tiny")
    segmenter = TokenSegmenter(len(CAMVID), 2, 16, 8)
    state = torch.load(trained / "runs" / "tiny" / "segmenter" / "last.pt", weights_only=True)
    segmenter.load_state_dict(state["averaged"])
    segmenter.eval()
    frame = load_camvid(trained / "camvid", "val")[1].frame
    with torch.inference_mode():
        logits, _, indices = segmenter(torch.from_numpy(frame)[None], quantize=True)
        own = EncoderGraph(segmenter)(torch.from_numpy(frame)[None])
        graph = MaskGraph(segmenter, SIZE)(own)
    tokens = Encoder(bundle).tokens(frame)
    assert torch.equal(own, indices.permute(0, 3, 1, 2).int())
    # The file's weights are float16, so that a token near the border may fall to its neighbour.
    assert (tokens == own[0].numpy()).mean() > 0.9
    torch.testing.assert_close(graph, logits, atol=1e-3, rtol=1e-3)


def test_a_finished_run_is_not_trained_again_and_gives_the_same_figures(trained: Path) -> None:
    bundle = ModelBundle.load(trained / "models" / "tiny")
    figures = evaluate(bundle, load_camvid(trained / "camvid", "val"))
    assert figures["levels"] == bundle.manifest["figures"]["levels"]


def test_the_manifest_tells_what_was_read_and_kept(trained: Path) -> None:
    manifest = ModelBundle.load(trained / "models" / "tiny").manifest
    assert manifest["provenance"]["data"] == "CamVid train, 4 frames at 96x64"
    assert manifest["provenance"]["commit"]
    assert manifest["figures"]["data"] == "CamVid val, 4 frames at 96x64"
    assert 0.95 <= manifest["figures"]["tokens_kept_by_float16"] <= 1


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_the_fitted_integers_code_as_the_float_model_says(trained: Path) -> None:
    bundle = ModelBundle.load(trained / "models" / "tiny")
    samples = load_camvid(trained / "camvid", "train")
    pairs = encode_pairs(bundle.path / "encoder.onnx", samples, 2, 0)
    codebooks = np.load(bundle.path / "prior.npz")["embedding_0"].astype(np.float32)
    models = [fit_level(level, codebooks, pairs, 60, 0) for level in range(2)]
    write_prior(trained / "prior.npz", models)
    coder = TokenCoder(Prior.load(trained / "prior.npz", 2, 16, bundle.grid), 16, bundle.grid)
    row, column = (torch.from_numpy(each.ravel()) for each in np.indices(bundle.grid))
    for earlier, later in zip(pairs.earlier[:4], pairs.later[:4], strict=True):
        for reference in (None, earlier):
            past = np.full_like(later, 16) if reference is None else reference
            wanted = 0.0
            for level, model in enumerate(models):
                band = np.zeros((1, bundle.grid[0]), np.int64)
                values = context_values(model.contexts, later[None], past[None], band, 16)
                logits = model(torch.from_numpy(values).flatten(0, 2), row, column)
                token, before = (
                    torch.from_numpy(each[level].ravel().astype(np.int64)) for each in (later, past)
                )
                wanted += model.bits(logits, token, before).sum().item()
            payload = coder.encode(later, 0, reference)
            # Four bytes of state, less what its top bits say, and rounding to integers.
            assert wanted - 8 < 8 * len(payload) < 1.05 * wanted + 40


def test_a_bundle_can_be_fitted_anew(copied: Path) -> None:
    folder = copied / "models" / "tiny"
    before = ModelBundle.load(folder)
    refit(folder, copied / "camvid", PriorConfig(views=1, steps=5))
    after = ModelBundle.load(folder)
    assert after.manifest["files"]["encoder.onnx"] == before.manifest["files"]["encoder.onnx"]
    assert after.manifest["files"]["prior.npz"] != before.manifest["files"]["prior.npz"]
    miou = [[row["miou"] for row in b.manifest["figures"]["levels"]] for b in (before, after)]
    assert miou[0] == miou[1]
    assert {path.name for path in copied.joinpath("models").iterdir()} == {"tiny", "experts"}


@pytest.mark.parametrize("codes", [2, 3, 16, 33])
def test_leaves_are_a_permutation_and_neighbours_in_the_codebook_are_near(codes: int) -> None:
    codebook = np.linspace(0, 1, codes)[:, None] * np.array([[1.0, 2.0]])
    order = np.argsort(leaves(codebook))
    assert sorted(order) == list(range(codes))
    for half in (order[: 1 << (codes - 1).bit_length() - 1],):
        assert np.ptp(half) == len(half) - 1


def run(main: Callable[[list[str]], int], root: Path, *more: str) -> int:
    paths = ["--data", str(root / "camvid"), "--runs", str(root / "runs"), *more]
    return main([str(root / "tiny.yaml"), *paths])


@pytest.mark.parametrize(
    ("changes", "stage", "message"),
    [
        ({"seed": 4}, "expert", "made with seed: 3; now it is seed: 4"),
        ({"expert": {**CONFIG["expert"], "steps": 3}}, "expert", "now it is expert.steps: 3"),
        ({"tokens": {"levels": 2, "codes": 16, "dim": 4}}, "segmenter", "now it is tokens.dim: 4"),
        ({"input_size": [32, 32]}, "segmenter", "now it is input_size: (32, 32)"),
    ],
)
def test_another_configuration_does_not_go_on_from_a_checkpoint(
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    stage: str,
    message: str,
) -> None:
    write_config(copied / "tiny.yaml", **changes)
    assert run(train.main, copied) == 1
    error = capsys.readouterr().err
    folder = copied / "runs" / "tiny" / stage
    assert f"error: {folder / 'last.pt'}: made with" in error and message in error
    assert f"delete the folder {folder}, or give the configuration another name" in error


def test_another_expert_does_not_go_on_from_a_segmenter(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "runs" / "tiny" / "expert" / "last.pt"
    state = torch.load(path, weights_only=True)
    state["averaged"]["classifier.bias"] += 1
    torch.save(state, path)
    assert run(train.main, copied) == 1
    assert "segmenter/last.pt: made with expert_sha256: " in capsys.readouterr().err


def test_a_checkpoint_of_four_keys_is_taken_as_it_is(copied: Path) -> None:
    paths = [copied / "runs" / "tiny" / stage / "last.pt" for stage in ("expert", "segmenter")]
    for path in paths:
        state = torch.load(path, weights_only=True)
        assert state.pop("data") == "CamVid train, 4 frames at 96x64"
        del state["identity"]
        torch.save(state, path)
    before = [path.read_bytes() for path in paths]
    # Fewer steps than the run has.
    write_config(copied / "tiny.yaml", segmenter={**CONFIG["segmenter"], "steps": 15})
    assert run(train.main, copied) == 0
    assert [path.read_bytes() for path in paths] == before
    assert run(export.main, copied, "--models", str(copied / "models")) == 0
    manifest = ModelBundle.load(copied / "models" / "tiny").manifest
    assert manifest["provenance"]["data"] == "CamVid train, 4 frames at 96x64"


def test_a_failed_export_leaves_the_bundle_and_a_good_one_deletes_old_experts(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = copied / "models"
    before = ModelBundle.load(models / "tiny")
    orphan, shared = (models / "experts" / f"{digit * 16}.onnx" for digit in "12")
    for path in (orphan, shared):
        path.write_bytes(b"old")
    (models / "other").mkdir()
    (models / "other" / "manifest.yaml").write_text(f"expert: {{sha256: {'2' * 64}}}")
    path = copied / "runs" / "tiny" / "expert" / "last.pt"
    state = torch.load(path, weights_only=True)
    state["averaged"]["classifier.bias"] += 1
    torch.save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(export, "LEAST_KEPT", 1.1)
        assert run(export.main, copied, "--models", str(models)) == 1
    assert "encoder.onnx: float16 weights keep" in capsys.readouterr().err
    assert ModelBundle.load(models / "tiny").fingerprint == before.fingerprint
    assert before.expert_path.exists()

    assert run(export.main, copied, "--models", str(models)) == 0
    after = ModelBundle.load(models / "tiny")
    assert after.expert_path != before.expert_path
    assert set((models / "experts").iterdir()) == {after.expert_path, shared}
    assert {path.name for path in models.iterdir()} == {"tiny", "other", "experts"}


def test_an_unfinished_run_is_not_exported(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = {**CONFIG["segmenter"], "steps": 99}
    config = write_config(tmp_path / "longer.yaml", segmenter=longer)
    arguments = ["--data", str(trained / "camvid"), "--runs", str(trained / "runs")]
    assert export.main([str(config), *arguments, "--models", str(tmp_path / "models")]) == 1
    assert "20 of 99 steps; finish the training first" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_its_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_camvid(tmp_path / "camvid")
    huge = {**CONFIG["expert"], "learning_rate": 1e30, "warmup": 0.0, "gradient_clip": 1e30}
    config = write_config(tmp_path / "huge.yaml", expert=huge)
    arguments = [str(config), "--data", str(data), "--runs", str(tmp_path / "runs")]
    assert train.main(arguments) == 1
    assert "try a lower learning_rate" in capsys.readouterr().err
    batch = torch.load(tmp_path / "runs/tiny/expert/bad_batch.pt", weights_only=True)
    assert batch["frames"].shape == (2, 64, 64, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1}, r"unknown \['speed'\]"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"name": ""}, "name: expected text"),
        ({"input_size": [64]}, "input_size: expected"),
        ({"tokens": {"levels": 2, "codes": 16}}, r"tokens: missing \['dim'\]"),
        ({"expert": 5}, "expert: expected a mapping"),
        ({"expert": {**CONFIG["expert"], "warmup": "long"}}, "warmup: expected a number"),
    ],
)
def test_mistakes_in_a_configuration_are_named(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write_config(tmp_path / "broken.yaml", **changes))


def test_shipped_configurations_load() -> None:
    configs = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
    assert configs
    for path in configs:
        assert load_config(path).name == path.stem


def test_missing_and_mismatched_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_camvid(tmp_path, "train")
    root = write_camvid(tmp_path / "camvid")
    cv2.imwrite(str(root / "valannot" / "2.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"2\.png: frame \(64, 96\) but mask \(8, 8\)"):
        load_camvid(root, "val")
    (root / "trainannot" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png: cannot read it"):
        load_camvid(root, "train")


def test_crops_are_repeatable_and_frame_and_mask_move_together() -> None:
    rng = np.random.default_rng(0)
    mask = CAMVID.ids[np.repeat(np.repeat(rng.integers(0, 11, (8, 8)), 32, 0), 32, 1)]
    sample = Sample(np.repeat(mask[..., None] * 12, 3, -1), mask)
    crops = RandomCrops([sample] * 3, CAMVID.ids, (96, 128), 9, seed=5)
    for (frame, target), (again, target_again) in zip(
        map(crops.__getitem__, range(9)), map(crops.__getitem__, range(9)), strict=True
    ):
        assert frame.shape == (96, 128, 3) and target.shape == (96, 128)
        assert torch.equal(frame, again) and torch.equal(target, target_again)
        assert set(target.unique().tolist()) <= {*range(11), UNLABELLED}
    crop = augment(sample, (96, 128), np.random.default_rng(1))
    gray = crop.frame.mean(-1)
    # Within one class brightness is constant but for blur at its edges and noise.
    for label in np.unique(crop.mask[crop.mask != UNLABELLED]):
        inside = cv2.erode((crop.mask == label).astype(np.uint8), np.ones((9, 9))) > 0
        if inside.sum() > 50:
            assert gray[inside].std() < 12


def test_losses_reward_what_they_should() -> None:
    target = torch.randint(0, 11, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    target[0, 0] = UNLABELLED
    right = torch.nn.functional.one_hot(target.clamp(max=10), 11).permute(0, 3, 1, 2) * 20.0
    wrong = right.roll(1, dims=1)
    weights = class_weights(np.full(11, 1 / 11))
    assert weights.mean().item() == pytest.approx(1)
    assert segmentation_loss(right, target, weights)["loss"] < 0.1
    assert segmentation_loss(wrong, target, weights)["loss"] > 5
    none = torch.zeros(())
    same = imitation_loss(right, right, target, weights, none)
    other = imitation_loss(wrong, right, target, weights, none)
    assert same["jensen_shannon"] == pytest.approx(0, abs=1e-5)
    assert other["jensen_shannon"] == pytest.approx(np.log(2), abs=0.01)


@pytest.mark.parametrize("size", [(64, 96), (360, 480), (65, 77)])
def test_features_halve_and_round_up(size: tuple[int, int]) -> None:
    network = EfficientNetLite0().eval()
    network.load_imagenet()
    with torch.inference_mode():
        features = network(torch.zeros(1, *size, 3, dtype=torch.uint8))
    for feature, stride in zip(features, (4, 8, 16, 32), strict=True):
        assert feature.shape[2:] == tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize("size", [(40, 64), (61, 93), (360, 480)])
def test_what_lies_beyond_the_frame_does_not_shift_what_is_in_it(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = TokenSegmenter(11, levels=1, codes=16, dim=8).eval()
    frame = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    whole = torch.nn.functional.pad(
        frame.permute(0, 3, 1, 2).float(), (0, -size[1] % 32, 0, -size[0] % 32), mode="replicate"
    )
    whole = whole.permute(0, 2, 3, 1).to(torch.uint8)
    h, w = (-(-side // 16) for side in size)
    with torch.inference_mode():
        vectors = network.encoder(frame)
        torch.testing.assert_close(vectors, network.encoder(whole)[:, :, :h, :w])
    assert vectors.shape[2:] == (h, w)


def test_gradients_reach_the_encoder_through_the_quantiser() -> None:
    torch.manual_seed(0)
    network = TokenSegmenter(11, levels=2, codes=16, dim=8).train()
    frames = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    logits, commitment, indices = network(frames, quantize=True)
    assert logits.shape == (2, 11, 16, 24) and indices.shape == (2, 4, 6, 2)
    (logits.square().mean() + commitment).backward()
    for name, parameter in network.encoder.named_parameters():
        assert parameter.grad is not None, name
