# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a robot stand to each other, by the /tf_static of a recording."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import inverse_rigid, rotation_angle, rotation_from_quaternion
from vggt_ros.tools.sources.bag_reader import BagReader

TOPIC, TYPE = "/tf_static", "tf2_msgs/msg/TFMessage"
SAME_PLACE, SAME_TURN = 0.01, np.radians(1.0)  # metres and radians between two equal transforms

Pose = Float[np.ndarray, "4 4"]


class StaticFrames:
    """A tree of frames, whose transforms never change."""

    def __init__(self, notes: list[str] | None = None) -> None:
        """What is wrong with a transform is a line in `notes`."""
        self.notes = [] if notes is None else notes
        self._links: dict[str, tuple[str, Pose]] = {}  # of a child: parent, parent_from_child

    def add(self, parent: str, child: str, parent_from_child: Pose | None) -> None:
        """One transform; None: it is not rigid. Of two that differ, the first is used."""
        if parent_from_child is None:
            self._note(f"/tf_static: '{parent}' -> '{child}' is not rigid: it is left out")
            return
        known = self._links.setdefault(child, (parent, parent_from_child))
        if known[0] != parent:
            self._note(
                f"/tf_static contradicts itself: '{child}' has the parents '{known[0]}' and"
                f" '{parent}'; the first is used"
            )
            return
        apart = inverse_rigid(known[1]) @ parent_from_child
        moved, turned = float(np.linalg.norm(apart[:3, 3])), rotation_angle(apart[:3, :3])
        if moved > SAME_PLACE or turned > SAME_TURN:
            self._note(
                f"/tf_static contradicts itself: '{parent}' -> '{child}' differs by {moved:.3f} m"
                f" and {np.degrees(turned):.1f} degrees; the first is used"
            )

    def lookup(self, target: str, source: str) -> Pose | None:
        """`target_from_source`; None where the tree does not connect them."""
        of_target, of_source = self._poses(target), self._poses(source)
        common = next((frame for frame in of_source if frame in of_target), None)
        if common is None:
            return None
        return inverse_rigid(of_target[common]) @ of_source[common]

    def mounts(self, optical: Mapping[str, str]) -> dict[str, Pose]:
        """`rig_from_camera` by name, of the cameras that are connected with the first that any is.

        `optical`: frames of the cameras by name, in order. Empty where no two are connected.
        """
        for root in optical.values():
            poses = {name: self.lookup(root, frame) for name, frame in optical.items()}
            found = {name: pose for name, pose in poses.items() if pose is not None}
            if len(found) > 1:
                return found
        return {}

    def _poses(self, frame: str) -> dict[str, Pose]:
        """The frame and its ancestors, as `ancestor_from_frame`."""
        found = {frame: np.eye(4)}
        while (link := self._links.get(frame)) is not None and link[0] not in found:
            found[link[0]] = link[1] @ found[frame]
            frame = link[0]
        return found

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def static_frames(bag: BagReader, notes: list[str]) -> StaticFrames:
    """The tree of a bag's /tf_static, of all that published it."""
    tree = StaticFrames(notes)
    connections = [c for c in bag.connections if c.topic == TOPIC and c.msgtype in (TYPE, _ROS_1)]
    for connection, _, raw in bag.messages(connections):
        try:
            transforms = bag.deserialize(raw, connection).transforms
        except Exception as error:  # a damaged message may raise anything
            notes.append(f"a message of {TOPIC} cannot be read ({error})")
            continue
        for each in transforms:
            parent, child = each.header.frame_id.lstrip("/"), each.child_frame_id.lstrip("/")
            tree.add(parent, child, _pose(each.transform))
    return tree


_ROS_1 = "tf/msg/tfMessage"


def _pose(transform: Any) -> Pose | None:
    t, q = transform.translation, transform.rotation
    quaternion = np.array([q.x, q.y, q.z, q.w], np.float64)
    length = np.linalg.norm(quaternion)
    pose = np.eye(4)
    pose[:3, 3] = t.x, t.y, t.z
    if not np.isfinite(pose).all() or not 0.5 < length < 2.0:
        return None
    pose[:3, :3] = rotation_from_quaternion(quaternion / length)
    return pose
