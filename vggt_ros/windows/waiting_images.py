# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The images of one camera that wait for those of the others, and what their stamps say of it."""

from collections import Counter, deque
from statistics import median_low
from typing import Any, NamedTuple

KEPT = 8  # images of a camera that wait for their partners
RECENT = 8  # of a camera's images, by which its period and its offset are judged
MAX_PERIOD_NS = 1_000_000_000  # slower cameras are not waited for; also until a period is known


class Waiting(NamedTuple):
    """An image that waits for those of the other cameras."""

    stamp_ns: int
    item: Any


class CameraImages:
    """What is known of one camera's images: those that wait, its period, and its silence."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # received, joined, dropped
        self.forget()

    def forget(self) -> None:
        """All but the counts."""
        self.waiting: deque[Waiting] = deque()
        self.last_ns = self.joined_ns = -1  # the last image, and the last one (or first) joined
        self.gaps: deque[int] = deque(maxlen=RECENT)
        self.arrived_ns = 0  # the last image
        self.silence_ns: dict[str, int] = {}  # since the last arrival, by the others' stamps
        self.misses = 0  # instants in a row without it, although it runs
        self.apart_ns = 0  # from the last of these to its nearest image

    @property
    def period_ns(self) -> int:
        """The usual one; the longest that is waited for while none is known."""
        return min(median_low(self.gaps), MAX_PERIOD_NS) if self.gaps else MAX_PERIOD_NS

    def add(self, stamp_ns: int, arrived_ns: int, item: Any) -> None:
        if self.last_ns >= 0:
            self.gaps.append(stamp_ns - self.last_ns)
        else:
            self.joined_ns = stamp_ns
        self.last_ns, self.arrived_ns = stamp_ns, arrived_ns
        self.counts["received"] += 1
        self.waiting.append(Waiting(stamp_ns, item))
        if len(self.waiting) > KEPT:
            self.drop()

    def drop(self) -> None:
        """The oldest image that waits."""
        self.waiting.popleft()
        self.counts["dropped"] += 1

    def nearest_to(self, ns: int) -> int:
        """The stamp nearest to `ns` of its images that wait, and of the next, which is due."""
        stamps = [found.stamp_ns for found in self.waiting] or [self.last_ns]
        if self.gaps:
            stamps.append(self.last_ns + median_low(self.gaps))
        return min(stamps, key=lambda stamp: abs(stamp - ns))

    def nearest_in(self, first_ns: int, last_ns: int, ns: int) -> Waiting | None:
        """The waiting image of that span which is nearest to `ns`."""
        inside = (found for found in self.waiting if first_ns <= found.stamp_ns <= last_ns)
        return min(inside, key=lambda found: abs(found.stamp_ns - ns), default=None)
