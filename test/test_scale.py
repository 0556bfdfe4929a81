# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metres from wheels, rig, another depth, height: found, kept against nonsense, taken up slowly."""

import numpy as np
import pytest
from oracle import (
    BASE_FROM_CAMERA,
    CAMERA_HEIGHT,
    INTRINSICS,
    Oracle,
    absolute_error,
    drive,
    odometry,
    path_length,
    picture,
    sight,
    turn,
)

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.geometry import transform, unproject
from vggt_ros.mapping import scale
from vggt_ros.mapping.odometry import Odometry
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

SECOND = 1_000_000_000


def stamp(i: int) -> int:
    return SECOND + i * SECOND // 10


def ride(kind, frames=300, *, wheels=None, mounted=True, metres=None, seed=0, **settings):
    """A drive with odometry (poses of the base, one a frame) and perhaps another sensor's depth."""
    truth = drive(kind, frames)
    pipeline = Pipeline(Oracle(truth @ BASE_FROM_CAMERA, seed=seed), Settings(**settings))
    pipeline.mounted(BASE_FROM_CAMERA if mounted else None, BASE_FROM_CAMERA)
    updates, centres = [], []
    for i in range(frames):
        if wheels is not None:
            pipeline.odometry.add(stamp(i), wheels[i])
        depth = None if metres is None else metres(i, truth[i] @ BASE_FROM_CAMERA)
        update = pipeline.step(Frame(picture(i), stamp(i), metres=depth))
        centres = [update.rescaled * centre for centre in centres]
        centres.append(update.views[-1].world_from_camera[:3, 3])
        updates.append(update)
    return updates, np.stack(centres), (truth @ BASE_FROM_CAMERA)[:, :3, 3], pipeline


@pytest.mark.parametrize(
    "kind, frames, mounted", [("room", 300, True), ("arc", 300, False), ("stop_and_go", 300, True)]
)
def test_noisy_odometry_makes_metres(kind, frames, mounted):
    wheels = odometry(drive(kind, frames))
    updates, centres, truth, _ = ride(
        kind, frames, wheels=wheels, mounted=mounted, scale_source="odometry"
    )
    assert updates[-1].metric and updates[-1].scale_source == "odometry"
    error = absolute_error(centres, truth, with_scale=False)
    assert error <= 0.02 * path_length(truth)


def test_the_unit_changes_once_and_then_by_a_percent_a_step():
    updates, *_ = ride("room", 60, wheels=odometry(drive("room", 60)), scale_source="odometry")
    jumps = [update.rescaled for update in updates if update.rescaled != 1.0]
    assert len(jumps) == 1
    first = [update.metric for update in updates].index(True)
    assert all(update.metric for update in updates[first:])
    assert all(abs(update.scale.value - 1) < 0.2 for update in updates[first:])


def test_wheels_that_spin_and_jump_do_not_move_the_scale():
    wheels = odometry(drive("room", 130))
    for i in range(60, 70):  # a second of slip: four times the distance
        step = np.linalg.inv(wheels[i - 1]) @ wheels[i]
        step[:3, 3] *= 3
        wheels[i:] = wheels[i - 1] @ step @ np.linalg.inv(wheels[i]) @ wheels[i:]
    wheels[100:, 0, 3] += 30.0  # somebody reset it
    updates, centres, truth, pipeline = ride("room", 130, wheels=wheels, scale_source="odometry")
    assert absolute_error(centres, truth, with_scale=False) <= 0.02 * path_length(truth)
    assert any("it jumped" in notice for notice in pipeline.odometry.notices)


def test_odometry_that_stops_leaves_the_scale_and_its_age_tells():
    wheels = odometry(drive("room", 70))
    truth = drive("room", 70)
    pipeline = Pipeline(Oracle(truth @ BASE_FROM_CAMERA), Settings(scale_source="odometry"))
    update = None
    for i in range(70):
        if i < 50:
            pipeline.odometry.add(stamp(i), wheels[i])
        update = pipeline.step(Frame(picture(i), stamp(i)))
    assert update is not None and update.metric
    assert stamp(40) <= update.scale.stamp_ns <= stamp(50)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda o: o.add(stamp(4), np.eye(4)), "goes back"),
        (lambda o: o.add(stamp(6), np.eye(4), "map", "base_link"), "not of 'odom -> base_link'"),
        (lambda o: o.add(stamp(6), np.full((4, 4), np.nan)), "not finite"),
    ],
)
def test_bad_odometry_is_refused_by_name(damage, words):
    wheels = Odometry()
    for i in range(6):
        assert wheels.add(stamp(i), np.eye(4))
    assert not damage(wheels)
    assert words in wheels.notices[-1]


def test_odometry_is_interpolated_but_never_extended():
    wheels = Odometry()
    for i in (0, 1):
        pose = np.eye(4)
        pose[:3, :3], pose[0, 3] = turn(np.array([0, 0, 0.2 * i])), 0.1 * i
        wheels.add(stamp(i), pose)
    middle = wheels.at((stamp(0) + stamp(1)) // 2)
    np.testing.assert_allclose(middle[:3, :3], turn(np.array([0, 0, 0.1])), atol=1e-9)
    assert middle[0, 3] == pytest.approx(0.05)
    assert wheels.at(stamp(1) + 1) is None and wheels.at(stamp(0) - 1) is None


def test_a_camera_height_makes_metres_without_motion():
    updates, centres, truth, _ = ride("arc", 30, scale_source="height", camera_height=CAMERA_HEIGHT)
    assert [update.metric for update in updates].index(True) <= 5
    depth = updates[-1].views[-1].depth
    true = sight((drive("arc", 30) @ BASE_FROM_CAMERA)[-1])
    assert np.median(depth / true) == pytest.approx(1.0, abs=0.03)


def test_another_sensors_depth_makes_metres():
    def lidar(i, world_from_camera):  # one row in seven, 2 % noise
        depth = sight(world_from_camera).astype(np.float32)
        depth *= np.random.default_rng(i).normal(1.0, 0.02, depth.shape).astype(np.float32)
        depth[np.arange(len(depth)) % 7 != 0] = np.nan
        return depth

    updates, centres, truth, _ = ride("arc", 40, metres=lidar, scale_source="depth")
    assert updates[-1].scale_source == "depth" and updates[-1].scale.sigma < 0.01
    assert absolute_error(centres, truth, with_scale=False) <= 0.02 * path_length(truth)


def test_sources_that_disagree_are_named_and_the_trusted_one_is_kept():
    wheels = odometry(drive("room", 60))
    updates, *_ = ride(
        "room", 60, wheels=wheels, scale_source="odometry, height", camera_height=1.2
    )
    assert updates[-1].scale_source == "odometry"
    assert "height says" in updates[-1].scale.conflict
    assert "odometry, which is kept" in updates[-1].scale.conflict


def test_the_map_follows_the_trusted_source_as_soon_as_it_is_sure():
    """Height, twice as large as it should be, speaks first; wheels need to travel."""
    updates, centres, truth, _ = ride(
        "room",
        120,
        wheels=odometry(drive("room", 120)),
        scale_source="odometry, height",
        camera_height=2 * CAMERA_HEIGHT,
    )
    jumps = [(i, u.rescaled) for i, u in enumerate(updates) if u.rescaled != 1.0]
    assert len(jumps) == 2 and jumps[0][0] < 5 < jumps[1][0]
    assert jumps[1][1] == pytest.approx(0.5, rel=0.1)
    assert updates[jumps[1][0] - 1].scale_source == "height"
    assert absolute_error(centres, truth, with_scale=False) <= 0.02 * path_length(truth)


def test_what_a_later_segment_has_seen_follows_its_scale(monkeypatch):
    """All but its own beginning is in metres already; about the camera, that follows too."""
    truth, wheels = drive("room", 90), odometry(drive("room", 90))
    pipeline = Pipeline(Oracle(truth @ BASE_FROM_CAMERA), Settings(scale_source="odometry"))
    pipeline.mounted(BASE_FROM_CAMERA, BASE_FROM_CAMERA)
    poses, segments, jumps = [], [], []
    for i in range(90):
        pipeline.odometry.add(stamp(i), wheels[i])
        with monkeypatch.context() as broken:
            if 40 <= i < 46:  # long enough that nothing is shared with the first segment
                broken.setattr("vggt_ros.mapping.alignment.MAX_RESIDUAL", -1.0)
            update = pipeline.step(Frame(picture(i), stamp(i)))
        assert update is not None
        if i == 46:  # a beginning in a unit of its own
            assert update.join.accepted and update.join.segment > 0
        if update.rescaled != 1.0:
            jumps.append(i)
            before = [pose.copy() for pose in poses]
            for pose, segment in zip(poses, segments, strict=True):
                if update.join.segment in (0, segment):
                    pose[:3, 3] = update.about + update.rescaled * (pose[:3, 3] - update.about)
            if i > 46:
                np.testing.assert_array_equal(np.stack(poses[:40]), np.stack(before[:40]))
        for view in update.views[:-1]:
            if view.frame_id >= 46:
                np.testing.assert_allclose(
                    view.world_from_camera[:3, 3], poses[view.frame_id][:3, 3], atol=0.05
                )
        poses.append(update.views[-1].world_from_camera.copy())
        segments.append(update.join.segment)
    assert len(jumps) == 2 and jumps[0] < 40 and jumps[1] > 46
    centres = np.stack(poses)[46:, :3, 3]
    true = (truth @ BASE_FROM_CAMERA)[46:, :3, 3]
    assert absolute_error(centres, true, with_scale=False) <= 0.03 * path_length(true)


def test_none_means_arbitrary_units():
    updates, *_ = ride("arc", 10, wheels=odometry(drive("arc", 10)), scale_source="none")
    assert not updates[-1].metric and updates[-1].scale_source == "none"


# ---- single measurements ------------------------------------------------------------------------


def evidence(*ratios, source="odometry", sigma=0.02):
    return [
        scale.Evidence(source, float(np.log(r)), sigma, i * SECOND) for i, r in enumerate(ratios)
    ]


def heard(*measurements, sources="odometry, height"):
    state = scale.listen_to(sources)
    for each in measurements:
        state = scale.observe(state, each)
    return state


def test_nearly_half_of_the_measurements_may_be_nonsense():
    good, bad = evidence(*[2.0] * 11), evidence(*[9.0] * 9)
    mixed = [each for pair in zip(good, bad, strict=False) for each in pair] + good[9:]
    assert scale.estimate(heard(*mixed)).value == pytest.approx(2.0, rel=1e-3)


def test_a_scale_needs_a_few_measurements():
    assert scale.estimate(heard(*evidence(2.0, 2.0))).source == "none"
    assert scale.estimate(heard(*evidence(2.0, 2.0, 2.0))).source == "odometry"


def test_rescaling_keeps_what_was_measured():
    state = scale.rescaled(heard(*evidence(2.0, 2.0, 2.0)), 2.0)
    assert scale.estimate(state).value == pytest.approx(1.0)
    assert scale.correction(heard(*evidence(2.0, 2.0, 2.0))) == pytest.approx(2.0)
    state = scale.rescaled(heard(*evidence(2.0, 2.0, 2.0)), 1.5)
    assert scale.correction(state) == pytest.approx(1.01)


def test_the_ground_is_found_below_clutter():
    pose = (drive("room") @ BASE_FROM_CAMERA)[20]
    points = transform(pose, unproject(sight(pose), INTRINSICS)).reshape(-1, 3) / 2.0
    found = scale.from_height(points, pose[:3, 3] / 2.0, CAMERA_HEIGHT, 1)
    assert np.exp(found.log_ratio) == pytest.approx(2.0, rel=0.02)


def test_no_ground_no_measurement():
    wall = np.stack([np.full(500, 2.0), *np.random.default_rng(0).uniform(-1, 1, (2, 500))], 1)
    assert scale.from_height(wall, np.zeros(3), 0.5, 1) is None


def test_depths_of_different_scenes_measure_nothing():
    random = np.random.default_rng(0)
    a, b = random.uniform(0.3, 9.0, (2, 40, 50))
    assert scale.from_depth(a, b, 1) is None


def test_points_of_a_lidar_become_depth_of_the_nearest():
    points = np.array([[0.0, 0, 2], [0.0, 0, 3], [0, 0, -1], [np.nan, 0, 1], [1.0, 0, 2]])
    depth = scale.sparse_depth(points, INTRINSICS, 56, 84)
    assert depth[28, 42] == 2.0 and depth[28, 72] == 2.0
    assert np.isfinite(depth).sum() == 2


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"scale_source": "gps"}, "scale source 'gps' is not known"),
        ({"scale_source": "height"}, "needs camera_height"),
        ({"scale_source": "fixed"}, "needs fixed_scale"),
    ],
)
def test_a_wrong_source_is_refused_by_name(settings, words):
    with pytest.raises(UserError, match=words):
        Settings(**settings)


@pytest.mark.parametrize("given", [2.0, 1.0])  # 1: nothing is rescaled, and yet it is metres now
def test_a_fixed_scale_holds_from_the_first_window(given):
    updates, *_ = ride("arc", 3, scale_source="fixed", fixed_scale=given)
    assert updates[0].metric and updates[0].scale_source == "fixed"
    assert updates[0].join.world_from_window.scale == pytest.approx(given)
