"""The pipeline, described once: which processes run, with which parameters, on which machine.

    pipeline = describe({"bag": "drive.mcap", "rviz": "true"})
    for node in pipeline.nodes: print(node.package, node.executable, node.ros_arguments)

The launch files read it for `ros2 launch`, and :mod:`.cli` for `gosvae run`. Here are neither
rclpy nor launch, so that it can be read and tested on any machine.
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

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
)

from gosvae_common.errors import UsageError
from gosvae_common.fastdds import PROFILE_VARIABLE, shared_memory_problem
from gosvae_common.shipped import (
    BUNDLE,
    BUNDLE_VARIABLE,
    absolute,
    existing,
    find_bundle,
    find_profile,
    share_folder,
)
from gosvae_common.topics import Side
from gosvae_tools.limits import PORT_LIMITS, RATE_LIMITS

from .rviz import write_layout

Value = bool | int | float | str | Sequence[str]

RVIZ_CAMERAS = 4


@dataclass(frozen=True)
class Argument:
    """One argument of the pipeline; all values are strings, as ROS launch has them.

    `side` says on which machine it means something where transmitter and receiver run on two.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()
    side: Side = "both"


ARGUMENTS = (
    Argument(
        "bag",
        "",
        "Drive to play: rosbag2 folder or file, video, or folder of images. "
        "Empty: cameras that are there.",
        side="tx",
    ),
    Argument("cameras", "camera", "Base names of the cameras' topics, separated by commas."),
    Argument(
        "topics",
        "",
        "The bag's image topic of each camera, separated by commas. "
        "Empty: found by the cameras' names.",
        side="tx",
    ),
    Argument(
        "image_transport",
        "auto",
        "How images come from the cameras. auto: as the bag has them, without a bag as the "
        "parameter file says.",
        ("auto", "raw", "compressed"),
    ),
    Argument("rate", "1.0", "Speed of the replay as a factor.", side="tx"),
    Argument(
        "loop", "false", "Whether the replay begins again at its end.", ("true", "false"), "tx"
    ),
    Argument(
        "bundle",
        "",
        f"Folder of the model bundle. Empty: ${BUNDLE_VARIABLE}, else the {BUNDLE} that ships.",
    ),
    Argument(
        "providers",
        "",
        "Where networks run, in order of preference, separated by commas: tensorrt, cuda, cpu. "
        "Empty: as the parameter file says.",
    ),
    Argument(
        "params_file",
        "",
        "YAML file with parameters on top of the shipped config/pipeline.yaml. Arguments win over "
        "its /** section, a node's own section wins over arguments.",
    ),
    Argument(
        "use_sim_time",
        "auto",
        "Whether time comes from /clock. auto: true with a bag. false with a bag: it is played as "
        "if it happened now, without /clock.",
        ("auto", "true", "false"),
    ),
    Argument(
        "view",
        "false",
        "Whether a browser shows the cameras' frames, masks and figures; without the frames where "
        "they would cross the link.",
        ("true", "false"),
        "rx",
    ),
    Argument(
        "rviz",
        "false",
        "Whether RViz shows the first four cameras; without their frames where they would cross "
        "the link.",
        ("true", "false"),
        "rx",
    ),
    Argument(
        "record",
        "",
        "Folder to make for an MCAP bag of packets, masks, labels and diagnostics; each of two "
        "machines records what it makes itself. Empty: no recording.",
    ),
)


@dataclass(frozen=True)
class Node:
    """A process of the pipeline.

    `lifetime` says what its end means. "run": a failure, whatever its status. "drive": with status
    0 the end of the drive, else a failure. "viewer": nothing. `side` is where it belongs: "both"
    for one that listens to both sides.
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

    @property
    def ros_arguments(self) -> list[str]:
        """What follows `--ros-args` on the command line."""
        # JSON is YAML in which a string cannot be taken for a number or a boolean.
        values = [f"{name}:={json.dumps(value)}" for name, value in self.parameters.items()]
        return [
            *(part for file in self.params_files for part in ("--params-file", str(file))),
            *(part for value in values for part in ("-p", value)),
            *(part for old, new in self.remappings for part in ("-r", f"{old}:={new}")),
        ]


@dataclass(frozen=True)
class Pipeline:
    """What to start, in which environment on top of the present one, and what to say before."""

    nodes: tuple[Node, ...]
    environment: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def arguments_of(side: Side) -> tuple[Argument, ...]:
    """Return the arguments that mean something on that side."""
    return tuple(each for each in ARGUMENTS if side == "both" or each.side in ("both", side))


def describe(values: Mapping[str, str], side: Side = "both") -> Pipeline:
    """Describe the pipeline, or what of it runs on one side.

    Args:
        values: of :data:`ARGUMENTS`, by name; one that is missing has its default.
        side: "tx" for the vehicle (replay and transmitter), "rx" for the other end (receiver,
            recording and RViz), "both" for one machine.

    Raises:
        UsageError: a value is not of its kind, or names a file that is not there.
        SourceError: the bag cannot be read.
    """
    chosen = _complete(values, side)
    cameras = _cameras(chosen["cameras"])
    share = share_folder()
    params_files = [share / "config" / "pipeline.yaml"]
    if chosen["params_file"]:
        params_files.append(existing("params_file", chosen["params_file"]))
    replay = _replay(chosen)
    simulated = bool(replay)
    if chosen["use_sim_time"] != "auto":
        simulated = chosen["use_sim_time"] == "true"
    clock: dict[str, Value] = {"use_sim_time": True} if simulated else {}
    coding: dict[str, Value] = {"bundle": str(find_bundle(chosen["bundle"])), **clock}
    if chosen["providers"]:
        coding["providers"] = split_names(chosen["providers"])

    if replay and not simulated:
        replay["restamp"] = True

    def node(
        package: str, executable: str, name: str, side: Side, parameters: Mapping[str, Value]
    ) -> Node:
        every = {"cameras": cameras, **parameters}
        return Node(package, executable, name, every, tuple(params_files), side=side)

    if chosen["image_transport"] != "auto":
        coding["image_transport"] = chosen["image_transport"]
    elif replay:
        coding["image_transport"] = _transport(chosen, cameras)

    nodes: list[Node] = []
    warnings: list[str] = []
    if side != "rx":
        nodes.append(node("gosvae_tx", "transmitter", "gosvae_tx", "tx", coding))
        if replay:
            player = node("gosvae_tools", "replay", "gosvae_replay", "tx", replay)
            nodes.append(dataclasses.replace(player, lifetime="drive"))
    if side != "tx":
        nodes.append(node("gosvae_rx", "receiver", "gosvae_rx", "rx", coding))
    if chosen["record"]:
        output = absolute(chosen["record"])
        if output.exists():
            raise UsageError(f"record: {output} exists; name a folder to make")
        name = "gosvae_record" if side == "both" else f"gosvae_record_{side}"
        parameters = {"output": str(output), "side": side, **clock}
        record = node("gosvae_tools", "record", name, side, parameters)
        nodes.append(dataclasses.replace(record, remappings=(("__node", name),)))
    if side != "tx" and chosen["view"] == "true":
        nodes.append(_view({"cameras": cameras, "frames": side == "both"}, params_files))
    if side != "tx" and chosen["rviz"] == "true":
        compressed = coding.get("image_transport") == "compressed"
        rviz = _rviz(share, cameras, side == "both", compressed)
        nodes.append(dataclasses.replace(rviz, parameters=clock, side="rx"))
        if len(cameras) > RVIZ_CAMERAS:
            warnings.append(f"RViz shows the first {RVIZ_CAMERAS} of {len(cameras)} cameras")
    if problem := shared_memory_problem(
        Path(os.environ.get(PROFILE_VARIABLE) or find_profile()), len(nodes)
    ):
        warnings.append(problem)
    return Pipeline(tuple(nodes), _environment(), tuple(warnings))


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
    share = share_folder()
    parameters: dict[str, Value] = {"cameras": _cameras(cameras), "frames": frames}
    parameters |= {"open_browser": browser, "port": _port(port)}
    if save:
        parameters["save"] = str(absolute(save))
    node = _view(parameters, [share / "config" / "pipeline.yaml"])
    return Pipeline((dataclasses.replace(node, lifetime="run"),), _environment())


def _complete(values: Mapping[str, str], side: Side) -> dict[str, str]:
    """Return `values` with defaults, checked against the choices."""
    arguments = arguments_of(side)
    unknown = sorted(set(values) - {each.name for each in arguments})
    if unknown:
        raise UsageError(
            f"unknown argument {', '.join(unknown)}; there are "
            + ", ".join(each.name for each in arguments)
        )
    chosen = {}
    for argument in arguments:
        value = values.get(argument.name, argument.default).strip()
        if argument.choices and value.lower() in argument.choices:
            value = value.lower()
        elif argument.choices:
            raise UsageError(
                f"{argument.name} is {value!r}; it can be {', '.join(argument.choices)}"
            )
        chosen[argument.name] = value
    return chosen


def _replay(chosen: Mapping[str, str]) -> dict[str, Value]:
    """Return the replay's parameters; none without a bag."""
    if not chosen.get("bag"):
        return {}
    parameters: dict[str, Value] = {
        "input": str(existing("bag", chosen["bag"])),
        "rate": _rate(chosen["rate"]),
        "loop": chosen["loop"] == "true",
    }
    if chosen["topics"]:
        parameters["topics"] = split_names(chosen["topics"])
    return parameters


def _transport(chosen: Mapping[str, str], cameras: list[str]) -> str:
    """Return how the bag has its cameras' images, for which it is opened."""
    # Readers of bags and videos are heavy, and needed only here.
    from gosvae_tools.drives import open_source

    source = open_source(chosen["bag"], cameras, split_names(chosen["topics"]))
    transports = {source.transport[camera] for camera in cameras}
    if len(transports) > 1:
        raise UsageError(
            f"{source.path} has raw and compressed cameras, "
            + ", ".join(f"{camera}: {source.transport[camera]}" for camera in cameras)
            + "; play one kind at a time"
        )
    return transports.pop()


def _view(parameters: Mapping[str, Value], params_files: Sequence[Path]) -> Node:
    """Return the node that shows the pipeline in a browser."""
    if find_spec("rerun") is None:
        raise UsageError(
            "view needs rerun-sdk, which is not installed: "
            "pip install --no-deps -r requirements-view.txt"
        )
    return Node(
        "gosvae_tools",
        "view",
        "gosvae_view",
        parameters,
        tuple(params_files),
        lifetime="viewer",
        side="rx",
    )


def _rviz(share: Path, cameras: Sequence[str], frames: bool, compressed: bool) -> Node:
    """Return RViz with a layout for these cameras; arguments as for :func:`write_layout`."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError as error:
        raise UsageError(
            "rviz needs RViz, which is not installed: sudo apt install ros-jazzy-rviz2 "
            "ros-jazzy-image-transport-plugins; view:=true shows the same in a browser"
        ) from error
    layout = write_layout(share / "rviz", cameras, frames, compressed)
    return Node("rviz2", "rviz2", "rviz2", arguments=("-d", str(layout)), lifetime="viewer")


def _environment() -> dict[str, str]:
    """Return our transport profile, unless the user has one."""
    if PROFILE_VARIABLE in os.environ:
        return {}
    return {PROFILE_VARIABLE: str(find_profile())}


def split_names(names: str) -> list[str]:
    """Return the names in a list separated by commas; empty ones count for nothing."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _cameras(names: str) -> list[str]:
    cameras = split_names(names)
    if not cameras or len(set(cameras)) < len(cameras):
        raise UsageError(f"cameras is {names!r}: give different names, separated by commas")
    return cameras


def _port(value: str) -> int:
    low, high = PORT_LIMITS
    if not value.isdecimal() or not low <= int(value) <= high:
        raise UsageError(f"port is {value!r}; give a number from {low} to {high}")
    return int(value)


def _rate(value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    low, high = RATE_LIMITS
    if not low <= rate <= high:
        raise UsageError(f"rate is {value!r}; give a number from {low:g} to {high:g}")
    return rate
