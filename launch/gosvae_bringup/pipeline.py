"""The pipeline, described once: which processes run, with which parameters, on which machine.

    pipeline = describe({"bag": "drive.mcap", "rviz": "true"})
    for node in pipeline.nodes: print(node.package, node.executable, node.ros_arguments)

The launch files read it for `ros2 launch`, and :mod:`.run` for `gosvae run`. This module imports
neither rclpy nor launch, so that it can be read and tested on any machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from gosvae_codec import BundleError
from gosvae_codec.manifest import read_manifest
from gosvae_common.errors import UsageError
from gosvae_common.fastdds import PROFILE_VARIABLE, shared_memory_problem
from gosvae_common.shipped import absolute, existing, find_bundle, find_profile, share_folder
from gosvae_common.topics import COMPRESSED_IMAGE, IMAGE, Side
from gosvae_fleet.extras import need
from gosvae_fleet.keys import vehicle_name
from gosvae_tools.verbs import split_names

from . import arguments
from .arguments import camera_names, complete, is_given
from .rviz import write_layout

Value = bool | int | float | str | Sequence[str]

RVIZ_CAMERAS = 4
COMPRESSED = "/compressed"


@dataclass(frozen=True)
class Node:
    """A process of the pipeline.

    `lifetime` says what its end means. "run": a failure, whatever its status. "drive": with status
    0 the end of the drive, else a failure. "viewer": nothing. `side` is where it belongs: "both"
    for one that listens to both sides. `respawn` is whether it is started again after a failure.
    """

    package: str
    executable: str
    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    params_files: tuple[Path, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    lifetime: Literal["run", "drive", "viewer"] = "run"
    side: Side = "both"
    namespace: str = ""
    log_level: str = ""
    respawn: bool = False
    more: tuple[str, ...] = ()
    """ROS arguments of the user, after all others."""

    @property
    def first_arguments(self) -> list[str]:
        """ROS arguments that a parent launch file may override: files and log level."""
        level = ("--log-level", self.log_level) if self.log_level else ()
        files = (part for file in self.params_files for part in ("--params-file", str(file)))
        return [*files, *level]

    @property
    def ros_arguments(self) -> list[str]:
        """What follows `--ros-args` on the command line."""
        # JSON is YAML in which a string cannot be taken for a number or a boolean.
        values = [f"{name}:={json.dumps(value)}" for name, value in self.parameters.items()]
        rules = [f"{old}:={new}" for old, new in self.remappings]
        if self.namespace:
            rules.append(f"__ns:=/{self.namespace.strip('/')}")
        return [
            *self.first_arguments,
            *(part for value in values for part in ("-p", value)),
            *(part for rule in rules for part in ("-r", rule)),
            *self.more,
        ]


@dataclass(frozen=True)
class Pipeline:
    """Processes to start, variables to add to their environment, and warnings to print before."""

    nodes: tuple[Node, ...]
    environment: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def describe(values: Mapping[str, str], side: Side = "both") -> Pipeline:
    """Describe the pipeline, or what of it runs on one side.

    Only what differs from an argument's default becomes a parameter: parameters that a parent
    launch file sets win over defaults that ship.

    Args:
        values: of :data:`.arguments.ARGUMENTS`, by name; one that is missing has its default.
        side: "tx" for the vehicle (replay and transmitter), "rx" for the other end (receiver,
            recording and RViz), "both" for one machine.

    Raises:
        UsageError: a value is not of its kind, or names a file that is not there.
        SourceError: the bag cannot be read.
    """
    chosen = complete(values)
    warnings = list(arguments.meaningless(chosen, side))
    cameras = camera_names(chosen["cameras"])
    common: dict[str, Value] = {"cameras": cameras} if is_given(chosen, "cameras") else {}
    replay = _replay(chosen) if side != "rx" else {}
    simulated = chosen["use_sim_time"] == "true"
    if chosen["use_sim_time"] == "auto":
        simulated = bool(chosen["bag"])
    elif replay and not simulated:
        replay["restamp"] = True
    clock: dict[str, Value] = {"use_sim_time": True} if simulated else {}
    images, topics = _images(chosen, cameras, bool(replay))
    coding = {**common, **_coding(chosen), **images, **clock}

    nodes: list[Node] = []
    if side != "rx":
        nodes.append(Node("gosvae_tx", "transmitter", "gosvae_tx", coding, side="tx"))
    if side != "rx" and chosen["uplink"]:
        nodes.append(_uplink(chosen, side, common))
    if replay:
        player = Node("gosvae_tools", "replay", "gosvae_replay", {**common, **replay}, side="tx")
        nodes.append(dataclasses.replace(player, lifetime="drive"))
    if side != "tx":
        nodes.append(Node("gosvae_rx", "receiver", "gosvae_rx", coding, side="rx"))
    if chosen["record"]:
        nodes.append(_record(chosen["record"], side, {**common, **clock}))
    if side != "tx" and chosen["view"] == "true":
        view = _view({**common, "frames": side == "both"})
        nodes.append(dataclasses.replace(view, remappings=_frames_of(cameras, topics)))
    nodes = [_ready_first(node, nodes, chosen["autostart"] != "false") for node in nodes]
    files = _params_files(chosen["params_file"])
    nodes = [dataclasses.replace(node, params_files=files) for node in nodes]
    if side != "tx" and chosen["rviz"] == "true":
        shown = topics if side == "both" else None
        rviz = _rviz(chosen["rviz_config"], chosen["bundle"], cameras, shown)
        nodes.append(dataclasses.replace(rviz, parameters=clock))
        if len(cameras) > RVIZ_CAMERAS and not chosen["rviz_config"]:
            warnings.append(f"RViz shows the first {RVIZ_CAMERAS} of {len(cameras)} cameras")
    elif side != "tx" and chosen["rviz_config"]:
        warnings.append("rviz_config has no meaning without rviz:=true and is ignored")
    if problem := _shared_memory_problem(len(nodes)):
        warnings.append(problem)
    return Pipeline(_started(nodes, chosen), _environment(), tuple(warnings))


def describe_view(
    cameras: str = "camera",
    save: str = "",
    port: str = "9090",
    frames: bool = True,
    browser: bool = True,
) -> Pipeline:
    """Describe the browser's view alone, for a pipeline that runs already.

    Args:
        cameras: base names of their topics, separated by commas.
        save: file.rrd to write; empty for none.
        port: of the page; the next one is that of its data.
        frames: whether to show the cameras' own frames, and overlays.
        browser: whether to open the page.

    Raises:
        UsageError: a value is not of its kind, or rerun-sdk is not installed.
    """
    parameters: dict[str, Value] = {"cameras": camera_names(cameras), "frames": frames}
    parameters |= {"open_browser": browser, "port": arguments.port(port)}
    if save:
        parameters["save"] = str(absolute(save))
    node = dataclasses.replace(_view(parameters), params_files=_params_files(""), lifetime="run")
    return Pipeline((node,), _environment())


def _started(nodes: Sequence[Node], chosen: Mapping[str, str]) -> tuple[Node, ...]:
    """Return the nodes with what says how they are started."""
    namespace = arguments.namespace(chosen)
    level = chosen["log_level"] if is_given(chosen, "log_level") else ""
    respawn = chosen["use_respawn"] == "true"
    return tuple(
        dataclasses.replace(
            node,
            namespace=namespace,
            log_level=level,
            respawn=respawn and node.lifetime == "run",
        )
        for node in nodes
    )


def _params_files(own: str) -> tuple[Path, ...]:
    """Return the shipped parameter file, and the user's own after it."""
    shipped = share_folder() / "config" / "pipeline.yaml"
    return (shipped, existing("params_file", own)) if own else (shipped,)


def _coding(chosen: Mapping[str, str]) -> dict[str, Value]:
    """Return parameters of the transmitter and the receiver."""
    # The nodes find the same one where none is given; that there is none is said before they start.
    bundle = find_bundle(chosen["bundle"])
    parameters: dict[str, Value] = {"bundle": str(bundle)} if chosen["bundle"] else {}
    if chosen["key_file"]:
        parameters["key_file"] = str(existing("key_file", chosen["key_file"]))
    if chosen["providers"]:
        parameters["providers"] = list(split_names(chosen["providers"]))
    if chosen["autostart"] == "false":
        parameters["autostart"] = False
    return parameters


def _replay(chosen: Mapping[str, str]) -> dict[str, Value]:
    """Return the replay's parameters; none without a bag."""
    if not chosen["bag"]:
        return {}
    parameters: dict[str, Value] = {"input": str(existing("bag", chosen["bag"]))}
    speed = arguments.rate(chosen["rate"])
    if is_given(chosen, "rate"):
        parameters["rate"] = speed
    if chosen["loop"] == "true":
        parameters["loop"] = True
    if chosen["topics"]:
        parameters["topics"] = list(split_names(chosen["topics"]))
    return parameters


def _images(
    chosen: Mapping[str, str], cameras: list[str], replayed: bool
) -> tuple[dict[str, Value], list[str]]:
    """Return the parameters that say where frames come from, and each camera's image topic."""
    named = arguments.live_topics(chosen, cameras)
    transport = chosen["image_transport"]
    if transport == "auto" and replayed:
        transports = _transports(chosen, cameras)
    else:
        transports = ["compressed" if transport == "compressed" else "raw"] * len(cameras)
    standard = {"raw": IMAGE, "compressed": COMPRESSED_IMAGE}
    topics = [
        name or f"{camera}/{standard[kind]}"
        for camera, kind, name in zip(
            cameras, transports, named or [""] * len(cameras), strict=True
        )
    ]
    parameters: dict[str, Value] = {}
    if any(named):
        parameters["image_topics"] = named
    elif len(set(transports)) > 1:
        parameters["image_topics"] = topics
    if transport != "auto":
        parameters["image_transport"] = transport
    elif replayed and len(set(transports)) == 1:
        parameters["image_transport"] = transports[0]
    return parameters, topics


def _transports(chosen: Mapping[str, str], cameras: list[str]) -> list[str]:
    """Return how the bag, which is opened, has each camera's images."""
    # Readers of bags and videos are heavy, and needed only here.
    from gosvae_tools.drives import open_source

    source = open_source(chosen["bag"], cameras, split_names(chosen["topics"]))
    return [source.transport[camera] for camera in cameras]


def _uplink(chosen: Mapping[str, str], side: Side, parameters: Mapping[str, Value]) -> Node:
    """Return the node that carries packets to a fleet's service."""
    need("uplink")
    if side != "tx":
        raise UsageError(
            "uplink is for side tx: the service at its other end takes the receiver's place"
        )
    certificates = str(absolute(chosen["certificates"])) if chosen["certificates"] else ""
    own: dict[str, Value] = {"vehicle": vehicle_name(chosen["vehicle"])}
    own |= {"router": chosen["uplink"], "certificates": certificates}
    return Node("gosvae_fleet", "uplink", "gosvae_uplink", {**parameters, **own}, side="tx")


def _record(output: str, side: Side, parameters: Mapping[str, Value]) -> Node:
    """Return the node that records what is made on this side."""
    path = absolute(output)
    if path.exists():
        raise UsageError(f"record: {path} exists; name a folder to make")
    name = "gosvae_record" if side == "both" else f"gosvae_record_{side}"
    return Node(
        "gosvae_tools",
        "record",
        name,
        {**parameters, "output": str(path), "side": side},
        remappings=(("__node", name),),
        side=side,
    )


def _ready_first(node: Node, nodes: Sequence[Node], autostart: bool) -> Node:
    """Return the replay with the nodes that it waits for, other nodes as they are.

    Nodes that somebody activates by hand are waited for without a limit.
    """
    if node.executable != "replay":
        return node
    awaited = ("transmitter", "receiver", "record")
    parameters = {**node.parameters}
    parameters["wait_for"] = [each.name for each in nodes if each.executable in awaited]
    if not autostart:
        parameters["ready_timeout"] = 0.0
    return dataclasses.replace(node, parameters=parameters)


def _view(parameters: Mapping[str, Value]) -> Node:
    """Return the node that shows the pipeline in a browser."""
    if find_spec("rerun") is None:
        raise UsageError(
            "view needs rerun-sdk, which is not installed: "
            "python3 tools/ros_environment.py --with view, or make view"
        )
    return Node("gosvae_tools", "view", "gosvae_view", parameters, lifetime="viewer", side="rx")


def _frames_of(cameras: list[str], topics: list[str]) -> tuple[tuple[str, str], ...]:
    """Return remappings to the cameras' image topics, for those that have other names."""
    rules: list[tuple[str, str]] = []
    for camera, topic in zip(cameras, topics, strict=True):
        base = topic.removesuffix(COMPRESSED)
        if base != f"{camera}/{IMAGE}":
            rules.append((f"{camera}/{IMAGE}", base))
            rules.append((f"{camera}/{COMPRESSED_IMAGE}", f"{base}{COMPRESSED}"))
    return tuple(rules)


def _rviz(layout: str, bundle: str, cameras: Sequence[str], topics: Sequence[str] | None) -> Node:
    """Return RViz with the user's layout, or with one for these cameras.

    Args:
        layout: the user's own; empty: none.
        bundle: as for the nodes.
        cameras: base names of their topics.
        topics: image topic of each camera; None: frames and overlays are not shown.
    """
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError as error:
        raise UsageError(
            "rviz needs RViz, which is not installed: sudo apt install ros-jazzy-rviz2 "
            "ros-jazzy-image-transport-plugins; view:=true shows the same in a browser"
        ) from error
    if layout:
        path = existing("rviz_config", layout)
    else:
        path = write_layout(share_folder() / "rviz", cameras, topics, _has_depth(bundle))
    arguments = ("-d", str(path))
    return Node("rviz2", "rviz2", "rviz2", arguments=arguments, lifetime="viewer", side="rx")


def _has_depth(bundle: str) -> bool:
    try:
        return "depth" in read_manifest(find_bundle(bundle))["tasks"]
    except BundleError:  # which the nodes tell
        return False


def _shared_memory_problem(processes: int) -> str:
    profile = Path(os.environ.get(PROFILE_VARIABLE) or find_profile())
    return shared_memory_problem(profile, processes)


def _environment() -> dict[str, str]:
    """Return our transport profile, unless the user has one."""
    if PROFILE_VARIABLE in os.environ:
        return {}
    return {PROFILE_VARIABLE: str(find_profile())}
