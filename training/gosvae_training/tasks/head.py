"""Train another head for a bundle that exists: ``python -m gosvae_training.tasks.head``.

Vehicles and their recordings stay as they are: the head takes what the bundle's receiver makes of
tokens, and ``gosvae add-head`` puts it into the bundle.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.images import resize_frame
from gosvae_codec.labels import UNLABELLED, LabelSpace, label_space
from gosvae_codec.manifest import FEATURES
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.tasks import KINDS

from ..bundle.networks import bind_head
from ..bundle.onnx_export import ExportError, write_onnx
from ..data.augment import augment, fit_rows
from ..data.datasets import default_split, load_dataset
from ..data.samples import DataError, Dataset, Sample, describe, iterate
from ..losses import class_weights, segmentation_loss
from ..models.token_network import resize_logits
from ..strict import ConfigError
from ..studies.depth import DepthFrames
from .depth_head import depth_report, make_depth_examples, train_depth_head
from .network import SemanticHead
from .receiver import Examples, Receiver, collect_examples, fit_head


class Trained(NamedTuple):
    """A head, what it was trained on, and how good it is."""

    head: nn.Module
    examples: Examples
    figures: Callable[[], str]
    """Measures it."""


def make_examples(
    receiver: Receiver, samples: Dataset, labels: LabelSpace, views: int, seed: int
) -> Examples:
    """Return `views` random crops of each sample as features and labels; see :func:`augment`."""
    height, width = receiver.bundle.input_size
    table = np.full(256, UNLABELLED, np.uint8)
    table[labels.ids] = np.arange(len(labels))

    def read(index: int) -> Sample:
        return fit_rows(samples[index], height)

    def look(
        sample: Sample, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        crop = augment(Sample(sample.frame, sample.mask), (height, width), rng)
        return crop.frame, table[crop.mask[::2, ::2]]

    return collect_examples(receiver, samples, views, seed, read, look)


def train_head(examples: Examples, classes: int, steps: int, batch: int, seed: int) -> SemanticHead:
    """Return a head trained on examples: cross entropy, weighted by class, and Dice."""
    torch.manual_seed(seed)
    counts = np.bincount(examples.target.ravel(), minlength=256)[:classes]
    if not counts.any():
        raise DataError("none of the frames has a labelled pixel; give labelled ones")
    weights = class_weights(counts / counts.sum())
    head = SemanticHead(examples.features.shape[1], classes)

    def loss(chosen: npt.NDArray[np.int64], logits: Tensor) -> Tensor:
        target = torch.from_numpy(examples.target[chosen].astype(np.int64))
        return segmentation_loss(logits, target, weights)["loss"]

    fit_head(head, examples, loss, steps, batch, seed)
    return head


@torch.inference_mode()
def measure(
    receiver: Receiver, head: nn.Module, samples: Dataset, labels: LabelSpace
) -> dict[int, ConfusionMatrix]:
    """Return the head's confusion matrix on whole frames for each number of levels."""
    matrices = {levels: ConfusionMatrix() for levels in range(1, receiver.bundle.levels + 1)}
    for sample in tqdm(iterate(samples), desc="measure", total=len(samples), unit="frame"):
        frame = resize_frame(sample.frame, receiver.bundle.input_size)
        for levels, matrix in matrices.items():
            features: Tensor = torch.from_numpy(receiver.features(frame, levels))
            guess = resize_logits(head(features), sample.mask.shape).argmax(1)[0]
            matrix.add(sample.mask, labels.ids[guess.numpy()])
    return matrices


def report(matrices: Mapping[int, ConfusionMatrix], labels: LabelSpace) -> str:
    """Return mIoU for each number of levels, and IoU of each class with all of them."""
    names = {label.id: label.name for label in labels.labels}
    lines = [f"{levels} levels: mIoU {each.miou():.3f}" for levels, each in matrices.items()]
    iou = matrices[max(matrices)].iou()
    return "\n".join([*lines, *(f"  {names[key]} {value:.3f}" for key, value in iou.items())])


def _semantic(options: argparse.Namespace, receiver: Receiver) -> Trained:
    labels = label_space(options.labels)
    samples = load_dataset(options.data, options.split or "train", labels)
    val = options.val or options.data
    split = options.val_split or default_split(val)
    others = load_dataset(val, split, labels)
    examples = make_examples(receiver, samples, labels, options.views, options.seed)
    head = train_head(examples, len(labels), options.steps, options.batch, options.seed)

    def figures() -> str:
        title = f"trained on {describe(samples)}; on {describe(others)}:"
        return f"{title}\n{report(measure(receiver, head, others, labels), labels)}"

    return Trained(head, examples, figures)


def _depth(options: argparse.Namespace, receiver: Receiver) -> Trained:
    splits = options.split or "train", options.val_split or "val"
    frames = DepthFrames(options.data, splits[0], receiver.bundle.input_size)
    examples = make_depth_examples(receiver, frames, options.views, options.seed)
    head = train_depth_head(examples, options.steps, options.batch, options.seed)

    def figures() -> str:
        title = f"trained on {frames.title}; on {splits[1]}:"
        return f"{title}\n{depth_report(receiver, head, options.data, splits)}"

    return Trained(head, examples, figures)


_TRAIN = {"semantic": _semantic, "depth": _depth}
"""By kind of head."""


def main(arguments: list[str] | None = None) -> int:
    """Train a head on labelled frames, measure it on others, and write its file."""
    parser = argparse.ArgumentParser(prog="gosvae_training.tasks.head", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--kind", choices=_TRAIN, default="semantic")
    parser.add_argument(
        "--data", type=Path, required=True, help="a labelled dataset; for depth, rendered streets"
    )
    parser.add_argument("--split", help="train by default")
    parser.add_argument("--val", type=Path, help="another dataset to measure on; of masks")
    parser.add_argument("--val-split", help="val by default")
    parser.add_argument(
        "--labels", default="camvid", help="of masks: a label space, or its YAML file"
    )
    parser.add_argument("--views", type=int, default=6, help="random views of each frame")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, required=True, help="the head's file, NAME.onnx")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        bundle = ModelBundle.load(options.bundle)
        trained = _TRAIN[options.kind](options, Receiver(bundle, options.threads))
        some = [
            (torch.from_numpy(each[None].astype(np.float32)),)
            for each in trained.examples.features[:2]
        ]
        names = ["features"], list(KINDS[options.kind].outputs)
        write_onnx(trained.head, some, names, options.output)
        bind_head(options.output, str(bundle.manifest["files"][FEATURES]["sha256"]))
        print(trained.figures())
    except (GosvaeError, DataError, ConfigError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
