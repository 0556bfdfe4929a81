# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt app` as a process, and its page in a real browser."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from test_app import COUNT, uploads
from test_viewer import CHROMIUM, FLAGS

pytest.importorskip("gradio", reason="the page needs the extra [app]")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: the page is not tested"),
]
PATIENCE = 300.0  # seconds, of a busy machine
SERVER = """
import sys
import vggt_ros.engine.engine as engine
from fakes.planar_engine import planar_engine_of_a_run
from vggt_ros.tools import cli
engine.open_engine = lambda *_, **__: planar_engine_of_a_run()
sys.argv = "vggt app --port 0 --max-images 6 --max-megabytes 1".split()
cli.main()
"""


@pytest.fixture
def server(tmp_path: Path, root: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command with an exact network, in a process of its own, and its address."""
    (tmp_path / "temporary").mkdir()
    unreachable = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, **unreachable, "TMPDIR": str(tmp_path / "temporary"),
                   "PYTHONPATH": f"{root}{os.pathsep}{root / 'test'}"}  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment, text=True,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[0]
        finally:
            process.kill()


@pytest.fixture
def tab(server) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        tab.set_default_timeout(1000 * PATIENCE)
        yield tab
        browser.close()


def test_upload_reconstruct_look_click_and_leave(server, tab, tmp_path: Path):
    process, address = server
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)

    upload = tab.locator("input[type=file]").first
    upload.set_input_files(uploads(tmp_path / "many", COUNT + 1))
    tab.get_by_text(f"{COUNT + 1} files are too many: upload at most {COUNT}").wait_for()
    upload.set_input_files(uploads(tmp_path / "mine"))
    tab.get_by_text(f"received: {COUNT} images").wait_for()

    tab.get_by_role("button", name="Reconstruct").click()
    tab.get_by_text("5 keyframes").wait_for()
    wait_for_images(tab, "depth", COUNT)
    assert soon(lambda: is_coloured(tab.locator("#scene").screenshot())), "the cloud is drawn"
    links = tab.locator("#downloads a[download]")
    glb, colmap, npz = (tab.request.get(link.get_attribute("href")).body() for link in links.all())
    assert len(trimesh.load_scene(BytesIO(glb), file_type="glb").geometry) > COUNT
    assert colmap.startswith(b"PK") and np.load(BytesIO(npz))["depth"].shape[0] == COUNT
    for name in ("Confidence", "Masks"):
        tab.get_by_role("tab", name=name).click()
        wait_for_images(tab, name.lower(), COUNT)

    tab.get_by_role("tab", name="Tracks").click()
    first = tab.locator("#first img")
    first.wait_for()
    before = first.get_attribute("src")
    first.click()  # at its centre
    assert soon(lambda: first.get_attribute("src") != before), "the point is drawn"
    tab.get_by_role("button", name="Track points").click()
    wait_for_images(tab, "tracks", COUNT)
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    assert tab.get_by_role("alert").count() <= 1, "no error but that of the first upload"

    local = re.compile(r"http://127\.0\.0\.1:|blob:|data:")
    assert [url for url in asked if not local.match(url)] == [], "no other host is asked"
    assert contents(tmp_path / "temporary")
    tab.close()
    assert soon(lambda: not contents(tmp_path / "temporary")), "deleted with the page"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert not list((tmp_path / "temporary").iterdir())


def contents(folder: Path) -> list[Path]:
    """Files with anything in them."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def wait_for_images(tab: Any, name: str, count: int) -> None:
    """Until a strip shows so many images that were loaded."""
    tab.wait_for_function(
        "([name, count]) => { const images = [...document.querySelectorAll(`#${name} img`)];"
        " return images.length >= count && images.every(x => x.complete && x.naturalWidth > 0) }",
        arg=[name, count],
    )


def is_coloured(screenshot: bytes) -> bool:
    """Whether something is drawn beside the frame: an empty page has shades of white only."""
    image = np.array(Image.open(BytesIO(screenshot)).convert("RGB")).astype(int)
    return np.ptp(image[60:-20, 20:-20], axis=2).max() > 60


def soon(happens: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.5)
    return False
