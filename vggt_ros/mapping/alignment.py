# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows into one map: each inference has its own unit and first camera; here they agree.

A window is registered through the frames that the map already holds (`registration` has the
mathematics), and then checked: the residual of the shared cameras, and the newest view against the
map. Both are judged by what this network's errors usually are (`noise`). Between the soft and the
hard bound a window joins, doubtful: with a wider covariance, and known frames stay as they are. One
that fails is refused and leaves the map as it was, so that one bad inference costs one inference.

Shared frames move to the mean of all their observations. With windows of s frames and camera noise
sigma what remains is a random walk of variance 2 sigma^2 / (s - 1)^2 a frame, within a tenth of the
least-squares optimum over all windows (simulated for s = 2, 4, 8).
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, lever_arm_jacobian, rotation_angle
from vggt_ros.mapping.map_frames import SAME_VIEW, MapFrame, ViewOverlap, median_depth, view_overlap
from vggt_ros.mapping.noise import MIN_NOISE, NoiseEstimate
from vggt_ros.mapping.registration import ScaleFit, average_frames, estimate_gauge, estimate_scale
from vggt_ros.mapping.segment import MapState, Registration, Segment
from vggt_ros.mapping.sharing import (
    SampledWindow,
    other_depths,
    placed_by,
    sampled,
    shared,
    spread_of,
)
from vggt_ros.mapping.window import WindowGeometry

MIN_INLIERS = 0.6  # share of pixels that must agree
REFUSED = 5.0  # times the usual residual: a window beyond contradicts the map
DOUBTFUL = 2.5  # times the usual: it joins, with a wider covariance and without its depth
ALWAYS_GOOD = 0.05  # residual that is never refused: 3 degrees,
CONFIRMED_GOOD = 0.12  # or 7, where the newest view agrees with the map
NEVER_GOOD = 0.35  # residual that always is: 20 degrees
DOUBTFUL_INLIERS = 0.75  # share of pixels below which a window is doubtful
NEAR_TURN, NEAR_SHIFT = 0.2, 0.1  # radians, scene depths: off the predicted motion, at most
CHECKED_OVERLAP = 0.3  # overlap from which the newest view is checked against the one before
KEYFRAME_PARALLAX = float(np.deg2rad(2.0))  # a frame this far aside of the last one is kept,
KEYFRAME_OVERLAP = 0.8  # or one that shares less than this with the last kept frame
NOTHING_SHARED = "no frame is shared with the map"


def register(
    state: MapState,
    window: WindowGeometry,
    predicted: Float[np.ndarray, "4 4"] | None = None,
    seen: SampledWindow | None = None,
) -> tuple[MapState, Registration]:
    """Place `window` in the map; one that contradicts it is refused and changes nothing.

    `predicted`: world_from_camera of the newest camera by its motion so far; None: not known.
    `seen`: of a rig, the window on a coarse grid, with what the other cameras saw.
    """
    number = state.number
    if not np.isfinite(window.window_from_camera).all():
        return _refuse(state, number, "the network's cameras are not finite")
    seen = seen or sampled(window)
    if state.current is None:
        return start_segment(state, window, number, state.world_from_first, 1.0, seen=seen)
    fitted = _fit(state.current, seen, state.noise, predicted)
    if isinstance(fitted, str):
        return _refuse(state, number, fitted)
    after, found, noise = fitted
    return replace(state, current=after, refusals=0, noise=noise), found


def start_segment(
    state: MapState,
    window: WindowGeometry,
    number: int,
    world_from_first: Float[np.ndarray, "4 4"],
    unit: float,
    covariance: Float[np.ndarray, "6 6"] | None = None,
    seen: SampledWindow | None = None,
) -> tuple[MapState, Registration]:
    """A new segment: the window's first camera stands at `world_from_first`.

    `unit`: world units per window unit; `covariance`: of that camera, by default none.
    """
    frames, others, _ = seen or sampled(window)
    gauge = Similarity.between(world_from_first, frames[0].world_from_camera, unit)
    known = 1e-8 * np.eye(6) if covariance is None else covariance
    first, found = _insert(Segment(number, (), known), placed_by(frames, gauge), gauge, Fit())
    first = first._replace(others=other_depths((), others, gauge, ""))
    return replace(state, current=first, refusals=0), found


def _refuse(state: MapState, number: int, reason: str) -> tuple[MapState, Registration]:
    found = Registration(Similarity.identity(), False, number, 0.0, 0.0, np.eye(6), reason)
    return replace(state, refusals=state.refusals + 1), found


def is_keyframe(state: MapState) -> bool:
    """Whether the newest frame is worth keeping in the window; else the next one may replace it.

    It is, if it saw the scene from far enough aside or shares too little with the last one kept.
    So a robot that stands still, however fast its camera, adds no registrations and no drift. The
    newest frame of a refused window is not kept: those before it are the way back to the map.
    """
    if state.refusals:
        return False
    seen = state.current.overlap if state.current else None
    return seen is None or seen.parallax > KEYFRAME_PARALLAX or seen.overlap < KEYFRAME_OVERLAP


class Fit(NamedTuple):
    """How well a window fits; the defaults are those of the first window."""

    residual: float = 0.0
    scene_depth: float = 1.0
    inliers: float = 1.0
    doubt: str = ""  # why it is doubtful


def _fit(
    segment: Segment,
    seen: SampledWindow,
    noise: NoiseEstimate,
    predicted: Float[np.ndarray, "4 4"] | None,
) -> tuple[Segment, Registration, NoiseEstimate] | str:
    """The segment with these frames registered to it, or why they do not belong."""
    frames, others, before = seen
    pairs = shared(segment.frames, frames)
    if not pairs:
        return NOTHING_SHARED
    scene_depth = median_depth(segment.frames)
    spread = spread_of(frames)[[frames.index(frame) for _, frame in pairs]]
    also = shared(segment.others, others)
    fit = estimate_scale(pairs, spread, scene_depth, segment.unit, noise, also, before)
    laid = estimate_gauge(pairs, spread, fit.scale, scene_depth, noise)
    residual = laid.residual
    if fit.inlier_share < MIN_INLIERS:
        return f"only {fit.inlier_share:.0%} of the shared pixels agree in depth"
    placed = placed_by(frames, laid.gauge)
    overlap = view_overlap(pairs[-1][0], placed[-1], max(SAME_VIEW, 2.5 * noise.view))
    checked = overlap if overlap is not None and overlap.overlap > CHECKED_OVERLAP else None
    if not residual < _refused_from(noise, checked):
        return (
            f"the shared cameras disagree by {residual:.1%} of the scene depth; usual are"
            f" {noise.residual:.1%}"
        )
    doubt = ""
    if residual > DOUBTFUL * max(noise.residual, MIN_NOISE) or fit.inlier_share < DOUBTFUL_INLIERS:
        doubt = (
            f"doubtful: the shared cameras disagree by {residual:.1%} of the scene depth (usual"
            f" are {noise.residual:.1%}), {fit.inlier_share:.0%} of the pixels agree"
        )
    if checked is not None and checked.agreement < MIN_INLIERS:
        differs = f"only {checked.agreement:.0%} of the newest view agrees with the one before"
        if not _is_near(placed[-1].world_from_camera, predicted, scene_depth):
            return differs
        doubt = f"doubtful: {differs}"
    fitted = Fit(residual, scene_depth, fit.inlier_share, doubt)
    after, found = _insert(segment, placed, laid.gauge, fitted)
    several = len(pairs) > 1
    scales = _third_depth(pairs, placed[-1], fit, noise)
    noise = noise.observed(
        residual=residual if several else None,
        turn=laid.turn if several else None,
        shift=laid.shift if several else None,
        scales=scales,
        view=None if checked is None else checked.spread,
    )
    kept = other_depths(segment.others, others, laid.gauge, doubt)
    return after._replace(overlap=overlap, others=kept), found, noise


def _refused_from(noise: NoiseEstimate, checked: ViewOverlap | None) -> float:
    """The residual from which a window contradicts the map; `checked`: its newest view there.

    Errors of windows that share the same frames are alike, so that a network which is off by more
    than usual once is refused until the map has lost the camera. Where the newest camera sees what
    the map has there, more is admitted, with a doubt.
    """
    confirmed = checked is not None and checked.agreement >= DOUBTFUL_INLIERS
    least = CONFIRMED_GOOD if confirmed else ALWAYS_GOOD
    return min(max(REFUSED * noise.residual, least), NEVER_GOOD)


def _third_depth(
    pairs: list[tuple[MapFrame, MapFrame]],
    newest: MapFrame,
    fit: ScaleFit,
    noise: NoiseEstimate,
) -> tuple[float, float, float] | None:
    """What tells errors of depth from errors of baselines (`NoiseEstimate.observed`).

    The newest view is compared with a frame whose depth this window does not have, since depths
    that the scale was taken from err as it does.
    """
    if fit.by_depth is None or fit.by_baselines is None:
        return None
    apart = [known for known, now in pairs if known.depth is not None and now.depth is None]
    if not apart:
        return None
    seen = view_overlap(apart[-1], newest, max(SAME_VIEW, 2.5 * noise.view))
    if seen is None or not seen.overlap > CHECKED_OVERLAP:
        return None
    ratio = seen.ratio - float(np.log(fit.scale))
    return fit.by_depth - fit.by_baselines, ratio + fit.by_depth, ratio + fit.by_baselines


def _is_near(
    pose: Float[np.ndarray, "4 4"],
    predicted: Float[np.ndarray, "4 4"] | None,
    scene_depth: float,
) -> bool:
    """Whether the newest camera is where its motion leads: then only its depth is at fault."""
    if predicted is None:
        return False
    turned = rotation_angle(pose[:3, :3].T @ predicted[:3, :3])
    moved = float(np.linalg.norm(pose[:3, 3] - predicted[:3, 3]))
    return turned < NEAR_TURN and moved < NEAR_SHIFT * scene_depth


def _insert(
    segment: Segment, observed: list[MapFrame], gauge: Similarity, fit: Fit
) -> tuple[Segment, Registration]:
    """New frames, in the world, added; known ones moved to the mean of all observations."""
    known = {frame.frame_id: frame for frame in segment.frames}
    placed = []
    for now in observed:
        before = known.get(now.frame_id)
        if before is not None:
            now = before if fit.doubt else average_frames(before, now)
        placed.append(now)
    common = sum(frame.frame_id in known for frame in observed)
    kept, newest = _covariances(segment, placed, fit.residual, fit.scene_depth, common)
    after = Segment(segment.number, tuple(placed), kept, gauge.scale)
    cameras = np.stack([frame.world_from_camera for frame in placed])
    doubtful = fit.doubt != ""
    found = Registration(
        gauge, True, segment.number, fit.residual, fit.inliers, newest, fit.doubt, cameras, doubtful
    )
    return after, found


def _covariances(
    segment: Segment, placed: list[MapFrame], residual: float, scene_depth: float, shared: int
) -> tuple[Float[np.ndarray, "6 6"], Float[np.ndarray, "6 6"]]:
    """Of the last kept frame, and of the newest one, since the segment started.

    `residual` squared is the camera noise of six axes, lengths in scene depths. A rotation error
    moves every later camera sideways, hence the lever arm from one frame to the next.
    """
    kept = segment.covariance
    if not shared:
        return kept, kept
    noise = max(residual, MIN_NOISE) ** 2 / 6.0
    axes = noise * np.diag(np.repeat([scene_depth**2, 1.0], 3))
    centres = {frame.frame_id: frame.world_from_camera[:3, 3] for frame in placed}
    was = [frame for frame in segment.frames if frame.frame_id in centres]
    if len(was) > 1 and was[-1] is segment.frames[-1]:
        carry = lever_arm_jacobian(centres[was[-1].frame_id] - centres[was[-2].frame_id])
        kept = carry @ kept @ carry.T + axes * 2.0 / max(len(placed) - 1, 1) ** 2
    carry = lever_arm_jacobian(placed[-1].world_from_camera[:3, 3] - centres[was[-1].frame_id])
    return kept, carry @ kept @ carry.T + axes * (1.0 + 1.0 / shared)
