# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How often messages of a topic arrive, and when the last one did."""

from collections import deque
from collections.abc import Callable, Iterator

from vggt_ros.ros.health import reports
from vggt_ros.ros.subscriptions.delivery import TAKEN_AT_ONCE, Delivery

KEPT = 300  # messages


class Traffic:
    """Of one topic.  `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._times: deque[float] = deque(maxlen=KEPT)

    def add(self, delivery: Delivery = TAKEN_AT_ONCE) -> None:
        """One more message."""
        reports.spread(self._times, self._clock() - delivery.waited, delivery.left)

    def rows(self, name: str) -> Iterator[tuple[str, str]]:
        """Keys and values for /diagnostics."""
        times, now = tuple(self._times), self._clock()
        yield f"{name} rate [Hz]", reports.rate(times, now)
        yield f"{name} age [s]", f"{now - times[-1]:.1f}" if times else "none yet"
