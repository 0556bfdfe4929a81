# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is known of a message beside itself: how long it lay in the middleware, what it replaced.

A subscription with a queue of one has the newest message; it replaces those before it, which were
not taken. Publishers number their messages, so that these are counted by the next one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_LEFT = 1000  # messages between two that were taken; a larger gap is of other numbers

Info = Mapping[str, Any]  # what rclpy gives beside a message


class Delivery(NamedTuple):
    """How a message came; the defaults: it was taken as it arrived."""

    left: int = 0  # messages since the last one, which came and were replaced before they were read
    lost: int = 0  # messages since the last one, which never came
    waited: float = 0.0  # seconds since it came


TAKEN_AT_ONCE = Delivery()


class Matched(NamedTuple):
    """Publishers of a subscription: those that there ever were, and those of now."""

    total: int
    current: int


class Numbering:
    """Counts the messages between two that were taken, by the numbers of their publisher.

    Messages do not say whose they are, so nothing is counted from one to the next where another
    publisher came or several are there.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._matched: Matched | None = None
        self._found = 0  # lost messages that were reported, of which the place is known
        self.is_known = False  # whether what is left until the next message will be counted

    def add(self, number: int | None, matched: Matched | None, lost: int) -> tuple[int, int]:
        """Messages that were left, and that were lost, since the last one.

        `lost`: how many the middleware has reported so far. What is not reported is left.
        """
        known = self.is_known and matched == self._matched
        gap = -1
        if known and number is not None and self._last is not None:
            gap = number - self._last - 1
        self._last, self._matched = number, matched
        self.is_known = number is not None and matched is not None and matched.current == 1
        if not 0 <= gap <= MAX_LEFT:
            self._found = lost
            return 0, 0
        found = min(lost - self._found, gap)
        self._found += found  # others are of messages after this one
        return gap - found, found
