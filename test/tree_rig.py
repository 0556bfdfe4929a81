# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A robot's frames on /tf and /tf_static, and the whole tree with what the node sends."""

import re
import shlex

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped
from node_rig import CAMERA, PERIOD, START, Rig
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.messages import header, stamp_ns, transform_message
from vggt_ros.ros.node import VggtNode
from vggt_ros.ros.tf.tf_cache import TfCache, pose_of

HAND_HELD = (("camera_link", "camera_color_frame"), ("camera_color_frame", CAMERA))
URDF = (("base_footprint", "base_link"), ("base_link", "camera_link"), *HAND_HELD)


def place(i: int = 0, k: int = 1) -> np.ndarray:
    """A pose that is another one for each frame i, and for each k."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]] if k % 2 else np.eye(3)
    pose[:3, 3] = 0.1 * k + 0.05 * i, 0.02 * k, 0.3
    return pose


class TreeRig:
    """Others publish `static` links (parent, child) once, and `moving` ones with each image.

    In a `namespace` the topics are in it, for the node too.
    """

    def __init__(self, rig: Rig, static=(), moving=(), namespace=""):
        self.rig, self.moving, self._namespace = rig, list(moving), namespace
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = rig.peer.create_publisher(TFMessage, f"{namespace}/tf_static", latched)
        self._moving = rig.peer.create_publisher(TFMessage, f"{namespace}/tf", 100)
        self.tree = TfCache()
        self.sent: list[TransformStamped] = []  # by the node
        self._others: set[tuple[str, str, int]] = set()
        tf = f"{namespace}/tf"
        rig.peer.create_subscription(TFMessage, tf, self._on_tf, QoSProfile(depth=1000))
        if static:
            self.add_static(*static)

    def add_static(self, *links: tuple[str, str]) -> None:
        """More links that do not move."""
        found = [
            transform_message(header(0, parent), child, place(k=k))
            for k, (parent, child) in enumerate(links)
        ]
        self.tree.add(found, is_static=True)
        self._static.publish(TFMessage(transforms=found))

    def _on_tf(self, msg: TFMessage) -> None:
        self.tree.add(msg.transforms, is_static=False)
        for found in msg.transforms:
            key = found.header.frame_id, found.child_frame_id, stamp_ns(found.header.stamp)
            if key not in self._others:
                self.sent.append(found)

    def start(self, **parameters) -> VggtNode:
        """The node, once it has the static frames."""
        rules = [("-r", f"/{name}:={self._namespace}/{name}") for name in ("tf", "tf_static")]
        arguments = tuple(word for pair in rules for word in pair) if self._namespace else ()
        node = self.rig.start(arguments=arguments, **parameters)
        self.poses = self.rig.subscribe_matched("/vggt/pose", PoseStamped)
        frames = node.robot.frames
        assert frames is not None
        children = [child for child in self.tree.parents if self.tree.is_static(child)]
        self.rig.wait_until(lambda: set(children) <= set(frames.tree.parents), "static frames")
        tf = f"{self._namespace}/tf"
        self.rig.wait_until(lambda: self.rig.peer.count_subscribers(tf) >= 2, "/tf is matched")
        return node

    def infer(self, *frames: int) -> None:
        """Moving links and image of each frame, and its inference."""
        for i in frames:
            if self.moving:
                self._publish_moving(i)
            self.rig.infer(i)

    def _publish_moving(self, i: int) -> None:
        ns = START + i * PERIOD
        found = [
            transform_message(header(ns, parent), child, place(i, k))
            for k, (parent, child) in enumerate(self.moving)
        ]
        self._others |= {(*link, ns) for link in self.moving}
        self._moving.publish(TFMessage(transforms=found))
        node, child = self.rig.node, self.moving[-1][1]
        assert node is not None and node.robot.frames is not None
        frames = node.robot.frames
        self.rig.wait_until(lambda: ns in frames.tree.stamps(child), "moving links arrive")

    def links(self, *, since: int = 0) -> set[tuple[str, str]]:
        """What the node sent so far, from frame `since` on."""
        return {
            (t.header.frame_id, t.child_frame_id)
            for t in tuple(self.sent)
            if stamp_ns(t.header.stamp) >= START + since * PERIOD
        }

    def camera_in(self, world: str, i: int) -> np.ndarray:
        """Where tf places the camera of frame i, once it does."""
        ns = START + i * PERIOD
        what = f"/tf leads from {world} to the camera of frame {i}"
        self.rig.wait_until(lambda: self.tree.lookup(world, CAMERA, ns) is not None, what)
        found = self.tree.lookup(world, CAMERA, ns)
        assert found is not None
        return found

    def check_camera(self, world: str, i: int) -> None:
        """It is where ~/pose has it."""
        ns = START + i * PERIOD
        stamps = [stamp_ns(msg.header.stamp) for msg in self.poses]
        self.rig.wait_until(
            lambda: ns in [stamp_ns(msg.header.stamp) for msg in self.poses], f"{ns} in {stamps}"
        )
        (pose,) = [msg.pose for msg in self.poses if stamp_ns(msg.header.stamp) == ns]
        expected = pose_of(pose.position, pose.orientation)
        np.testing.assert_allclose(self.camera_in(world, i), expected, atol=1e-9)

    def check_parents(self) -> None:
        """No frame that other nodes place was given a parent by this one."""
        others = set(self.tree.parents) - {child for _, child in self.links()}
        static = {child for child in self.tree.parents if self.tree.is_static(child)}
        ours = [child for _, child in self.links()]
        moving = {child for _, child in self.moving}
        assert len(ours) == len(set(ours)), f"one parent for each of {ours}"
        assert not set(ours) & (static | moving | others)


def lines_in(text: str) -> list[list[str]]:
    """The lines to paste of a text, each as words."""
    return [shlex.split(line) for line in re.findall(r"`([^`]*)`", text)]


def parameters_of(line: list[str]) -> dict[str, str]:
    """What a line that restarts the node sets."""
    return dict(word.split(":=", 1) for word in line if ":=" in word)
