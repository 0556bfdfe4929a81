# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Single measurements of scale, by the source that they come from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.mapping.metric.scale import Measurement
from vggt_ros.mapping.registration import robust_mean

CENTRE_NOISE = 0.006  # of a camera centre, as a share of scene depth: half a degree
MIN_BASELINE = 0.02  # of two cameras, as a share of scene depth: three times a centre's noise
MIN_PIXELS = 100  # that two depths must share before their ratio counts
MIN_SAME = 0.5  # share of them that must show the same scene
MIN_GROUND = 0.25  # share of the points below the camera that must lie in the ground


class Unusable(NamedTuple):
    """A comparison that measured nothing, though there was something to compare."""

    source: str
    reason: str  # with figures


Found = Measurement | Unusable | None


def from_baselines(
    estimated: Float[np.ndarray, "p 3"],
    mounted: Float[np.ndarray, "p 3"],
    scene_depth: float,
    stamp_ns: int,
) -> Measurement | Unusable:
    """Pairs of cameras of one rig at one time: from one to the other in world units, and in metres.

    Only the part along the known directions counts: noise across them would lengthen every
    baseline. Longer ones count more, since all centres are equally uncertain: least squares.
    """
    metres = float(np.sqrt(np.vdot(mounted, mounted)))
    along = float(np.vdot(estimated, mounted)) / metres if metres > 0 else 0.0
    if along < MIN_BASELINE * scene_depth:
        return Unusable(
            "baseline",
            f"the cameras are {along / scene_depth:.1%} of the scene's depth apart along the"
            f" direction that /tf has, {MIN_BASELINE:.0%} are needed",
        )
    sigma = CENTRE_NOISE * scene_depth / along
    return Measurement("baseline", float(np.log(metres / along)), sigma, stamp_ns)


def from_depth(
    depth: Float[np.ndarray, "h w"], metres: Float[np.ndarray, "h w"], stamp_ns: int
) -> Measurement | Unusable:
    """Another sensor's depth on the same pixels: NaN or 0 wherever either has none."""
    both = np.isfinite(depth) & (depth > 0) & np.isfinite(metres) & (metres > 0)
    if both.sum() < MIN_PIXELS:
        return Unusable(
            "depth",
            f"{both.sum()} of {both.size} pixels have depth by both the network and the sensor,"
            f" {MIN_PIXELS} are needed",
        )
    ratios = np.log(metres[both] / depth[both])
    if len(ratios) > 5000:
        ratios = ratios[:: len(ratios) // 5000]
    mean, spread = robust_mean(ratios)
    same = float(np.mean(np.abs(ratios - mean) < 0.25))
    if same < MIN_SAME:
        return Unusable(
            "depth",
            f"sensor and network agree about {same:.0%} of the pixels, {MIN_SAME:.0%} are needed;"
            " is it registered to the image?",
        )
    # Pixels err together; a patch of the network counts once, and half a percent is always left.
    sigma = float(np.hypot(spread / np.sqrt(max(len(ratios) / 50, 1)), 0.005))
    return Measurement("depth", mean, sigma, stamp_ns)


def from_height(
    points: Float[np.ndarray, "p 3"],
    centre: Float[np.ndarray, "3"],
    height: float,
    stamp_ns: int,
    up: Float[np.ndarray, "3"] | None = None,
) -> Measurement | Unusable:
    """The ground below a camera that is mounted `height` metres above it.

    Among planes through three points each (RANSAC, Fischler and Bolles 1981; a fixed draw, so that
    runs repeat) the one that is level within 15 degrees and has most points wins; it must have a
    quarter of everything below the camera.
    """
    up = np.array([0.0, 0.0, 1.0]) if up is None else up
    below = points - centre
    below = below[np.isfinite(below).all(axis=-1)]
    below = below[below @ up < 0]
    if len(below) < MIN_PIXELS:
        return Unusable("height", f"{len(below)} points are below the camera, {MIN_PIXELS} needed")
    below = below[:: max(1, len(below) // 800)]
    corner = np.random.default_rng(0).integers(len(below), size=(3, 96))
    a, b, c = below[corner]
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = np.where(length > 0, normal / np.maximum(length, 1e-12), 0.0)
    normal *= np.sign(normal @ up)[:, None]
    down = -np.sum(normal * a, axis=-1)  # from the camera to each plane
    distance = np.abs(below @ normal.T + down)
    near = (distance < 0.06 * down) & (normal @ up > np.cos(np.deg2rad(15))) & (down > 0)
    votes = near.sum(axis=0)
    best = int(np.argmax(votes))
    share = float(votes[best]) / len(below)
    if share < MIN_GROUND:
        return Unusable(
            "height",
            f"the largest level plane holds {share:.0%} of what is below the camera,"
            f" {MIN_GROUND:.0%} are needed",
        )
    ground = below[near[:, best]]
    middle = ground.mean(axis=0)
    _, _, axes = np.linalg.svd(ground - middle, full_matrices=False)
    return Measurement("height", float(np.log(height / abs(middle @ axes[2]))), 0.03, stamp_ns)


def sparse_depth(
    points: Float[np.ndarray, "p 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    height: int,
    width: int,
    input_from_rectified: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Float[np.ndarray, "h w"]:
    """Nearest z of the points (optical frame, say a LiDAR's) on each pixel; else NaN.

    `intrinsics` are those of the rectified image; `input_from_rectified` gives the pixels of the
    raw one (n x 2, NaN where it has none), if the image is raw.
    """
    points = points[np.isfinite(points).all(axis=-1)]
    points = points[points[:, 2] > 0.05]
    column, row, z = (points @ intrinsics.T).T
    column, row = column / z, row / z
    if input_from_rectified is not None:
        column, row = input_from_rectified(np.stack([column, row], axis=-1)).T
    column, row = np.rint(column), np.rint(row)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    depth = np.full(height * width, np.inf)
    np.minimum.at(depth, (row[inside] * width + column[inside]).astype(int), z[inside])
    return np.where(np.isfinite(depth), depth, np.nan).reshape(height, width)
