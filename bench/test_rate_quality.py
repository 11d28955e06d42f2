"""The benchmark on drives small enough to check by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_bench import rate_quality as module
from gosvae_bench.codecs import Still, Tokens, wire_bytes
from gosvae_bench.contenders import contenders, find_bundles, find_experts, open_expert
from gosvae_bench.labelled import Drive, find_split, unpack
from gosvae_bench.rate_quality import Task, main, quality
from gosvae_bench.results import Results
from gosvae_bench.scores import Counts, counts_of
from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.testing import write_tiny_bundle

SIZE = (64, 96)
NAMES = {"JPEG", "WebP", "AVIF", "JPEG XL", "H.264", "HEVC", "AV1", "H.264 intra", "HEVC intra"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_bundle(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def bundle(models: Path) -> ModelBundle:
    return ModelBundle.load(models / "tiny")


def pictures(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    coarse = [rng.integers(0, 256, (4, 6, 3), np.uint8) for _ in range(count)]
    return [cv2.resize(each, size[::-1], interpolation=cv2.INTER_NEAREST) for each in coarse]


def write_cityscapes(
    root: Path, count: int, kind: str, size: tuple[int, int] = SIZE, split: str = "val"
) -> Path:
    """Write frames whose left half is labelled road and right half car, by ids of `kind`."""
    road, car = {"labelIds": (7, 26), "labelTrainIds": (0, 13)}[kind]
    for index, picture in enumerate(pictures(count, size)):
        name = f"aachen_{index:06}_000019"
        for folder in ("leftImg8bit", "gtFine"):
            (root / folder / split / "aachen").mkdir(parents=True, exist_ok=True)
        label = np.full(size, road, np.uint8)
        label[:, size[1] // 2 :] = car
        image = root / "leftImg8bit" / split / "aachen" / f"{name}_leftImg8bit.png"
        cv2.imwrite(str(image), picture)
        cv2.imwrite(str(root / "gtFine" / split / "aachen" / f"{name}_gtFine_{kind}.png"), label)
    return root


def test_every_codec_brings_every_frame_across(bundle: ModelBundle) -> None:
    found = contenders(bundle, [bundle], (128, 192))
    assert {each.codec for each in found} >= NAMES | {"PNG", "expert's labels", "tiny"}
    assert len({each.key for each in found}) == len(found)
    frames = pictures(12, (128, 192))
    cheapest: dict[tuple[str, str], int] = {}
    for each in found:
        # One of a codec and size is enough.
        if cheapest.setdefault((each.codec, each.setting.partition(",")[2]), 0):
            continue
        cheapest[each.codec, each.setting.partition(",")[2]] = 1
        codec, twin = each.make(), each.make()
        expert = open_expert(bundle, each.expert) if each.expert else None
        for frame in frames:
            sent = codec.encode(frame)
            made = twin.decode(sent)
            assert min(codec.messages(sent)) > 20
            if expert:
                assert made.shape in ((*SIZE, 3), (128, 192, 3))
                assert made.dtype == np.uint8
                made = expert.segment(made)
            else:
                assert made.shape in (SIZE, (128, 192))
            assert set(np.unique(made)) <= set(bundle.labels.ids)


def test_more_bytes_bring_pictures_closer(bundle: ModelBundle) -> None:
    frame = pictures(1)[0]
    errors: dict[str, list[float]] = {}
    for each in contenders(bundle, [], SIZE):
        if each.sends == "pixels" and "96x64" in each.setting:
            codec = each.make()
            made = codec.decode(codec.encode(frame)).astype(float)
            errors.setdefault(each.codec, []).append(float(np.abs(made - frame).mean()))
    assert errors.pop("PNG") == [0]
    for codec, values in errors.items():
        ends = sorted((values[0], values[-1]))
        assert ends[1] > 1.5 * ends[0], (codec, values)


def test_the_few_that_tell_most_are_of_every_codec(bundle: ModelBundle) -> None:
    found = contenders(bundle, [bundle], (128, 192))
    few = [each for each in found if each.quick]
    assert len(few) < len(found) / 2
    assert {e.codec for e in found} - {e.codec for e in few} == {"H.264 intra", "HEVC intra"}


def test_another_expert_is_another_contender(bundle: ModelBundle, models: Path) -> None:
    second = models / "tuned.onnx"
    second.write_bytes(bundle.expert_path().read_bytes())
    found = contenders(bundle, [bundle], SIZE, experts=[second])
    pixels = [each for each in found if each.sends == "pixels"]
    assert len({each.key for each in pixels}) == len(pixels)
    assert sum(each.expert == second for each in pixels) * 2 == len(pixels)


def write_expert(folder: Path, bundle: ModelBundle, **changes: Any) -> Path:
    """Write the bundle's expert as one without tokens; `changes` are to its description."""
    folder.mkdir()
    network = bundle.expert_path().read_bytes()
    (folder / "expert.onnx").write_bytes(network)
    about = {
        "label_space": "camvid",
        "input_size": list(bundle.input_size),
        "expert": {"sha256": hashlib.sha256(network).hexdigest()},
        **changes,
    }
    (folder / "expert.yaml").write_text(yaml.safe_dump(about))
    return folder / "expert.onnx"


def test_experts_beside_the_bundles_are_found(bundle: ModelBundle, tmp_path: Path) -> None:
    tuned = write_expert(tmp_path / "tuned", bundle)
    write_expert(tmp_path / "wider", bundle, input_size=[64, 128])
    write_expert(tmp_path / "other", bundle, label_space="ade20k")
    assert find_experts(tmp_path, bundle) == [tuned]
    found = contenders(bundle, [bundle], SIZE, experts=[tuned])
    jpeg = [each for each in found if (each.codec, each.setting) == ("JPEG", "quality 5, 96x64")]
    assert {each.expert_name for each in jpeg} == {bundle.expert_path().stem, "tuned"}
    assert (len({each.stream for each in jpeg}), len({each.key for each in jpeg})) == (1, 2)
    tuned.write_bytes(b"else")
    with pytest.raises(GosvaeError, match=r"expert\.onnx: altered since expert\.yaml"):
        find_experts(tmp_path, bundle)
    tuned.with_name("expert.yaml").write_text("[]")
    with pytest.raises(GosvaeError, match=r"expert\.yaml: describes no expert"):
        find_experts(tmp_path, bundle)


def test_what_is_sent_the_same_is_measured_once(
    bundle: ModelBundle, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = write_expert(tmp_path / "tuned", bundle)
    (tmp_path / "frames").mkdir()
    drive = Drive(tmp_path / "frames")
    unpack(write_cityscapes(tmp_path / "data", 3, "labelIds"), None, bundle, drive)
    for index in range(3):
        drive.save("expert", index, open_expert(bundle, None).segment(drive.frame(index)))
    both = [
        each
        for each in contenders(bundle, [], SIZE, experts=[tuned])
        if (each.codec, each.setting) == ("JPEG", "quality 50, 96x64")
    ]
    encoded = []
    encode = Still.encode
    monkeypatch.setattr(Still, "encode", lambda *given: encoded.append(1) or encode(*given))
    monkeypatch.setattr(Task, "contenders", lambda _: {each.key: each for each in both})
    task = Task(models, models / "tiny", (), False, tmp_path / "frames")
    found = quality(task, [each.key for each in both])
    assert len(encoded) == 3
    # The same network under another name.
    first, second = (found[each.key] for each in both)
    assert first == second and 0 < first["agreement"] <= 1


def test_predicted_tokens_refer_to_the_frame_before(bundle: ModelBundle) -> None:
    codec, frame = Tokens(bundle, 2, predicted=True), pictures(1)[0]
    references = [codec.encode(frame)[0].reference for _ in range(17)]
    assert references == [0, *[1] * 14, 0, 1]


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=4))
def test_the_wire_carries_messages_and_a_header_for_each_datagram(messages: list[int]) -> None:
    over = wire_bytes(messages) - sum(messages)
    assert over % 114 == 0
    assert sum(messages) / 1400 <= over / 114 < sum(messages) / 1400 + len(messages)


@settings(deadline=None)
@given(seed=st.integers(0, 99), frames=st.integers(1, 5))
def test_counts_add_up_to_the_confusion_matrix(seed: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.choice([0, 3, 7, 255], (frames, 2, 8, 9)).astype(np.uint8)
    whole = ConfusionMatrix()
    for truth, said in masks:
        whole.add(truth, said)
    counts = Counts.of([counts_of(truth, said) for truth, said in masks])
    miou, (low, high) = counts.figures()
    assert np.isnan(miou) if np.isnan(whole.miou()) else miou == round(whole.miou(), 4)
    assert np.isnan(miou) or low <= high
    if frames == 1 and not np.isnan(miou):
        assert low == miou == high


def test_confidence_narrows_with_frames() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for frames in (10, 160):
        truth = rng.integers(0, 3, (frames, 16, 16), np.uint8)
        wrong = rng.random((frames, 1, 1)) * 0.5 > rng.random(truth.shape)
        said = np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8)
        _, (low, high) = Counts.of(
            [counts_of(*pair) for pair in zip(truth, said, strict=True)]
        ).figures()
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_ids_become_train_ids(bundle: ModelBundle, tmp_path: Path, kind: str) -> None:
    root = write_cityscapes(tmp_path / "data", 3, kind)
    (tmp_path / "drive").mkdir()
    drive = Drive(tmp_path / "drive")
    about = unpack(root, None, bundle, drive)
    assert about["frames"] == len(drive) == 3
    assert about["classes"] == ["road", "car"]
    assert (drive.label(0)[:, :48] == 0).all() and (drive.label(0)[:, 48:] == 13).all()


def test_what_cannot_be_measured_says_why(bundle: ModelBundle, tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    drive = Drive(tmp_path / "drive")
    bare = tmp_path / "bare"
    bare.mkdir()
    cv2.imwrite(str(bare / "1.png"), pictures(1)[0])
    with pytest.raises(GosvaeError, match="none of 1 frames has labels; give a folder"):
        unpack(bare, None, bundle, drive)
    root = write_cityscapes(tmp_path / "data", 1, "labelIds")
    for label in root.rglob("*_labelIds.png"):
        cv2.imwrite(str(label), np.full(SIZE, 1, np.uint8))
    with pytest.raises(GosvaeError, match="no class that tiny knows"):
        unpack(root, None, bundle, drive)
    with pytest.raises(GosvaeError, match="holds no model bundles"):
        find_bundles(bare)
    assert find_split(root) == root / "leftImg8bit" / "val"
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(GosvaeError, match="holds no results"):
        Results(tmp_path / "results.json", {})


def test_a_run_goes_on_where_it_stopped(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = write_cityscapes(tmp_path / "data", 4, "labelTrainIds", (96, 144))
    path = tmp_path / "results.json"
    arguments = ["--data", str(root), "--json", str(path), "--models", str(models)]
    arguments += ["--reference", str(models / "tiny"), "--quick"]
    bundle = ModelBundle.load(models / "tiny")
    few = [
        each
        for each in contenders(bundle, [bundle], (96, 144))
        if each.codec in ("PNG", "tiny") or each.setting.startswith("quality 5,")
    ]
    assert len(few) > 5
    # Here, as what is patched is unknown to other processes.
    monkeypatch.setattr(Task, "contenders", lambda _: {each.key: each for each in few})
    monkeypatch.setattr(module, "_alone", lambda function, *given: function(*given))
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda _: Here())
    assert main(arguments) == 0
    first = json.loads(path.read_text())
    assert first["data"]["frames"] == 4
    assert len(first["rows"]) == len(few)
    for row in first["rows"]:
        # The tiny bundle counts no MACs, and only pictures need an expert.
        assert {k for k, v in row.items() if v is None} <= {
            "expert",
            "vehicle_macs",
            "receiver_macs",
        }
        assert row["miou_ci95"][0] <= row["miou"] <= row["miou_ci95"][1]
    png = first["rows"][0]
    assert (png["codec"], png["agreement"]) == ("PNG", 1)
    assert "| PNG | lossless, 96x64 |" in capsys.readouterr().out
    removed = first["rows"].pop(1)
    first["rows"][0]["miou"] = 7.0
    path.write_text(json.dumps(first))
    assert main(arguments) == 0
    again = json.loads(path.read_text())["rows"]
    assert again[0]["miou"] == 7.0
    measured = ("bytes_per_frame", "miou", "agreement", "agreement_ci95", "vehicle_macs")
    assert [again[1][name] for name in measured] == [removed[name] for name in measured]
    assert main([*arguments, "--frames", "2"]) == 1
    assert "has results of other data" in capsys.readouterr().err


def test_frames_never_seen_are_measured_whatever_their_size_and_split(
    models: Path, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger than what the expert takes, of odd sides, in `train` alone, with Cityscapes' ids."""
    root = write_cityscapes(tmp_path / "data", 2, "labelIds", (135, 241), "train")
    path = tmp_path / "results.json"
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda _: Here())
    # One of a codec and size is enough.
    every = contenders(bundle, [bundle], (135, 241))
    some = {(each.codec, each.setting.partition(",")[2]): each for each in every}
    monkeypatch.setattr(Task, "contenders", lambda _: {each.key: each for each in some.values()})
    arguments = ["--data", str(root), "--json", str(path), "--models", str(models)]
    arguments += ["--reference", str(models / "tiny"), "--only", "quality"]
    assert main(arguments) == 0
    results = json.loads(path.read_text())
    assert results["data"]["size"] == "241x135"
    assert results["data"]["classes"] == ["road", "car"]
    assert {row["codec"] for row in results["rows"]} >= NAMES | {"PNG", "expert's labels", "tiny"}
    sizes = {row["setting"].partition(", ")[2] for row in results["rows"]}
    assert sizes >= {"241x135", "96x64", "48x32"}
    for row in results["rows"]:
        assert 0 <= row["miou"] <= 1 and row["bytes_per_frame"] > 20
        assert row["encode_ms"] is None


class Here:
    """A multiprocessing context without processes."""

    def Pool(self, *_: object) -> Here:
        return self

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def imap(self, call, jobs, *_: object):  # type: ignore[no-untyped-def]
        return map(call, jobs)

    imap_unordered = imap


def test_rows_of_bundles_and_experts_that_are_gone_are_kept(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    tuned = write_expert(tmp_path / "tuned", bundle)
    before = contenders(bundle, [bundle], SIZE, experts=[tuned])
    path = tmp_path / "results.json"
    results = Results(path, {})
    for each in before:
        results.add(each, {"miou": 0.5})
    results.write(before)
    found = json.loads(path.read_text())
    gone = [
        {**row, "codec": codec, "key": f"{codec}; {row['setting']}; 0123", "miou": 0.25}
        for codec in ("light", "tiny")
        for row in found["rows"]
        if row["codec"] == "tiny"
    ]
    path.write_text(json.dumps({"rows": [*found["rows"], *gone]}))
    after = contenders(bundle, [bundle], SIZE)
    Results(path, {}).write(after)
    rows = json.loads(path.read_text())["rows"]
    # An older bundle of the same name has been replaced; one that is gone has not.
    assert [row["miou"] for row in rows if row["codec"] == "light"] == [0.25] * (len(gone) // 2)
    assert {row["miou"] for row in rows if row["codec"] == "tiny"} == {0.5}
    assert sum(row["expert"] == "tuned" for row in rows) == sum(
        each.expert_name == "tuned" for each in before
    )
    assert len(rows) == len(before) + len(gone) // 2
    sends = [row["sends"] for row in rows]
    assert sends == sorted(sends, key=["pixels", "labels", "tokens"].index)
