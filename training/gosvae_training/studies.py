"""Train and compare variants: ``python -m gosvae_training.studies``.

A study is a YAML file: a base configuration, frozen experts, and rows that each change something.
Every row is trained as :mod:`gosvae_training.train` would, goes on where it was interrupted, and
is measured on the validation frames with every expert of the study as judge.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from gosvae_codec.images import resize_frame
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
from .data import DataError, describe, iterate, parse_folders
from .depth import DepthDecoder, DepthFrames, DepthObjective, Shuffled, depth_errors
from .evaluate import LZMA
from .experts import frozen
from .fit import TrainingError, fit, make_fabric
from .networks import TokenNetwork, resize_logits
from .objectives import LabelObjective, Objective, TokenObjective, build_objective
from .pixels import to_frames
from .train import Material, add_machine_options, fingerprint, train_segmenter


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
    depth: Depth | None = None


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


@torch.inference_mode()
def measure(
    config: Config, material: Material, objective: Objective, judges: Mapping[str, nn.Module]
) -> dict[str, Any]:
    """Return the figures of a trained row on the validation frames.

    Masks decoded directly have no other judge than themselves; pictures are shown to all.
    """
    labels, size = material.labels, config.input_size
    network = objective.network
    draws = isinstance(objective, LabelObjective) or objective.draws
    truth, agreement = ConfusionMatrix(), ConfusionMatrix()
    foreign = {name: ConfusionMatrix() for name in judges} if draws else {}
    sizes = []
    first = objective.expert if isinstance(objective, LabelObjective) else objective.guides[0]

    def mask(logits: Tensor, shape: tuple[int, int]) -> np.ndarray:
        return labels.ids[resize_logits(logits, shape).argmax(1)[0].numpy()]

    for sample in tqdm(iterate(material.val), total=len(material.val), desc=config.name):
        frame, shape = torch.from_numpy(resize_frame(sample.frame, size))[None], sample.mask.shape
        sizes.append(_sent_bytes(config, objective, frame))
        if isinstance(objective, LabelObjective):
            shown = to_frames(network.draw(objective.labels(frame)))
        else:
            made = network(frame, True)[0]
            shown = to_frames(made) if draws else None
        logits = made if shown is None else first(shown)
        ours = mask(logits, shape)
        truth.add(sample.mask, ours)
        agreement.add(mask(first(frame), shape), ours)
        for name, matrix in foreign.items():
            matrix.add(sample.mask, mask(judges[name](shown), shape))
    example = torch.zeros(1, *size, 3, dtype=torch.uint8)
    vehicle, receiver = _compute(objective, example)
    count = float(np.mean(sizes))
    return {
        "miou": round(truth.miou(), 4),
        "agreement": round(agreement.miou(), 4),
        "judges": {name: round(matrix.miou(), 4) for name, matrix in foreign.items()},
        "payload_bytes": round(count, 1),
        "compression_ratio": round(size[0] * size[1] * 3 / count, 1),
        "vehicle_macs": vehicle,
        "receiver_macs": receiver,
    }


def study_depth(
    fabric: Fabric, study: Study, config: Config, tokens: TokenNetwork, streets: Path, folder: Path
) -> dict[str, dict[str, float]]:
    """Train depth decoders on tokens and on what they were before quantisation; return errors."""
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
    figures = {}
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
        figures[name] = {key: round(value, 4) for key, value in errors.items()}
    return figures


def table(result: dict[str, Any]) -> str:
    """Return a study's figures as a Markdown section."""
    judges = list(result["experts"])
    lines = [
        f"## {result['title']}",
        "",
        f"{result['data']}; {result['date']}; `{result['command']}`",
        "",
        "| row | payload bytes | ratio | mIoU | agreement |"
        + "".join(f" seen by {name} |" for name in judges)
        + " vehicle GMACs | receiver GMACs |",
        "|---" * (7 + len(judges)) + "|",
    ]
    ceilings = "".join(f" {value:.3f} |" for value in result["experts"].values())
    lines.append(f"| frames, no codec | | 1 | | |{ceilings} | |")
    for name, row in result["rows"].items():
        seen = "".join(
            f" {row['judges'][judge]:.3f} |" if judge in row["judges"] else " |" for judge in judges
        )
        lines.append(
            f"| {name} | {row['payload_bytes']:.0f} | {row['compression_ratio']:.0f} | "
            f"{row['miou']:.3f} | {row['agreement']:.3f} |{seen} "
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
        for name in options.row or configs:
            row = _run_row(fabric, study, configs[name], options)
            result["rows"][name] = row.pop("row")
            result |= {"title": study.title, "date": str(date.today()), **row}
            data = " ".join(f"--data {each}=PATH" for each in configs[name].data.names())
            result["command"] = f"python -m gosvae_training.studies {options.study} {data}"
            result["rows"] = {
                each: result["rows"][each] for each in configs if each in result["rows"]
            }
            output.parent.mkdir(parents=True, exist_ok=True)
            for path, text in (
                (output, json.dumps(result, indent=2) + "\n"),
                (output.with_suffix(".md"), table(result)),
            ):
                path.with_suffix(".part").write_text(text)
                path.with_suffix(".part").replace(path)
    except (ConfigError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(result))
    return 0


def _run_row(
    fabric: Fabric, study: Study, config: Config, options: argparse.Namespace
) -> dict[str, Any]:
    started = time.monotonic()
    material = Material.load(config, parse_folders(config, options.data))
    judges = {name: frozen(each, material.labels) for name, each in study.experts.items()}
    torch.manual_seed(config.seed)
    expert = frozen(config.expert.network, material.labels)
    folder = options.runs / config.name
    averaged = train_segmenter(fabric, material, expert, folder / "segmenter", options.workers)
    classes = len(material.labels)
    guides = {name: judges[name] for name in config.guides}
    objective = build_objective(config, material.labels, expert, guides, torch.ones(classes))
    objective.network = averaged
    objective.to("cpu").eval()
    figures = measure(config, material, objective, judges)
    figures["minutes"] = round((time.monotonic() - started) / 60, 1)
    if study.depth is not None and isinstance(objective, TokenObjective):
        figures["depth"] = study_depth(
            fabric, study, config, objective.network, options.streets, folder / "depth"
        )
    return {
        "row": figures,
        "data": describe(material.val),
        "experts": {name: round(material.score(judge), 4) for name, judge in judges.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
