# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What this network's errors usually are, learnt from the windows that it gives.

Every bound of the map is a multiple of these running medians, and no constant: VGGT-1B and a small
network differ by a factor of five.  Medians, since a window in ten may be broken.
"""

from dataclasses import dataclass, replace
from statistics import median  # of few numbers; NumPy's takes ten times as long

import numpy as np

KEPT = 40  # windows whose residuals are kept
KEPT_SCALES = 150  # windows whose scales are compared: differences of variances need more
PRIOR = 5  # windows that the values before the first window count as
PATCHES = 36.0  # independent errors of depth in one image, at most
MIN_NOISE = 0.003  # camera noise that a lucky residual cannot undercut: a sixth of a degree
LEAST = 5e-4  # noise that a lucky network cannot undercut
CHI2_MEDIAN = 0.455  # of a squared standard normal variable


@dataclass(frozen=True)
class NoiseEstimate:
    """Running medians over the last windows; residuals are shares of scene depth, or radians."""

    residuals: tuple[float, ...] = (0.02,) * PRIOR  # rms of shared cameras, per camera
    turns: tuple[float, ...] = (0.006,) * PRIOR  # of a camera about each axis, radians
    shifts: tuple[float, ...] = (0.03,) * PRIOR  # of its centre, a share of its distance
    # Squared log ratios: of the scales by depth and by baselines; and of the newest view's depth to
    # that of a frame which gave no scale, where the window has that by depth, or by baselines.
    contradictions: tuple[float, ...] = (0.03**2 * CHI2_MEDIAN,) * PRIOR
    by_depth: tuple[float, ...] = (0.015**2 * CHI2_MEDIAN,) * PRIOR
    by_baseline: tuple[float, ...] = (0.03**2 * CHI2_MEDIAN,) * PRIOR
    views: tuple[float, ...] = (0.1,) * PRIOR  # spread of log depth between two views

    @property
    def residual(self) -> float:
        """Root mean square of six axes of a camera."""
        return median(self.residuals)

    @property
    def turn(self) -> float:
        """One sigma of a camera's orientation about each axis, radians."""
        return max(median(self.turns), LEAST)

    @property
    def shift(self) -> float:
        """One sigma of a camera's centre on each axis, a share of its distance (and more)."""
        return max(median(self.shifts), LEAST)

    @property
    def depth_scale(self) -> float:
        """One sigma of the log scale that one frame's depth gives."""
        learnt = 0.5 * (_variance(self.contradictions) + self._excess)
        return float(np.sqrt(max(learnt, self.view**2 / PATCHES, LEAST**2)))

    @property
    def baseline_scale(self) -> float:
        """One sigma of the log scale that baselines give, beyond what their cameras' noise says.

        A network may see all motion of a window too short or too long, against its own depth.
        """
        learnt = 0.5 * (_variance(self.contradictions) - self._excess)
        return float(np.sqrt(max(learnt, LEAST**2)))

    @property
    def _excess(self) -> float:
        """By how much the variance of the scale by depth is larger than that by baselines.

        How much they contradict is the sum of both; which of them is at fault shows in a third
        depth, of a frame that gave no scale: they make the newest view agree with it more or less.
        """
        return _variance(self.by_depth) - _variance(self.by_baseline)

    @property
    def view(self) -> float:
        """One sigma of the log ratio of two views' depths at one point."""
        return median(self.views)

    def observed(
        self,
        *,
        residual: float | None = None,
        turn: float | None = None,
        shift: float | None = None,
        scales: tuple[float, float, float] | None = None,
        view: float | None = None,
    ) -> "NoiseEstimate":
        """With what one window showed; None: it did not show it.

        `scales`: the log ratios whose squares are `contradictions`, `by_depth`, `by_baseline`.
        """
        return replace(
            self,
            residuals=_with(self.residuals, residual),
            turns=_with(self.turns, turn),
            shifts=_with(self.shifts, shift),
            contradictions=_with(self.contradictions, scales and scales[0] ** 2, KEPT_SCALES),
            by_depth=_with(self.by_depth, scales and scales[1] ** 2, KEPT_SCALES),
            by_baseline=_with(self.by_baseline, scales and scales[2] ** 2, KEPT_SCALES),
            views=_with(self.views, view),
        )


def _with(values: tuple[float, ...], new: float | None, kept: int = KEPT) -> tuple[float, ...]:
    return values if new is None else (*values, new)[-kept:]


def _variance(squares: tuple[float, ...]) -> float:
    """Of a normal variable of mean 0 with these squares, half of which may be anything."""
    return median(squares) / CHI2_MEDIAN
