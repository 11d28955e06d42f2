"""Train and compare variants: ``python -m gosvae_training.studies.run``.

A study is a YAML file: a base configuration, frozen experts, and rows that each change something.
Every row is trained as :mod:`gosvae_training.train` would, goes on where it was interrupted, and
is measured on the validation frames with every expert of the study as judge.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from ..config import Config, Prior
from ..data.datasets import parse_folders
from ..data.samples import DataError, Dataset, Sample, describe
from ..fit import TrainingError, make_fabric
from ..models.experts import frozen
from ..models.settings import Network, Tokens
from ..objectives import Objective, TokenObjective, build_objective
from ..strict import ConfigError, Strict, override, parse, read_yaml
from ..train import Material, train_codec
from .coded import coded_size
from .depth import Depth, study_depth
from .measure import ByJpeg, ByObjective, Judge, fixed_bytes, measure, panel
from .options import add_options, run_folder
from .page import table, write_study

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
    jpeg: bool = False
    """Whether to train nothing and send JPEG, of at most the bytes of its tokens."""


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
    prior: Prior | None = None
    """How rows' entropy coders are fitted; without it, bytes are those of fixed length alone."""
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


class _Session:
    """A study on this machine: the rows' configurations, data and experts."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read everything; raise ConfigError or DataError where something is missing."""
        places = dict(each.split("=", 1) for each in options.weights if "=" in each)
        self._options = options
        self._study, self._configs = load_study(options.study, places)
        if self._study.depth is not None and options.streets is None:
            raise ConfigError(f"{options.study}: it studies depth: add --streets PATH")
        wrong = sorted(set(options.row or ()) - set(self._configs))
        if wrong:
            raise ConfigError(f"--row {wrong[0]}: the study's rows are {list(self._configs)}")
        self.rows: list[str] = options.row or list(self._configs)
        first = self._configs[self.rows[0]]
        self._fabric = make_fabric(
            options.accelerator, options.devices, options.nodes, options.precision
        )
        material = Material.load(first, parse_folders(first.data.names(), options.data))
        self._material = replace(material, val=_Spaced(material.val, self._study.every))
        labels = material.labels
        experts = {name: frozen(each, labels) for name, each in self._study.experts.items()}
        with torch.inference_mode(), self._fabric.autocast():
            self._judges = {
                name: Judge(name, each, self._material) for name, each in experts.items()
            }

    def run(self, name: str) -> dict[str, Any]:
        """Train a row as far as that is not done yet, measure it, and return its figures."""
        row, folder = self._study.rows[name], self._folder(name)
        if row.jpeg:
            return self._measure(name, ByJpeg(fixed_bytes(self._configs[name])))
        config = self._configs[name]
        material, fabric = replace(self._material, config=config), self._fabric
        expert = self._judges[row.expert].network
        stage = folder / "codec"
        begun, started = (stage / "last.pt").exists(), time.process_time()
        torch.manual_seed(config.seed)
        averaged = train_codec(fabric, material, expert, stage, self._options.workers, report=False)
        spent = folder / "cpu_minutes.txt"
        if not begun:
            spent.write_text(f"{(time.process_time() - started) / 60:.2f}")
        guides = {each: self._judges[each].network for each in row.guides}
        weights = torch.ones(len(material.labels))
        objective = build_objective(config, material.labels, expert, guides, weights)
        objective.network = averaged
        objective.to("cpu").eval()
        figures = self._measure(name, ByObjective(config, objective, self._coded(name, objective)))
        schedule = config.codec
        crop = f"{schedule.crop[1]}x{schedule.crop[0]}"
        figures["training"] = f"{schedule.steps} steps of {schedule.batch} crops of {crop}"
        figures["seed"] = config.seed
        # It is not known of runs that continued after an interruption.
        if spent.exists():
            figures["cpu_minutes"] = float(spent.read_text())
        if self._study.depth is not None and isinstance(objective, TokenObjective):
            streets, tokens = self._options.streets, objective.network
            figures["depth"] = study_depth(
                fabric, config, self._study.depth, tokens, streets, folder / "depth"
            )
        return figures

    def _measure(self, name: str, way: ByObjective | ByJpeg) -> dict[str, Any]:
        """Return a row's figures; its picture goes to its folder."""
        own, folder = self._study.rows[name].expert, self._folder(name)
        with torch.inference_mode(), self._fabric.autocast():
            figures, picture = measure(name, self._material, way, self._judges, own)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / PANEL, picture)
        return figures

    def _coded(self, name: str, objective: Objective) -> Callable[[Tensor], int] | None:
        """Return what gives a frame's bytes by an entropy coder, if the row is to have one."""
        config, prior = self._configs[name], self._study.prior
        if prior is None or not isinstance(config.tokens, Tokens) or not config.tokens.codes:
            return None
        example = torch.zeros(1, *config.input_size, 3, dtype=torch.uint8)
        familiar, folder = self._material.familiar(), self._folder(name)
        return coded_size(objective.network, example, familiar, prior, config.seed, folder)

    def result(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that a study's JSON file holds, rows in the study's order."""
        config = self._configs[self.rows[0]]
        data = " ".join(f"--data {each}=PATH" for each in config.data.names())
        height, width = config.input_size
        return {
            "rows": {name: rows[name] for name in self._configs if name in rows},
            "title": self._study.title,
            "date": str(date.today()),
            "data": f"{describe(self._material.val)}, seen at {width}x{height}",
            "experts": {name: judge.miou for name, judge in self._judges.items()},
            "command": f"python -m gosvae_training.studies.run {self._options.study} {data}",
        }

    def panels(self, rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the picture of the validation frame in the middle as each row has it."""
        middle = len(self._material.val) // 2
        mask = self._judges[self._study.rows[self.rows[0]].expert].masks[middle]
        frame = panel(self._material.val[middle].frame, mask, self._material)
        made = {name: self._folder(name) / PANEL for name in self._configs if name in rows}
        shown = {name: np.load(path) for name, path in made.items() if path.exists()}
        return {"frame, no codec": frame, **shown}

    def _folder(self, name: str) -> Path:
        """Return where a row is kept; rows of other studies that say the same are the same run."""
        same = self._configs[name].model_dump_json(exclude={"name", "notes"})
        return run_folder(self._options.runs, same + " JPEG" * self._study.rows[name].jpeg)


def main(arguments: list[str] | None = None) -> int:
    """Train and measure the rows of a study; write its table."""
    parser = argparse.ArgumentParser(prog="gosvae_training.studies.run", description=main.__doc__)
    parser.add_argument("study", type=Path, help="YAML file, for one studies/imitation.yaml")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="EXPERT=PATH", help="of the experts"
    )
    parser.add_argument("--streets", type=Path, help="rendered streets, for depth")
    add_options(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    output = options.output / f"{options.study.stem}.json"
    try:
        session = _Session(options)
        rows = json.loads(output.read_text())["rows"] if output.exists() else {}
        for name in session.rows:
            rows[name] = session.run(name)
            result = session.result(rows)
            write_study(output, result, table(result), session.panels(rows))
    except (ConfigError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
