# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page in the browser: its controls in Python, and once in a real browser."""

import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_picture import shot

from vggt_ros.errors import UserError
from vggt_ros.tools.viewer import Viewer, strip, view

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --no-first-run --disable-quic --disable-background-networking "
    "--disable-component-update --disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader"
)


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    viewer = Viewer(0, title="test", unit="m", keep=4)
    yield viewer
    viewer.close()


def visible(viewer: Viewer) -> list[bool]:
    return [cloud.visible for cloud, _ in viewer._nodes]


def test_the_frame_slider_chooses_what_is_shown(viewer):
    viewer.show([shot(0.1 * i) for i in range(3)])
    assert visible(viewer) == [True, True, True]
    viewer._frame.value = 1
    viewer._refresh()
    assert visible(viewer) == [True, True, False]
    viewer._all.value = False
    viewer._refresh()
    assert visible(viewer) == [False, True, False]


def test_raising_the_confidence_only_removes_points(viewer):
    trusted = shot()
    trusted.confidence[:, :10] = 2
    viewer._cut.value = False
    viewer.show([trusted])
    cloud = viewer._nodes[0][0]
    before = len(cloud.points)
    viewer._confidence.value = 3.0
    viewer._filter()
    assert before == 30 * 40 and len(cloud.points) == 30 * 30


def test_live_shots_push_out_the_oldest(viewer):
    for index in range(6):
        viewer.add(shot(0.1 * index))
    assert len(viewer._shots) == 4 and viewer._frame.value == 3
    assert viewer._shots[0].world_from_camera[0, 3] == pytest.approx(0.2)


def test_points_and_cameras_lie_where_the_shot_says(viewer):
    viewer.show([shot(1.0)])
    cloud, pyramid = viewer._nodes[0]
    assert np.allclose(cloud.points[:, 0], 3.0)  # one along x, and two ahead
    assert np.allclose(pyramid.position, [1, 0, 1])


def test_the_strip_frames_the_image_that_is_meant():
    images = [np.full((30, 40, 3), 10 * index, np.uint8) for index in range(9)]
    row = strip(images, 8)
    assert row.shape[1] == 5 * 100
    assert row[0, 4 * 100 + 5].tolist() == [255, 138, 60] and row[0, 5].tolist() == [40, 40, 40]


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is not a run; make one with"):
        view(tmp_path)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: the page was not looked at")
def test_a_browser_shows_the_wall_and_the_panel(viewer):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    red = shot()
    red.image[:] = [220, 30, 30]
    viewer.show([red])
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 640, "height": 480})
        page.goto(viewer.address, timeout=120_000)
        page.get_by_text("confidence above").wait_for(timeout=120_000)
        wall = np.zeros((480, 640), bool)
        for _ in range(240):  # a busy machine draws slowly, without a graphics card above all
            if wall.mean() > 0.02:
                break
            page.wait_for_timeout(500)
            picture = np.array(Image.open(BytesIO(page.screenshot(timeout=120_000))).convert("RGB"))
            wall = (picture[..., 0] > 150) & (picture[..., 1:].max(-1) < 80)
        browser.close()
    assert wall.mean() > 0.02
    rows, columns = np.nonzero(wall)
    assert 100 < columns.mean() < 540 and 80 < rows.mean() < 400  # in view from the start
