# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The robot's tree of frames at a stamp: a small cache of its own, and tf2_ros if installed.

The cache holds static transforms and the last seconds of moving ones, interpolates between two
stamps and never extrapolates. It also has each frame's parent, which tf2 does not offer in time.
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

from vggt_ros.geometry import interpolate_rigid, inverse_rigid, rotation_from_quaternion
from vggt_ros.ros.messages import stamp_ns, time_message

KEPT_NS = 10_000_000_000  # of moving transforms
MAX_FAILED_WAITS = 5  # for one transform in a row, from which there is no wait for it

Pose = Float[np.ndarray, "4 4"]


class _Link:
    """A frame's transform to its parent, static or over time."""

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
        share = (ns - before) / (after - before)
        return interpolate_rigid(self.poses[before], self.poses[after], share)


class TfCache:
    """The frames of /tf and /tf_static.  Callbacks add, any thread looks up."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._lock = Lock()

    def add(self, transforms: Sequence[TransformStamped], *, is_static: bool) -> None:
        """Add the transforms of one message; those that are not finite or not rigid are skipped."""
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
        """The frame's parent; None where it is not known."""
        link = self._links.get(frame)
        return link.parent if link else None

    def stamps(self, frame: str) -> tuple[int, ...]:
        """Stamps at which the transform to the parent is known; none for static ones."""
        with self._lock:
            link = self._links.get(frame)
            return tuple(link.stamps) if link else ()

    def lookup(self, target: str, source: str, ns: int) -> Pose | None:
        """`target_from_source` at a stamp; None where the tree does not connect them."""
        with self._lock:
            of_target, of_source = self._ancestors(target, ns), self._ancestors(source, ns)
        common = next((frame for frame in of_source if frame in of_target), None)
        if common is None:
            return None
        return inverse_rigid(of_target[common]) @ of_source[common]

    def _ancestors(self, frame: str, ns: int) -> dict[str, Pose]:
        """The frame and its ancestors in this order, as `ancestor_from_frame`, as known at `ns`."""
        found = {frame: np.eye(4)}
        while (link := self._links.get(frame)) is not None and link.parent not in found:
            pose = link.at(ns)
            if pose is None:
                break
            found[link.parent] = pose @ found[frame]
            frame = link.parent
        return found


class Frames:
    """Transforms between the robot's frames, with a bounded wait for late ones."""

    def __init__(self, node: Node, message: type, wait: float):
        self.tree = TfCache()
        self._wait = wait
        self._failed_waits: Counter[tuple[str, str]] = Counter()  # in a row
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

    def wait_for(self, target: str, source: str, ns: int) -> Pose | None:
        """The same, after a short wait; there is none for what was late too often."""
        pair = target, source
        wait = self._wait if self._failed_waits[pair] < MAX_FAILED_WAITS else 0.0
        end = time.monotonic() + wait
        while (found := self.lookup(target, source, ns)) is None and time.monotonic() < end:
            time.sleep(0.005)
        self._failed_waits[pair] = self._failed_waits[pair] + 1 if found is None else 0
        return found


def open_frames(node: Node, wait: float) -> Frames | None:
    """The robot's frames; None where tf2_msgs is not installed."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    return Frames(node, TFMessage, wait)


def pose_of(translation: Any, rotation: Any) -> Pose | None:
    """A message's translation and quaternion as a matrix; None where they are not rigid."""
    quaternion = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
    pose = np.eye(4)
    pose[:3, 3] = translation.x, translation.y, translation.z
    valid = np.isfinite(pose).all() and (np.abs(quaternion) < 2.0).all()  # nothing overflows
    if not valid or not 0.5 < float(np.linalg.norm(quaternion)) < 2.0:
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
