# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Points that other views have seen at their depth stay in ~/points, floating ones do not."""

from dataclasses import replace

import numpy as np
import pytest
from fakes.oracle import VGGT_LIKE
from fakes.room import BASE_FROM_CAMERA, HEIGHT, INTRINSICS, WIDTH, true_depth
from node_rig import Rig
from rclpy.parameter import Parameter
from robot_rig import SimulatedRobot
from sensor_msgs.msg import PointCloud2

from vggt_ros.errors import UserError
from vggt_ros.mapping.cloud.agreement import DepthView, agreed, is_smooth
from vggt_ros.ros.parameters import Parameters

pytestmark = pytest.mark.ros

K = np.array([[40.0, 0, 30], [0, 40, 20], [0, 0, 1]])
FLOATING = 0.25  # log ratio to the true depth
SURFACE = 0.1


def wall(x: float, depth: float = 2.0) -> DepthView:
    """A camera at x along a wall."""
    pose = np.eye(4)
    pose[0, 3] = x
    return DepthView.of(np.full((40, 60), depth, np.float32), K, pose)


def changed(view: DepthView, pixels, depth: float) -> DepthView:
    image = view.depth.copy()
    image[pixels] = depth
    return DepthView.of(image, view.intrinsics, view.world_from_camera)


# ---- the rule -----------------------------------------------------------------------------------


def test_a_point_needs_so_many_views_that_see_it_at_its_depth():
    view = changed(wall(0.0), np.s_[10, 20], 1.0)  # floats in front of the wall
    view = changed(view, np.s_[30, 40], np.nan)
    others = [wall(0.1), wall(0.2), changed(wall(0.3), np.s_[:], 3.0)]  # the last contradicts
    assert not agreed(view, others, 1, 0.05)[10, 20]
    assert not agreed(view, others, 1, 0.05)[30, 40]
    assert agreed(view, others, 2, 0.05)[5, 30] and not agreed(view, others, 3, 0.05)[5, 30]
    assert agreed(view, [changed(wall(0.1), np.s_[:], 2.15)], 1, 0.1)[5, 30]
    assert not agreed(view, [changed(wall(0.1), np.s_[:], 2.15)], 1, 0.05)[5, 30]
    assert not agreed(view, [], 1, 0.1).any()


def test_what_no_other_view_has_in_its_image_is_not_seen():
    """A shift of 0.5 m at 2 m and a focal length of 40 is ten pixels."""
    seen = agreed(wall(0.0), [wall(0.5)], 1, 0.05)
    assert seen[:, 10:].all() and not seen[:, :10].any()
    turned = wall(0.0)
    turned.world_from_camera[:3, :3] = np.diag([-1.0, 1.0, -1.0])  # it looks the other way
    assert not agreed(wall(0.0), [turned], 1, 0.05).any()


def test_the_answer_does_not_depend_on_how_it_is_computed():
    """Few open pixels are asked one by one, many row by row: all agree with plain arithmetic."""
    random = np.random.default_rng(0)
    views = []
    for i in range(4):
        noise = np.exp(0.03 * random.standard_normal((40, 60)))
        views.append(changed(wall(0.1 * i), np.s_[:], (2.0 * noise).astype(np.float32)))
    v, u = np.mgrid[:40, :60]
    votes = np.zeros((40, 60), int)
    for i, other in enumerate(views[1:], 1):
        column = np.rint(u - 0.1 * i * 40 / views[0].depth).astype(int)
        there = np.where(column >= 0, other.depth[v, column.clip(0)], np.nan)
        votes += np.abs(there / views[0].depth - 1) <= 0.05
    steps = np.abs(np.diff(views[0].depth, axis=1)) / views[0].depth[:, :-1]
    for needed in (1, 2, 3):
        seen = agreed(views[0], views[1:], needed, 0.05)
        assert not (seen & (votes < needed)).any()
        kept = (votes >= needed)[:-1, :-1] & (steps[:-1] < 0.03)  # far from being an edge
        assert seen[:-1, :-1][kept].mean() > 0.95 and kept.sum() > 100


def test_edges_between_two_surfaces_go_and_a_hole_is_no_edge():
    view = changed(wall(0.0), np.s_[10:20, 20:40], 1.0)
    view = changed(view, np.s_[30, 10], np.nan)
    seen = agreed(view, [view], 1, 0.05)
    assert not seen[12, 19] and not seen[12, 39] and not seen[9, 25] and not seen[19, 25]
    assert seen[12, 25] and seen[5, 5]
    assert seen[30, 9] and seen[29, 10], "beside a hole, and at the rim of the image"
    assert seen[39].all() and seen[:, 59].all()
    smooth = is_smooth(view.depth)
    assert not smooth[30, 9] and not smooth[39].any() and not smooth[:, 59].any()


def test_a_window_of_one_frame_cannot_agree():
    with pytest.raises(UserError, match="window_size 1 leaves no other view"):
        Parameters(min_agreement=1, window_size=1)


# ---- through topics -----------------------------------------------------------------------------


def shares(robot: SimulatedRobot, clouds: list[PointCloud2], frames: range) -> tuple[float, float]:
    """In the clouds: the share of pixels that float, and how much of the true surface is there.

    By true depth and poses, that is what the view before had in its image, away from edges.
    """
    floating = surface = everything = 0
    for i in frames:
        depth = np.frombuffer(clouds[i].data, "<f4").reshape(HEIGHT, WIDTH, 5)[..., 2]
        before, now = (true_view(robot.base[j] @ BASE_FROM_CAMERA) for j in (i - 1, i))
        error = np.log(depth / now.depth)
        error -= np.nanmedian(error)
        visible = agreed(now, [before], 1, 0.05)
        floating += (np.abs(error) > FLOATING).sum()
        surface += (np.abs(error[visible]) < SURFACE).sum()
        everything += visible.sum()
    return floating / (len(frames) * HEIGHT * WIDTH), surface / everything


def true_view(world_from_camera: np.ndarray) -> DepthView:
    depth = true_depth(world_from_camera).astype(np.float32)
    return DepthView.of(depth, INTRINSICS, world_from_camera)


@pytest.mark.parametrize("kind", ["arc", "room"])
def test_floating_points_fall_by_ten_and_the_surface_stays(rig: Rig, kind: str):
    """The same ride twice: all points, then those that another view has seen too."""
    faults = replace(VGGT_LIKE, outliers=0.02)
    robot = SimulatedRobot(rig, kind, frames=24, faults=faults)
    node = robot.start(tf_mode="none")
    clouds = rig.subscribe_matched("/vggt/points", PointCloud2)
    found = {}
    for needed in (0, 1):
        node.set_parameters([Parameter("min_agreement", value=needed)])
        clouds.clear()
        robot.infer(*range(24))
        rig.wait_until(lambda: len(clouds) == 24, "all clouds")
        found[needed] = shares(robot, clouds, range(4, 24))
        assert rig.call("reset").success
        robot.engine.random = np.random.default_rng(0)
    (all_floating, all_surface), (floating, surface) = found[0], found[1]
    assert all_floating > 0.01
    assert floating < all_floating / 10
    assert surface > 0.95 * all_surface


def test_the_share_that_agrees_is_said_and_too_few_are_a_warning(rig: Rig):
    robot = SimulatedRobot(rig, "arc", frames=16)
    robot.start(tf_mode="none", min_agreement=4, agreement_tolerance=0.002)
    clouds = rig.subscribe_matched("/vggt/points", PointCloud2)
    robot.infer(*range(12))
    rig.wait_until(lambda: len(clouds) == 12, "all clouds")
    rig.wait_for_diagnostics("min_agreement is 4", "of 6 other views", "raise agreement_tolerance")
