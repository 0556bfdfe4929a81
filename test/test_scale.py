# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metric scale from odometry, depth, height: measured, robust, applied slowly."""

from itertools import pairwise

import numpy as np
import pytest
from fakes.figures import absolute_error, odometry, path_length
from fakes.oracle import Oracle
from fakes.room import BASE_FROM_CAMERA, CAMERA_HEIGHT, drive, numbered_image, true_depth, turn
from map_rig import SECOND, Ride, cameras, grown_between

from vggt_ros.frames import Frame, Observation
from vggt_ros.mapping.metric.odometry import INSISTING, KEPT_NOTICES, OdometryBuffer
from vggt_ros.mapping.metric.scale import MAX_STEP
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings


def stamp(i: int) -> int:
    return SECOND + i * SECOND // 10


def ride(kind, frames=300, *, wheels=None, mounted=True, metres=None, heard_from=0, **settings):
    """A drive with odometry (poses of the base, one a frame) and perhaps another sensor's depth."""
    truth = cameras(kind, frames)
    odom_from_base = OdometryBuffer()

    def observe(seen, i):
        if wheels is not None and i >= heard_from:
            odom_from_base.add(stamp(i), wheels[i])
        seen = seen._replace(odom_from_base=odom_from_base)
        if metres is not None:
            seen = seen._replace(sensor_depth=metres(i, truth[i]))
        if mounted:
            return seen._replace(base_from_camera=BASE_FROM_CAMERA)
        return seen._replace(up_in_camera=BASE_FROM_CAMERA[2, :3])  # of the base, in the camera

    ridden = Ride(truth, observe=observe, **settings)
    return ridden.updates, ridden.centres, truth[:, :3, 3], odom_from_base


def factors(updates, key: int = 0) -> np.ndarray:
    """By how much lengths near a keyframe grew with each update after the first."""
    known = [update.keyframes.world_from_keyframe(key).scale for update in updates]
    return np.divide(known[1:], known[:-1])


@pytest.mark.slow
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
    wheels = odometry(drive("room", 60))
    updates, *_ = ride("room", 60, wheels=wheels, scale_source="odometry", loops=False)
    first = [update.metric for update in updates].index(True)
    grown = [float(update.registration.world_from_window.scale) for update in updates]
    assert len(grown) == 60
    assert all(update.metric for update in updates[first:])
    assert all(abs(update.scale.value - 1) < 0.2 for update in updates[first:])
    changes = np.abs(factors(updates) - 1.0)
    assert changes[first - 1] > 0.02 and changes[: first - 1].max() == 0.0
    assert changes[first:].max() < 1.001 * MAX_STEP


def test_a_small_correction_moves_what_is_in_the_window_and_a_large_one_the_segment():
    """Height, twice as large as it should be, comes first; the wheels are heard later."""
    updates, *_ = ride(
        "room",
        140,
        wheels=odometry(drive("room", 140)),
        heard_from=70,
        scale_source="odometry, height",
        camera_height=2 * CAMERA_HEIGHT,
        loops=False,
    )
    jumps, inside, outside = [], set(), set()
    for i, (before, after) in enumerate(pairwise(updates)):
        window = {view.frame_id for update in (before, after) for view in update.views}
        grown = grown_between(before, after)
        if any(abs(factor - 1.0) > 0.1 for factor in grown.values()):
            jumps.append(i)
            assert set(grown) == set(before.keyframes.ids)
            factor = after.keyframes.world_from_keyframe(0).scale
            factor /= before.keyframes.world_from_keyframe(0).scale
            np.testing.assert_allclose(list(grown.values()), factor)
        elif grown:
            inside |= {key for key, factor in grown.items() if factor != 1.0}
            assert set(grown) <= window
            outside |= set(before.keyframes.ids.tolist()) - window
    assert len(jumps) == 2 and jumps[0] < 5 and 70 < jumps[1]
    assert len(outside) > 2 and len(inside) > 4
    at_jump = updates[jumps[1]]
    assert len(at_jump.keyframes.ids) > len(at_jump.views) + 2  # so there was what had left


def test_wheels_that_spin_and_jump_do_not_move_the_scale():
    wheels = odometry(drive("room", 130))
    for i in range(60, 70):  # a second of slip: four times the distance
        step = np.linalg.inv(wheels[i - 1]) @ wheels[i]
        step[:3, 3] *= 3
        wheels[i:] = wheels[i - 1] @ step @ np.linalg.inv(wheels[i]) @ wheels[i:]
    wheels[100:, 0, 3] += 30.0  # it was reset
    updates, centres, truth, odom_from_base = ride(
        "room", 130, wheels=wheels, scale_source="odometry"
    )
    assert absolute_error(centres, truth, with_scale=False) <= 0.02 * path_length(truth)
    assert any("it jumped" in notice for notice in odom_from_base.notices)


def test_odometry_that_stops_leaves_the_scale_and_its_age_shows_it():
    wheels = odometry(drive("room", 70))
    truth = drive("room", 70)
    pipeline = Pipeline(Oracle(truth @ BASE_FROM_CAMERA), Settings(scale_source="odometry"))
    odom_from_base, update = OdometryBuffer(), None
    for i in range(70):
        if i < 50:
            odom_from_base.add(stamp(i), wheels[i])
        update = pipeline.step(
            Observation(Frame(numbered_image(i), stamp(i)), odom_from_base=odom_from_base)
        )
    assert update is not None and update.metric
    assert stamp(40) <= update.scale.stamp_ns <= stamp(50)


def drive_at(buffer: OdometryBuffer, speeds: list[float], frame="odom") -> list[bool]:
    """Which messages were followed without a restart, one every 20 ms."""
    pose, followed = np.eye(4), []
    for speed in speeds:
        pose[0, 3] += 0.02 * speed
        ns = (buffer.latest_ns or stamp(0)) + 20_000_000
        before = buffer.restarts
        buffer.add(ns, pose.copy(), frame)
        followed.append(buffer.restarts == before and buffer.latest_ns == ns)
    return followed


def test_a_fast_vehicle_does_not_jump_with_each_message():
    wheels = OdometryBuffer()
    followed = drive_at(wheels, [0.2 * i for i in range(200)])  # up to 40 m/s
    lost = [i for i in range(1, 200) if not followed[i]]
    assert 0 < len(lost) <= 3 * INSISTING and lost[-1] < 190
    assert any("odometry moves fast: at 1" in notice for notice in wheels.notices)
    assert wheels.way(stamp(0), wheels.latest_ns or 0)[0] > 10.0


@pytest.mark.parametrize(
    "speeds",
    [
        [1.0] * 5 + [500.0] + [1.0] * 20,  # it was reset
        [1.0, 30.0, 1.0, 60.0] * 10,  # two sources by turns
        [300.0] * 40,  # a filter that diverged
        [15.0 * 2.0**i for i in range(20)],
    ],
)
def test_jumps_stay_jumps(speeds: list[float]):
    wheels = OdometryBuffer()
    followed = drive_at(wheels, [0.0, *speeds])[1:]
    assert not any(ok for ok, speed in zip(followed, speeds, strict=True) if speed > 10.0)


def test_odometry_of_other_frames_must_insist():
    """As where a filter takes over from the wheels; two sources by turns never do."""
    wheels = OdometryBuffer()
    assert all(drive_at(wheels, [1.0] * 3)[1:])
    for _ in range(4):
        assert not any(drive_at(wheels, [1.0] * INSISTING, "odom_filtered"))
        assert drive_at(wheels, [1.0], "odom") == [True]
    assert not any(drive_at(wheels, [1.0] * (INSISTING + 1), "odom_filtered"))
    assert all(drive_at(wheels, [1.0] * 5, "odom_filtered"))
    assert (
        wheels.restarts == 1 and "it is of 'odom_filtered -> base_link' now" in wheels.notices[-1]
    )


def test_odometry_after_a_time_that_came_back_is_forgotten():
    wheels, elsewhere = OdometryBuffer(), np.eye(4)
    elsewhere[0, 3] = 3.0
    for i in range(10):
        wheels.add(stamp(i), np.eye(4))
    wheels.forget_from(stamp(-1))
    assert wheels.latest_ns is None and wheels.restarts == 1
    assert wheels.add(stamp(0), elsewhere) and wheels.add(stamp(5), elsewhere)
    assert not wheels.notices
    found = wheels.at(stamp(5))
    assert found is not None and found[0, 3] == 3.0


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda o: o.add(stamp(4), np.eye(4)), "goes back"),
        (lambda o: o.add(stamp(6), np.eye(4), "map", "base_link"), "not of 'odom -> base_link'"),
        (lambda o: o.add(stamp(6), np.full((4, 4), np.nan)), "not finite"),
    ],
)
def test_bad_odometry_is_refused_by_name(damage, words):
    wheels = OdometryBuffer()
    for i in range(6):
        assert wheels.add(stamp(i), np.eye(4))
    assert not damage(wheels)
    assert words in wheels.notices[-1]


def test_odometry_that_is_refused_while_nobody_reads_takes_no_more_memory():
    """Two robots on one topic, while the camera is off for hours."""
    wheels = OdometryBuffer()
    for i in range(KEPT_NOTICES):
        for name in ("odom", "other/odom"):
            wheels.add(stamp(i), np.eye(4), name)
            wheels.add(stamp(i), np.eye(4), name)
    assert len(wheels.notices) == KEPT_NOTICES
    assert "not of 'odom -> base_link'" in wheels.notices[-1]


def test_odometry_is_interpolated_but_never_extended():
    wheels = OdometryBuffer()
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
    true = true_depth((drive("arc", 30) @ BASE_FROM_CAMERA)[-1])
    assert np.median(depth / true) == pytest.approx(1.0, abs=0.03)


def test_another_sensors_depth_makes_metres():
    def lidar(i, world_from_camera):  # one row in seven, 2 % noise
        depth = true_depth(world_from_camera).astype(np.float32)
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
    assert "height gives" in updates[-1].scale.conflict
    assert "odometry, which is kept" in updates[-1].scale.conflict


def test_the_map_follows_the_trusted_source_as_soon_as_it_is_sure():
    """Height, twice as large as it should be, comes first; wheels need to travel."""
    updates, centres, truth, _ = ride(
        "room",
        120,
        wheels=odometry(drive("room", 120)),
        scale_source="odometry, height",
        camera_height=2 * CAMERA_HEIGHT,
    )
    changes = factors(updates)
    jumps = np.flatnonzero(np.abs(changes - 1.0) > 0.1)
    assert len(jumps) == 2 and jumps[0] < 5 < jumps[1]
    assert changes[jumps[1]] == pytest.approx(0.5, rel=0.1)
    assert updates[jumps[1]].scale_source == "height"
    assert absolute_error(centres, truth, with_scale=False) <= 0.02 * path_length(truth)


def test_none_means_arbitrary_units():
    updates, *_ = ride("arc", 10, wheels=odometry(drive("arc", 10)), scale_source="none")
    assert not updates[-1].metric and updates[-1].scale_source == "none"


@pytest.mark.parametrize("given", [2.0, 1.0])  # 1: nothing is rescaled, and yet it is metres now
def test_a_fixed_scale_holds_from_the_first_window(given):
    updates, *_ = ride("arc", 3, scale_source="fixed", fixed_scale=given)
    assert updates[0].metric and updates[0].scale_source == "fixed"
    assert updates[0].registration.world_from_window.scale == pytest.approx(given)
