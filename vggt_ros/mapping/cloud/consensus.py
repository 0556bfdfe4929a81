# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One surface of many views: the depth of each is moved to where the others see the same surface.

A network errs by some percent of the depth, alike over large parts of one image and differently in
each, so that a wall that many frames saw stands once for each of them. Here the log depth of a
pixel becomes the mean of its own and of what nearby views see at its point, as far as these agree
within the usual disagreement of these very views: a precise network's depth is moved by as little
as it is off.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from vggt_ros.mapping.cloud.agreement import DepthView, Projection
from vggt_ros.mapping.medians import median

MAX_PIXELS = 7_000  # of one view that are compared; the errors vary slowly over an image
SPREADS = 2.5  # of the views' log ratios of depth: what differs by more is another surface
NEAR = 3.0  # times that: what differs by less may be the same surface, badly seen
LEAST, MOST = 0.06, 0.3  # bounds of that tolerance; views are compared pixel by pixel


class Consensus(NamedTuple):
    """What other views say of one view's depth."""

    log_shift: Float32[np.ndarray, "h w"]  # to be added to its logarithm
    seen: Bool[np.ndarray, "h w"]  # by half of the views at least that have its point in the image
    doubted: Bool[np.ndarray, "h w"]  # more views see the surface a little elsewhere than there


def consensus(view: DepthView, others: Sequence[DepthView]) -> Consensus:
    """By the others' depth at the points of a view; where there are none, nothing is moved."""
    return consensus_of(view.depth, [Projection(view, other) for other in others])


def consensus_of(depth: Float32[np.ndarray, "h w"], others: Sequence[Projection]) -> Consensus:
    """The same for a view that has this depth by now, by its projections into the others."""
    shape = depth.shape
    if not others:
        return Consensus(np.zeros(shape, np.float32), np.ones(shape, bool), np.zeros(shape, bool))
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.stack([other.ratios(depth) for other in others])
        np.log(logs, out=logs)
        away = np.abs(logs)
        known = away < np.inf
        tolerance = _tolerance(away[known])
        alike = away < tolerance
        near = away < NEAR * tolerance
    votes = alike.sum(axis=0)
    np.copyto(logs, np.float32(0.0), where=~alike)
    shift = logs.sum(axis=0) / (1.0 + votes)
    return Consensus(
        shift.astype(np.float32), 2 * votes >= known.sum(axis=0), near.sum(axis=0) > 2 * votes
    )


def _tolerance(away: Float32[np.ndarray, "n"]) -> float:
    """What two views of one surface usually differ by at most, in log depth."""
    usual = 1.4826 * median(away) if away.size else 0.0
    return float(np.clip(SPREADS * usual, LEAST, MOST))


def nearest(
    i: int, views: Sequence[DepthView], count: int, scene_depth: float
) -> Int[np.ndarray, "n"]:
    """The other views that most likely see what view `i` does, the likeliest first.

    By distance, in scene depths, and by angle.
    """
    poses = np.stack([view.world_from_camera for view in views])
    away = np.linalg.norm(poses[:, :3, 3] - poses[i, :3, 3], axis=1) / scene_depth
    away += np.arccos(np.clip(poses[:, :3, 2] @ poses[i, :3, 2], -1.0, 1.0))
    away[i] = np.inf
    return np.argsort(away, kind="stable")[: min(count, len(views) - 1)]


def thinned(
    depth: Float32[np.ndarray, "h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
) -> DepthView:
    """A view of `MAX_PIXELS` at most; `depth` is above 0, or NaN."""
    step = thinning(depth.shape)
    coarse = np.diag([1.0 / step, 1.0 / step, 1.0]) @ intrinsics
    return DepthView.of(np.ascontiguousarray(depth[::step, ::step]), coarse, world_from_camera)


def thinning(shape: tuple[int, ...], most: int = MAX_PIXELS) -> int:
    """Every so manieth row and column leaves `most` pixels; by default what is compared."""
    return max(1, int(np.ceil((shape[0] * shape[1] / most) ** 0.5)))


def enlarged(
    thin: Float32[np.ndarray, "h w"], shape: tuple[int, ...], every: int = 1
) -> Float32[np.ndarray, "H W"]:
    """Values at the pixels of a thinned view, interpolated to those of the view itself.

    `shape` is that of the view; of `every` so manieth row and column.
    """
    step = thinning(shape)
    for axis in range(2):
        place = np.arange(0, shape[axis], every, dtype=np.float32) / np.float32(step)
        below = np.minimum(place.astype(np.int64), thin.shape[axis] - 1)
        above = np.minimum(below + 1, thin.shape[axis] - 1)
        share = np.expand_dims((place - below).astype(np.float32), 1 - axis)
        thin = (1 - share) * thin.take(below, axis) + share * thin.take(above, axis)
    return thin
