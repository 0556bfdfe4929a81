# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How many of a sensor's messages arrive, by the stamps of those that do."""

from collections import deque
from statistics import median
from typing import NamedTuple

from vggt_ros.ros.subscriptions.delivery import TAKEN_AT_ONCE, Delivery

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


class _Gap(NamedTuple):
    """Between two stamps, for each of the messages that are known to be published since."""

    ns: float
    arrived: int
    published: int


class Arrivals:
    """The newest stamps of a topic.

    A sensor with a steady rate has stamps a period apart; where messages are lost, gaps of two,
    three or more periods remain. The shortest gaps are one period, as long as some neighbours both
    arrive: that every second message is lost, without exception, cannot be seen.
    """

    def __init__(self) -> None:
        self._last_ns = 0
        self._gaps: deque[_Gap] = deque(maxlen=KEPT)

    def add(self, stamp_ns: int, delivery: Delivery = TAKEN_AT_ONCE) -> None:
        """One more message; stamps that go back, or a pause, say nothing of losses.

        Where messages before it were left in the middleware, all that were published are counted.
        """
        gap, self._last_ns = stamp_ns - self._last_ns, stamp_ns
        published = 1 + delivery.left + delivery.lost if delivery.left else 1
        if 0 < gap < MAX_PAUSE_NS * published:
            self._gaps.append(_Gap(gap / published, 1 + delivery.left, published))

    @property
    def found(self) -> Arrived | None:
        """Of the last messages; None for too few, or without a steady rate."""
        gaps = tuple(self._gaps)  # an executor of several threads may add one meanwhile
        if len(gaps) < LEAST:
            return None
        lengths = sorted(gap.ns for gap in gaps)
        shortest = lengths[len(gaps) // SHORTEST]
        period = median(ns for ns in lengths if abs(ns - shortest) < NEAR * shortest)
        periods = [gap.ns / period for gap in gaps]
        counted = [n for n in periods if n < MAX_COUNTED]
        regular = sum(abs(n - round(n)) < NEAR and round(n) > 0 for n in counted)
        if regular < REGULAR * len(counted) or len(counted) < len(periods) / 2:
            return None
        sent = sum(max(round(n), 1) * gap.published for n, gap in zip(periods, gaps, strict=True))
        return Arrived(sum(gap.arrived for gap in gaps), sent, round(period))
