from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_codec import CAMVID, CITYSCAPES, UNLABELLED, Label, LabelError, LabelSpace, metrics
from gosvae_codec.labels import camvid_to_train_ids, cityscapes_to_train_ids, label_space
from gosvae_codec.masks import (
    colorize,
    enlarge_labels,
    resize_mask,
    shrink_labels,
    upsampled_argmax,
)
from gosvae_codec.metrics import ConfusionMatrix, miou


def test_cityscapes_has_its_published_ids_and_colours() -> None:
    assert [label.id for label in CITYSCAPES.labels] == list(range(19))
    assert CITYSCAPES.by_name("road") == Label(0, "road", (128, 64, 128))
    assert CITYSCAPES.by_name("bicycle") == Label(18, "bicycle", (119, 11, 32))


def test_camvid_maps_by_name_and_void_is_unlabelled() -> None:
    table = camvid_to_train_ids()
    assert table[0] == CITYSCAPES.by_name("sky").id
    assert table[10] == CITYSCAPES.by_name("rider").id
    assert table[11] == table[200] == UNLABELLED
    assert set(table[:11]) == set(CAMVID.ids)


def test_cityscapes_file_ids_become_train_ids() -> None:
    table = cityscapes_to_train_ids()
    for file_id, name in ((7, "road"), (17, "pole"), (23, "sky"), (26, "car"), (33, "bicycle")):
        assert table[file_id] == CITYSCAPES.by_name(name).id
    assert sorted(table[table != UNLABELLED]) == list(range(19))


@pytest.mark.parametrize(
    "labels",
    [
        (),
        (Label(255, "a", (0, 0, 0)),),
        (Label(1, "a", (0, 0, 256)),),
        (Label(1, "a", (0, 0, 0)), Label(1, "b", (0, 0, 0))),
        (Label(1, "a", (0, 0, 0)), Label(2, "a", (0, 0, 0))),
    ],
)
def test_malformed_spaces_are_refused(labels: tuple[Label, ...]) -> None:
    with pytest.raises(LabelError):
        LabelSpace("broken", labels)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(LabelError, match=r"no 'wall'; it has: sky"):
        CAMVID.by_name("wall")


@settings(deadline=None)  # compiling takes longer than usual
@given(
    st.integers(0, 1 << 32),
    st.tuples(st.integers(1, 11), st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.booleans(),
)
def test_classify_agrees_with_argmax_over_scaled_planes(
    seed: int, shape: tuple[int, int, int], size: tuple[int, int], smooth: bool
) -> None:
    logits = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if smooth:
        logits = np.stack([cv2.blur(plane, (5, 5)) for plane in logits])
    planes = np.stack([cv2.resize(plane, size[::-1]) for plane in logits])
    mask = upsampled_argmax(logits, size, CAMVID)
    chosen = CAMVID.ids[: shape[0], None, None] == mask
    assert chosen.any(axis=0).all()
    # Of classes that tie but for rounding, either may be taken.
    np.testing.assert_allclose((planes * chosen).sum(axis=0), planes.max(axis=0), atol=1e-5)


def test_scaling_a_mask_mixes_no_labels_and_shifts_nothing() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[:, 2:] = 200
    larger = resize_mask(mask, (8, 12))
    assert set(np.unique(larger)) == {0, 200}
    assert (larger[:, :6] == 0).all() and (larger[:, 6:] == 200).all()


def test_colours_follow_the_labels() -> None:
    mask = np.array([[0, UNLABELLED]], np.uint8)
    np.testing.assert_array_equal(colorize(mask, CITYSCAPES), [[[128, 64, 128], [0, 0, 0]]])


def test_miou_counts_what_occurs_and_leaves_out_the_unlabelled() -> None:
    matrix = ConfusionMatrix()
    assert np.isnan(matrix.miou())
    truth = np.array([[0, 0, 1, UNLABELLED]], np.uint8)
    matrix.add(truth, np.array([[0, 1, 1, 7]], np.uint8))
    assert matrix.iou() == {0: 0.5, 1: 0.5}
    assert matrix.miou() == 0.5
    with pytest.raises(ValueError, match="truth is"):
        matrix.add(truth, truth.T)


def test_every_pixel_of_a_large_mask_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_EXACT", 20)
    truth, prediction = np.random.default_rng(0).integers(0, 256, (2, 11, 7), np.uint8)
    matrix = ConfusionMatrix()
    matrix.add(truth, prediction)
    counts = np.zeros((256, 256), np.int64)
    np.add.at(counts, (truth, prediction), 1)
    counts[UNLABELLED] = 0
    np.testing.assert_array_equal(matrix.counts, counts)


def test_miou_of_many_sets_of_frames_is_that_of_each() -> None:
    rng = np.random.default_rng(2)
    matrices = [ConfusionMatrix() for _ in range(4)]
    for matrix in matrices[1:]:
        matrix.add(*rng.choice([0, 3, 7, 255], (2, 8, 9)).astype(np.uint8))
    counts = np.stack([matrix.counts for matrix in matrices])
    found = miou(counts.diagonal(axis1=1, axis2=2), counts.sum(2), counts.sum(1))
    assert np.isnan(found[0]) and np.isnan(matrices[0].miou())
    for value, matrix in zip(found[1:], matrices[1:], strict=True):
        assert value == matrix.miou() == pytest.approx(np.mean(list(matrix.iou().values())))


@given(scale=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99))
def test_large_areas_survive_smaller_labels(scale: int, seed: int) -> None:
    coarse = np.random.default_rng(seed).choice(CAMVID.ids, (4, 6)).astype(np.uint8)
    mask = coarse.repeat(16, 0).repeat(16, 1)
    small = shrink_labels(mask, scale, CAMVID)
    assert small.shape == (64 // scale, 96 // scale)
    grown = enlarge_labels(small, mask.shape, CAMVID)
    assert (grown[8::16, 8::16] == coarse).all()
    assert scale > 1 or (grown == mask).all()


def test_a_label_space_is_read_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "yard.yaml"
    file.write_text(
        """
        - road
        - {name: forklift, color: [1, 2, 3], group: car}
        - {id: 9, name: pallet}
        """
    )
    space = label_space(str(file))
    assert space.name == "yard" and space.ids.tolist() == [0, 1, 9]
    assert space.labels[0].color == CITYSCAPES.by_name("road").color
    assert space.labels[1] == Label(1, "forklift", (1, 2, 3), "car")
    assert len({label.color for label in space.labels}) == 3
    # As manifests of bundles have it.
    labels = [label._asdict() for label in space.labels]
    file.write_text(
        yaml.safe_dump(
            {"name": "mine", "labels": [{**e, "color": list(e["color"])} for e in labels]}
        )
    )
    again = label_space(str(file))
    assert again.name == "mine" and again.labels == space.labels
    assert label_space("camvid") is CAMVID


def test_classes_without_colours_can_be_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(yaml.safe_dump([f"class {index}" for index in range(30)]))
    colors = np.array([label.color for label in label_space(str(file)).labels], int)
    apart = np.abs(colors[:, None] - colors).sum(-1) + 999 * np.eye(30, dtype=int)
    assert apart.min() > 15


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road", "expected a list of labels"),
        ("labels: {road: 0}", "expected a list of labels"),
        ("[road, 5]", "entry 1 is 5; give a name, or a mapping with a name"),
        ("[{id: 3}]", "give a name, or a mapping with a name"),
        ("[{name: road, colour: red}]", r"entry 0, 'road': unknown \['colour'\]"),
        ("[{name: road, id: one}]", "id 'one' is not a whole number"),
        ("[{name: road, color: red}]", "color 'red': give"),
        ("[{name: road, id: 255}]", "ids go from 0 to 254"),
        ("[road, road]", r"has name \['road'\] twice"),
        ("[{name: a, id: 1}, b]", r"has id \[1\] twice"),
        ("[", "not YAML"),
    ],
)
def test_mistakes_in_a_file_of_labels_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(LabelError, match=message) as caught:
        label_space(str(file))
    assert str(file) in str(caught.value)


def test_a_label_space_that_is_not_there_is_named() -> None:
    with pytest.raises(LabelError, match="no label space 'kitti'; give one of cityscapes, camvid"):
        label_space("kitti")
    with pytest.raises(LabelError, match=r"labels nowhere\.yaml: No such file"):
        label_space("nowhere.yaml")
