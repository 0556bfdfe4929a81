# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metres per world unit: one slowly varying number, robust to outliers, from several sources.

Each source keeps its last few dozen measurements; its value is their robust mean in log scale, so
half of them may be wrong before it moves. The most trusted source with enough measurements sets
the map's scale; another that contradicts it is reported, not averaged in. All ratios are metres per
unit of the map as it is *now*: `moved` keeps that true when the map takes up a correction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.mapping.medians import median
from vggt_ros.mapping.registration import robust_mean

SOURCES = ("fixed", "baseline", "depth", "odometry", "height")
"""Every source there is, in the default order of trust."""

MAX_MEASUREMENTS = 40  # kept of one source
MIN_MEASUREMENTS = 3  # from which a source counts
MAX_SIGMA = 0.1  # sigma of log scale below which units may be called metres
MAX_STEP = 0.01  # largest change of scale in one step, once units are metres
JUMP = 0.1  # of log scale: what a more trusted source must differ by to be followed at once
GIVEN_SIGMA = 1e-3  # of log scale, for one that the user gives
HELD_SIGMA = 0.1  # at least, of a scale that no source is sure of any more
HELD_DRIFT = 0.003  # by how much it may drift with every window
TARGET_SIGMA = 0.03  # sigma of log scale that is sought where a measurement costs something


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
    conflict: str  # "" or which source contradicts, and by how much; `UNSURE`


LOADED = "map"  # where a source is named: the scale is that of a loaded map
UNSURE = "no source is sure any more; the last scale is kept"
NO_ESTIMATE = Estimate("none", 1.0, float("inf"), 0, "")


@dataclass(frozen=True)
class ScaleState:
    """Which sources are used, most trusted first, and what each has measured."""

    sources: tuple[str, ...] = ()
    measurements: Mapping[str, tuple[Measurement, ...]] = field(default_factory=dict)
    metric: bool = False  # the map has taken the scale up: its unit is the metre
    adopted: str = ""  # source of the scale that the map has
    held: float = float("inf")  # sigma of the map's scale while no source is sure of it any more
    held_ns: int = 0  # stamp of the last measurement that it rests on; 0: it was given
    guessed: bool = False  # it is that of an earlier segment, carried over by a guess


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


def of_rig(sources: tuple[str, ...]) -> tuple[str, ...]:
    """With the baselines of a rig, which are there anyway; a scale that was given comes first."""
    if "baseline" in sources:
        return sources
    given = tuple(name for name in sources if name == "fixed")
    return (*given, "baseline", *(name for name in sources if name not in given))


def add_measurement(state: ScaleState, new: Measurement) -> ScaleState:
    """Take a measurement in, unless it is not finite or of a source that is not used.

    That of odometry is taken in always: it may lead across a loss (`by_odometry`).
    """
    sound = np.isfinite(new.log_ratio) and np.isfinite(new.sigma)
    if new.source not in (*state.sources, "odometry") or not sound:
        return state
    kept = (*state.measurements.get(new.source, ()), new)[-MAX_MEASUREMENTS:]
    return replace(state, measurements={**state.measurements, new.source: kept})


def estimate(state: ScaleState) -> Estimate:
    """The value of the most trusted source that is sure, and which sources contradict it.

    Where none is sure any more, the map keeps the scale that it has, with a wider sigma.
    """
    known = [
        _mean(state.measurements[name]) for name in state.sources if name in state.measurements
    ]
    sure = [each for each in known if each.sigma < MAX_SIGMA]
    if not sure:
        if not (state.metric and np.isfinite(state.held)):
            return NO_ESTIMATE
        conflict = "" if state.adopted == LOADED else UNSURE
        return Estimate(state.adopted, 1.0, state.held, state.held_ns, conflict)
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


def by_odometry(state: ScaleState) -> Estimate | None:
    """Metres per world unit, to take odometry's motion by; None: not known.

    Of a map in metres 1, else what odometry measured, though no source of scale was asked for.
    """
    if state.metric:
        return estimate(state)._replace(value=1.0)
    known = state.measurements.get("odometry")
    found = _mean(known) if known else NO_ESTIMATE
    return found if found.sigma < MAX_SIGMA else None


def correction(state: ScaleState) -> float:
    """The factor to rescale the map by now: all at first, then little by little.

    All once more where a source that is trusted more is sure at last and differs.
    """
    found = estimate(state)
    if found.source == "none":
        return 1.0
    outranks = _outranks(state, found) and abs(np.log(found.value)) > JUMP
    if not state.metric or state.guessed or outranks:
        return found.value
    return float(np.clip(found.value, 1 - MAX_STEP, 1 + MAX_STEP))


class Due(NamedTuple):
    """A change of the map's scale."""

    factor: float
    at_once: bool  # of the whole segment, not of what is in the window alone


def due(state: ScaleState) -> Due | None:
    """The correction that the map should take up now; None: nothing changes."""
    factor = correction(state)
    if factor == 1.0 and (state.metric or estimate(state).source == "none"):
        return None
    return Due(factor, not state.metric or abs(factor - 1.0) > 1.01 * MAX_STEP)


def _outranks(state: ScaleState, found: Estimate) -> bool:
    """Whether this source is trusted more than the one whose scale the map has."""
    ranks = {name: rank for rank, name in enumerate(state.sources)}
    return ranks.get(found.source, 0) < ranks.get(state.adopted, 0)


def needs_measurement(state: ScaleState, source: str) -> bool:
    """Whether more measurements by this source would make it notably surer."""
    if source not in state.sources:
        return False
    known = state.measurements.get(source, ())
    return not known or (len(known) < MAX_MEASUREMENTS and _mean(known).sigma > TARGET_SIGMA)


def with_given(state: ScaleState, fixed_scale: float) -> ScaleState:
    """With the scale that the user gives: metres per unit of the first window; 0: none."""
    if not fixed_scale > 0:
        return state
    return add_measurement(state, Measurement("fixed", float(np.log(fixed_scale)), GIVEN_SIGMA, 0))


def moved(state: ScaleState, factor: float) -> ScaleState:
    """The same knowledge about a map whose lengths were multiplied by `factor`."""
    if factor == 1.0:
        return state
    measurements = {
        name: tuple(m._replace(log_ratio=m.log_ratio - float(np.log(factor))) for m in known)
        for name, known in state.measurements.items()
    }
    return replace(state, measurements=measurements)


def adopted(state: ScaleState) -> ScaleState:
    """The map has taken the scale up: from now on its unit is the metre."""
    found = estimate(state)
    return replace(
        state,
        metric=True,
        adopted=found.source,
        held=max(found.sigma, HELD_SIGMA),
        held_ns=found.stamp_ns,
        guessed=False,
    )


def of_loaded_map(state: ScaleState, sigma: float) -> ScaleState:
    """The scale of a map of an earlier run, whose unit is the metre within a log sigma."""
    return replace(state, metric=True, adopted=LOADED, held=sigma)


def aged(state: ScaleState) -> ScaleState:
    """After one more window: a scale that no source is sure of may have drifted."""
    if not state.metric or is_sure(state):
        return state
    return replace(state, held=float(np.hypot(state.held, HELD_DRIFT)))


def is_to_keep(older: ScaleState, joining: ScaleState) -> bool:
    """Whether a segment keeps its own scale when another, with its own, becomes a part of it."""
    sigma = estimate(older).sigma
    return sigma < MAX_SIGMA or sigma < estimate(joining).sigma


def is_sure(state: ScaleState) -> bool:
    """Whether a source stands behind the scale."""
    return estimate(state).sigma < MAX_SIGMA


def widened(state: ScaleState, sigma: float) -> ScaleState:
    """Another segment of the map: its unit is the last one's, by a guess of this log sigma.

    Nothing that was measured speaks of it, nor does a scale given for the first window's unit.
    """
    last = estimate(state)
    return ScaleState(
        state.sources,
        metric=state.metric,
        adopted=state.adopted,
        held=float(np.hypot(last.sigma, sigma)) if state.metric else float("inf"),
        held_ns=last.stamp_ns,
        guessed=state.metric,
    )


@lru_cache(maxsize=4 * len(SOURCES))  # each window asks some ten times
def _mean(measurements: tuple[Measurement, ...]) -> Estimate:
    """Robust mean of one source; not sure before a few measurements, unless it is given."""
    source, stamp_ns = measurements[-1].source, measurements[-1].stamp_ns
    ratios = np.array([m.log_ratio for m in measurements])
    usual = median(np.array([m.sigma for m in measurements]))
    mean, spread = robust_mean(ratios, least_spread=usual)
    sigma = max(spread, usual) / np.sqrt(len(measurements))
    if source != "fixed" and len(measurements) < MIN_MEASUREMENTS:
        sigma = float("inf")
    return Estimate(source, float(np.exp(mean)), float(sigma), stamp_ns, "")
