# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the drawn picture shows is where geometry says it is."""

import numpy as np
import pytest

from vggt_ros.tools.runs.format import Shot
from vggt_ros.tools.runs.overview import picture
from vggt_ros.tools.runs.splat import Dots, Eye, bounds, dots_from, perspective_eye, splat, top_eye

WORLD_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def shot(x: float = 0.0, depth: float = 2.0, turned: float = 0.0) -> Shot:
    """A wall straight ahead of a camera one unit above the floor, `turned` about the vertical."""
    c, s = np.cos(turned), np.sin(turned)
    pose = np.array([[c, -s, 0, x], [s, c, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]) @ WORLD_FROM_OPTICAL
    return Shot(
        depth=np.full((30, 40), depth, np.float32),
        confidence=np.full((30, 40), 5, np.float32),
        intrinsics=np.array([[40.0, 0, 19.5], [0, 40, 14.5], [0, 0, 1]]),
        world_from_camera=pose,
        stamp_ns=1,
        image=np.full((30, 40, 3), 200, np.uint8),
    )


def test_a_dot_is_drawn_where_it_projects_and_the_nearest_wins():
    eye = Eye(np.eye(4), focal=50.0, width=60, height=40, centre=(30.0, 20.0))
    points = np.array([[0.21, -0.09, 1], [0.42, -0.18, 2], [0, 0, -1]], np.float32)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    drawn, seen = splat(eye, Dots(points, colours, np.full(3, 1e-3, np.float32)))
    assert seen.sum() == 1  # one hides the other, and one lies behind the eye
    assert drawn[15, 40].tolist() == [255, 0, 0]


def test_a_wide_dot_covers_what_its_surface_covers():
    eye = Eye(np.eye(4), focal=50.0, width=60, height=40, centre=(30.0, 20.0))
    dots = Dots(
        np.array([[0, 0, 1]], np.float32),
        np.full((1, 3), 255, np.uint8),
        np.array([0.1], np.float32),  # five pixels at this distance
    )
    assert 25 <= splat(eye, dots)[1].sum() <= 49


@pytest.mark.parametrize("turns", [[0.0, 0.2, 0.4], [0.0, 2.1, 4.2]])
def test_both_eyes_have_the_whole_scene_in_view(turns):
    shots = [shot(0.1 * i, turned=turn) for i, turn in enumerate(turns)]
    points = dots_from(shots).points.astype(float)
    poses = np.array([shot.world_from_camera for shot in shots])
    box = bounds(points, poses)
    inside = points[((points >= box[0]) & (points <= box[1])).all(1)]
    for eye in (perspective_eye(points, poses, box, 300, 200), top_eye(box, 200, 300)):
        u, v, z = eye.project(inside).T
        assert (z > 0).all()
        assert (u >= 0).all() and (u <= eye.width).all()
        assert (v >= 0).all() and (v <= eye.height).all()


def test_up_is_up():
    shots = [shot()]
    dots = dots_from(shots)
    poses = np.array([shots[0].world_from_camera])
    eye = perspective_eye(dots.points, poses, bounds(dots.points, poses), 300, 200)
    low, high = eye.project(np.array([[2.0, 0, 0], [2.0, 0, 1]]))
    assert high[1] < low[1]


def test_too_many_points_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr("vggt_ros.tools.runs.splat.MOST_POINTS", 600)
    assert 500 <= len(dots_from([shot(), shot(1.0)]).points) <= 600


@pytest.mark.parametrize("count", [0, 1, 30])
def test_a_picture_comes_of_any_number_of_shots_even_of_nonsense(count):
    shots = [shot(0.1 * index) for index in range(count)]
    if count == 30:
        shots[0].depth[:] = np.nan
        shots[1].depth[:] = 1e30
    assert picture(shots, caption="test").size == (1600, 1000)
