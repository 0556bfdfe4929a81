# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth to points and points to the bytes of a cloud, fast: float32, column by column.

A point is a record of 20 bytes: x y z rgb confidence, float32 little-endian, rgb as 0x00RRGGBB.
Columns rather than rows of three, because NumPy copies those ten times faster.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt32

from vggt_ros.frames import View

FIELDS = ("x", "y", "z", "rgb", "confidence")
POINT_STEP = 4 * len(FIELDS)  # bytes
AT_ONCE = 30_000  # points whose records are written together


def camera_points(
    depth: Float32[np.ndarray, "h w"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float32[np.ndarray, "h w 3"]:
    """`geometry.unproject` for one image, laid out plane by plane (the result is a view of it).

    NaN depth gives NaN in all three coordinates.
    """
    x, y = _rays(depth.shape, intrinsics)
    planes = np.empty((3, *depth.shape), np.float32)
    np.multiply(depth, x, out=planes[0])
    np.multiply(depth, y[:, None], out=planes[1])
    planes[2] = depth
    return planes.transpose(1, 2, 0)


def _rays(
    shape: tuple[int, ...], intrinsics: Float[np.ndarray, "3 3"]
) -> tuple[Float32[np.ndarray, "w"], Float32[np.ndarray, "h"]]:
    """x / z of each column of an image, and y / z of each row."""
    height, width = shape
    (fx, _, cx), (_, fy, cy) = intrinsics[:2]
    x, y = (np.arange(width) - cx) / fx, (np.arange(height) - cy) / fy
    return x.astype(np.float32), y.astype(np.float32)


def packed(rgb: UInt8[np.ndarray, "*p 3"]) -> UInt32[np.ndarray, "*p"]:
    """Colours as 0x00RRGGBB."""
    colours = rgb[..., 0].astype("<u4")
    for i in (1, 2):
        colours <<= 8
        colours |= rgb[..., i]
    return colours


def write_records(
    data: UInt8[np.ndarray, "*p 20"],
    points: Float[np.ndarray, "*p 3"],
    colours: UInt32[np.ndarray, "*p"],
    confidence: Float32[np.ndarray, "*p"],
) -> None:
    """Fill `data` with the points' records; `colours` are packed."""
    floats = data.view("<f4")
    for i in range(3):
        floats[..., i] = points[..., i]
    data.view("<u4")[..., 3] = colours
    floats[..., 4] = confidence


def write_image_records(
    data: UInt8[np.ndarray, "h w 20"],
    depth: Float32[np.ndarray, "h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    rgb: UInt8[np.ndarray, "h w 3"],
    confidence: Float32[np.ndarray, "h w"],
) -> None:
    """Fill `data` with the records of an image's pixels in the camera's frame.

    Some rows at a time, so that what is needed in between stays in the cache.
    """
    some = max(AT_ONCE // depth.shape[1], 1)
    x, y = _rays(depth.shape, intrinsics)
    for first in range(0, len(depth), some):
        rows = slice(first, first + some)
        floats, z = data[rows].view("<f4"), depth[rows]
        np.multiply(z, x, out=floats[..., 0])
        np.multiply(z, y[rows, None], out=floats[..., 1])
        floats[..., 2], floats[..., 4] = z, confidence[rows]
        data[rows].view("<u4")[..., 3] = packed(rgb[rows])


class WindowCloud:
    """Confident points of a window's views in the world; an unchanged view is computed once."""

    def __init__(self) -> None:
        self._cached: dict[int, tuple[tuple, UInt8[np.ndarray, "p 20"]]] = {}
        # By frame: its image, packed at every so manieth pixel. It stays, while depth changes.
        self._colours: dict[int, tuple[np.ndarray, int, UInt32[np.ndarray, "h w"]]] = {}

    def records(
        self, views: Sequence[View], min_confidence: float, step: int
    ) -> list[UInt8[np.ndarray, "p 20"]]:
        """Records of each view that has depth, from every `step`-th row and column."""
        cached, colours = {}, {}
        for view in views:
            if view.depth is None:
                continue
            rgb, packed_at, pixels = self._colours.get(view.frame_id, (None, 0, None))
            if pixels is None or rgb is not view.rgb or packed_at != step:
                pixels = packed(view.rgb[::step, ::step])
            colours[view.frame_id] = view.rgb, step, pixels
            made_of = (view, min_confidence, step)
            known = self._cached.get(view.frame_id)
            if known is None or known[0][0] is not view or known[0][1:] != made_of[1:]:
                known = made_of, world_records(view, min_confidence, step, pixels)
            cached[view.frame_id] = known
        self._cached, self._colours = cached, colours
        return [records for _, records in cached.values()]


def world_records(
    view: View, min_confidence: float, step: int, colours: UInt32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "p 20"]:
    """One view's confident points in the world, of every `step`-th pixel, with its colours."""
    assert view.depth is not None and view.confidence is not None
    coarse = np.s_[::step, ::step]
    confidence = np.ascontiguousarray(view.confidence[coarse])
    depth = np.ascontiguousarray(view.depth[coarse])
    depth = view._replace(depth=depth, confidence=confidence).masked_depth(min_confidence)
    is_known = np.isfinite(depth).ravel()
    kept = slice(None) if is_known.all() else np.flatnonzero(is_known)
    points = camera_points(depth, view.intrinsics / np.array([[step], [step], [1]]))
    in_camera = points.transpose(2, 0, 1).reshape(3, -1)[:, kept]
    world_from_camera = view.world_from_camera.astype(np.float32)
    in_world = world_from_camera[:3, :3] @ in_camera + world_from_camera[:3, 3:]
    records = np.empty((in_world.shape[1], POINT_STEP), np.uint8)
    write_records(records, in_world.T, colours.ravel()[kept], confidence.ravel()[kept])
    return records
