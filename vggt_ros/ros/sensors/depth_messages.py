# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages of depth sensors as arrays: depth images, and clouds."""

import numpy as np
from jaxtyping import Float, Float32
from sensor_msgs.msg import Image, PointCloud2, PointField

from vggt_ros.errors import UserError

FARTHEST = 1e6  # metres; what is beyond is no measurement
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


def depth_from_image(msg: Image) -> Float32[np.ndarray, "h w"]:
    """A depth image (32FC1 metres, 16UC1 millimetres) in metres, NaN where there is none.

    Raises `UserError` for another encoding, or data shorter than its size needs.
    """
    kinds = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 1e-3), "mono16": ("u2", 1e-3)}
    if msg.encoding not in kinds:
        raise UserError(f"scale_depth has encoding {msg.encoding}; use 32FC1 or 16UC1")
    kind, unit = kinds[msg.encoding]
    dtype = np.dtype((">" if msg.is_bigendian else "<") + kind)
    if not msg.height * msg.width:
        raise UserError("scale_depth has no pixels; check its publisher")
    if msg.step < msg.width * dtype.itemsize or len(msg.data) < msg.height * msg.step:
        raise UserError("scale_depth has less data than its size needs")
    rows = np.frombuffer(msg.data, np.uint8)[: msg.height * msg.step].reshape(msg.height, msg.step)
    depth = rows[:, : msg.width * dtype.itemsize].copy().view(dtype).astype(np.float32) * unit
    return np.where((depth > 0) & (depth < FARTHEST), depth, np.nan).astype(np.float32)


def points_from(msg: PointCloud2) -> Float[np.ndarray, "p 3"]:
    """x, y, z of a cloud in metres, of any numeric type; rows may be padded (`row_step`).

    Numbers that no sensor measures become NaN.

    Raises `UserError` where a field is missing, or the data is shorter than its size needs.
    """
    order = ">" if msg.is_bigendian else "<"
    found = {field.name: field for field in msg.fields if field.datatype in NUMBERS}
    if missing := [axis for axis in "xyz" if axis not in found]:
        raise UserError(
            f"scale_points has no field {', '.join(missing)}; publish points with x, y and z"
        )
    ends = [found[axis].offset + int(NUMBERS[found[axis].datatype][1]) for axis in "xyz"]
    if max(ends) > msg.point_step:
        raise UserError(
            f"scale_points has points of {msg.point_step} bytes, but x, y and z end at byte"
            f" {max(ends)}; check its publisher"
        )
    if not msg.height * msg.width:
        return np.empty((0, 3))
    used = msg.width * msg.point_step
    row_step = msg.row_step if msg.height > 1 else used
    if row_step < used or len(msg.data) < (msg.height - 1) * row_step + used:
        raise UserError("scale_points has less data than its size needs; check its publisher")
    layout = np.dtype(
        {
            "names": list("xyz"),
            "formats": [order + NUMBERS[found[axis].datatype] for axis in "xyz"],
            "offsets": [found[axis].offset for axis in "xyz"],
            "itemsize": msg.point_step,
        }
    )
    octets = np.frombuffer(msg.data, np.uint8)
    rows = [octets[i * row_step : i * row_step + used].view(layout) for i in range(msg.height)]
    points = np.concatenate(rows)
    metres = np.stack([points[axis].astype(np.float64) for axis in "xyz"], axis=-1)
    return np.where(np.abs(metres) < FARTHEST, metres, np.nan)
