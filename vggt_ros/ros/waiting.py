# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A bounded wait for what belongs to an image and comes a little later than the image."""

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from vggt_ros.ros.messages import stamp_ns

MAX_FAILED = 5  # waits in vain in a row, from which there is one now and then only:
RETRIED = 5.0  # seconds from one to the next, or
SELDOM = 20  # times the wait, if that is longer
STEP = 0.002  # seconds between two readings

Seen = TypeVar("Seen")


def nearest(messages: Iterable[Any], ns: int) -> tuple[Any, int | None]:
    """The message whose stamp is nearest, and how far it is from that; None for no message."""
    msg = min(messages, key=lambda m: abs(stamp_ns(m.header.stamp) - ns), default=None)
    return msg, None if msg is None else stamp_ns(msg.header.stamp) - ns


def before(messages: Iterable[Any], ns: int) -> list[Any]:
    """Those whose stamp is earlier."""
    return [m for m in tuple(messages) if stamp_ns(m.header.stamp) < ns]


class Waiting:
    """Waits for one source, for `seconds` at most.

    What never comes is not waited for with each image. It is tried again now and then, since a
    source may start later than the camera, or pause: what is always a little late would else never
    be found again.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._failed, self._retried = 0, 0.0  # in a row; when there is to be another wait

    def until(
        self,
        read: Callable[[], Seen],
        is_found: Callable[[Seen], bool],
        is_over: Callable[[Seen], bool] = lambda _: False,
    ) -> Seen:
        """What `read` gives: once it is found, once it cannot come any more, or after the wait."""
        end = time.monotonic() + self._allowed()
        while True:
            seen = read()
            if is_found(seen):
                self._failed = 0
                return seen
            if is_over(seen):
                return seen
            if time.monotonic() >= end:
                self._failed += 1
                return seen
            time.sleep(STEP)

    def _allowed(self) -> float:
        """Seconds of the wait that begins now."""
        now = time.monotonic()
        if self._failed >= MAX_FAILED and now < self._retried:
            return 0.0
        self._retried = now + max(RETRIED, SELDOM * self._seconds)
        return self._seconds
