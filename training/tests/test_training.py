"""The whole way from a tiny CamVid to a bundle, and the parts that can go wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from tiny import CONFIG, PIXELS, SIZE, SMALL
from trees import write_camvid

from gosvae_codec import CAMVID, Decoder, Encoder, Expert, ModelBundle
from gosvae_codec.entropy import TokenCoder
from gosvae_codec.prior import Prior
from gosvae_codec.sessions import Session
from gosvae_training import evaluate, export, fit, train
from gosvae_training.bundle import onnx_export
from gosvae_training.bundle.graphs import EncoderGraph, FeaturesGraph
from gosvae_training.bundle.refit import main as refit_main
from gosvae_training.bundle.refit import refit
from gosvae_training.bundle.write import sharing_experts
from gosvae_training.config import Config, identify, load_config
from gosvae_training.data.datasets import load_dataset
from gosvae_training.fit import TrainingError, check_identity
from gosvae_training.models.token_network import build_tokens
from gosvae_training.prior import (
    context_values,
    encode_pairs,
    fit_level,
    leaves,
    write_prior,
)
from gosvae_training.strict import ConfigError
from gosvae_training.tasks.train import load_config as load_tasks_config


def write_config(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return path


def run(main: Callable[[list[str]], int], root: Path, *more: str) -> int:
    paths = ["--data", str(root / "camvid"), "--runs", str(root / "runs"), *more]
    return main([str(root / "tiny.yaml"), *paths])


def make(root: Path, values: dict[str, object]) -> Path:
    write_camvid(root / "camvid")
    write_config(root / "tiny.yaml", **values)
    assert run(train.main, root) == 0
    assert run(export.main, root, "--models", str(root / "models")) == 0
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default architecture, trained and exported."""
    return make(tmp_path_factory.mktemp("trained"), CONFIG)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with small networks."""
    return make(tmp_path_factory.mktemp("small"), SMALL)


def test_a_run_becomes_a_bundle_that_the_codec_runs(trained: Path) -> None:
    bundle = ModelBundle.load(trained / "models" / "tiny")
    assert (bundle.input_size, bundle.grid) == (SIZE, (4, 6))
    assert (bundle.levels, bundle.codes) == (2, 16)
    frame = load_dataset(trained / "camvid", "val")[0].frame
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
    codec = build_tokens(load_config(trained / "tiny.yaml").tokens, len(CAMVID))
    state = torch.load(trained / "runs" / "tiny" / "codec" / "last.pt", weights_only=True)
    codec.load_state_dict(state["averaged"])
    codec.eval()
    frame = load_dataset(trained / "camvid", "val")[1].frame
    with torch.inference_mode():
        logits, _, indices, _ = codec(torch.from_numpy(frame)[None])
        encoder, taken = EncoderGraph(codec), torch.from_numpy(frame)[None]
        nothing = encoder.no_reference(taken)
        own = encoder(taken, nothing)
        graph = codec.decoder.classifier(FeaturesGraph(codec, SIZE)(own))
    assert torch.equal(own, indices.permute(0, 3, 1, 2).int())
    stored = Session(bundle.path / "encoder.onnx", ["cpu"], 1).run(frame[None], nothing.numpy())[0]
    # The file's weights are float16, so that a token near the border may fall to its neighbour.
    assert (stored == own[0].numpy()).mean() > 0.9
    torch.testing.assert_close(graph, logits, atol=1e-3, rtol=1e-3)


def test_the_8_bit_networks_are_close_to_the_float_ones(trained: Path) -> None:
    bundle = ModelBundle.load(trained / "models" / "tiny")
    frame = load_dataset(trained / "camvid", "val")[1].frame[None]
    for name in ("encoder", "features"):
        stored = Session(bundle.path / f"{name}.onnx", ["cpu"], 1)
        quantized = Session(bundle.path / f"{name}.int8.onnx", ["cpu"], 1)
        kinds = [node.op_type for node in onnx.load(bundle.path / f"{name}.int8.onnx").graph.node]
        assert kinds.count("DequantizeLinear") > kinds.count("Conv") > 0
        if name == "encoder":
            last = len(kinds) - 1 - kinds[::-1].index("Conv")
            assert "QuantizeLinear" not in kinds[last:]
            nothing = np.full((1, 2, 4, 6), 16, np.int32)
            tokens = stored.run(frame, nothing)
            assert (quantized.run(frame, nothing) == tokens).mean() > 0.5
        else:
            features = stored.run(tokens)
            assert np.abs(quantized.run(tokens) - features).mean() < 0.1 * features.std()


def test_a_finished_run_is_not_trained_again_and_gives_the_same_figures(trained: Path) -> None:
    bundle = ModelBundle.load(trained / "models" / "tiny")
    figures = evaluate.evaluate(bundle, load_dataset(trained / "camvid", "val"))
    stored = bundle.manifest["figures"]
    assert figures["levels"] == stored["levels"] and figures["labels"] == stored["labels"]


def test_the_manifest_tells_what_was_read_and_kept(trained: Path) -> None:
    manifest = ModelBundle.load(trained / "models" / "tiny").manifest
    assert manifest["provenance"]["data"] == "CamVid train, 4 frames at 96x64"
    assert manifest["provenance"]["commit"]
    assert manifest["figures"]["data"] == "CamVid val, 4 frames at 96x64"
    assert 0.95 <= manifest["figures"]["tokens_kept_by_float16"] <= 1


def test_an_expert_may_go_without_tokens(small: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(small, tmp_path / "alone"))
    write_config(root / "tiny.yaml", **{**SMALL, "data": {"compression": 0.5}, "name": "tuned"})
    models = root / "models"
    assert run(train.main, root, "--stage", "expert") == 0
    assert run(export.main, root, "--models", str(models), "--stage", "expert") == 0
    about = yaml.safe_load((models / "tuned" / "expert.yaml").read_text())
    assert (about["label_space"], about["input_size"]) == ("camvid", list(SIZE))
    network = models / "tuned" / "expert.onnx"
    assert about["expert"]["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    frame = load_dataset(root / "camvid", "val")[0].frame
    assert Session(network, ["cpu"], 1).run(frame[None]).shape[:2] == (1, len(CAMVID))
    card = (models / "tuned" / "README.md").read_text()
    assert "50% of the crops compressed" in card and "--stage expert" in card
    assert {path.name for path in (models / "tuned").iterdir()} == {
        "README.md",
        "expert.onnx",
        "expert.yaml",
    }
    assert run(export.main, root, "--models", str(models)) == 1
    write_config(root / "tiny.yaml", **SMALL)
    assert run(export.main, root, "--models", str(models), "--stage", "expert") == 1


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


def test_the_fitted_integers_code_as_the_float_model_says(trained: Path) -> None:
    bundle = ModelBundle.load(trained / "models" / "tiny")
    samples = load_dataset(trained / "camvid", "train")
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
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["figures"]["float16_miou"] = [0.1, 0.2]
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    before = ModelBundle.load(folder)
    manifest["provenance"]["prior"] = {"views": 1, "steps": 5}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    refit(folder, copied / "camvid")
    after = ModelBundle.load(folder)
    assert after.manifest["provenance"]["prior"] == {"views": 1, "steps": 5}
    assert after.manifest["files"]["encoder.onnx"] == before.manifest["files"]["encoder.onnx"]
    assert after.manifest["files"]["prior.npz"] != before.manifest["files"]["prior.npz"]
    miou = [[row["miou"] for row in b.manifest["figures"]["levels"]] for b in (before, after)]
    assert miou[0] == miou[1]
    # Figures of the float networks stay, which a folder need not hold any more.
    assert after.manifest["figures"]["float16_miou"] == [0.1, 0.2]
    assert {path.name for path in copied.joinpath("models").iterdir()} == {"tiny", "experts"}


def test_the_encoder_of_a_finished_bundle_can_weigh_bits(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied / "models" / "tiny"
    files = ModelBundle.load(folder).manifest["files"]
    arguments = [str(folder), "--data", str(copied / "camvid"), "--bit-cost", "0.1"]
    assert refit_main([*arguments, "--inertia", "0.5"]) == 1
    assert "inertia [0.5]: tiny has 2 levels" in capsys.readouterr().err
    assert ModelBundle.load(folder).manifest["files"] == files
    assert refit_main([*arguments, "--inertia", "0.5", "0.25"]) == 0
    bundle = ModelBundle.load(folder)
    encoders = [name for name in files if name.startswith("encoder")]
    assert len(encoders) == 2
    assert all(bundle.manifest["files"][name] != files[name] for name in encoders)
    assert bundle.manifest["inertia"] == [0.5, 0.25]
    assert bundle.manifest["provenance"]["bit_cost"] == 0.1


@pytest.mark.parametrize("codes", [2, 3, 16, 33])
def test_leaves_are_a_permutation_and_neighbours_in_the_codebook_are_near(codes: int) -> None:
    codebook = np.linspace(0, 1, codes)[:, None] * np.array([[1.0, 2.0]])
    order = np.argsort(leaves(codebook))
    assert sorted(order) == list(range(codes))
    for half in (order[: 1 << (codes - 1).bit_length() - 1],):
        assert np.ptp(half) == len(half) - 1


@pytest.mark.parametrize(
    ("changes", "stage", "message"),
    [
        ({"seed": 4}, "expert", "made with seed: 3; now it is seed: 4"),
        ({"expert": {**SMALL["expert"], "steps": 3}}, "expert", "now it is expert.steps: 3"),
        ({"tokens": {**SMALL["tokens"], "dim": 4}}, "codec", "now it is tokens.dim: 4"),
        ({"input_size": [32, 32]}, "expert", "now it is input_size: (32, 32)"),
    ],
)
def test_another_configuration_does_not_go_on_from_a_checkpoint(
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    stage: str,
    message: str,
) -> None:
    write_config(copied / "tiny.yaml", **{**SMALL, **changes})
    assert run(train.main, copied) == 1
    error = capsys.readouterr().err
    folder = copied / "runs" / "tiny" / stage
    assert f"error: {folder / 'last.pt'}: made with" in error and message in error
    assert f"delete the folder {folder}, or give the configuration another name" in error


def test_another_expert_does_not_go_on_from_a_codec(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "runs" / "tiny" / "expert" / "last.pt"
    state = torch.load(path, weights_only=True)
    state["averaged"]["network.layers.2.bias"] += 1
    torch.save(state, path)
    assert run(train.main, copied) == 1
    assert "codec/last.pt: made with expert_sha256: " in capsys.readouterr().err


def test_a_checkpoint_that_does_not_say_what_it_is_of_is_refused(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "runs" / "tiny" / "codec" / "last.pt"
    state = torch.load(path, weights_only=True)
    del state["identity"]
    torch.save(state, path)
    assert run(train.main, copied) == 1
    assert "codec/last.pt: made with less; now it is seed: 3" in capsys.readouterr().err


def test_a_checkpoint_may_lack_what_was_no_choice_then_if_it_has_its_default(
    tmp_path: Path,
) -> None:
    config = Config.model_validate_json(json.dumps(CONFIG))
    now = identify(config, ("seed", "tokens", "labels", "losses"))
    old = "seed: 3\ntokens.levels: 2\ntokens.codes: 16\ntokens.dim: 8"
    check_identity(tmp_path, old, now)
    changed = config.model_copy(update={"labels": "cityscapes"})
    with pytest.raises(TrainingError, match="now it is labels: cityscapes"):
        check_identity(tmp_path, old, identify(changed, ("seed", "tokens", "labels")))


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
    state["averaged"]["network.layers.2.bias"] += 1
    torch.save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "LEAST_KEPT", 1.1)
        assert run(export.main, copied, "--models", str(models)) == 1
    assert "encoder.onnx: float16 weights keep" in capsys.readouterr().err
    assert ModelBundle.load(models / "tiny").fingerprint == before.fingerprint
    assert before.expert_path().exists()

    assert run(export.main, copied, "--models", str(models)) == 0
    after = ModelBundle.load(models / "tiny")
    assert after.expert_path() != before.expert_path()
    assert set((models / "experts").iterdir()) == {after.expert_path(), shared}
    assert {path.name for path in models.iterdir()} == {"tiny", "other", "experts"}


def test_an_export_leaves_the_experts_of_another_that_is_under_way(tmp_path: Path) -> None:
    expert = tmp_path / "experts" / "1.onnx"
    with sharing_experts(tmp_path):
        with sharing_experts(tmp_path):
            expert.parent.mkdir()
            expert.write_bytes(b"expert")
        assert expert.exists()
    assert not expert.exists()


def test_an_unfinished_run_is_not_exported(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = {**SMALL["codec"], "steps": 99}
    write_config(copied / "tiny.yaml", **{**SMALL, "codec": longer})
    shutil.rmtree(copied / "models")
    assert run(export.main, copied, "--models", str(copied / "models")) == 1
    assert "20 of 99 steps; finish the training first" in capsys.readouterr().err
    assert not (copied / "models").exists()


def test_what_has_no_tokens_is_not_exported(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = 'tokens={"kind": "labels"}'
    assert run(export.main, copied, "--models", str(copied / "models"), labels) == 1
    assert "a bundle needs tokens with a codebook" in capsys.readouterr().err


def test_a_bundle_by_way_of_pixels_gives_masks_and_pictures(tmp_path: Path) -> None:
    root = make(tmp_path, PIXELS)
    bundle = ModelBundle.load(root / "models" / "tiny")
    frame = load_dataset(root / "camvid", "val")[0].frame
    tokens = Encoder(bundle).tokens(frame)[None].astype(np.int32)
    picture = bundle.session("reconstruct.onnx", ["cpu"], 1).run(tokens)
    assert picture.shape == (1, *SIZE, 3) and picture.dtype == np.uint8
    mask = Decoder(bundle).decode(Encoder(bundle).encode(frame)).mask
    assert mask.shape == SIZE
    # The mask is what the expert sees in the picture, but for its rounding to bytes.
    assert (mask == Expert(bundle).segment(picture[0])).mean() > 0.95
    assert "that the expert segments" in (bundle.path / "README.md").read_text()


def test_imitation_needs_no_labels(tmp_path: Path) -> None:
    root = write_camvid(tmp_path / "camvid")
    data = {"train": {"frames": {"split": "all"}}, "val": {"camvid": {"split": "val"}}}
    write_config(tmp_path / "tiny.yaml", **{**SMALL, "data": data})
    frames = ("--data", f"frames={root / 'train'}")
    arguments = [str(tmp_path / "tiny.yaml"), "--runs", str(tmp_path / "runs"), *frames]
    changes = ["expert.steps=0", "losses.supervised=0.0", "codec.steps=2"]
    assert train.main([*arguments, "--data", f"camvid={root}", *changes]) == 0
    state = torch.load(tmp_path / "runs/tiny/codec/last.pt", weights_only=True)
    assert state["data"] == "train, unlabelled, 4 frames at 96x64"


@pytest.mark.parametrize(
    "change", ["tokens.codes=0", 'tokens={"kind": "labels", "width": 16, "steps": 2}']
)
def test_baselines_without_a_codebook_train(tmp_path: Path, change: str) -> None:
    write_camvid(tmp_path / "camvid")
    write_config(tmp_path / "tiny.yaml", **PIXELS)
    assert run(train.main, tmp_path, "codec.steps=2", change) == 0
    state = torch.load(tmp_path / "runs/tiny/codec/last.pt", weights_only=True)
    assert state["step"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**PIXELS, "encoder_int8_only": True}, "make pictures have no 8-bit networks"),
        ({"speed": 1}, "speed: Extra inputs are not permitted"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
        ({"seed": True}, "seed: Input should be a valid integer, got True"),
        ({"name": ""}, "name: String should have at least 1 character"),
        (
            {"tokens": {"kind": "magic"}},
            "tokens: .*expected tags: 'tokens', 'label_sender', 'labels'",
        ),
        ({"losses": {"pixels": 1.0}}, "losses.pixels needs tokens.decoder.kind: pixels"),
        ({"input_size": [64]}, "input_size.1: Field required"),
        ({"tokens": {"levels": 2, "codes": 16}}, "tokens.dim: Field required"),
        ({"expert": 5}, "expert: Input should be an object, got 5"),
        ({"expert": {**CONFIG["expert"], "warmup": "long"}}, "expert.warmup: Input should be"),
        ({"labels": "kitti"}, "labels: .*give one of cityscapes, .*, coco, or a YAML file"),
        ({"data": {"train": {"a": {"split": "train", "share": 0}}}}, "train.a.share: Input"),
    ],
)
def test_mistakes_in_a_configuration_are_named(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write_config(tmp_path / "broken.yaml", **changes))


def test_labels_of_the_expert_need_what_it_said_of_frames(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expert_labels needs codec\.teacher: frame"):
        load_config(write_config(tmp_path / "tiny.yaml"), ["losses.expert_labels=0.5"])


def test_overrides_reach_the_values_they_name(tmp_path: Path) -> None:
    path = write_config(tmp_path / "tiny.yaml")
    changes = "expert.steps=9 name=other expert.learning_rate=1e-4 expert.crop=[32,64]"
    config = load_config(path, [*changes.split(), "data.train.streets.split=train"])
    assert (config.expert.steps, config.name, config.expert.learning_rate) == (9, "other", 1e-4)
    assert config.expert.crop == (32, 64)
    assert list(config.data.train) == ["streets"]
    for text, message in (
        ("expert.steps", "expected name=value"),
        ("seed.a=1", "seed is 3, which has no parts"),
        ("expert.speed=1", "expert.speed: Extra inputs"),
        ("expert.steps=many", "expert.steps: Input should be a valid integer, got 'many'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(path, [text])


def test_shipped_configurations_load() -> None:
    configs = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
    assert configs
    for path in configs:
        load = load_tasks_config if path.stem.startswith(("road", "tasks")) else load_config
        assert load(path, []).name == path.stem


def test_ctrl_c_saves_and_more_steps_go_on(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(small, tmp_path / "stopped"))
    shutil.rmtree(root / "runs" / "tiny" / "codec")
    advance = fit._Trainer.advance

    def pressed(trainer: fit._Trainer, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        if trainer.step == 5:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(fit._Trainer, "advance", pressed)
        assert run(train.main, root) == 130
    assert "stopped at step 6 of 20" in capsys.readouterr().err
    last = root / "runs" / "tiny" / "codec" / "last.pt"
    assert torch.load(last, weights_only=True)["step"] == 6
    assert run(train.main, root) == 0
    assert torch.load(last, weights_only=True)["step"] == 20
    assert run(train.main, root, "codec.steps=23") == 0
    assert torch.load(last, weights_only=True)["step"] == 23
    assert run(train.main, root, "codec.steps=20") == 1
    assert "now it is codec.steps: 20" in capsys.readouterr().err
