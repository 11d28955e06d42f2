"""The view in a real browser, of a pipeline that runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from ament_index_python.packages import get_package_prefix
from drives import write_drive
from harness import DEADLINE, DOMAINS

from gosvae_codec import ModelBundle

GOSVAE = Path(get_package_prefix("gosvae_bringup")) / "lib" / "gosvae_bringup" / "gosvae"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PATIENCE = 240.0
"""Seconds that a browser may take to draw the page by software, beside all else."""

pytest.importorskip("rerun", reason="needs rerun-sdk: the dependency group view")
view = pytest.importorskip("gosvae_tools.view")
playwright = pytest.importorskip("playwright.sync_api")


def free_port() -> int:
    """A port that is free, as is the next one."""
    while True:
        with socket.socket() as probe, socket.socket() as beside:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            try:
                beside.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@contextmanager
def running_view(tmp_path: Path, bundle: Path, saved: Path) -> Iterator[int]:
    """Play a drive in a loop, slowly, with the view beside it, and yield the page's port."""
    write_drive(tmp_path / "street", 30, (120, 160))
    port = free_port()
    settings = f"{{open_browser: false, port: {port}, save: {saved}}}"
    parameters = tmp_path / "view.yaml"
    parameters.write_text(f"gosvae_view: {{ros__parameters: {settings}}}")
    arguments = ["run", "--bag", tmp_path / "street", "--bundle", bundle, "--loop", "--view"]
    arguments += ["--rate", "0.2", "--params-file", parameters]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [GOSVAE, *arguments],
            env={**os.environ, "ROS_DOMAIN_ID": str(next(DOMAINS))},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(2 * DEADLINE) == 0, log.read_text()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def amount(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - color).max(axis=2) <= 2).sum())


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not installed")
def test_the_page_shows_pictures_and_figures_of_a_running_pipeline(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    saved = tmp_path / "view.rrd"
    switches = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    width, height = 1000, 640
    palette = [label.color for label in bundle.labels.labels]
    classes, plotted, contrast = 0, 0, 0.0
    deadline = time.monotonic() + PATIENCE
    with running_view(tmp_path, bundle.path, saved) as port, playwright.sync_playwright() as driver:
        while not is_listening(port):
            assert time.monotonic() < deadline, "no page"
            time.sleep(0.1)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=switches)
        page = browser.new_page(viewport={"width": width, "height": height})
        # The page logs its shaders, tens of thousands of lines.
        page.add_init_script("console.debug = console.log = console.info = () => {}")
        page.goto(f"http://127.0.0.1:{port}/?url=rerun%2Bhttp://127.0.0.1:{port + 1}/proxy")
        while classes < 3 or plotted < 100 or contrast < 20:
            assert time.monotonic() < deadline, (classes, plotted, contrast)
            data = page.screenshot(timeout=PATIENCE * 1000, path=str(tmp_path / "page.png"))
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            # The overlay, which is a JPEG; below it the mask, its pixels whole; last the legend,
            # which shows all colours by itself.
            contrast = picture[70 : height // 2, : round(width * 0.7)].std()
            mask = picture[height // 2 : round(height * 0.75), : round(width * 0.7)]
            classes = sum(amount(mask, color) > 200 for color in palette)
            plotted = amount(picture[:, round(width * 0.73) :], view.SERIES_COLORS[0])
            page.wait_for_timeout(1000)
        browser.close()
    assert saved.stat().st_size > 1 << 16
