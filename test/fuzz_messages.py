# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whole messages as sensors send them, and damaged ones: a few fields set to what no sensor means.

Every damaged message can be sent: it is serialised, as a peer would, and read back.
"""

from array import array
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
from node_rig import CAMERA, INPUT, START, K
from PIL import Image as Picture
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, PointCloud2
from tf2_msgs.msg import TFMessage
from vggt_ros.msg import QueryPoints

from vggt_ros.ros.messages import (
    camera_info_message,
    cloud_message,
    header,
    image_message,
    odometry_message,
    transform_message,
)

TEXTS = (
    "", "/", "//a", "map", "base_link", CAMERA, "é\u4e2d\U0001f916", "a b\n\tc", "../../etc/passwd",
    "$(reboot)", "'; rm -rf /", "%s%n", "x" * 300, "x" * 20_000, "mono8", "mono16", "rgb8", "32FC1",
    "16UC1", "8UC1", "bayer_rggb8", "nv12", "yuv422", "i420", "jpeg", "h264",
    "rgb8; png compressed",
    "plumb_bob", "equidistant", "rational_polynomial", "x", "y", "z",
)  # fmt: skip
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 1e-310, 1e-9, 1e9, 1e38, -1e38, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
INTEGERS = {
    name: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if name[0] == "i" else (0, 2**bits - 1)
    for bits in (8, 16, 32, 64)
    for name in (f"int{bits}", f"uint{bits}")
} | {"octet": (0, 255)}


# ---- whole messages -----------------------------------------------------------------------------


def picture(value: int = 7) -> np.ndarray:
    """An image of the test's camera."""
    rgb = np.full((*INPUT, 3), value, np.uint8)
    rgb[::2, ::3] = 90
    return rgb


def compressed(kind: str = "jpeg") -> CompressedImage:
    file = BytesIO()
    Picture.fromarray(picture()).save(file, kind)
    return CompressedImage(header=header(START, CAMERA), format=kind, data=file.getvalue())


def depth_image() -> Image:
    return image_message(header(START, CAMERA), np.full(INPUT, 2.0, np.float32))


def mask_image() -> Image:
    height, width = INPUT
    data = array("B", bytes(height * width))
    return Image(header=header(START, CAMERA), height=height, width=width, encoding="mono8",
                 step=width, data=data)  # fmt: skip


def cloud() -> PointCloud2:
    points = np.ones((4, 5, 3), np.float32) * [0.1, 0.2, 2.0]
    return cloud_message(header(START, CAMERA), points, np.zeros((4, 5, 3), np.uint8),
                         np.ones((4, 5), np.float32))  # fmt: skip


def imu() -> Imu:
    found = Imu(header=header(START, CAMERA))
    found.linear_acceleration.y = -9.81
    return found


def camera_info() -> CameraInfo:
    found = camera_info_message(header(START, CAMERA), K, width=INPUT[1], height=INPUT[0])
    found.d = [-0.2, 0.05, 0.0, 0.0, 0.0]
    return found


def queries() -> QueryPoints:
    ids = array("I", [1, 2])
    return QueryPoints(ids=ids, u=array("f", [10.0, 20.0]), v=array("f", [11.0, 22.0]))


def transforms() -> TFMessage:
    found = [
        transform_message(header(START, parent), child, np.eye(4))
        for parent, child in (("odom", "base_link"), ("base_link", CAMERA))
    ]
    return TFMessage(transforms=found)


def odometry() -> Odometry:
    return odometry_message(header(START, "odom"), "base_link", np.eye(4), np.eye(4), np.eye(6))


def initial_pose() -> PoseWithCovarianceStamped:
    found = PoseWithCovarianceStamped(header=header(START, "vggt_world"))
    found.pose.pose.orientation.w = 1.0
    return found


WHOLE: dict[str, Any] = {
    "image": image_message(header(START, CAMERA), picture()),
    "jpeg": compressed(),
    "png": compressed("png"),
    "depth": depth_image(),
    "mask": mask_image(),
    "cloud": cloud(),
    "imu": imu(),
    "camera_info": camera_info(),
    "queries": queries(),
    "transforms": transforms(),
    "odometry": odometry(),
    "initial_pose": initial_pose(),
}


# ---- damage -------------------------------------------------------------------------------------


class Leaf(NamedTuple):
    """A field of a message or of a part of it."""

    owner: tuple[Any, ...]  # attributes and indices that lead to the part
    name: str
    kind: str  # as rosidl names its type


def leaves(message: Any, owner: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    """Every field that holds no other message, and every list of messages as a whole."""
    for name, kind in message.get_fields_and_field_types().items():
        value = getattr(message, name)
        if "/" not in kind or kind.startswith("sequence"):
            yield Leaf(owner, name, kind)
        for i, part in enumerate(value if isinstance(value, list) else [value]):
            if hasattr(part, "get_fields_and_field_types"):
                at = (name, i) if isinstance(value, list) else (name,)
                yield from leaves(part, (*owner, *at))


@cache
def scalars(kind: str) -> st.SearchStrategy:
    """Values of a type of rosidl, those at its ends and beyond all sense most often."""
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        ends = st.sampled_from([low, high, 0, 1, 2, high // 2, *range(3, 9)])
        return ends | st.integers(low, high)
    if kind in ("float", "double"):
        width = 32 if kind == "float" else 64
        known = [float(np.float32(each)) if width == 32 and abs(each) < 3e38 else each
                 for each in FLOATS if width == 64 or not 3e38 < abs(each) < np.inf]  # fmt: skip
        return st.sampled_from(known) | st.floats(width=width)
    if kind == "boolean":
        return st.booleans()
    assert kind.startswith("string"), kind
    return st.sampled_from(TEXTS)


@st.composite
def sequences(draw: Any, kind: str, old: Any) -> Any:
    """Another list in place of one: cut, repeated, emptied, or with other elements."""
    values = list(old) if not hasattr(old, "tobytes") else old
    how = draw(st.sampled_from(["cut", "repeat", "empty", "elements", "elements"]))
    if how == "empty" or not len(values):
        return values[:0]
    if how == "cut":
        return values[: draw(st.integers(0, len(values) - 1))]
    if how == "repeat":
        return values + values[: draw(st.integers(1, len(values)))]
    found = values[:]
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(values) - 1))
        found[i] = values[-1 - i] if "/" in kind else draw(scalars(element(kind)))
    return found


def element(kind: str) -> str:
    """The type of the elements of a list."""
    return kind.removeprefix("sequence<").partition(">")[0].partition("[")[0].partition(",")[0]


def damaged(name: str, *, whole_stamp: bool = False) -> st.SearchStrategy:
    """Messages of `WHOLE` with one to four wrong fields; with `whole_stamp` the stamp is right."""
    return _damaged(WHOLE[name], whole_stamp)


@st.composite
def _damaged(draw: Any, whole: Any, whole_stamp: bool) -> Any:
    message = deepcopy(whole)
    for _ in range(draw(st.integers(1, 4))):
        known = [leaf for leaf in leaves(message)
                 if not (whole_stamp and leaf.owner == ("header", "stamp"))]  # fmt: skip
        leaf = draw(st.sampled_from(known))
        part = message
        for step in leaf.owner:
            part = part[step] if isinstance(step, int) else getattr(part, step)
        part_old = getattr(part, leaf.name)
        if leaf.kind.startswith("sequence"):
            new = draw(sequences(leaf.kind, part_old))
        elif "[" in leaf.kind:
            new = part_old.copy()
            new[draw(st.integers(0, len(new) - 1))] = draw(scalars(element(leaf.kind)))
        else:
            new = draw(scalars(leaf.kind))
        setattr(part, leaf.name, new)
    return deserialize_message(serialize_message(message), type(message))


def damaged_bytes(name: str) -> st.SearchStrategy:
    """Serialised messages with bytes that differ or are missing, as no middleware sends them."""
    return _damaged_bytes(serialize_message(WHOLE[name]))


@st.composite
def _damaged_bytes(draw: Any, whole: bytes) -> bytes:
    raw = bytearray(whole)
    for _ in range(draw(st.integers(0, 6))):
        raw[draw(st.integers(2, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw)
