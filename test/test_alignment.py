# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows of a network with known faults become one map, through the pipeline that robots run."""

from functools import cache

import numpy as np
import pytest
from fakes.figures import absolute_error, path_length
from fakes.oracle import NONE, Faults, Oracle
from fakes.room import BASE_FROM_CAMERA, drive, numbered_image, turn

from vggt_ros.frames import Frame, Observation
from vggt_ros.geometry import Similarity
from vggt_ros.mapping import alignment
from vggt_ros.mapping.segment import empty_map, moved
from vggt_ros.mapping.window import WindowGeometry, level_camera, upright_camera
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

SECOND = 1_000_000_000
DRIVES = ("room", "arc", "stop_and_go", "spin")
DAMAGES = (
    "nonsense",
    "other scene",
    "newest camera thrown",
    "shared camera thrown",
    "not finite",
)


class Ride:
    """One drive through the pipeline: the truth, every update, every newest camera."""

    def __init__(self, kind, faults=None, frames=300, seed=0, **settings):
        self.truth = drive(kind, frames) @ BASE_FROM_CAMERA
        self.oracle = Oracle(self.truth, faults, seed)
        pipeline = Pipeline(self.oracle, Settings(**settings))
        self.updates = [
            pipeline.step(Observation(Frame(numbered_image(i), SECOND + i * SECOND // 10)))
            for i in range(frames)
        ]
        self.registrations = [update.registration for update in self.updates]
        self.cameras = np.stack([u.views[-1].world_from_camera for u in self.updates])
        self.centres, self.true_centres = self.cameras[:, :3, 3], self.truth[:, :3, 3]
        grown = np.array([found.world_from_window.scale for found in self.registrations])
        self.unit = grown * self.oracle.scales  # world units per metre, as each window has it


@cache
def clean(kind: str) -> Ride:
    return Ride(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRIVES)
def test_a_drive_of_300_frames_is_one_map(kind):
    ride = clean(kind)
    assert [j.reason for j in ride.registrations if not j.accepted] == []
    assert {j.segment for j in ride.registrations} == {0}
    error = absolute_error(ride.centres, ride.true_centres, with_scale=True)
    assert error <= 0.01 * path_length(ride.true_centres)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRIVES)
def test_its_scale_drifts_by_three_percent_at_most(kind):
    unit = clean(kind).unit
    assert abs(unit[-10:].mean() / unit[:10].mean() - 1) <= 0.03
    assert np.abs(unit / np.median(unit) - 1).max() <= 0.05


@pytest.mark.slow
def test_a_rotation_in_place_adds_no_translation():
    ride = clean("spin")
    unit = np.median(ride.unit)
    error = np.linalg.norm((ride.centres - ride.centres[0]) / unit, axis=1) - np.linalg.norm(
        ride.true_centres - ride.true_centres[0], axis=1
    )
    scene = np.median(ride.updates[0].views[-1].depth) / unit
    assert np.abs(error).max() <= 0.01 * scene


def test_a_robot_at_rest_adds_no_registrations_and_no_drift():
    ride = Ride("stand", frames=60)
    kept = {view.frame_id for view in ride.updates[-1].views[:-1]}
    assert kept == {0, 1, 2}  # the window filled, and then nothing new was seen
    scene = np.median(ride.updates[0].views[-1].depth)
    away = np.linalg.norm(ride.centres - ride.centres[0], axis=1) / scene
    assert away.max() <= 0.01 and away[-20:].mean() <= 2 * away[:20].mean() + 0.002


def test_every_broken_window_is_refused_and_the_map_goes_on():
    broken = {30 + 15 * i: damage for i, damage in enumerate(DAMAGES)} | {91: "nonsense"}
    ride = Ride("room", Faults(broken=broken), frames=120)
    assert {i for i, j in enumerate(ride.registrations) if not j.accepted} == set(broken)
    assert all(ride.registrations[i].reason for i in broken)
    sound = [i for i in range(len(ride.registrations)) if i not in broken]
    assert {ride.registrations[i].segment for i in sound} == {0}  # every new segment was left again
    error = absolute_error(ride.centres[sound], ride.true_centres[sound], with_scale=True)
    assert error <= 0.01 * path_length(ride.true_centres)


@pytest.mark.slow
def test_the_true_error_lies_within_the_covariance():
    errors = []
    for seed in range(3):
        ride = Ride("arc", frames=60, seed=seed)
        unit = np.median(ride.unit)
        first = ride.truth[0, :3, :3] @ ride.cameras[0, :3, :3].T
        offset = ride.true_centres[-1] - ride.true_centres[0]
        off = first @ (ride.centres[-1] - ride.centres[0]) / unit - offset
        sigma = np.sqrt(np.trace(ride.registrations[-1].covariance[:3, :3])) / unit
        errors.append(np.linalg.norm(off) / sigma)
    assert max(errors) < 4.0  # the first camera's own noise turns the whole path
    assert np.median(errors) > 0.05  # and the covariance is not merely huge


# ---- laws of one registration -------------------------------------------------------------------


def window(ids, seed=0, *, similarity=None, faults=NONE, kind="room", depth=True):
    """A window of the true scene, in another gauge."""
    truth = drive(kind)[::6] @ BASE_FROM_CAMERA
    oracle = Oracle(truth, faults, seed)
    result = oracle.infer(tuple(ids), [numbered_image(i) for i in ids], depth_frames=len(ids))
    moved = similarity or Similarity.identity()
    poses = moved.apply_to_poses(truth[list(ids)])
    kept = slice(None) if depth else slice(0, 0)
    return WindowGeometry(
        tuple(ids),
        poses,
        np.tile(np.array([[60.0, 0, 42], [0, 60, 28], [0, 0, 1]]), (len(ids), 1, 1)),
        (result.depth / oracle.scales[-1] * np.float32(moved.scale))[kept],
        result.confidence[kept],
    )


@pytest.mark.parametrize("scale", (0.3, 1.0, 3.0))
@pytest.mark.parametrize("angle", (0.0, 1e-6, 1.0, np.pi))
def test_any_gauge_is_undone_exactly(scale, angle):
    gauge = Similarity(scale, turn(angle * np.array([0.6, 0.0, 0.8])), np.array([1.0, -2, 3]))
    state, first = alignment.register(empty_map(), window((0, 1, 2, 3)))
    _, found = alignment.register(state, window((1, 2, 3, 4), similarity=gauge))
    expected = first.world_from_window @ gauge.inverse()
    assert found.accepted and found.inlier_share == 1.0
    assert found.world_from_window.scale == pytest.approx(expected.scale, rel=1e-6)
    np.testing.assert_allclose(found.world_from_window.rotation, expected.rotation, atol=1e-6)
    np.testing.assert_allclose(found.world_from_window.translation, expected.translation, atol=1e-5)


def test_without_depth_the_cameras_give_the_scale():
    gauge = Similarity(0.4, turn(np.array([0.1, 0.2, 0.3])), np.ones(3))
    state, _ = alignment.register(empty_map(), window((0, 1, 2, 3), depth=False))
    _, found = alignment.register(state, window((1, 2, 3, 4), similarity=gauge, depth=False))
    assert found.world_from_window.scale == pytest.approx(1 / 0.4, rel=1e-6)


def test_without_depth_and_motion_the_unit_is_kept():
    state, _ = alignment.register(empty_map(), window((0, 1, 2), kind="stand", depth=False))
    _, found = alignment.register(state, window((1, 2, 3), kind="stand", depth=False))
    assert found.accepted and found.world_from_window.scale == pytest.approx(1.0)


def test_a_window_that_shares_nothing_is_refused_and_changes_nothing():
    state, _ = alignment.register(empty_map(), window((0, 1, 2)))
    after, found = alignment.register(state, window((5, 6, 7)))
    assert not found.accepted and "no frame is shared" in found.reason
    assert after.current is state.current and after.refusals == 1
    _, found = alignment.register(after, window((1, 2, 3)))
    assert found.accepted and found.segment == 0


def test_another_segment_starts_where_it_is_told_and_in_the_unit_it_is_told():
    state, _ = alignment.register(empty_map(), window((0, 1, 2)))
    pose = level_camera()
    pose[:3, 3] = 1.0, 2.0, 3.0
    state, found = alignment.start_segment(state, window((5, 6, 7)), 4, pose, 2.0)
    assert found.accepted and found.segment == 4
    assert found.world_from_window.scale == 2.0
    np.testing.assert_allclose(found.world_from_camera[0], pose, atol=1e-9)
    _, found = alignment.register(state, window((6, 7, 8)))
    assert found.accepted and found.segment == 4


def test_a_stream_that_never_fits_is_refused_for_its_residual():
    rng = np.random.default_rng(0)
    state, _ = alignment.register(empty_map(), window((0, 1, 2, 3)))
    for newest in (4, 5, 6):
        one = window((1, 2, 3, newest))
        poses = one.window_from_camera.copy()
        for pose in poses:
            pose[:3, :3] = turn(rng.normal(size=3)) @ pose[:3, :3]
        state, found = alignment.register(state, one._replace(window_from_camera=poses))
        assert not found.accepted and "disagree by" in found.reason


def disagreeing(ids, degrees, seed=0):
    """A window whose cameras are turned by so much, each its own way."""
    rng = np.random.default_rng(seed)
    one = window(ids)
    poses = one.window_from_camera.copy()
    for pose in poses:
        axis = rng.normal(size=3)
        pose[:3, :3] = pose[:3, :3] @ turn(np.deg2rad(degrees) * axis / np.linalg.norm(axis))
    return one._replace(window_from_camera=poses)


@pytest.mark.parametrize(("usual", "accepted"), [(0.1, False), (4.0, True)])
def test_what_is_refused_depends_on_what_this_network_usually_does(usual, accepted):
    """A disagreement of eight degrees contradicts a precise network, and not a coarse one."""
    state, _ = alignment.register(empty_map(), window((0, 1, 2, 3)))
    for i in range(30):
        state, found = alignment.register(state, disagreeing((0, 1, 2, 3), usual, seed=i))
        assert found.accepted
    _, found = alignment.register(state, disagreeing((0, 1, 2, 3), 8.0, seed=99))
    assert found.accepted == accepted and ("disagree" in found.reason) == (not accepted)


def test_between_the_bounds_a_window_joins_and_moves_nothing_that_is_known():
    state, _ = alignment.register(empty_map(), window((0, 1, 2, 3)))
    for i in range(30):
        state, _ = alignment.register(state, disagreeing((0, 1, 2, 3), 1.0, seed=i))
    after, found = alignment.register(state, disagreeing((1, 2, 3, 4), 4.0, seed=99))
    assert found.accepted and found.doubtful and "doubtful" in found.reason
    known = {frame.frame_id: frame.world_from_camera for frame in state.current.frames}
    for frame in after.current.frames[:-1]:
        np.testing.assert_array_equal(frame.world_from_camera, known[frame.frame_id])


def test_a_rescaled_map_is_registered_to_at_its_new_scale():
    state, _ = alignment.register(empty_map(), window((0, 1, 2, 3)))
    before = alignment.register(state, window((1, 2, 3, 4)))[1].world_from_window
    about = np.array([1.0, 2.0, 3.0])
    scaled = moved(state, Similarity.scaling(2.5, about))
    after = alignment.register(scaled, window((1, 2, 3, 4)))[1].world_from_window
    assert after.scale == pytest.approx(2.5 * before.scale)
    np.testing.assert_allclose(
        after.translation, about + 2.5 * (before.translation - about), atol=1e-9
    )


@pytest.mark.parametrize("up", ([0, -1.0, 0], [0.3, -0.9, 0.1], [0, 0, 1.0], [0, 0, -9.81]))
def test_upright_turns_gravity_into_z(up):
    world_from_camera = upright_camera(np.array(up, float))
    up = np.array(up) / np.linalg.norm(up)
    np.testing.assert_allclose(world_from_camera[:3, :3] @ up, [0, 0, 1], atol=1e-12)
    assert np.linalg.det(world_from_camera[:3, :3]) == pytest.approx(1.0)


def test_upright_of_a_level_camera_is_level():
    np.testing.assert_allclose(upright_camera(np.array([0.0, -1, 0])), level_camera(), atol=1e-12)
