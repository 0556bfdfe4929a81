# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Poses to /tf, by `tf_mode`: each stamp once, no frame given a second parent.

A mode is a subclass of `Transforms`; `open_transforms` chooses it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from vggt_ros.errors import UserError
from vggt_ros.frames import View
from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.tf_cache import Frames

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


class RobotTransforms(Transforms):
    """`parent` -> `child` of a robot whose own tree leads from `child` to the camera.

    odom_to_base: `odom_frame` -> `base_frame`, where nobody else tells it. map_to_odom:
    `world_frame` -> `odom_frame`, from the odometry at the image's own stamp.
    """

    def __init__(
        self, node: Node, message: type, frames: Frames, *, parent: str, child: str, say: Say
    ):
        super().__init__(f"{parent} -> {child}: nothing sent yet")
        self._message, self._frames, self._say = message, frames, say
        self._parent, self._child = parent, child
        self._sent: deque[int] = deque(maxlen=1000)
        self._publisher = node.create_publisher(message, "/tf", QoSProfile(depth=100))

    def send(self, views: Sequence[View]) -> None:
        transforms = []
        for view in views:
            if self._sent and view.stamp_ns <= self._sent[-1] or not self._is_free():
                continue
            camera_from_child = self._frames.late(view.camera, self._child, view.stamp_ns)
            if camera_from_child is None:
                self.state = (
                    f"late: {self._child} -> {view.camera} is not known at the image's stamp"
                )
                self._say(
                    f"no transform is sent: /tf has no {self._child} -> {view.camera} at the"
                    f" image's stamp {view.stamp_ns}; is the robot's description published, and"
                    " odometry as often as images?"
                )
                continue
            self._sent.append(view.stamp_ns)
            head = header(view.stamp_ns, self._parent)
            pose = view.world_from_camera @ camera_from_child
            transforms.append(transform_message(head, self._child, pose))
        if transforms:
            self._publisher.publish(self._message(transforms=transforms))
            self.state = f"{self._parent} -> {self._child}"

    def _is_free(self) -> bool:
        """Whether nobody but this node places the child."""
        others, told = self._frames.tree.parent(self._child), self._frames.tree.stamps(self._child)
        if others is None or (others == self._parent and told and set(told) <= set(self._sent)):
            return True
        self.state = f"off: {self._child} already has parent {others}"
        self._say(
            f"no transform is sent: somebody else publishes {others} -> {self._child};"
            " set tf_mode to map_to_odom, or to none, or stop the other one"
        )
        return False

    def reset(self) -> None:
        """What was sent stays sent: a stamp is told once."""


def open_transforms(
    node: Node, parameters: Parameters, frames: Frames | None, say: Say
) -> Transforms:
    """The mode that the parameters ask for; `frames` is None where tf2_msgs is not installed.

    Raises `UserError` where the mode cannot be had.
    """
    mode = parameters.tf_mode
    if mode == "none":
        return Transforms("off: tf_mode is none")
    if frames is None:
        if mode != "auto":
            raise UserError(
                f"tf_mode {mode} needs the package tf2_msgs;"
                " install ros-$ROS_DISTRO-tf2-msgs, or set tf_mode to none"
            )
        say("tf2_msgs is not installed: nothing is sent to /tf; poses are on ~/pose and ~/path")
        return Transforms("off: tf2_msgs is not installed")
    from tf2_msgs.msg import TFMessage

    if mode == "odom_to_base":
        parent, child = parameters.odom_frame, parameters.base_frame
    elif mode == "map_to_odom":
        parent, child = parameters.world_frame, parameters.odom_frame
    else:
        return CameraTransforms(
            node, TFMessage, world=parameters.world_frame, child=parameters.camera_frame, say=say
        )
    return RobotTransforms(node, TFMessage, frames, parent=parent, child=child, say=say)
