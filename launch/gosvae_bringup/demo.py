"""`gosvae demo`: a drive through the whole pipeline over DDS, and what came of it."""

from __future__ import annotations

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
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sensor_msgs.msg import Image

from gosvae_codec.bundle import ModelBundle
from gosvae_codec.errors import GosvaeError
from gosvae_codec.expert import Expert

from .pictures import SHEET_FRAMES, Panels, Video, contact_sheet, panels
from .pipeline import PROFILE_VARIABLE, Pipeline, PipelineError, describe, find_bundle, find_drive
from .report import MASK, PACKETS, Delivery, FrameReport, Masks, Quality, figures
from .sources import AmbiguousTopicsError, Source, open_source
from .supervisor import Ended, Processes, stop_signals

CAMERA = "camera"
START_SECONDS = 60.0
"""How long the nodes may take to find each other, and then the first mask to come."""
QUIET_SECONDS = 2.0
"""After the drive, masks are waited for until none came for so long."""
SETTLE_SECONDS = 0.5
"""For how long recording goes on after the last mask."""
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


def demo(options: Options) -> int:
    """Play, judge and report.

    Returns:
        The exit status: 0 when every frame's mask came, 1 when masks are missing, 130 after a
        signal.

    Raises:
        PipelineError, SourceError, BundleError: an argument is wrong.
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
    bundle = ModelBundle.load(find_bundle(options.bundle))
    expert = Expert(bundle, threads=0)
    source = _open(options)
    json_file = Path(options.json).absolute() if options.json else None
    if json_file and not json_file.parent.is_dir():
        raise PipelineError(f"json: {json_file.parent} is no folder; make it, or name another")
    if json_file and json_file.is_dir():
        raise PipelineError(f"json: {json_file} is a folder; name a file")
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
    print(source.description)
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn())
    with (
        stop_signals() as stop,
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        delivery = _play(describe(values), len(source), folder, progress, stop)
        quality, outputs = _judge(
            delivery, source, bundle, expert, float(options.rate), folder, progress, stop
        )
    report = figures(delivery, quality, outputs)
    _print(console, report, quality)
    if json_file:
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    missing = delivery.frames_sent - delivery.masks_received
    if missing:
        print(
            f"gosvae demo: {missing} of {delivery.frames_sent} masks are missing; "
            f"the nodes' output is in {folder / 'logs'}",
            file=sys.stderr,
        )
    return 1 if missing else 0


def _open(options: Options) -> Source:
    path = options.input or find_drive()
    try:
        return open_source(path, (CAMERA,), (options.topic,) if options.topic else ())
    except AmbiguousTopicsError as error:
        raise PipelineError(f"{error}: --topic NAME, or make demo TOPIC=NAME") from error


def _make_folder(output: str) -> Path:
    """Make the folder for everything that the demo writes; it must be new, or empty."""
    name = output or f"out/demo-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(name).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(f"output: {folder} cannot be made: {error.strerror}") from error
    if any(folder.iterdir()):
        raise PipelineError(f"output: {folder} is not empty; name another folder")
    return folder


def _play(
    pipeline: Pipeline, frames: int, folder: Path, progress: Progress, stop: Event
) -> Delivery:
    """Run the pipeline until its masks have come, and read what was recorded."""
    replay_report = folder / "replay.json"
    logs = folder / "logs"
    logs.mkdir()
    replay = next(node for node in pipeline.nodes if node.lifetime == "drive")
    others = [node for node in pipeline.nodes if node is not replay]
    parameters = {**replay.parameters, "report": str(replay_report)}
    replay = dataclasses.replace(replay, parameters=parameters)
    environment = _private_network(pipeline.environment, logs)
    os.environ.update(environment)
    with Processes(environment, logs) as processes, _Watcher() as watcher:
        task = progress.add_task("starting", total=None)
        for node in others:
            processes.start(node)
        deadline = time.monotonic() + START_SECONDS
        while (missing := watcher.missing()) is not None:
            _check(processes, stop)
            if time.monotonic() > deadline:
                raise DemoError(f"no {missing} within {START_SECONDS:.0f} s; see {logs}")
            watcher.spin(0.05)
        processes.start(replay)
        progress.update(task, description="masks received", total=frames)
        deadline = time.monotonic() + START_SECONDS
        sent = None
        ended_at = math.inf
        while sent is None or watcher.masks < sent:
            if time.monotonic() - max(ended_at, watcher.last_mask) > QUIET_SECONDS:
                break
            if _check(processes, stop):
                ended_at = time.monotonic()
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
    return Delivery.read(replay_report, folder / "recording", CAMERA)


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

    def __init__(self) -> None:
        self.masks = 0
        self.last_mask = -math.inf

    def __enter__(self) -> _Watcher:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("gosvae_demo")
        qos = QoSProfile(depth=50, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        # Serialised, as nobody looks into them here.
        self._node.create_subscription(Image, f"{CAMERA}/{MASK}", self._count, qos, raw=True)
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

    def missing(self) -> str | None:
        """Return what the chain lacks before the drive can begin; None when it is complete."""
        packets, masks = f"{CAMERA}/{PACKETS}", f"{CAMERA}/{MASK}"
        if not self._node.count_publishers(packets):
            return "transmitter"
        if not self._node.count_publishers(masks):
            return "receiver"
        # Recording hears both, the receiver packets, and this node masks.
        if self._node.count_subscribers(packets) < 2 or self._node.count_subscribers(masks) < 2:
            return "listeners of packets and masks"
        return None


def _private_network(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return `environment` with what keeps the demo on this machine, in a domain of its own.

    What the user has set already is left as it is.
    """
    private = dict(environment)
    if "ROS_DOMAIN_ID" not in os.environ:
        private["ROS_DOMAIN_ID"] = str(_free_domain())
    if PROFILE_VARIABLE in private:
        # ROS_AUTOMATIC_DISCOVERY_RANGE would do it, too, but then images are lost where /dev/shm is
        # as small as containers have it; the shipped profile says why.
        profile = ElementTree.parse(private[PROFILE_VARIABLE])
        namespace = "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"
        ElementTree.register_namespace("", namespace)
        for transport in profile.iter(f"{{{namespace}}}transport_descriptor"):
            if transport.findtext(f"{{{namespace}}}type") == "UDPv4":
                allowed = ElementTree.SubElement(transport, f"{{{namespace}}}interfaceWhiteList")
                ElementTree.SubElement(allowed, f"{{{namespace}}}address").text = "127.0.0.1"
        private[PROFILE_VARIABLE] = str(folder / "fastdds.xml")
        profile.write(private[PROFILE_VARIABLE], "utf-8", xml_declaration=True)
    return private


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
        "bag": str(delivery.bag),
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
        "frames scored": f"{quality.frames:,d}, {quality.labelled:,d} with labels",
        "mIoU against labels, bundle's classes": number(report["miou"], ".3f"),
        "the expert's mIoU, bundle's classes": number(report["expert_miou"], ".3f"),
        "mIoU against the expert, bundle's classes": number(report["agreement"], ".3f"),
    }
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    # Paths whole, however narrow the terminal.
    for name, path in report["outputs"].items():
        print(f"{name.replace('_', ' '):<14} {path}")
