# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the robot's tree of frames says at a stamp: our own small cache, and tf2_ros where it is.

Ours holds static transforms and the last seconds of moving ones, interpolates between two stamps
and never extends beyond them. It knows who is whose parent, which tf2 does not tell in time.
"""

import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from jaxtyping import Float
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from vggt_ros.geometry import inverse_rigid, rotation_from_quaternion
from vggt_ros.mapping.odometry import between
from vggt_ros.ros.messages import stamp_ns, time_message

KEPT_NS = 10_000_000_000
PATIENCE = 5  # waits in vain for one transform before it is waited for no more

Pose = Float[np.ndarray, "4 4"]


class _Link:
    """A frame below its parent."""

    def __init__(self, parent: str, is_static: bool):
        self.parent, self.is_static = parent, is_static
        self.stamps: list[int] = []
        self.poses: dict[int, Pose] = {}

    def add(self, ns: int, pose: Pose) -> None:
        if self.is_static:
            self.poses = {0: pose}
            return
        if ns not in self.poses:
            insort(self.stamps, ns)
        self.poses[ns] = pose
        while self.stamps[-1] - self.stamps[0] > KEPT_NS:
            del self.poses[self.stamps.pop(0)]

    def at(self, ns: int) -> Pose | None:
        if self.is_static:
            return self.poses[0]
        i = bisect_left(self.stamps, ns)
        if i == len(self.stamps):
            return None
        if self.stamps[i] == ns:
            return self.poses[ns]
        if i == 0:
            return None
        before, after = self.stamps[i - 1], self.stamps[i]
        return between(self.poses[before], self.poses[after], (ns - before) / (after - before))


class TfCache:
    """The frames of /tf and /tf_static.  Callbacks add, any thread asks."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._lock = Lock()

    def add(self, transforms: Sequence[TransformStamped], *, is_static: bool) -> None:
        """Take in the transforms of one message; what is no motion at all is left out."""
        for found in transforms:
            child, parent = found.child_frame_id.lstrip("/"), found.header.frame_id.lstrip("/")
            pose = pose_of(found.transform.translation, found.transform.rotation)
            if pose is None or not child or not parent or child == parent:
                continue
            with self._lock:
                link = self._links.get(child)
                if link is None or link.parent != parent or link.is_static != is_static:
                    link = self._links[child] = _Link(parent, is_static)
                link.add(stamp_ns(found.header.stamp), pose)

    def parent(self, frame: str) -> str | None:
        """Who the frame hangs on, if anybody said so."""
        link = self._links.get(frame)
        return link.parent if link else None

    def stamps(self, frame: str) -> tuple[int, ...]:
        """When the frame's place in its parent was told; none for static ones."""
        with self._lock:
            link = self._links.get(frame)
            return tuple(link.stamps) if link else ()

    def lookup(self, target: str, source: str, ns: int) -> Pose | None:
        """`target_from_source` at a stamp; None where the tree does not tell."""
        with self._lock:
            ours, theirs = self._line(target, ns), self._line(source, ns)
        meeting = next((frame for frame in theirs if frame in ours), None)
        if meeting is None:
            return None
        return inverse_rigid(ours[meeting]) @ theirs[meeting]

    def _line(self, frame: str, ns: int) -> dict[str, Pose]:
        """Every ancestor, nearest first, as `ancestor_from_frame`; as far as is known at `ns`."""
        line = {frame: np.eye(4)}
        while (link := self._links.get(frame)) is not None and link.parent not in line:
            pose = link.at(ns)
            if pose is None:
                break
            line[link.parent] = pose @ line[frame]
            frame = link.parent
        return line


class Frames:
    """The robot's frames to whoever works with them; waits for a late one, but not for ever."""

    def __init__(self, node: Node, message: type, wait: float):
        self.tree = TfCache()
        self._wait = wait
        self._vain: Counter[tuple[str, str]] = Counter()  # waits in a row for nothing
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(message, "/tf", self._on_tf, QoSProfile(depth=100))
        node.create_subscription(message, "/tf_static", self._on_static, latched)
        self._tf2 = _open_tf2(node)

    def _on_tf(self, msg: Any) -> None:
        self.tree.add(msg.transforms, is_static=False)

    def _on_static(self, msg: Any) -> None:
        self.tree.add(msg.transforms, is_static=True)

    def lookup(self, target: str, source: str, ns: int) -> Pose | None:
        """`target_from_source` at a stamp, if it is known now."""
        found = self.tree.lookup(target, source, ns)
        return found if found is not None or self._tf2 is None else self._tf2(target, source, ns)

    def late(self, target: str, source: str, ns: int) -> Pose | None:
        """The same, with a little patience; what was late too often is waited for no longer."""
        pair = target, source
        end = time.monotonic() + (self._wait if self._vain[pair] < PATIENCE else 0.0)
        while (found := self.lookup(target, source, ns)) is None and time.monotonic() < end:
            time.sleep(0.005)
        self._vain[pair] = self._vain[pair] + 1 if found is None else 0
        return found


def open_frames(node: Node, wait: float) -> Frames | None:
    """The robot's frames; None where tf2_msgs is not installed."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    return Frames(node, TFMessage, wait)


def pose_of(translation: Any, rotation: Any) -> Pose | None:
    """A message's translation and quaternion as a matrix; None where they are no motion."""
    quaternion = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
    pose = np.eye(4)
    pose[:3, 3] = translation.x, translation.y, translation.z
    sane = np.isfinite(pose).all() and (np.abs(quaternion) < 2.0).all()  # nothing overflows
    if not sane or not 0.5 < float(np.linalg.norm(quaternion)) < 2.0:
        return None
    pose[:3, :3] = rotation_from_quaternion(quaternion)
    return pose


def _open_tf2(node: Node) -> Callable[[str, str, int], Pose | None] | None:
    """tf2's own buffer as a function; None where tf2_ros is not installed."""
    try:
        from rclpy.time import Time
        from tf2_ros import (  # pyright: ignore[reportMissingImports]
            Buffer,
            TransformException,
            TransformListener,
        )
    except ImportError:
        return None
    buffer = Buffer()
    listener = TransformListener(buffer, node)

    def lookup(target: str, source: str, ns: int) -> Pose | None:
        assert listener is not None  # it lives as long as this function does
        try:
            found = buffer.lookup_transform(target, source, Time.from_msg(time_message(ns)))
        except TransformException:
            return None
        return pose_of(found.transform.translation, found.transform.rotation)

    return lookup
