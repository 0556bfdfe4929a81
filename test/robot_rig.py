# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A simulated robot on topics: its frames, its odometry, one camera or two, and an `Oracle`."""

from collections.abc import Callable

import numpy as np
from fakes.figures import odometry
from fakes.oracle import Faults, Oracle
from fakes.room import (
    BASE_FROM_CAMERA,
    CAMERA_FROM_RIGHT,
    INTRINSICS,
    drive,
    numbered_image,
    true_depth,
)
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from node_rig import CAMERA, PERIOD, Rig
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.messages import (
    header,
    image_message,
    odometry_message,
    stamp_ns,
    transform_message,
)
from vggt_ros.ros.node import VggtNode
from vggt_ros.ros.tf.tf_cache import TfCache

START = 1_700_000_000_000_000_001
RIGHT = "right_optical"


class SimulatedRobot:
    """Publishes base -> camera, odometry and the images of its camera, along a known path."""

    def __init__(self, rig: Rig, kind="arc", frames=40, faults: Faults | None = None):
        self.rig = rig
        self.base = drive(kind, 300)[: 3 * frames : 3]  # world_from_base, three times as fast
        self.wheels = odometry(self.base)
        self.engine = Oracle(self.base @ BASE_FROM_CAMERA, faults or Faults())
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.static = rig.peer.create_publisher(TFMessage, "/tf_static", latched)
        self.tf = rig.peer.create_publisher(TFMessage, "/tf", 100)
        self.odom = rig.peer.create_publisher(Odometry, "/odom", 100)
        self.tree = TfCache()  # as any node has it from /tf and /tf_static
        self.transforms: list[TransformStamped] = []  # of /tf, as received
        rig.peer.create_subscription(TFMessage, "/tf", self._on_tf, QoSProfile(depth=1000))
        self.depths = rig.subscribe("/vggt/depth/image", Image)

    def _on_tf(self, msg: TFMessage) -> None:
        self.transforms.extend(msg.transforms)
        self.tree.add(msg.transforms, is_static=False)

    def start(self, *, described=True, **parameters) -> VggtNode:
        """Start the node; `described`: the robot publishes where its camera is mounted."""
        if described:
            transform = transform_message(header(START, "base_link"), CAMERA, BASE_FROM_CAMERA)
            self.tree.add([transform], is_static=True)
            self.publish_static(transform)
        node = self.rig.start(engine=lambda *_: self.engine, network_width=84, **parameters)
        self.rig.wait_until(lambda: self.odom.get_subscription_count() == 1, "/odom is matched")
        self.rig.wait_until(lambda: self.tf.get_subscription_count() >= 2, "/tf is matched")
        return node

    def publish_static(self, transform: TransformStamped) -> None:
        self.static.publish(TFMessage(transforms=[transform]))

    def infer(self, *frames: int, tf=True, odom=True) -> None:
        """Publish transform, odometry and image of each frame, and wait for its inference."""
        for i in frames:
            if tf:
                self.publish_transform(i)
            if odom:
                self.publish_odometry(i)
            done = self.rig.count("inferences")
            self.publish_image(i)
            self.rig.wait_until(
                lambda n=done: self.rig.count("inferences") > n, f"inference of frame {i}"
            )

    def publish_transform(self, i: int) -> None:
        head = header(START + i * PERIOD, "odom")
        transform = transform_message(head, "base_link", self.wheels[i])
        self.tf.publish(TFMessage(transforms=[transform]))

    def publish_odometry(self, i: int, *, ns: int | None = None) -> None:
        """Odometry of frame `i`, at its stamp or another one."""
        head = header(START + i * PERIOD if ns is None else ns, "odom")
        self.odom.publish(odometry_message(head, "base_link", self.wheels[i], np.eye(4), np.eye(6)))

    def publish_image(self, i: int) -> None:
        head = header(START + i * PERIOD, CAMERA)
        self.rig.images.publish(image_message(head, numbered_image(i)))

    def stamps_of(self, parent: str, child: str) -> list[int]:
        """Stamps of the received transforms between these frames."""
        return [
            stamp_ns(t.header.stamp)
            for t in tuple(self.transforms)
            if (t.header.frame_id, t.child_frame_id) == (parent, child)
        ]

    def units_per_metre(self, i: int) -> float:
        """Of the depth that was published for frame `i`."""
        self.rig.wait_until(lambda: len(self.depths) > i, f"depth of frame {i}")
        depth = np.frombuffer(self.depths[i].data, np.float32)
        return float(np.nanmedian(depth / true_depth(self.base[i] @ BASE_FROM_CAMERA).ravel()))


class DepthRobot(SimulatedRobot):
    """A robot with a depth camera, registered to its camera unless it has a view of its own."""

    def __init__(self, rig: Rig, frames: int = 8, topic="/scale_depth"):
        super().__init__(rig, frames=frames)
        self.sensor = rig.peer.create_publisher(Image, topic, 10)

    def start(self, **options):
        node = super().start(scale_source="depth", tf_mode="none", **options)
        self.rig.wait_until(lambda: self.sensor.get_subscription_count() == 1, "depth is matched")
        return node

    def publish_depth(
        self, i: int, *, ns=None, frame_id=CAMERA, mount=None, intrinsics=INTRINSICS
    ) -> None:
        """What the depth camera saw at frame `i`, and wait until the node has it."""
        assert self.rig.node is not None and self.rig.node.robot.depth is not None
        sensor = self.rig.node.robot.depth
        mount = np.eye(4) if mount is None else mount
        metres = true_depth(self.base[i] @ BASE_FROM_CAMERA @ mount, intrinsics)
        ns, heard = START + i * PERIOD if ns is None else ns, sensor.heard
        self.sensor.publish(image_message(header(ns, frame_id), metres.astype(np.float32)))
        self.rig.wait_until(lambda: sensor.heard > heard, f"depth {i} arrives")


class StereoRobot(SimulatedRobot):
    """A robot whose rig has a second camera, which its description may lack."""

    def __init__(
        self,
        rig: Rig,
        *,
        topic: str = "/baseline_image",
        lens: Callable[[np.ndarray], np.ndarray] = lambda image: image,
        **options,
    ):
        """`lens`: what the second camera's lens makes of an image; `topic`: where that is sent."""
        super().__init__(rig, **options)
        self.right, self.lens = rig.peer.create_publisher(Image, topic, 10), lens

    def start(self, *, camera_from_right=CAMERA_FROM_RIGHT, **parameters) -> VggtNode:
        node = super().start(scale_source="baseline", tf_mode="none", **parameters)
        if camera_from_right is not None:
            pose = BASE_FROM_CAMERA @ camera_from_right
            transform = transform_message(header(START, "base_link"), RIGHT, pose)
            self.publish_static(transform)
            frames = node.robot.frames
            assert frames is not None
            self.rig.wait_until(
                lambda: frames.lookup(CAMERA, RIGHT, START) is not None, "the mount arrives"
            )
        self.rig.wait_until(lambda: self.right.get_subscription_count() == 1, "right is matched")
        return node

    def infer_pairs(self, *frames: int, late_ns: int = 0, frame_id: str = RIGHT) -> None:
        """The same as `infer`, each after an image of the second camera, `late_ns` later."""
        node = self.rig.node
        assert node is not None and node.robot.second_camera is not None
        second_camera = node.robot.second_camera
        for i in frames:
            ns = START + i * PERIOD + late_ns
            self.publish_right(i, ns=ns, frame_id=frame_id)
            self.rig.wait_until(lambda ns=ns: ns in second_camera.stamps, "the second image")
            self.infer(i)

    def publish_right(self, i: int, *, ns: int, frame_id: str = RIGHT) -> None:
        image = self.lens(numbered_image(i, camera=1))
        self.right.publish(image_message(header(ns, frame_id), image))
