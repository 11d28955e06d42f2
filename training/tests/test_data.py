"""Datasets in each layout, mixed and cropped."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from PIL import Image
from trees import write_ade20k, write_camvid, write_cityscapes

from gosvae_codec import CAMVID, CITYSCAPES, UNLABELLED
from gosvae_codec.labels import ADE20K, CITYSCAPES_IDS, Label, LabelSpace, translate
from gosvae_training.data.augment import RandomCrops, augment, fit_rows, recompress
from gosvae_training.data.cached_logits import CachedLogits, Taught, at_stride
from gosvae_training.data.datasets import load_dataset
from gosvae_training.data.mixture import Concatenation, Mixture
from gosvae_training.data.samples import DataError, Part, Sample, describe, iterate


class Listed(list):
    title, terms = "listed", "none"


def test_camvid_is_read_by_name(tmp_path: Path) -> None:
    dataset = load_dataset(write_camvid(tmp_path), "train")
    stored = cv2.imread(str(tmp_path / "trainannot" / "0.png"), cv2.IMREAD_UNCHANGED)
    mask = dataset[0].mask
    assert describe(dataset) == "CamVid train, 4 frames at 96x64"
    assert (mask[stored == 0] == CAMVID.by_name("sky").id).all()
    assert (mask[stored == 10] == CAMVID.by_name("rider").id).all()
    assert (mask[stored == 11] == UNLABELLED).all() and (stored == 11).any()


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_is_read_from_either_kind_of_mask(tmp_path: Path, kind: str) -> None:
    root = write_cityscapes(tmp_path / "towns", kind, ("train", "train_extra"))
    name = f"ulm_000001_000019_gtFine_{kind}.png"
    stored = cv2.imread(str(root / "gtFine/train/ulm" / name), cv2.IMREAD_UNCHANGED)
    dataset = load_dataset(root, "train", CITYSCAPES)
    assert describe(dataset) == "towns train, 3 frames at 128x64"
    for value in np.unique(stored):
        wanted = value if kind == "labelTrainIds" else CITYSCAPES_IDS.get(int(value), UNLABELLED)
        assert (dataset[1].mask[stored == value] == wanted).all()
    assert len(load_dataset(root, "extra", CITYSCAPES)) == 3


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    dataset = load_dataset(write_ade20k(tmp_path), "val", ADE20K)
    stored = cv2.imread(str(tmp_path / "annotations/validation/ADE_0.png"), cv2.IMREAD_UNCHANGED)
    mask = dataset[0].mask
    assert (mask[stored == 0] == UNLABELLED).all()
    assert (mask[stored == 150] == ADE20K.by_name("flag").id).all()
    assert set(np.unique(mask)) == {*range(150), UNLABELLED}
    assert "of several sizes" in describe(dataset)


def test_label_spaces_translate_by_name_and_by_fallback() -> None:
    to_camvid = translate(CITYSCAPES, CAMVID)
    for source, target in {
        "road": "road",
        "wall": "building",
        "traffic light": "traffic sign",
        "terrain": "vegetation",
        "truck": "car",
        "bus": "car",
        "train": "car",
        "motorcycle": "rider",
        "bicycle": "rider",
    }.items():
        assert to_camvid[CITYSCAPES.by_name(source).id] == CAMVID.by_name(target).id
    assert to_camvid[UNLABELLED] == UNLABELLED
    assert (translate(ADE20K, ADE20K)[:150] == np.arange(150)).all()
    from_ade = translate(ADE20K, CITYSCAPES)
    assert from_ade[ADE20K.by_name("grass").id] == CITYSCAPES.by_name("terrain").id
    assert from_ade[ADE20K.by_name("bed").id] == UNLABELLED


def test_images_and_videos_need_no_labels(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / "images" / "a").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/a/{index}.jpg"), np.full((16, 24, 3), 80 * index))
    dataset = load_dataset(tmp_path / "images", "all")
    assert describe(dataset) == "images, unlabelled, 3 frames at 24x16"
    assert (dataset[0].mask == UNLABELLED).all()

    path = tmp_path / "drive.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for index in range(6):
        writer.write(np.full((48, 64, 3), 40 * index, np.uint8))
    writer.release()
    video = load_dataset(path, "all")
    assert describe(video) == "drive.mp4, unlabelled, 6 frames at 64x48"
    video = pickle.loads(pickle.dumps(video))
    for index in (0, 1, 4, 2, 5):
        assert abs(video[index].frame.mean() - 40 * index) < 8
    assert (video[0].mask == UNLABELLED).all()
    with pytest.raises(DataError, match="none of camvid, cityscapes, ade20k and images/"):
        load_dataset(tmp_path / "images", "train")
    with pytest.raises(DataError, match="a drive has no split 'val'"):
        load_dataset(path, "val")


DRIVE = Path(__file__).parents[2] / "drives" / "street.mcap"


def test_a_part_of_a_bag_is_read_with_its_labels() -> None:
    bag = load_dataset(DRIVE, "all", CITYSCAPES, Part(every=2, range=(0.0, 0.05)))
    assert describe(bag) == "3 of 100 frames of street.mcap, 3 frames at 1024x512"
    assert CITYSCAPES.by_name("road").id in bag[0].mask
    # Mapped by name, as all labels are.
    few = load_dataset(DRIVE, "all", CITYSCAPES.subset("few", ["sky"]), Part(range=(0.0, 0.01)))
    assert set(np.unique(few[0].mask)) == {10, UNLABELLED}
    with pytest.raises(DataError, match=r"no frame of 100 is in Part"):
        load_dataset(DRIVE, "all", CITYSCAPES, Part(range=(0.0, 0.001)))
    with pytest.raises(DataError, match=r"nowhere\.mcap: no such"):
        load_dataset(DRIVE.with_name("nowhere.mcap"), "all")


def test_parts_of_folders_are_taken_in_order(tmp_path: Path) -> None:
    root = write_camvid(tmp_path / "with spaces")
    whole = load_dataset(root, "train")
    part = load_dataset(root, "train", part=Part(every=2, range=(0.25, 1.0)))
    assert describe(part) == "2 of CamVid train, 2 frames at 96x64"
    for index, place in enumerate((1, 3)):
        assert (part[index].frame == whole[place].frame).all()


def write_plain(root: Path, labels: LabelSpace, kind: str) -> npt.NDArray[np.uint8]:
    """Two frames with masks of some kind; return the ids of both."""
    ids = labels.ids[np.random.default_rng(0).integers(0, len(labels), (16, 24))]
    ids[0, :6] = UNLABELLED
    for folder in ("images", "masks"):
        (root / folder / "north yard").mkdir(parents=True)
    for name in "ab":
        cv2.imwrite(str(root / f"images/north yard/{name}.jpg"), np.zeros((16, 24, 3)))
        path = root / f"masks/north yard/{name}.png"
        if kind == "palette":
            image = Image.fromarray(ids, "P")
            image.putpalette(labels.palette.tobytes())
            image.save(path)
        else:
            cv2.imwrite(str(path), ids if kind == "ids" else labels.palette[ids][..., ::-1])
    return ids


@pytest.mark.parametrize("kind", ["ids", "palette", "colours"])
def test_plain_images_and_masks_are_read(tmp_path: Path, kind: str) -> None:
    labels = LabelSpace(
        "yard",
        (
            Label(3, "road", (128, 64, 128)),
            Label(7, "pallet", (200, 30, 30)),
            Label(9, "forklift", (1, 2, 3), "car"),
        ),
    )
    ids = write_plain(tmp_path, labels, kind)
    assert (load_dataset(tmp_path, "all", labels)[1].mask == ids).all()
    assert len(load_dataset(tmp_path, "north yard", labels)) == 2
    # With labels of their own they are mapped by name, or by group.
    entries = [{**e._asdict(), "color": list(e.color)} for e in labels.labels]
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(entries))
    mask = load_dataset(tmp_path, "all", CAMVID)[0].mask
    for name, wanted in (("road", "road"), ("forklift", "car")):
        assert (mask[ids == labels.by_name(name).id] == CAMVID.by_name(wanted).id).all()
    assert (mask[ids == labels.by_name("pallet").id] == UNLABELLED).all()


def test_plain_masks_that_are_wrong_are_named(tmp_path: Path) -> None:
    labels = LabelSpace("one", (Label(0, "road", (128, 64, 128)),))
    write_plain(tmp_path, labels, "colours")
    with pytest.raises(DataError, match="no such folder; `all` takes every image"):
        load_dataset(tmp_path, "val", labels)
    with pytest.raises(DataError, match="of it has colours that no label has"):
        load_dataset(tmp_path, "all", CAMVID.subset("sky", ["sky"]))[0]
    (tmp_path / "masks/north yard/b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: no such file"):
        load_dataset(tmp_path, "all", labels)


def test_missing_and_mismatched_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_dataset(tmp_path / "nowhere", "train")
    root = write_camvid(tmp_path / "camvid")
    with pytest.raises(DataError, match="camvid/test: no such folder"):
        load_dataset(root, "test")
    cv2.imwrite(str(root / "valannot" / "2.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"2\.png: frame \(64, 96\) but mask \(8, 8\)"):
        list(iterate(load_dataset(root, "val")))
    cv2.imwrite(str(root / "valannot" / "2.png"), np.full((64, 96, 3), (0, 50, 99), np.uint8))
    with pytest.raises(DataError, match="it is in colours, expected one 8-bit channel"):
        load_dataset(root, "val")[2]
    (root / "train" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/1\.png: cannot read it"):
        load_dataset(root, "train")[1]
    (root / "trainannot" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png: no such file"):
        load_dataset(root, "train")
    towns = write_cityscapes(tmp_path / "towns", "labelIds")
    for path in (towns / "gtFine" / "val").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no masks for ulm_000000_000019_leftImg8bit"):
        load_dataset(towns, "val")


def test_crops_are_repeatable_and_frame_and_mask_move_together() -> None:
    rng = np.random.default_rng(0)
    mask = CAMVID.ids[np.repeat(np.repeat(rng.integers(0, 11, (8, 8)), 32, 0), 32, 1)]
    sample = Sample(np.repeat(mask[..., None] * 12, 3, -1), mask)
    crops = RandomCrops(Listed([sample] * 3), CAMVID, 256, (96, 128), 9, seed=5)
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


def test_a_share_of_the_crops_comes_through_a_codec() -> None:
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 256, (16, 16, 3), np.uint8), (256, 256))
    sample = Sample(frame, np.zeros((256, 256), np.uint8))
    clean, half, whole = (
        RandomCrops(Listed([sample] * 40), CAMVID, 256, (96, 128), 40, 5, compression=share)
        for share in (0.0, 0.5, 1.0)
    )
    same = [torch.equal(half[index][0], clean[index][0]) for index in range(40)]
    assert 10 < sum(same) < 30
    for index in range(40):
        (frame, target), (before, wanted) = whole[index], clean[index]
        assert torch.equal(target, wanted)
        away = (frame.float() - before.float()).abs().mean()
        assert 0 < away < 40
        assert torch.equal(frame, whole[index][0])


def test_codecs_leave_frames_recognisable_at_any_size() -> None:
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (97, 65))
    errors = [
        np.abs(recompress(frame, np.random.default_rng(seed)).astype(int) - frame).mean()
        for seed in range(60)
    ]
    assert min(errors) < 4 and max(errors) < 40
    assert max(errors) > 3 * min(errors)


def test_a_mixture_keeps_to_its_shares_and_repeats() -> None:
    class Numbers(torch.utils.data.Dataset):
        def __init__(self, name: str) -> None:
            self.name = name

        def __len__(self) -> int:
            return 3000

        def __getitem__(self, index: int) -> tuple[str, int]:
            return self.name, index

    mixture = Mixture([Numbers("a"), Numbers("b"), Numbers("c")], [2, 1, 1])
    items = [mixture[index] for index in range(3000)]
    for start in range(0, 3000, 8):
        names = [name for name, _ in items[start : start + 8]]
        assert abs(names.count("a") - 4) <= 1
    for name, count in (("a", 1500), ("b", 750), ("c", 750)):
        assert [index for each, index in items if each == name] == list(range(count))


def test_frames_of_other_sizes_are_brought_to_the_networks_height() -> None:
    sample = Sample(np.zeros((128, 256, 3), np.uint8), np.zeros((128, 256), np.uint8))
    assert fit_rows(sample, 64).mask.shape == (64, 128)
    assert fit_rows(sample, 128) is sample
    both = Concatenation([Listed([sample] * 2), Listed([fit_rows(sample, 64)] * 3)])
    assert [each.mask.shape[0] for each in iterate(both)] == [128, 128, 64, 64, 64]


@pytest.mark.parametrize("size", [(64, 96), (61, 93)])
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_logits_of_any_stride_stay_where_they_were(stride: int, size: tuple[int, int]) -> None:
    """A field that is linear in the pixels is known exactly at the centre of every cell."""
    rng = np.random.default_rng(stride)
    for _ in range(5):
        slope, offset = rng.normal(size=(2, 3)), rng.normal(size=3)

        def field(step: int, slope: np.ndarray = slope, offset: np.ndarray = offset) -> np.ndarray:
            y, x = ((np.arange(-(-side // step)) + 0.5) * step for side in size)
            return np.stack(
                [a * y[:, None] + b * x + c for a, b, c in zip(*slope, offset, strict=True)]
            )

        covered = tuple(-(-side // stride) * stride for side in size)
        wanted = field(4)
        made = at_stride(torch.from_numpy(field(stride)), covered).numpy()
        rows, columns = wanted.shape[1:]
        made = made[:, :rows, :columns]
        # Beyond the outermost centres, coarse logits are repeated.
        edge = 1 if stride > 4 or size != (64, 96) else 0
        inner = np.s_[:, edge : rows - edge, edge : columns - edge]
        np.testing.assert_allclose(made[inner], wanted[inner], atol=1e-4)


def test_an_expert_asked_once_says_the_same_as_when_asked_anew(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    sample = Sample(frame, np.zeros((128, 192), np.uint8))
    asked = []

    def teach(frame: np.ndarray) -> Taught:
        asked.append(frame.shape)
        return Taught(torch.from_numpy(frame).permute(2, 0, 1).float())

    for _ in range(2):
        cached = CachedLogits(Listed([sample] * 2), 64, teach, tmp_path / "logits" / "a.npz")
        assert cached[1].frame.shape == (64, 96, 3) and cached[1].logits.shape == (16, 24, 3)
        blocks = frame.reshape(16, 8, 24, 8, 3).astype(float).mean((1, 3))
        np.testing.assert_allclose(cached[1].logits, blocks, atol=0.1)
    # Of whole frames, once each.
    assert asked == [(128, 192, 3)] * 2
