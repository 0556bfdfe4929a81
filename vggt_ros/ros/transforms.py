# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Poses to /tf, by `tf_mode`: each stamp once, no frame given a second parent.

A mode is a subclass of `Transforms`; `open_transforms` chooses it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from vggt_ros.errors import UserError
from vggt_ros.pipeline import View
from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.parameters import Parameters

Say = Callable[[str], object]


class Transforms:
    """What a mode is to the outputs; this one sends nothing, so poses stay topics."""

    def __init__(self, state: str):
        self.state = state  # for /diagnostics

    def send(self, views: Sequence[View]) -> None:
        """Publish what these views, never sent before, say; oldest first."""

    def reset(self) -> None:
        """A new timeline begins."""


class CameraTransforms(Transforms):
    """`world_frame` -> the camera's frame, as long as nobody else is that frame's parent.

    A camera on a robot hangs on the robot's own tree: a second parent would tear it out of there.
    So /tf and /tf_static are watched, and this mode falls silent where the frame is taken.
    """

    def __init__(self, node: Node, message: type, *, world: str, child: str, say: Say):
        super().__init__("camera: nothing sent yet")
        self._message, self._world, self._child, self._say = message, world, child, say
        self._parents: dict[str, str] = {}  # as others have it
        self._last_ns = 0
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = node.create_publisher(message, "/tf", QoSProfile(depth=100))
        node.create_subscription(message, "/tf", self._watch, QoSProfile(depth=100))
        node.create_subscription(message, "/tf_static", self._watch_static, latched)

    def _watch(self, msg: Any) -> None:
        for found in msg.transforms:
            if found.header.frame_id != self._world:  # else it is our own, come back
                self._parents[found.child_frame_id] = found.header.frame_id

    def _watch_static(self, msg: Any) -> None:
        for found in msg.transforms:
            self._parents[found.child_frame_id] = found.header.frame_id

    def send(self, views: Sequence[View]) -> None:
        transforms = []
        for view in views:
            child = self._child or view.camera
            if view.stamp_ns <= self._last_ns or not self._is_free(child):
                continue
            self._last_ns = view.stamp_ns
            head = header(view.stamp_ns, self._world)
            transforms.append(transform_message(head, child, view.world_from_camera))
        if transforms:
            self._publisher.publish(self._message(transforms=transforms))
            self.state = f"camera: {self._world} -> {transforms[-1].child_frame_id}"

    def _is_free(self, child: str) -> bool:
        if not child or child == self._world:
            self.state = f"off: '{child}' cannot be a child of {self._world}"
            self._say(
                f"no transform is sent: the image's frame_id is '{child}';"
                " set it in the driver, or set camera_frame"
            )
        elif child in self._parents:
            self.state = f"off: {child} already has parent {self._parents[child]}"
            self._say(
                f"no transform is sent: {child} already has the parent {self._parents[child]};"
                " set tf_mode to none, or camera_frame to a name of its own"
            )
        else:
            return True
        return False

    def reset(self) -> None:
        self._last_ns = 0


def open_transforms(node: Node, parameters: Parameters, say: Say) -> Transforms:
    """The mode that the parameters ask for.  Raises `UserError` where it cannot be had."""
    mode = parameters.tf_mode
    if mode == "none":
        return Transforms("off: tf_mode is none")
    if mode in ("odom_to_base", "map_to_odom"):
        raise UserError(f"tf_mode {mode} is not there yet; choose auto, camera or none")
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError as error:
        if mode == "camera":
            raise UserError(
                f"tf_mode camera needs the package tf2_msgs ({error});"
                " install ros-$ROS_DISTRO-tf2-msgs, or set tf_mode to none"
            ) from error
        say("tf2_msgs is not installed: nothing is sent to /tf; poses are on ~/pose and ~/path")
        return Transforms("off: tf2_msgs is not installed")
    return CameraTransforms(
        node, TFMessage, world=parameters.world_frame, child=parameters.camera_frame, say=say
    )
