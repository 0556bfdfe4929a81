#!/usr/bin/env python3
# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A subscriber of the node: depth, its camera and the pose of one stamp belong together.

ros2 launch vggt_ros vggt.launch.py           # in another terminal
python examples/3_subscribe_to_depth_and_pose.py
"""

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image


class DepthAndPose(Node):
    """Prints the middle of each depth image as a point of the camera, and where that stands."""

    def __init__(self) -> None:
        super().__init__("depth_and_pose")
        self.count = 0
        self._parts: dict[tuple[int, int], dict[str, object]] = {}
        topics = {"depth/image": Image, "depth/camera_info": CameraInfo, "pose": PoseStamped}
        for name, kind in topics.items():
            self.create_subscription(
                kind, f"/vggt/{name}", lambda msg, n=name: self._add(n, msg), 5
            )

    def _add(self, name: str, msg: Image | CameraInfo | PoseStamped) -> None:
        stamp = msg.header.stamp.sec, msg.header.stamp.nanosec
        parts = self._parts.setdefault(stamp, {})
        parts[name] = msg
        if len(parts) == 3:
            self._together(parts["depth/image"], parts["depth/camera_info"], parts["pose"])
            self._parts = {}

    def _together(self, image: Image, info: CameraInfo, pose: PoseStamped) -> None:
        depth = np.frombuffer(image.data, np.float32).reshape(image.height, image.width)
        v, u = image.height // 2, image.width // 2
        z = float(depth[v, u])  # along the optical axis; NaN where it is not to be trusted
        x, y = (u - info.k[2]) * z / info.k[0], (v - info.k[5]) * z / info.k[4]
        at = pose.pose.position
        self.count += 1
        print(
            f"point {x:+.2f} {y:+.2f} {z:.2f} in {image.header.frame_id},"
            f" camera at {at.x:+.2f} {at.y:+.2f} {at.z:+.2f} in {pose.header.frame_id}",
            flush=True,
        )


def main() -> None:
    rclpy.init()
    node = DepthAndPose()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
