# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`tf_mode` auto and camera: the camera, or the tree that it is part of, is tied to the world."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from geometry_msgs.msg import TransformStamped

from vggt_ros.frames import Update, View
from vggt_ros.geometry import inverse_rigid
from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.tf.tf_advice import missing_link, mode_for, mount_line, restart_line
from vggt_ros.ros.tf.tf_cache import TfCache
from vggt_ros.ros.tf.tf_sending import SendingTransforms, instead
from vggt_ros.ros.tf.when_lost import Pose, is_located


class Joint(NamedTuple):
    """The transform that ties the camera's tree to the world."""

    parent: str
    child: str
    top: str  # whichever of both is of the camera's tree

    def __str__(self) -> str:
        return f"{self.parent} -> {self.child}"


class CameraTransforms(SendingTransforms):
    """`world_frame` -> the camera's frame; where that has a parent already, what `_joint` chooses.

    With `tf_mode` camera nothing but the first. Likewise `world_frame` -> `visual_odom_frame`.
    """

    def __init__(self, *args: Any):
        super().__init__(*args, state="camera: nothing sent yet")
        self._joined: Joint | None = None
        self._is_settled = False

    def _transforms(self, update: Update, views: Sequence[View]) -> list[TransformStamped]:
        if not self._is_settled:
            self._is_settled = True
            self._frames.settle()
        transforms, places, located = [], [], is_located(update)
        world, leaf = self._parameters.world_frame, self._parameters.odometry_frame
        camera = self._parameters.camera_frame or views[-1].camera
        joint = self._joint(camera)
        if joint is not None and joint != self._joined:
            self._join(joint, camera)
        if self._is_leaf_free(leaf, views[-1].stamp_ns):
            pose = inverse_rigid(update.odom_from_world)
            transforms += [
                transform_message(header(view.stamp_ns, world), leaf, pose) for view in views
            ]
        if joint is None:
            self._slow.stop()
            return transforms
        for view in views:
            pose = self._gate.select(located, lambda v=view, j=joint: self._find(v, j, camera))
            if pose is not None:
                places.append((view.stamp_ns, pose))
            else:
                self._slow.stop()
            if pose is not None or not located:
                self.state = f"camera: {joint}{instead(located, pose)}"
        return transforms + self._stamped(joint, camera, places)

    def _stamped(
        self, joint: Joint, camera: str, places: list[tuple[int, Pose]]
    ) -> list[TransformStamped]:
        """Where odometry is in the tree, the world moves against its root by corrections only."""
        ancestors = self._frames.tree.ancestors(camera)
        is_slow = joint.parent == joint.top and self._parameters.odom_frame in ancestors
        self._check_slow(is_slow, str(joint))
        if is_slow:
            return self._slow.messages(joint.parent, joint.child, places)
        return [
            transform_message(header(ns, joint.parent), joint.child, pose) for ns, pose in places
        ]

    def _joint(self, camera: str) -> Joint | None:
        """What may be sent without giving any frame a second parent; None, and why, if nothing.

        A frame without a parent hangs below the world. In the robot's tree, whose root may get a
        parent at any time (odometry, a map), the world hangs below the root instead, and so it does
        where another node places the top of the camera's own rigid tree.
        """
        world, tree = self._parameters.world_frame, self._frames.tree
        if not camera or camera == world:
            problem = f"the image's frame_id is '{camera}': set it in the driver, or restart with"
            line = restart_line(camera_frame="camera" if world != "camera" else "vggt_camera")
            return self._no_joint(f"'{camera}' cannot be a child of {world}", f"{problem} `{line}`")
        ancestors = tree.ancestors(camera)
        if len(ancestors) == 1:
            self._check_robot(tree, camera)
            return self._below_world(tree, camera)
        parent = ancestors[1]
        if self._parameters.tf_mode == "camera":
            line = restart_line(**mode_for(self._parameters, ancestors))
            return self._no_joint(
                f"{camera} already has parent {parent}",
                f"{camera} already has the parent {parent}; restart with `{line}`",
            )
        names = self._parameters.odom_frame, self._parameters.base_frame
        is_robot = any(name in ancestors for name in names)
        top = ancestors[-1] if is_robot else rigid_top(tree, camera)
        if not is_robot and tree.parent(top) is None:
            self._check_robot(tree, camera)
            return self._below_world(tree, top)
        if tree.parent(world) is None and world not in ancestors:
            return Joint(top, world, top)
        return self._placed_by_others(tree, ancestors)

    def _below_world(self, tree: TfCache, top: str) -> Joint | None:
        above = tree.ancestors(self._parameters.world_frame)
        if top in above:
            return self._placed_by_others(tree, tree.ancestors(top))
        return Joint(self._parameters.world_frame, top, top)

    def _placed_by_others(self, tree: TfCache, ancestors: tuple[str, ...]) -> None:
        world = self._parameters.world_frame
        other = next(
            name for name in ("vggt_world", "vggt_map", "vggt_world_2")
            if name != world and name not in ancestors and tree.parent(name) is None
        )  # fmt: skip
        return self._no_joint(
            f"other nodes place {world}",
            f"other nodes have {world} in the camera's tree; unless that is meant (tf_mode none),"
            f" restart with `{restart_line(world_frame=other)}`",
        )

    def _no_joint(self, state: str, problem: str) -> None:
        self._is_off(state, problem)

    def _check_robot(self, tree: TfCache, camera: str) -> None:
        """Says that there is a robot, which the camera is not connected with."""
        base = self._parameters.base_frame
        if tree.is_known(base):
            line = mount_line(tree, base, tree.ancestors(camera)[-1])
            self._problems.append(
                f"the camera is not connected with the robot's {base}: publish where it is mounted,"
                f" as in `{line}` with its x y z yaw pitch roll"
            )

    def _join(self, joint: Joint, camera: str) -> None:
        """Another transform from now on; said once where it is not the camera's own frame."""
        self._joined = joint
        self._gate.reset()
        self._slow.stop()
        if joint.top == camera and joint.child == camera:
            return
        what = f"{joint} is sent, since {camera} is in the tree of {joint.top}"
        if joint.child == joint.top:
            line = mount_line(self._frames.tree, self._parameters.base_frame, joint.top)
            self._notify(f"{what}; on a robot publish where that is mounted, as in `{line}`")
            return
        mode = mode_for(self._parameters, self._frames.tree.ancestors(camera))
        if mode["tf_mode"] == "auto":
            self._notify(what)
        else:
            use = "a map above odometry" if mode["tf_mode"] == "map_to_odom" else "odometry"
            self._notify(f"{what}; for {use} restart with `{restart_line(**mode)}`")

    def _find(self, view: View, joint: Joint, camera: str) -> Pose | None:
        """parent_from_child at the image's stamp; None, and why, where it is not known."""
        camera_from_top = np.eye(4)
        if joint.top != camera:
            found = self._frames.wait_for(camera, joint.top, view.stamp_ns)
            if found is None:
                self.state = f"late: {joint.top} -> {camera} is not known at the image's stamp"
                missing = missing_link(self._parameters, self._frames.tree, camera, joint.top)
                self._problems.append(f"no transform is sent, since {missing}")
                return None
            camera_from_top = found
        world_from_top = view.world_from_camera @ camera_from_top
        return world_from_top if joint.child == joint.top else inverse_rigid(world_from_top)

    def _is_leaf_free(self, leaf: str, ns: int) -> bool:
        parent = self._frames.tree.placed_below(leaf, ns)
        if parent is None:
            return True
        names = {"visual_odom_frame": "vggt_odom" if leaf != "vggt_odom" else "vggt_odom_2"}
        also = ""
        if parent == (world := self._parameters.world_frame):  # whose maps would be shown as one
            names["world_frame"] = "vggt_world" if world != "vggt_world" else "vggt_world_2"
            also = f", so that another node of this kind has its map in {world}"
        return self._is_off(
            f"{leaf} already has parent {parent}",
            f"{leaf} already has the parent {parent}{also}; restart with `{restart_line(**names)}`",
        )


def rigid_top(tree: TfCache, frame: str) -> str:
    """The last ancestor that the frame does not move against."""
    for above in tree.ancestors(frame)[1:]:
        if not tree.is_static(frame):
            break
        frame = above
    return frame
