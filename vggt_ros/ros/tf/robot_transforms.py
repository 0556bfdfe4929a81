# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`tf_mode` odom_to_base and map_to_odom: a robot whose own tree leads to the camera."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped

from vggt_ros.frames import Update, View
from vggt_ros.geometry import inverse_rigid
from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.tf.tf_advice import missing_link, restart_line
from vggt_ros.ros.tf.tf_sending import SendingTransforms, instead
from vggt_ros.ros.tf.when_lost import Pose, is_located


class RobotTransforms(SendingTransforms):
    """`parent` -> `child` of a robot whose own tree leads from `child` to the camera.

    odom_to_base: `odom_frame` -> `base_frame`, unless another node publishes it, without the jumps
    of corrections; these are in `odom_frame` -> `world_frame`, a leaf below, so that no other map
    gets a second parent. map_to_odom: `world_frame` -> `odom_frame`, from the odometry at the
    image's own stamp, and `world_frame` -> `visual_odom_frame`, the leaf in which ~/odometry is.
    """

    def __init__(self, *args: Any, parent: str, child: str, leaf: str, is_continuous: bool):
        super().__init__(*args, state=f"{parent} -> {child}: nothing sent yet")
        self._parent, self._child, self._leaf = parent, child, leaf
        self._is_continuous = is_continuous

    def _transforms(self, update: Update, views: Sequence[View]) -> list[TransformStamped]:
        transforms, places, located = [], [], is_located(update)
        odom_from_world = update.odom_from_world
        for view in views:
            if self._is_free(self._leaf, view.stamp_ns):
                pose = odom_from_world if self._is_continuous else inverse_rigid(odom_from_world)
                head = header(view.stamp_ns, self._parent)
                transforms.append(transform_message(head, self._leaf, pose))
            if not self._is_free(self._child, view.stamp_ns):
                self._slow.stop()
                continue
            world = odom_from_world if self._is_continuous else np.eye(4)
            pose = self._gate.select(located, lambda view=view, w=world: self._find(view, w))
            if pose is not None:
                places.append((view.stamp_ns, pose))
            else:
                self._slow.stop()
            if pose is not None or not located:
                self.state = f"{self._parent} -> {self._child}{instead(located, pose)}"
        return transforms + self._stamped(places)

    def _stamped(self, places: list[tuple[int, Pose]]) -> list[TransformStamped]:
        self._check_slow(not self._is_continuous, f"{self._parent} -> {self._child}")
        if not self._is_continuous:
            return self._slow.messages(self._parent, self._child, places)
        return [
            transform_message(header(ns, self._parent), self._child, pose) for ns, pose in places
        ]

    def _find(self, view: View, parent_from_world: Pose) -> Pose | None:
        """parent_from_child at the image's stamp; None, and why, where it is not known."""
        camera_from_child = self._frames.wait_for(view.camera, self._child, view.stamp_ns)
        if camera_from_child is not None:
            return parent_from_world @ view.world_from_camera @ camera_from_child
        self.state = f"late: {self._child} -> {view.camera} is not known at the image's stamp"
        missing = missing_link(self._parameters, self._frames.tree, view.camera, self._child)
        self._problems.append(f"no transform is sent, since {missing}")
        return None

    def _is_free(self, child: str, ns: int) -> bool:
        """Whether no other node publishes the child's place, nor makes it an ancestor."""
        tree = self._frames.tree
        known = tree.placed_below(child, ns)
        if known is None and child not in tree.ancestors(self._parent):
            return True
        above = tree.parent(self._parent)
        what = f"{known} -> {child}" if known else f"{above} -> {self._parent}"
        state = f"{child} already has parent {known}" if known else f"{what} exists"
        line = restart_line(**self._cure(child))
        return self._is_off(
            state, f"another node publishes {what}; stop it, or restart with `{line}`"
        )

    def _cure(self, child: str) -> dict[str, str]:
        """Parameters with which no frame gets a second parent."""
        if child != self._child:
            default = "vggt_world" if self._is_continuous else "vggt_odom"
            name = default if child != default else f"{default}_2"
            return {"world_frame" if self._is_continuous else "visual_odom_frame": name}
        above = self._frames.tree.ancestors(child)
        if not self._is_continuous:
            return {"tf_mode": "auto", "world_frame": "vggt_world"}
        if self._parameters.odom_frame in above:
            is_root = above[-1] == self._parameters.odom_frame
            return {"tf_mode": "map_to_odom" if is_root else "auto"}
        return {"base_frame": above[-1]} if above[-1] != child else {"tf_mode": "auto"}
