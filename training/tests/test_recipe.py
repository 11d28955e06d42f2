"""The training loop: seeds, resuming, several processes, and what stops it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import CONFIG, SMALL
from trees import write_camvid

from gosvae_training import fit, train

ROOT = Path(__file__).parents[2]


def arguments(root: Path, *more: str) -> list[str]:
    if not (root / "camvid").exists():
        write_camvid(root / "camvid")
    (root / "tiny.yaml").write_text(yaml.safe_dump(SMALL))
    paths = ["--data", str(root / "camvid"), "--runs", str(root / "runs")]
    return [str(root / "tiny.yaml"), *paths, "--stage", "expert", *more]


def curve(folder: Path, name: str = "train/loss") -> dict[int, float]:
    """Return a scalar of TensorBoard's files by step, later runs over earlier ones."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def weights(root: Path) -> dict[str, torch.Tensor]:
    state = torch.load(root / "runs/tiny/expert/last.pt", weights_only=True)
    return state["averaged"]


def test_an_interrupted_run_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for root in (whole, parts):
        root.mkdir()
    assert train.main(arguments(whole, "expert.steps=8")) == 0

    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0)
    calls = 0

    def interrupted(*given: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        average = fit._average
        patch.setattr(fit, "_average", lambda *given: (interrupted(), average(*given)))
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments(parts, "expert.steps=8"))
    state = torch.load(parts / "runs/tiny/expert/last.pt", weights_only=True)
    assert state["step"] == 5
    assert train.main(arguments(parts, "expert.steps=8")) == 0
    one, two = (curve(root / "runs/tiny/expert") for root in (whole, parts))
    assert list(one) == list(range(1, 9)) and two == one
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name


def test_workers_change_nothing(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
    assert train.main(arguments(one)) == 0
    assert train.main(arguments(two, "--workers", "2")) == 0
    for name, value in weights(one).items():
        assert torch.equal(value, weights(two)[name]), name


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
    # The crops are full of labels, so that means over halves are means over the whole.
    more = ("--precision", "32-true", "--accelerator", "cpu")
    assert train.main(arguments(one, *more)) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--master-addr", "127.0.0.1", "--master-port", str(port)),
        *("-m", "gosvae_training.train", *arguments(two, *more, "--devices", "2")),
    ]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall("val mIoU", done.stdout)) == 1
    for name, value in weights(one).items():
        # Losses weigh classes by batch, so halves are not quite the whole.
        torch.testing.assert_close(weights(two)[name], value, atol=5e-3, rtol=5e-3, msg=name)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    class ThreeProcesses:
        world_size, global_rank = 3, 0

    schedule = train.Schedule(**{**CONFIG["codec"], "crop": (64, 64)})
    run = fit.Run(None, schedule, None, 0, None, "", tmp_path, None)
    with pytest.raises(fit.TrainingError, match="a batch of 2 cannot be shared by 3 processes"):
        fit.fit(ThreeProcesses(), run)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["expert.learning_rate=1e30", "expert.warmup=0.0", "expert.gradient_clip=1e30"]
    assert train.main(arguments(tmp_path, "expert.steps=30", *changes)) == 1
    assert "try a lower learning_rate" in capsys.readouterr().err
    batch = torch.load(tmp_path / "runs/tiny/expert/bad_batch.pt", weights_only=True)
    assert batch["frames"].shape == (2, 64, 64, 3)


def test_datasets_that_are_not_named_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streets = "data.train.streets.split=train"
    more = arguments(tmp_path, streets, 'data.val={"camvid": {"split": "val"}}')
    more[more.index("--data") + 1] = f"camvid={tmp_path / 'camvid'}"
    assert train.main(more) == 1
    assert "no folder for ['streets']: add --data streets=PATH" in capsys.readouterr().err
    more[more.index("--data") + 1] = "nonsense=here"
    assert train.main(more) == 1
    assert "expected NAME=PATH with a NAME of ['streets', 'camvid']" in capsys.readouterr().err


def test_bfloat16_is_used_where_the_cpu_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, wanted in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(fit, "computes_bfloat16", lambda able=able: able)
        made = fit.make_fabric("cpu", "1", 1, "auto")
        assert made._precision.precision == wanted
