# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Registration of a window to the map: shared frames give scale, rotation and translation.

A shared frame is the *same image*, so its pixels correspond one to one: nothing is matched.

1. scale: by depth, the median of log(z_map / z_window) over the trusted pixels of each shared
   frame, sharpened by Tukey's weights (iteratively reweighted least squares); and by baselines, the
   spread of the shared cameras in map and window. Each counts by its variance (`noise`);
2. rotation and translation: closed form over the shared cameras. With scale s, camera centres c and
   orientations Q the gauge (R, t) minimises

       sum_i w_i |c_map_i - s R c_win_i - t|^2 + v_i/2 |Q_map_i - R Q_win_i|_F^2

   with the inverse variances w of centres and v of orientations. That is Kabsch's problem [1] with
   the orientations as further points: a rotation in place and a flat wall leave it well posed. A
   centre is the less certain the further it is from the window's first camera, which is the
   network's reference; so each observation of a frame counts by that distance.

[1] W. Kabsch, A solution for the best rotation to relate two sets of vectors, Acta Cryst. A32,
    1976.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, nearest_rotation
from vggt_ros.mapping.map_frames import MIN_PIXELS, MapFrame, have_comparable_depth
from vggt_ros.mapping.medians import median
from vggt_ros.mapping.noise import NoiseEstimate

SAME_SURFACE = 0.25  # log ratio up to which two depths of one pixel are the same surface
MAX_BASELINE_SIGMA = 0.3  # of log scale, beyond which baselines say nothing
MIN_CORRELATION = 0.5  # of the shared centres in map and window, below which they say nothing
CENTRE_FLOOR = 0.02  # scene depths added to a camera's distance from the reference
MAX_OBSERVATIONS = 30.0  # after which a frame's place in the map stops hardening


def robust_mean(
    values: Float[np.ndarray, "p"], *, least_spread: float = 1e-9
) -> tuple[float, float]:
    """Tukey's biweight mean, from the median on, and the spread (1.4826 median deviations).

    What lies beyond 4.7 spreads has no weight at all: outliers of one sign must not pull it.
    """
    mean = median(values)
    spread = max(1.4826 * median(np.abs(values - mean)), least_spread)
    for _ in range(5):
        away = (values - mean) / (4.685 * spread)
        pull = np.maximum(1.0 - away**2, 0.0) ** 2
        mean = float(pull @ values / pull.sum())
    return mean, spread


class ScaleFit(NamedTuple):
    """World units per window unit, and what it rests on."""

    scale: float
    inlier_share: float  # of the shared pixels, those that agree on it in depth
    by_depth: float | None = None  # its logarithm by depth alone; None: depth says nothing
    by_baselines: float | None = None


def estimate_scale(
    pairs: list[tuple[MapFrame, MapFrame]],
    spread: Float[np.ndarray, "s"],
    scene_depth: float,
    last_scale: float,
    noise: NoiseEstimate,
    also: Sequence[tuple[MapFrame, MapFrame]] = (),
    before: ScaleFit | None = None,
) -> ScaleFit:
    """The scale by the depth of every shared frame and by the baselines between shared cameras.

    `pairs` are shared frames, in the map and in the window; `also`: of a rig's other cameras, which
    have depth to compare and no centre of their own. Each source counts by its variance;
    where there is neither depth nor a baseline worth its noise, `last_scale` is kept. `before`: of
    the same frames with other poses; what it says by depth holds.
    """
    if before is None:
        by_depth, inliers = _scale_by_depth([*pairs, *also], noise)
    else:
        known, inliers = before.by_depth, before.inlier_share
        by_depth = None if known is None else (known, noise.depth_scale)
    by_baseline = _scale_by_baselines(pairs, spread, scene_depth, noise)
    if by_baseline is not None and by_baseline[1] > MAX_BASELINE_SIGMA:
        by_baseline = None
    found = [each for each in (by_depth, by_baseline) if each is not None]
    if not found:
        return ScaleFit(last_scale, 1.0)
    weight = np.array([1.0 / sigma**2 for _, sigma in found])
    mean = float(weight @ [value for value, _ in found] / weight.sum())
    return ScaleFit(
        float(np.exp(mean)),
        inliers,
        None if by_depth is None else by_depth[0],
        None if by_baseline is None else by_baseline[0],
    )


def _scale_by_depth(
    pairs: list[tuple[MapFrame, MapFrame]], noise: NoiseEstimate
) -> tuple[tuple[float, float] | None, float]:
    """Log scale and sigma by the depth of shared frames, and the share of pixels that agree."""
    values, weights, agree, pixels = [], [], 0.0, 0
    for a, b in pairs:
        if not have_comparable_depth(a, b):
            continue
        ratio = np.log(a.depth / b.depth).ravel()
        ratio = ratio[np.isfinite(ratio)]
        if ratio.size < MIN_PIXELS:
            continue
        mean, _ = robust_mean(ratio)
        values.append(mean)
        weights.append(1.0 / (1.0 + 1.0 / a.depths))
        agree += float(np.sum(np.abs(ratio - mean) < max(SAME_SURFACE, 2.5 * noise.view)))
        pixels += ratio.size
    if not values:
        return None, 1.0
    mean = float(np.average(values, weights=weights))
    return (mean, noise.depth_scale), agree / pixels


def _scale_by_baselines(
    pairs: list[tuple[MapFrame, MapFrame]],
    spread: Float[np.ndarray, "s"],
    scene_depth: float,
    noise: NoiseEstimate,
) -> tuple[float, float] | None:
    """Log scale and sigma by how far the shared cameras stand from their middle.

    Noise widens the spread of the centres, and that of the window more, whose cameras were observed
    once: by the ratio of both spreads every window would come out smaller than the one before. So
    the scale is that of errors in both variables, whose variances have a known ratio (W. E. Deming,
    Statistical Adjustment of Data, 1943): it rests on what both have in common.
    """
    in_map, in_window = (
        np.stack([pair[side].world_from_camera for pair in pairs]) for side in (0, 1)
    )
    known = np.array([[frame.turns, frame.centre] for frame, _ in pairs])
    variance = np.stack([1.0 / known[:, 1], spread**2])  # in the map, in the window
    information = 1.0 / variance.sum(axis=0)
    weight = information / information.sum()
    there, here = (p[:, :3, 3] - weight @ p[:, :3, 3] for p in (in_map, in_window))
    of_map, of_window = (float(weight @ np.sum(c**2, axis=-1)) for c in (there, here))
    if len(pairs) < 2 or not of_map > 0 or not of_window > 0:
        return None
    ratio = np.sqrt(of_map / of_window)
    turn, shift = 1.0 + 1.0 / known[:, 0], variance.sum(axis=0)
    gauge, _ = _kabsch(in_map, in_window, turn, shift, ratio, scene_depth, noise)
    common = float(weight @ np.sum(there * (here @ gauge.rotation.T), axis=-1))
    if common < MIN_CORRELATION * np.sqrt(of_map * of_window):
        return None
    left = weight * (1.0 - weight)  # of each variance, after the mean was taken off
    quotient = ratio**2 * float(left @ variance[0]) / float(left @ variance[1])
    excess = of_map - quotient * of_window
    scale = (excess + np.sqrt(excess**2 + 4.0 * quotient * common**2)) / (2.0 * common)
    relative = (noise.shift * scene_depth) ** 2 / (of_map * information.sum())
    return float(np.log(scale)), float(np.hypot(np.sqrt(relative), noise.baseline_scale))


class GaugeFit(NamedTuple):
    """A window laid on the map, and by how much its cameras then disagree with those of the map."""

    gauge: Similarity  # world_from_window
    residual: float  # rms of turn and shift, the latter in scene depths
    turn: float  # rms over the cameras, radians on each axis
    shift: float  # the same of the centres, as a multiple of their distance (see `centre_sigma`)


def centre_spread(
    frames: Sequence[MapFrame], reference: Float[np.ndarray, "3"], unit: float
) -> Float[np.ndarray, "s"]:
    """How uncertain each camera's centre is, for a network whose relative noise is 1.

    A network's error grows with the distance from its reference, the window's first camera. In
    scene depths; `unit`: scene depths per unit of the frames.
    """
    centres = np.stack([frame.world_from_camera[:3, 3] for frame in frames])
    return unit * np.linalg.norm(centres - reference, axis=-1) + CENTRE_FLOOR


def estimate_gauge(
    pairs: list[tuple[MapFrame, MapFrame]],
    spread: Float[np.ndarray, "s"],
    scale: float,
    scene_depth: float,
    noise: NoiseEstimate,
) -> GaugeFit:
    """The similarity of this scale that lays the window's cameras on the map's.

    `spread`: `centre_spread` of the window's cameras. Cameras count by their variances in map and
    window. Cauchy weights keep one camera that is off from pulling the others along; the residual
    counts it in full.
    """
    in_map, in_window = (
        np.stack([pair[side].world_from_camera for pair in pairs]) for side in (0, 1)
    )
    known = np.array([[frame.turns, frame.centre] for frame, _ in pairs])
    turn = 1.0 + 1.0 / known[:, 0]  # variances, in units of the network's own
    shift = spread**2 + 1.0 / known[:, 1]
    gauge, error = _kabsch(in_map, in_window, turn, shift, scale, scene_depth, noise)
    for _ in range(3):
        size = np.sqrt(error.sum(axis=-1))
        trust = 1.0 / (1.0 + (size / (2.0 * median(size) + 1e-9)) ** 2)
        gauge, error = _kabsch(
            in_map, in_window, turn / trust, shift / trust, scale, scene_depth, noise
        )
    lost = np.sqrt(len(pairs) / max(len(pairs) - 1, 1))  # to the fit: one camera's worth
    plain = np.sqrt(np.mean(error[:, 0] + error[:, 1]))
    by_turn, by_shift = np.sqrt(np.mean(error / np.stack([turn, shift], axis=-1) / 3.0, axis=0))
    return GaugeFit(gauge, *(float(lost * each) for each in (plain, by_turn, by_shift)))


def _kabsch(
    in_map: Float[np.ndarray, "s 4 4"],
    in_window: Float[np.ndarray, "s 4 4"],
    turn: Float[np.ndarray, "s"],
    shift: Float[np.ndarray, "s"],
    scale: float,
    scene_depth: float,
    noise: NoiseEstimate,
) -> tuple[Similarity, Float[np.ndarray, "s 2"]]:
    """The weighted best motion, and each camera's squared error: radians, scene depths."""
    c, q = in_map[:, :3, 3], in_map[:, :3, :3]
    d, p = scale * in_window[:, :3, 3], in_window[:, :3, :3]
    w = 1.0 / (shift * (noise.shift * scene_depth) ** 2)
    v = 1.0 / (turn * noise.turn**2)
    c0, d0 = w @ c / w.sum(), w @ d / w.sum()
    cross = np.einsum("s,si,sj->ij", w, c - c0, d - d0)
    cross += 0.5 * np.einsum("s,sik,sjk->ij", v, q, p)
    rotation = nearest_rotation(cross)
    translation = c0 - rotation @ d0
    away = np.sum((c - d @ rotation.T - translation) ** 2, axis=-1) / scene_depth**2
    turned = 0.5 * np.sum((q - rotation @ p) ** 2, axis=(-2, -1))
    return Similarity(scale, rotation, translation), np.stack([turned, away], axis=-1)


def average_frames(known: MapFrame, now: MapFrame) -> MapFrame:
    """The mean of all observations of a frame; pixels whose depth differs become untrusted."""
    share = now.turns / (known.turns + now.turns)
    closer = now.centre / (known.centre + now.centre)
    pose = known.world_from_camera.copy()
    change = now.world_from_camera - pose
    pose[:3, :3] = nearest_rotation(pose[:3, :3] + share * change[:3, :3])
    pose[:3, 3] += closer * change[:3, 3]
    depth = known.depth if known.depth is not None else now.depth
    depths = known.depths + now.depths
    if have_comparable_depth(known, now):
        share = now.depths / depths
        change = np.log(now.depth / known.depth)
        mean = np.where(np.abs(change) < SAME_SURFACE, known.depth * np.exp(share * change), np.nan)
        either = np.where(np.isfinite(known.depth), known.depth, now.depth)
        depth = np.where(np.isfinite(change), mean, either)
    return known._replace(
        world_from_camera=pose,
        depth=depth,
        depths=min(depths, MAX_OBSERVATIONS),
        turns=min(known.turns + now.turns, MAX_OBSERVATIONS),
        centre=min(known.centre + now.centre, MAX_OBSERVATIONS / CENTRE_FLOOR**2),
    )
