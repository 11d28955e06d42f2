"""Folders as data sets' archives and people's tools leave them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from gosvae_codec.labels import CITYSCAPES
from gosvae_tools.drives import Source, SourceError, open_source

W, H = 16, 12


def picture(path: Path, value: int = 100, size: tuple[int, int] = (H, W)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def ids(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((H, W), value, np.uint8))
    return path


def color(path: Path, *rgb: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((H, W, 3), rgb[::-1], np.uint8))
    return path


def palette(path: Path, values: np.ndarray, bits: int = 8) -> Path:
    """Write a PNG with a palette whose colours say nothing of the indices."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = values.shape
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes()
        for row in values
    )
    colors = bytes((index * 37 + k * 91) % 256 for index in range(1 << bits) for k in range(3))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0))
        + chunk(b"PLTE", colors)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def labels(source: Source) -> list[str | None]:
    """Return the name of each frame's one label, "void", or None."""
    names = {label.id: label.name for label in CITYSCAPES.labels} | {255: "void"}
    found = []
    for frame in source.frames():
        values = [] if frame.label is None else np.unique(frame.label).tolist()
        assert len(values) < 2
        found.append(names[values[0]] if values else None)
    return found


@pytest.mark.parametrize("bits", [8, 4])
def test_palettes_are_read_as_indices(tmp_path: Path, bits: int) -> None:
    values = np.arange(H * W, dtype=np.uint8).reshape(H, W) % 11
    picture(tmp_path / "val" / "a.png")
    palette(tmp_path / "valannot" / "a.png", values, bits)
    (frame,) = open_source(tmp_path / "val").frames()
    expected = {0: "sky", 1: "building", 3: "road", 10: "rider"}
    assert frame.label is not None
    for value, name in expected.items():
        assert np.all(frame.label[values == value] == CITYSCAPES.by_name(name).id)


@pytest.mark.parametrize("suffix", [".PNG", ".JPG", ".JPEG", ".Jpg", ".BMP"])
def test_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / "val" / f"a{suffix}")
    ids(tmp_path / "valannot" / "a.PNG", 3)
    assert labels(open_source(tmp_path / "val")) == ["road"]


CITY = "bonn_000000_000019"


@pytest.mark.parametrize(
    "inside",
    [
        ".",
        "leftImg8bit_trainvaltest",
        "leftImg8bit_trainvaltest/leftImg8bit",
        "leftImg8bit_trainvaltest/leftImg8bit/val",
        "leftImg8bit_trainvaltest/leftImg8bit/val/bonn",
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG"])
def test_cityscapes_as_its_archives_unpack(tmp_path: Path, inside: str, suffix: str) -> None:
    image = f"leftImg8bit_trainvaltest/leftImg8bit/val/bonn/{CITY}_leftImg8bit{suffix}"
    picture(tmp_path / image)
    folder = tmp_path / "gtFine_trainvaltest/gtFine/val/bonn"
    ids(folder / f"{CITY}_gtFine_labelIds.png", 26)
    color(folder / f"{CITY}_gtFine_color.png", 0, 0, 142)
    ids(folder / f"{CITY}_gtFine_instanceIds.png", 3)
    source = open_source(tmp_path / inside)
    assert "Cityscapes, 1 frames" in source.description and "1 with labels" in source.description
    assert labels(source) == ["car"]


def test_cityscapes_in_one_folder_and_by_links(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    picture(flat / f"{CITY}_leftImg8bit.png")
    ids(flat / f"{CITY}_gtFine_labelTrainIds.png", 0)
    ids(flat / f"{CITY}_gtFine_labelIds.png", 26)
    assert labels(open_source(flat)) == ["road"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "leftImg8bit").symlink_to(flat, target_is_directory=True)
    (flat / "back").symlink_to(flat, target_is_directory=True)
    assert len(open_source(tmp_path / "data")) == 1


@pytest.mark.parametrize(
    ("frame", "label"),
    [
        ("train/x.png", "train_labels/x_L.png"),
        ("701_StillsRaw_full/x.png", "LabeledApproved_full/x_L.png"),
        ("images/x.png", "labels/x_L.png"),
        ("x.png", "x_L.png"),
    ],
)
@pytest.mark.parametrize("inside", ["", "."])
def test_camvid_in_colour_from_several_sources(
    tmp_path: Path, frame: str, label: str, inside: str
) -> None:
    picture(tmp_path / frame)
    color(tmp_path / label, 64, 0, 128)
    source = open_source(tmp_path / frame.rpartition("/")[0] if inside else tmp_path)
    assert labels(source) == ["car"] and len(source) == 1


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((128, 64, 128), "road"),
        ((128, 0, 192), "road"),
        ((128, 128, 128), "sky"),
        ((0, 0, 0), "void"),
        ((0, 128, 192), "rider"),
        ((192, 192, 0), "vegetation"),
        ((0, 64, 64), "traffic sign"),
        ((64, 192, 0), "building"),
    ],
)
def test_camvids_colours(tmp_path: Path, rgb: tuple[int, ...], name: str) -> None:
    picture(tmp_path / "train" / "x.png")
    color(tmp_path / "train_labels" / "x_L.png", *rgb)
    assert labels(open_source(tmp_path / "train")) == [name]


def test_camvids_indices_of_32_classes(tmp_path: Path) -> None:
    for value, name in ((17, "road"), (30, "void"), (31, "building"), (5, "car")):
        picture(tmp_path / "images" / f"{name}.png")
        ids(tmp_path / "labels" / f"{name}_P.png", value)
    assert labels(open_source(tmp_path)) == ["building", "car", "road", "void"]


def test_frames_in_folders_in_folders(tmp_path: Path) -> None:
    for index, name in enumerate(("drive/seq_10/data/0.jpg", "drive/seq_9/data/0.jpg")):
        picture(tmp_path / name, 10 * index)
    source = open_source(tmp_path)
    values = [round(float(frame.image.mean()) / 10) for frame in source.frames()]
    assert values == [1, 0] and "2 folders" in source.notes[0]


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("shape", [(H, W), (H, W, 3), (H, W, 4)])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_pictures_of_more_than_8_bits_are_not_black(
    tmp_path: Path, bits: int, shape: tuple[int, ...], suffix: str
) -> None:
    values = np.broadcast_to(np.linspace(0, 255, W)[None, :].astype(np.uint16), (H, W))
    for index in range(2):
        deep = values << (bits - 8)
        deep = deep if len(shape) == 2 else np.repeat(deep[..., None], shape[2], axis=2)
        assert cv2.imwrite(str(tmp_path / f"{index}.{suffix}"), deep)
    source = open_source(tmp_path)
    frames = list(source.frames())
    assert len(frames) == 2 and not source.losses
    for frame in frames:
        assert np.array_equal(frame.image, np.repeat(values[..., None], 3, axis=2))


def test_pictures_of_other_depths_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert cv2.imwrite(str(tmp_path / "b.tiff"), np.ones((H, W), np.float32))
    source = open_source(tmp_path)
    assert len(list(source.frames())) == 1 and source.lost == 1
    assert "b.tiff: it has pixels of float32" in source.losses[0].reason


def test_what_is_not_needed_is_not_read(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / "val" / f"{name}.png")
    ids(tmp_path / "valannot" / "a.png", 3)
    (tmp_path / "valannot" / "b.png").write_bytes(b"no image")
    picture(tmp_path / "valannot" / "c.png", 77, (H + 1, W))
    source = open_source(tmp_path / "val")
    assert len(list(source.frames(labels=False))) == 3 and not source.losses
    assert labels(source) == ["road", None, None]
    assert source.lost == 0 and [loss.kind for loss in source.losses] == ["label", "label"]
    assert "b.png" in source.losses[0].reason and "colours" in source.losses[1].reason


def test_no_labels_has_a_reason(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "a.png")
    said = open_source(tmp_path / "val").description
    assert "0 with labels (none of valannot, val_labels is beside" in said
    ids(tmp_path / "valannot" / "other.png", 3)
    said = open_source(tmp_path / "val").description
    assert "valannot has 1 PNG files, but none for a frame, such as a.png" in said
    city = tmp_path / "city" / "leftImg8bit" / "val" / f"{CITY}_leftImg8bit.png"
    picture(city)
    said = open_source(tmp_path / "city").description
    assert "0 with labels (no folder gtFine* or gtCoarse* in" in said
    ids(tmp_path / "city" / "gtFine" / "other_gtFine_labelIds.png", 7)
    assert "are of other frames" in open_source(tmp_path / "city").description


def test_a_folder_of_bags_says_so(tmp_path: Path) -> None:
    (tmp_path / "run_1").mkdir()
    (tmp_path / "run_1" / "metadata.yaml").touch()
    with pytest.raises(SourceError, match=r"give one of its bags: .*run_1"):
        open_source(tmp_path)


def test_metadata_of_something_else_makes_no_bag(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "metadata.yaml").write_text("licence: CC0")
    assert len(open_source(tmp_path)) == 1


def test_files_that_go_away_are_an_error_of_one_line(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "0.png")
    source = open_source(tmp_path / "val")
    (tmp_path / "val" / "0.png").unlink()
    with pytest.raises(SourceError, match=r"0\.png: it does not decode"):
        list(source.frames())


def test_images_and_masks_have_ids_of_their_own(tmp_path: Path) -> None:
    ids = np.zeros((4, 6), np.uint8)
    ids[:, 3:] = 7
    for folder, pixels in (("images", np.zeros((4, 6, 3), np.uint8)), ("masks", ids)):
        (tmp_path / folder / "day one").mkdir(parents=True)
        for number in (9, 10):
            cv2.imwrite(str(tmp_path / folder / "day one" / f"{number}.png"), pixels)
    source = open_source(tmp_path)
    assert "images and masks, 2 frames at 15 Hz, 2 with labels" in source.description
    assert source.labels is CITYSCAPES
    for frame in source.frames():
        assert frame.label is not None and (frame.label == ids).all()
    (tmp_path / "labels.yaml").write_text("[road, {name: pallet, id: 7}]")
    assert [label.name for label in open_source(tmp_path).labels.labels] == ["road", "pallet"]
    cv2.imwrite(str(tmp_path / "masks/day one/9.png"), np.full((4, 6, 3), (1, 2, 99), np.uint8))
    source = open_source(tmp_path)
    assert next(iter(source.frames())).label is None
    assert "it is in colours" in source.losses[0].reason
    (tmp_path / "labels.yaml").write_text("road")
    with pytest.raises(SourceError, match="expected a list of labels"):
        open_source(tmp_path)
