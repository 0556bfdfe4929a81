# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Poses to /tf, by `tf_mode`: each stamp once, and no frame gets a second parent.

Each mode is a subclass of `Transforms`; `open_transforms` chooses it.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from vggt_ros.errors import UserError
from vggt_ros.frames import Update, View
from vggt_ros.geometry import inverse_rigid
from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.tf_cache import Frames
from vggt_ros.ros.when_lost import Pose, PoseGate, is_located

Notify = Callable[[str], object]


class Transforms:
    """Base of the modes; this one sends nothing, and poses are published as topics only."""

    def __init__(self, state: str):
        self.state = state  # for /diagnostics
        self.parents: dict[str, str] = {}  # by child, of other nodes; empty where not watched

    def send(self, update: Update) -> None:
        """Publish the transforms of the new views, none of which was sent before; oldest first."""

    def reset(self) -> None:
        """A new timeline starts."""


class CameraTransforms(Transforms):
    """`world_frame` -> the camera's frame, unless that frame already has another parent.

    A camera on a robot is part of the robot's tree, and a second parent would break that tree. So
    /tf and /tf_static are watched, and nothing is sent for a frame that other nodes publish.
    Likewise `world_frame` -> `odometry_frame`, the frame of ~/odometry.
    """

    def __init__(
        self,
        node: Node,
        message: type,
        *,
        world: str,
        child: str,
        odometry_frame: str,
        gate: PoseGate,
        notify: Notify,
    ):
        super().__init__("camera: nothing sent yet")
        self._message, self._world, self._child, self._notify = message, world, child, notify
        self._odometry_frame, self._gate = odometry_frame, gate
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

    def send(self, update: Update) -> None:
        transforms, located = [], is_located(update)
        for view in _fresh(update):
            if view.stamp_ns <= self._last_ns:
                continue
            self._last_ns = view.stamp_ns
            head = header(view.stamp_ns, self._world)
            if self._is_free(self._odometry_frame, "set visual_odom_frame to a name of its own"):
                pose = inverse_rigid(update.odom_from_world)
                transforms.append(transform_message(head, self._odometry_frame, pose))
            child = self._child or view.camera
            if not self._is_free(
                child, "set tf_mode to none, or camera_frame to a name of its own"
            ):
                continue
            pose = self._gate.select(located, lambda view=view: view.world_from_camera)
            if pose is not None:
                transforms.append(transform_message(head, child, pose))
            self.state = f"camera: {self._world} -> {child}{_instead(located, pose)}"
        if transforms:
            self._publisher.publish(self._message(transforms=transforms))

    def _is_free(self, child: str, advice: str) -> bool:
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
                f" {advice}"
            )
        else:
            return True
        return False

    def reset(self) -> None:
        self._last_ns = 0
        self._gate.reset()


class RobotTransforms(Transforms):
    """`parent` -> `child` of a robot whose own tree leads from `child` to the camera.

    odom_to_base: `odom_frame` -> `base_frame`, unless another node publishes it, without the jumps
    of corrections; these are in `odom_frame` -> `world_frame`, a leaf below, so that nobody's map
    gets a second parent. map_to_odom: `world_frame` -> `odom_frame`, from the odometry at the
    image's own stamp, and `world_frame` -> `visual_odom_frame`, the leaf in which ~/odometry is.
    """

    def __init__(
        self,
        node: Node,
        message: type,
        frames: Frames,
        *,
        parent: str,
        child: str,
        leaf: str,
        is_continuous: bool,
        gate: PoseGate,
        notify: Notify,
    ):
        super().__init__(f"{parent} -> {child}: nothing sent yet")
        self._message, self._frames, self._notify = message, frames, notify
        self._parent, self._child, self._leaf = parent, child, leaf
        self._is_continuous, self._gate = is_continuous, gate
        self._last_ns = -1
        self._sent: dict[str, deque[int]] = {name: deque(maxlen=1000) for name in (child, leaf)}
        self._publisher = node.create_publisher(message, "/tf", QoSProfile(depth=100))

    def send(self, update: Update) -> None:
        transforms, located = [], is_located(update)
        odom_from_world = update.odom_from_world
        for view in _fresh(update):
            if view.stamp_ns <= self._last_ns:
                continue
            self._last_ns = view.stamp_ns
            if self._is_free(self._leaf, "set world_frame or visual_odom_frame to another name"):
                pose = odom_from_world if self._is_continuous else inverse_rigid(odom_from_world)
                transforms.append(self._transform(view.stamp_ns, self._leaf, pose))
            if self._is_free(self._child, "set tf_mode to map_to_odom, or to none"):
                world = odom_from_world if self._is_continuous else np.eye(4)
                pose = self._gate.select(located, lambda view=view, w=world: self._find(view, w))
                if pose is not None:
                    transforms.append(self._transform(view.stamp_ns, self._child, pose))
                if pose is not None or not located:
                    instead = _instead(located, pose)
                    self.state = f"{self._parent} -> {self._child}{instead}"
        if transforms:
            self._publisher.publish(self._message(transforms=transforms))

    def _find(self, view: View, parent_from_world: Pose) -> Pose | None:
        """parent_from_child at the image's stamp; None, and a notice, where it is not known."""
        camera_from_child = self._frames.wait_for(view.camera, self._child, view.stamp_ns)
        if camera_from_child is not None:
            return parent_from_world @ view.world_from_camera @ camera_from_child
        self.state = f"late: {self._child} -> {view.camera} is not known at the image's stamp"
        self._notify(
            f"no transform is sent: /tf has no {self._child} -> {view.camera} at the image's stamp"
            f" {view.stamp_ns}; is the robot's description published, and odometry as often as"
            " images?"
        )
        return None

    def _transform(self, ns: int, child: str, pose: Pose) -> TransformStamped:
        self._sent[child].append(ns)
        return transform_message(header(ns, self._parent), child, pose)

    def _is_free(self, child: str, advice: str) -> bool:
        """Whether no other node publishes the child's place, nor makes it an ancestor."""
        tree = self._frames.tree
        known, stamps = tree.parent(child), tree.stamps(child)
        ours = known == self._parent and stamps and set(stamps) <= set(self._sent[child])
        if (known is None or ours) and tree.parent(self._parent) != child:
            return True
        what = f"{known} -> {child}" if known else f"{child} -> {self._parent}"
        self.state = f"off: {child} already has parent {known}" if known else f"off: {what} exists"
        self._notify(
            f"no transform is sent: another node publishes {what}; {advice}, or stop that node"
        )
        return False

    def reset(self) -> None:
        """Sent stamps are kept: none is sent twice, not even on another map."""
        self._gate.reset()


def _fresh(update: Update) -> tuple[View, ...]:
    return update.views[len(update.views) - update.fresh :]


def _instead(located: bool, pose: Pose | None) -> str:
    """What is sent of a place that is not known, for /diagnostics."""
    if located:
        return ""
    return ": withheld, the camera is not located" if pose is None else ": not measured now"


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

    gate = PoseGate(parameters.tf_when_lost)
    world, odom = parameters.world_frame, parameters.odom_frame
    if mode not in ("odom_to_base", "map_to_odom"):
        return CameraTransforms(
            node,
            TFMessage,
            world=world,
            child=parameters.camera_frame,
            odometry_frame=parameters.odometry_frame,
            gate=gate,
            notify=notify,
        )
    to_base = mode == "odom_to_base"
    return RobotTransforms(
        node,
        TFMessage,
        frames,
        parent=odom if to_base else world,
        child=parameters.base_frame if to_base else odom,
        leaf=world if to_base else parameters.odometry_frame,
        is_continuous=to_base,
        gate=gate,
        notify=notify,
    )
