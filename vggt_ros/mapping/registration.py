# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Registration of a window to the map: shared frames give scale, rotation and translation.

A shared frame is the *same image*, so its pixels correspond one to one: nothing is matched.

1. scale: the median of log(z_map / z_window) over the trusted pixels of shared frames, sharpened
   by Tukey's weights (iteratively reweighted least squares). Scale before pose, as DA3-Streaming
   and VGGT-SLAM 2 do: camera centres alone leave it open where the camera hardly moves;
2. rotation and translation: closed form over the shared cameras. With scale s, scene depth d,
   camera centres c and orientations Q the gauge (R, t) minimises

       sum_i w_i ( |c_map_i - s R c_win_i - t|^2 + d^2/2 |Q_map_i - R Q_win_i|_F^2 )

   which is Kabsch's problem [1] with the orientations as further points, as far away as the
   scene is: a rotation in place and a flat wall leave it well posed.

[1] W. Kabsch, A solution for the best rotation to relate two sets of vectors, Acta Cryst. A32,
    1976.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, inverse_rigid, nearest_rotation, transform, unproject

SAME_SURFACE = 0.25  # log ratio up to which two depths of one pixel are the same surface
SAME_VIEW = 0.15  # the same between two views of a window, whose errors are correlated
MIN_BASELINE = 0.02  # camera motion, as a share of scene depth, from which lengths compare
MAX_OBSERVATIONS = 8.0  # after which a frame's place in the map stops hardening
MIN_PIXELS = 32  # from which a share of pixels means something

Depth = Float[np.ndarray, "_h _w"]  # subsampled, NaN where not trusted


class MapFrame(NamedTuple):
    """A frame of the map that the next window may share."""

    frame_id: int
    world_from_camera: Float[np.ndarray, "4 4"]
    intrinsics: Float[np.ndarray, "3 3"]  # of the subsampled grid
    depth: Depth | None  # world units
    observations: float = 1.0  # windows whose mean it is


class ViewOverlap(NamedTuple):
    """How much two views share of the scene."""

    overlap: float  # share of the newer view's points that lie inside the older image
    agreement: float  # share of points alike in depth in the other view, by the worse direction
    parallax: float  # median angle between the two lines of sight, radians


def median_depth(frames: tuple[MapFrame, ...]) -> float:
    """The scene's median depth in the frames' own unit; 1 where no depth is known."""
    known = [frame.depth[np.isfinite(frame.depth)] for frame in frames if frame.depth is not None]
    middles = [float(np.median(depth)) for depth in known if depth.size]
    return float(np.median(middles)) if middles else 1.0


def have_comparable_depth(a: MapFrame, b: MapFrame) -> bool:
    """Whether both have depth on one grid."""
    return a.depth is not None and b.depth is not None and a.depth.shape == b.depth.shape


def robust_mean(
    values: Float[np.ndarray, "p"], *, least_spread: float = 1e-9
) -> tuple[float, float]:
    """Tukey's biweight mean, from the median on, and the spread (1.4826 median deviations).

    What lies beyond 4.7 spreads has no weight at all: outliers of one sign must not pull it.
    """
    mean = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - mean))), least_spread)
    for _ in range(5):
        away = (values - mean) / (4.685 * spread)
        pull = np.maximum(1.0 - away**2, 0.0) ** 2
        mean = float(pull @ values / pull.sum())
    return mean, spread


def estimate_scale(
    pairs: list[tuple[MapFrame, MapFrame]], scene_depth: float, last_scale: float
) -> tuple[float, float]:
    """World units per window unit, and the share of shared pixels that agree on it.

    `pairs` are shared frames, in the map and in the window. Where no pixel is shared the distances
    between the shared cameras decide; where these hardly move (against the scene's depth) nothing
    does, and `last_scale` is kept.
    """
    ratios = [np.log(a.depth / b.depth).ravel() for a, b in pairs if have_comparable_depth(a, b)]
    ratio = np.concatenate(ratios) if ratios else np.empty(0)
    ratio = ratio[np.isfinite(ratio)]
    if ratio.size >= MIN_PIXELS:
        mean, _ = robust_mean(ratio)
        return float(np.exp(mean)), float(np.mean(np.abs(ratio - mean) < SAME_SURFACE))
    in_map, in_window = (_baselines([pair[side] for pair in pairs]) for side in (0, 1))
    moved = in_map > MIN_BASELINE * scene_depth
    if not (moved & (in_window > 0)).any():
        return last_scale, 1.0
    return float(np.exp(np.median(np.log(in_map[moved] / in_window[moved])))), 1.0


def _baselines(frames: list[MapFrame]) -> Float[np.ndarray, "pairs"]:
    centres = np.stack([frame.world_from_camera[:3, 3] for frame in frames])
    first, second = np.triu_indices(len(frames), 1)
    return np.linalg.norm(centres[first] - centres[second], axis=-1)


def estimate_gauge(
    pairs: list[tuple[MapFrame, MapFrame]], scale: float, scene_depth: float
) -> tuple[Similarity, float]:
    """The similarity of this scale that lays the window's cameras on the map's, and its residual.

    Cauchy weights keep one camera that is off from pulling the others along; the residual, rms as
    a share of the scene's depth, counts it in full.
    """
    in_map, in_window = (
        np.stack([pair[side].world_from_camera for pair in pairs]) for side in (0, 1)
    )
    observations = np.array([known.observations for known, _ in pairs])
    gauge, error = _kabsch(in_map, in_window, observations, scale, scene_depth)
    for _ in range(3):
        weight = observations / (1.0 + (error / (2.0 * np.median(error) + 1e-9)) ** 2)
        gauge, error = _kabsch(in_map, in_window, weight, scale, scene_depth)
    return gauge, float(np.sqrt(np.mean(error**2)))


def _kabsch(
    in_map: Float[np.ndarray, "s 4 4"],
    in_window: Float[np.ndarray, "s 4 4"],
    weight: Float[np.ndarray, "s"],
    scale: float,
    scene_depth: float,
) -> tuple[Similarity, Float[np.ndarray, "s"]]:
    """The weighted best motion, and by how many scene depths each camera is off after it."""
    c, q = in_map[:, :3, 3], in_map[:, :3, :3]
    d, p = scale * in_window[:, :3, 3], in_window[:, :3, :3]
    w = weight / weight.sum()
    c0, d0 = w @ c, w @ d
    cross = np.einsum("s,si,sj->ij", w, c - c0, d - d0)
    cross += 0.5 * scene_depth**2 * np.einsum("s,sik,sjk->ij", w, q, p)
    rotation = nearest_rotation(cross)
    translation = c0 - rotation @ d0
    shift = np.sum((c - d @ rotation.T - translation) ** 2, axis=-1)
    turn = 0.5 * scene_depth**2 * np.sum((q - rotation @ p) ** 2, axis=(-2, -1))
    return Similarity(scale, rotation, translation), np.sqrt(shift + turn) / scene_depth


def average_frames(known: MapFrame, now: MapFrame) -> MapFrame:
    """The mean of all observations of a frame; pixels whose depth differs become untrusted."""
    share = 1.0 / (known.observations + 1.0)
    pose = known.world_from_camera + share * (now.world_from_camera - known.world_from_camera)
    pose[:3, :3] = nearest_rotation(pose[:3, :3])
    depth = known.depth if known.depth is not None else now.depth
    if have_comparable_depth(known, now):
        change = np.log(now.depth / known.depth)
        mean = np.where(np.abs(change) < SAME_SURFACE, known.depth * np.exp(share * change), np.nan)
        either = np.where(np.isfinite(known.depth), known.depth, now.depth)
        depth = np.where(np.isfinite(change), mean, either)
    observations = min(known.observations + 1.0, MAX_OBSERVATIONS)
    return known._replace(world_from_camera=pose, depth=depth, observations=observations)


def view_overlap(older: MapFrame, newer: MapFrame) -> ViewOverlap | None:
    """Each view's points in the other camera; None where either has too little depth."""
    if not have_comparable_depth(older, newer):
        return None
    of_newer, of_older = world_points(newer), world_points(older)
    if min(len(of_newer), len(of_older)) < MIN_PIXELS:
        return None
    overlap, agreement = _agreement(older, of_newer)
    _, agreement_back = _agreement(newer, of_older)
    a = of_newer - older.world_from_camera[:3, 3]
    b = of_newer - newer.world_from_camera[:3, 3]
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    parallax = float(np.median(np.arctan2(sine, np.sum(a * b, axis=-1))))
    return ViewOverlap(overlap, min(agreement, agreement_back), parallax)


def world_points(frame: MapFrame) -> Float[np.ndarray, "p 3"]:
    """World points of every fourth pixel that has depth."""
    coarse = np.diag([0.5, 0.5, 1.0]) @ frame.intrinsics
    depth = frame.depth[::2, ::2]
    points = unproject(depth, coarse)[np.isfinite(depth)]
    return transform(frame.world_from_camera, points)


def _agreement(frame: MapFrame, points: Float[np.ndarray, "p 3"]) -> tuple[float, float]:
    """Share of the points inside this image, and of those the share whose depth it agrees with."""
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
    agreement = float(np.mean(np.abs(change) < SAME_VIEW)) if len(change) >= MIN_PIXELS else 1.0
    return float(inside.sum()) / everything, agreement
