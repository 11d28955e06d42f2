"""The pipeline's arguments, declared once for the launch files and for `gosvae run`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gosvae_common.errors import UsageError
from gosvae_common.shipped import BUNDLE, BUNDLE_VARIABLE
from gosvae_common.topics import Side
from gosvae_tools.limits import PORT_LIMITS, RATE_LIMITS
from gosvae_tools.verbs import split_names

SWITCH = ("true", "false")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True)
class Argument:
    """One argument of the pipeline; all values are strings, as in ROS launch.

    `side` is the machine on which it has a meaning where transmitter and receiver run on two.
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
        "Drive to play: rosbag2 folder or file, video, or folder of images. Empty: live cameras.",
        side="tx",
    ),
    Argument("cameras", "camera", "Base names of the cameras' topics, separated by commas."),
    Argument(
        "topics",
        "",
        "Image topic of each camera, separated by commas: of the bag, or without a bag of the live "
        "cameras, such as /image_rect_color. Empty: found by the cameras' names in a bag, "
        "<camera>/image_raw without one.",
    ),
    Argument(
        "image_transport",
        "auto",
        "How images come from the cameras. auto: as the bag has them, without a bag as the "
        "parameter file says.",
        ("auto", "raw", "compressed"),
    ),
    Argument("rate", "1.0", "Speed of the replay as a factor.", side="tx"),
    Argument("loop", "false", "Whether the replay begins again at its end.", SWITCH, "tx"),
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
        "key_file",
        "",
        "File of keys, the same on both sides, that seal packets and authenticate feedback: "
        "`gosvae keygen`. Empty: nothing is sealed.",
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
    Argument("namespace", "", "Namespace of all nodes and topics. Empty: none."),
    Argument("log_level", "info", "Least severity that the nodes log.", LOG_LEVELS),
    Argument(
        "use_respawn",
        "false",
        "Whether a node that fails is started again after 2 s. Otherwise its failure ends all.",
        SWITCH,
    ),
    Argument(
        "uplink",
        "",
        "Endpoint of a fleet's Zenoh router, which packets are carried to, such as "
        "quic/fleet.example.org:7447?mixed_rel=1; its service takes the receiver's place. "
        "Empty: none.",
        side="tx",
    ),
    Argument("vehicle", "", "Name of this vehicle, for the uplink.", side="tx"),
    Argument(
        "certificates",
        "",
        "Folder with authority.pem and the vehicle's certificate and key, for the uplink.",
        side="tx",
    ),
    Argument(
        "autostart",
        "true",
        "Whether transmitter and receiver configure and activate themselves; false leaves that to "
        "a lifecycle manager.",
        SWITCH,
    ),
    Argument(
        "view",
        "false",
        "Whether a browser shows the cameras' frames, masks and figures; without the frames where "
        "they would cross the link.",
        SWITCH,
        "rx",
    ),
    Argument(
        "rviz",
        "false",
        "Whether RViz shows the first four cameras; without their frames where they would cross "
        "the link.",
        SWITCH,
        "rx",
    ),
    Argument(
        "rviz_config",
        "",
        "RViz layout of your own. Empty: one that is made for the cameras.",
        side="rx",
    ),
    Argument(
        "record",
        "",
        "Folder to make for an MCAP bag of packets, masks, labels and diagnostics; each of two "
        "machines records what it makes itself. Empty: no recording.",
    ),
)

_BY_NAME: Mapping[str, Argument] = {argument.name: argument for argument in ARGUMENTS}


def arguments_of(side: Side) -> tuple[Argument, ...]:
    """Return the arguments that have a meaning on that side."""
    return tuple(each for each in ARGUMENTS if side == "both" or each.side in ("both", side))


def complete(values: Mapping[str, str]) -> dict[str, str]:
    """Return `values` with defaults, checked against the choices.

    Raises:
        UsageError: there is no such argument, or it cannot have that value.
    """
    unknown = sorted(set(values) - set(_BY_NAME))
    if unknown:
        raise UsageError(f"unknown argument {', '.join(unknown)}; there are {', '.join(_BY_NAME)}")
    chosen = {}
    for argument in ARGUMENTS:
        value = values.get(argument.name, argument.default).strip()
        if argument.choices and value.lower() in argument.choices:
            value = value.lower()
        elif argument.choices:
            raise UsageError(
                f"{argument.name} is {value!r}; it can be {', '.join(argument.choices)}"
            )
        chosen[argument.name] = value
    return chosen


def is_given(chosen: Mapping[str, str], name: str) -> bool:
    """Return whether an argument has another value than its default."""
    return chosen[name] != _BY_NAME[name].default


def meaningless(chosen: Mapping[str, str], side: Side) -> Iterator[str]:
    """Yield one line for each given argument that has no meaning on that side."""
    meant = arguments_of(side)
    for argument in ARGUMENTS:
        if argument in meant or not is_given(chosen, argument.name):
            continue
        said = f"{argument.name}:={chosen[argument.name]} has no meaning on side {side}"
        if argument.name == "bag" and chosen["use_sim_time"] == "auto":
            yield f"{said}, but that use_sim_time is true"
        else:
            yield f"{said} and is ignored"
    if side == "rx" and chosen["bag"] and chosen["topics"]:
        yield f"topics:={chosen['topics']} names topics of the bag on side rx and is ignored"


def camera_names(names: str) -> list[str]:
    """Return the cameras' base names in a list separated by commas, without slashes around them.

    Raises:
        UsageError: there is none, or two are equal.
    """
    cameras = [camera for name in split_names(names) if (camera := name.strip("/"))]
    if not cameras or len(cameras) < len(split_names(names)) or len(set(cameras)) < len(cameras):
        raise UsageError(
            f"cameras is {names!r}: give different names, separated by commas, such as front,rear; "
            "topics:=/image_raw names a live camera's topic"
        )
    return cameras


def live_topics(chosen: Mapping[str, str], cameras: list[str]) -> list[str]:
    """Return the image topic of each live camera, empty for the default; [] where none is named.

    Raises:
        UsageError: there are not as many as cameras.
    """
    if chosen["bag"] or not chosen["topics"]:
        return []
    topics = [topic.strip() for topic in chosen["topics"].split(",")]
    if len(topics) != len(cameras):
        raise UsageError(
            f"topics is {chosen['topics']!r}, but there are {len(cameras)} cameras: "
            f"{', '.join(cameras)}; give one topic for each, separated by commas"
        )
    return topics


def namespace(chosen: Mapping[str, str]) -> str:
    """Return the namespace, as it was given but for a slash at its end.

    Raises:
        UsageError: it is not a name of ROS.
    """
    name = chosen["namespace"].rstrip("/")
    if name and not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", name, re.ASCII):
        raise UsageError(
            f"namespace is {chosen['namespace']!r}; give letters, digits and underscores, such as "
            "robot1 or fleet/robot1"
        )
    return name


def port(value: str) -> int:
    """Return the number of a port; raise UsageError for none that can be used."""
    low, high = PORT_LIMITS
    if not value.isdecimal() or not low <= int(value) <= high:
        raise UsageError(f"port is {value!r}; give a number from {low} to {high}")
    return int(value)


def rate(value: str) -> float:
    """Return the speed of the replay; raise UsageError for an impossible one."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    low, high = RATE_LIMITS
    if not low <= number <= high:
        raise UsageError(f"rate is {value!r}; give a number from {low:g} to {high:g}")
    return number
