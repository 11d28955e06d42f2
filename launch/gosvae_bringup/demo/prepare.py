"""Set-up of a demo run: the drive, the networks, the processes, and where results go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gosvae_codec import ModelBundle
from gosvae_codec.expert import Expert
from gosvae_codec.labels import label_space
from gosvae_common.errors import UsageError
from gosvae_common.shipped import find_bundle, find_drive
from gosvae_common.topics import DIAGNOSTICS, Side
from gosvae_tools.drives import AmbiguousTopicsError, Source, SourceError, open_source
from gosvae_tools.link.channel import LinkError, LinkSpec
from gosvae_tools.link.emulator import EmulatedLink, unavailable
from gosvae_tools.outcome import MAX_DAMAGED

from ..arguments import arguments_of
from ..pipeline import Node, Pipeline, describe

CAMERA = "camera"
RATE_SHARE = 0.8
"""Share of a link's rate that packets may take; discovery and other DDS traffic need the rest."""


@dataclass(frozen=True)
class Options:
    """The arguments of `gosvae demo`; empty strings for those that were not given.

    `max_damaged` is the share of damaged frames, 0 to 1, above which the demo fails.
    """

    input: str = ""
    topic: str = ""
    labels: str = ""
    json: str = ""
    output: str = ""
    rate: str = "1.0"
    bundle: str = ""
    providers: str = ""
    link: str = ""
    max_damaged: float = MAX_DAMAGED


@dataclass(frozen=True)
class Run:
    """What a demo plays, with which networks and processes, and where it writes.

    `folder` is for everything but the figures, which go to `json_file` as well.
    """

    source: Source
    bundle: ModelBundle
    expert: Expert
    pipeline: Pipeline
    rate: float
    folder: Path
    json_file: Path | None = None
    link: EmulatedLink | None = None
    max_damaged: float = MAX_DAMAGED


def prepare(options: Options) -> Run:
    """Check the options, load what they name, and make the output folder.

    Raises:
        UsageError, LinkError, SourceError, BundleError: an option is wrong.
    """
    link = EmulatedLink(LinkSpec.parse(options.link)) if options.link else None
    if link and (reason := unavailable()):
        raise LinkError(reason)
    bundle = ModelBundle.load(find_bundle(options.bundle))
    expert = Expert(bundle, threads=0)
    source = open_drive(options)
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
    return Run(
        *(source, bundle, expert, pipeline, float(options.rate), folder, json_file, link),
        options.max_damaged,
    )


def open_drive(options: Options) -> Source:
    """Open the drive that the options name, or the one that ships.

    Raises:
        UsageError: the bag has several image topics.
        SourceError: it cannot be read, or its frames share stamps.
        LabelError: there is no such label space.
    """
    path = options.input or find_drive()
    try:
        source = open_source(path, (CAMERA,), (options.topic,) if options.topic else ())
    except AmbiguousTopicsError as error:
        raise UsageError(f"{error}: --topic NAME, or make demo TOPIC=NAME") from error
    if options.labels:
        source.labels = label_space(options.labels)
    if repeated := source.count_repeated_stamps():
        raise SourceError(
            f"{path}: {repeated} of {len(source)} frames repeat a header stamp: masks cannot be "
            "told apart; give the frames stamps of their own with `gosvae restamp`"
        )
    return source


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
    """Describe the pipeline on two machines, each of which records what it makes itself.

    Packets and feedback cross their link. `/clock` would take most of it, so the drive is played
    as if it happened now, and diagnostics stay on their own side. The transmitter is told the
    link's rate, as a user who sets up a link would do.
    """
    budget = {} if spec.rate is None else {"max_kbit_per_s": RATE_SHARE * spec.rate / 1e3}
    common = {**values, "use_sim_time": "false"}
    nodes: list[Node] = []
    records: dict[Side, str] = {"tx": "sent", "rx": "recording"}
    for side, record in records.items():
        meant = {each.name for each in arguments_of(side)}
        common["record"] = str(folder / record)
        half = describe({name: common[name] for name in meant & common.keys()}, side)
        own = (DIAGNOSTICS, f"/{side}{DIAGNOSTICS}")
        for node in half.nodes:
            extra = budget if node.executable == "transmitter" else {}
            parameters = {**node.parameters, **extra}
            remappings = (*node.remappings, own)
            nodes.append(dataclasses.replace(node, parameters=parameters, remappings=remappings))
    return Pipeline(tuple(nodes), half.environment)
