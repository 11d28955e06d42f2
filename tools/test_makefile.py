"""The Makefile passes on what its user says, and its help names all that it can do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make with commands that print their arguments in place of the environments."""
    names = re.findall(r"^(\w+) := python3 ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    show = [f"{name}=printf '<%s>'" for name in names]
    command = ["make", "--no-print-directory", *show, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo"], "<gosvae><demo>"),
        (["demo", "BUNDLE=models/my road"], "<gosvae><demo><--bundle><models/my road>"),
        (["demo", "INPUT=a 'b'.mp4", 'LINK=loss=10% "x"'], "<--input><a 'b'.mp4><--link>"),
        (["view", "BUNDLE=models/my road"], "<--bundle><models/my road><--loop><--view>"),
        (["view", "INPUT=my drive", "TOPIC=/a,/b"], "<--bag><my drive><--topics></a,/b>"),
        (["test", "ARGS=tests -k 'a or b'"], "<-m><not slow><tests><-k><a or b>"),
        (["test-slow"], "<-m><slow>"),
        (["streets", "ARGS=render --help"], "<gosvae_streets><render><--help>"),
        (
            ["evaluate", "DATA=/tmp", "SPLIT=test", "BUNDLE=my road", "ARGS=--distance 2"],
            "<my road><--data></tmp><--split><test><--distance><2>",
        ),
        (
            ["sweep", "DATA=/tmp", "OUTPUT=o p"],
            "<models/camvid-base-layered><--data></tmp><--output><o p>",
        ),
        (["bench", "DATA=/tmp", "QUICK=1"], "<--data></tmp><--quick>"),
        (["bench-pipeline", "JSON=f g", "BUNDLE=b"], "<--bundle><b><--json><f g>"),
        (["bench-fleet", "SOAK=60", "JSON=f g"], "<--json><f g><--soak><60>"),
        (["bench-fleet", "FLOOD=1"], "<--flood>"),
        (["bench-uplink", "LINK=loss=1% delay=2ms"], "<--link><loss=1% delay=2ms>"),
    ],
)
def test_arguments_are_passed_on(arguments: list[str], expected: str) -> None:
    done = make(*arguments)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("/tmp", "<--data></tmp>"),
        ("camvid=/x 'streets=/y z'", "<--data><camvid=/x><--data><streets=/y z>"),
        ('a="/x y"  b=/z', "<--data><a=/x y><--data><b=/z>"),
    ],
)
def test_training_takes_several_datasets_and_arguments(data: str, expected: str) -> None:
    done = make("train", f"DATA={data}", "CONFIG=a b.yaml", "ARGS=expert.steps=7 --threads 2")
    train, export = re.findall(r"<python><-m><gosvae_training\.(.*?)(?=<python>|$)", done.stdout)
    assert train == f"train><a b.yaml>{expected}<expert.steps=7><--threads><2>"
    assert export == f"export><a b.yaml>{expected}<expert.steps=7>"


@pytest.mark.parametrize("target", ["train", "evaluate", "sweep", "bench"])
def test_data_has_to_be_named(target: str) -> None:
    done = make(target)
    assert done.returncode != 0 and not done.stdout
    assert f"make {target} DATA=PATH: PATH is" in done.stderr


def test_help_names_every_target() -> None:
    targets = re.search(r"\.PHONY:((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text())
    assert targets
    named = make("help").stdout
    for target in targets[1].replace("\\", "").split():
        assert target == "help" or re.search(rf"\b{target}\b", named), target
