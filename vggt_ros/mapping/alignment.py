# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Window after window into one map: each look has its own unit and first camera; here they agree.

A window is joined through the frames that the map already holds (`joint` has the mathematics), and
then checked: the joint itself, and what the newest view sees against the map. A window that fails
is refused and begins a segment of its own. The segment it left keeps waiting: the next sound window
returns to it, so that one bad look costs one look.

Shared frames move to the mean of all looks at them. With windows of s frames and camera noise sigma
what remains is a random walk of variance 2 sigma^2 / (s - 1)^2 a frame, within a tenth of the
least-squares optimum over all windows (simulated for s = 2, 4, 8).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import WORLD_FROM_OPTICAL, Similarity
from vggt_ros.mapping.registration import (
    Placed,
    Sight,
    anchored,
    averaged,
    find_gauge,
    find_scale,
    lever,
    place,
    scene_depth,
    see,
)

CELLS = 3000  # pixels of one frame that take part; more change nothing but the time
MIN_INLIERS = 0.6  # share of pixels that must be alike
MAX_RESIDUAL = 0.05  # rms disagreement of shared cameras, as a share of scene depth
KEY_PARALLAX = float(np.deg2rad(2.0))  # a frame that saw the scene from this far aside is kept,
KEY_OVERLAP = 0.8  # or one that shares less than this with the last kept frame
NOTHING_SHARED = "no frame is shared with the map"
LEAST_NOISE = 0.003  # camera noise that a lucky residual cannot undercut: a sixth of a degree

Poses = Float[np.ndarray, "s 4 4"]


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
    accepted: bool  # False: it fits no segment so far and begins the next one
    segment: int
    residual: float  # rms disagreement of the shared cameras, as a share of scene depth
    inlier_share: float  # of the shared pixels, those that agree in depth
    covariance: Float[np.ndarray, "6 6"]  # newest camera, world axes: x y z, rotation vector
    reason: str  # "" or why the window was refused
    world_from_camera: Poses | None = None  # every camera of the window, mean of all looks


class Segment(NamedTuple):
    """A piece of the map that windows can join."""

    number: int
    frames: tuple[Placed, ...]
    covariance: Float[np.ndarray, "6 6"]  # of the newest frame, since the segment began
    unit: float = 1.0  # world units per unit of the last window: a guess where nothing tells
    sight: Sight | None = None  # the newest frame against the last one known before


@dataclass(frozen=True)
class MapState:
    """What the next joint needs to know of the map: the frames of two windows at most."""

    world_from_first: Float[np.ndarray, "4 4"]
    current: Segment | None = None
    waiting: Segment | None = None  # the last one that windows joined, if current is a stray
    begun: int = 0  # segments so far
    refusals: int = 0  # in a row


def level() -> Float[np.ndarray, "4 4"]:
    """world_from_camera of a camera at the origin, held level, looking along x (REP 103)."""
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = WORLD_FROM_OPTICAL
    return world_from_camera


def upright(up_in_camera: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """world_from_camera at the origin for a known up direction: z is up, the view ahead is x.

    At rest an accelerometer measures exactly this direction. A camera that looks straight up or
    down has no view ahead; then the top of its picture points along x.
    """
    up = up_in_camera / np.linalg.norm(up_in_camera)
    ahead = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.99 else np.array([0.0, -1.0, 0.0])
    ahead = ahead - (ahead @ up) * up
    ahead /= np.linalg.norm(ahead)
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = np.stack([ahead, np.cross(up, ahead), up])
    return world_from_camera


def begin(world_from_camera: Float[np.ndarray, "4 4"] | None = None) -> MapState:
    """An empty map whose first camera will stand at `world_from_camera`, by default `level()`."""
    return MapState(level() if world_from_camera is None else world_from_camera.astype(np.float64))


def join(state: MapState, window: WindowGeometry) -> tuple[MapState, Join]:
    """Place `window` in the map; one that fits nowhere begins the next segment where it stands."""
    if not np.isfinite(window.window_from_camera).all():
        reason = "the network's cameras are not finite"
        nowhere = Similarity.identity()
        found = Join(nowhere, False, max(state.begun - 1, 0), 0.0, 0.0, np.eye(6), reason)
        return replace(state, refusals=state.refusals + 1), found
    frames = _thinned(window)
    if state.current is None:
        gauge = anchored(state.world_from_first, frames[0].world_from_camera, 1.0)
        first, found = _settle(Segment(0, (), 1e-8 * np.eye(6)), frames, gauge)
        return replace(state, current=first, begun=1), found
    reasons = []
    for segment in (state.waiting, state.current):
        joined = _fit(segment, frames) if segment else "nothing waits"
        if not isinstance(joined, str):
            return replace(state, current=joined[0], waiting=None, refusals=0), joined[1]
        reasons.append(joined)
    told = state.waiting and reasons[0] != NOTHING_SHARED  # of a map long gone that says little
    return _refuse(state, frames, reasons[0 if told else 1])


def is_keyframe(state: MapState) -> bool:
    """Whether the newest frame is worth keeping in the window; else the next one may replace it.

    It is, if it saw the scene from far enough aside or shares too little with the last one kept.
    So a robot that stands still, however fast its camera, adds no joints and no drift. The newest
    frame of a refused window is not kept, unless refusals repeat: then the scene did change.
    """
    if state.refusals:
        return state.refusals > 1
    sight = state.current.sight if state.current else None
    return sight is None or sight.parallax > KEY_PARALLAX or sight.overlap < KEY_OVERLAP


def rescaled(state: MapState, factor: float, about: Float[np.ndarray, "3"]) -> MapState:
    """The map with every length multiplied by `factor`; the point `about` stays where it is."""

    def grown(segment: Segment | None) -> Segment | None:
        if segment is None:
            return None
        frames = []
        for frame in segment.frames:
            pose = frame.world_from_camera.copy()
            pose[:3, 3] = about + factor * (pose[:3, 3] - about)
            depth = None if frame.depth is None else factor * frame.depth
            frames.append(frame._replace(world_from_camera=pose, depth=depth))
        units = np.repeat([factor, 1.0], 3)
        covariance = units[:, None] * segment.covariance * units
        unit = factor * segment.unit
        return segment._replace(frames=tuple(frames), covariance=covariance, unit=unit)

    return replace(state, current=grown(state.current), waiting=grown(state.waiting))


def _fit(segment: Segment, frames: tuple[Placed, ...]) -> tuple[Segment, Join] | str:
    """The segment with these frames joined to it, or why they do not belong."""
    known = {frame.frame_id: frame for frame in segment.frames}
    pairs = [(known[frame.frame_id], frame) for frame in frames if frame.frame_id in known]
    if not pairs:
        return NOTHING_SHARED
    reach = scene_depth(segment.frames)
    scale, inliers = find_scale(pairs, reach, segment.unit)
    gauge, residual = find_gauge(pairs, scale, reach)
    if inliers < MIN_INLIERS:
        return f"only {inliers:.0%} of the shared pixels agree in depth"
    if not residual < MAX_RESIDUAL:
        return f"the shared cameras disagree by {residual:.1%} of the scene depth"
    after, found = _settle(segment, frames, gauge, residual, reach, inliers)
    sight = see(pairs[-1][0], after.frames[-1])
    if sight is not None and sight.overlap > 0.3 and sight.agreement < MIN_INLIERS:
        return f"only {sight.agreement:.0%} of the newest view agrees with the one before"
    return after._replace(sight=sight), found


def _thinned(window: WindowGeometry) -> tuple[Placed, ...]:
    """The window's frames on a coarse grid, without the least trusted pixels; its own gauge."""
    without = len(window.frame_ids) - len(window.depth)
    step = max(1, round((window.depth[0].size / CELLS) ** 0.5)) if len(window.depth) else 1
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
        frames.append(Placed(key, pose, coarse @ window.intrinsics[i], depth))
    return tuple(frames)


def _settle(
    segment: Segment,
    frames: tuple[Placed, ...],
    gauge: Similarity,
    residual: float = 0.0,
    reach: float = 1.0,
    inliers: float = 1.0,
) -> tuple[Segment, Join]:
    """Fresh frames put in their place, known ones moved to the mean of all looks."""
    known = {frame.frame_id: frame for frame in segment.frames}
    poses = place(gauge, np.stack([frame.world_from_camera for frame in frames]))
    settled = []
    for frame, pose in zip(frames, poses, strict=True):
        depth = None if frame.depth is None else gauge.scale * frame.depth
        now = frame._replace(world_from_camera=pose, depth=depth, looks=1.0)
        settled.append(averaged(known[frame.frame_id], now) if frame.frame_id in known else now)
    shared = sum(frame.frame_id in known for frame in frames)
    kept, newest = _covariances(segment, settled, residual, reach, shared)
    after = Segment(segment.number, tuple(settled), kept, gauge.scale)
    cameras = np.stack([frame.world_from_camera for frame in settled])
    return after, Join(gauge, True, segment.number, residual, inliers, newest, "", cameras)


def _covariances(
    segment: Segment, settled: list[Placed], residual: float, reach: float, shared: int
) -> tuple[Float[np.ndarray, "6 6"], Float[np.ndarray, "6 6"]]:
    """Of the last kept frame, and of the newest one, since the segment began.

    `residual` squared is the camera noise of six axes, lengths in scene depths. A rotation error
    moves every later camera sideways, hence the lever from one frame to the next.
    """
    kept = segment.covariance
    if not shared:
        return kept, kept
    noise = max(residual * np.sqrt(shared / max(shared - 1, 1)), LEAST_NOISE) ** 2 / 6.0
    axes = noise * np.diag(np.repeat([reach**2, 1.0], 3))
    centres = {frame.frame_id: frame.world_from_camera[:3, 3] for frame in settled}
    was = [frame for frame in segment.frames if frame.frame_id in centres]
    if len(was) > 1 and was[-1] is segment.frames[-1]:
        carry = lever(centres[was[-1].frame_id] - centres[was[-2].frame_id])
        kept = carry @ kept @ carry.T + axes * 2.0 / max(len(settled) - 1, 1) ** 2
    carry = lever(settled[-1].world_from_camera[:3, 3] - centres[was[-1].frame_id])
    return kept, carry @ kept @ carry.T + axes * (1.0 + 1.0 / shared)


def _refuse(state: MapState, frames: tuple[Placed, ...], reason: str) -> tuple[MapState, Join]:
    """A segment of its own, put where the map was left and in its unit, but not tied to it.

    The segment that windows joined before waits for the next sound one.
    """
    waiting = state.waiting or state.current
    assert waiting is not None
    known = {frame.frame_id: frame for frame in waiting.frames}
    pairs = [(known[frame.frame_id], frame) for frame in frames if frame.frame_id in known]
    gauge = Similarity.identity()
    if frames:
        last, same = pairs[-1] if pairs else (waiting.frames[-1], frames[0])
        unit = scene_depth(waiting.frames) / scene_depth(frames)
        gauge = anchored(last.world_from_camera, same.world_from_camera, unit)
    stray, found = _settle(Segment(state.begun, (), waiting.covariance), frames, gauge)
    found = found._replace(accepted=False, inlier_share=0.0, reason=reason)
    after = replace(
        state,
        current=stray,
        waiting=waiting,
        begun=state.begun + 1,
        refusals=state.refusals + 1,
    )
    return after, found
