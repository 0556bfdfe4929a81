# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Arrays to ROS messages and back, without topics, state or changes of frame.

Large fields are `array.array`s: any other type is copied, and with field checks even inspected,
element by element. They are written in place where a kept message is passed as `into`, since page
faults of fresh megabytes cost more than the conversion itself; publishing copies them anyway.
"""

from array import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, Transform, TransformStamped
from jaxtyping import Float, Float32, UInt8, UInt32
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from vggt_ros.errors import UserError
from vggt_ros.frames import Tracks
from vggt_ros.geometry import lever_arm_jacobian, one_quaternion
from vggt_ros.imaging.encodings import UnknownEncoding
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.mapping.velocity import UNKNOWN_VARIANCE, Velocity
from vggt_ros.msg import PointTracks, QueryPoints
from vggt_ros.ros.clouds import FIELDS, POINT_STEP, packed, write_image_records, write_records

# Time and headers: integer nanoseconds, never a float, or 99 % of stamps come back changed.


def stamp_ns(time: Time) -> int:
    """A message's stamp as integer nanoseconds."""
    return time.sec * 1_000_000_000 + time.nanosec


def time_message(ns: int) -> Time:
    """Integer nanoseconds as a message's stamp."""
    sec, nanosec = divmod(ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def header(ns: int, frame_id: str) -> Header:
    """A header with this stamp and frame."""
    return Header(stamp=time_message(ns), frame_id=frame_id)


# Messages to arrays.


def rgb_from_image(msg: Image, reader: ImageReader | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The image in RGB, whatever its encoding.  Raises `UserError` that names the fault."""
    try:
        return (reader or ImageReader()).raw(
            msg.data,
            encoding=msg.encoding,
            height=msg.height,
            width=msg.width,
            step=msg.step,
            is_bigendian=bool(msg.is_bigendian),
        )
    except UnknownEncoding as unknown:
        return _rgb_through_cv_bridge(msg, unknown)


def _rgb_through_cv_bridge(msg: Image, unknown: UnknownEncoding) -> UInt8[np.ndarray, "h w 3"]:
    try:
        # Built for another NumPy it fails in more ways than ImportError.
        from cv_bridge import CvBridge  # pyright: ignore[reportMissingImports]

        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(msg, "rgb8"))
    except Exception as error:
        raise UserError(f"{unknown}; cv_bridge, which has more encodings, fails: {error}") from None


def rgb_from_compressed(
    msg: CompressedImage, reader: ImageReader | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The image in RGB, by its bytes and `format`.  Raises `UserError` that names the fault."""
    return (reader or ImageReader()).compressed(msg.data, msg.format)


def queries_from(msg: QueryPoints) -> tuple[UInt32[np.ndarray, "n"], Float32[np.ndarray, "n 2"]]:
    """Ids and pixels of the input image.  Raises `UserError` where the lists do not match."""
    if not len(msg.ids) == len(msg.u) == len(msg.v):
        raise UserError(
            f"query_points has {len(msg.ids)} ids, {len(msg.u)} u and {len(msg.v)} v;"
            " send lists of equal length"
        )
    ids = np.array(msg.ids, np.uint32)
    if len(np.unique(ids)) < len(ids):
        raise UserError("query_points repeats an id; give each point its own")
    return ids, np.stack([np.array(msg.u, np.float32), np.array(msg.v, np.float32)], axis=-1)


# Arrays to messages.


def image_message(
    head: Header,
    pixels: UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w"],
    *,
    into: Image | None = None,
) -> Image:
    """An rgb8 image, or a 32FC1 one (depth in world units along z, NaN where invalid)."""
    msg = into or Image()
    msg.header = head
    msg.height, msg.width = pixels.shape[:2]
    msg.encoding = "rgb8" if pixels.dtype == np.uint8 else "32FC1"
    msg.step = msg.width * pixels[0, 0].nbytes
    _resized(msg, pixels.nbytes).view(pixels.dtype).reshape(pixels.shape)[...] = pixels
    return msg


def camera_info_message(
    head: Header, intrinsics: Float[np.ndarray, "3 3"], *, width: int, height: int
) -> CameraInfo:
    """The camera of exactly this pixel grid, rectified: D zero, R identity, P = [K | 0]."""
    projection = np.zeros((3, 4))
    projection[:, :3] = intrinsics
    return CameraInfo(
        header=head,
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=intrinsics.astype(np.float64).ravel(),
        r=np.eye(3).ravel(),
        p=projection.ravel(),
    )


def cloud_message(
    head: Header,
    points: Float[np.ndarray, "h w 3"],
    rgb: UInt8[np.ndarray, "h w 3"],
    confidence: Float32[np.ndarray, "h w"],
) -> PointCloud2:
    """Coloured points in rows and columns, NaN where there is none."""
    msg, data = _cloud(head, confidence.shape, None)
    write_records(data, points, packed(rgb), confidence)
    return msg


def depth_cloud_message(
    head: Header,
    depth: Float32[np.ndarray, "h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    rgb: UInt8[np.ndarray, "h w 3"],
    confidence: Float32[np.ndarray, "h w"],
    *,
    into: PointCloud2 | None = None,
) -> PointCloud2:
    """The same of every pixel of a depth image, in the camera's frame."""
    msg, data = _cloud(head, depth.shape, into)
    write_image_records(data, depth, intrinsics, rgb, confidence)
    return msg


def records_message(
    head: Header, parts: Sequence[UInt8[np.ndarray, "_ 20"]], *, into: PointCloud2 | None = None
) -> PointCloud2:
    """Coloured points without order, none of them NaN, from records of `clouds`."""
    msg, data = _cloud(head, (1, sum(len(part) for part in parts)), into)
    msg.is_dense = True
    np.concatenate(parts, out=data[0])
    return msg


class GrowingCloud:
    """A cloud message without order whose points come a part at a time.

    Their records stand in the message's own memory, which the next message uses again.
    """

    def __init__(self) -> None:
        self._message, _ = _cloud(Header(), (1, 0), None)
        self._count = 0  # points so far

    def clear(self) -> None:
        """No points so far."""
        self._count = 0

    def append(self, part: OwnedCloud, /) -> None:
        """More points, none of them NaN."""
        first, self._count = self._count, self._count + len(part.points)
        data = self._message.data
        data.frombytes(bytes(max(POINT_STEP * self._count - len(data), 0)))
        records = np.frombuffer(data, np.uint8).reshape(-1, POINT_STEP)
        colours = packed(part.colours)
        write_records(records[first : self._count], part.points, colours, part.confidence)

    def message(self, head: Header) -> PointCloud2:
        """All points so far; it is written over from the next part on."""
        message, _ = _cloud(head, (1, self._count), self._message)
        message.is_dense = True
        return message


def _cloud(
    head: Header, shape: tuple[int, ...], into: PointCloud2 | None
) -> tuple[PointCloud2, UInt8[np.ndarray, "h w 20"]]:
    msg = into or PointCloud2(
        fields=[
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate(FIELDS)
        ],
        point_step=POINT_STEP,
    )
    msg.header = head
    msg.height, msg.width = shape
    msg.row_step = POINT_STEP * msg.width
    return msg, _resized(msg, msg.height * msg.row_step).reshape(*shape, POINT_STEP)


def pose_message(head: Header, world_from_camera: Float[np.ndarray, "4 4"]) -> PoseStamped:
    """The camera's optical frame seen from the frame of `head`."""
    pose = Pose()
    _fill(pose.position, pose.orientation, world_from_camera)
    return PoseStamped(header=head, pose=pose)


def odometry_message(
    head: Header,
    child: str,
    world_from_camera: Float[np.ndarray, "4 4"],
    camera_from_child: Float[np.ndarray, "4 4"],
    covariance: Float[np.ndarray, "6 6"],
    velocity: Velocity | None = None,
) -> Odometry:
    """`child` in the frame of `head`; `covariance` is the camera's (x y z, rotation vector).

    The twist is that of `child` in its own axes, from the camera's `velocity`. Where that is
    not known (the first inference, a new segment of the map, a refused window, a long gap) the
    twist is zero and the variances on its diagonal are `UNKNOWN_VARIANCE`.
    """
    world_from_child = world_from_camera @ camera_from_child
    carry = lever_arm_jacobian(world_from_child[:3, 3] - world_from_camera[:3, 3])
    msg = Odometry(header=head, child_frame_id=child)
    _fill(msg.pose.pose.position, msg.pose.pose.orientation, world_from_child)
    msg.pose.covariance = (carry @ covariance @ carry.T).ravel()
    msg.twist.covariance = UNKNOWN_VARIANCE * np.eye(6).ravel()
    if velocity is not None:
        there = velocity.of(camera_from_child)
        for axes, values in (
            (msg.twist.twist.linear, there.linear),
            (msg.twist.twist.angular, there.angular),
        ):
            axes.x, axes.y, axes.z = values.tolist()
        msg.twist.covariance = there.covariance.ravel()
    return msg


def transform_message(
    head: Header, child: str, parent_from_child: Float[np.ndarray, "4 4"]
) -> TransformStamped:
    """`child` seen from the frame of `head`."""
    transform = Transform()
    _fill(transform.translation, transform.rotation, parent_from_child)
    return TransformStamped(header=head, child_frame_id=child, transform=transform)


def tracks_message(head: Header, tracks: Tracks, window_id: int, segment: int) -> PointTracks:
    """Parallel arrays, S x N, frame-major; pixels of the input image."""
    return PointTracks(
        header=head,
        ids=_filled("I", tracks.ids),
        stamps=[time_message(ns) for ns in tracks.stamps_ns],
        u=_filled("f", tracks.uv[..., 0]),
        v=_filled("f", tracks.uv[..., 1]),
        visibility=_filled("f", tracks.visibility),
        confidence=_filled("f", tracks.confidence),
        window_id=window_id,
        segment=segment,
        cameras=tracks.cameras,
    )


def _filled(kind: str, values: np.ndarray) -> array:
    data = array(kind)
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data


def _resized(msg: Image | PointCloud2, size: int) -> UInt8[np.ndarray, "n"]:
    """The message's own bytes at a length of `size`, to be written in place."""
    data = msg.data
    del data[size:]
    data.frombytes(bytes(size - len(data)))
    return np.frombuffer(data, np.uint8)


def _fill(position, orientation, parent_from_child: Float[np.ndarray, "4 4"]) -> None:
    position.x, position.y, position.z = parent_from_child[:3, 3].tolist()
    quaternion = one_quaternion(parent_from_child[:3, :3])
    orientation.x, orientation.y, orientation.z, orientation.w = quaternion
