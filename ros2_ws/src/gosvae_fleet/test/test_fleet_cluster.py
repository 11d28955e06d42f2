"""The service on a Ray cluster that is there before it, with replicas that follow the load."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zenoh", reason="the extra uplink is not installed")
pytest.importorskip("ray", reason="the extra fleet is not installed")

from gosvae_codec import ModelBundle
from gosvae_common.shipped import find_bundle
from gosvae_fleet.demo import Fleet
from gosvae_fleet.service import replica_processes

pytestmark = pytest.mark.slow

DEADLINE = 240.0
NAMES = ["v01", "v02", "v03", "v04"]


def wait(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        time.sleep(0.1)


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """Yield the environment in which `auto` is a cluster of this machine, of this test alone."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short, as paths of sockets have to be
    environment = {**os.environ, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port=0"]
    command += ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=268435456"]
    with (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait((Path(folder) / "ray" / "ray_current_cluster").exists)
        yield environment
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_service_joins_a_cluster_and_grows_with_the_load(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    bundle = ModelBundle.load(find_bundle())
    fleet = Fleet(tmp_path, NAMES)
    command = ["gosvae", "fleet", "--address", "auto", "--replicas", "1-2", "--holders", "1"]
    command += ["--vehicles", str(fleet.vehicles), "--certificates", str(tmp_path)]
    command += ["--router", fleet.endpoint, "--metrics", "127.0.0.1:0"]
    log = tmp_path / "log"
    with log.open("w") as output:
        service = subprocess.Popen(command, env=cluster, stdout=output, text=True)
    try:
        wait(lambda: "ready; metrics at" in log.read_text(), service)
        assert len(replica_processes(bundle.fingerprint)) == 1
        # More than a replica on one thread makes: a frame takes it some 40 ms.
        fleet.simulate(NAMES, 20.0, "--recorded")
        wait(lambda: fleet.masks_since(0) == set(NAMES), service)
        wait(lambda: len(replica_processes(bundle.fingerprint)) == 2, service)
        service.send_signal(signal.SIGTERM)
        assert service.wait(DEADLINE) == 0
        # The cluster lives, and nothing of the service in it.
        wait(lambda: not replica_processes(bundle.fingerprint))
        assert all(json.loads(line)["message"] for line in log.read_text().splitlines())
    finally:
        if service.poll() is None:
            service.kill()
        fleet.close()
