"""Command line: `python -m gosvae_streets render FOLDER`, and `... bag FOLDER FILE`."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .bag import write_bag
from .drives import Job, render_drives
from .output import OutputError, claim
from .scene import KINDS, SKIES

SPLITS = ("train", "val", "test")


def _render(arguments: argparse.Namespace) -> None:
    if find_spec("bpy") is None:
        raise OutputError(
            f"Blender's module bpy is not installed in this Python {sys.version_info[0]}."
            f"{sys.version_info[1]}; made for 3.11 alone: pip install 'gosvae-streets[render]'"
        )
    job = Job(
        arguments.folder,
        arguments.split,
        arguments.seed,
        arguments.frames,
        arguments.rate,
        arguments.size,
        arguments.samples,
        arguments.threads,
        arguments.shutter,
        arguments.kind,
        arguments.sky,
    )
    claim(job.root, job.settings())
    drives = range(arguments.first, arguments.first + arguments.drives)
    render_drives(job, drives, arguments.workers)


def _bag(arguments: argparse.Namespace) -> None:
    count = write_bag(
        arguments.folder,
        arguments.split,
        arguments.drive,
        arguments.rate,
        arguments.file,
        arguments.quality,
    )
    size = arguments.file.stat().st_size / 1e6
    print(f"{arguments.file}: {count} frames at {arguments.rate:g} Hz, {size:.1f} MB")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    size = int(width), int(height)
    if not all(16 <= side <= 8192 for side in size):
        raise ValueError
    return size


def _at_least(low: float, kind: type) -> Any:
    def check(text: str) -> Any:
        value = kind(text)
        if not value >= low:
            raise ValueError
        return value

    check.__name__ = f"number from {low:g}:"
    return check


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1000:
        raise ValueError
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


_share.__name__ = "number from 0 to 1:"
_size.__name__ = "size such as 1024x512:"
_positive.__name__ = "rate above 0:"


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gosvae_streets", description="Rendered, labelled drives through streets."
    )
    commands = parser.add_subparsers(required=True, parser_class=_Parser)
    whole, count = _at_least(0, int), _at_least(1, int)
    render = commands.add_parser("render", help="render drives into a folder, or go on doing so")
    render.set_defaults(run=_render)
    render.add_argument("folder", type=Path)
    render.add_argument("--seed", type=whole, default=1)
    render.add_argument("--first", type=whole, default=0, help="number of the first drive")
    render.add_argument("--drives", type=count, default=1, help="how many, each another scene")
    render.add_argument("--frames", type=count, default=10, help="per drive")
    render.add_argument("--rate", type=_positive, default=1.0, help="frames per second")
    render.add_argument("--size", type=_size, default=(480, 360), metavar="WIDTHxHEIGHT")
    render.add_argument("--samples", type=count, default=4, help="paths per pixel")
    render.add_argument("--workers", type=count, default=1, help="processes, one drive each")
    render.add_argument("--threads", type=count, default=1, help="of each process")
    render.add_argument("--shutter", type=_share, default=0.0, help="0 to 1, for motion blur")
    render.add_argument("--split", choices=SPLITS, default=SPLITS[0])
    render.add_argument("--kind", choices=KINDS, default="", help="of street; drawn if not given")
    render.add_argument("--sky", choices=SKIES, default="", help="drawn if not given")
    bag = commands.add_parser("bag", help="write a rendered drive as an MCAP file")
    bag.set_defaults(run=_bag)
    bag.add_argument("folder", type=Path)
    bag.add_argument("file", type=Path)
    bag.add_argument("--split", choices=SPLITS, default=SPLITS[0])
    bag.add_argument("--drive", type=whole, default=0)
    bag.add_argument("--rate", type=_positive, default=10.0, help="that it was rendered at")
    bag.add_argument("--quality", type=count, default=92, help="of the JPEGs, to 100")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, 1 when it failed, 130 when interrupted."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except (OutputError, OSError) as error:
        print(f"gosvae_streets: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(
            f"gosvae_streets: Blender cannot be loaded: {error}; if a library is missing, on "
            "Debian: apt install libegl1 libgl1 libsm6 libxi6 libxkbcommon0",
            file=sys.stderr,
        )
        return 1
    except BrokenProcessPool:
        print(
            "gosvae_streets: a rendering process was killed, perhaps for want of memory; "
            "start again with fewer --workers to go on",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\ngosvae_streets: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
