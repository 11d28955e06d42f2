"""Scenes, labels, files and the command, without rendering."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader

from gosvae_codec.labels import CITYSCAPES, UNLABELLED
from gosvae_streets import __main__ as command
from gosvae_streets import labels
from gosvae_streets.bag import EPOCH, _quaternion, write_bag
from gosvae_streets.mesh import Mesh, pose
from gosvae_streets.output import OutputError, Place, claim, write_frame
from gosvae_streets.scene import KINDS, MOVING, SKIES, Scene, Sky, _Builder
from gosvae_streets.street import surfaces

SECONDS = 4.0
VEHICLES = {"car": 4.7, "truck": 8.2, "bus": 11.0, "train": 27.7, "motorcycle": 2.1, "bicycle": 1.7}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [Scene.draw(3, drive, SECONDS, kind) for drive, kind in enumerate(KINDS)]


def fingerprint(scene: Scene) -> list[object]:
    return [
        (
            thing.label,
            thing.color,
            thing.pose(1.3).tobytes(),
            [mesh.arrays().vertices.tobytes() for mesh in thing.meshes],
        )
        for thing in scene.things
    ]


def test_a_seed_gives_the_same_scene_again(scenes: list[Scene]) -> None:
    again = Scene.draw(3, 1, SECONDS, KINDS[1])
    assert fingerprint(again) == fingerprint(scenes[1])
    assert again.sky == scenes[1].sky
    np.testing.assert_array_equal(again.camera(2.0), scenes[1].camera(2.0))
    assert fingerprint(Scene.draw(4, 1, SECONDS, KINDS[1])) != fingerprint(scenes[1])


def test_all_nineteen_classes_occur(scenes: list[Scene]) -> None:
    missing = {label.name for label in CITYSCAPES.labels} - {"sky"}
    for scene in scenes:
        missing -= {thing.label for thing in scene.things}
    for drive in range(20):
        if not missing:
            break
        missing -= {thing.label for thing in Scene.draw(1, drive, SECONDS).things}
    assert not missing


def test_meshes_are_whole(scenes: list[Scene]) -> None:
    meshes = {id(mesh): mesh for scene in scenes for thing in scene.things for mesh in thing.meshes}
    for mesh in meshes.values():
        arrays = mesh.arrays()
        assert np.isfinite(arrays.vertices).all()
        assert arrays.corners.min() >= 0 and arrays.corners.max() < len(arrays.vertices)
        assert arrays.sizes.sum() == len(arrays.corners) and arrays.sizes.min() >= 3
        assert len(arrays.tints) == len(arrays.sizes) == len(arrays.materials)
        assert arrays.tints.min() >= 0 and arrays.tints.max() <= 1


def test_poses_are_rigid_and_near_the_street(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.things:
            for time in (0.0, SECONDS):
                turn = thing.pose(time)[:3, :3]
                scale = np.linalg.det(turn) ** (1 / 3)
                np.testing.assert_allclose(turn @ turn.T, scale**2 * np.eye(3), atol=1e-9)
        assert np.linalg.det(scene.camera(1.0)[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize("drive", range(6))
def test_nobody_drives_into_us(drive: int) -> None:
    scene = Scene.draw(2, drive, SECONDS)
    for time in np.linspace(0, SECONDS, 9):
        inverse = np.linalg.inv(scene.ego(time))
        for thing in scene.things:
            if thing.label in VEHICLES:
                x, y = (inverse @ thing.pose(time))[:2, 3]
                half = VEHICLES[thing.label] / 2 + 2.0
                assert abs(x) > 1.0 or abs(y) > half, (thing.label, time, x, y)


def test_the_camera_is_on_the_road_and_looks_along_it(scenes: list[Scene]) -> None:
    for scene in scenes:
        before, after = scene.camera(0.0), scene.camera(1.0)
        moved = (np.linalg.inv(before) @ after)[:3, 3]
        assert moved[2] == pytest.approx(scene.speed, rel=0.05)
        assert 1.1 < scene.view.height < 1.6
        assert abs(scene.offset) < scene.street.lane * scene.street.lanes


def test_no_road_surfaces_coincide() -> None:
    """Faces of one height that overlap would shade each other: black spots in the picture."""
    flat = 0
    for drive in range(24):
        builder = _Builder(np.random.default_rng((5, drive)), KINDS[drive % 6], "sun", 1.0)
        street = builder.street
        if street.path.at(street.path.s)[:, 2].any():
            continue
        flat += 1
        road = surfaces(street, builder.rng)["road"].arrays()
        faces = np.split(road.vertices[road.corners], np.cumsum(road.sizes)[:-1])
        covered: dict[int, np.ndarray] = {}
        for face in faces:
            # In cells of 5 cm, without the borders that neighbours share.
            cells = (face[:, :2] + (40, 20)) / 0.05
            inner = np.rint(cells + 0.15 * (cells.mean(0) - cells)).astype(np.int32)
            if (inner.min(0) < 0).any() or (inner.max(0) > 1600).any():
                continue
            layer = covered.setdefault(round(face[0, 2] * 1e5), np.zeros((1600, 1600), np.uint8))
            one = cv2.fillPoly(np.zeros_like(layer), [inner], 1)
            layer += one
        assert len(covered) >= 5
        for height, layer in covered.items():
            assert (layer > 1).sum() < 20, (drive, height / 1e5)
    assert flat >= 5


@given(
    angles=st.tuples(*[st.floats(-np.pi, np.pi)] * 2),
    place=st.tuples(*[st.floats(-100, 100)] * 3),
)
def test_quaternions_turn_as_their_matrices(
    angles: tuple[float, float], place: tuple[float, float, float]
) -> None:
    matrix = pose(*place, yaw=angles[0], pitch=angles[1])
    x, y, z, w = _quaternion(matrix)
    turned = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    np.testing.assert_allclose(turned, matrix[:3, :3], atol=1e-9)


@settings(deadline=None)
@given(st.data())
def test_ids_follow_the_index(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(labels.LABEL_IDS)), min_size=1, max_size=9))
    index = np.array(
        data.draw(st.lists(st.integers(0, len(names)), min_size=4, max_size=4)), np.int32
    ).reshape(2, 2)
    ids = labels.label_ids(index, names)
    instances = labels.instance_ids(index, names, MOVING)
    assert ids.dtype == np.uint8 and instances.dtype == np.uint16
    for k, label_id, instance in zip(index.flat, ids.flat, instances.flat, strict=True):
        name = names[k - 1] if k else "sky"
        assert label_id == labels.LABEL_IDS[name]
        assert (instance // 1000 if name in MOVING else instance) == label_id
    trained = labels.train_ids(ids)
    assert ((trained == UNLABELLED) == (ids == labels.LABEL_IDS["static"])).all()


def test_an_index_without_thing_is_refused() -> None:
    with pytest.raises(ValueError, match="indices are 0 to 2, things 1"):
        labels.label_ids(np.array([[0, 2]], np.int32), ["car"])


def test_ids_are_those_of_cityscapes() -> None:
    helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
    for name, label_id in labels.LABEL_IDS.items():
        theirs = helpers.name2label[name]
        assert theirs.id == label_id
        assert labels.train_ids(np.array([[label_id]], np.uint8))[0, 0] == theirs.trainId
        if theirs.trainId != UNLABELLED:
            assert tuple(labels.colors(np.array([[label_id]], np.uint8))[0, 0]) == theirs.color
        assert theirs.hasInstances == (name in MOVING)


def fake_frame(scene: Scene, place: Place) -> np.ndarray:
    """Write a frame whose object index counts up; return the index."""
    index = np.arange(24 * 32, dtype=np.int32).reshape(24, 32) % (len(scene.things) + 1)
    image = np.full((24, 32, 3), 9 * place.frame, np.uint8)
    depth = np.where(index == 0, np.inf, 1.0 + index).astype(np.float32)
    write_frame(place, scene, place.frame / 10, image, index, depth)
    return index


def test_frames_have_the_layout_of_cityscapes(tmp_path: Path, scenes: list[Scene]) -> None:
    place = Place(tmp_path, "val", 7, 2, 5)
    index = fake_frame(scenes[0], place)
    base = "streets0007/streets0007_000002_000005"
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        f"leftImg8bit/val/{base}_leftImg8bit.png",
        *(
            f"gtFine/val/{base}_gtFine_{kind}.png"
            for kind in ("labelIds", "labelTrainIds", "color", "instanceIds")
        ),
        f"depth/val/{base}_depth.png",
        f"camera/val/{base}_camera.json",
    }
    names = [thing.label for thing in scenes[0].things]
    ids = cv2.imread(str(place.ground_truth("labelIds")), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(ids, labels.label_ids(index, names))
    depth = cv2.imread(str(place.file("depth", "depth.png")), cv2.IMREAD_UNCHANGED)
    near = (index > 0) & (index < 254)
    np.testing.assert_array_equal(depth[near], 256 * (1 + index[near]))
    assert (depth[index == 0] == 0).all()
    camera = json.loads(place.camera.read_text())
    assert np.array(camera["camera_to_world"]) == pytest.approx(scenes[0].camera(0.5))
    info = pytest.importorskip("cityscapesscripts.helpers.csHelpers")
    theirs = info.getCsFileInfo(str(place.ground_truth("labelIds")))
    assert (theirs.city, theirs.sequenceNb, theirs.frameNb) == ("streets0007", "000002", "000005")


def test_a_folder_keeps_to_its_settings(tmp_path: Path) -> None:
    settings = {"split": "train", "seed": 1, "rate": 2.0}
    claim(tmp_path / "new", settings)
    claim(tmp_path / "new", settings)
    with pytest.raises(OutputError, match=r"train was begun with rate 2.0, not 3.0; give the same"):
        claim(tmp_path / "new", settings | {"rate": 3.0})
    claim(tmp_path / "new", settings | {"split": "val", "seed": 2})
    with pytest.raises(OutputError, match=r"val was begun with seed 2, not 1; give the same"):
        claim(tmp_path / "new", settings | {"split": "val"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(OutputError, match=r"not empty, and has no streets-SPLIT\.json"):
        claim(tmp_path / "mine", settings)


def test_a_drive_becomes_a_bag(tmp_path: Path, scenes: list[Scene]) -> None:
    places = [Place(tmp_path / "set", "train", 1, 0, frame) for frame in range(4)]
    for place in places:
        fake_frame(scenes[0], place)
    path = tmp_path / "drives" / "it.mcap"
    assert write_bag(tmp_path / "set", "train", 0, 10.0, path) == 4
    assert [each.name for each in path.parent.iterdir()] == ["it.mcap"]
    with AnyReader([path]) as reader:
        counts = {each.topic: each.msgcount for each in reader.connections}
        camera = ("image_raw/compressed", "label/compressed", "camera_info")
        assert counts == {**{f"/camera/{t}": 4 for t in camera}, "/tf": 4, "/tf_static": 1}
        for connection, time, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            frame = round((time - EPOCH) / 1e8)
            assert time == EPOCH + frame * 100_000_000
            if connection.topic == "/camera/label/compressed":
                ids = cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED)
                want = places[frame].ground_truth("labelTrainIds")
                np.testing.assert_array_equal(ids, cv2.imread(str(want), cv2.IMREAD_UNCHANGED))
            if connection.topic == "/camera/camera_info":
                np.testing.assert_allclose(
                    message.K.reshape(3, 3) if hasattr(message, "K") else message.k.reshape(3, 3),
                    scenes[0].intrinsics(32, 24),
                )
    places[1].camera.unlink()
    with pytest.raises(OutputError, match="lacks frames of drive 0; render it to its end first"):
        write_bag(tmp_path / "set", "train", 0, 10.0, path)
    with pytest.raises(OutputError, match="has no frames of drive 8 in train"):
        write_bag(tmp_path / "set", "train", 8, 10.0, path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["render", "x", "--size", "big"], "size such as 1024x512"),
        (["render", "x", "--frames", "0"], "number from 1"),
        (["render", "x", "--rate", "0"], "rate above 0"),
        (["render", "x", "--shutter", "2"], "0 to 1"),
        (["render", "x", "--sky", "green"], "--sky"),
        (["render"], "folder"),
        ([], "required"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_missing_blender_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert command.main(["render", str(tmp_path / "new")]) == 1
    err = capsys.readouterr().err
    assert "bpy is not installed" in err and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_sky_and_kind_can_be_chosen() -> None:
    scene = Scene.draw(1, 0, 1.0, "boulevard", "dusk")
    assert scene.street.lanes == 2
    assert (scene.sky.kind, scene.sky.lamps) == ("dusk", True)
    for kind in SKIES:
        sky = Sky.draw(np.random.default_rng(1), kind)
        assert sky.kind == kind and 0 < sky.elevation < np.pi / 2


def test_copies_are_moved() -> None:
    mesh, copy = Mesh(), Mesh()
    mesh.box((0, 0, 0), (1, 2, 3), "matte")
    copy.append(mesh, pose(10, 0, 0, np.pi / 2))
    vertices = copy.arrays().vertices
    np.testing.assert_allclose(vertices.min(0), (8, 0, 0), atol=1e-12)
    np.testing.assert_allclose(vertices.max(0), (10, 1, 3), atol=1e-12)
    assert dataclasses.astuple(Place(Path("a"), "b", 1, 2, 3))[1:] == ("b", 1, 2, 3)
