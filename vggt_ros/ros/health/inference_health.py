# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says of how fast images become messages."""

from collections import deque
from collections.abc import Callable
from statistics import fmean

from vggt_ros.ros.health import reports

KEPT = 1000  # inferences; the latencies of the last `reports.RECENT` seconds are summed up


class InferenceHealth:
    """When inferences were published, and how long after their images.  `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._done: deque[tuple[float, float]] = deque(maxlen=KEPT)  # when, and the latency

    def add(self, latency: float) -> None:
        """One more, published `latency` seconds after its image."""
        self._done.append((self._clock(), latency))

    @property
    def rate(self) -> str:
        """Inferences in a second."""
        return reports.rate([when for when, _ in self._done], self._clock())

    @property
    def latency(self) -> dict[str, str]:
        """Of the last seconds, in milliseconds; empty where there were none."""
        now = self._clock()
        recent = sorted(latency for when, latency in self._done if now - when < reports.RECENT)
        if not recent:
            return {}
        found = {
            "mean": fmean(recent),
            "p99": recent[-1 - len(recent) // 100],  # no more than 1 % are longer
            "max": recent[-1],
        }
        return {f"latency {name} [ms]": f"{1e3 * value:.1f}" for name, value in found.items()}
