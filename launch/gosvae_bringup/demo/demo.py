"""`gosvae demo`: a drive through the whole pipeline over DDS, and what came of it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import random
import socket
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sensor_msgs.msg import Image

from gosvae_codec.bundle import ModelBundle
from gosvae_codec.errors import GosvaeError
from gosvae_codec.expert import Expert
from gosvae_common.errors import UsageError
from gosvae_common.fastdds import PROFILE_VARIABLE
from gosvae_common.shipped import find_bundle, find_drive
from gosvae_common.signals import stop_signals
from gosvae_common.topics import DIAGNOSTICS, MASK, PACKETS, Side
from gosvae_tools.drives import AmbiguousTopicsError, Source, open_source
from gosvae_tools.link.channel import LinkError, LinkSpec
from gosvae_tools.link.emulator import EDGE, VEHICLE, EmulatedLink, unavailable

from ..pipeline import Node, Pipeline, arguments_of, describe
from ..processes import Ended, Processes
from .pictures import SHEET_FRAMES, Panels, Video, contact_sheet, panels
from .report import Delivery, FrameReport, Masks, Quality, Usage, figures

CAMERA = "camera"
START_SECONDS = 60.0
"""How long the nodes may take to find each other, and then the first mask to come."""
QUIET_SECONDS = 2.0
"""After the drive, masks are waited for until none came for so long."""
SETTLE_SECONDS = 0.5
"""For how long recording goes on after the last mask."""
CODERS = ("transmitter", "receiver")
"""Executables of the nodes that a link stands between."""
RATE_SHARE = 0.8
"""How much of a link's rate packets may take; discovery and what else DDS says needs the rest."""
SHEET_PANEL = 470
"""Width in pixels of a picture of the contact sheet."""


class DemoError(GosvaeError):
    """The demo could not be played to its end."""


class Interrupted(Exception):
    """A signal asked for the end."""


@dataclass(frozen=True)
class Options:
    """The arguments of `gosvae demo`; empty strings for those that were not given."""

    input: str = ""
    topic: str = ""
    json: str = ""
    output: str = ""
    rate: str = "1.0"
    bundle: str = ""
    providers: str = ""
    link: str = ""


def demo(options: Options) -> int:
    """Play, judge and report.

    Returns:
        The exit status: 0 when every frame's mask came, 1 when masks are missing, 130 after a
        signal. Over a link that loses packets, some masks are enough for 0.

    Raises:
        UsageError, LinkError, SourceError, BundleError: an argument is wrong.
        DemoError: a node failed, the nodes did not find each other, or no mask came.
        ReportError: frames share a stamp.
        OSError: something cannot be written.
    """
    try:
        return _demo(options, Console())
    except Interrupted:
        print("gosvae demo: stopped", file=sys.stderr)
        return 130


def _demo(options: Options, console: Console) -> int:
    link = EmulatedLink(LinkSpec.parse(options.link)) if options.link else None
    if link and (reason := unavailable()):
        raise LinkError(reason)
    bundle = ModelBundle.load(find_bundle(options.bundle))
    expert = Expert(bundle, threads=0)
    source = _open(options)
    json_file = Path(options.json).absolute() if options.json else None
    if json_file and not json_file.parent.is_dir():
        raise UsageError(f"json: {json_file.parent} is no folder; make it, or name another")
    if json_file and json_file.is_dir():
        raise UsageError(f"json: {json_file} is a folder; name a file")
    folder = _make_folder(options.output)
    values = {
        "bag": str(source.path),
        "topics": options.topic,
        "cameras": CAMERA,
        "rate": options.rate,
        "bundle": str(bundle.path),
        "providers": options.providers,
        "record": str(folder / "recording"),
    }
    pipeline = describe(values) if link is None else _two_machines(values, folder, link.spec)
    for warning in pipeline.warnings:
        print(f"gosvae demo: {warning}", file=sys.stderr)
    print(source.description)
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn())
    with (
        stop_signals() as stop,
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        delivery, usage = _play(pipeline, len(source), folder, progress, stop, link)
        quality, outputs = _judge(
            delivery, source, bundle, expert, float(options.rate), folder, progress, stop
        )
    report = figures(delivery, quality, outputs, usage)
    _print(console, report, quality)
    if json_file:
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    missing = delivery.frames_sent - delivery.masks_received
    if missing and (link is None or not delivery.masks_received):
        print(
            f"gosvae demo: {missing} of {delivery.frames_sent} masks are missing; "
            f"the nodes' output is in {folder / 'logs'}",
            file=sys.stderr,
        )
        return 1
    return 0


def _open(options: Options) -> Source:
    path = options.input or find_drive()
    try:
        return open_source(path, (CAMERA,), (options.topic,) if options.topic else ())
    except AmbiguousTopicsError as error:
        raise UsageError(f"{error}: --topic NAME, or make demo TOPIC=NAME") from error


def _make_folder(output: str) -> Path:
    """Make the folder for everything that the demo writes; it must be new, or empty."""
    name = output or f"out/demo-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(name).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output: {folder} cannot be made: {error.strerror}") from error
    if any(folder.iterdir()):
        raise UsageError(f"output: {folder} is not empty; name another folder")
    return folder


def _two_machines(values: Mapping[str, str], folder: Path, spec: LinkSpec) -> Pipeline:
    """Describe the pipeline on two machines, of which each records what it makes itself.

    What crosses their link is packets and feedback. `/clock` would be most of it, so the drive
    happens now, and diagnostics stay on their own side. The transmitter is told what rate the link
    has, as who sets up a link would.
    """
    budget = {} if spec.rate is None else {"max_kbit_per_s": RATE_SHARE * spec.rate / 1e3}
    common = {**values, "use_sim_time": "false"}
    nodes: list[Node] = []
    for side, record in (("tx", "sent"), ("rx", "recording")):
        given = {each.name for each in arguments_of(side)}
        common["record"] = str(folder / record)
        half = describe({name: common[name] for name in given & common.keys()}, side)
        own = (DIAGNOSTICS, f"/{side}{DIAGNOSTICS}")
        for node in half.nodes:
            extra = budget if node.executable == "transmitter" else {}
            parameters = {**node.parameters, **extra}
            remappings = (*node.remappings, own)
            nodes.append(dataclasses.replace(node, parameters=parameters, remappings=remappings))
    return Pipeline(tuple(nodes), half.environment)


def _play(
    pipeline: Pipeline,
    frames: int,
    folder: Path,
    progress: Progress,
    stop: Event,
    link: EmulatedLink | None = None,
) -> tuple[Delivery, Mapping[str, Usage] | None]:
    """Run the pipeline until its masks have come, and read what was recorded.

    Over a link this thread, the receiver and its recording are on the edge, transmitter and replay
    in the vehicle. The link's usage is that from the replay's start to its end.
    """
    replay_report = folder / "replay.json"
    logs = folder / "logs"
    logs.mkdir()
    replay = next(node for node in pipeline.nodes if node.lifetime == "drive")
    others = [node for node in pipeline.nodes if node is not replay]
    parameters = {**replay.parameters, "report": str(replay_report)}
    replay = dataclasses.replace(replay, parameters=parameters)
    records = [node for node in others if "output" in node.parameters]
    bags = [Path(str(node.parameters["output"])) for node in records]
    environment, far = network(pipeline.environment, logs, link)
    with ExitStack() as stack:
        if link is not None:
            stack.enter_context(link)
            stack.enter_context(link.inside(EDGE))
        processes = stack.enter_context(Processes(environment, logs))
        os.environ.update({**environment, **far["rx"]})
        watcher = stack.enter_context(
            _Watcher(DIAGNOSTICS if link is None else f"/tx{DIAGNOSTICS}")
        )
        task = progress.add_task("starting", total=None)
        deadline = time.monotonic() + START_SECONDS

        def start(node: Node) -> None:
            prefix = [] if link is None or node.side != "tx" else link.command(VEHICLE)
            if node.executable in CODERS:
                prefix += ["env", *(f"{name}={value}" for name, value in far[node.side].items())]
            processes.start(node, prefix)

        for node in others:
            start(node)
        while (missing := watcher.missing()) is not None:
            _check(processes, stop)
            if time.monotonic() > deadline:
                raise DemoError(f"no {missing} within {START_SECONDS:.0f} s; see {logs}")
            watcher.spin(0.05)
        meter = None if link is None else _Meter(link)
        start(replay)
        progress.update(task, description="masks received", total=frames)
        deadline = time.monotonic() + START_SECONDS
        sent = None
        ended_at = math.inf
        while sent is None or watcher.masks < sent:
            if time.monotonic() - max(ended_at, watcher.last_mask) > QUIET_SECONDS:
                break
            if _check(processes, stop):
                ended_at = time.monotonic()
                if meter is not None:
                    meter.stop()
                report = json.loads(replay_report.read_text())
                sent = len(report["cameras"][CAMERA]["frames"])
                progress.update(task, total=sent)
            if sent is None and not watcher.masks and time.monotonic() > deadline:
                raise DemoError(f"no mask within {START_SECONDS:.0f} s of the replay; see {logs}")
            watcher.spin(0.05)
            progress.update(task, completed=watcher.masks)
        watcher.spin(SETTLE_SECONDS)
        for ended in processes.stop():
            if ended.status:
                raise DemoError(_failure(ended, processes))
    if not sent:
        raise DemoError(f"the replay sent no frame; see {processes.log(replay)}")
    return Delivery.read(replay_report, bags, CAMERA), meter and meter.usage


class _Meter:
    """What crosses a link from now until :meth:`stop`."""

    def __init__(self, link: EmulatedLink) -> None:
        self._link = link
        self._before, self._since = link.counters(), time.monotonic()
        self.usage: Mapping[str, Usage] | None = None

    def stop(self) -> None:
        seconds = time.monotonic() - self._since
        self.usage = {}
        for side, after in self._link.counters().items():
            before = self._before[side]
            packets = max(after.packets - before.packets, 1)
            lost = after.lost + after.dropped - before.lost - before.dropped
            kbit = (after.carried_bytes - before.carried_bytes) * 8 / 1000
            self.usage[f"from_{side}"] = Usage(kbit / seconds, lost / packets)


def _check(processes: Processes, stop: Event) -> bool:
    """Return whether the drive has just ended; raise for a failure or a signal."""
    if stop.is_set():
        raise Interrupted
    ended = processes.ended()
    for each in ended:
        if each.means == "failure":
            raise DemoError(_failure(each, processes))
    return any(each.means == "end of drive" for each in ended)


def _failure(ended: Ended, processes: Processes) -> str:
    log = processes.log(ended.node)
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{ended}: {lines[-1] if lines else 'without a word'}; see {log}"


class _Watcher:
    """A node that counts masks, and sees who is there."""

    def __init__(self, diagnostics: str) -> None:
        """Watch over a transmitter that tells about itself on the topic `diagnostics`."""
        self.masks = 0
        self.last_mask = -math.inf
        self._topic = diagnostics
        self._listeners = ""

    def __enter__(self) -> _Watcher:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("gosvae_demo")
        qos = QoSProfile(depth=50, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        # Serialised, as nobody looks into them here.
        self._node.create_subscription(Image, f"{CAMERA}/{MASK}", self._count, qos, raw=True)
        self._diagnostics: Subscription | None = self._node.create_subscription(
            DiagnosticArray, self._topic, self._learn, 10
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _count(self, _: bytes) -> None:
        self.masks += 1
        self.last_mask = time.monotonic()

    def spin(self, seconds: float) -> None:
        """Receive for that long."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=remaining)

    def _learn(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"gosvae_tx: {CAMERA}":
                self._listeners = {each.key: each.value for each in status.values}["listeners"]

    def missing(self) -> str | None:
        """Return what the chain lacks before the drive can begin; None when it is complete."""
        packets, masks = f"{CAMERA}/{PACKETS}", f"{CAMERA}/{MASK}"
        if not self._node.count_publishers(packets):
            return "transmitter"
        if not self._node.count_publishers(masks):
            return "receiver"
        # Recording hears both, and this node masks.
        if self._node.count_subscribers(masks) < 2:
            return "listeners of masks"
        # Recording and receiver hear packets: what counts is that the transmitter knows.
        if self._listeners != "2":
            return "listeners of packets"
        # From now on diagnostics need not cross a link.
        if self._diagnostics is not None:
            self._node.destroy_subscription(self._diagnostics)
            self._diagnostics = None
        return None


def network(
    environment: Mapping[str, str], folder: Path, link: EmulatedLink | None = None
) -> tuple[dict[str, str], dict[Side, dict[str, str]]]:
    """Return `environment` with what keeps a process to its machine, in a domain of its own.

    And what to add to it for those on each side that are to be known across the link: only few
    are, as every pair of processes that learn of each other takes some 20 kB of it. A profile that
    the user has set already is left as it is.

    Over a link, DDS may send messages of one Ethernet frame at most. In the beginning it has much
    to say, otherwise in messages of up to 64 kB, and of those, cut into 45 frames, none passes a
    short queue. Shared memory is bound by that as well, and so needs room for the messages of a
    whole image. Those known across the link say that they are still there every 3 s, which is DDS'
    own default; the half second of the shipped profile would take a good part of a thin link.
    """
    private = dict(environment)
    far: dict[Side, dict[str, str]] = {"tx": {}, "rx": {}}
    if link is not None:
        private["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
    elif "ROS_DOMAIN_ID" not in os.environ:
        private["ROS_DOMAIN_ID"] = str(_free_domain())
    if PROFILE_VARIABLE in private:
        # ROS_AUTOMATIC_DISCOVERY_RANGE would do it, too, but then images are lost where /dev/shm is
        # as small as containers have it; the shipped profile says why.
        profile = ElementTree.parse(private[PROFILE_VARIABLE])
        path = folder / "fastdds.xml"
        if link is not None:
            _set(profile, "transport_descriptor[type='UDPv4']", "maxMessageSize", "1472")
            _set(profile, "transport_descriptor[type='SHM']", "port_queue_capacity", "8192")
        _write(profile, path, "127.0.0.1")
        private[PROFILE_VARIABLE] = str(path)
        if link is not None:
            _set(profile, "leaseAnnouncement", "sec", "3")
            _set(profile, "leaseAnnouncement", "nanosec", "0")
            for side, name in (("tx", VEHICLE), ("rx", EDGE)):
                path = folder / f"fastdds-{name}.xml"
                _write(profile, path, "127.0.0.1", link.address(name))
                far[side][PROFILE_VARIABLE] = str(path)
    return private, far


_NAMESPACE = {"dds": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}


def _set(profile: ElementTree.ElementTree, parents: str, tag: str, value: str) -> None:
    """Set a child of some elements of a profile, which may have it already."""
    path = ".//dds:" + parents.replace("[", "[dds:")
    for parent in profile.iterfind(path, _NAMESPACE):
        child = parent.find(f"dds:{tag}", _NAMESPACE)
        if child is None:
            child = ElementTree.SubElement(parent, f"{{{_NAMESPACE['dds']}}}{tag}")
        child.text = value


def _write(profile: ElementTree.ElementTree, path: Path, *addresses: str) -> None:
    """Write a profile whose UDP uses these addresses only."""
    profile = copy.deepcopy(profile)
    transport = profile.find(".//dds:transport_descriptor[dds:type='UDPv4']", _NAMESPACE)
    assert transport is not None
    allowed = ElementTree.SubElement(transport, f"{{{_NAMESPACE['dds']}}}interfaceWhiteList")
    for address in addresses:
        ElementTree.SubElement(allowed, f"{{{_NAMESPACE['dds']}}}address").text = address
    ElementTree.register_namespace("", _NAMESPACE["dds"])
    profile.write(path, "utf-8", xml_declaration=True)


def _free_domain() -> int:
    """Return a DDS domain from 1 to 101 whose first participant's ports nobody uses."""
    domains = random.sample(range(1, 102), 101)
    for domain in domains:
        # Multicast and unicast discovery, by the formula of the DDSI-RTPS specification.
        ports = [7400 + 250 * domain, 7410 + 250 * domain]
        if all(_is_free(port) for port in ports):
            return domain
    return domains[0]


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _judge(
    delivery: Delivery,
    source: Source,
    bundle: ModelBundle,
    expert: Expert,
    rate: float,
    folder: Path,
    progress: Progress,
    stop: Event,
) -> tuple[Quality, dict[str, str]]:
    """Read the drive again beside its masks: score them, and draw the pictures."""
    outputs = {
        "video": str(folder / "demo.mp4"),
        "contact_sheet": str(folder / "contact_sheet.png"),
        "bag": str(delivery.bags[-1]),
    }
    title = f"{source.path.name}, {bundle.name}"
    frame_rate = Fraction(min(max(rate * 1e9 / source.interval, 1), 60)).limit_denominator(1001)
    reports = dict(delivery.frames())
    picked = set(np.linspace(0, len(reports) - 1, SHEET_FRAMES).astype(int).tolist())
    sheet: list[tuple[str, Panels]] = []
    quality = Quality(bundle.labels)
    masks = Masks(delivery)
    task = progress.add_task("scored and filmed", total=len(reports))
    with Video(Path(outputs["video"]), bundle.labels, title, frame_rate) as video:
        for frame in source.frames():
            report = reports.pop(frame.stamp, None)
            if report is None:
                continue
            if stop.is_set():
                raise Interrupted
            mask = masks.take(frame.stamp)
            if mask is not None:
                quality.add(frame, mask, expert.segment(frame.image))
            video.add(frame.image, mask, _caption(report))
            if progress.tasks[task].completed in picked:
                pictures = panels(frame.image, mask, bundle.labels, SHEET_PANEL)
                sheet.append((_caption(report), pictures))
            progress.advance(task)
    _save(Path(outputs["contact_sheet"]), contact_sheet(sheet, bundle.labels, title))
    return quality, outputs


def _caption(report: FrameReport) -> str:
    age = "no mask" if math.isnan(report.mask_age_ms) else f"mask after {report.mask_age_ms:.0f} ms"
    return f"{report.bytes:,} bytes   {report.kbit_per_s:.0f} kbit/s   {age}"


def _save(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise DemoError(f"{path} cannot be written")


def _print(console: Console, report: Mapping[str, Any], quality: Quality) -> None:
    """Print the figures as a table, and where the rest is."""

    def number(value: float | None, form: str, unit: str = "") -> str:
        return "-" if value is None else f"{value:{form}}{unit}"

    age = report["mask_age_ms"]
    rows = {
        "frames sent": number(report["frames_sent"], ",d"),
        "packets": number(report["packets"], ",d"),
        "masks received": number(report["masks_received"], ",d"),
        "bytes per frame": number(report["bytes_per_frame"], ",.0f"),
        "at the played rate": number(report["kbit_per_s"], ",.1f", " kbit/s"),
        "mask age p50, p95": f"{number(age['p50'], '.0f')}, {number(age['p95'], '.0f', ' ms')}",
        "longest time without a mask": number(report["longest_gap_ms"], ".0f", " ms"),
        "packets lost": number(report["loss"], ".1%"),
        "share of a mask from what arrived": number(report["coverage"], ".3f"),
        "frames scored": f"{quality.frames:,d}, {quality.labelled:,d} with labels",
        "mIoU against labels, bundle's classes": number(report["miou"], ".3f"),
        "the expert's mIoU, bundle's classes": number(report["expert_miou"], ".3f"),
        "mIoU against the expert, bundle's classes": number(report["agreement"], ".3f"),
    }
    for side, rate in (report["link_kbit_per_s"] or {}).items():
        loss = report["link_loss"][side]
        name = f"link {side.replace('_', ' the ')}"
        rows[name] = f"{rate:,.1f} kbit/s, {loss:.1%} lost"
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    # Paths whole, however narrow the terminal.
    for name, path in report["outputs"].items():
        print(f"{name.replace('_', ' '):<14} {path}")
