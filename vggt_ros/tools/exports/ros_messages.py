# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames of a run as the messages that the node publishes, made by rosbags: no ROS is needed."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vggt_ros.geometry import quaternion_from_rotation, unproject
from vggt_ros.mapping.cloud.flat import Scan
from vggt_ros.tools.runs.format import RunFrame

FLOAT32 = 7  # PointField.FLOAT32
FIELDS = ("x", "y", "z", "rgb", "confidence")
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("confidence", "<f4")])
UNKNOWN = 1e6  # variance of a velocity that is not measured


class Messages:
    """Makes messages of `types`, those of a rosbags type store."""

    def __init__(self, types: Any):
        self.types = types

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        stamp = self.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
        return self.types["std_msgs/msg/Header"](stamp, frame_id)

    def image(self, header: Any, pixels: UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w"]):
        """rgb8, or 32FC1."""
        height, width = pixels.shape[:2]
        encoding = "rgb8" if pixels.dtype == np.uint8 else "32FC1"
        data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
        step = width * pixels[0, 0].nbytes
        return self.types["sensor_msgs/msg/Image"](header, height, width, encoding, 0, step, data)

    def camera_info(self, header: Any, frame: RunFrame) -> Any:
        """The camera of exactly the grid of a frame, rectified."""
        height, width = frame.depth.shape
        k = frame.intrinsics.astype(np.float64)
        roi = self.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        return self.types["sensor_msgs/msg/CameraInfo"](
            header, height, width, "plumb_bob", np.zeros(5), k.ravel(), np.eye(3).ravel(),
            np.column_stack([k, np.zeros(3)]).ravel(), 0, 0, roi,
        )  # fmt: skip

    def points(self, header: Any, frame: RunFrame) -> Any:
        """The frame's pixels as an organised cloud in the camera's frame."""
        height, width = frame.depth.shape
        records = np.empty((height, width), POINT)
        xyz = unproject(frame.depth.astype(np.float64), frame.intrinsics)
        for i, axis in enumerate("xyz"):
            records[axis] = xyz[..., i]
        red, green, blue = (frame.image[..., i].astype(np.uint32) for i in range(3))
        records["rgb"] = red << 16 | green << 8 | blue
        records["confidence"] = frame.confidence
        field = self.types["sensor_msgs/msg/PointField"]
        fields = [field(name, 4 * i, FLOAT32, 1) for i, name in enumerate(FIELDS)]
        data, step = records.reshape(-1).view(np.uint8), POINT.itemsize
        dense = bool(np.isfinite(frame.depth).all())
        return self.types["sensor_msgs/msg/PointCloud2"](
            header, height, width, fields, False, step, step * width, data, dense
        )

    def transform(
        self, header: Any, child: str, parent_from_child: Float[np.ndarray, "4 4"]
    ) -> Any:
        point = self.types["geometry_msgs/msg/Vector3"](*map(float, parent_from_child[:3, 3]))
        transform = self.types["geometry_msgs/msg/Transform"](
            point, self._quaternion(parent_from_child)
        )
        return self.types["geometry_msgs/msg/TransformStamped"](header, child, transform)

    def tf(self, *transforms: Any) -> Any:
        return self.types["tf2_msgs/msg/TFMessage"](list(transforms))

    def pose(self, header: Any, world_from_body: Float[np.ndarray, "4 4"]) -> Any:
        return self.types["geometry_msgs/msg/PoseStamped"](header, self._pose(world_from_body))

    def path(self, header: Any, poses: list[Any]) -> Any:
        return self.types["nav_msgs/msg/Path"](header, poses)

    def odometry(self, header: Any, child: str, odom_from_base: Float[np.ndarray, "4 4"]) -> Any:
        """The pose, and a velocity that is not known."""
        zero = self.types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
        pose = self.types["geometry_msgs/msg/PoseWithCovariance"](
            self._pose(odom_from_base), np.zeros(36)
        )
        twist = self.types["geometry_msgs/msg/TwistWithCovariance"](
            self.types["geometry_msgs/msg/Twist"](zero, zero), (UNKNOWN * np.eye(6)).ravel()
        )
        return self.types["nav_msgs/msg/Odometry"](header, child, pose, twist)

    def scan(self, header: Any, found: Scan, nearest: float, reach: float) -> Any:
        ranges, step = found.ranges, found.step
        last = -np.pi + (len(ranges) - 1) * step
        return self.types["sensor_msgs/msg/LaserScan"](
            header, -np.pi, last, step, 0.0, 0.0, nearest, reach, ranges, np.zeros(0, np.float32)
        )

    def _pose(self, world_from_body: Float[np.ndarray, "4 4"]) -> Any:
        point = self.types["geometry_msgs/msg/Point"](*map(float, world_from_body[:3, 3]))
        return self.types["geometry_msgs/msg/Pose"](point, self._quaternion(world_from_body))

    def _quaternion(self, pose: Float[np.ndarray, "4 4"]) -> Any:
        xyzw = quaternion_from_rotation(pose[:3, :3])
        return self.types["geometry_msgs/msg/Quaternion"](*map(float, xyzw))
