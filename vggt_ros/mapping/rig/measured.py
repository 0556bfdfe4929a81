# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The motions between every two cameras of a rig, by the images of the last windows."""

from collections import deque
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping.rig.agreement import UNSURE
from vggt_ros.mapping.rig.relative import Pair, Pose, mean_pose, relative_poses, scaled, spread_of
from vggt_ros.mapping.window import WindowGeometry

KEPT = 40  # windows whose measurements are kept


class Measured:
    """first_from_second of every two cameras in world units: one a window, and robust means."""

    def __init__(self, names: Sequence[str]):
        self._kept: dict[Pair, deque[Pose]] = {
            pair: deque(maxlen=KEPT) for pair in combinations(names, 2)
        }
        self._now: dict[Pair, Pose] = {}  # of the window that is being registered
        self._means: dict[Pair, Pose | None] = {}
        self._spreads: dict[Pair, float] = {}  # radians, of single measurements

    def see(self, window: WindowGeometry, unit: float) -> None:
        """A window counts from now on, until `keep` or `drop`; `unit`: world units per its own."""
        found: dict[Pair, list[Pose]] = {}
        for poses in relative_poses(window):
            for pair, pose in poses.items():
                if np.isfinite(pose).all():
                    found.setdefault(pair, []).append(scaled(pose, unit))
        self._now = {pair: mean_pose(poses) for pair, poses in found.items()}
        self._means, self._spreads = {}, {}

    def keep(self, factor: float) -> None:
        """The window counts for good, its unit being so many times what was said."""
        for pair, pose in self._now.items():
            self._kept[pair].append(scaled(pose, factor))
        self._now = {}  # the means have it already

    def drop(self) -> None:
        """The window does not count."""
        self._now, self._means, self._spreads = {}, {}, {}

    def scale(self, factor: float) -> None:
        """The world was rescaled."""
        for pair, known in self._kept.items():
            self._kept[pair] = deque((scaled(pose, factor) for pose in known), KEPT)
        self._means, self._spreads = {}, {}

    def clear(self) -> None:
        """Forget all but the window that is being registered."""
        for known in self._kept.values():
            known.clear()

    def mean(self, first: str, second: str) -> Pose | None:
        """first_from_second by all windows, world units; None: never measured."""
        if first == second:
            return np.eye(4)
        if (second, first) in self._kept:
            back = self.mean(second, first)
            return None if back is None else inverse_rigid(back)
        pair = (first, second)
        if pair not in self._means:
            poses = [*self._kept[pair], *([self._now[pair]] if pair in self._now else [])]
            self._means[pair] = mean_pose(poses) if poses else None
            mean = self._means[pair]
            self._spreads[pair] = 0.0 if mean is None else spread_of(poses, mean)
        return self._means[pair]

    def sure_mean(self, first: str, second: str) -> Pose | None:
        """The same; None also where single measurements differ too much to contradict anything."""
        return None if self.spread(first, second) > UNSURE else self.mean(first, second)

    def spread(self, first: str, second: str) -> float:
        """By how many radians the measurements of a pair differ."""
        self.mean(first, second)
        known = self._spreads
        return known[first, second] if (first, second) in known else known.get((second, first), 0.0)

    def count(self, first: str, second: str) -> int:
        """In how many windows two cameras were measured."""
        return len(self._kept.get((first, second), self._kept.get((second, first), ())))
