# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The overview image: projections of points, visible scene, any number of frames."""

import numpy as np
import pytest
from run_frames import wall_frame

from vggt_ros.tools.runs.overview import overview
from vggt_ros.tools.runs.splat import (
    Surfels,
    VirtualCamera,
    bounds,
    perspective_camera,
    splat,
    surfels_from,
    top_camera,
)


def test_a_surfel_is_drawn_at_its_projection_and_the_nearest_is_visible():
    camera = VirtualCamera(np.eye(4), focal=50.0, width=60, height=40, centre=(30.0, 20.0))
    points = np.array([[0.21, -0.09, 1], [0.42, -0.18, 2], [0, 0, -1]], np.float32)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    drawn, seen = splat(camera, Surfels(points, colours, np.full(3, 1e-3, np.float32)))
    assert seen.sum() == 1  # one is hidden, and one lies behind the camera
    assert drawn[15, 40].tolist() == [255, 0, 0]


def test_a_wide_surfel_covers_the_pixels_of_its_surface():
    camera = VirtualCamera(np.eye(4), focal=50.0, width=60, height=40, centre=(30.0, 20.0))
    surfels = Surfels(
        np.array([[0, 0, 1]], np.float32),
        np.full((1, 3), 255, np.uint8),
        np.array([0.1], np.float32),  # five pixels at this distance
    )
    assert 25 <= splat(camera, surfels)[1].sum() <= 49


@pytest.mark.parametrize("turns", [[0.0, 0.2, 0.4], [0.0, 2.1, 4.2]])
def test_both_cameras_show_the_whole_scene(turns):
    frames = [wall_frame(0.1 * i, turned=turn) for i, turn in enumerate(turns)]
    points = surfels_from(frames).points.astype(float)
    poses = np.array([frame.world_from_camera for frame in frames])
    box = bounds(points, poses)
    inside = points[((points >= box[0]) & (points <= box[1])).all(1)]
    for camera in (perspective_camera(points, poses, box, 300, 200), top_camera(box, 200, 300)):
        u, v, z = camera.project(inside).T
        assert (z > 0).all()
        assert (u >= 0).all() and (u <= camera.width).all()
        assert (v >= 0).all() and (v <= camera.height).all()


def test_up_in_the_world_is_up_in_the_image():
    frames = [wall_frame()]
    surfels = surfels_from(frames)
    poses = np.array([frames[0].world_from_camera])
    camera = perspective_camera(surfels.points, poses, bounds(surfels.points, poses), 300, 200)
    low, high = camera.project(np.array([[2.0, 0, 0], [2.0, 0, 1]]))
    assert high[1] < low[1]


def test_too_many_points_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr("vggt_ros.tools.runs.splat.MAX_POINTS", 600)
    assert 500 <= len(surfels_from([wall_frame(), wall_frame(1.0)]).points) <= 600


@pytest.mark.parametrize("count", [0, 1, 30])
def test_an_overview_is_drawn_of_any_number_of_frames_and_of_invalid_depth(count):
    frames = [wall_frame(0.1 * index) for index in range(count)]
    if count == 30:
        frames[0].depth[:] = np.nan
        frames[1].depth[:] = 1e30
    assert overview(frames, caption="test").size == (1600, 1000)
