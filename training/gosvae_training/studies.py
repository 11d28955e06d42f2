"""Train and compare variants: ``python -m gosvae_training.studies``.

A study is a YAML file: a base configuration, frozen experts, and rows that each change something.
Every row is trained as :mod:`gosvae_training.train` would, goes on where it was interrupted, and
is measured on the validation frames with every expert of the study as judge.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from gosvae_codec.images import resize_frame
from gosvae_codec.labels import LabelSpace
from gosvae_codec.masks import colorize
from gosvae_codec.metrics import ConfusionMatrix

from .config import (
    Config,
    ConfigError,
    Identity,
    Network,
    Schedule,
    Strict,
    Tokens,
    override,
    parse,
    read_yaml,
)
from .data import DataError, Dataset, Sample, describe, iterate, parse_folders
from .depth import (
    DepthDecoder,
    DepthFrames,
    DepthObjective,
    Shuffled,
    depth_errors,
    typical_depth,
)
from .evaluate import LZMA
from .experts import frozen
from .fit import TrainingError, fit, make_fabric
from .networks import TokenNetwork, resize_logits
from .objectives import LabelObjective, Objective, TokenObjective, build_objective
from .pixels import to_frames
from .train import Material, add_machine_options, fingerprint, train_segmenter

PANEL = "panel.npy"
"""File in a row's folder: what the validation frame in the middle becomes."""


class Row(Strict):
    """One line of a study's table."""

    expert: str
    """The expert that is imitated, and that segments what is decoded to pixels."""
    guides: tuple[str, ...] = ()
    """Further experts to imitate."""
    set: tuple[str, ...] = ()
    """Changes to the base configuration, as on the command line."""


class Depth(Strict):
    """Training of a depth decoder on each row's tokens."""

    steps: PositiveInt
    batch: PositiveInt = 8
    learning_rate: float = Field(1e-3, gt=0)


class Study(Strict):
    """A question and the runs that answer it."""

    title: str
    base: str
    """Path of a configuration, from the study's folder."""
    experts: dict[str, Network]
    """Frozen experts; all judge all rows. ``--weights NAME=PATH`` says where their weights are."""
    rows: dict[str, Row]
    every: PositiveInt = 1
    """Validation frames from one that is measured to the next."""
    depth: Depth | None = None


class _Spaced:
    """Every so many frames of a dataset."""

    def __init__(self, dataset: Dataset, every: int) -> None:
        self._dataset, self._every, self.terms = dataset, every, dataset.terms
        self.title = dataset.title if every == 1 else f"{dataset.title}, one frame in {every}"

    def __len__(self) -> int:
        return -(-len(self._dataset) // self._every)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[index * self._every]


def load_study(path: Path, weights: Mapping[str, str]) -> tuple[Study, dict[str, Config]]:
    """Read a study and the configuration of each row.

    Args:
        path: YAML file.
        weights: place of an expert's weights, by name, where it is not the file's.

    Raises:
        ConfigError: a file is missing, or a value is unknown, absent or of the wrong kind.
    """
    values = read_yaml(path)
    for name, place in weights.items():
        if name not in values.get("experts", {}):
            known = sorted(values.get("experts", {}))
            raise ConfigError(f"--weights {name}={place}: the study's experts are {known}")
        values["experts"][name]["weights"] = place
    study = parse(Study, values, path)
    base = path.parent / study.base
    configs = {}
    for name, row in study.rows.items():
        unknown = sorted({row.expert, *row.guides} - set(study.experts))
        if unknown:
            raise ConfigError(f"{path}: rows.{name}: no experts {unknown} in this study")
        each = read_yaml(base)
        each["name"] = f"{path.stem}/{name}"
        each["expert"] = {**each["expert"], "steps": 0, "network": values["experts"][row.expert]}
        each["guides"] = {guide: values["experts"][guide] for guide in row.guides}
        for text in row.set:
            override(each, text)
        configs[name] = parse(Config, each, f"{path}: rows.{name}")
    shared = [(each.data, each.input_size) for each in configs.values()]
    if any(each != shared[0] for each in shared):
        raise ConfigError(f"{path}: rows have to share data and input_size")
    return study, configs


def _macs(network: nn.Module, *inputs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops() // 2


class _Received(nn.Module):
    """What the receiver does, from what was sent to logits."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, sent: Tensor) -> Tensor:
        objective = self.objective
        if isinstance(objective, LabelObjective):
            return objective.expert(to_frames(objective.network.draw(sent)))
        made = objective.network.decoder(sent)
        return objective.guides[0](to_frames(made)) if objective.draws else made


def _compute(objective: Objective, frame: Tensor) -> tuple[int, int]:
    """Return MACs of vehicle and receiver for one frame; the code search counts."""
    if isinstance(objective, LabelObjective):
        sent: Tensor = objective.labels(frame)
        return _macs(objective.expert, frame), _macs(_Received(objective), sent)
    network = objective.network
    with torch.no_grad():
        sent = network.encoder(frame)
    search = 0
    if isinstance(network.quantizer, nn.Module) and hasattr(network.quantizer, "codebooks"):
        levels, codes, dim = network.codebooks().shape
        search = sent[:, 0].numel() * levels * codes * dim
    return _macs(network.encoder, frame) + search, _macs(_Received(objective), sent)


def _sent_bytes(config: Config, objective: Objective, frame: Tensor) -> float:
    """Return bytes of one frame without headers: indices of fixed length, numbers, or LZMA."""
    if isinstance(objective, LabelObjective):
        labels = objective.labels(frame).to(torch.uint8).numpy()
        return len(lzma.compress(labels.tobytes(), lzma.FORMAT_RAW, filters=LZMA))
    assert isinstance(config.tokens, Tokens)
    places = np.prod([-(-side // objective.network.encoder.stride) for side in frame.shape[1:3]])
    if not config.tokens.codes:
        return float(places * config.tokens.dim)
    return float(places * config.tokens.levels * (config.tokens.codes - 1).bit_length() / 8)


def _mask(logits: Tensor, shape: tuple[int, int], labels: LabelSpace) -> np.ndarray:
    return labels.ids[resize_logits(logits, shape).argmax(1)[0].numpy()]


class Judge:
    """A frozen expert and its masks of the validation frames as they are."""

    def __init__(self, name: str, network: nn.Module, material: Material) -> None:
        """Look at all frames once."""
        self.network, truth = network, ConfusionMatrix()
        self.masks = []
        for sample, frame in _val(material, f"{name}, no codec"):
            self.masks.append(_mask(network(frame), sample.mask.shape, material.labels))
            truth.add(sample.mask, self.masks[-1])
        self.miou = round(truth.miou(), 4)


def _panel(picture: np.ndarray | None, mask: np.ndarray, material: Material) -> np.ndarray:
    """Return a picture, white where there is none, above a mask: uint8 (360, 240, 3) RGB."""
    if picture is None:
        picture = np.full((*mask.shape, 3), 255, np.uint8)
    parts = (picture, colorize(mask, material.labels))
    return np.concatenate(
        [cv2.resize(part, (240, 180), interpolation=cv2.INTER_AREA) for part in parts]
    )


def _strip(panels: Mapping[str, np.ndarray]) -> bytes:
    """Return panels side by side, each under its name, as JPEG."""
    titled = []
    for name, panel in panels.items():
        title = np.full((20, panel.shape[1], 3), 255, np.uint8)
        cv2.putText(title, name, (3, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        titled.append(np.concatenate([title, panel]))
    strip = cv2.cvtColor(np.concatenate(titled, 1), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _val(material: Material, name: str) -> Iterator[tuple[Sample, Tensor]]:
    for sample in tqdm(iterate(material.val), total=len(material.val), desc=name, mininterval=5):
        frame = resize_frame(sample.frame, material.config.input_size)
        yield sample, torch.from_numpy(frame)[None]


def measure(
    config: Config, material: Material, objective: Objective, judges: Mapping[str, Judge], own: str
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the figures of a trained row on the validation frames, and what one looks like.

    Masks decoded directly have no other judge than themselves; pictures are shown to all, and mIoU
    and agreement are what judge `own`, the row's expert, makes of them.
    """
    network = objective.network
    draws = isinstance(objective, LabelObjective) or objective.draws
    agreement = ConfusionMatrix()
    truth = {name: ConfusionMatrix() for name in (judges if draws else [own])}
    sizes, used = [], set()
    for index, (sample, frame) in enumerate(_val(material, config.name)):
        sizes.append(_sent_bytes(config, objective, frame))
        if isinstance(objective, LabelObjective):
            made = network.draw(objective.labels(frame))
        else:
            made, _, indices, _ = network(frame, True)
            used.update(indices[..., :1].flatten().tolist())
        for name, matrix in truth.items():
            logits = judges[name].network(to_frames(made)) if draws else made
            ours = _mask(logits, sample.mask.shape, material.labels)
            matrix.add(sample.mask, ours)
            if name == own:
                agreement.add(judges[own].masks[index], ours)
                if index == len(material.val) // 2:
                    seen = to_frames(made)[0].byte().numpy() if draws else None
                    panel = _panel(seen, ours, material)
    example = torch.zeros(1, *config.input_size, 3, dtype=torch.uint8)
    vehicle, receiver = _compute(objective, example)
    size, count = config.input_size, float(np.mean(sizes))
    figures = {name: round(matrix.miou(), 4) for name, matrix in truth.items()}
    row = {
        "miou": figures[own],
        "agreement": round(agreement.miou(), 4),
        "judges": figures if draws else {},
        "codes_used": len(used),
        "payload_bytes": round(count, 1),
        "compression_ratio": round(size[0] * size[1] * 3 / count, 1),
        "vehicle_macs": vehicle,
        "receiver_macs": receiver,
    }
    return row, panel


def study_depth(
    fabric: Fabric, study: Study, config: Config, tokens: TokenNetwork, streets: Path, folder: Path
) -> dict[str, dict[str, float]]:
    """Train depth decoders on tokens and on what they were before quantisation; return errors.

    Beside them those of a guess that sees nothing.
    """
    assert study.depth is not None and isinstance(config.tokens, Tokens)
    train, val = (DepthFrames(streets, split, config.input_size) for split in ("train", "val"))
    schedule = Schedule(
        steps=study.depth.steps,
        batch=study.depth.batch,
        crop=config.input_size,
        learning_rate=study.depth.learning_rate,
        backbone_learning_rate=0.0,
        frozen_blocks=0,
    )
    figures: dict[str, dict[str, float]] = {}
    for name, quantize in (("tokens", True), ("not quantised", False)):
        torch.manual_seed(config.seed)
        decoder = DepthDecoder(config.tokens.dim, tokens.encoder.stride)
        objective = DepthObjective(decoder, tokens, quantize)
        lines = [f"depth: {study.depth}", f"seed: {config.seed}"]
        averaged = fit(
            fabric,
            objective,
            schedule,
            Shuffled(train, schedule.steps * schedule.batch, config.seed),
            config.seed,
            Identity([*lines, f"tokens_sha256: {fingerprint(tokens)}"], frozenset()),
            train.title,
            folder / name.replace(" ", "-"),
            lambda network, each=objective: depth_errors(
                lambda frames: each.segment(network, frames), val, fabric.device
            )["abs_rel"],
            metric="abs_rel",
        )
        errors = depth_errors(
            lambda frames, each=objective, net=averaged: each.segment(net, frames),
            val,
            fabric.device,
        )
        figures[name] = errors
    typical = typical_depth(train)
    figures["no tokens, the mean of training"] = depth_errors(lambda frames: typical, val)
    return {
        name: {key: round(value, 4) for key, value in errors.items()}
        for name, errors in figures.items()
    }


def table(result: dict[str, Any]) -> str:
    """Return a study's figures as a Markdown section."""
    experts = result["experts"]
    # What the only expert sees is the row's mIoU.
    judges = list(experts) if len(experts) > 1 else []
    alone = "" if judges else f"{next(iter(experts.values())):.3f}"
    rows = result["rows"].values()
    runs = sorted({f"{row['training']}, seed {row['seed']}" for row in rows})
    minutes = [row["cpu_minutes"] for row in rows if "cpu_minutes" in row]
    span = " to ".join(dict.fromkeys(f"{each(minutes):.1f}" for each in (min, max) if minutes))
    spent = f", {span} minutes of CPU" if minutes else ""
    lines = [
        f"## {result['title']}",
        "",
        f"{result['data']}; a row is {' or '.join(runs)}{spent}; {result['date']};",
        f"`{result['command']}`",
        "",
        "| row | payload bytes | ratio | codes used | mIoU | agreement |"
        + "".join(f" seen by {name} |" for name in judges)
        + " vehicle GMACs | receiver GMACs |",
        "|---" * (8 + len(judges)) + "|",
    ]
    ceilings = "".join(f" {experts[judge]:.3f} |" for judge in judges)
    lines.append(f"| frames, no codec | | 1 | | {alone} | |{ceilings} | |")
    for name, row in result["rows"].items():
        seen = "".join(
            f" {row['judges'][judge]:.3f} |" if judge in row["judges"] else " |" for judge in judges
        )
        lines.append(
            f"| {name} | {row['payload_bytes']:.0f} | {row['compression_ratio']:.0f} | "
            f"{row['codes_used'] or ''} | {row['miou']:.3f} | {row['agreement']:.3f} |{seen} "
            f"{row['vehicle_macs'] / 1e9:.2f} | {row['receiver_macs'] / 1e9:.2f} |"
        )
    if any("depth" in row for row in result["rows"].values()):
        lines += ["", "| depth from | absolute relative error | within 1.25 |", "|---|---|---|"]
        for name, row in result["rows"].items():
            for source, errors in row.get("depth", {}).items():
                lines.append(
                    f"| {name}, {source} | {errors['abs_rel']:.3f} | {errors['delta1']:.3f} |"
                )
    return "\n".join(lines) + "\n"


def render(page: str, name: str, section: str) -> str:
    """Return a Markdown page with a section between its marks, or at the end if it has none."""
    start, end = f"<!-- study: {name} -->\n", "<!-- end -->"
    before, found, after = page.partition(start)
    if not found:
        return f"{page}\n{start}{section}{end}\n"
    return before + start + section + end + after.partition(end)[2]


def _write(output: Path, result: dict[str, Any], panels: Mapping[str, np.ndarray]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    page = output.with_name("README.md")
    before = page.read_text() if page.exists() else "# Studies\n"
    for path, content in (
        (output, (json.dumps(result, indent=2) + "\n").encode()),
        (page, render(before, output.stem, table(result)).encode()),
        (output.with_suffix(".jpg"), _strip(panels)),
    ):
        path.with_suffix(".part").write_bytes(content)
        path.with_suffix(".part").replace(path)


def _folder(runs: Path, config: Config) -> Path:
    """Return where a row is kept; rows of other studies that say the same are the same run."""
    same = config.model_dump_json(exclude={"name", "notes"})
    return runs / "studies" / hashlib.sha256(same.encode()).hexdigest()[:12]


def main(arguments: list[str] | None = None) -> int:
    """Train and measure the rows of a study; write its table."""
    parser = argparse.ArgumentParser(prog="gosvae_training.studies", description=main.__doc__)
    parser.add_argument("study", type=Path, help="YAML file, for one studies/guides.yaml")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="EXPERT=PATH", help="of the experts"
    )
    parser.add_argument("--streets", type=Path, help="rendered streets, for depth")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go")
    parser.add_argument("--output", type=Path, default=Path("docs/studies"), help="for the table")
    parser.add_argument("--row", action="append", help="only this row; again for more")
    add_machine_options(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        places = dict(each.split("=", 1) for each in options.weights if "=" in each)
        study, configs = load_study(options.study, places)
        if study.depth is not None and options.streets is None:
            raise ConfigError(f"{options.study}: it studies depth: add --streets PATH")
        wrong = sorted(set(options.row or ()) - set(configs))
        if wrong:
            raise ConfigError(f"--row {wrong[0]}: the study's rows are {list(configs)}")
        fabric = make_fabric(options.accelerator, options.devices, options.nodes, options.precision)
        output = options.output / f"{options.study.stem}.json"
        result: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"rows": {}}
        names = options.row or list(configs)
        first = configs[names[0]]
        material, size = Material.load(first, parse_folders(first, options.data)), first.input_size
        material = replace(material, val=_Spaced(material.val, study.every))
        experts = {name: frozen(each, material.labels) for name, each in study.experts.items()}
        with torch.inference_mode(), fabric.autocast():
            judges = {name: Judge(name, each, material) for name, each in experts.items()}
        middle = len(material.val) // 2
        mask = judges[study.rows[names[0]].expert].masks[middle]
        frame = _panel(material.val[middle].frame, mask, material)
        for name in names:
            config = configs[name]
            result["rows"][name] = _run_row(
                fabric, study, name, replace(material, config=config), judges, options
            )
            data = " ".join(f"--data {each}=PATH" for each in config.data.names())
            result |= {
                "title": study.title,
                "date": str(date.today()),
                "data": f"{describe(material.val)}, seen at {size[1]}x{size[0]}",
                "experts": {name: judge.miou for name, judge in judges.items()},
                "command": f"python -m gosvae_training.studies {options.study} {data}",
            }
            result["rows"] = {
                each: result["rows"][each] for each in configs if each in result["rows"]
            }
            made = {each: _folder(options.runs, configs[each]) / PANEL for each in result["rows"]}
            panels = {each: np.load(path) for each, path in made.items() if path.exists()}
            _write(output, result, {"frame, no codec": frame, **panels})
    except (ConfigError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(result))
    return 0


def _run_row(
    fabric: Fabric,
    study: Study,
    name: str,
    material: Material,
    judges: Mapping[str, Judge],
    options: argparse.Namespace,
) -> dict[str, Any]:
    config, row = material.config, study.rows[name]
    expert = judges[row.expert].network
    folder = _folder(options.runs, config)
    begun, started = (folder / "segmenter" / "last.pt").exists(), time.process_time()
    torch.manual_seed(config.seed)
    averaged = train_segmenter(
        fabric, material, expert, folder / "segmenter", options.workers, report=False
    )
    spent = folder / "cpu_minutes.txt"
    if not begun:
        spent.write_text(f"{(time.process_time() - started) / 60:.2f}")
    guides = {each: judges[each].network for each in row.guides}
    weights = torch.ones(len(material.labels))
    objective = build_objective(config, material.labels, expert, guides, weights)
    objective.network = averaged
    objective.to("cpu").eval()
    with torch.inference_mode(), fabric.autocast():
        figures, panel = measure(config, material, objective, judges, row.expert)
    np.save(folder / PANEL, panel)
    schedule = config.segmenter
    crop = f"{schedule.crop[1]}x{schedule.crop[0]}"
    figures["training"] = f"{schedule.steps} steps of {schedule.batch} crops of {crop}"
    figures["seed"] = config.seed
    # Of runs that went on where they had been interrupted it is not known.
    if spent.exists():
        figures["cpu_minutes"] = float(spent.read_text())
    if study.depth is not None and isinstance(objective, TokenObjective):
        figures["depth"] = study_depth(
            fabric, study, config, objective.network, options.streets, folder / "depth"
        )
    return figures


if __name__ == "__main__":
    sys.exit(main())
