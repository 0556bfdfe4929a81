# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Window after window into one map: each look has its own unit and first camera; here they agree.

A window is joined through the frames that the map already holds. A shared frame is the *same
picture*, so its pixels correspond one to one and nothing has to be matched:

1. scale: the median of log(z_map / z_window) over the trusted pixels of shared frames, sharpened
   by Tukey's weights (iteratively reweighted least squares). Scale before pose, as DA3-Streaming
   and VGGT-SLAM 2 do: camera centres alone leave it open where the camera hardly moves;
2. rotation and translation: closed form over the shared cameras. With scale s, scene depth d,
   camera centres c and orientations Q the gauge (R, t) minimises

       sum_i w_i ( |c_map_i - s R c_win_i - t|^2 + d^2/2 |Q_map_i - R Q_win_i|_F^2 )

   which is Kabsch's problem [1] with the orientations as further points, as far away as the
   scene is: a rotation in place and a flat wall leave it well posed;
3. checks, of the joint and of the newest view against the map; a window that fails one is refused
   and begins a segment of its own. The segment it left keeps waiting: the next sound window
   returns to it, so that one bad look costs one look;
4. shared frames move to the mean of all looks at them. With windows of s frames and camera noise
   sigma what remains is a random walk of variance 2 sigma^2 / (s - 1)^2 a frame, within a tenth
   of the least-squares optimum over all windows (simulated for s = 2, 4, 8).

[1] W. Kabsch, A solution for the best rotation to relate two sets of vectors, Acta Cryst. A32,
    1976.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import WORLD_FROM_OPTICAL, Similarity, inverse_rigid, transform, unproject

CELLS = 3000  # pixels of one frame that take part; more change nothing but the time
ALIKE = 0.25  # log ratio up to which two depths of one pixel are the same surface
SAME_VIEW = 0.15  # the same between two views of a window, which err together
MIN_INLIERS = 0.6  # share of pixels that must be alike
MAX_RESIDUAL = 0.05  # rms disagreement of shared cameras, as a share of scene depth
MIN_BASELINE = 0.02  # camera motion, as a share of scene depth, from which lengths compare
KEY_PARALLAX = float(np.deg2rad(2.0))  # a frame that saw the scene from this far aside is kept,
KEY_OVERLAP = 0.8  # or one that shares less than this with the last kept frame
LEAST_NOISE = 0.003  # camera noise that a lucky residual cannot undercut: a sixth of a degree
MEMORY = 8.0  # looks after which a frame's place in the map stops hardening

Depth = Float[np.ndarray, "_h _w"]  # thinned, NaN where not trusted
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
        gauge = _anchored(state.world_from_first, frames[0].world_from_camera, 1.0)
        first, found = _settle(Segment(0, (), 1e-8 * np.eye(6)), frames, gauge)
        return replace(state, current=first, begun=1), found
    reasons = []
    for segment in (state.waiting, state.current):
        joined = _fit(segment, frames) if segment else "nothing waits"
        if not isinstance(joined, str):
            return replace(state, current=joined[0], waiting=None, refusals=0), joined[1]
        reasons.append(joined)
    return _refuse(state, frames, reasons[0 if state.waiting else 1])


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


def place(similarity: Similarity, poses: Float[np.ndarray, "s 4 4"]) -> Float[np.ndarray, "s 4 4"]:
    """Rigid camera poses carried along by a similarity: centres are scaled, axes only turned."""
    moved = np.array(poses, np.float64)
    moved[..., :3, :3] = similarity.rotation @ poses[..., :3, :3]
    moved[..., :3, 3] = similarity.apply(poses[..., :3, 3])
    return moved


# ---- one joint ----------------------------------------------------------------------------------


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


def _fit(segment: Segment, frames: tuple[Placed, ...]) -> tuple[Segment, Join] | str:
    """The segment with these frames joined to it, or why they do not belong."""
    known = {frame.frame_id: frame for frame in segment.frames}
    pairs = [(known[frame.frame_id], frame) for frame in frames if frame.frame_id in known]
    if not pairs:
        return "no frame is shared with the map"
    scale, inliers = _scale(segment, pairs)
    reach = _scene_depth(segment.frames, frames, scale)
    gauge, residual = _gauge(pairs, scale, reach)
    if inliers < MIN_INLIERS:
        return f"only {inliers:.0%} of the shared pixels agree in depth"
    if not residual < MAX_RESIDUAL:
        return f"the shared cameras disagree by {residual:.1%} of the scene depth"
    after, found = _settle(segment, frames, gauge, residual, reach, inliers)
    sight = _sight(pairs[-1][0], after.frames[-1])
    if sight is not None and sight.overlap > 0.3 and sight.agreement < MIN_INLIERS:
        return f"only {sight.agreement:.0%} of the newest view agrees with the one before"
    return after._replace(sight=sight), found


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


def _scale(segment: Segment, pairs: list[tuple[Placed, Placed]]) -> tuple[float, float]:
    """World units per window unit, and the share of shared pixels that agree on it.

    Where no pixel is shared the distances between the shared cameras tell; where these hardly
    move nothing does, and the unit of the last window is kept.
    """
    ratios = [np.log(a.depth / b.depth).ravel() for a, b in pairs if _comparable(a, b)]
    ratio = np.concatenate(ratios) if ratios else np.empty(0)
    ratio = ratio[np.isfinite(ratio)]
    if ratio.size >= 32:
        mean, _ = robust_mean(ratio)
        return float(np.exp(mean)), float(np.mean(np.abs(ratio - mean) < ALIKE))
    here, there = (_baselines([pair[side] for pair in pairs]) for side in (0, 1))
    moved = here > MIN_BASELINE * _scene_depth(segment.frames, (), 1.0)
    if not (moved & (there > 0)).any():
        return segment.unit, 1.0
    return float(np.exp(np.median(np.log(here[moved] / there[moved])))), 1.0


def _comparable(a: Placed, b: Placed) -> bool:
    return a.depth is not None and b.depth is not None and a.depth.shape == b.depth.shape


def _baselines(frames: list[Placed]) -> Float[np.ndarray, "pairs"]:
    centres = np.stack([frame.world_from_camera[:3, 3] for frame in frames])
    first, second = np.triu_indices(len(frames), 1)
    return np.linalg.norm(centres[first] - centres[second], axis=-1)


def _scene_depth(known: tuple[Placed, ...], fresh: tuple[Placed, ...], scale: float) -> float:
    """Median depth in world units; 1 where no depth was ever seen."""
    depths = [(1.0, frame.depth) for frame in known] + [(scale, frame.depth) for frame in fresh]
    middles = [
        unit * float(np.median(depth[np.isfinite(depth)]))
        for unit, depth in depths
        if depth is not None and np.isfinite(depth).any()
    ]
    return float(np.median(middles)) if middles else 1.0


def _gauge(
    pairs: list[tuple[Placed, Placed]], scale: float, reach: float
) -> tuple[Similarity, float]:
    """The motion of this scale that lays the window's cameras on the map's, and what remains."""
    here, there = (np.stack([pair[side].world_from_camera for pair in pairs]) for side in (0, 1))
    c, q = here[:, :3, 3], here[:, :3, :3]
    d, p = scale * there[:, :3, 3], there[:, :3, :3]
    looks = np.array([known.looks for known, _ in pairs])
    weight = looks
    for _ in range(4):
        w = weight / weight.sum()
        c0, d0 = w @ c, w @ d
        cross = np.einsum("s,si,sj->ij", w, c - c0, d - d0)
        cross += 0.5 * reach**2 * np.einsum("s,sik,sjk->ij", w, q, p)
        rotation = _nearest_rotation(cross)
        translation = c0 - rotation @ d0
        shift = np.sum((c - d @ rotation.T - translation) ** 2, axis=-1)
        turn = 0.5 * reach**2 * np.sum((q - rotation @ p) ** 2, axis=(-2, -1))
        error = np.sqrt(shift + turn) / reach
        weight = looks / (1.0 + (error / (2.0 * np.median(error) + 1e-9)) ** 2)
    return Similarity(scale, rotation, translation), float(np.sqrt(np.mean(error**2)))


def _nearest_rotation(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    u, _, vt = np.linalg.svd(matrix)
    return (u * [1.0, 1.0, np.linalg.det(u @ vt)]) @ vt


def _anchored(
    world_from_camera: Float[np.ndarray, "4 4"],
    window_from_camera: Float[np.ndarray, "4 4"],
    scale: float,
) -> Similarity:
    """The similarity of this scale that puts one camera of the window where it is in the world."""
    rotation = world_from_camera[:3, :3] @ window_from_camera[:3, :3].T
    translation = world_from_camera[:3, 3] - scale * rotation @ window_from_camera[:3, 3]
    return Similarity(scale, rotation, translation)


# ---- the map after it ---------------------------------------------------------------------------


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
        settled.append(_averaged(known[frame.frame_id], now) if frame.frame_id in known else now)
    shared = sum(frame.frame_id in known for frame in frames)
    kept, newest = _covariances(segment, settled, residual, reach, shared)
    after = Segment(segment.number, tuple(settled), kept, gauge.scale)
    cameras = np.stack([frame.world_from_camera for frame in settled])
    return after, Join(gauge, True, segment.number, residual, inliers, newest, "", cameras)


def _averaged(known: Placed, now: Placed) -> Placed:
    """One more look at a frame; pixels on whose depth two looks differ are trusted no more."""
    share = 1.0 / (known.looks + 1.0)
    pose = known.world_from_camera + share * (now.world_from_camera - known.world_from_camera)
    pose[:3, :3] = _nearest_rotation(pose[:3, :3])
    depth = known.depth if known.depth is not None else now.depth
    if _comparable(known, now):
        change = np.log(now.depth / known.depth)
        mean = np.where(np.abs(change) < ALIKE, known.depth * np.exp(share * change), np.nan)
        either = np.where(np.isfinite(known.depth), known.depth, now.depth)
        depth = np.where(np.isfinite(change), mean, either)
    looks = min(known.looks + 1.0, MEMORY)
    return known._replace(world_from_camera=pose, depth=depth, looks=looks)


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


def lever(step: Float[np.ndarray, "3"]) -> Float[np.ndarray, "6 6"]:
    """How errors of a pose (shift, turn) act one `step` further on."""
    x, y, z = step
    jacobian = np.eye(6)
    jacobian[:3, 3:] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
    return jacobian


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
        unit = _scene_depth(waiting.frames, (), 1.0) / _scene_depth((), frames, 1.0)
        gauge = _anchored(last.world_from_camera, same.world_from_camera, unit)
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


def _sight(older: Placed, newer: Placed) -> Sight | None:
    """Each view's points in the other camera; None where either has too little depth."""
    if not _comparable(older, newer):
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
