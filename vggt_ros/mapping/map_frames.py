# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames of the map with their coarse depth, and how much two of them see of one scene."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import inverse_rigid, transform, unproject
from vggt_ros.mapping.medians import median

SAME_VIEW = 0.15  # the same between two views of a window, whose errors are correlated
MIN_PIXELS = 32  # from which a share of pixels means something
Depth = Float[np.ndarray, "_h _w"]  # subsampled, NaN where not trusted


class MapFrame(NamedTuple):
    """A frame of the map that the next window may share."""

    frame_id: int
    world_from_camera: Float[np.ndarray, "4 4"]
    intrinsics: Float[np.ndarray, "3 3"]  # of the subsampled grid
    depth: Depth | None  # world units
    depths: float = 0.0  # observations of its depth, whose mean it is
    turns: float = 1.0  # the same of its orientation
    centre: float = 1.0  # sum of the inverse squares of `centre_spread` of its observations


class ViewOverlap(NamedTuple):
    """How much two views share of the scene."""

    overlap: float  # share of the newer view's points that lie inside the older image
    agreement: float  # share of points alike in depth in the other view, by the worse direction
    parallax: float  # median angle between the two lines of sight, radians
    spread: float = 0.0  # of the log ratio of the two depths at one point, one sigma
    ratio: float = 0.0  # its median: how much deeper the newer one sees the same points


def median_depth(frames: tuple[MapFrame, ...]) -> float:
    """The scene's median depth in the frames' own unit; 1 where no depth is known."""
    known = [frame.depth[np.isfinite(frame.depth)] for frame in frames if frame.depth is not None]
    middles = [median(depth) for depth in known if depth.size]
    return median(np.array(middles)) if middles else 1.0


def have_comparable_depth(a: MapFrame, b: MapFrame) -> bool:
    """Whether both have depth on one grid."""
    return a.depth is not None and b.depth is not None and a.depth.shape == b.depth.shape


def view_overlap(older: MapFrame, newer: MapFrame, same: float = SAME_VIEW) -> ViewOverlap | None:
    """Each view's points in the other camera; None where either has too little depth.

    `same`: log ratio up to which two depths agree.
    """
    if not have_comparable_depth(older, newer):
        return None
    of_newer, of_older = world_points(newer), world_points(older)
    if min(len(of_newer), len(of_older)) < MIN_PIXELS:
        return None
    overlap, agreement, spread, ratio = _agreement(older, of_newer, same)
    _, agreement_back, spread_back, ratio_back = _agreement(newer, of_older, same)
    a = of_newer - older.world_from_camera[:3, 3]
    b = of_newer - newer.world_from_camera[:3, 3]
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    parallax = median(np.arctan2(sine, np.sum(a * b, axis=-1)))
    return ViewOverlap(
        overlap,
        min(agreement, agreement_back),
        parallax,
        max(spread, spread_back),
        0.5 * (ratio - ratio_back),
    )


def world_points(frame: MapFrame) -> Float[np.ndarray, "p 3"]:
    """World points of every fourth pixel that has depth."""
    coarse = np.diag([0.5, 0.5, 1.0]) @ frame.intrinsics
    depth = frame.depth[::2, ::2]
    points = unproject(depth, coarse)[np.isfinite(depth)]
    return transform(frame.world_from_camera, points)


def _agreement(
    frame: MapFrame, points: Float[np.ndarray, "p 3"], same: float
) -> tuple[float, float, float, float]:
    """Share of the points inside this image, of those the share whose depth it agrees with.

    And the spread and the median of the log ratios of depth, point over image.
    """
    points = transform(inverse_rigid(frame.world_from_camera), points)
    everything = len(points)
    points = points[points[:, 2] > 1e-9]
    column, row, depth = (points @ frame.intrinsics.T).T
    column, row = np.rint(column / depth), np.rint(row / depth)
    height, width = frame.depth.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    known = frame.depth[row[inside].astype(int), column[inside].astype(int)]
    change = np.log(depth[inside] / known)
    change = change[np.isfinite(change)]
    share = float(inside.sum()) / everything
    if len(change) < MIN_PIXELS:
        return share, 1.0, 0.0, 0.0
    ratio = median(change)
    spread = 1.4826 * median(np.abs(change - ratio))
    return share, float(np.mean(np.abs(change) < same)), spread, ratio
