# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metres per world unit: one slowly varying number, robust to outliers, from several sources.

Each source keeps its last few dozen measurements; its value is their robust mean in log scale, so
half of them may be wrong before it moves. The most trusted source with enough measurements sets
the map's scale; another that contradicts it is reported, not averaged in. All ratios are metres per
unit of the map as it is *now*: `rescaled` keeps that true when the map takes up a correction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import UserError
from vggt_ros.mapping.registration import robust_mean

SOURCES = ("fixed", "baseline", "depth", "odometry", "height")
"""Every source there is, in the default order of trust."""

MAX_MEASUREMENTS = 40  # kept of one source
MIN_MEASUREMENTS = 3  # from which a source counts
MAX_SIGMA = 0.1  # sigma of log scale below which units may be called metres
MAX_STEP = 0.01  # largest change of scale in one step, once units are metres
JUMP = 0.1  # of log scale: what a more trusted source must differ by to be followed at once
CENTRE_NOISE = 0.006  # of a camera centre, as a share of scene depth: half a degree
MIN_BASELINE = 0.02  # of two cameras, as a share of scene depth: three times a centre's noise
TARGET_SIGMA = 0.03  # sigma of log scale that is sought where a measurement costs something
MIN_PIXELS = 100  # that two depths must share before their ratio counts


class Measurement(NamedTuple):
    """One measurement by one source."""

    source: str
    log_ratio: float  # of metres per world unit
    sigma: float
    stamp_ns: int


class Estimate(NamedTuple):
    """The scale as known now; `value` is metres per world unit."""

    source: str  # "none": units are arbitrary
    value: float
    sigma: float  # of log value
    stamp_ns: int  # of the last measurement it rests on
    conflict: str  # "" or which source contradicts, and by how much


NO_ESTIMATE = Estimate("none", 1.0, float("inf"), 0, "")


@dataclass(frozen=True)
class ScaleState:
    """Which sources are used, most trusted first, and what each has measured."""

    sources: tuple[str, ...] = ()
    measurements: Mapping[str, tuple[Measurement, ...]] = field(default_factory=dict)
    metric: bool = False  # the map has taken the scale up: its unit is the metre
    adopted: str = ""  # source of the scale that the map has


def parse_sources(text: str) -> tuple[str, ...]:
    """Names from a parameter such as "odometry, height"; empty for "none".

    Raises `UserError` for a name that is none of `SOURCES`.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip() not in ("", "none"))
    for name in names:
        if name not in SOURCES:
            raise UserError(
                f"scale source '{name}' is not known; use none or some of {', '.join(SOURCES)}"
            )
    return names


def add_measurement(state: ScaleState, new: Measurement) -> ScaleState:
    """Take a measurement in, unless it is not finite or of a source that is not used."""
    sound = np.isfinite(new.log_ratio) and np.isfinite(new.sigma)
    if new.source not in state.sources or not sound:
        return state
    kept = (*state.measurements.get(new.source, ()), new)[-MAX_MEASUREMENTS:]
    return replace(state, measurements={**state.measurements, new.source: kept})


def estimate(state: ScaleState) -> Estimate:
    """The value of the most trusted source that is sure, and which sources contradict it."""
    known = [
        _mean(state.measurements[name]) for name in state.sources if name in state.measurements
    ]
    sure = [each for each in known if each.sigma < MAX_SIGMA]
    if not sure:
        return NO_ESTIMATE
    chosen = sure[0]
    conflicts = []
    for other in sure[1:]:
        apart = np.log(other.value / chosen.value)
        if abs(apart) > 3.0 * np.hypot(chosen.sigma, other.sigma) + 0.03:
            conflicts.append(
                f"{other.source} gives {np.expm1(apart):+.0%} against {chosen.source}, which is"
                " kept"
            )
    return chosen._replace(conflict="; ".join(conflicts))


def correction(state: ScaleState) -> float:
    """The factor to rescale the map by now: all at first, then little by little.

    All once more where a source that is trusted more is sure at last and differs.
    """
    found = estimate(state)
    if found.source == "none":
        return 1.0
    if not state.metric or (_outranks(state, found) and abs(np.log(found.value)) > JUMP):
        return found.value
    return float(np.clip(found.value, 1 - MAX_STEP, 1 + MAX_STEP))


def _outranks(state: ScaleState, found: Estimate) -> bool:
    """Whether this source is trusted more than the one whose scale the map has."""
    ranks = {name: rank for rank, name in enumerate(state.sources)}
    return ranks[found.source] < ranks.get(state.adopted, 0)


def needs_measurement(state: ScaleState, source: str) -> bool:
    """Whether more measurements by this source would make it notably surer."""
    if source not in state.sources:
        return False
    known = state.measurements.get(source, ())
    return not known or (len(known) < MAX_MEASUREMENTS and _mean(known).sigma > TARGET_SIGMA)


def rescaled(state: ScaleState, factor: float) -> ScaleState:
    """The same knowledge about a map whose lengths were multiplied by `factor`."""
    measurements = {
        name: tuple(m._replace(log_ratio=m.log_ratio - float(np.log(factor))) for m in known)
        for name, known in state.measurements.items()
    }
    return replace(state, measurements=measurements, metric=True, adopted=estimate(state).source)


def restarted(state: ScaleState) -> ScaleState:
    """Nothing measured yet: a new segment of the map has a unit of its own."""
    fixed = {name: known for name, known in state.measurements.items() if name == "fixed"}
    return ScaleState(state.sources, fixed)


def _mean(measurements: tuple[Measurement, ...]) -> Estimate:
    """Robust mean of one source; not sure before a few measurements, unless it is given."""
    source, stamp_ns = measurements[-1].source, measurements[-1].stamp_ns
    ratios = np.array([m.log_ratio for m in measurements])
    sigmas = np.array([m.sigma for m in measurements])
    mean, spread = robust_mean(ratios, least_spread=float(np.median(sigmas)))
    sigma = max(spread, float(np.median(sigmas))) / np.sqrt(len(measurements))
    if source != "fixed" and len(measurements) < MIN_MEASUREMENTS:
        sigma = float("inf")
    return Estimate(source, float(np.exp(mean)), float(sigma), stamp_ns, "")


# ---- measurements by source ---------------------------------------------------------------------


def from_baseline(
    estimated: Float[np.ndarray, "4 4"],
    mounted: Float[np.ndarray, "4 4"],
    scene_depth: float,
    stamp_ns: int,
) -> Measurement | None:
    """Two cameras of one rig at one time: `camera_from_extra` in world units, and in metres.

    Only the part along the known direction counts: noise across it would lengthen every baseline.
    """
    metres = float(np.linalg.norm(mounted[:3, 3]))
    along = float(estimated[:3, 3] @ mounted[:3, 3]) / metres if metres > 0 else 0.0
    if along < MIN_BASELINE * scene_depth:
        return None
    sigma = CENTRE_NOISE * scene_depth / along
    return Measurement("baseline", float(np.log(metres / along)), sigma, stamp_ns)


def from_depth(
    depth: Float[np.ndarray, "h w"], metres: Float[np.ndarray, "h w"], stamp_ns: int
) -> Measurement | None:
    """Another sensor's depth on the same pixels: NaN or 0 wherever either has none."""
    both = np.isfinite(depth) & (depth > 0) & np.isfinite(metres) & (metres > 0)
    if both.sum() < MIN_PIXELS:
        return None
    ratios = np.log(metres[both] / depth[both])
    if len(ratios) > 5000:
        ratios = ratios[:: len(ratios) // 5000]
    mean, spread = robust_mean(ratios)
    if np.mean(np.abs(ratios - mean) < 0.25) < 0.5:
        return None  # they do not show the same scene
    # Pixels err together; a patch of the network counts once, and half a percent is always left.
    sigma = float(np.hypot(spread / np.sqrt(max(len(ratios) / 50, 1)), 0.005))
    return Measurement("depth", mean, sigma, stamp_ns)


def from_height(
    points: Float[np.ndarray, "p 3"],
    centre: Float[np.ndarray, "3"],
    height: float,
    stamp_ns: int,
    up: Float[np.ndarray, "3"] | None = None,
) -> Measurement | None:
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
        return None
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
    if votes[best] < 0.25 * len(below):
        return None
    ground = below[near[:, best]]
    middle = ground.mean(axis=0)
    _, _, axes = np.linalg.svd(ground - middle, full_matrices=False)
    return Measurement("height", float(np.log(height / abs(middle @ axes[2]))), 0.03, stamp_ns)


def sparse_depth(
    points: Float[np.ndarray, "p 3"], intrinsics: Float[np.ndarray, "3 3"], height: int, width: int
) -> Float[np.ndarray, "h w"]:
    """Nearest z of the points (optical frame, say a LiDAR's) on each pixel; else NaN."""
    points = points[np.isfinite(points).all(axis=-1)]
    points = points[points[:, 2] > 0.05]
    column, row, z = (points @ intrinsics.T).T
    column, row = np.rint(column / z), np.rint(row / z)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    depth = np.full(height * width, np.inf)
    np.minimum.at(depth, (row[inside] * width + column[inside]).astype(int), z[inside])
    return np.where(np.isfinite(depth), depth, np.nan).reshape(height, width)
