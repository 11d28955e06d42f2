#!/usr/bin/env python3
"""Write docs/reference.md: topics, parameters, arguments and options, as the code declares them.

    make reference             write it
    reference.py --check       exit with status 1 where it is not what would be written

The nodes are made, configured and activated here, and asked.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "reference.md"
TEMPLATE = ROOT / "tools" / "reference.template.md"
CAMERA = "camera"
SECONDS = 60.0
"""How long the nodes of this process may take to find each other."""

# Nobody else's nodes must show up, nor this process to them.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)

import rclpy  # noqa: E402
import rerun as rr  # noqa: E402
from rcl_interfaces.msg import ParameterDescriptor  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from gosvae_bringup.arguments import ARGUMENTS  # noqa: E402
from gosvae_bringup.cli import make_parser  # noqa: E402
from gosvae_common.node import PipelineNode  # noqa: E402
from gosvae_common.qos import qos_profile  # noqa: E402
from gosvae_msgs.msg import Detections, LabelInfo  # noqa: E402
from gosvae_rx.receiver import Receiver  # noqa: E402
from gosvae_tools.record import Record  # noqa: E402
from gosvae_tools.replay import Replay  # noqa: E402
from gosvae_tools.view import View  # noqa: E402
from gosvae_tx.transmitter import Transmitter  # noqa: E402

TOPICS = {
    "/camera/image_raw": "The camera's frames, where `image_transport` is `raw`.",
    "/camera/image_raw/compressed": "The same, where it is `compressed`.",
    "/camera/camera_info": "The camera's calibration, as the bag has it.",
    "/camera/semantic/camera_info": "Calibration with each mask's stamp, while someone listens.",
    "/camera/semantic/legend": "Names and colours of the label ids as a picture, latched.",
    "/camera/label": "True labels as train ids, where the drive has any.",
    "/camera/label/compressed": "The same as PNG.",
    "/camera/image_raw/gosvae": "Packets: what crosses the link.",
    "/camera/image_raw/gosvae/feedback": "What arrived and may be referred to; back over the link.",
    "/camera/semantic/mask": "Label ids, with the frame's stamp, frame_id and size.",
    "/camera/semantic/color": "The mask in its labels' colours, while someone listens.",
    "/camera/semantic/confidence": "Softmax probability of each label, 255 for 1, while someone "
    "listens.",
    "/camera/semantic/overlay": "Frame and colours, half and half, with boxes, while someone "
    "listens.",
    "/camera/detections": "Objects by falling score, with bundles that have the task `detection`: "
    "vision_msgs/Detection2DArray if vision_msgs is installed. If visualization_msgs is, `markers` "
    "below it is a visualization_msgs/ImageMarker of the boxes.",
    "/camera/detections/label_info": "Names and colours of the classes, latched.",
    "/camera/detections/legend": "The same as a picture, latched.",
    "/camera/depth/image": "Depth as 32FC1, in the bundle's unit, with bundles that have the task "
    "`depth`.",
    "/camera/depth/camera_info": "Calibration with each depth's stamp, while someone listens.",
    "/camera/semantic/label_info": "Names and colours of the label ids, latched. If vision_msgs is "
    "installed, `label_info_vision` beside it is a vision_msgs/LabelInfo.",
    "/clock": "Simulated time.",
    "/diagnostics": "Level, a sentence and figures of each camera; see "
    "[troubleshooting](troubleshooting.md).",
}
"""What each topic holds."""

OF_OTHER_TASKS = {
    "/camera/detections": (Detections, "sensor_data"),
    "/camera/detections/label_info": (LabelInfo, "latched"),
    "/camera/detections/legend": (Image, "latched"),
    "/camera/depth/image": (Image, "sensor_data"),
    "/camera/depth/camera_info": (CameraInfo, "sensor_data"),
}
"""What the receiver publishes with bundles that have other tasks than the one that ships."""

REQUIRED = ("input", "output")
HIDDEN = (
    "/rosout",
    "/parameter_events",
    "/transition_event",
    "/tf",
    "/tf_static",
    "/label_info_vision",
)


class PagelessView(View):
    """The view without its page, whose port may be taken."""

    def _serve(self) -> rr.RecordingStream:
        return rr.RecordingStream("reference")


class Nodes:
    """The pipeline's nodes, configured and at work on the drive that ships."""

    def __enter__(self) -> Nodes:
        self._folder = tempfile.TemporaryDirectory()
        rclpy.init()
        self.transmitter, self.receiver = Transmitter(), Receiver()
        drive = Parameter("input", value=str(ROOT / "drives" / "street.mcap"))
        bag = Parameter("output", value=str(Path(self._folder.name, "bag")))
        self.replay = Replay(parameter_overrides=[drive])
        self.record = Record(parameter_overrides=[bag])
        self.view = PagelessView()
        self.parameters = {node.get_name(): list(rows(node)) for node in self.all}
        self._probe = rclpy.create_node("probe")
        self._work()
        return self

    @property
    def all(self) -> Sequence[Node]:
        """All of them."""
        return self.transmitter, self.receiver, self.replay, self.record, self.view

    def _work(self) -> None:
        """Let the nodes do all that they do on demand."""
        bundle = Parameter("bundle", value=str(ROOT / "models" / "road"))
        self.transmitter.set_parameters([bundle, Parameter("lazy", value=False)])
        self.receiver.set_parameters([bundle])
        for node in (self.transmitter, self.receiver):
            node.trigger_configure()
            node.trigger_activate()
        for kind, topic in ((Image, "overlay"), (CameraInfo, "camera_info")):
            wanted = f"{CAMERA}/semantic/{topic}"
            self._probe.create_subscription(kind, wanted, print, qos_profile("sensor_data"))
        executor = SingleThreadedExecutor()
        executor.add_node(self.receiver)
        executor.add_node(self.view)
        end = time.monotonic() + SECONDS
        takes = (self.receiver, Image), (self.receiver, CameraInfo), (self.view, CompressedImage)
        while not all(
            any(each.msg_type is kind for each in node.subscriptions) for node, kind in takes
        ):
            if time.monotonic() > end:
                raise SystemExit(f"reference: nodes did not find each other within {SECONDS:g} s")
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()

    def __exit__(self, *_: object) -> None:
        self.record.close()
        for node in (self.transmitter, self.receiver):
            node.close()
        for node in (*self.all, self._probe):
            node.destroy_node()
        rclpy.shutdown()
        self._folder.cleanup()


def rows(node: Node) -> Iterator[tuple[str, ...]]:
    """Yield name, default, range, when it can change, and meaning of a node's parameters."""
    for name, parameter in sorted(node.get_parameters_by_prefix("").items()):
        descriptor = node.describe_parameter(name)
        if name.startswith("qos_overrides.") or not descriptor.description:
            continue
        if name == "use_sim_time" or name == "start_type_description_service":
            continue
        yield (
            f"`{name}`",
            "required" if name in REQUIRED else f"`{literal(parameter.value)}`",
            limits(descriptor),
            changes(node, name, descriptor),
            descriptor.description,
        )


def literal(value: Any) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return repr(value)
    return f"[{', '.join(map(literal, value))}]" if isinstance(value, list) else str(value)


def limits(descriptor: ParameterDescriptor) -> str:
    """Return a number's range."""
    ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
    return f"{ranges[0].from_value:.9g} to {ranges[0].to_value:.9g}" if ranges else ""


def changes(node: Node, name: str, descriptor: ParameterDescriptor) -> str:
    """Return when a parameter can be set."""
    if descriptor.read_only:
        return "at start"
    live = not isinstance(node, PipelineNode) or name in node.live
    return "always" if live or name.startswith("diagnostics.") else "unconfigured"


def topics(nodes: Sequence[Node]) -> Iterator[tuple[str, ...]]:
    """Yield topic, type, who publishes and subscribes, and meaning."""
    ends: dict[str, dict[str, Any]] = {}
    for node in nodes:
        for kind, endpoints in (("from", node.publishers), ("to", node.subscriptions)):
            for each in endpoints:
                name = each.topic_name if kind == "to" else each.topic
                name = name if name.startswith("/") else f"/{name}"
                if name.endswith(HIDDEN):
                    continue
                end = ends.setdefault(name, {"type": each.msg_type, "from": [], "to": []})
                end[kind].append(f"{node.get_name()} ({quality(each.qos_profile)})")
    for name, (kind, qos) in OF_OTHER_TASKS.items():
        end = ends.setdefault(name, {"type": kind, "from": [], "to": []})
        end["from"].append(f"gosvae_rx ({quality(qos_profile(qos))})")
    for name, end in sorted(ends.items()):
        package = end["type"].__module__.partition(".")[0]
        yield (
            f"`{name}`",
            f"{package}/{end['type'].__name__}",
            "<br>".join(end["from"]) or "camera",
            "<br>".join(end["to"]) or "anyone",
            TOPICS[name],
        )


def quality(profile: QoSProfile) -> str:
    """Return a QoS profile in a few words."""
    reliable = profile.reliability == QoSReliabilityPolicy.RELIABLE
    latched = profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
    words = ["reliable" if reliable else "best effort", f"depth {profile.depth}"]
    return ", ".join([*words, *(["latched"] if latched else [])])


def options() -> Iterator[str]:
    """Yield a section for each command of `gosvae`."""
    (commands,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for name, command in commands.choices.items():
        yield f"\n### gosvae {name}\n"
        yield command.description.strip() + "\n"
        if name == "run":
            yield "Besides `--side`, which is `both`, `tx` or `rx`, all [arguments](#arguments).\n"
            continue
        table = [
            (
                ", ".join(f"`{each}`" for each in action.option_strings) or f"`{action.metavar}`",
                (action.help or "").replace("%%", "%"),
            )
            for action in command._actions
            if action.dest != "help"
        ]
        yield markdown(("option", "meaning"), table)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)


def escaped(cell: str) -> str:
    """Return text as a cell, in which only code in backquotes and line breaks are markup."""
    parts = re.split(r"(`[^`]*`|<br>)", cell.replace("|", "\\|"))
    return "".join(
        part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts)
    )


def arguments() -> Iterator[tuple[str, ...]]:
    """Yield name, default, side and meaning of the arguments of launch files."""
    for each in ARGUMENTS:
        choices = f" One of: {', '.join(each.choices)}." if each.choices else ""
        default = f"`{each.default}`" if each.default else ""
        yield f"`{each.name}`", default, each.side, each.description + choices


def reference() -> str:
    """Return the whole page."""
    columns = ("parameter", "default", "range", "set", "meaning")
    with Nodes() as nodes:
        text = TEMPLATE.read_text().format(
            arguments=markdown(("argument", "default", "side", "meaning"), list(arguments())),
            topics=markdown(("topic", "type", "from", "to", "what"), list(topics(nodes.all))),
            parameters="\n".join(
                f"\n### {name}\n\n{markdown(columns, table)}"
                for name, table in nodes.parameters.items()
            ),
            commands="\n".join(options()),
        )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    text = reference()
    if check and OUTPUT.read_text() != text:
        print(f"{OUTPUT} is out of date: make reference", file=sys.stderr)
        return 1
    if not check:
        draft = OUTPUT.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(OUTPUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
