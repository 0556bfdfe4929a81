# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth to points and points to the bytes of a cloud, fast: float32, column by column.

A point is a record of 20 bytes: x y z rgb confidence, float32 little-endian, rgb as 0x00RRGGBB.
Columns rather than rows of three, because NumPy copies those ten times faster.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from vggt_ros.frames import View

FIELDS = ("x", "y", "z", "rgb", "confidence")
POINT_STEP = 4 * len(FIELDS)  # bytes


def camera_points(
    depth: Float32[np.ndarray, "h w"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float32[np.ndarray, "h w 3"]:
    """`geometry.unproject` for one image, laid out plane by plane (the result is a view of it).

    NaN depth gives NaN in all three coordinates.
    """
    height, width = depth.shape
    (fx, _, cx), (_, fy, cy) = intrinsics[:2]
    planes = np.empty((3, height, width), np.float32)
    np.multiply(depth, ((np.arange(width) - cx) / fx).astype(np.float32), out=planes[0])
    np.multiply(depth, ((np.arange(height) - cy) / fy).astype(np.float32)[:, None], out=planes[1])
    planes[2] = depth
    return planes.transpose(1, 2, 0)


def write_records(
    data: UInt8[np.ndarray, "*p 20"],
    points: Float[np.ndarray, "*p 3"],
    rgb: UInt8[np.ndarray, "*p 3"],
    confidence: Float32[np.ndarray, "*p"],
) -> None:
    """Fill `data` with the points' records."""
    floats = data.view("<f4")
    for i in range(3):
        floats[..., i] = points[..., i]
        data[..., 14 - i] = rgb[..., i]
    data[..., 15] = 0
    floats[..., 4] = confidence


class WindowCloud:
    """Confident points of a window's views in the world; an unchanged view is computed once."""

    def __init__(self) -> None:
        self._cached: dict[int, tuple[tuple, UInt8[np.ndarray, "p 20"]]] = {}

    def records(
        self, views: Sequence[View], min_confidence: float, step: int
    ) -> list[UInt8[np.ndarray, "p 20"]]:
        """Records of each view that has depth, from every `step`-th row and column."""
        cached = {}
        for view in views:
            if view.depth is None:
                continue
            made_of = (view, min_confidence, step)
            known = self._cached.get(view.frame_id)
            if known is not None and known[0][0] is view and known[0][1:] == made_of[1:]:
                cached[view.frame_id] = known
            else:
                cached[view.frame_id] = made_of, world_records(view, min_confidence, step)
        self._cached = cached
        return [records for _, records in cached.values()]


def world_records(view: View, min_confidence: float, step: int) -> UInt8[np.ndarray, "p 20"]:
    """One view's confident points in the world."""
    assert view.depth is not None and view.confidence is not None
    coarse = np.s_[::step, ::step]
    confidence = view.confidence[coarse]
    depth = view._replace(depth=view.depth[coarse], confidence=confidence).masked_depth(
        min_confidence
    )
    kept = np.flatnonzero(np.isfinite(depth))

    def columns(image: Shaped[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "3 p"]:
        return np.stack([image[..., i].ravel()[kept] for i in range(3)])

    in_camera = columns(camera_points(depth, view.intrinsics / np.array([[step], [step], [1]])))
    world_from_camera = view.world_from_camera.astype(np.float32)
    in_world = world_from_camera[:3, :3] @ in_camera + world_from_camera[:3, 3:]
    records = np.empty((len(kept), POINT_STEP), np.uint8)
    write_records(records, in_world.T, columns(view.rgb[coarse]).T, confidence.ravel()[kept])
    return records
