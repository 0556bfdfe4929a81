# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the robot knows and the pictures do not say: odometry, where the camera sits, up, metres.

Subscriptions only keep the newest; before each look the worker's thread asks for it.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, Imu, PointCloud2

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.geometry import transform
from vggt_ros.mapping.alignment import upright
from vggt_ros.mapping.odometry import KEPT_NS, Odometry
from vggt_ros.mapping.scale import listen_to, sparse_depth
from vggt_ros.pipeline import Pipeline
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.second_camera import Companions
from vggt_ros.ros.tf_cache import Frames, pose_of

SAME_TIME_NS = 50_000_000  # between an image and another sensor's view of the same scene
GRAVITY = 50  # measurements of acceleration that are averaged
SILENCE_NS = 2_000_000_000  # of odometry, before somebody is told

Say = Callable[[str], object]


class Robot:
    """The robot as the map needs it.  Callbacks store; `brief` runs in the worker's thread."""

    def __init__(self, node: Node, parameters: Parameters, frames: Frames | None, say: Say):
        self._parameters, self._frames, self._say = parameters, frames, say
        self._odometry: Odometry | None = None
        self._odom_ns = 0  # of the newest message, not the latest stamp: one may be far off
        self._mounted = ""  # the camera whose place on the robot is known
        self._up: deque[tuple[str, np.ndarray]] = deque(maxlen=GRAVITY)  # frame, m/s^2
        self._depth: deque[Image | PointCloud2] = deque(maxlen=20)
        self._sources = listen_to(parameters.scale_source).trusted
        sensor = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(OdometryMessage, "odom", self._on_odometry, sensor)
        node.create_subscription(Imu, "imu", self._on_imu, sensor)
        if "depth" in self._sources:
            node.create_subscription(Image, "scale_depth", self._on_depth, sensor)
            node.create_subscription(PointCloud2, "scale_points", self._on_depth, sensor)
        self._companions = (
            Companions(node, parameters, frames, say) if "baseline" in self._sources else None
        )

    def brief(self, pipeline: Pipeline, frame: Frame) -> Frame:
        """Tell the pipeline what it should know before it takes this frame."""
        self._odometry = pipeline.odometry
        if self._mounted != frame.camera:
            self._mount(pipeline, frame)
        for notice in pipeline.odometry.notices:
            self._say(notice)
        pipeline.odometry.notices.clear()
        if "odometry" in self._sources:
            self._miss_odometry(frame.stamp_ns - self._odom_ns)
        if self._companions is not None and pipeline.wants_companion(frame.stamp_ns):
            frame = frame._replace(companion=self._companions.of(frame))
        return frame._replace(metres=self._metres(frame)) if self._depth else frame

    def base_from_camera(self, camera: str, ns: int) -> Float[np.ndarray, "4 4"] | None:
        """Where the camera sits, if the robot's frames tell."""
        if self._frames is None:
            return None
        return self._frames.lookup(self._parameters.base_frame, camera, ns)

    # The worker's side.

    def _miss_odometry(self, late_ns: int) -> None:
        """Say so where its newest message is too far from the image to be of use."""
        if late_ns > SILENCE_NS:
            self._say(
                "scale_source odometry: nothing came on 'odom' for two seconds;"
                " remap odom to the robot's odometry"
            )
        elif late_ns < -KEPT_NS:  # where images come late, what was there then is still known
            self._say(
                f"odometry is stamped ahead of the images: by {-late_ns * 1e-9:.0f} s;"
                " give both one clock"
            )

    def _mount(self, pipeline: Pipeline, frame: Frame) -> None:
        """Level world and lever arm, from the robot's description, gravity, or not at all."""
        needed = self._parameters.tf_mode in ("odom_to_base", "map_to_odom")
        base = self._parameters.base_frame
        mount = None
        if self._frames is not None:
            ask = self._frames.late if needed else self._frames.lookup
            mount = ask(base, frame.camera, frame.stamp_ns)
        if mount is not None:
            world_from_base = self._world_from_base(frame.stamp_ns)
            pipeline.mounted(mount, world_from_base @ mount)
            self._mounted = frame.camera
            return
        up = self._up_in(frame.camera, frame.stamp_ns)
        if up is not None:
            pipeline.mounted(None, upright(up))

    def _world_from_base(self, ns: int) -> Float[np.ndarray, "4 4"]:
        """A map begins where odometry is, so that the two start out as one; else at the base."""
        found = None
        if self._parameters.tf_mode == "map_to_odom" and self._frames is not None:
            found = self._frames.late(self._parameters.odom_frame, self._parameters.base_frame, ns)
        return np.eye(4) if found is None else found

    def _up_in(self, camera: str, ns: int) -> Float[np.ndarray, "3"] | None:
        """The mean acceleration at rest, in the camera: gravity's reaction points up."""
        if not self._up:
            return None
        imu = self._up[-1][0]
        mean = np.mean([up for frame, up in self._up if frame == imu], axis=0)
        if not 8.0 < np.linalg.norm(mean) < 11.5:
            return None  # the robot is being pushed about, or the unit is no m/s^2
        if imu == camera:
            return mean
        camera_from_imu = self._frames.lookup(camera, imu, ns) if self._frames else None
        if camera_from_imu is None:
            self._say(f"gravity is not used: /tf does not connect '{imu}' and '{camera}'")
            return None
        return camera_from_imu[:3, :3] @ mean

    def _metres(self, frame: Frame) -> Float32[np.ndarray, "h w"] | None:
        """The other sensor's depth on this picture's pixels, if it saw the scene just then."""
        msg = min(tuple(self._depth), key=lambda m: abs(stamp_ns(m.header.stamp) - frame.stamp_ns))
        if abs(stamp_ns(msg.header.stamp) - frame.stamp_ns) > SAME_TIME_NS:
            return None
        try:
            if isinstance(msg, Image):
                return metres_from_image(msg, frame.rgb.shape[:2])
            return self._metres_from_cloud(msg, frame)
        except UserError as error:
            self._say(str(error))
            return None

    def _metres_from_cloud(self, msg: PointCloud2, frame: Frame) -> Float32[np.ndarray, "h w"]:
        if frame.intrinsics is None:
            raise UserError("scale_points needs camera_info: which pixel sees which point?")
        camera_from_cloud = None
        if self._frames is not None:
            camera_from_cloud = self._frames.lookup(
                frame.camera, msg.header.frame_id, frame.stamp_ns
            )
        if camera_from_cloud is None:
            raise UserError(
                f"scale_points is in '{msg.header.frame_id}', which /tf does not connect"
                f" with '{frame.camera}'"
            )
        points = transform(camera_from_cloud, points_from(msg))
        height, width = frame.rgb.shape[:2]
        return sparse_depth(points, frame.intrinsics, height, width).astype(np.float32)

    # The callbacks' side.

    def _on_odometry(self, msg: Any) -> None:
        self._odom_ns = stamp_ns(msg.header.stamp)
        pose = pose_of(msg.pose.pose.position, msg.pose.pose.orientation)
        if self._odometry is None:
            return
        if pose is None:
            self._say("odometry is refused: its pose is not finite, or its quaternion is zero")
        elif msg.child_frame_id not in ("", self._parameters.base_frame):
            self._say(
                f"odometry is refused: it places '{msg.child_frame_id}', not base_frame"
                f" '{self._parameters.base_frame}'"
            )
        else:
            stamp = stamp_ns(msg.header.stamp)
            self._odometry.add(stamp, pose, msg.header.frame_id, msg.child_frame_id)

    def _on_depth(self, msg: Any) -> None:
        self._depth.append(msg)

    def _on_imu(self, msg: Any) -> None:
        force = msg.linear_acceleration
        up = np.array([force.x, force.y, force.z])
        if np.isfinite(up).all():
            self._up.append((msg.header.frame_id, up))


def metres_from_image(msg: Image, shape: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """A depth image (32FC1 metres, 16UC1 millimetres) registered to a picture of this shape."""
    if (msg.height, msg.width) != shape:
        raise UserError(
            f"scale_depth is {msg.width}x{msg.height} but the image {shape[1]}x{shape[0]};"
            " register it to the camera's picture"
        )
    kinds = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 1e-3), "mono16": ("u2", 1e-3)}
    if msg.encoding not in kinds:
        raise UserError(f"scale_depth has encoding {msg.encoding}; use 32FC1 or 16UC1")
    kind, unit = kinds[msg.encoding]
    dtype = np.dtype((">" if msg.is_bigendian else "<") + kind)
    if msg.step < msg.width * dtype.itemsize or len(msg.data) < msg.height * msg.step:
        raise UserError("scale_depth has less data than its size says")
    rows = np.frombuffer(msg.data, np.uint8)[: msg.height * msg.step].reshape(msg.height, msg.step)
    depth = rows[:, : msg.width * dtype.itemsize].copy().view(dtype).astype(np.float32) * unit
    return np.where(depth > 0, depth, np.nan).astype(np.float32)


def points_from(msg: PointCloud2) -> Float[np.ndarray, "p 3"]:
    """x, y, z of a cloud of float32 points, through sensor_msgs_py where it is installed."""
    try:
        from sensor_msgs_py.point_cloud2 import (  # pyright: ignore[reportMissingImports]
            read_points_numpy,
        )

        return read_points_numpy(msg, ["x", "y", "z"]).reshape(-1, 3).astype(np.float64)
    except ImportError:
        pass
    offsets = {field.name: field.offset for field in msg.fields if field.datatype == 7}
    if not {"x", "y", "z"} <= set(offsets):
        raise UserError("scale_points has no float32 fields x, y, z")
    kind = (">" if msg.is_bigendian else "<") + "f4"
    layout = np.dtype(
        {
            "names": ["x", "y", "z"],
            "formats": [kind] * 3,
            "offsets": [offsets[name] for name in "xyz"],
            "itemsize": msg.point_step,
        }
    )
    if len(msg.data) < msg.width * msg.height * msg.point_step:
        raise UserError("scale_points has less data than its size says")
    rows = np.frombuffer(msg.data, layout, count=msg.width * msg.height)
    return np.stack([rows[name] for name in "xyz"], axis=-1).astype(np.float64)
