"""From a drive and an expert to a running bundle: ``python -m gosvae_training.adapt``.

Nothing needs labels: the expert's masks of the first four fifths of each drive are learnt, and the
bundle is compared with the expert on the last fifth.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from torch import nn

from gosvae_codec import Decoder, Encoder, Expert, GosvaeError, ModelBundle
from gosvae_codec.draft import whole_file, write_text
from gosvae_codec.images import resize_frame
from gosvae_codec.labels import label_space
from gosvae_codec.masks import colorize
from gosvae_codec.tasks import DetectionResult, SemanticResult
from gosvae_common.boxes import boxes_of, draw_boxes

from .bundle.onnx_export import ExportError
from .bundle.write import export
from .config import SEMANTIC, Config
from .data.augment import RandomCrops, fit_rows
from .data.samples import DataError, Dataset, Part, Sample
from .evaluate import classes_table, gigamacs, table
from .fit import Stopped, TrainingError, make_fabric
from .models import settings
from .models.experts import SeveralExperts, frozen, side_by_side
from .models.guess import PICTURES
from .models.start import started_tokens
from .objectives import build_objective
from .strict import ConfigError, parse, read_yaml
from .survey import Look, Wanted, describe_expert, look_at
from .tables import markdown_table
from .train import Material, train_codec

HELD_BACK = 0.8
"""Share of a drive from which on its frames are not trained on."""
PIXELS = 480 * 360
"""Of the frames that the encoder takes, about; the budgets are of as many."""
BUDGETS: Mapping[str, dict[str, Any]] = {
    "base": {"kind": "light", "shrink": 1, "blocks": 5, "stride": 16, "width": 64},
    "tiny": {"kind": "light", "shrink": 2, "blocks": 6, "stride": 16, "width": 56},
}
"""Encoders of at most 0.5 and 0.15 GMACs a frame."""
DETECTION = "detection"
"""Name of the task of the first detector."""
EXPORT_STEPS = 150
"""Training steps that take as long as export and measuring."""
STEPS = (100, 6000)
"""Fewest and most."""


def adapt(wanted: Wanted) -> dict[str, Any]:
    """Make a bundle, and return what ``--json`` writes of it.

    Raises:
        ConfigError, DataError: an argument is wrong; nothing was started.
        Stopped: by Ctrl-C; what was trained is kept.
        ExportError, TrainingError, GosvaeError: no bundle came out.
    """
    began = time.monotonic()
    fabric = make_fabric("auto", "1", 1, "auto")
    tasks = wanted.tasks()
    look = look_at(wanted)
    spaces = [label_space(labels) for labels in wanted.labels]
    networks: dict[str, settings.Onnx | settings.Detector] = {}
    experts = []
    for place, (task, labels) in enumerate(zip(tasks, spaces, strict=True)):
        network = describe_expert(wanted, place, labels, look.few)
        # The name whose topics view, demo and RViz layouts show, unless somebody gave it away.
        if isinstance(network, settings.Detector) and DETECTION not in {*tasks, *networks}:
            task = DETECTION
        networks[task] = network
        expert = frozen(network, labels)
        named = f", task {task}" if len(tasks) > 1 else ""
        print(f"{Path(wanted.experts[place]).name}{named}: {expert.form}\n{expert.names}\n")
        experts.append(expert)
    expert = side_by_side(experts, spaces)
    config = resume(wanted) or plan(wanted, networks, look, expert, fabric)
    material = Material.load(config, wanted.folders)
    torch.manual_seed(config.seed)
    run = wanted.runs / config.name
    train_codec(fabric, material, expert, run / "codec", report=False)
    print("training is done; the bundle is written and measured", flush=True)
    folder = export(material, wanted.runs, wanted.output.parent)
    bundle = ModelBundle.load(folder)
    figures = bundle.manifest["figures"]
    if "agreement" not in figures:
        raise ExportError(f"{folder}: complete, but it could not be measured; see above")
    sheet = run / "contact_sheet.png"
    draw_sheet(bundle, material.val, sheet)
    print(f"\n{figures['data']}\n\n{table(figures)}\n\n{classes_table(figures)}\n")
    for task in list(networks)[1:]:
        print(f"task {task}: {describe_task(figures['tasks'][task])}\n")
    print(
        f"{figures['agreeing_pixels']:.1%} of the pixels are as the expert's, "
        f"{figures['bytes_per_frame']:.0f} bytes a frame; vehicle "
        f"{gigamacs(figures['vehicle_macs'])} GMACs, {figures['vehicle_ms']} ms, receiver "
        f"{figures['receiver_ms']} ms, expert {figures['expert_ms']} ms"
    )
    shown = shlex.quote(wanted.drives[0])
    print(f"bundle         {folder}\ncontact sheet  {sheet}\nto run it      ", end="")
    print(f"make demo BUNDLE={shlex.quote(str(folder))} INPUT={shown}")
    names = ("agreement", "agreeing_pixels", "per_class", "bytes_per_frame", "vehicle_ms")
    return {
        **{name: figures[name] for name in names},
        "tasks": figures["tasks"],
        "bundle": str(folder),
        "contact_sheet": str(sheet),
        "seconds": round(time.monotonic() - began),
    }


def resume(wanted: Wanted) -> Config | None:
    """Return the configuration of a run that was begun with the same arguments, if there is one.

    With more minutes than before it gets as many more steps.

    Raises:
        ConfigError: there is one that was begun with other arguments.
    """
    if not wanted.config_file.exists():
        return None
    values = read_yaml(wanted.config_file)
    before, _, rest = str(values["command"]).partition(" --minutes ")
    minutes = float(rest.split()[0])
    if before != wanted.command().partition(" --minutes ")[0] or minutes > wanted.minutes:
        raise ConfigError(
            f"{wanted.config_file.parent}: begun by `{values['command']}`; delete that folder, or "
            "name another output"
        )
    if minutes < wanted.minutes:
        values["codec"]["steps"] = round(values["codec"]["steps"] * wanted.minutes / minutes)
        values["command"] = wanted.command()
        write_text(wanted.config_file, yaml.safe_dump(values, sort_keys=False))
    print(f"going on with {wanted.config_file}: {values['codec']['steps']} steps in all")
    return parse(Config, values, wanted.config_file)


def plan(
    wanted: Wanted,
    networks: Mapping[str, settings.Onnx | settings.Detector],
    look: Look,
    expert: nn.Module,
    fabric: Fabric,
) -> Config:
    """Write the configuration that the minutes suffice for, and say how long it takes.

    Args:
        wanted: what was asked for.
        networks: the experts, by task.
        look: at the drives.
        expert: what is imitated.
        fabric: where it runs.
    """
    values = configure(wanted, networks, look)
    config = parse(Config, values, "adapt")
    seconds = rehearse(config, look.few[0], expert, fabric)
    # The expert sees every frame once, and those held back again in each measurement.
    teaching = seconds["expert"] * look.frames * (1 + 3 * (1 - HELD_BACK))
    steps = round((60 * wanted.minutes - teaching) / seconds["step"]) - EXPORT_STEPS
    steps = min(max(steps, STEPS[0]), STEPS[1])
    values["codec"] |= {"steps": steps, "validate_every": max(steps // 4, 1)}
    config = parse(Config, values, "adapt")
    write_text(wanted.config_file, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    whole = teaching + seconds["step"] * (steps + EXPORT_STEPS)
    print(
        f"{look.frames} frames, the last fifth held back; {steps} steps of "
        f"{seconds['step']:.2f} s, the expert {seconds['expert']:.2f} s a frame: about "
        f"{whole / 60:.0f} minutes in all; "
        f"Ctrl-C saves. The configuration is {wanted.config_file}",
        flush=True,
    )
    return config


def configure(
    wanted: Wanted, networks: Mapping[str, settings.Onnx | settings.Detector], look: Look
) -> dict[str, Any]:
    """Return the configuration, but for the number of steps."""
    shape = look.few[0].shape[:2]
    scale = min((PIXELS / (shape[0] * shape[1])) ** 0.5, 1)
    size = [max(round(side * scale / 16), 4) * 16 for side in shape]
    crop = [min(192, size[0] // 32 * 32), min(256, size[1] // 32 * 32)]
    schedule = {"batch": 8, "crop": crop, "frozen_blocks": 0}

    def source(part: Part, span: tuple[float, float]) -> dict[str, Any]:
        return {"split": "all", "every": part.every, "range": list(span), "topic": part.topic}

    tokens: dict[str, Any] = {
        "levels": 2,
        "codes": 32,
        "dim": 8,
        "encoder": dict(BUDGETS[wanted.budget or "base"]),
        "decoder": {"kind": "masks", "width": 128, "blocks": 3},
    }
    if wanted.start:
        tokens.update(started_tokens(Path(wanted.start)))
    return {
        "name": wanted.output.name,
        "seed": 1,
        "input_size": size,
        "labels": wanted.labels[0],
        "data": {
            "train": {name: source(part, (0.0, HELD_BACK)) for name, part in look.parts.items()},
            "val": {name: source(part, (HELD_BACK, 1.0)) for name, part in look.parts.items()},
        },
        "expert": {
            **schedule,
            "network": networks[SEMANTIC].model_dump(),
            "steps": 0,
            "learning_rate": 0.0,
            "backbone_learning_rate": 0.0,
        },
        "tasks": {
            name: {"network": network.model_dump(), "labels": labels}
            for (name, network), labels in zip(networks.items(), wanted.labels, strict=True)
            if name != SEMANTIC
        },
        "tokens": tokens,
        "losses": {"supervised": 0.0, "expert_labels": 0.5},
        "codec": {
            **schedule,
            "steps": 1,
            "learning_rate": 2e-3,
            "backbone_learning_rate": 5e-4,
            "teacher": "frame",
        },
        "inertia": [0.5, 0.5][: tokens["levels"]],
        "prior": {"views": 1, "steps": 300},
        "command": wanted.command(),
    }


def rehearse(
    config: Config, frame: np.ndarray, expert: nn.Module, fabric: Fabric
) -> dict[str, float]:
    """Return the seconds of a training step and of the expert's look at a frame."""
    labels = label_space(config.labels)
    size = getattr(expert, "size", None) or config.input_size
    shown = torch.from_numpy(resize_frame(frame, size))[None].to(fabric.device)
    channels = sum(map(len, config.spaces()))
    objective = build_objective(config, labels, expert, {}, torch.ones(len(labels)))
    objective.to(fabric.device)
    rows = config.input_size[0]
    fitted = fit_rows(Sample(frame, np.zeros(frame.shape[:2], np.uint8)), rows)
    quarter = tuple(-(-side // 4) for side in fitted.mask.shape)
    none = np.zeros((0, 5), np.float32)
    taught = fitted._replace(logits=np.zeros((*quarter, channels), np.float16), boxes=none)
    detected = sum(map(len, config.detected()))
    crops = RandomCrops(_One(taught), labels, rows, config.codec.crop, 99, 0, detected=detected)
    step, looks = [], []
    for index in range(4):
        begin = time.perf_counter()
        batch = [torch.stack(p) for p in zip(*(crops[index + i] for i in range(8)), strict=True)]
        with fabric.autocast():
            taken, target, logits = (each.to(fabric.device) for each in batch)
            loss = objective(taken, target, index == 0, logits)["loss"]
        loss.backward()
        step.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with torch.inference_mode():
            expert(shown)
        if isinstance(expert, SeveralExperts):
            expert.boxes(frame)
        looks.append(time.perf_counter() - begin)
    return {"step": float(np.median(step[1:])), "expert": min(looks)}


def describe_task(about: Mapping[str, Any]) -> str:
    """Return the figures of a further task and of its classes, those that the expert found."""
    metric = "ap50" if "ap50" in about else "agreement"
    if about[metric] is None:
        return "the expert found nothing on the frames held back"
    per_class = about["per_class"].items()
    rows = [(name, f"{value:.3f}") for name, value in per_class]
    return f"{metric} {about[metric]:.3f}\n\n{markdown_table(['class', metric], rows)}"


class _One(list[Sample]):
    """One sample as a dataset."""

    title = terms = ""

    def __init__(self, sample: Sample) -> None:
        super().__init__([sample])


def draw_sheet(bundle: ModelBundle, samples: Dataset, path: Path) -> None:
    """Write a picture of four held-back frames: the frame, and what each expert and task makes."""
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    experts, rows = {name: Expert(bundle, task=name) for name in bundle.tasks}, []
    for index in np.linspace(0, len(samples) - 1, 4).astype(int):
        frame = samples[int(index)].frame
        pictures, decoded = [frame], decoder.decode(encoder.encode(frame))
        for name, expert in experts.items():
            for result in (expert.apply(frame), decoded.tasks[name]):
                labels = bundle.tasks[name].labels
                if isinstance(result, DetectionResult):
                    pictures.append(frame.copy())
                    draw_boxes(pictures[-1], boxes_of(result, labels), labels)
                else:
                    assert isinstance(result, SemanticResult)
                    pictures.append(colorize(result.mask, labels))
        size = (480, round(480 * frame.shape[0] / frame.shape[1]))
        rows.append(
            np.concatenate([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures], 1)
        )
    height = max(row.shape[0] for row in rows)
    padded = [np.pad(row, ((0, height - row.shape[0]), (0, 0), (0, 0))) for row in rows]
    with whole_file(path) as draft:
        cv2.imwrite(str(draft), np.concatenate(padded)[..., ::-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Adapt a bundle to a drive and an expert."""
    parser = argparse.ArgumentParser(prog="gosvae_training.adapt", description=__doc__)
    add = parser.add_argument
    add("--drive", nargs="+", required=True, help="bags, videos or folders of images")
    add(
        "--expert",
        nargs="+",
        required=True,
        help="ONNX files of segmentation networks and, after the first, detectors: a task each",
    )
    add(
        "--labels",
        nargs="+",
        required=True,
        help="YAML file of each expert's classes, or camvid, cityscapes, ade20k, coco",
    )
    add("--start", default="", help="folder of a bundle whose encoder is trained further")
    add("--budget", default="", choices=["", *BUDGETS], help="of the vehicle; base if not given")
    add("--minutes", type=float, default=10, help="that it may take in all")
    add("--output", type=Path, default=Path("models/mine"), help="folder of the bundle")
    add("--pictures", nargs="*", default=[], choices=[*PICTURES], help="what each expert takes")
    add("--order", nargs="*", default=[], choices=["rgb", "bgr"], help="of its colours")
    add("--topic", default="", help="of a bag with several image topics")
    add("--json", type=Path, help="write agreement, bytes_per_frame and bundle to this file")
    add("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    # What exporter and quantisation warn of is their own affair.
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    try:
        wanted = Wanted(
            tuple(options.drive),
            tuple(options.expert),
            tuple(options.labels),
            options.start,
            options.budget,
            options.minutes,
            options.output,
            tuple(options.pictures),
            tuple(options.order),
            options.topic,
        )
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        result = adapt(wanted)
    except Stopped as error:
        print(f"{error}\nto go on: {wanted.command()}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(f"stopped; to go on: {wanted.command()}", file=sys.stderr)
        return 130
    except (ConfigError, DataError, ExportError, TrainingError, GosvaeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        write_text(options.json, json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
