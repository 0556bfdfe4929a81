# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Poses to /tf, by `tf_mode`: each stamp once, and no frame gets a second parent.

Each mode is a subclass of `Transforms`; `open_transforms` chooses it.
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

Notify = Callable[[str], object]


class Transforms:
    """Base of the modes; this one sends nothing, and poses are published as topics only."""

    def __init__(self, state: str):
        self.state = state  # for /diagnostics
        self.parents: dict[str, str] = {}  # by child, of other nodes; empty where not watched

    def send(self, views: Sequence[View]) -> None:
        """Publish the transforms of these views, none of which was sent before; oldest first."""

    def reset(self) -> None:
        """A new timeline starts."""


class CameraTransforms(Transforms):
    """`world_frame` -> the camera's frame, unless that frame already has another parent.

    A camera on a robot is part of the robot's tree, and a second parent would break that tree. So
    /tf and /tf_static are watched, and nothing is sent for a frame that other nodes publish.
    """

    def __init__(self, node: Node, message: type, *, world: str, child: str, notify: Notify):
        super().__init__("camera: nothing sent yet")
        self._message, self._world, self._child, self._notify = message, world, child, notify
        self._last_ns = 0
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = node.create_publisher(message, "/tf", QoSProfile(depth=100))
        node.create_subscription(message, "/tf", self._watch, QoSProfile(depth=100))
        node.create_subscription(message, "/tf_static", self._watch_static, latched)

    def _watch(self, msg: Any) -> None:
        for found in msg.transforms:
            if found.header.frame_id != self._world:  # else it is our own message
                self.parents[found.child_frame_id] = found.header.frame_id

    def _watch_static(self, msg: Any) -> None:
        for found in msg.transforms:
            self.parents[found.child_frame_id] = found.header.frame_id

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
            self._notify(
                f"no transform is sent: the image's frame_id is '{child}';"
                " set it in the driver, or set camera_frame"
            )
        elif child in self.parents:
            self.state = f"off: {child} already has parent {self.parents[child]}"
            self._notify(
                f"no transform is sent: {child} already has the parent {self.parents[child]};"
                " set tf_mode to none, or camera_frame to a name of its own"
            )
        else:
            return True
        return False

    def reset(self) -> None:
        self._last_ns = 0


class RobotTransforms(Transforms):
    """`parent` -> `child` of a robot whose own tree leads from `child` to the camera.

    odom_to_base: `odom_frame` -> `base_frame`, unless another node publishes it. map_to_odom:
    `world_frame` -> `odom_frame`, from the odometry at the image's own stamp.
    """

    def __init__(
        self,
        node: Node,
        message: type,
        frames: Frames,
        *,
        parent: str,
        child: str,
        notify: Notify,
    ):
        super().__init__(f"{parent} -> {child}: nothing sent yet")
        self._message, self._frames, self._notify = message, frames, notify
        self._parent, self._child = parent, child
        self._sent: deque[int] = deque(maxlen=1000)
        self._publisher = node.create_publisher(message, "/tf", QoSProfile(depth=100))

    def send(self, views: Sequence[View]) -> None:
        transforms = []
        for view in views:
            if self._sent and view.stamp_ns <= self._sent[-1] or not self._is_free():
                continue
            camera_from_child = self._frames.wait_for(view.camera, self._child, view.stamp_ns)
            if camera_from_child is None:
                self.state = (
                    f"late: {self._child} -> {view.camera} is not known at the image's stamp"
                )
                self._notify(
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
        """Whether no other node publishes the child's place."""
        tree = self._frames.tree
        known, stamps = tree.parent(self._child), tree.stamps(self._child)
        if known is None or (known == self._parent and stamps and set(stamps) <= set(self._sent)):
            return True
        self.state = f"off: {self._child} already has parent {known}"
        self._notify(
            f"no transform is sent: another node publishes {known} -> {self._child};"
            " set tf_mode to map_to_odom, or to none, or stop that node"
        )
        return False

    def reset(self) -> None:
        """Sent stamps are kept: none is sent twice, not even on another map."""


def open_transforms(
    node: Node, parameters: Parameters, frames: Frames | None, notify: Notify
) -> Transforms:
    """The mode that the parameters name; `frames` is None where tf2_msgs is not installed.

    Raises `UserError` for a mode that needs tf2_msgs without it.
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
        notify("tf2_msgs is not installed: nothing is sent to /tf; poses are on ~/pose and ~/path")
        return Transforms("off: tf2_msgs is not installed")
    from tf2_msgs.msg import TFMessage

    if mode == "odom_to_base":
        parent, child = parameters.odom_frame, parameters.base_frame
    elif mode == "map_to_odom":
        parent, child = parameters.world_frame, parameters.odom_frame
    else:
        return CameraTransforms(
            node,
            TFMessage,
            world=parameters.world_frame,
            child=parameters.camera_frame,
            notify=notify,
        )
    return RobotTransforms(node, TFMessage, frames, parent=parent, child=child, notify=notify)
