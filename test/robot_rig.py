# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A robot on topics, with a network that errs: its frames, its wheels, one camera or two."""

import numpy as np
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from node_rig import Rig
from oracle import (
    BASE_FROM_CAMERA,
    CAMERA_FROM_RIGHT,
    Faults,
    Oracle,
    drive,
    odometry,
    picture,
    sight,
)
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
from vggt_ros.ros.tf_cache import TfCache

START, PERIOD = 1_700_000_000_000_000_001, 100_000_000
CAMERA, RIGHT = "camera_optical", "right_optical"


class Drive:
    """A robot that owns base -> camera, tells its odometry, and shows what its camera sees."""

    def __init__(self, rig: Rig, kind="arc", frames=40, faults=None):
        self.rig = rig
        self.base = drive(kind, 300)[: 3 * frames : 3]  # three times as fast
        self.wheels = odometry(self.base)
        self.oracle = Oracle(self.base @ BASE_FROM_CAMERA, faults or Faults())
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.static = rig.robot.create_publisher(TFMessage, "/tf_static", latched)
        self.tf = rig.robot.create_publisher(TFMessage, "/tf", 100)
        self.odom = rig.robot.create_publisher(Odometry, "/odom", 100)
        self.heard = TfCache()
        self.transforms: list[TransformStamped] = []
        rig.robot.create_subscription(TFMessage, "/tf", self._hear, QoSProfile(depth=1000))
        rig.listen("/vggt/depth/image", Image)
        self.depths = rig.heard["/vggt/depth/image"]

    def start(self, *, described=True, **parameters):
        if described:
            self.describe(BASE_FROM_CAMERA)
        node = self.rig.start(engine=lambda *_: self.oracle, network_width=84, **parameters)
        self.rig.until(lambda: self.odom.get_subscription_count() == 1, "odom is subscribed")
        self.rig.until(lambda: self.tf.get_subscription_count() >= 2, "/tf is subscribed")
        return node

    def describe(self, base_from_camera) -> None:
        head = header(START, "base_link")
        transform = transform_message(head, CAMERA, base_from_camera)
        self.heard.add([transform], is_static=True)
        self.static.publish(TFMessage(transforms=[transform]))

    def show(self, *frames: int, tf=True, odom=True) -> None:
        """Odometry just before and at the image, then the image, then the look."""
        for i in frames:
            ns = START + i * PERIOD
            if tf:
                transform = transform_message(header(ns, "odom"), "base_link", self.wheels[i])
                self.tf.publish(TFMessage(transforms=[transform]))
            if odom:
                self.odom.publish(
                    odometry_message(
                        header(ns, "odom"), "base_link", self.wheels[i], np.eye(4), np.eye(6)
                    )
                )
            looks = self.rig.count("looks")
            self.rig.pictures.publish(image_message(header(ns, CAMERA), picture(i)))
            self.rig.until(lambda n=looks: self.rig.count("looks") > n, f"a look at frame {i}")

    def _hear(self, msg: TFMessage) -> None:
        self.transforms.extend(msg.transforms)
        self.heard.add(msg.transforms, is_static=False)

    def sent(self, parent: str, child: str) -> list[int]:
        """Stamps of what went out under these names."""
        return [
            stamp_ns(t.header.stamp)
            for t in tuple(self.transforms)
            if (t.header.frame_id, t.child_frame_id) == (parent, child)
        ]

    def units_per_metre(self, i: int) -> float:
        """Of the depth that was published for frame `i`."""
        depth = np.frombuffer(self.rig.heard["/vggt/depth/image"][i].data, np.float32)
        return float(np.nanmedian(depth / sight(self.base[i] @ BASE_FROM_CAMERA).ravel()))


class Stereo(Drive):
    """A robot whose rig has a second camera, described or not."""

    def __init__(self, rig: Rig, **options):
        super().__init__(rig, **options)
        self.right = rig.robot.create_publisher(Image, "/baseline_image", 10)

    def start(self, *, camera_from_right=CAMERA_FROM_RIGHT, **parameters):
        node = super().start(scale_source="baseline", tf_mode="none", **parameters)
        if camera_from_right is not None:
            pose = BASE_FROM_CAMERA @ camera_from_right
            transform = transform_message(header(START, "base_link"), RIGHT, pose)
            self.static.publish(TFMessage(transforms=[transform]))
            tree = node.robot._frames.tree
            self.rig.until(lambda: tree.lookup(CAMERA, RIGHT, START) is not None, "the rig in TF")
        self.rig.until(lambda: self.right.get_subscription_count() == 1, "baseline is subscribed")
        return node

    def show_pairs(self, *frames: int, late_ns: int = 0, frame_id: str = RIGHT) -> None:
        node = self.rig.node
        assert node is not None
        for i in frames:
            ns = START + i * PERIOD + late_ns
            self.right.publish(image_message(header(ns, frame_id), picture(i, camera=1)))
            kept = node.robot._companions._messages
            self.rig.until(
                lambda ns=ns, kept=kept: ns in [stamp_ns(m.header.stamp) for m in tuple(kept)],
                "the second picture arrives",
            )
            self.show(i)


def subscribers(rig: Rig, topic: str) -> bool:
    assert rig.node is not None
    return rig.node.count_subscribers(topic) > 0
