# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Velocity is the robot's: exact on a clean arc, within its covariance on a noisy drive, and
unaffected by corrections of the map."""

import numpy as np
import pytest
from fakes.figures import odometry
from fakes.oracle import NONE, Faults, Oracle
from fakes.room import BASE_FROM_CAMERA, INTRINSICS, drive, numbered_image, turn

from vggt_ros.frames import Frame, Observation
from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping.map import Map
from vggt_ros.mapping.metric.odometry import OdometryBuffer
from vggt_ros.mapping.velocity import (
    LONGEST_NS,
    Velocity,
    VelocityEstimator,
    rigid_logarithm,
)
from vggt_ros.mapping.window import WindowGeometry
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

SECOND = 1_000_000_000
ARC = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.4])  # of a base: metres and radians a second


def exponential(twist: np.ndarray) -> np.ndarray:
    """The motion after one unit of time, in ten thousand straight steps."""
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = turn(twist[3:] / 10_000), twist[:3] / 10_000
    return np.linalg.matrix_power(step, 10_000)


class Ride:
    """A drive through the pipeline, and the velocities it gives."""

    def __init__(self, base, faults=None, hertz=10, wheels=None, **settings):
        self.truth = base @ BASE_FROM_CAMERA
        oracle = Oracle(self.truth, faults)
        pipeline = Pipeline(oracle, Settings(**settings))
        odom_from_base, self.updates = OdometryBuffer(), []
        for i in range(len(base)):
            ns = SECOND + i * SECOND // hertz
            if wheels is not None:
                odom_from_base.add(ns, wheels[i])
            seen = Observation(
                Frame(numbered_image(i), ns),
                base_from_camera=BASE_FROM_CAMERA,
                odom_from_base=odom_from_base,
            )
            self.updates.append(pipeline.step(seen))
        grown = np.array([u.registration.world_from_window.scale for u in self.updates])
        self.unit = grown * oracle.scales  # world units per metre, at each inference
        self.steps = [
            hertz * rigid_logarithm(inverse_rigid(self.truth[i - 1]) @ self.truth[i])
            for i in range(1, len(base))
        ]

    def errors(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Metres and radians a second off the truth; and in standard deviations."""
        off, sigmas = [], []
        for i in range(first, len(self.updates)):
            velocity, units = self.updates[i].velocity, np.repeat([self.unit[i], 1.0], 3)
            error = np.concatenate([velocity.linear, velocity.angular]) / units - self.steps[i - 1]
            off.append(error)
            sigmas.append(np.sqrt(np.diag(velocity.covariance)) / units)
        return np.array(off), np.array(off) / np.array(sigmas)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 0.5, 3.0])
def test_a_logarithm_is_undone_by_its_exponential(angle):
    twist = np.array([0.3, -0.2, 0.9, *(angle * np.array([0.6, 0.0, 0.8]))])
    np.testing.assert_allclose(
        rigid_logarithm(exponential(twist)), twist, atol=2e-4
    )  # straight steps


def test_a_clean_arc_is_measured_exactly_for_camera_and_body():
    base = np.stack([exponential(ARC * 0.1 * i) for i in range(8)])
    recent, found = VelocityEstimator(), None
    for i, pose in enumerate(base @ BASE_FROM_CAMERA):
        found = recent.add((i,), pose[None], SECOND + i * SECOND // 10, noise=1e-3, scene_depth=3.0)
    assert found is not None
    camera_from_base = inverse_rigid(BASE_FROM_CAMERA)
    body = found.of(camera_from_base)
    np.testing.assert_allclose([*body.linear, *body.angular], ARC, atol=1e-3)
    assert np.linalg.norm(found.linear - [0, 0, 0.5]) > 0.05  # the camera swings ahead of the base
    back = body.of(BASE_FROM_CAMERA)
    np.testing.assert_allclose(back.linear, found.linear, atol=1e-12)
    np.testing.assert_allclose(back.covariance, found.covariance, atol=1e-12)


def test_a_lever_arm_turns_angular_variance_into_linear_variance():
    camera = Velocity(np.zeros(3), np.zeros(3), np.diag([0.0] * 3 + [0.01] * 3))
    body_from_camera = np.eye(4)
    body_from_camera[:3, 3] = [2.0, 0.0, 0.0]
    body = camera.of(inverse_rigid(body_from_camera))
    np.testing.assert_allclose(np.diag(body.covariance), [0, 0.04, 0.04, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("kind", ["arc", "spin", "stand"])
def test_a_noisy_drive_is_measured_within_its_covariance(kind):
    ride = Ride(drive(kind, 80), scale_source="fixed", fixed_scale=1.0)
    off, deviations = ride.errors(first=4)
    assert np.sqrt(np.mean(np.sum(off[:, :3] ** 2, axis=1))) < 0.05
    assert np.sqrt(np.mean(np.sum(off[:, 3:] ** 2, axis=1))) < 0.06
    assert np.sqrt(np.mean(deviations**2)) < 1.0 and np.abs(deviations).max() < 4.0
    angular = np.array([u.velocity.covariance[3:, 3:].diagonal() for u in ride.updates[4:]])
    assert np.sqrt(angular.max()) < 0.5  # and it is not merely huge


def test_taking_up_the_scale_is_no_motion():
    base = drive("arc", 70)
    ride = Ride(base, wheels=odometry(base), scale_source="odometry", camera_height=0.6)
    taken = next(i for i, update in enumerate(ride.updates) if update.metric)
    then, now = (ride.updates[i].keyframes.world_from_keyframe(0) for i in (taken - 1, taken))
    assert abs(now.scale / then.scale - 1.0) > 0.1  # the unit did change there
    off, _ = ride.errors(first=4)
    assert (
        np.linalg.norm(off[:, :3], axis=1).max() < 0.12
    )  # of 0.5: at this inference as at any other
    for update in ride.updates[4:taken]:
        speed = np.linalg.norm(update.velocity.linear)
        assert update.velocity.covariance[:3, :3].trace() > speed**2  # the unit is not known


@pytest.mark.slow
def test_replaced_frames_leave_a_smooth_velocity():
    base = drive("arc", 300)
    fine = np.repeat(base, 4, axis=0)[:200]  # 40 images a second, each pose four times
    for i in range(len(fine)):
        step = rigid_logarithm(inverse_rigid(base[i // 4]) @ base[i // 4 + 1])
        fine[i] = base[i // 4] @ exponential(step * (i % 4) / 4)
    ride = Ride(fine, hertz=40, scale_source="fixed", fixed_scale=1.0)
    windows = [tuple(view.frame_id for view in update.views) for update in ride.updates]
    gone = sum(before[-1] not in after for before, after in zip(windows, windows[1:], strict=False))
    assert gone > 50  # the newest was replaced again and again
    off, deviations = ride.errors(first=8)
    assert np.linalg.norm(off[:, :3], axis=1).max() < 0.15
    assert np.abs(deviations).max() < 4.0


def test_a_refused_window_has_no_velocity_and_leaves_none_behind():
    faults = Faults(broken={20: "nonsense", 30: "newest camera thrown"})
    ride = Ride(drive("arc", 40), faults, scale_source="fixed", fixed_scale=1.0)
    assert [i for i, update in enumerate(ride.updates) if update.velocity is None] == [0, 20, 30]
    deviations = np.array([np.sqrt(u.covariance[0, 0]) for u in ride.updates])
    for i in (20, 30):  # predicted, and as unsure as that is
        assert not ride.updates[i].registration.accepted
        assert deviations[i] > 1.2 * deviations[i - 1] and deviations[i] < 1.0 + deviations[i - 1]
        predicted = ride.updates[i].views[-1].world_from_camera
        off = rigid_logarithm(
            inverse_rigid(ride.updates[i - 1].views[-1].world_from_camera) @ predicted
        )
        assert np.linalg.norm(off[:3] / ride.unit[i - 1] - 0.1 * ride.steps[i - 1][:3]) < 0.05
    after = [
        np.linalg.norm(ride.updates[i].velocity.linear) / ride.unit[i] for i in (21, 22, 31, 32)
    ]
    np.testing.assert_allclose(after, np.linalg.norm(ride.steps[5][:3]), atol=0.1)


def test_another_segment_starts_without_a_velocity():
    truth = drive("room")[::6] @ BASE_FROM_CAMERA
    oracle = Oracle(truth, NONE)
    world, found = Map(), []
    for ids in ((0, 1, 2), (1, 2, 3), (6, 7, 8), (7, 8, 9), (8, 9, 10)):
        result = oracle.infer(ids, [numbered_image(i) for i in ids], depth_frames=3)
        intrinsics = np.tile(INTRINSICS, (3, 1, 1))
        window = WindowGeometry(ids, truth[list(ids)], intrinsics, result.depth, result.confidence)
        placed = world.add(window, SECOND + ids[-1] * SECOND // 10, begin=ids[0] == 6)
        found.append((placed.registration.accepted, placed.velocity is not None))
    assert found == [(True, False), (True, True), (True, False), (True, True), (True, True)]


def test_a_long_gap_is_not_bridged():
    recent = VelocityEstimator()
    options = {"noise": 1e-3, "scene_depth": 3.0}
    pose = BASE_FROM_CAMERA[None]
    assert recent.add((0,), pose, SECOND, **options) is None
    assert recent.add((1,), pose, SECOND + LONGEST_NS, **options) is not None
    assert recent.add((2,), pose, 2 * SECOND + 2 * LONGEST_NS, **options) is None
