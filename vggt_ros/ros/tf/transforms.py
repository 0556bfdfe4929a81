# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Poses to /tf, by `tf_mode`: each stamp once, and no frame gets a second parent."""

from rclpy.node import Node

from vggt_ros.errors import UserError
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.tf.camera_transforms import CameraTransforms
from vggt_ros.ros.tf.robot_transforms import RobotTransforms
from vggt_ros.ros.tf.tf_cache import Frames
from vggt_ros.ros.tf.tf_sending import Say, Transforms

__all__ = ["Transforms", "open_transforms"]


def open_transforms(
    node: Node,
    parameters: Parameters,
    frames: Frames | None,
    notify: Say,
    warn: Say | None = None,
) -> Transforms:
    """The mode that the parameters name; `frames` is None where tf2_msgs is not installed.

    `notify` is told of events, `warn` of what lasts: an empty text ends it. Raises `UserError` for
    a mode that needs tf2_msgs without it.
    """
    mode, warn = parameters.tf_mode, warn or notify
    if mode == "none":
        return Transforms("off: tf_mode is none")
    if frames is None:
        install = "install ros-$ROS_DISTRO-tf2-msgs, or set tf_mode to none"
        if mode != "auto":
            raise UserError(f"tf_mode {mode} needs the package tf2_msgs; {install}")
        warn(
            "tf2_msgs is not installed: nothing is sent to /tf, and poses are on ~/pose and ~/path"
            f" only; {install}"
        )
        return Transforms("off: tf2_msgs is not installed")
    from tf2_msgs.msg import TFMessage

    shared = node, TFMessage, frames, parameters, notify, warn
    world, odom = parameters.world_frame, parameters.odom_frame
    if mode not in ("odom_to_base", "map_to_odom"):
        return CameraTransforms(*shared)
    to_base = mode == "odom_to_base"
    return RobotTransforms(
        *shared,
        parent=odom if to_base else world,
        child=parameters.base_frame if to_base else odom,
        leaf=world if to_base else parameters.odometry_frame,
        is_continuous=to_base,
    )
