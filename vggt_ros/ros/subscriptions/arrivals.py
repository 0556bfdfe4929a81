# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How many of a sensor's messages arrive, by the stamps of those that do."""

from collections import deque
from statistics import median
from typing import NamedTuple

KEPT = 60  # gaps between two messages
LEAST = 30  # of them, before anything is said
SHORTEST = 20  # the gap that one in so many falls below is about a period
NEAR = 0.25  # of a period, within which a gap is a whole number of periods
REGULAR = 0.8  # share of gaps that must be, else the sensor has no period
MAX_COUNTED = 10  # periods in a gap, up to which their number is certain; half the gaps must be
MAX_PAUSE_NS = 2_000_000_000  # a longer gap is a pause of the sensor


class Arrived(NamedTuple):
    """Messages that arrived, of those that were sent meanwhile, and the time between two (ns)."""

    count: int
    sent: int
    period_ns: int


class Arrivals:
    """The newest stamps of a topic.

    A sensor with a steady rate has stamps a period apart; where messages are lost, gaps of two,
    three or more periods remain. The shortest gaps are one period, as long as some neighbours both
    arrive: that every second message is lost, without exception, cannot be seen.
    """

    def __init__(self) -> None:
        self._last_ns = 0
        self._gaps: deque[int] = deque(maxlen=KEPT)

    def add(self, stamp_ns: int) -> None:
        """One more message; stamps that go back, or a pause, say nothing of losses."""
        gap, self._last_ns = stamp_ns - self._last_ns, stamp_ns
        if 0 < gap < MAX_PAUSE_NS:
            self._gaps.append(gap)

    @property
    def found(self) -> Arrived | None:
        """Of the last messages; None for too few, or without a steady rate."""
        gaps = tuple(self._gaps)  # an executor of several threads may add one meanwhile
        if len(gaps) < LEAST:
            return None
        shortest = sorted(gaps)[len(gaps) // SHORTEST]
        period = median(gap for gap in gaps if abs(gap - shortest) < NEAR * shortest)
        periods = [gap / period for gap in gaps]
        counted = [n for n in periods if n < MAX_COUNTED]
        regular = sum(abs(n - round(n)) < NEAR and round(n) > 0 for n in counted)
        if regular < REGULAR * len(counted) or len(counted) < len(periods) / 2:
            return None
        sent = sum(max(round(n), 1) for n in periods)
        return Arrived(len(gaps), sent, round(period))
