# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The viewer: its controls in Python, and the page in a real browser."""

import shutil
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_frames import wall_frame

from vggt_ros.errors import UserError
from vggt_ros.tools.runs.format import Run, open_run
from vggt_ros.tools.runs.writer import RunWriter
from vggt_ros.tools.view import view
from vggt_ros.tools.viewer import Viewer, reachable
from vggt_ros.tools.viewer_map import map_graph
from vggt_ros.tools.viewer_panel import strip

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
    return [cloud.visible for cloud in viewer.clouds]


def test_the_frame_slider_selects_the_visible_clouds(viewer):
    viewer.show([wall_frame(0.1 * i) for i in range(3)])
    assert visible(viewer) == [True, True, True]
    viewer.panel.frame.value = 1
    viewer.update_visibility()
    assert visible(viewer) == [True, True, False]
    viewer.panel.all_frames.value = False
    viewer.update_visibility()
    assert visible(viewer) == [False, True, False]


def test_the_address_that_is_printed_can_be_opened():
    assert reachable("127.0.0.1") == "127.0.0.1" and reachable("::1") == "[::1]"
    for anywhere in ("0.0.0.0", "::"):
        assert reachable(anywhere) not in ("0.0.0.0", "::", "")
        socket.getaddrinfo(reachable(anywhere), 80)


def test_a_higher_confidence_only_removes_points(viewer):
    frame = wall_frame()
    frame.confidence[:, :10] = 2
    viewer.panel.cut.value = False
    viewer.show([frame])
    cloud = viewer.clouds[0]
    before = len(cloud.points)
    viewer.panel.confidence.value = 3.0
    viewer.update_points()
    assert before == 30 * 40 and len(cloud.points) == 30 * 30


def test_live_frames_replace_the_oldest(viewer):
    for index in range(6):
        viewer.add(wall_frame(0.1 * index))
    assert len(viewer.frames) == 4 and viewer.panel.frame.value == 3
    assert viewer.frames[0].world_from_camera[0, 3] == pytest.approx(0.2)


def test_points_and_cameras_have_the_positions_of_the_frame(viewer):
    viewer.show([wall_frame(1.0)])
    cloud, frustum = viewer.clouds[0], viewer.frusta[0]
    assert np.allclose(cloud.points[:, 0], 3.0)  # one along x, and two ahead
    assert np.allclose(frustum.position, [1, 0, 1])


def test_the_strip_has_a_border_around_the_selected_image():
    images = [np.full((30, 40, 3), 10 * index, np.uint8) for index in range(9)]
    row = strip(images, 8)
    assert row.shape[1] == 5 * 100
    assert row[0, 4 * 100 + 5].tolist() == [255, 138, 60] and row[0, 5].tolist() == [40, 40, 40]


SEGMENTS = {"segments": [0, 2, 3], "segment_numbers": [0, 1, 0], "uncertain_frames": [4]}


def a_run(path: Path, **summary: Any) -> Run:
    """Six frames, one unit and half a second from one to the next."""
    with RunWriter(path, {}) as writer:
        for index in range(6):
            frame = wall_frame(float(index))
            writer.add(frame._replace(stamp_ns=10**18 + index * 500_000_000))
        writer.summarise(summary)
    return open_run(path)


def test_segments_are_shown_one_at_a_time_without_uncertain_frames(tmp_path: Path, monkeypatch):
    """Nothing ties them together: side by side they would look like one scene."""
    a_run(tmp_path / "run", **SEGMENTS)
    shown = []
    show = Viewer.show

    def places(viewer: Viewer) -> list[int]:
        return [round(float(frame.world_from_camera[0, 3])) for frame in viewer.frames]

    def watched(self, frames, graph):
        show(self, frames, graph)
        shown.append(places(self))
        if len(shown) == 1:
            assert self.panel.segment.options == ("0: 4 frames", "1: 1 frames")
            self.panel.segment.value = "1: 1 frames"  # as a user of the page does
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(Viewer, "show", watched)
    with pytest.raises(KeyboardInterrupt):
        view(tmp_path / "run", port=0)
    assert shown == [[0, 1, 3, 5], [2]]
    with pytest.raises(UserError, match="there is no segment 2; .* has 0 to 1"):
        view(tmp_path / "run", segment=2)


def test_frames_that_the_page_leaves_out_are_said(tmp_path: Path, monkeypatch, capsys):
    a_run(tmp_path / "run")

    def ended(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vggt_ros.tools.view.time.sleep", ended)
    for limit, text in ((300, "6 frames at "), (4, "3 frames of 6 (--every 2) at ")):
        monkeypatch.setattr("vggt_ros.tools.view.MAX_FRAMES", limit)
        with pytest.raises(KeyboardInterrupt):
            view(tmp_path / "run", port=0)
        assert capsys.readouterr().out.startswith(text)


def test_keyframes_and_loops_of_a_segment_appear_with_time(viewer, tmp_path: Path):
    run = a_run(tmp_path / "run", **SEGMENTS, keyframes=[0, 2, 3, 5], loops=[[0, 5], [2, 3]])
    graph = map_graph(run, run.segments()[0])
    assert np.round(graph.world_from_camera[:, 0, 3]).tolist() == [0, 3, 5]
    assert graph.loops.tolist() == [[0, 2]], "keyframe 2 is of the other segment"
    viewer.show([run.frame(index) for index in (0, 1, 3, 5)], graph)
    cameras, loops = viewer.map.nodes
    assert cameras.visible and loops.visible and cameras.points.shape == (3 * 8, 2, 3)
    assert np.round(loops.points[0, :, 0]).tolist() == [0, 5]
    viewer.panel.frame.value = 2
    viewer.update_visibility()
    assert len(cameras.points) == 2 * 8 and not loops.visible
    viewer.panel.map.value = False
    viewer.update_visibility()
    assert not cameras.visible
    viewer.show([run.frame(2)])
    assert viewer.map.nodes == [] and len(viewer.clouds) == 1


def test_the_run_of_an_earlier_version_has_no_keyframes(viewer, tmp_path: Path):
    run = a_run(tmp_path / "run")
    viewer.show(list(run.frames()), map_graph(run, range(6)))
    assert viewer.map.nodes == [] and not viewer.panel.map.visible


def test_the_time_slider_selects_the_frame_of_that_time(viewer, tmp_path: Path):
    run = a_run(tmp_path / "run")
    viewer.show([run.frame(index) for index in (0, 1, 4)])
    assert viewer.panel.time.visible
    assert viewer.panel.time.max == viewer.panel.time.value == pytest.approx(2.0)
    for seconds, frame in ((1.9, 1), (0.5, 1), (0.3, 0), (2.0, 2)):
        viewer.panel.time.value = seconds
        assert viewer.panel.frame.value == frame and visible(viewer) == [
            index <= frame for index in range(3)
        ]
    assert viewer.panel.time.value == 2.0, "it stays where it was put"
    viewer.panel.frame.value = 1
    assert viewer.panel.time.value == pytest.approx(0.5)


def test_frames_of_one_time_have_no_time_slider(viewer):
    viewer.show([wall_frame(0.0), wall_frame(1.0)])
    assert not viewer.panel.time.visible and viewer.panel.frame.value == 1


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is not a run; make one with"):
        view(tmp_path)


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: the page is not tested")
def test_a_browser_shows_the_wall_and_the_panel(viewer):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    red = wall_frame()
    red.image[:] = [220, 30, 30]
    viewer.show([red])
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 640, "height": 480})
        page.goto(viewer.address, timeout=120_000)
        page.get_by_text("confidence above").wait_for(timeout=120_000)
        wall = np.zeros((480, 640), bool)
        for _ in range(240):  # software rendering on a busy machine is slow
            if wall.mean() > 0.02:
                break
            page.wait_for_timeout(500)
            image = np.array(Image.open(BytesIO(page.screenshot(timeout=120_000))).convert("RGB"))
            wall = (image[..., 0] > 150) & (image[..., 1:].max(-1) < 80)
        browser.close()
    assert wall.mean() > 0.02
    rows, columns = np.nonzero(wall)
    assert 100 < columns.mean() < 540 and 80 < rows.mean() < 400  # in view from the start
