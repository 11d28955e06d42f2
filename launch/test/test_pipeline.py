"""The description of the pipeline, and what rcl makes of it."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from gosvae_bringup import pipeline as module
from gosvae_bringup.arguments import ARGUMENTS, arguments_of
from gosvae_bringup.pipeline import Node, Pipeline, describe, describe_view
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common import fastdds, shipped
from gosvae_common.errors import UsageError
from gosvae_common.fastdds import PROFILE_VARIABLE, shared_memory_problem
from gosvae_common.shipped import BUNDLE_VARIABLE, find_bundle, find_drive, find_profile
from gosvae_common.topics import Side

FRAMES = "image_raw/compressed"
ROOT = Path(__file__).resolve().parents[1]
VIEW_PARAMETERS = ("port", "open_browser", "max_width")


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "some bundle"
    folder.mkdir()
    monkeypatch.setenv(BUNDLE_VARIABLE, str(folder))
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    return folder


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    folder = tmp_path / "drive"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.zeros((4, 6, 3), np.uint8))
    return folder


def named(pipeline: Pipeline) -> dict[str, Node]:
    return {node.name: node for node in pipeline.nodes}


def test_live_cameras_need_transmitter_and_receiver_only() -> None:
    nodes = named(describe({"cameras": "front, /rear/left/"}))
    assert list(nodes) == ["gosvae_tx", "gosvae_rx"]
    for node in nodes.values():
        assert node.parameters == {"cameras": ["front", "rear/left"]}
        assert node.lifetime == "run"


def test_defaults_are_left_to_the_parameter_files(drive: Path, bundle: Path) -> None:
    values = {argument.name: argument.default for argument in ARGUMENTS}
    assert describe(values) == describe({})
    nodes = named(describe({**values, "bag": str(drive)}))
    assert nodes["gosvae_replay"].parameters == {
        "input": str(drive),
        "wait_for": ["gosvae_tx", "gosvae_rx"],
    }
    assert nodes["gosvae_rx"].parameters == {"image_transport": "raw", "use_sim_time": True}
    for node in describe({"bundle": str(bundle)}).nodes:
        assert node.parameters == {"bundle": str(bundle)}


def test_a_replay_waits_for_the_nodes_of_its_side(drive: Path) -> None:
    given = {"bag": str(drive), "record": "rec"}
    replay = named(describe(given, "tx"))["gosvae_replay"]
    assert replay.parameters["wait_for"] == ["gosvae_tx", "gosvae_record_tx"]
    assert "ready_timeout" not in replay.parameters
    replay = named(describe({**given, "autostart": "false"}))["gosvae_replay"]
    assert replay.parameters["ready_timeout"] == 0.0


def test_a_bag_brings_replay_and_its_clock(drive: Path) -> None:
    nodes = named(describe({"bag": str(drive), "rate": "2", "loop": "True", "record": "rec"}))
    replay = nodes.pop("gosvae_replay")
    parameters = dict(replay.parameters)
    assert parameters.pop("wait_for") == ["gosvae_tx", "gosvae_rx", "gosvae_record"]
    assert parameters == {"input": str(drive), "rate": 2.0, "loop": True}
    assert replay.lifetime == "drive"
    assert list(nodes) == ["gosvae_tx", "gosvae_rx", "gosvae_record"]
    assert all(node.parameters["use_sim_time"] is True for node in nodes.values())
    assert nodes["gosvae_tx"].parameters["image_transport"] == "raw"
    assert nodes["gosvae_record"].parameters["output"] == str(Path.cwd() / "rec")


def test_explicit_values_win_over_what_a_bag_suggests(drive: Path) -> None:
    values = {"bag": str(drive), "use_sim_time": "false", "image_transport": "compressed"}
    nodes = named(describe(values))
    transmitter = nodes["gosvae_tx"]
    assert "use_sim_time" not in transmitter.parameters
    assert transmitter.parameters["image_transport"] == "compressed"
    assert nodes["gosvae_replay"].parameters["restamp"] is True


def test_two_sides_make_the_whole(drive: Path) -> None:
    values = {"bag": str(drive), "record": "rec"}
    tx = named(describe(values, "tx"))
    rx = describe({"record": "rec", "use_sim_time": "true", "image_transport": "raw"}, "rx")
    both = named(describe(values))
    sides = tx | named(rx)
    records = sides.pop("gosvae_record_tx"), sides.pop("gosvae_record_rx")
    assert [each.parameters["side"] for each in records] == ["tx", "rx"]
    assert [each.side for each in records] == ["tx", "rx"]
    assert both.pop("gosvae_record").parameters["side"] == "both"
    # Each side's replay waits for its own nodes.
    for nodes in (sides, both):
        replay = nodes["gosvae_replay"]
        parameters = {key: value for key, value in replay.parameters.items() if key != "wait_for"}
        nodes["gosvae_replay"] = dataclasses.replace(replay, parameters=parameters)
    assert sides == both
    assert {each.name for side in ("tx", "rx") for each in arguments_of(side)} == {
        each.name for each in ARGUMENTS
    }


def test_what_a_common_parent_passes_is_accepted_on_both_sides(drive: Path) -> None:
    values = {"bag": str(drive), "rate": "2", "rviz": "true", "rviz_config": "/mine.rviz"}
    tx = describe(values, "tx")
    assert tx.warnings == (
        "rviz:=true has no meaning on side tx and is ignored",
        "rviz_config:=/mine.rviz has no meaning on side tx and is ignored",
    )
    assert list(named(tx)) == ["gosvae_tx", "gosvae_replay"]
    given = {"bag": "/not/here.mcap", "rate": "2", "loop": "true", "topics": "/a/image"}
    rx = describe(given, "rx")
    assert rx.warnings == (
        "bag:=/not/here.mcap has no meaning on side rx, but that use_sim_time is true",
        "rate:=2 has no meaning on side rx and is ignored",
        "loop:=true has no meaning on side rx and is ignored",
        "topics:=/a/image names topics of the bag on side rx and is ignored",
    )
    (receiver,) = rx.nodes
    assert receiver.parameters["use_sim_time"] is True
    assert "image_topics" not in receiver.parameters
    (receiver,) = describe({**given, "use_sim_time": "false"}, "rx").nodes
    assert "use_sim_time" not in receiver.parameters


@pytest.mark.parametrize(
    ("cameras", "topics", "named_topics"),
    [
        ("camera", "/image_raw", ["/image_raw"]),
        ("/zed/left/", "/zed/left/image_rect_color", ["/zed/left/image_rect_color"]),
        ("front,rear", "/usb/image/compressed, ", ["/usb/image/compressed", ""]),
        ("a, b", ",sensing/b/image", ["", "sensing/b/image"]),
    ],
)
def test_live_cameras_have_any_topic(cameras: str, topics: str, named_topics: list[str]) -> None:
    for side in ("both", "tx", "rx"):
        for node in describe({"cameras": cameras, "topics": topics}, side).nodes:
            assert node.parameters["image_topics"] == named_topics
            assert "image_transport" not in node.parameters


def test_the_view_shows_live_cameras_of_any_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    values = {"cameras": "a,b,c", "topics": "/image_raw,,/c/image/compressed", "view": "true"}
    assert named(describe(values))["gosvae_view"].remappings == (
        ("a/image_raw", "/image_raw"),
        ("a/image_raw/compressed", "/image_raw/compressed"),
        ("c/image_raw", "/c/image"),
        ("c/image_raw/compressed", "/c/image/compressed"),
    )


@pytest.mark.parametrize("cameras", ["camera", "/camera", "camera/", "/camera/"])
def test_slashes_around_a_camera_with_a_bag_do_not_matter(cameras: str, drive: Path) -> None:
    nodes = named(describe({"bag": str(drive), "cameras": cameras}))
    assert nodes["gosvae_tx"].parameters.get("cameras", ["camera"]) == ["camera"]
    assert nodes["gosvae_tx"].parameters["image_transport"] == "raw"


def test_a_bag_of_raw_and_compressed_cameras_plays(
    drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SimpleNamespace(transport={"a": "raw", "b": "compressed"})
    monkeypatch.setattr("gosvae_tools.drives.open_source", lambda *_: source)
    parameters = named(describe({"bag": str(drive), "cameras": "a,b"}))["gosvae_tx"].parameters
    assert parameters["image_topics"] == ["a/image_raw", "b/image_raw/compressed"]
    assert "image_transport" not in parameters


def test_both_nodes_get_the_key_file_and_nothing_else_does(tmp_path: Path, drive: Path) -> None:
    key_file = tmp_path / "vehicle.key"
    with pytest.raises(UsageError, match=r"key_file: .*vehicle.key does not exist"):
        describe({"key_file": str(key_file)})
    key_file.touch()
    nodes = named(describe({"key_file": str(key_file), "bag": str(drive)}))
    given = {name for name, node in nodes.items() if "key_file" in node.parameters}
    assert given == {"gosvae_tx", "gosvae_rx"}
    assert nodes["gosvae_tx"].parameters["key_file"] == str(key_file)


def test_how_all_nodes_are_started(drive: Path) -> None:
    values = {"bag": str(drive), "namespace": "fleet/robot1/", "log_level": "DEBUG"}
    values |= {"use_respawn": "true", "autostart": "false", "record": "rec"}
    nodes = named(describe(values))
    for node in nodes.values():
        assert node.namespace == "fleet/robot1"
        assert node.ros_arguments[:4] == [
            *("--params-file", str(node.params_files[0]), "--log-level", "debug")
        ]
        assert node.ros_arguments[-2:] == ["-r", "__ns:=/fleet/robot1"]
        assert node.respawn == (node.name != "gosvae_replay")
        codes = node.name in ("gosvae_tx", "gosvae_rx")
        assert ("autostart" in node.parameters) == codes
    assert nodes["gosvae_tx"].parameters["autostart"] is False
    for node in describe({}).nodes:
        assert (node.namespace, node.log_level, node.respawn) == ("", "", False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"camera": "front"}, "unknown argument camera; there are bag, cameras"),
        ({"cameras": " , "}, "give different names"),
        ({"cameras": "front,front"}, "give different names"),
        ({"cameras": "front,/front"}, "give different names"),
        ({"cameras": "/"}, "cameras is '/': give different names, .* topics:=/image_raw names"),
        ({"cameras": "a,b", "topics": "/x"}, "topics is '/x', but there are 2 cameras: a, b; give"),
        ({"topics": "/x,/y"}, "topics is '/x,/y', but there are 1 cameras: camera"),
        ({"namespace": "robot 1"}, "namespace is 'robot 1'; give letters, digits"),
        ({"namespace": "1robot"}, "namespace is '1robot'"),
        ({"log_level": "loud"}, "log_level is 'loud'; it can be debug, info, warn, error, fatal"),
        ({"use_respawn": "maybe"}, "use_respawn is 'maybe'; it can be true, false"),
        ({"autostart": "0"}, "autostart is '0'; it can be true, false"),
        ({"rviz": "yes"}, "rviz is 'yes'; it can be true, false"),
        ({"image_transport": "theora"}, "it can be auto, raw, compressed"),
        ({"bag": "/nowhere"}, "bag: /nowhere does not exist"),
        ({"bundle": "/nowhere"}, "bundle: /nowhere does not exist"),
        ({"params_file": "/nowhere.yaml"}, "params_file: /nowhere.yaml does not exist"),
        ({"bag": "/tmp", "rate": "fast"}, "rate is 'fast'; give a number from 0.01 to 100"),
        ({"bag": "/tmp", "rate": "0.001"}, "rate is '0.001'"),
        ({"bag": "/tmp", "rate": "101"}, "rate is '101'"),
        ({"record": "/tmp"}, "record: /tmp exists; name a folder to make"),
    ],
)
def test_bad_values_are_explained(values: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        describe(values)


def test_the_users_parameters_come_after_the_shipped_ones(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("{}")
    for node in describe({"params_file": str(mine)}).nodes:
        assert [file.name for file in node.params_files] == ["pipeline.yaml", "mine.yaml"]
        assert node.params_files[0].is_file()


def test_the_transport_profile_is_the_users_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Path(describe({}).environment[PROFILE_VARIABLE]).is_file()
    monkeypatch.setenv(PROFILE_VARIABLE, "/mine.xml")
    assert PROFILE_VARIABLE not in describe({}).environment


@pytest.fixture
def rviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let RViz be there."""
    monkeypatch.setattr(module, "get_package_prefix", lambda package: f"/opt/{package}")
    monkeypatch.setattr(module, "shared_memory_problem", lambda *_: "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def topics_of(layout: Path) -> list[str]:
    displays = yaml.safe_load(layout.read_text())["Visualization Manager"]["Displays"]
    return [display["Topic"]["Value"] for display in displays]


@pytest.mark.usefixtures("rviz")
def test_layouts_are_kept_once_and_away_from_the_temporary_folder(tmp_path: Path) -> None:
    def layout(**values: str) -> Path:
        return Path(named(describe({"rviz": "true", **values}))["rviz2"].arguments[1])

    left = set(Path(tempfile.gettempdir()).glob("gosvae-*"))
    one, other = layout(), layout(cameras="front")
    assert one == layout() != other
    assert sorted((tmp_path / "cache" / "gosvae" / "rviz").iterdir()) == sorted([one, other])
    # RViz offers another name where it cannot write the file.
    assert one.stat().st_mode & 0o222 == 0
    assert set(Path(tempfile.gettempdir()).glob("gosvae-*")) == left


@pytest.mark.usefixtures("rviz")
def test_rviz_shows_live_cameras_of_any_topic() -> None:
    values = {"rviz": "true", "cameras": "zed", "topics": "/zed/image_rect_color"}
    layout = Path(named(describe(values))["rviz2"].arguments[1])
    assert "/zed/image_rect_color" in topics_of(layout)
    assert "zed/semantic/overlay" in topics_of(layout)


@pytest.mark.usefixtures("rviz")
def test_rviz_shows_depths_where_the_bundle_has_them(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", tasks=["semantic", "depth"])
    values = {"rviz": "true", "cameras": "zed", "bundle": str(bundle)}
    layout = Path(named(describe(values))["rviz2"].arguments[1])
    assert "zed/depth/image" in topics_of(layout) and "zed/semantic/color" in topics_of(layout)
    del values["bundle"]
    layout = Path(named(describe(values))["rviz2"].arguments[1])
    assert "zed/depth/image" not in topics_of(layout)


@pytest.mark.usefixtures("rviz")
def test_a_layout_of_the_user_is_taken_as_it_is(tmp_path: Path) -> None:
    mine = tmp_path / "mine.rviz"
    mine.write_text("Panels: []")
    values = {"rviz": "true", "rviz_config": str(mine), "cameras": "a,b,c,d,e"}
    pipeline = describe(values)
    assert named(pipeline)["rviz2"].arguments == ("-d", str(mine))
    assert pipeline.warnings == ()
    assert not (tmp_path / "cache").exists()
    with pytest.raises(UsageError, match=r"rviz_config: /no\.rviz does not exist; give a layout"):
        describe({"rviz": "true", "rviz_config": "/no.rviz"})
    assert (
        "rviz_config has no meaning without rviz:=true"
        in describe({"rviz_config": str(mine)}).warnings[0]
    )


@pytest.mark.usefixtures("rviz")
@pytest.mark.parametrize(
    ("cameras", "side", "transport", "topics"),
    [
        ("front", "both", "raw", ["semantic/overlay", "semantic/color", "image_raw"]),
        ("a/b", "both", "compressed", ["semantic/overlay", "semantic/color", FRAMES]),
        ("front", "rx", "compressed", ["semantic/color"]),
        ("a,b,c", "both", "compressed", ["semantic/overlay", "semantic/color"]),
        ("a,b,c,d,e", "rx", "raw", ["semantic/color"]),
    ],
)
def test_rviz_shows_the_cameras_there_are(
    cameras: str, side: Side, transport: str, topics: list[str]
) -> None:
    values = {"rviz": "true", "cameras": cameras, "image_transport": transport}
    pipeline = describe(values, side)
    rviz = named(pipeline)["rviz2"]
    assert (rviz.lifetime, rviz.side, rviz.arguments[0]) == ("viewer", "rx", "-d")
    found = topics_of(Path(rviz.arguments[1]))
    names = cameras.split(",")
    # Relative, so that RViz finds them in its own namespace.
    wanted = [f"{name}/{topic}" for name in names[:4] for topic in topics]
    assert found == [*wanted, f"{names[0]}/semantic/legend"]
    beyond = () if len(names) < 5 else ("RViz shows the first 4 of 5 cameras",)
    assert pipeline.warnings == beyond


def test_shared_memory_without_room_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(size: int) -> None:
        monkeypatch.setattr(fastdds.shutil, "disk_usage", lambda _: SimpleNamespace(free=size))

    profile = find_profile()
    free(3 * 64 << 20)
    assert shared_memory_problem(profile, 3) == ""
    problem = shared_memory_problem(profile, 4)
    assert "/dev/shm has 201 MB free, 4 processes take 268 MB" in problem
    assert "--shm-size=512m" in problem and "fastdds shm clean" in problem
    free(0)
    assert any("/dev/shm has 0 MB free" in each for each in describe({}).warnings)
    assert shared_memory_problem(tmp_path / "nowhere.xml", 4) == ""


def test_rviz_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise module.PackageNotFoundError(package)

    monkeypatch.setattr(module, "get_package_prefix", missing)
    with pytest.raises(UsageError, match=r"rviz2.*view:=true shows the same in a browser"):
        describe({"rviz": "true"})


def test_the_view_shows_frames_only_where_they_do_not_cross_the_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    for side, frames in (("both", True), ("rx", False)):
        viewer = named(describe({"view": "true", "cameras": "front,rear"}, side))["gosvae_view"]
        assert viewer.parameters == {"cameras": ["front", "rear"], "frames": frames}
        assert viewer.lifetime == "viewer"
    (alone,) = describe_view(cameras="front", save="a.rrd", port="9000", browser=False).nodes
    assert alone.lifetime == "run"
    assert alone.parameters == {
        "cameras": ["front"],
        "frames": True,
        "open_browser": False,
        "port": 9000,
        "save": str(Path.cwd() / "a.rrd"),
    }
    for port in ("80", "65535", "many"):
        with pytest.raises(UsageError, match=f"port is '{port}'; give a number from 1024"):
            describe_view(port=port)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"view needs rerun-sdk.*ros_environment.py --with view"):
        describe({"view": "true"})


def test_the_shipped_bundle_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(BUNDLE_VARIABLE)
    places = [tmp_path / "installed" / "models" / "it", tmp_path / "repository" / "models" / "it"]
    monkeypatch.setattr(shipped, "_places", lambda _: iter(places))
    with pytest.raises(UsageError, match=rf"{places[0].parent} or {places[1].parent}"):
        find_bundle()
    places[1].mkdir(parents=True)
    assert find_bundle() == places[1]
    assert find_bundle(str(tmp_path)) == tmp_path


def test_the_shipped_drive_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_drive().is_file()
    monkeypatch.setattr(shipped, "_places", lambda name: iter([tmp_path / name]))
    with pytest.raises(UsageError, match=rf"no street.mcap in {tmp_path}/drives; give `input`"):
        find_drive()


def test_rcl_reads_the_values_back(tmp_path: Path) -> None:
    rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "/**: {ros__parameters: {a: file, b: file}}\ngosvae_tx: {ros__parameters: {b: own}}"
    )
    values = {"a": "1.5", "b": "argument", "c": ["true", "a b"], "d": True, "e": 2.0, "f": "x:=y"}
    node = Node(
        *("package", "executable", "gosvae_tx"),
        parameters=values,
        params_files=(mine,),
        remappings=(("camera/image_raw", "front/image"),),
    )
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node(
        "gosvae_tx",
        context=context,
        cli_args=["--ros-args", *node.ros_arguments],
        automatically_declare_parameters_from_overrides=True,
    )
    assert {name: made.get_parameter(name).value for name in values} == {**values, "b": "own"}
    assert made.resolve_topic_name("camera/image_raw") == "/front/image"
    made.destroy_node()
    rclpy.shutdown(context=context)


def test_the_shipped_parameters_exist(drive: Path) -> None:
    rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
    from gosvae_rx.receiver import Receiver
    from gosvae_tools.replay import Replay
    from gosvae_tx.transmitter import Transmitter

    rclpy.init(args=["--ros-args", "-p", f"input:={drive}"])
    try:
        nodes = {node.get_name(): node for node in (Transmitter(), Receiver(), Replay())}
        shipped = yaml.safe_load((ROOT / "config" / "pipeline.yaml").read_text())
        # A section of a node's own would win over what a parent launch file sets.
        assert list(shipped) == ["/**"]
        for name, value in shipped["/**"]["ros__parameters"].items():
            if name in VIEW_PARAMETERS:  # in test_view.py, as it needs rerun-sdk
                continue
            declared = [
                node.get_parameter(name).value
                for node in nodes.values()
                if node.has_parameter(name)
            ]
            assert declared, f"no node has the parameter {name}"
            assert all(type(each) is type(value) for each in declared), name
        for node in nodes.values():
            node.destroy_node()
    finally:
        rclpy.shutdown()


def test_the_transport_profile_has_room_for_images() -> None:
    tree = ElementTree.parse(ROOT / "config" / "fastdds.xml")
    name = {"dds": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
    assert [each.text for each in tree.iterfind(".//dds:transport_descriptor/dds:type", name)] == [
        "SHM",
        "UDPv4",
    ]
    segment = tree.find(".//dds:segment_size", name)
    assert segment is not None
    assert int(segment.text or 0) >= 10 * 1920 * 1080 * 3


RVIZ_PROPERTIES = {
    "rviz_default_plugins/Image": {
        *("Class", "Enabled", "Name", "Value"),
        *("Max Value", "Median window", "Min Value", "Normalize Range", "Topic"),
    },
    "Topic": {"Depth", "Durability Policy", "History Policy", "Reliability Policy", "Value"},
    "Global Options": {"Background Color", "Fixed Frame", "Frame Rate"},
    "rviz_common/Displays": {"Class", "Name", "Property Tree Widget"},
    "rviz_common/Time": {"Class", "Experimental", "Name", "SyncMode", "SyncSource"},
}
"""Names that RViz reads, of its classes in ros2/rviz, branch jazzy at 591594e: Display,
RosTopicDisplay, ImageDisplay, QosProfileProperty, VisualizationManager, DisplaysPanel, TimePanel.
It passes over any other without a word."""
RVIZ_POLICIES = {
    ("Best Effort", "Volatile"): "sensor_data",
    ("Reliable", "Transient Local"): "latched",
}
"""Options of QosProfileProperty, and the profile that the receiver publishes with."""


@pytest.mark.parametrize("name", ["one_camera", "four_cameras"])
def test_rviz_knows_all_that_the_layouts_say(name: str) -> None:
    layout = yaml.safe_load((ROOT / "rviz" / f"{name}.rviz").read_text())
    manager, window = layout["Visualization Manager"], layout["Window Geometry"]
    state = bytes.fromhex(window["QMainWindow State"])
    for panel in layout["Panels"]:
        assert set(panel) == RVIZ_PROPERTIES[panel["Class"]]
    assert set(manager["Global Options"]) == RVIZ_PROPERTIES["Global Options"]
    for display in manager["Displays"]:
        topic = display["Topic"]
        assert set(display) == RVIZ_PROPERTIES[display["Class"]]
        assert set(topic) == RVIZ_PROPERTIES["Topic"]
        assert display["Enabled"] is display["Value"] is True
        assert topic["History Policy"] == "Keep Last"
        profile = RVIZ_POLICIES[topic["Reliability Policy"], topic["Durability Policy"]]
        legend = topic["Value"].endswith("/semantic/legend")
        assert profile == ("latched" if legend else "sensor_data")
    for each in (*layout["Panels"], *manager["Displays"]):
        assert each["Name"].encode("utf-16-be") in state
        assert each["Name"] in window


def test_the_shipped_profiles_are_those_of_the_template() -> None:
    for name, content in fastdds.shipped_profiles().items():
        assert (ROOT / "config" / name).read_text() == content, f"write it to config/{name}"


def test_the_profile_for_a_thin_link_is_what_the_demo_runs_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from gosvae_bringup.demo.network import network

    link = SimpleNamespace(address=lambda side: "10.0.0.1")
    private, far = network(dict(describe({}).environment), tmp_path, link)
    template = (ROOT / "config" / "fastdds-link.xml").read_text()
    assert Path(far["tx"][PROFILE_VARIABLE]).read_text() == template.replace(
        "@ADDRESS@", "10.0.0.1"
    )
    near = Path(private[PROFILE_VARIABLE]).read_text()
    assert "10.0.0.1" not in near and "<maxMessageSize>1472</maxMessageSize>" in near
    # Without a link only the interfaces differ from the profile that ships.
    private, far = network(dict(describe({}).environment), tmp_path)
    alone = Path(private[PROFILE_VARIABLE]).read_text()
    assert fastdds.profile() == re.sub(
        r" *<interfaceWhiteList>.*</interfaceWhiteList>\n", "", alone, flags=re.DOTALL
    )
    assert far == {"tx": {}, "rx": {}}
    ElementTree.fromstring(near)
    ElementTree.fromstring(alone)


def test_uplink_runs_in_the_vehicle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "need", lambda extra: None)
    values = {"uplink": "quic/r:7447?mixed_rel=1", "vehicle": "v01", "cameras": "front"}
    nodes = named(describe({**values, "certificates": str(tmp_path)}, "tx"))
    assert list(nodes) == ["gosvae_tx", "gosvae_uplink"]
    assert nodes["gosvae_uplink"].parameters == {
        "cameras": ["front"],
        "vehicle": "v01",
        "router": "quic/r:7447?mixed_rel=1",
        "certificates": str(tmp_path),
    }
    with pytest.raises(UsageError, match="the service at its other end takes the receiver's place"):
        describe(values)
    with pytest.raises(UsageError, match="vehicle '': give a letter"):
        describe({"uplink": "quic/r:7447"}, "tx")
