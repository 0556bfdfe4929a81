# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The robot's sensors and frames at an image's stamp: odometry, mount, gravity, other depth.

Subscriptions only keep the newest messages; the worker's thread reads them for each frame.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from nav_msgs.msg import Odometry as OdometryMessage
from sensor_msgs.msg import Image, Imu, PointCloud2, PointField

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame, Needs, Observation
from vggt_ros.geometry import transform
from vggt_ros.mapping.odometry import KEPT_NS, OdometryBuffer
from vggt_ros.mapping.scale import parse_sources
from vggt_ros.mapping.scale_sources import sparse_depth
from vggt_ros.ros.frame_names import FrameNames
from vggt_ros.ros.input_topics import InputTopics, Reliability
from vggt_ros.ros.masks import MaskInput
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.second_camera import SecondCamera
from vggt_ros.ros.tf_cache import Frames, pose_of

SAME_TIME_NS = 50_000_000  # between an image and another sensor's measurement
GRAVITY = 50  # measurements of acceleration that are averaged
NUMBERS = {  # PointField.datatype: NumPy type
    PointField.INT8: "i1",
    PointField.UINT8: "u1",
    PointField.INT16: "i2",
    PointField.UINT16: "u2",
    PointField.INT32: "i4",
    PointField.UINT32: "u4",
    PointField.FLOAT32: "f4",
    PointField.FLOAT64: "f8",
}
MAX_GAP_NS = 2_000_000_000  # without odometry, before it is a notice

Notify = Callable[[str], object]


class _Mount(NamedTuple):
    """Where a camera is mounted on the robot, and where its map starts."""

    camera: str
    base_from_camera: Float[np.ndarray, "4 4"]
    world_from_base: Float[np.ndarray, "4 4"]


class Robot:
    """The robot's sensors and frames.  Callbacks store; `observe` runs in the worker's thread."""

    def __init__(
        self, inputs: InputTopics, parameters: Parameters, frames: Frames | None, notify: Notify
    ):
        self._parameters, self.frames, self._notify = parameters, frames, notify
        self._names = FrameNames(notify)
        self._odometry = OdometryBuffer()
        self.masks = MaskInput(inputs, parameters.mask_wait)
        self._odom_ns = 0  # of the newest message, not the latest stamp: one may be far off
        self._mount: _Mount | None = None
        self._up: deque[tuple[str, np.ndarray]] = deque(maxlen=GRAVITY)  # frame, m/s^2
        self._depth: deque[Image | PointCloud2] = deque(maxlen=20)
        self._sources = parse_sources(parameters.scale_source)
        weak: Reliability = "best_effort"  # an old measurement is of no use
        inputs.subscribe(OdometryMessage, "odom", self._on_odometry, 50, reliability=weak)
        inputs.subscribe(Imu, "imu", self._on_imu, 50, reliability=weak)
        if "depth" in self._sources:
            inputs.subscribe_to_images("scale_depth", self._on_depth, raw=True)
            inputs.subscribe(PointCloud2, "scale_points", self._on_depth, 5)
        self.second_camera = (
            SecondCamera(inputs, parameters, frames, notify)
            if "baseline" in self._sources
            else None
        )

    def observe(self, frame: Frame, needs: Needs) -> Observation:
        """The frame and what the robot measured at its stamp, as far as the pipeline needs it."""
        if self._mount is None or self._mount.camera != frame.camera:
            self._mount = self._find_mount(frame)
        mount, up, depth, extra = self._mount, None, None, None
        if mount is None:
            up = self._up_in(frame.camera, frame.stamp_ns)
        for notice in self._odometry.notices:
            self._notify(notice)
        self._odometry.notices.clear()
        if "odometry" in self._sources:
            self._check_odometry(frame.stamp_ns - self._odom_ns)
        if self.second_camera is not None and needs.extra_view:
            extra = self.second_camera.view_at(frame)
        if self._depth and needs.sensor_depth:
            depth = self._sensor_depth(frame)
        return Observation(
            frame,
            base_from_camera=None if mount is None else mount.base_from_camera,
            world_from_base=None if mount is None else mount.world_from_base,
            odom_from_base=self._odometry,
            up_in_camera=up,
            sensor_depth=depth,
            extra_view=extra,
            mask=self.masks.mask_at(frame.stamp_ns),
        )

    @property
    def mount(self) -> Float[np.ndarray, "4 4"] | None:
        """`base_from_camera` of the newest frame's camera; None: not known."""
        return None if self._mount is None else self._mount.base_from_camera

    @property
    def gravity_samples(self) -> int:
        """How many measurements of acceleration are kept."""
        return len(self._up)

    @property
    def depth_stamps(self) -> tuple[int, ...]:
        """Stamps of the kept messages of the other depth sensor."""
        return tuple(stamp_ns(msg.header.stamp) for msg in tuple(self._depth))

    def base_from_camera(self, camera: str, ns: int) -> Float[np.ndarray, "4 4"] | None:
        """Where the camera is mounted; None where /tf does not connect it with `base_frame`."""
        if self.frames is None:
            return None
        return self.frames.lookup(self._parameters.base_frame, camera, ns)

    # In the worker's thread.

    def _check_odometry(self, late_ns: int) -> None:
        """A notice where the newest message is too far from the image in time."""
        if late_ns > MAX_GAP_NS:
            self._notify(
                "scale_source odometry: nothing came on 'odom' for two seconds;"
                " remap odom to the robot's odometry"
            )
        elif late_ns < -KEPT_NS:  # poses as old as a late image are still kept
            self._notify(
                f"odometry is stamped ahead of the images: by {-late_ns * 1e-9:.0f} s;"
                " give both one clock"
            )

    def _find_mount(self, frame: Frame) -> "_Mount | None":
        """The camera's mount, from the robot's description; None where /tf does not have it."""
        if self.frames is None:
            return None
        needed = self._parameters.tf_mode in ("odom_to_base", "map_to_odom")
        lookup = self.frames.wait_for if needed else self.frames.lookup
        found = lookup(self._parameters.base_frame, frame.camera, frame.stamp_ns)
        if found is None:
            return None
        return _Mount(frame.camera, found, self._world_from_base(frame.stamp_ns))

    def _world_from_base(self, ns: int) -> Float[np.ndarray, "4 4"]:
        """In mode map_to_odom a map starts where odometry is, so that both agree; else at zero."""
        found = None
        if self._parameters.tf_mode == "map_to_odom" and self.frames is not None:
            odom, base = self._parameters.odom_frame, self._parameters.base_frame
            found = self.frames.wait_for(odom, base, ns)
        return np.eye(4) if found is None else found

    def _up_in(self, camera: str, ns: int) -> Float[np.ndarray, "3"] | None:
        """The mean acceleration at rest, in the camera: gravity's reaction points up."""
        if not self._up:
            return None
        imu = self._up[-1][0]
        mean = np.mean([up for frame, up in self._up if frame == imu], axis=0)
        if not 8.0 < np.linalg.norm(mean) < 11.5:
            return None  # the robot accelerates, or the unit is not m/s^2
        if imu == camera:
            return mean
        camera_from_imu = self.frames.lookup(camera, imu, ns) if self.frames else None
        if camera_from_imu is None:
            self._notify(f"gravity is not used: /tf does not connect '{imu}' and '{camera}'")
            return None
        return camera_from_imu[:3, :3] @ mean

    def _sensor_depth(self, frame: Frame) -> Float32[np.ndarray, "h w"] | None:
        """The other sensor's depth on this image's pixels, if it measured at that time."""
        msg = min(tuple(self._depth), key=lambda m: abs(stamp_ns(m.header.stamp) - frame.stamp_ns))
        if abs(stamp_ns(msg.header.stamp) - frame.stamp_ns) > SAME_TIME_NS:
            return None
        try:
            if isinstance(msg, Image):
                return depth_from_image(msg, frame.rgb.shape[:2])
            return self._depth_from_cloud(msg, frame)
        except UserError as error:
            self._notify(str(error))
            return None

    def _depth_from_cloud(self, msg: PointCloud2, frame: Frame) -> Float32[np.ndarray, "h w"]:
        if frame.intrinsics is None:
            raise UserError("scale_points needs camera_info: it maps points to pixels")
        camera_from_cloud = None
        if self.frames is not None:
            camera_from_cloud = self.frames.lookup(
                frame.camera, msg.header.frame_id, frame.stamp_ns
            )
        if camera_from_cloud is None:
            raise UserError(
                f"scale_points is in '{msg.header.frame_id}', which /tf does not connect"
                f" with '{frame.camera}'"
            )
        points = transform(camera_from_cloud, points_from(msg))
        height, width = frame.rgb.shape[:2]
        lens = frame.rectification
        bend = None if lens is None else lens.input_from_rectified
        return sparse_depth(points, frame.intrinsics, height, width, bend).astype(np.float32)

    # Callbacks.

    def _on_odometry(self, msg: Any) -> None:
        self._odom_ns, names = stamp_ns(msg.header.stamp), self._names
        pose = pose_of(msg.pose.pose.position, msg.pose.pose.orientation)
        if pose is None:
            self._notify("odometry is refused: its pose is not finite, or its quaternion is zero")
        elif (child := names.of("odom", msg.child_frame_id)) not in (
            "", self._parameters.base_frame
        ):  # fmt: skip
            self._notify(
                f"odometry is refused: it places '{child}', not base_frame"
                f" '{self._parameters.base_frame}'"
            )
        else:
            stamp = stamp_ns(msg.header.stamp)
            self._odometry.add(stamp, pose, names.of("odom", msg.header.frame_id), child)

    def _on_depth(self, msg: Any) -> None:
        self._depth.append(msg)

    def _on_imu(self, msg: Any) -> None:
        force = msg.linear_acceleration
        up = np.array([force.x, force.y, force.z])
        if np.isfinite(up).all():
            self._up.append((self._names.of("imu", msg.header.frame_id), up))


def depth_from_image(msg: Image, shape: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """A depth image (32FC1 metres, 16UC1 millimetres) registered to an image of this shape."""
    if (msg.height, msg.width) != shape:
        raise UserError(
            f"scale_depth is {msg.width}x{msg.height} but the image {shape[1]}x{shape[0]};"
            " register it to the camera's image"
        )
    kinds = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 1e-3), "mono16": ("u2", 1e-3)}
    if msg.encoding not in kinds:
        raise UserError(f"scale_depth has encoding {msg.encoding}; use 32FC1 or 16UC1")
    kind, unit = kinds[msg.encoding]
    dtype = np.dtype((">" if msg.is_bigendian else "<") + kind)
    if msg.step < msg.width * dtype.itemsize or len(msg.data) < msg.height * msg.step:
        raise UserError("scale_depth has less data than its size needs")
    rows = np.frombuffer(msg.data, np.uint8)[: msg.height * msg.step].reshape(msg.height, msg.step)
    depth = rows[:, : msg.width * dtype.itemsize].copy().view(dtype).astype(np.float32) * unit
    return np.where(depth > 0, depth, np.nan).astype(np.float32)


def points_from(msg: PointCloud2) -> Float[np.ndarray, "p 3"]:
    """x, y, z of a cloud, of any numeric type; rows may be padded (`row_step`).

    Raises `UserError` where a field is missing, or the data is shorter than its size needs.
    """
    order = ">" if msg.is_bigendian else "<"
    found = {field.name: field for field in msg.fields if field.datatype in NUMBERS}
    if missing := [axis for axis in "xyz" if axis not in found]:
        raise UserError(
            f"scale_points has no field {', '.join(missing)}; publish points with x, y and z"
        )
    layout = np.dtype(
        {
            "names": list("xyz"),
            "formats": [order + NUMBERS[found[axis].datatype] for axis in "xyz"],
            "offsets": [found[axis].offset for axis in "xyz"],
            "itemsize": msg.point_step,
        }
    )
    used = msg.width * msg.point_step
    row_step = msg.row_step if msg.height > 1 else used
    if row_step < used or len(msg.data) < (msg.height - 1) * row_step + used:
        raise UserError("scale_points has less data than its size needs; check its publisher")
    octets = np.frombuffer(msg.data, np.uint8)
    rows = [octets[i * row_step : i * row_step + used].view(layout) for i in range(msg.height)]
    points = np.concatenate(rows) if rows else np.empty(0, layout)
    return np.stack([points[axis].astype(np.float64) for axis in "xyz"], axis=-1)
