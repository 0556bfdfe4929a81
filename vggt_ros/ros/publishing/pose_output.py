# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pose and odometry of the newest frame, and the covariance that a filter can use."""

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PoseStamped
from jaxtyping import Float
from nav_msgs.msg import Odometry

from vggt_ros.frames import Update
from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping.velocity import UNKNOWN_VARIANCE
from vggt_ros.ros import messages
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.tf.when_lost import PoseGate, is_located

LEAST_SHARE = 1e-10  # of the largest variance: less is rounding, and a filter cannot invert it
LEAST_VARIANCE = 1e-12

FindMount = Callable[[str, int], Float[np.ndarray, "4 4"] | None]


class PoseOutput:
    """`~/pose` in the map, and `~/odometry` in a frame that no correction of the map moves."""

    def __init__(self, parameters: Parameters, find_mount: FindMount):
        """`find_mount(camera, stamp_ns)` gives base_from_camera, or None where it is not known."""
        self._parameters, self._find_mount = parameters, find_mount
        self._gate = PoseGate(parameters.tf_when_lost)
        self._mounts: dict[str, Float[np.ndarray, "4 4"]] = {}  # the last one of each camera

    def reset(self) -> None:
        """Another map."""
        self._gate.reset()

    def pose(self, update: Update) -> PoseStamped | None:
        """Of the newest camera; while that is not located by `tf_when_lost`, None: nothing."""
        newest = update.views[-1]
        pose = self._gate.select(is_located(update), lambda: newest.world_from_camera)
        if pose is None:
            return None
        head = messages.header(newest.stamp_ns, self._parameters.world_frame)
        return messages.pose_message(head, pose)

    def odometry(self, update: Update) -> Odometry:
        """Pose and velocity of the robot's base; of the camera, where its mount is not known.

        A mount that is missing at this stamp is the last one: a filter that was given the base must
        not be given the camera in its place.
        """
        newest, odom_from_world = update.views[-1], update.odom_from_world
        mount = self._find_mount(newest.camera, newest.stamp_ns)
        mount = self._mounts.get(newest.camera) if mount is None else mount
        if mount is not None:
            self._mounts[newest.camera] = mount
        turn = np.zeros((6, 6))
        turn[:3, :3] = turn[3:, 3:] = odom_from_world[:3, :3]
        msg = messages.odometry_message(
            messages.header(newest.stamp_ns, self._parameters.odometry_frame),
            newest.camera if mount is None else self._parameters.base_frame,
            odom_from_world @ newest.world_from_camera,
            np.eye(4) if mount is None else inverse_rigid(mount),
            invertible_covariance(turn @ update.covariance @ turn.T),
            update.velocity,
        )
        for part in (msg.pose, msg.twist):  # rounded, at the base's distance from the camera
            part.covariance = invertible_covariance(part.covariance.reshape(6, 6)).ravel()
        return msg


def invertible_covariance(covariance: Float[np.ndarray, "6 6"]) -> Float[np.ndarray, "6 6"]:
    """The nearest one that is finite, symmetric and positive definite; not finite: unknown."""
    if not np.isfinite(covariance).all():
        return UNKNOWN_VARIANCE * np.eye(6)
    symmetric = (covariance + covariance.T) / 2.0
    values, axes = np.linalg.eigh(symmetric)
    least = max(LEAST_SHARE * values[-1], LEAST_VARIANCE)
    if values[0] >= least:
        return symmetric
    nearest = (axes * np.maximum(values, least)) @ axes.T
    return (nearest + nearest.T) / 2.0
