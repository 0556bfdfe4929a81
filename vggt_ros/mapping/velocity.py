# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Velocity of the newest camera, from its own poses of the last moments.

Constant velocity (linear and angular, in the camera's own axes) is fitted to the poses of the last
`SPAN_NS`. All of them are in one map at one scale: a correction of the map moves them along
(`move`), another map starts empty (`reset`), and a frame that is inferred again moves to its
better place. So a correction is never mistaken for motion.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import (
    Similarity,
    cross_product_matrix,
    inverse_rigid,
    lever_arm_jacobian,
    one_quaternion,
)

SPAN_NS = 400_000_000  # of poses that are fitted: shorter is noisier, longer lags behind
LONGEST_NS = 2_000_000_000  # between two poses where inferences are rare; beyond, unknown
ACCELERATION = 0.1  # scene depths per second squared that the fit neglects (one sigma)
ANGULAR_ACCELERATION = 0.3  # radians per second squared, likewise
UNKNOWN_VARIANCE = 1e6  # of what was not measured: a filter gives it no weight


class Velocity(NamedTuple):
    """Velocity of a moving frame in its own axes, per second."""

    linear: Float[np.ndarray, "3"]  # world units
    angular: Float[np.ndarray, "3"]  # radians
    covariance: Float[np.ndarray, "6 6"]  # linear, angular

    def of(self, camera_from_body: Float[np.ndarray, "4 4"]) -> "Velocity":
        """The same motion of another frame on the same rigid body, in that frame's axes."""
        body_from_camera = inverse_rigid(camera_from_body)
        turned = np.kron(np.eye(2), body_from_camera[:3, :3])
        carry = lever_arm_jacobian(-body_from_camera[:3, 3]) @ turned
        twist = carry @ np.concatenate([self.linear, self.angular])
        return Velocity(twist[:3], twist[3:], carry @ self.covariance @ carry.T)


class _Pose(NamedTuple):
    stamp_ns: int
    world_from_camera: Float[np.ndarray, "4 4"]


class VelocityEstimator:
    """The newest cameras of the last inferences, by the number of their frame."""

    def __init__(self) -> None:
        self._poses: dict[int, _Pose] = {}

    def add(
        self,
        frame_ids: tuple[int, ...],
        world_from_camera: Float[np.ndarray, "s 4 4"],
        stamp_ns: int,
        *,
        noise: float,
        scene_depth: float,
    ) -> Velocity | None:
        """Take in a window whose newest frame was taken at `stamp_ns`; None: nothing to compare.

        `noise` is that of a camera on each of its six axes: radians, and shares of `scene_depth`.
        """
        for key, pose in zip(frame_ids, world_from_camera, strict=True):
            if key in self._poses:
                self._poses[key] = self._poses[key]._replace(world_from_camera=pose)
        self._poses[frame_ids[-1]] = _Pose(stamp_ns, world_from_camera[-1])
        self._poses = {
            key: pose
            for key, pose in self._poses.items()
            if 0 <= stamp_ns - pose.stamp_ns <= LONGEST_NS
        }
        poses = sorted(self._poses.values(), key=lambda pose: pose.stamp_ns)
        fitted = [pose for pose in poses if stamp_ns - pose.stamp_ns <= SPAN_NS]
        fitted = fitted if len(fitted) > 1 else poses[-2:]
        return None if len(fitted) < 2 else _fit(fitted, noise, scene_depth)

    def move(self, now_from_then: Similarity) -> None:
        """The world was corrected: the poses follow."""
        for key, (stamp_ns, pose) in self._poses.items():
            self._poses[key] = _Pose(stamp_ns, now_from_then.apply_to_poses(pose[None])[0])

    def reset(self) -> None:
        """The next pose belongs to another map."""
        self._poses = {}


def rigid_logarithm(motion: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "6"]:
    """The twist (linear, angular) that makes this motion in a unit of time; turns below pi.

    A robot on an arc moves by a constant twist, so an arc is measured as exactly as a line.
    The logarithm of SE(3): Murray, Li and Sastry, A Mathematical Introduction to Robotic
    Manipulation, 1994, section 2.3.
    """
    quaternion = np.array(one_quaternion(motion[:3, :3]))
    sine = float(np.linalg.norm(quaternion[:3]))
    angle = 2.0 * float(np.arctan2(sine, quaternion[3]))
    turn = quaternion[:3] * (angle / sine if sine > 1e-12 else 2.0)
    cross = cross_product_matrix(turn)
    # 1/angle^2 - (1 + cos) / (2 angle sin), whose limit at rest is 1/12
    bend = 1.0 / 12.0
    if angle > 1e-3:
        bend = (1.0 - 0.5 * angle / np.tan(0.5 * angle)) / angle**2
    shift = (np.eye(3) - 0.5 * cross + bend * cross @ cross) @ motion[:3, 3]
    return np.concatenate([shift, turn])


def _fit(poses: list[_Pose], noise: float, scene_depth: float) -> Velocity:
    """A line through the motions (rotation vectors and shifts) that lead to the newest pose."""
    newest_from_world = inverse_rigid(poses[-1].world_from_camera)
    steps = np.stack(
        [rigid_logarithm(newest_from_world @ pose.world_from_camera) for pose in poses]
    )
    seconds = np.array([pose.stamp_ns - poses[-1].stamp_ns for pose in poses]) * 1e-9
    lag = -seconds.mean()
    ahead = seconds + lag
    spread = float(ahead @ ahead)
    twist = ahead @ steps / spread
    units = np.repeat([scene_depth, 1.0], 3)
    off = (steps - steps.mean(axis=0) - np.outer(ahead, twist)) / units
    scatter = np.sum(off**2) / (6.0 * max(len(poses) - 2, 1))
    variance = max(noise**2, float(scatter)) / spread * units**2
    acceleration = np.repeat([ACCELERATION * scene_depth, ANGULAR_ACCELERATION], 3)
    variance += (lag * acceleration) ** 2
    return Velocity(twist[:3], twist[3:], np.diag(variance))
