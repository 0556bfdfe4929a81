# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the camera is while windows are refused, and when the map begins another segment."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import (
    Similarity,
    cross_product_matrix,
    lever_arm_jacobian,
    scale_covariance,
)
from vggt_ros.mapping.bridging import Lead
from vggt_ros.mapping.map_frames import median_depth
from vggt_ros.mapping.metric import measuring
from vggt_ros.mapping.metric.comparisons import Comparisons
from vggt_ros.mapping.metric.odometry import OdometryBuffer
from vggt_ros.mapping.metric.scale import ScaleState
from vggt_ros.mapping.segment import Registration, Segment
from vggt_ros.mapping.velocity import UNKNOWN_VARIANCE, Velocity, VelocityEstimator
from vggt_ros.mapping.window import WindowGeometry, subsampled

LOST_AFTER = 6  # windows refused in a row, after which the window starts again
COASTING = 1.0  # seconds for which a camera is taken to keep its velocity
TRUSTED = 3.0  # seconds after which a prediction without odometry says nothing


class Prediction(NamedTuple):
    """Where the newest camera should be."""

    world_from_camera: Float[np.ndarray, "4 4"]
    covariance: Float[np.ndarray, "6 6"]  # world axes: x y z, rotation vector
    led: Lead | None  # by odometry; None: by its velocity


class LastKnown(NamedTuple):
    """The newest camera of the last window that was registered."""

    stamp_ns: int
    world_from_camera: Float[np.ndarray, "4 4"]
    covariance: Float[np.ndarray, "6 6"]
    velocity: Velocity | None
    scene_depth: float


class Motion:
    """How the newest camera moved so far, and where that leads it."""

    def __init__(self) -> None:
        self.comparisons = Comparisons()
        self._velocity = VelocityEstimator()
        self._last: LastKnown | None = None
        self._lead: Lead | None = None  # since the last camera

    def observe(
        self, found: Registration, segment: Segment, state: ScaleState, stamp_ns: int
    ) -> Velocity | None:
        """Take in a registered window; how fast its newest camera moves."""
        moving = measuring.velocity(self._velocity, state, found, segment, stamp_ns)
        newest = segment.frames[-1]
        depth = median_depth((newest,))
        self._last = LastKnown(stamp_ns, newest.world_from_camera, found.covariance, moving, depth)
        self._lead = None
        return moving

    def predict(
        self,
        stamp_ns: int,
        odom_from_base: OdometryBuffer | None,
        base_from_camera: Float[np.ndarray, "4 4"] | None,
        metres_per_unit: float | None,
    ) -> Prediction | None:
        """By odometry where there is one, else by its velocity.

        A `metres_per_unit` that is not known (None) leaves odometry without use. None before the
        first registered window.
        """
        last = self._last
        if last is None:
            return None
        if odom_from_base is not None and metres_per_unit is not None:
            lead = self._lead or Lead.at(last.stamp_ns)
            led = lead.followed(stamp_ns, odom_from_base, base_from_camera, metres_per_unit)
            if led is not None:
                self._lead = led
                return _by_odometry(last, led)
        return _by_velocity(last, max(stamp_ns - last.stamp_ns, 0) * 1e-9)

    def at_prediction(
        self, found: Registration, window: WindowGeometry, predicted: Prediction | None
    ) -> Registration:
        """A refused window, put so that its newest camera stands where it is predicted to be."""
        self.comparisons.interrupt()
        newest = window.window_from_camera[-1]
        pose = np.eye(4) if predicted is None else predicted.world_from_camera
        gauge = Similarity(1.0, pose[:3, :3], pose[:3, 3])
        if np.isfinite(newest).all():
            gauge = Similarity.between(pose, newest, self.unit_of(window))
        unknown = UNKNOWN_VARIANCE * np.eye(6)
        covariance = unknown if predicted is None else predicted.covariance
        return found._replace(world_from_window=gauge, covariance=covariance)

    def first_camera(
        self, window: WindowGeometry, predicted: Prediction
    ) -> tuple[Float[np.ndarray, "4 4"], float]:
        """world_from_camera of a window's first frame, whose newest is where it is predicted.

        And world units per window unit.
        """
        unit, cameras = self.unit_of(window), window.window_from_camera
        gauge = Similarity.between(predicted.world_from_camera, cameras[-1], unit)
        return gauge.apply_to_poses(cameras[:1])[0], unit

    def unit_of(self, window: WindowGeometry) -> float:
        """World units per unit of a window that nothing ties: scenes are about as deep.

        By the same pixels, which are nearer than all: else each new segment would be smaller.
        """
        if self._last is None:
            return 1.0
        return self._last.scene_depth / median_depth(subsampled(window)[-1:])

    def move(self, now_from_then: Similarity) -> None:
        """The world was corrected."""
        self.comparisons.move(now_from_then)
        self._velocity.move(now_from_then)
        if self._last is not None:
            pose = now_from_then.apply_to_poses(self._last.world_from_camera[None])[0]
            depth = now_from_then.scale * self._last.scene_depth
            turn = np.kron(np.eye(2), now_from_then.rotation)
            covariance = turn @ self._last.covariance @ turn.T
            self._last = self._last._replace(
                world_from_camera=pose,
                covariance=scale_covariance(covariance, now_from_then.scale),
                scene_depth=depth,
            )

    def reset(self) -> None:
        """Another segment begins: its poses do not compare with those before."""
        self.comparisons.reset()
        self._velocity.reset()


def placed(found: Registration, window: WindowGeometry) -> Float[np.ndarray, "s 4 4"]:
    """world_from_camera of a window's frames; those that are not finite stand as the newest."""
    poses = window.window_from_camera
    sound = np.isfinite(poses).all(axis=(1, 2))
    newest = poses[-1] if sound[-1] else np.eye(4)
    return found.world_from_window.apply_to_poses(np.where(sound[:, None, None], poses, newest))


def _by_odometry(last: LastKnown, led: Lead) -> Prediction:
    motion = led.last_from_camera.copy()
    motion[:3, 3] /= led.metres_per_unit
    pose = last.world_from_camera @ motion
    carry = lever_arm_jacobian(pose[:3, 3] - last.world_from_camera[:3, 3])
    sigma = np.repeat([led.shift_sigma / led.metres_per_unit, led.turn_sigma], 3)
    return Prediction(pose, carry @ last.covariance @ carry.T + np.diag(sigma**2), led)


def _by_velocity(last: LastKnown, seconds: float) -> Prediction:
    moved, pose = min(seconds, COASTING), last.world_from_camera
    if last.velocity is not None:
        pose = pose @ _motion(moved * last.velocity.linear, moved * last.velocity.angular)
    if seconds > TRUSTED:
        return Prediction(pose, UNKNOWN_VARIANCE * np.eye(6), None)
    shift = (0.1 * seconds + 0.5 * seconds**2) * last.scene_depth
    sigma = np.repeat([shift, 0.1 * seconds + 0.5 * seconds**2], 3)
    return Prediction(pose, last.covariance + np.diag(sigma**2), None)


def _motion(shift: Float[np.ndarray, "3"], turn: Float[np.ndarray, "3"]) -> np.ndarray:
    """The motion of a constant twist in a unit of time: the exponential of SE(3).

    Murray, Li and Sastry, A Mathematical Introduction to Robotic Manipulation, 1994, section 2.3.
    """
    angle, cross = float(np.linalg.norm(turn)), cross_product_matrix(turn)
    motion = np.eye(4)
    if angle < 1e-9:
        motion[:3, 3] = shift
        return motion
    one, other = np.sin(angle) / angle, (1.0 - np.cos(angle)) / angle**2
    motion[:3, :3] = np.eye(3) + one * cross + other * cross @ cross
    bend = (1.0 - one) / angle**2
    motion[:3, 3] = (np.eye(3) + other * cross + bend * cross @ cross) @ shift
    return motion
