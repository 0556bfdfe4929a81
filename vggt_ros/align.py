# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Window after window into one map: each look has its own scale and its own first camera; here they agree.

A window is joined through the frames that the map already holds. A shared frame is the *same
picture*, so its pixels correspond one to one and nothing has to be matched:

1. scale: the median of log(z_map / z_window) over confident pixels, sharpened by Cauchy weights
   (iteratively reweighted least squares; scale before pose, as DA3-Streaming and VGGT-SLAM 2 do);
2. rotation and translation: closed form over the shared cameras. With scale s, scene depth d,
   camera centres c and orientations Q the gauge (R, t) minimises

       sum_i w_i ( |c_map_i - s R c_win_i - t|^2 + d^2/2 |Q_map_i - R Q_win_i|_F^2 )

   which is Kabsch's problem [1] with the orientations as further points at the distance of the
   scene: a rotation in place and a flat wall leave it well posed, as camera centres alone do not;
3. checks: a joint that fails one is refused, and the window begins a new segment of the map.

[1] W. Kabsch, A solution for the best rotation to relate two sets of vectors, Acta Cryst. A32, 1976.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import WORLD_FROM_OPTICAL, Similarity

CELLS = 4096  # pixels of one frame that take part in a joint; more change nothing but the time
ALIKE = 0.25  # log ratio within which two depths of one pixel are the same surface
MIN_INLIERS = 0.6  # share of shared pixels that must be alike
MAX_RESIDUAL = 0.06  # rms disagreement of shared cameras, as a share of scene depth
MIN_BASELINE = 0.02  # camera motion, as a share of scene depth, from which lengths can be compared


class WindowGeometry(NamedTuple):
    """One look: cameras of a window in its own frame and unit, depth of its newest k frames."""

    frame_ids: tuple[int, ...]
    window_from_camera: Float[np.ndarray, "s 4 4"]
    intrinsics: Float[np.ndarray, "s 3 3"]
    depth: Float[np.ndarray, "k h w"]  # NaN or <= 0 where invalid
    confidence: Float[np.ndarray, "k h w"]  # from 1, "no evidence", upwards


class Join(NamedTuple):
    """How a window joined the map."""

    world_from_window: Similarity
    accepted: bool  # False: refused by the segment before, begins a new one
    segment: int
    residual: float  # rms disagreement of the shared cameras, as a share of scene depth
    inlier_share: float  # of the shared pixels, those that agree in depth
    covariance: Float[np.ndarray, "6 6"]  # newest camera in the world: x y z, then rotation vector
    reason: str  # "" or why the joint was refused


class Placed(NamedTuple):
    """A frame of the map that the next window may share."""

    frame_id: int
    world_from_camera: Float[np.ndarray, "4 4"]
    depth: Float[np.ndarray, "h w"] | None  # thinned, world units, NaN where not trusted


@dataclass(frozen=True)
class MapState:
    """What the next joint needs to know of the map; bounded by one window of frames."""

    world_from_first: Float[np.ndarray, "4 4"]
    frames: tuple[Placed, ...] = ()
    segment: int = 0
    covariance: Float[np.ndarray, "6 6"] | None = None


def begin(world_from_camera: Float[np.ndarray, "4 4"] | None = None) -> MapState:
    """An empty map whose first camera will stand at `world_from_camera`.

    By default it stands at the origin, level, looking along the world's x axis (REP 103).
    """
    if world_from_camera is None:
        world_from_camera = np.eye(4)
        world_from_camera[:3, :3] = np.asarray(WORLD_FROM_OPTICAL)
    return MapState(np.asarray(world_from_camera, np.float64))


def join(state: MapState, window: WindowGeometry) -> tuple[MapState, Join]:
    """Place `window` in the map; one that does not fit begins the next segment where the last ended."""
    seen = {frame.frame_id: frame for frame in state.frames}
    shared = [i for i, key in enumerate(window.frame_ids) if key in seen]
    depth = _thinned(window)
    if not shared:
        reason = "no frame is shared with the map" if state.frames else ""
        placed = _anchored(state.world_from_first, window.window_from_camera[0], 1.0)
        return _settle(state, window, depth, placed, _unjoined(placed, reason, state))
    held = [seen[window.frame_ids[i]] for i in shared]
    log_ratio, weight = _depth_ratios(held, [depth[i] for i in shared])
    scale, inliers = _scale(held, window.window_from_camera[shared], log_ratio, weight)
    reach = scale * _scene_depth(depth)
    map_from_camera = np.stack([frame.world_from_camera for frame in held])
    gauge, residual = _gauge(map_from_camera, window.window_from_camera[shared], scale, reach)
    reason = _complaint(gauge, residual, inliers)
    if reason:
        gauge = _anchored(map_from_camera[-1], window.window_from_camera[shared[-1]], scale)
        return _settle(state, window, depth, gauge, _unjoined(gauge, reason, state))
    covariance = _covariance(state, residual, reach, len(shared))
    found = Join(gauge, True, state.segment, residual, inliers, covariance, "")
    return _settle(state, window, depth, gauge, found)


def place(similarity: Similarity, poses: Float[np.ndarray, "s 4 4"]) -> Float[np.ndarray, "s 4 4"]:
    """Rigid camera poses carried along by a similarity: centres are scaled, axes only turned."""
    moved = np.array(poses, np.float64)
    moved[..., :3, :3] = similarity.rotation @ poses[..., :3, :3]
    moved[..., :3, 3] = (
        similarity.scale * poses[..., :3, 3] @ similarity.rotation.T + similarity.translation
    )
    return moved


def _thinned(window: WindowGeometry) -> list[Float[np.ndarray, "h w"] | None]:
    """Per frame its depth on a coarse grid, NaN where invalid or among the least trusted; or None."""
    without = len(window.frame_ids) - len(window.depth)
    step = max(1, round((window.depth[0].size / CELLS) ** 0.5)) if len(window.depth) else 1
    thin: list[Float[np.ndarray, "h w"] | None] = [None] * without
    for depth, confidence in zip(
        window.depth[:, ::step, ::step], window.confidence[:, ::step, ::step], strict=True
    ):
        sound = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence)
        trusted = (
            sound & (confidence >= np.quantile(confidence[sound], 0.2)) if sound.any() else sound
        )
        thin.append(np.where(trusted, depth.astype(np.float64), np.nan))
    return thin


def _scene_depth(depths: list[Float[np.ndarray, "h w"] | None]) -> float:
    seen = [d[np.isfinite(d)] for d in depths if d is not None]
    seen = np.concatenate(seen) if seen else np.empty(0)
    return float(np.median(seen)) if seen.size else 1.0


def _depth_ratios(
    held: list[Placed], depths: list[Float[np.ndarray, "h w"] | None]
) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, "p"]]:
    """log(z_map / z_window) of every pixel that both know, and how much each counts."""
    pairs = [
        np.log(frame.depth / depth).ravel()
        for frame, depth in zip(held, depths, strict=True)
        if frame.depth is not None and depth is not None and frame.depth.shape == depth.shape
    ]
    ratios = np.concatenate(pairs) if pairs else np.empty(0)
    ratios = ratios[np.isfinite(ratios)]
    return ratios, np.ones_like(ratios)


def robust_mean(
    values: Float[np.ndarray, "p"], weight: Float[np.ndarray, "p"]
) -> tuple[float, float]:
    """Cauchy-weighted mean from the median on, and the spread (1.4826 median deviations)."""
    mean = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - mean))) + 1e-9
    for _ in range(5):
        pull = weight / (1.0 + ((values - mean) / (2.0 * spread)) ** 2)
        mean = float(pull @ values / pull.sum())
    return mean, spread


def _scale(
    held: list[Placed],
    window_from_camera: Float[np.ndarray, "s 4 4"],
    log_ratio: Float[np.ndarray, "p"],
    weight: Float[np.ndarray, "p"],
) -> tuple[float, float]:
    """Map units per window unit, and the share of pixels that agree on it.

    Without common depth the distances between the shared cameras tell, and without motion
    nothing does: then the unit of the window is kept.
    """
    if log_ratio.size >= 32:
        mean, _ = robust_mean(log_ratio, weight)
        return float(np.exp(mean)), float(np.mean(np.abs(log_ratio - mean) < ALIKE))
    ours = np.stack([frame.world_from_camera[:3, 3] for frame in held])
    theirs = window_from_camera[:, :3, 3]
    first, second = np.triu_indices(len(held), 1)
    there = np.linalg.norm(theirs[first] - theirs[second], axis=-1)
    here = np.linalg.norm(ours[first] - ours[second], axis=-1)
    moved = (there > 1e-6) & (here > 1e-6)
    if not moved.any():
        return 1.0, 0.0
    return float(np.exp(np.median(np.log(here[moved] / there[moved])))), 1.0


def _gauge(
    map_from_camera: Float[np.ndarray, "s 4 4"],
    window_from_camera: Float[np.ndarray, "s 4 4"],
    scale: float,
    reach: float,
) -> tuple[Similarity, float]:
    """The motion of this scale that lays the window's cameras on the map's; robust over cameras."""
    c, q = map_from_camera[:, :3, 3], map_from_camera[:, :3, :3]
    d, p = scale * window_from_camera[:, :3, 3], window_from_camera[:, :3, :3]
    weight = np.ones(len(c))
    for _ in range(4):
        w = weight / weight.sum()
        c0, d0 = w @ c, w @ d
        cross = np.einsum("s,si,sj->ij", w, c - c0, d - d0)
        cross += 0.5 * reach**2 * np.einsum("s,sik,sjk->ij", w, q, p)
        u, _, vt = np.linalg.svd(cross)
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        translation = c0 - rotation @ d0
        shift = np.sum((c - d @ rotation.T - translation) ** 2, axis=-1)
        turn = 0.5 * reach**2 * np.sum((q - rotation @ p) ** 2, axis=(-2, -1))
        error = np.sqrt(shift + turn) / reach
        weight = 1.0 / (1.0 + (error / (2.0 * np.median(error) + 1e-9)) ** 2)
    return Similarity(scale, rotation, translation), float(np.sqrt(np.mean(error**2)))


def _complaint(gauge: Similarity, residual: float, inliers: float) -> str:
    """Why this joint must not bend the map; empty if it may."""
    if not (np.isfinite(gauge.scale) and np.isfinite(residual)):
        return "the network's output is not finite"
    if inliers < MIN_INLIERS:
        return f"only {inliers:.0%} of the shared pixels agree in depth"
    if residual > MAX_RESIDUAL:
        return f"the shared cameras disagree by {residual:.1%} of the scene depth"
    return ""


def _anchored(
    world_from_camera: Float[np.ndarray, "4 4"],
    window_from_camera: Float[np.ndarray, "4 4"],
    scale: float,
) -> Similarity:
    """The similarity of this scale that puts one camera of the window where it is in the world."""
    scale = scale if np.isfinite(scale) and scale > 0 else 1.0
    rotation = world_from_camera[:3, :3] @ window_from_camera[:3, :3].T
    translation = world_from_camera[:3, 3] - scale * rotation @ window_from_camera[:3, 3]
    return Similarity(scale, rotation, translation)


def _unjoined(gauge: Similarity, reason: str, state: MapState) -> Join:
    segment = state.segment + bool(reason)
    return Join(gauge, not reason, segment, 0.0, 0.0, 1e-6 * np.eye(6), reason)


def _covariance(
    state: MapState, residual: float, reach: float, shared: int
) -> Float[np.ndarray, "6 6"]:
    """Grows with every joint: a gauge from n cameras is as good as their scatter over n."""
    sigma2 = (max(residual, 1e-4) ** 2) / (3.0 * shared)
    step = np.diag([sigma2 * reach**2] * 3 + [sigma2] * 3)
    return step + (state.covariance if state.covariance is not None else 0.0)


def _settle(
    state: MapState,
    window: WindowGeometry,
    depth: list[Float[np.ndarray, "h w"] | None],
    gauge: Similarity,
    found: Join,
) -> tuple[MapState, Join]:
    """The map after the joint: fresh frames placed, known ones left where they are."""
    known = {frame.frame_id: frame for frame in state.frames} if found.accepted else {}
    poses = place(gauge, window.window_from_camera)
    frames = []
    for key, pose, thin in zip(window.frame_ids, poses, depth, strict=True):
        fresh = Placed(key, pose, None if thin is None else gauge.scale * thin)
        frames.append(known.get(key, fresh))
        if key in known and known[key].depth is None:
            frames[-1] = known[key]._replace(depth=fresh.depth)
    after = MapState(state.world_from_first, tuple(frames), found.segment, found.covariance)
    return after, found
