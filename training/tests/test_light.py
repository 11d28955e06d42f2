"""Light vehicles: labels as tokens, an expert asked once a frame, and the comparison of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny import SIZE, SMALL
from trees import write_camvid

from gosvae_codec import CAMVID, UNLABELLED, Decoder, Encoder, ModelBundle
from gosvae_codec.images import resize_frame
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.unpacking import Unpacker
from gosvae_training import export, train
from gosvae_training.bundle.bit_cost import add_bit_cost
from gosvae_training.config import load_config
from gosvae_training.data.augment import RandomCrops, _at_parts
from gosvae_training.data.cached_logits import CachedLogits, Taught
from gosvae_training.data.datasets import load_dataset
from gosvae_training.data.samples import Sample
from gosvae_training.models.encoders import LightEncoder
from gosvae_training.models.expert import Expert
from gosvae_training.models.settings import Light, Tokens
from gosvae_training.models.start import calibrate, load_encoder, started_tokens
from gosvae_training.models.token_network import _light_encoder, build_tokens
from gosvae_training.strict import ConfigError
from gosvae_training.studies import compare

LIGHT = {"kind": "light", "shrink": 2, "blocks": 3, "stride": 4, "width": 8}
LABELS: dict[str, Any] = {
    **SMALL,
    "name": "tiny-labels",
    "tokens": {"kind": "label_sender", "encoder": LIGHT},
    "codec": {**SMALL["codec"], "frozen_blocks": 0, "teacher": "frame"},
    "bit_cost": 0.2,
}
TOKENS: dict[str, Any] = {
    **LABELS,
    "name": "tiny",
    "tokens": {**SMALL["tokens"], "encoder": {**LIGHT, "stride": 8}},
    "bit_cost": 0.0,
}


@pytest.fixture(scope="module")
def rivals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens and labels of a light vehicle, trained and exported."""
    root = tmp_path_factory.mktemp("rivals")
    write_camvid(root / "camvid")
    for values in (TOKENS, LABELS):
        config = root / f"{values['name']}.yaml"
        config.write_text(yaml.safe_dump(values))
        paths = [str(config), "--data", str(root / "camvid"), "--runs", str(root / "runs")]
        assert train.main(paths) == 0
        assert export.main([*paths, "--models", str(root / "models")]) == 0
    return root


def test_labels_cross_as_any_bundles_tokens_do(rivals: Path) -> None:
    bundle = ModelBundle.load(rivals / "models" / "tiny-labels")
    assert (bundle.levels, bundle.codes, bundle.grid) == (1, 11, (16, 24))
    assert bundle.manifest["kind"] == "labels" and "features.int8.onnx" not in bundle.files
    card = (bundle.path / "README.md").read_text()
    assert "24x16 labels" in card and "squared distance and 0.2 for each bit" in card
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    for sample in (load_dataset(rivals / "camvid", "val")[index] for index in range(2)):
        decoded = decoder.decode(encoder.encode(sample.frame))
        encoder.acknowledge(decoded.sequence)
        assert decoded.mask.shape == SIZE and set(np.unique(decoded.mask)) <= set(CAMVID.ids)


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_tokens_start_from_a_label_senders_trunk_and_train_it_or_not(
    rivals: Path, rate: float, capsys: pytest.CaptureFixture[str]
) -> None:
    file = rivals / "runs/tiny-labels/codec/last.pt"
    trunk = {"kind": "trunk", "label_sender": LIGHT, "weights": str(file), "narrow": 4, "width": 8}
    schedule = {**LABELS["codec"], "backbone_learning_rate": rate}
    tokens = {**TOKENS["tokens"], "encoder": trunk}
    values = {**TOKENS, "name": f"trunk-{rate}", "tokens": tokens, "codec": schedule}
    config = rivals / "trunk.yaml"
    config.write_text(yaml.safe_dump(values))
    run = [str(config), "--data", str(rivals / "camvid"), "--runs", str(rivals / "runs")]
    assert train.main(run) == 0
    state = torch.load(rivals / f"runs/trunk-{rate}/codec/last.pt", weights_only=True)
    theirs = torch.load(file, weights_only=True)["averaged"]
    kept = {
        name: torch.equal(value, theirs[name.replace("encoder.segmenter.", "encoder.")])
        for name, value in state["network"].items()
        if name.startswith("encoder.segmenter.")
    }
    assert len(kept) > 20 and all(kept.values()) == (rate == 0)
    assert train.main([*run, "name=wider", "tokens.encoder.label_sender.width=9"]) == 1
    assert "not those of the label sender described" in capsys.readouterr().err
    for name, change in (
        ("lost", "tokens.encoder.weights="),
        ("both", f"tokens.encoder.label_sender.start={rivals / 'models' / 'tiny-labels'}"),
    ):
        assert train.main([*run, f"name={name}", change]) == 1
        assert "label_sender needs weights or a start, not both" in capsys.readouterr().err


def test_an_encoder_goes_on_from_a_bundles(rivals: Path, tmp_path: Path) -> None:
    folder = rivals / "models" / "tiny"
    tokens = started_tokens(folder)
    assert tokens["levels"] == 2 and tokens["encoder"]["stride"] == 8
    encoder = build_tokens(Tokens.model_validate(tokens), 3).encoder.eval()
    assert isinstance(encoder, LightEncoder)
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    frame = torch.from_numpy(cv2.resize(noise, SIZE[::-1]))[None]
    with torch.inference_mode():
        before = encoder(frame)
        assert before.std() > 0.1
    calibrate(encoder, [frame])
    with torch.inference_mode():
        torch.testing.assert_close(encoder(frame), before, atol=1e-2, rtol=1e-2)
        encoder.train()
        again = encoder(frame)
    # Normalisation by the batch's own statistics changes nothing but the last, which has no scale.
    ours, theirs = (each.flatten(2)[0] for each in (again, before))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.99
    wider = LightEncoder(8, 8, 2, 3, 32)
    with pytest.raises(ConfigError, match=r"has no weights details.0.weight of \(32, 16, 2, 2\)"):
        load_encoder(wider, folder)
    with pytest.raises(ConfigError, match=r"start .*nowhere.*encoder.onnx"):
        load_encoder(encoder, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has no light encoder of tokens"):
        started_tokens(rivals / "models" / "tiny-labels")


def test_a_label_sender_goes_on_from_its_8_bit_network(rivals: Path, tmp_path: Path) -> None:
    models = Path(__file__).parents[2] / "models"
    folder = Path(shutil.copytree(models / "camvid-base-labels", tmp_path / "labels"))
    # What the network makes is to be compared, not what weighing bits makes of that.
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    samples = load_dataset(rivals / "camvid", "train")
    manifest["files"].update(add_bit_cost(folder, samples, manifest["codes"], 0.0, seed=0))
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    bundle = ModelBundle.load(folder)
    sender = LightEncoder(11, 4, 2, 16, 96, normalize=False).eval()
    load_encoder(sender, folder)
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    frame = cv2.resize(noise, bundle.input_size[::-1])
    sent = Unpacker(bundle).unpack(Encoder(bundle).encode(frame)).tokens[0]
    with torch.no_grad():
        labels = sender(torch.from_numpy(frame)[None]).argmax(1)[0].numpy()
    assert len(np.unique(sent)) > 1 and (labels == sent).mean() > 0.95


def test_labels_are_the_first_level_and_codes_the_second(
    rivals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = {
        "kind": "trunk",
        "label_sender": LIGHT,
        "weights": str(rivals / "runs/tiny-labels/codec/last.pt"),
        "narrow": 4,
        "width": 8,
        "stride": 8,
        "labels": True,
    }
    tokens = {**TOKENS["tokens"], "levels": 2, "codes": 16, "encoder": trunk}
    schedule = {**LABELS["codec"], "backbone_learning_rate": 1e-3}
    config = rivals / "layered.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                **TOKENS,
                "name": "layered",
                "tokens": tokens,
                "codec": schedule,
                "encoder_int8_only": True,
            }
        )
    )
    run = [str(config), "--data", str(rivals / "camvid"), "--runs", str(rivals / "runs")]
    assert train.main(run) == 0 and export.main([*run, "--models", str(rivals / "models")]) == 0
    labels = torch.load(rivals / "runs/tiny-labels/codec/last.pt", weights_only=True)["averaged"]
    sender = _light_encoder(Light(**LIGHT), 11, Expert(11), normalize=False).eval()
    sender.load_state_dict({name.removeprefix("encoder."): each for name, each in labels.items()})
    bundle = ModelBundle.load(rivals / "models" / "layered")
    assert (bundle.levels, bundle.codes, bundle.grid) == (2, 16, (8, 12))
    assert "encoder.int8.onnx" not in bundle.files and "features.int8.onnx" in bundle.files
    assert "8-bit integers on every processor" in (bundle.path / "README.md").read_text()
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    frame = load_dataset(rivals / "camvid", "val")[0].frame
    packets = encoder.encode(frame)
    sent = Unpacker(bundle).unpack(packets).tokens
    with torch.no_grad():
        logits = sender(torch.from_numpy(resize_frame(frame, bundle.input_size))[None])
    wanted = torch.nn.functional.avg_pool2d(logits, 2).argmax(1)[0].numpy()
    assert (sent[0] == wanted).mean() > 0.95  # An 8-bit network tips labels that are nearly equal.
    assert decoder.decode(packets).mask.shape == SIZE
    for change, error in (
        ("tokens.levels=1", "levels 1 and codes 16: with labels as the first level"),
        ("tokens.codes=8", "levels 2 and codes 8: with labels as the first level"),
        ('tokens.encoder={"kind": "trunk", "labels": true}', "labels: true needs a label_sender"),
    ):
        assert train.main([*run, "name=refused", change]) == 1
        assert error in capsys.readouterr().err
    # The receiver has learned from labels that cost nothing.
    assert train.main([*run, "bit_cost=0.2"]) == 1
    assert "bit_cost" in capsys.readouterr().err
    assert train.main([*run, "name=weighed", "bit_cost=0.2"]) == 0


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("tiny", "tiny-labels"),
        ("tiny-thin", "tiny-labels"),
        ("base-thin-thinner", "base-thin-labels"),
        ("tiny-labels", None),
        ("tinier", None),
    ],
)
def test_the_rival_is_the_label_sender_of_the_same_budget(name: str, other: str | None) -> None:
    names = ["tiny-labels", "tiny", "tiny-thin", "tinier", "micro-labels"]
    names += ["base-labels", "base-thin", "base-thin-labels", "base-thin-thinner"]
    assert compare.rival(name, names) == other


def test_rivals_are_compared_frame_by_frame(
    rivals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(rivals / "models" / name) for name in ("tiny", "tiny-labels")]
    file, picture = tmp_path / "light.json", tmp_path / "light.png"
    more = ["--data", str(rivals / "camvid"), "--json", str(file), "--plot", str(picture)]
    assert compare.main([*models, *more]) == 0
    figures = json.loads(file.read_text())
    first, second, labels = figures["rows"]
    assert [each["levels"] for each in figures["differences"]] == [1, 2]
    assert figures["differences"][1]["miou"] == pytest.approx(second["miou"] - labels["miou"])
    assert first["interval"][0] <= first["interval"][1]
    assert picture.stat().st_size > 0
    assert compare.table(figures) in capsys.readouterr().out


def test_the_page_shows_the_committed_figures() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    figures = json.loads((docs / "light-vehicle.json").read_text())
    assert compare.table(figures) in (docs / "light-vehicle.md").read_text()


def test_miou_of_many_frames_is_that_of_the_confusion_matrix() -> None:
    rng, whole, counts = np.random.default_rng(0), ConfusionMatrix(), []
    for _ in range(3):
        truth, guess = rng.integers(0, 4, (2, 8, 8), np.uint8)
        truth[0] = UNLABELLED
        whole.add(truth, guess)
        each = ConfusionMatrix()
        each.add(truth, guess)
        counts.append(each.counts[:5, :5])
    assert compare.miou(np.sum(counts, 0)) == pytest.approx(whole.miou())


def test_resamples_are_of_neighbours() -> None:
    drawn = compare.blocks(101)
    assert drawn.shape == (compare.RESAMPLES, 101)
    assert drawn.min() == 0 and drawn.max() == 100
    assert (np.diff(drawn[:, : compare.BLOCK]) == 1).all()


@given(
    x=st.floats(-50, 50),
    y=st.floats(-50, 50),
    shift=st.floats(-20, 20),
    source=st.integers(1, 4),
    target=st.integers(1, 4),
)
def test_maps_of_coarser_pixels_meet_at_their_centres(
    x: float, y: float, shift: float, source: int, target: int
) -> None:
    matrix = np.array([[1.2, 0.3, shift], [-0.2, 0.9, 5.0]])
    place = np.array([x, y])
    fine = matrix[:, :2] @ (source * place + (source - 1) / 2) + matrix[:, 2]
    coarse = _at_parts(matrix, source, target)
    np.testing.assert_allclose(
        coarse[:, :2] @ place + coarse[:, 2], (fine - (target - 1) / 2) / target, atol=1e-9
    )


def test_what_the_expert_said_of_a_frame_is_asked_for_once_and_moves_with_it(
    tmp_path: Path,
) -> None:
    samples = load_dataset(write_camvid(tmp_path / "camvid"), "train")
    asked = []

    def teach(frame: np.ndarray) -> Taught:
        asked.append(frame)
        # As sure of a class as its colour says; void is none.
        label = frame[2::4, 2::4, 2] // 20
        return Taught(torch.from_numpy((np.arange(11)[:, None, None] == label) * 9.0).float())

    file = tmp_path / "logits" / "some.npz"
    first, second = (CachedLogits(samples, SIZE[0], teach, file) for _ in range(2))
    assert len(asked) == len(samples)
    np.testing.assert_array_equal(first[0].logits, second[0].logits)
    crops = RandomCrops(first, CAMVID, SIZE[0], (32, 48), 8, seed=0)
    for frame, target, logits in (crops[index] for index in range(8)):
        assert (frame.shape, target.shape, logits.shape) == ((32, 48, 3), (16, 24), (11, 8, 12))
        # In the middle of 16 pixels of one class both are sure.
        near = target[1::2, 1::2]
        sure = (logits.amax(0) > 8.9) & (near != UNLABELLED)
        assert sure.any() and (logits.argmax(0)[sure] == near[sure]).float().mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("expert.teacher=frame", "experts have none"),
        ('guides={"more": {"kind": "espnet", "weights": "x"}}', "no guide but the expert"),
        ("losses.pixels=1.0", "needs tokens.decoder.kind: pixels"),
        ("inertia=[0.1, 0.2]", "2 numbers for 1 levels"),
        ("tokens.encoder.stride=5", "Input should be 4, 8, 16 or 32"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: str, message: str) -> None:
    (tmp_path / "light.yaml").write_text(yaml.safe_dump(LABELS))
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "light.yaml", [change])


def test_logits_are_no_part_of_samples_that_nobody_taught() -> None:
    assert Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)).logits is None
