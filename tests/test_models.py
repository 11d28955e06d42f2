"""The bundles that ship: whole, described, and as good as their cards say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gosvae_codec import Decoder, Encoder, Expert, Header, ModelBundle
from gosvae_codec.labels import camvid_to_train_ids
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.packets import MAX_SERIALIZED_BYTES
from gosvae_codec.tasks import MIN_SCORE
from gosvae_common.shipped import BUNDLE, find_drive
from gosvae_tools.drives import open_source

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parent for path in (ROOT / "models").glob("*/manifest.yaml"))
CAMVID = ROOT.parent / "shared" / "data" / "camvid"
INTRA_FRAMES = 15
"""One frame in as many is sent without reference where figures are of predicted frames."""
BUDGETS = {
    "camvid-tiny-labels": 0.15e9,
    "camvid-base-labels": 0.5e9,
    "camvid-base-layered": 0.5e9,
    "road": 0.5e9,
}
"""MACs that a light vehicle has for a frame."""


def test_the_default_bundle_gives_masks_and_boxes_as_the_experts_do() -> None:
    tasks = ModelBundle.load(ROOT / "models" / BUNDLE).manifest["figures"]["tasks"]
    assert tasks["semantic"]["agreement"] >= 0.75
    assert tasks["detection"]["ap50"] >= 0.8


def test_the_example_of_tasks_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tasks.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    frame = next(open_source(find_drive()).frames()).image
    given: dict[str, Any] = {"frame": frame}
    exec(example, given)
    assert given["mask"].shape == given["confidence"].shape == frame.shape[:2]
    scores, more = given["found"].scores, given["more"]["detection"].scores
    assert list(given["more"]) == ["detection"]
    # The head leaves it to receivers what is likely enough.
    assert len(more) > len(scores) > 0 and scores.min() >= MIN_SCORE > more.min() >= 0.05
    names = [label.name for label in given["bundle"].tasks["detection"].labels.labels]
    first = capsys.readouterr().out.splitlines()[0]
    assert any(first.startswith(f"{name} ") for name in names)


@pytest.mark.parametrize(("name", "share"), [("camvid-base-layered", 0.88), ("camvid-f16", 0.98)])
def test_bundles_keep_what_the_expert_sees(name: str, share: float) -> None:
    levels = ModelBundle.load(ROOT / "models" / name).manifest["figures"]["levels"]
    assert levels[-1]["share_of_expert"] >= share


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    return ModelBundle.load(request.param)


def test_card_and_manifest_say_where_it_comes_from(bundle: ModelBundle) -> None:
    card = (bundle.path / "README.md").read_text()
    figures = bundle.manifest["figures"]
    assert bundle.manifest["provenance"]["license"] in card
    metric = "agreement" if figures["levels"][0]["miou"] is None else "miou"
    assert f"{figures['levels'][0][metric]:.3f}" in card
    assert bundle.name == bundle.path.name


@pytest.mark.parametrize(("name", "macs"), BUDGETS.items())
def test_light_vehicles_stay_within_their_budgets(name: str, macs: float) -> None:
    path = ROOT / "models" / name
    assert ModelBundle.load(path).manifest["compute"]["vehicle_macs"] <= macs
    assert sum(each.stat().st_size for each in path.rglob("*")) <= 15e6


def test_a_street_decodes_to_what_the_expert_sees(bundle: ModelBundle) -> None:
    frame = next(open_source(find_drive()).frames()).image
    expert = Expert(bundle).segment(frame)
    for levels in range(1, bundle.levels + 1):
        packets = Encoder(bundle).encode(frame, Header(1, 2, "camera"), levels)
        assert max(packet.serialized_size() for packet in packets) <= MAX_SERIALIZED_BYTES
        mask = Decoder(bundle).decode(packets).mask
        assert (mask == expert).mean() > 0.8


@pytest.mark.slow
def test_figures_are_those_of_the_validation_split(bundle: ModelBundle) -> None:
    if not CAMVID.is_dir():
        pytest.skip(f"needs CamVid in {CAMVID}")
    if bundle.manifest["figures"]["miou"] is None:
        pytest.skip("its figures are of rendered streets, which are not committed")
    encoder, decoder, expert = Encoder(bundle), Decoder(bundle), Expert(bundle)
    ours, ceiling = ConfusionMatrix(), ConfusionMatrix()
    sizes = []
    for index, path in enumerate(sorted((CAMVID / "val").glob("*.png"))):
        frame = np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)
        label = cv2.imread(str(CAMVID / "valannot" / path.name), cv2.IMREAD_UNCHANGED)
        truth = camvid_to_train_ids()[label]
        packets = encoder.encode(frame, Header(0, 0, "camera"), 1, index % INTRA_FRAMES == 0)
        sizes.append(sum(packet.serialized_size() for packet in packets))
        decoded = decoder.decode(packets)
        encoder.acknowledge(decoded.sequence)
        ours.add(truth, decoded.mask)
        ceiling.add(truth, expert.segment(frame))
    figures = bundle.manifest["figures"]
    # Another processor may round a few tokens otherwise.
    assert ours.miou() == pytest.approx(figures["levels"][0]["miou"], abs=2e-3)
    assert ceiling.miou() == pytest.approx(figures["expert_miou"], abs=2e-3)
    # Figures of the manifests that ship are with an empty frame_id, 8 bytes less.
    assert np.mean(sizes) == pytest.approx(figures["levels"][0]["bytes_per_frame"], abs=9)
