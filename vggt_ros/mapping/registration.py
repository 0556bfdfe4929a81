# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The mathematics of one joint: frames that window and map share give scale, rotation, translation.

A shared frame is the *same picture*, so its pixels correspond one to one: nothing is matched.

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

from vggt_ros.geometry import Similarity, inverse_rigid, transform, unproject

ALIKE = 0.25  # log ratio up to which two depths of one pixel are the same surface
SAME_VIEW = 0.15  # the same between two views of a window, which err together
MIN_BASELINE = 0.02  # camera motion, as a share of scene depth, from which lengths compare
MEMORY = 8.0  # looks after which a frame's place in the map stops hardening

Depth = Float[np.ndarray, "_h _w"]  # thinned, NaN where not trusted


class Placed(NamedTuple):
    """A frame of the map that the next window may share."""

    frame_id: int
    world_from_camera: Float[np.ndarray, "4 4"]
    intrinsics: Float[np.ndarray, "3 3"]  # of the thinned grid
    depth: Depth | None  # world units
    looks: float = 1.0  # that agreed on it


class Sight(NamedTuple):
    """How two views see the same scene."""

    overlap: float  # share of the newer view's points that lie inside the older picture
    agreement: float  # share of points alike in depth in the other view, by the worse direction
    parallax: float  # median angle between the two lines of sight, radians


def place(similarity: Similarity, poses: Float[np.ndarray, "s 4 4"]) -> Float[np.ndarray, "s 4 4"]:
    """Rigid camera poses carried along by a similarity: centres are scaled, axes only turned."""
    moved = np.array(poses, np.float64)
    moved[..., :3, :3] = similarity.rotation @ poses[..., :3, :3]
    moved[..., :3, 3] = similarity.apply(poses[..., :3, 3])
    return moved


def anchored(
    world_from_camera: Float[np.ndarray, "4 4"],
    window_from_camera: Float[np.ndarray, "4 4"],
    scale: float,
) -> Similarity:
    """The similarity of this scale that puts one camera of the window where it is in the world."""
    rotation = world_from_camera[:3, :3] @ window_from_camera[:3, :3].T
    translation = world_from_camera[:3, 3] - scale * rotation @ window_from_camera[:3, 3]
    return Similarity(scale, rotation, translation)


def lever(step: Float[np.ndarray, "3"]) -> Float[np.ndarray, "6 6"]:
    """How errors of a pose (shift, turn) act one `step` further on."""
    x, y, z = step
    jacobian = np.eye(6)
    jacobian[:3, 3:] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
    return jacobian


def scene_depth(frames: tuple[Placed, ...]) -> float:
    """Median depth in the frames' own unit; 1 where no depth was ever seen."""
    known = [frame.depth[np.isfinite(frame.depth)] for frame in frames if frame.depth is not None]
    middles = [float(np.median(depth)) for depth in known if depth.size]
    return float(np.median(middles)) if middles else 1.0


def comparable(a: Placed, b: Placed) -> bool:
    return a.depth is not None and b.depth is not None and a.depth.shape == b.depth.shape


def robust_mean(
    values: Float[np.ndarray, "p"], *, least_spread: float = 1e-9
) -> tuple[float, float]:
    """Tukey's biweight mean, from the median on, and the spread (1.4826 median deviations).

    What lies beyond 4.7 spreads has no say at all: outliers of one sign must not make it creep.
    """
    mean = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - mean))), least_spread)
    for _ in range(5):
        away = (values - mean) / (4.685 * spread)
        pull = np.maximum(1.0 - away**2, 0.0) ** 2
        mean = float(pull @ values / pull.sum())
    return mean, spread


def find_scale(
    pairs: list[tuple[Placed, Placed]], reach: float, unit: float
) -> tuple[float, float]:
    """World units per window unit, and the share of shared pixels that agree on it.

    Where no pixel is shared the distances between the shared cameras tell; where these hardly
    move (against the scene's depth, `reach`) nothing does, and `unit`, the last one, is kept.
    """
    ratios = [np.log(a.depth / b.depth).ravel() for a, b in pairs if comparable(a, b)]
    ratio = np.concatenate(ratios) if ratios else np.empty(0)
    ratio = ratio[np.isfinite(ratio)]
    if ratio.size >= 32:
        mean, _ = robust_mean(ratio)
        return float(np.exp(mean)), float(np.mean(np.abs(ratio - mean) < ALIKE))
    here, there = (_baselines([pair[side] for pair in pairs]) for side in (0, 1))
    moved = here > MIN_BASELINE * reach
    if not (moved & (there > 0)).any():
        return unit, 1.0
    return float(np.exp(np.median(np.log(here[moved] / there[moved])))), 1.0


def _baselines(frames: list[Placed]) -> Float[np.ndarray, "pairs"]:
    centres = np.stack([frame.world_from_camera[:3, 3] for frame in frames])
    first, second = np.triu_indices(len(frames), 1)
    return np.linalg.norm(centres[first] - centres[second], axis=-1)


def find_gauge(
    pairs: list[tuple[Placed, Placed]], scale: float, reach: float
) -> tuple[Similarity, float]:
    """The motion of this scale that lays the window's cameras on the map's, and what remains.

    Cauchy weights keep one camera that is off from pulling the others along; the residual, a share
    of the scene's depth, counts it in full.
    """
    here, there = (np.stack([pair[side].world_from_camera for pair in pairs]) for side in (0, 1))
    looks = np.array([known.looks for known, _ in pairs])
    gauge, error = _kabsch(here, there, looks, scale, reach)
    for _ in range(3):
        weight = looks / (1.0 + (error / (2.0 * np.median(error) + 1e-9)) ** 2)
        gauge, error = _kabsch(here, there, weight, scale, reach)
    return gauge, float(np.sqrt(np.mean(error**2)))


def _kabsch(
    here: Float[np.ndarray, "s 4 4"],
    there: Float[np.ndarray, "s 4 4"],
    weight: Float[np.ndarray, "s"],
    scale: float,
    reach: float,
) -> tuple[Similarity, Float[np.ndarray, "s"]]:
    """The weighted best motion, and by how many scene depths each camera is off after it."""
    c, q = here[:, :3, 3], here[:, :3, :3]
    d, p = scale * there[:, :3, 3], there[:, :3, :3]
    w = weight / weight.sum()
    c0, d0 = w @ c, w @ d
    cross = np.einsum("s,si,sj->ij", w, c - c0, d - d0)
    cross += 0.5 * reach**2 * np.einsum("s,sik,sjk->ij", w, q, p)
    rotation = nearest_rotation(cross)
    translation = c0 - rotation @ d0
    shift = np.sum((c - d @ rotation.T - translation) ** 2, axis=-1)
    turn = 0.5 * reach**2 * np.sum((q - rotation @ p) ** 2, axis=(-2, -1))
    return Similarity(scale, rotation, translation), np.sqrt(shift + turn) / reach


def nearest_rotation(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    u, _, vt = np.linalg.svd(matrix)
    return (u * [1.0, 1.0, np.linalg.det(u @ vt)]) @ vt


def averaged(known: Placed, now: Placed) -> Placed:
    """One more look at a frame; pixels on whose depth two looks differ are trusted no more."""
    share = 1.0 / (known.looks + 1.0)
    pose = known.world_from_camera + share * (now.world_from_camera - known.world_from_camera)
    pose[:3, :3] = nearest_rotation(pose[:3, :3])
    depth = known.depth if known.depth is not None else now.depth
    if comparable(known, now):
        change = np.log(now.depth / known.depth)
        mean = np.where(np.abs(change) < ALIKE, known.depth * np.exp(share * change), np.nan)
        either = np.where(np.isfinite(known.depth), known.depth, now.depth)
        depth = np.where(np.isfinite(change), mean, either)
    looks = min(known.looks + 1.0, MEMORY)
    return known._replace(world_from_camera=pose, depth=depth, looks=looks)


def see(older: Placed, newer: Placed) -> Sight | None:
    """Each view's points in the other camera; None where either has too little depth."""
    if not comparable(older, newer):
        return None
    ours, theirs = world_points(newer), world_points(older)
    if min(len(ours), len(theirs)) < 32:
        return None
    overlap, agreement = _seen_from(older, ours)
    _, agreement_back = _seen_from(newer, theirs)
    a = ours - older.world_from_camera[:3, 3]
    b = ours - newer.world_from_camera[:3, 3]
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    parallax = float(np.median(np.arctan2(sine, np.sum(a * b, axis=-1))))
    return Sight(overlap, min(agreement, agreement_back), parallax)


def world_points(frame: Placed) -> Float[np.ndarray, "p 3"]:
    """World points of every fourth pixel that has depth."""
    coarse = np.diag([0.5, 0.5, 1.0]) @ frame.intrinsics
    depth = frame.depth[::2, ::2]
    points = unproject(depth, coarse)[np.isfinite(depth)]
    return transform(frame.world_from_camera, points)


def _seen_from(frame: Placed, points: Float[np.ndarray, "p 3"]) -> tuple[float, float]:
    """Share of the points inside this picture, and of those the share it sees at their depth."""
    points = transform(inverse_rigid(frame.world_from_camera), points)
    everything = len(points)
    points = points[points[:, 2] > 1e-9]
    column, row, depth = (points @ frame.intrinsics.T).T
    column, row = np.rint(column / depth), np.rint(row / depth)
    height, width = frame.depth.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = frame.depth[row[inside].astype(int), column[inside].astype(int)]
    change = np.log(depth[inside] / seen)
    change = change[np.isfinite(change)]
    agreement = float(np.mean(np.abs(change) < SAME_VIEW)) if len(change) >= 32 else 1.0
    return float(inside.sum()) / everything, agreement
