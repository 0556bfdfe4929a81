# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What tracks cost, for diagnostics: the network's time with them and without, on this device."""

from collections import deque
from statistics import median

from vggt_ros.frames import Update

RECENT = 50  # inferences of each kind


class TrackCost:
    """The network's recent times, of windows that are full, with tracks and without."""

    def __init__(self, window_size: int):
        self._window_size = window_size
        self._plain: deque[float] = deque(maxlen=RECENT)
        self._tracked: deque[float] = deque(maxlen=RECENT)
        self._frames = 0  # of the newest inference

    def add(self, update: Update) -> None:
        """One more inference."""
        self._frames = len(update.views)
        if self._frames == self._window_size:
            times = self._plain if update.tracks is None else self._tracked
            times.append(update.seconds["network"])

    def text(self, points: int) -> str:
        """How many points are tracked, and the cost of it as far as it is known."""
        if points == 0:
            return "none"
        known = f"{points} point{'s' * (points > 1)} in {self._frames} frames"
        if not self._tracked:
            return f"{known}: waiting"
        took = 1e3 * median(self._tracked)
        if not self._plain:
            return f"{known}: network {took:.0f} ms"
        plain = 1e3 * median(self._plain)
        return f"{known}: network {took:.0f} ms, {took / max(plain, 1e-3):.1f} times {plain:.0f}"
