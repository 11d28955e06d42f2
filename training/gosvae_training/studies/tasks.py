"""Several tasks of one stream, by a picture and directly: ``gosvae_training.studies.tasks``.

A study is a YAML file: a base configuration of several tasks, and rows that each change something.
Every row is trained as :mod:`gosvae_training.tasks.train` would, goes on where it was interrupted,
and is judged on whole frames by what the experts see in these, and by exact depth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from ..config import Prior as PriorSettings
from ..data.datasets import parse_folders
from ..data.mixture import Concatenation
from ..data.samples import DataError, describe
from ..fit import TrainingError, make_fabric
from ..models.pixels import to_frames
from ..models.token_network import resize_logits
from ..strict import ConfigError, Strict, parse, read_yaml
from ..tasks.network import TOKEN_STRIDE, TokenSender
from ..tasks.objective import TaskObjective
from ..tasks.segmenter import network_of
from ..tasks.settings import Config
from ..tasks.train import (
    DETECTOR,
    SEGMENTER,
    Material,
    build_network,
    load_config,
    rare_vectors,
    train_tasks,
)
from ..tasks.yolox import Heads, trunk_of
from .coded import coded_size
from .depth import (
    Depth,
    DepthDecoder,
    DepthExpert,
    DepthFrames,
    DepthObjective,
    depth_errors,
    train_depth,
    typical_depth,
)
from .judge import Experts, Frame, Judge, Made, Shape, panel
from .options import add_options, run_folder
from .page import tasks_section, write_study
from .picture import Detector, PictureLosses, PictureNetwork, PictureObjective
from .way import Way

STREETS = "streets"
"""Dataset of the configuration that has exact depth."""
PANEL = "panel.npy"
"""File in a row's folder: what a frame becomes."""


class Picture(Strict):
    """A receiver that draws, see :class:`..models.pixels.PixelDecoder`."""

    width: PositiveInt
    blocks: PositiveInt
    pixels: NonNegativeFloat
    """Weight of the difference of pixels."""


class Row(Strict):
    """One line of the study's table."""

    picture: Picture | None = None
    """What draws; without it tokens go straight to heads."""
    set: tuple[str, ...] = ()
    """Changes to the base configuration, as on the command line."""


class Study(Strict):
    """A question and the runs that answer it."""

    title: str
    base: str
    """Path of a configuration, from the study's folder."""
    rows: dict[str, Row]
    depth: Depth
    prior: PriorSettings


def load_study(path: Path) -> tuple[Study, dict[str, Config]]:
    """Read a study and the configuration of each row.

    Raises:
        ConfigError: a file is missing, or a value is unknown, absent or of the wrong kind; or rows
            do not share what they see.
    """
    study = parse(Study, read_yaml(path), path)
    base = path.parent / study.base
    configs = {name: load_config(base, list(row.set)) for name, row in study.rows.items()}
    shared = [(each.train, each.val, each.input_size, each.seed) for each in configs.values()]
    if any(each != shared[0] for each in shared):
        raise ConfigError(f"{path}: rows have to share train, val, input_size and seed")
    if any(STREETS not in part for part in shared[0][:2]):
        raise ConfigError(f"{base}: train and val have to name {STREETS}, for depth")
    return study, configs


class _Session:
    """A study on this machine: the rows' configurations, data, experts and judges."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read everything; raise ConfigError or DataError where something is missing."""
        self._options = options
        self._study, self._configs = load_study(options.study)
        wrong = sorted(set(options.row or ()) - set(self._configs))
        if wrong:
            raise ConfigError(f"--row {wrong[0]}: the study's rows are {list(self._configs)}")
        self.rows: list[str] = options.row or list(self._configs)
        config = self._config = self._configs[self.rows[0]]
        folders = parse_folders(config.names(), options.data)
        self._fabric = make_fabric(
            options.accelerator, options.devices, options.nodes, options.precision
        )
        self._material = Material.load(config, options.experts, folders, options.runs / "views")
        self._seen = Concatenation(
            [source.load(folders[name]) for name, source in config.train.items()]
        )
        self._experts = Experts(options.experts)
        val = {name: source.load(folders[name]) for name, source in config.val.items()}
        self._titles = {name: describe(samples) for name, samples in val.items()}
        self._judges = {
            name: Judge(samples, self._experts, config.input_size) for name, samples in val.items()
        }
        self._depths = tuple(
            DepthFrames(folders[STREETS], part[STREETS].split, config.input_size)
            for part in (config.train, config.val)
        )
        folder = run_folder(
            self._options.runs, f"depth of frames {self._study.depth} {config.input_size}"
        )
        self._depth_expert = self._train_depth(DepthObjective(DepthExpert()), folder)

    def run(self, name: str) -> dict[str, Any]:
        """Train a row as far as that is not done yet, judge it, and return its figures."""
        config, row = self._configs[name], self._study.rows[name]
        folder = self._row_folder(name)
        network = self._train(config, row, folder)
        way = Way(network, config.losses, self._experts)
        depth = self._depth_of(network, config, folder)
        figures = self._judged(way.make, depth, folder)
        tokens, places = config.tokens, np.prod(config.input_size) // TOKEN_STRIDE**2
        bits = (tokens.codes - 1).bit_length()
        vehicle, receiver = way.macs(torch.zeros(1, *config.input_size, 3, dtype=torch.uint8))
        figures |= {
            "payload_bytes": float(places * tokens.levels * bits / 8),
            "coded_bytes": self._coded_bytes(network, folder),
            "vehicle_macs": vehicle,
            "receiver_macs": receiver,
            "training": f"{config.codec.steps} steps of {config.codec.batch} views",
            "seed": config.seed,
        }
        if row.picture is not None:
            figures["as_is"] = {n: each.figures(way.make_as_is) for n, each in self._judges.items()}
        spent = folder / "cpu_minutes.txt"
        # It is not known of runs that continued after an interruption.
        if spent.exists():
            figures["cpu_minutes"] = float(spent.read_text())
        return figures

    def bounds(self) -> dict[str, Any]:
        """Return the figures of frames that are not sent but only resized, and of no frames."""
        frames = self._judged(
            lambda frame, shape: self._experts.look(frame, shape)._replace(picture=frame),
            self._depth_expert,
            run_folder(self._options.runs, "frames"),
        )
        typical = typical_depth(self._depths[0])
        return {
            "frames": frames,
            "typical_depth": depth_errors(lambda _: typical, self._depths[1]),
        }

    def result(self, rows: Mapping[str, Any], bounds: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that the study's JSON file holds, rows in the study's order."""
        height, width = self._config.input_size
        data = " ".join(f"--data {each}=PATH" for each in self._config.names())
        return {
            "title": self._study.title,
            "date": str(date.today()),
            "data": self._titles,
            "seen_at": f"{width}x{height}",
            "depth_training": f"{self._study.depth.steps} steps of {self._study.depth.batch}",
            **bounds,
            "rows": {name: rows[name] for name in self._configs if name in rows},
            "command": f"python -m gosvae_training.studies.tasks {self._options.study} {data} "
            "--experts PATH",
        }

    def panels(self, rows: Mapping[str, Any]) -> dict[str, Frame]:
        """Return a frame of the rendered streets as each row has it."""
        paths = {"frames, no codec": run_folder(self._options.runs, "frames") / PANEL}
        for name in (each for each in self._configs if each in rows):
            paths[name] = self._row_folder(name) / PANEL
        return {name: np.load(path) for name, path in paths.items() if path.exists()}

    def _judged(
        self,
        make: Callable[[Frame, Shape], Made],
        depth: Callable[[Tensor], Tensor],
        folder: Path,
    ) -> dict[str, Any]:
        """Return the figures of all tasks, and keep in `folder` what a frame looks like."""
        judge = self._judges[STREETS]
        chosen = judge.busiest()
        frame, shape = judge.frames[chosen], judge.shapes[chosen]
        with torch.inference_mode():
            metres = resize_logits(depth(torch.from_numpy(frame)[None])[:, None], shape)[0, 0]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / PANEL, panel(make(frame, shape), metres.numpy(), shape))
        return {
            "judged": {name: each.figures(make) for name, each in self._judges.items()},
            "depth": depth_errors(depth, self._depths[1]),
        }

    def _train(self, config: Config, row: Row, folder: Path) -> TokenSender:
        """Return a row's network, trained as far as that is not done yet."""
        material = replace(self._material, config=config)
        torch.manual_seed(config.seed)
        network: TokenSender = build_network(config, material.experts)
        objective = TaskObjective(network, config.losses, material.class_weights())
        if row.picture is not None:
            network = _picture_network(config, row.picture, material.experts)
            losses = PictureLosses(**config.losses.model_dump(), pixels=row.picture.pixels)
            objective = PictureObjective(network, losses, material.class_weights())
        stage = folder / "codec"
        begun, started = (stage / "last.pt").exists(), time.process_time()
        trained = train_tasks(self._fabric, material, objective, stage, self._options.workers)
        if not begun:
            minutes = (time.process_time() - started) / 60
            (folder / "cpu_minutes.txt").write_text(f"{minutes:.2f}")
        return trained.to("cpu").eval().requires_grad_(False)

    def _depth_of(
        self, network: TokenSender, config: Config, folder: Path
    ) -> Callable[[Tensor], Tensor]:
        """Return what makes metres of frames by way of a row's tokens."""
        if isinstance(network, PictureNetwork):

            def look(frames: Tensor) -> Tensor:
                return self._depth_expert(to_frames(network.draw(network.send(frames).vectors)))

            return look
        torch.manual_seed(config.seed)
        decoder = DepthDecoder(config.tokens.dim, TOKEN_STRIDE)
        return self._train_depth(DepthObjective(decoder, network), folder / "depth")

    def _train_depth(self, objective: DepthObjective, folder: Path) -> Callable[[Tensor], Tensor]:
        depth, seed = self._study.depth, self._config.seed
        trained = train_depth(self._fabric, depth, objective, seed, self._depths, folder)
        objective.to("cpu")
        return partial(objective.segment, trained.to("cpu"))

    def _coded_bytes(self, network: TokenSender, folder: Path) -> dict[str, float]:
        """Return the mean payload of a frame, entropy-coded by a prior of the row's own."""
        example = torch.from_numpy(self._judges[STREETS].frames[0])[None]
        settings, seed = self._study.prior, self._config.seed
        size = coded_size(network, example, self._seen, settings, seed, folder)
        return {
            name: round(float(np.mean([size(torch.from_numpy(f)[None]) for f in judge.frames])), 1)
            for name, judge in self._judges.items()
        }

    def _row_folder(self, name: str) -> Path:
        config, row = self._configs[name], self._study.rows[name]
        same = config.model_dump_json(exclude={"name", "notes", "prior", "inertia", "bit_cost"})
        return run_folder(self._options.runs, f"{same} {row.picture}")


def _picture_network(config: Config, picture: Picture, experts: Path) -> PictureNetwork:
    """Return a network that draws, untrained but for the experts."""
    detector = Detector(trunk_of(experts / DETECTOR), Heads(experts / DETECTOR))
    return PictureNetwork(
        config.tokens,
        (picture.width, picture.blocks),
        network_of(experts / SEGMENTER),
        detector,
        rare_vectors(config),
    )


def main(arguments: list[str] | None = None) -> int:
    """Train and judge the rows of a study of tasks; write its section."""
    parser = argparse.ArgumentParser(prog="gosvae_training.studies.tasks", description=main.__doc__)
    parser.add_argument("study", type=Path, help="YAML file, for one studies/tasks.yaml")
    parser.add_argument(
        "--experts", type=Path, required=True, help=f"folder of {SEGMENTER} and {DETECTOR}"
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    output = options.output / f"{options.study.stem}.json"
    try:
        session = _Session(options)
        rows = json.loads(output.read_text())["rows"] if output.exists() else {}
        bounds = session.bounds()
        for name in session.rows:
            rows[name] = session.run(name)
            result = session.result(rows, bounds)
            write_study(output, result, tasks_section(result), session.panels(rows))
    except (ConfigError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tasks_section(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
