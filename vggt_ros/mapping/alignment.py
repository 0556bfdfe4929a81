# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows into one map: each inference has its own unit and first camera; here they agree.

A window is registered through the frames that the map already holds (`registration` has the
mathematics), and then checked: the residual of the shared cameras, and the newest view against the
map. A window that fails is refused and starts a segment of its own. The segment before it stays
available: the next sound window returns to it, so that one bad inference costs one inference.

Shared frames move to the mean of all their observations. With windows of s frames and camera noise
sigma what remains is a random walk of variance 2 sigma^2 / (s - 1)^2 a frame, within a tenth of the
least-squares optimum over all windows (simulated for s = 2, 4, 8).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import (
    WORLD_FROM_OPTICAL,
    Similarity,
    lever_arm_jacobian,
    scale_covariance,
    scale_pose,
)
from vggt_ros.mapping.registration import (
    MapFrame,
    ViewOverlap,
    average_frames,
    estimate_gauge,
    estimate_scale,
    median_depth,
    view_overlap,
)

MAX_PIXELS = 3000  # of one frame that take part; more change nothing but the time
MIN_INLIERS = 0.6  # share of pixels that must agree
MAX_RESIDUAL = 0.05  # rms disagreement of shared cameras, as a share of scene depth
CHECKED_OVERLAP = 0.3  # overlap from which the newest view is checked against the one before
KEYFRAME_PARALLAX = float(np.deg2rad(2.0))  # a frame this far aside of the last one is kept,
KEYFRAME_OVERLAP = 0.8  # or one that shares less than this with the last kept frame
NOTHING_SHARED = "no frame is shared with the map"
MIN_NOISE = 0.003  # camera noise that a lucky residual cannot undercut: a sixth of a degree

Poses = Float[np.ndarray, "s 4 4"]


class WindowGeometry(NamedTuple):
    """One inference: cameras of a window in its own frame and unit, depth of its newest k."""

    frame_ids: tuple[int, ...]
    window_from_camera: Float[np.ndarray, "s 4 4"]
    intrinsics: Float[np.ndarray, "s 3 3"]
    depth: Float[np.ndarray, "k h w"]  # NaN or <= 0 where invalid
    confidence: Float[np.ndarray, "k h w"]  # from 1, "no evidence", upwards


class Registration(NamedTuple):
    """How a window was registered to the map."""

    world_from_window: Similarity
    accepted: bool  # False: it fits no segment so far and starts the next one
    segment: int
    residual: float  # rms disagreement of the shared cameras, as a share of scene depth
    inlier_share: float  # of the shared pixels, those that agree in depth
    covariance: Float[np.ndarray, "6 6"]  # newest camera, world axes: x y z, rotation vector
    reason: str  # "" or why the window was refused
    world_from_camera: Poses | None = None  # every camera of the window, mean of all observations


class Segment(NamedTuple):
    """A piece of the map that windows can be registered to."""

    number: int
    frames: tuple[MapFrame, ...]
    covariance: Float[np.ndarray, "6 6"]  # of the newest frame, since the segment started
    unit: float = 1.0  # world units per unit of the last window
    overlap: ViewOverlap | None = None  # the newest frame against the last one known before


@dataclass(frozen=True)
class MapState:
    """What the next registration needs of the map: the frames of two windows at most."""

    world_from_first: Float[np.ndarray, "4 4"]
    current: Segment | None = None
    previous: Segment | None = None  # the last one that accepted windows, if current did not yet
    segments: int = 0  # started so far
    refusals: int = 0  # in a row


def level_camera() -> Float[np.ndarray, "4 4"]:
    """world_from_camera of a camera at the origin, held level, facing along x (REP 103)."""
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = WORLD_FROM_OPTICAL
    return world_from_camera


def upright_camera(up_in_camera: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """world_from_camera at the origin for a known up direction: z is up, the view ahead is x.

    At rest an accelerometer measures exactly this direction. A camera that faces straight up or
    down has no view ahead; then the top of its image points along x.
    """
    up = up_in_camera / np.linalg.norm(up_in_camera)
    ahead = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.99 else np.array([0.0, -1.0, 0.0])
    ahead = ahead - (ahead @ up) * up
    ahead /= np.linalg.norm(ahead)
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = np.stack([ahead, np.cross(up, ahead), up])
    return world_from_camera


def empty_map(world_from_camera: Float[np.ndarray, "4 4"] | None = None) -> MapState:
    """A map whose first camera will stand at `world_from_camera`, by default `level_camera()`."""
    first = level_camera() if world_from_camera is None else world_from_camera
    return MapState(first.astype(np.float64))


def register(state: MapState, window: WindowGeometry) -> tuple[MapState, Registration]:
    """Place `window` in the map; one that fits nowhere starts the next segment."""
    if not np.isfinite(window.window_from_camera).all():
        reason = "the network's cameras are not finite"
        segment = max(state.segments - 1, 0)
        found = Registration(Similarity.identity(), False, segment, 0.0, 0.0, np.eye(6), reason)
        return replace(state, refusals=state.refusals + 1), found
    frames = _subsampled(window)
    if state.current is None:
        gauge = Similarity.between(state.world_from_first, frames[0].world_from_camera, 1.0)
        first, found = _insert(Segment(0, (), 1e-8 * np.eye(6)), frames, gauge)
        return replace(state, current=first, segments=1), found
    reasons = []
    for segment in (state.previous, state.current):
        fitted = _fit(segment, frames) if segment else "there is no earlier segment"
        if not isinstance(fitted, str):
            return replace(state, current=fitted[0], previous=None, refusals=0), fitted[1]
        reasons.append(fitted)
    # That nothing is shared with a segment of long ago explains little.
    informative = state.previous and reasons[0] != NOTHING_SHARED
    return _refuse(state, frames, reasons[0 if informative else 1])


def is_keyframe(state: MapState) -> bool:
    """Whether the newest frame is worth keeping in the window; else the next one may replace it.

    It is, if it saw the scene from far enough aside or shares too little with the last one kept.
    So a robot that stands still, however fast its camera, adds no registrations and no drift. The
    newest frame of a refused window is not kept, unless refusals repeat: then the scene changed.
    """
    if state.refusals:
        return state.refusals > 1
    seen = state.current.overlap if state.current else None
    return seen is None or seen.parallax > KEYFRAME_PARALLAX or seen.overlap < KEYFRAME_OVERLAP


def rescaled(state: MapState, factor: float, about: Float[np.ndarray, "3"]) -> MapState:
    """The map with every length multiplied by `factor`; the point `about` stays where it is."""

    def scaled(segment: Segment | None) -> Segment | None:
        if segment is None:
            return None
        frames = []
        for frame in segment.frames:
            pose = scale_pose(frame.world_from_camera, factor, about)
            depth = None if frame.depth is None else factor * frame.depth
            frames.append(frame._replace(world_from_camera=pose, depth=depth))
        covariance = scale_covariance(segment.covariance, factor)
        unit = factor * segment.unit
        return segment._replace(frames=tuple(frames), covariance=covariance, unit=unit)

    return replace(state, current=scaled(state.current), previous=scaled(state.previous))


def _fit(segment: Segment, frames: tuple[MapFrame, ...]) -> tuple[Segment, Registration] | str:
    """The segment with these frames registered to it, or why they do not belong."""
    pairs = _shared(segment, frames)
    if not pairs:
        return NOTHING_SHARED
    scene_depth = median_depth(segment.frames)
    scale, inliers = estimate_scale(pairs, scene_depth, segment.unit)
    gauge, residual = estimate_gauge(pairs, scale, scene_depth)
    if inliers < MIN_INLIERS:
        return f"only {inliers:.0%} of the shared pixels agree in depth"
    if not residual < MAX_RESIDUAL:
        return f"the shared cameras disagree by {residual:.1%} of the scene depth"
    after, found = _insert(segment, frames, gauge, residual, scene_depth, inliers)
    seen = view_overlap(pairs[-1][0], after.frames[-1])
    if seen is not None and seen.overlap > CHECKED_OVERLAP and seen.agreement < MIN_INLIERS:
        return f"only {seen.agreement:.0%} of the newest view agrees with the one before"
    return after._replace(overlap=seen), found


def _shared(segment: Segment, frames: tuple[MapFrame, ...]) -> list[tuple[MapFrame, MapFrame]]:
    """Frames that segment and window both have: in the map, in the window."""
    known = {frame.frame_id: frame for frame in segment.frames}
    return [(known[frame.frame_id], frame) for frame in frames if frame.frame_id in known]


def _subsampled(window: WindowGeometry) -> tuple[MapFrame, ...]:
    """The window's frames on a coarse grid, without the least trusted pixels; its own gauge."""
    without = len(window.frame_ids) - len(window.depth)
    step = max(1, round((window.depth[0].size / MAX_PIXELS) ** 0.5)) if len(window.depth) else 1
    coarse = np.diag([1.0 / step, 1.0 / step, 1.0])
    frames = []
    for i, (key, pose) in enumerate(zip(window.frame_ids, window.window_from_camera, strict=True)):
        depth = None
        if i >= without:
            depth = window.depth[i - without, ::step, ::step].astype(np.float64)
            trust = window.confidence[i - without, ::step, ::step]
            sound = np.isfinite(depth) & (depth > 0) & np.isfinite(trust)
            if sound.any():
                sound &= trust >= np.quantile(trust[sound], 0.2)
            depth = np.where(sound, depth, np.nan)
        frames.append(MapFrame(key, pose, coarse @ window.intrinsics[i], depth))
    return tuple(frames)


def _insert(
    segment: Segment,
    frames: tuple[MapFrame, ...],
    gauge: Similarity,
    residual: float = 0.0,
    scene_depth: float = 1.0,
    inliers: float = 1.0,
) -> tuple[Segment, Registration]:
    """New frames put in their place, known ones moved to the mean of all observations."""
    known = {frame.frame_id: frame for frame in segment.frames}
    poses = gauge.apply_to_poses(np.stack([frame.world_from_camera for frame in frames]))
    placed = []
    for frame, pose in zip(frames, poses, strict=True):
        depth = None if frame.depth is None else gauge.scale * frame.depth
        now = frame._replace(world_from_camera=pose, depth=depth, observations=1.0)
        placed.append(
            average_frames(known[frame.frame_id], now) if frame.frame_id in known else now
        )
    shared = sum(frame.frame_id in known for frame in frames)
    kept, newest = _covariances(segment, placed, residual, scene_depth, shared)
    after = Segment(segment.number, tuple(placed), kept, gauge.scale)
    cameras = np.stack([frame.world_from_camera for frame in placed])
    return after, Registration(gauge, True, segment.number, residual, inliers, newest, "", cameras)


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
    noise = max(residual * np.sqrt(shared / max(shared - 1, 1)), MIN_NOISE) ** 2 / 6.0
    axes = noise * np.diag(np.repeat([scene_depth**2, 1.0], 3))
    centres = {frame.frame_id: frame.world_from_camera[:3, 3] for frame in placed}
    was = [frame for frame in segment.frames if frame.frame_id in centres]
    if len(was) > 1 and was[-1] is segment.frames[-1]:
        carry = lever_arm_jacobian(centres[was[-1].frame_id] - centres[was[-2].frame_id])
        kept = carry @ kept @ carry.T + axes * 2.0 / max(len(placed) - 1, 1) ** 2
    carry = lever_arm_jacobian(placed[-1].world_from_camera[:3, 3] - centres[was[-1].frame_id])
    return kept, carry @ kept @ carry.T + axes * (1.0 + 1.0 / shared)


def _refuse(
    state: MapState, frames: tuple[MapFrame, ...], reason: str
) -> tuple[MapState, Registration]:
    """A segment of its own, put where the map ended and in its unit, but not tied to it.

    The segment that accepted windows before stays available to the next sound one.
    """
    previous = state.previous or state.current
    assert previous is not None
    pairs = _shared(previous, frames)
    gauge = Similarity.identity()
    if frames:
        last, same = pairs[-1] if pairs else (previous.frames[-1], frames[0])
        unit = median_depth(previous.frames) / median_depth(frames)
        gauge = Similarity.between(last.world_from_camera, same.world_from_camera, unit)
    started, found = _insert(Segment(state.segments, (), previous.covariance), frames, gauge)
    found = found._replace(accepted=False, inlier_share=0.0, reason=reason)
    after = replace(
        state,
        current=started,
        previous=previous,
        segments=state.segments + 1,
        refusals=state.refusals + 1,
    )
    return after, found
