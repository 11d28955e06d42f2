"""The pipeline as a system: latency, rate, CPU and memory over DDS, beside JPEG and raw images.

    make bench-pipeline JSON=docs/pipeline.json

Three ways from a camera's frame to a mask at the edge: *tokens* are the project's two nodes as they
are by default; *jpeg* is a vehicle that publishes ``sensor_msgs/CompressedImage`` and an edge that
runs the expert on it; *raw* is that edge on the camera's own images. Cameras and vehicle have one
core, the edge and what takes the masks the other; networks run in one thread. It goes on where an
earlier run with the same file stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import psutil
import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sensor_msgs.msg import CompressedImage, Image

from gosvae_bringup.demo.network import network
from gosvae_bringup.pipeline import describe
from gosvae_bringup.processes import Processes
from gosvae_codec import GosvaeError, ModelBundle
from gosvae_common.process import spinning
from gosvae_common.qos import qos_profile
from gosvae_common.topics import COMPRESSED_IMAGE, IMAGE, MASK, PACKETS
from gosvae_msgs.msg import TokenPacket

from .files import machine, write_whole

SIZES = {"480x360": (360, 480), "1024x512": (512, 1024), "2048x1024": (1024, 2048)}
"""Height and width."""
TRANSPORTS: Mapping[str, tuple[str, type] | None] = {
    "tokens": (PACKETS, TokenPacket),
    "jpeg": (COMPRESSED_IMAGE, CompressedImage),
    "raw": None,
}
"""Topic and message between vehicle and edge; None: the camera's own."""
RATES = (10, 15, 30)
CAMERAS = (1, 2, 4)

DROPS = 0.01
"""Share of the frames that a sustained rate may lose."""
CLOSE = 0.1
"""Share lost that calls for a second trial."""
PACE = 0.98
"""Share of the rate asked for that cameras must reach, or they are what limits it."""
LADDER = (2.0, 128.0)
"""Rates in Hz between which the highest sustained one is looked for, and how closely."""
PRECISION = 1.05
DEADLINE = 180.0
"""Seconds after which a process or a first mask counts as never coming."""
SETTLE = 1.5
"""Seconds from the first masks to the begin of a measurement, in which queues fill."""
DRAIN = 10.0
"""Most seconds to wait at the end for the first mask of a later frame, behind which none comes."""
SOAK_STEP = 10.0
DISTURBED = 0.15
"""Cores that other processes may take; a row measured beside more is measured again."""

_BENCH = str(Path(__file__).resolve().parents[1])
"""Where other processes find this package."""


@dataclass(frozen=True)
class Run:
    """One measurement: how frames cross, their size, how many cameras, the rate of each in Hz."""

    transport: str
    size: str
    cameras: int
    rate: float


def runs(quick: bool) -> list[Run]:
    """Return what is measured, the `quick` ones first; each process start serves neighbours."""
    some = [Run("tokens", size, 1, rate) for size in SIZES for rate in RATES]
    some += [Run(*each) for each in product(("jpeg", "raw"), SIZES, (1,), RATES[:2])]
    some += [Run("tokens", "480x360", cameras, 10) for cameras in CAMERAS[1:]]
    every = [Run(*each) for each in product(TRANSPORTS, SIZES, CAMERAS, RATES)]
    return some if quick else list(dict.fromkeys(some + every))


def highest(sustains: Callable[[float], bool]) -> float:
    """Return the highest rate in Hz on LADDER that `sustains`, by bisection; 0 if none does."""
    low, high = LADDER
    if not sustains(low):
        return 0.0
    while high / low > PRECISION:
        rate = round(float(np.sqrt(low * high)), 1)
        if rate in (low, high):
            break
        low, high = (rate, high) if sustains(rate) else (low, rate)
    return low


def figures(
    stamps: Sequence[int],
    masks: Mapping[tuple[str, int], int],
    crossed: Mapping[tuple[str, int], int],
    cameras: int,
) -> dict[str, Any]:
    """Return what became of the frames of some stamps, all in ns.

    Args:
        stamps: of the frames, the same for each camera.
        masks: when the mask of a camera's frame of that stamp came.
        crossed: when what the vehicle sends for it had come; empty where it sends nothing itself.
        cameras: how many.

    Returns:
        ``frames`` and ``masks``; ``drops``, the share lost; ``latency_ms``, stamp to mask; and the
        median's two parts, ``sent_ms``, stamp to what the vehicle sends, and ``received_ms``, from
        there to the mask. nan of nothing is None.
    """
    wanted = set(stamps)
    came = {key: when for key, when in masks.items() if key[1] in wanted}
    ages = [(when - stamp) / 1e6 for (_, stamp), when in came.items()]
    both = [key for key in came if key in crossed]
    sent = len(stamps) * cameras
    return {
        "frames": sent,
        "masks": len(came),
        "drops": round(1 - len(came) / sent, 4) if sent else None,
        "latency_ms": {f"p{share}": _percentile(ages, share) for share in (50, 95, 99)},
        "sent_ms": _percentile([(crossed[key] - key[1]) / 1e6 for key in both], 50),
        "received_ms": _percentile([(came[key] - crossed[key]) / 1e6 for key in both], 50),
    }


def _percentile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 1) if values else None


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Have what is started inside run on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Listener:
    """A node that notes when masks come, and what the vehicle sends for them.

    Messages stay serialised: of all, only the stamp is looked at.
    """

    def __init__(self, cameras: Sequence[str], transport: str) -> None:
        self.masks: dict[tuple[str, int], int] = {}
        """Time of arrival by camera and stamp, in ns."""
        self.crossed: dict[tuple[str, int], int] = {}
        """The same of what the vehicle sends, of a frame's last message."""
        self._cameras = cameras
        self.node = rclpy.create_node("listener")
        topics = [(MASK, Image, self.masks)]
        between = TRANSPORTS[transport]
        if between is not None:
            topics.append((*between, self.crossed))
        self._topics = [topic for topic, *_ in topics]
        for name, (topic, kind, arrivals) in product(cameras, topics):
            callback = partial(self._note, arrivals, name)
            qos = qos_profile("packets")
            self.node.create_subscription(kind, f"{name}/{topic}", callback, qos, raw=True)

    @staticmethod
    def _note(arrivals: dict[tuple[str, int], int], name: str, message: bytes) -> None:
        # CDR: four bytes that tell of the encoding, then the header's stamp first of all.
        seconds, nanoseconds = struct.unpack_from("<iI", message, 4)
        arrivals[name, seconds * 10**9 + nanoseconds] = time.time_ns()

    def missing(self) -> str:
        """Return which topic lacks a publisher, or camera a listener; empty when none does."""
        for name in self._cameras:
            for topic in self._topics:
                if not self.node.count_publishers(f"{name}/{topic}"):
                    return f"publisher of {name}/{topic}"
            if not self.node.count_subscribers(f"{name}/{IMAGE}"):
                return f"listener to {name}/{IMAGE}"
        return ""

    def masks_of(self, since: int) -> set[str]:
        """Return the cameras of which masks of frames since that stamp came."""
        return {name for name, stamp in list(self.masks) if stamp >= since}


@contextmanager
def private_network() -> Iterator[None]:
    """Keep what is started inside to this machine, and away from whatever else runs on it."""
    with tempfile.TemporaryDirectory(prefix="gosvae-network-") as folder:
        before = dict(os.environ)
        os.environ.update(network(describe({}).environment, Path(folder))[0])
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


class System:
    """Cameras, vehicle and edge, each a process, and a listener; to be used as a context.

    Inside of :func:`private_network`.
    """

    def __init__(self, transport: str, cameras: int, bundle: Path, drive: Path) -> None:
        self._transport = transport
        self._names = [f"camera{index}" for index in range(cameras)]
        self._bundle, self._drive = bundle.absolute(), drive.absolute()
        self._processes: dict[str, psutil.Process] = {}
        self._stack = ExitStack()

    def __enter__(self) -> System:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        """Start the processes, and wait until all have found each other."""
        temporary = tempfile.TemporaryDirectory(prefix="gosvae-pipeline-")
        self._folder = Path(self._stack.enter_context(temporary))
        cores = sorted(os.sched_getaffinity(0))
        vehicle, edge = cores[0], cores[-1]
        values = {"bundle": str(self._bundle), "cameras": ",".join(self._names)}
        if self._transport == "tokens":
            nodes = self._stack.enter_context(Processes({}, self._folder))
            for node in describe(values).nodes:
                who, core = ("vehicle", vehicle) if node.side == "tx" else ("edge", edge)
                with pinned(core):
                    self._processes[who] = psutil.Process(nodes.start(node))
        else:
            expert = ("--bundle", str(self._bundle))
            if self._transport == "jpeg":
                self._reference("vehicle", vehicle, "jpeg-vehicle")
            self._reference("edge", edge, f"{self._transport}-edge", *expert)
        self._camera = self._reference("camera", vehicle, "camera", "--drive", str(self._drive))
        with pinned(edge):
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
            self._stack.callback(rclpy.try_shutdown)
            self.listener = Listener(self._names, self._transport)
            self._stack.enter_context(spinning(self.listener.node))
        self._await(lambda: not self.listener.missing(), self.listener.missing)

    def _reference(self, who: str, core: int, role: str, *options: str) -> subprocess.Popen[str]:
        """Start one of our stand-ins and wait until it is ready."""
        command = [*_python("baseline_nodes"), role, *self._names, *options]
        with pinned(core), (self._folder / f"{who}.log").open("w") as log:
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=_environment()
            )
        self._stack.callback(_end, process)
        self._processes[who] = psutil.Process(process.pid)
        assert process.stdout is not None
        if process.stdout.readline() != '"ready"\n':
            raise GosvaeError(f"{who} does not start\n{self._last_words()}")
        return process

    def _await(self, done: Callable[[], bool], lacking: Callable[[], str]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not done():
            if time.monotonic() > deadline:
                raise GosvaeError(
                    f"{self._transport}, {len(self._names)} cameras: no {lacking()} within "
                    f"{DEADLINE:.0f} s\n{self._last_words()}"
                )
            time.sleep(0.05)

    def _last_words(self) -> str:
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs)

    @contextmanager
    def playing(self, size: str, rate: float, stamps: list[int]) -> Iterator[None]:
        """Have frames come, from the first mask of every camera on; then fill in their stamps."""
        assert self._camera.stdin is not None and self._camera.stdout is not None
        self.listener.masks.clear()
        self.listener.crossed.clear()
        since = time.time_ns()
        try:
            print(json.dumps([*SIZES[size], rate]), file=self._camera.stdin, flush=True)
            names = set(self._names)
            self._await(lambda: self.listener.masks_of(since) == names, lambda: "mask")
            time.sleep(SETTLE)
            yield
        finally:
            with suppress(BrokenPipeError):
                print("stop", file=self._camera.stdin, flush=True)
            stamps += json.loads(self._camera.stdout.readline() or "[]")

    def measure(self, size: str, rate: float, seconds: float) -> dict[str, Any]:
        """Return the figures of some seconds at a rate.

        Raises:
            GosvaeError: no mask comes; the message holds the processes' last words.
        """
        stamps: list[int] = []
        with self.playing(size, rate, stamps):
            begin, before, memory = time.time_ns(), self._cpu(), self.memory()
            busy = _busy()
            time.sleep(seconds)
            busy = _busy() - busy
            after, end = self._cpu(), time.time_ns()
            last, names = self.memory(), set(self._names)
            drained = time.monotonic() + DRAIN
            while self.listener.masks_of(end) != names and time.monotonic() < drained:
                time.sleep(0.02)
        inside = [stamp for stamp in stamps if begin <= stamp < end]
        wall = (end - begin) / 1e9
        found = figures(inside, self.listener.masks, self.listener.crossed, len(self._names))
        return {
            **asdict(Run(self._transport, size, len(self._names), rate)),
            "seconds": round(wall, 1),
            "camera_rate": round(len(inside) / wall, 2),
            **found,
            "cpu": {who: round((after[who] - before[who]) / wall, 3) for who in after},
            "cpu_of_others": round((busy + sum(before.values()) - sum(after.values())) / wall, 3),
            "rss_mb": {who: [memory[who], last[who]] for who in memory},
        }

    def soak(self, size: str, rate: float, seconds: float) -> dict[str, Any]:
        """Return the memory of vehicle and edge every SOAK_STEP seconds."""
        stamps: list[int] = []
        memory: list[dict[str, float]] = []
        count = 0
        with self.playing(size, rate, stamps):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                memory.append(self.memory())
                time.sleep(min(SOAK_STEP, seconds))
                # Else it is the listener that grows.
                count += len(self.listener.masks)
                self.listener.masks.clear()
                self.listener.crossed.clear()
            memory.append(self.memory())
        return {
            **asdict(Run(self._transport, size, len(self._names), rate)),
            "seconds": seconds,
            "frames": len(stamps) * len(self._names),
            "masks": count,
            "step_s": min(SOAK_STEP, seconds),
            "rss_mb": {who: [each[who] for each in memory] for who in ("vehicle", "edge")},
        }

    def _cpu(self) -> dict[str, float]:
        processes = {**self._processes, "listener": psutil.Process()}
        times = {who: process.cpu_times() for who, process in processes.items()}
        return {who: each.user + each.system for who, each in times.items()}

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each process in MB."""
        return {
            who: round(process.memory_info().rss / 1e6, 1)
            for who, process in self._processes.items()
        }


def _busy() -> float:
    """Return for how many seconds cores have worked since the machine started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def sustained(system: System, transport: str, size: str, seconds: float) -> dict[str, Any]:
    """Return the figures at the highest rate at which hardly anything is lost, all trials beside.

    A trial that loses a little too much is made a second time, as whatever else the machine does
    may be the cause.
    """
    good: dict[float, dict[str, Any]] = {}
    trials: list[dict[str, Any]] = []

    def holds(rate: float, again: bool = True) -> bool:
        try:
            result = system.measure(size, rate, seconds)
        except GosvaeError:  # not even a first mask in time
            return False
        trials.append({key: result[key] for key in ("rate", "camera_rate", "drops")})
        drops = result["drops"]
        if drops is None or result["camera_rate"] < PACE * rate:
            return False
        if drops > DROPS:
            return again and drops < CLOSE and holds(rate, False)
        good[rate] = result
        return True

    best = highest(holds)
    return {"transport": transport, "size": size, **good.get(best, {}), "rate": best} | {
        "trials": trials
    }


def _run_of(row: Mapping[str, Any]) -> Run:
    return Run(*(row[key] for key in Run.__annotations__))


class Results:
    """The JSON file: where and with what it was measured, and what has been measured so far."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Open the file, or begin it.

        Raises:
            GosvaeError: it holds results of something else, or no results.
        """
        self._path = path
        empty: dict[str, Any] = {
            "runs": [],
            "sustained": [],
            "soak": None,
            "stages": None,
            "references": None,
        }
        self.found = {**about, **empty}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            different = [key for key in about if found[key] != about[key] and key != "date"]
            self.found = {**found, **{key: found[key] for key in empty}}
        except (ValueError, KeyError, TypeError) as error:
            raise GosvaeError(f"{path} holds no results: remove it, or name another") from error
        if different:
            raise GosvaeError(
                f"{path} has results of other {', '.join(different)}: remove it, or name another"
            )

    def write(self) -> None:
        """Write the file, whole or not at all."""
        write_whole(self._path, json.dumps(self.found, indent=1) + "\n")

    def todo(self, planned: Sequence[Run]) -> list[Run]:
        """Return the runs that are missing, or were disturbed."""
        done = {_run_of(row) for row in self.found["runs"] if row["cpu_of_others"] <= DISTURBED}
        return [run for run in planned if run not in done]

    def add(self, row: dict[str, Any]) -> None:
        """Take in a run's figures, in place of disturbed ones, if they are less disturbed."""
        before = [each for each in self.found["runs"] if _run_of(each) == _run_of(row)]
        best = min([*before, row], key=lambda each: float(each["cpu_of_others"]))
        rest = [each for each in self.found["runs"] if _run_of(each) != _run_of(row)]
        order = runs(quick=False)
        self.found["runs"] = sorted([*rest, best], key=lambda each: order.index(_run_of(each)))

    def climbs(self, planned: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the transports and sizes whose highest rate is missing."""
        done = {(row["transport"], row["size"]) for row in self.found["sustained"]}
        return [each for each in planned if each not in done]


def about(bundle: ModelBundle, drive: Path) -> dict[str, Any]:
    """Return what results are of."""
    return {
        "bundle": bundle.name,
        "fingerprint": f"{bundle.fingerprint:016x}",
        "expert": str(bundle.manifest["expert"]["sha256"])[:16],
        "data": {"name": drive.name, "sha256": hashlib.sha256(drive.read_bytes()).hexdigest()},
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
            "numba": version("numba"),
            "rmw": rclpy.get_rmw_implementation_identifier(),
        },
        "date": str(date.today()),
    }


def measure_all(options: argparse.Namespace, results: Results) -> None:
    """Measure what is missing, writing the file after each."""
    found = results.found
    todo = results.todo(runs(options.quick))
    sizes = ["480x360", "1024x512"] if options.quick else list(SIZES)
    climbs = results.climbs(list(product(TRANSPORTS, sizes)))
    soaks = bool(options.soak) and found["soak"] is None
    total = len(todo) + len(climbs) + soaks + (found["stages"] is None)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
    with private_network(), Progress(*columns, TimeElapsedColumn()) as progress:
        bar = progress.add_task("pipeline", total=total)

        def done() -> None:
            results.write()
            progress.advance(bar)

        if found["stages"] is None:
            progress.update(bar, description="stages")
            found.update(stages(options.bundle, options.data))
            done()
        for transport, cameras in dict.fromkeys((run.transport, run.cameras) for run in todo):
            progress.update(bar, description=f"{transport}, {cameras} cameras")
            with System(transport, cameras, options.bundle, options.data) as system:
                for run in todo:
                    if (run.transport, run.cameras) == (transport, cameras):
                        text = f"{transport}, {run.size}, {cameras} x {run.rate:g} Hz"
                        progress.update(bar, description=text)
                        results.add(system.measure(run.size, run.rate, options.seconds))
                        done()
        for transport in dict.fromkeys(transport for transport, _ in climbs):
            with System(transport, 1, options.bundle, options.data) as system:
                for size in [size for which, size in climbs if which == transport]:
                    progress.update(bar, description=f"highest rate: {transport}, {size}")
                    climb = sustained(system, transport, size, options.seconds / 2)
                    found["sustained"].append(climb)
                    done()
        if soaks:
            progress.update(bar, description=f"soak, {options.soak:.0f} s")
            with System("tokens", 1, options.bundle, options.data) as system:
                found["soak"] = system.soak("480x360", 10, options.soak)
                done()


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", f"gosvae_bench.{module}"]


def _environment() -> dict[str, str]:
    """Return this process's environment, with this package to be found."""
    paths = [_BENCH, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def stages(bundle: Path, drive: Path) -> dict[str, Any]:
    """Return the milliseconds of stages by size, ours and the references', of an own process."""
    with tempfile.TemporaryDirectory(prefix="gosvae-stages-") as folder:
        path = Path(folder) / "stages.json"
        command = [*_python("stages"), str(bundle), "--data", str(drive), "--json", str(path)]
        with pinned(min(os.sched_getaffinity(0))):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment())
        found = json.loads(path.read_text())
    return {name: found[name] for name in ("stages", "references")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.system", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", type=Path, default=Path("out/pipeline.json"), help="results")
    parser.add_argument("--bundle", type=Path, default=Path("models/camvid-base"))
    parser.add_argument("--data", type=Path, default=Path("drives/street.mcap"), help="a drive")
    parser.add_argument("--quick", action="store_true", help="the rows that tell most")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--soak", type=float, default=600.0, help="seconds of it; 0: none")
    options = parser.parse_args(arguments)
    try:
        results = Results(options.json, about(ModelBundle.load(options.bundle), options.data))
        measure_all(options, results)
    except (GosvaeError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run with the same file goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
