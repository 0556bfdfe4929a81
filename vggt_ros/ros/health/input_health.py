# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says of the images that arrive."""

from collections import Counter, deque
from collections.abc import Callable

from vggt_ros.ros.health import reports
from vggt_ros.ros.health.alarms import ERROR, WARN, Problem, RecentShare
from vggt_ros.ros.health.notices import ThrottledLog
from vggt_ros.ros.subscriptions.delivery import Delivery

MAX_STAMP_AGE = 10.0  # seconds; beyond, image and node have different clocks
MAX_DROPPED = 0.5  # share of the last 60 images, from which it is a warning
ALL_REFUSED = 10  # in a row, with no image used in between: nothing comes out


class InputHealth:
    """Arrivals, and what became of them.  `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock, self._began = clock, clock()
        self._arrivals: deque[float] = deque(maxlen=1000)
        self._stamp_age = 0.0  # of the newest image when it arrived, in seconds
        self._dropped = RecentShare(60, least=30, begins=MAX_DROPPED, ends=0.8 * MAX_DROPPED)
        self.refused_in_a_row = 0

    def arrived(self, age: float, delivery: Delivery) -> None:
        """One more image; `age` is the node's clock less the image's stamp, in seconds."""
        self._stamp_age = age
        reports.spread(self._arrivals, self._clock() - delivery.waited, delivery.left)

    def counted(self, what: str, times: int, *, is_ready: bool) -> None:
        """What became of so many; those that wait for the first program are not too many."""
        for _ in range(times if what in ("used", "dropped") and is_ready else 0):
            self._dropped.add(what == "dropped")
        if what in ("used", "waiting for a program"):
            self.refused_in_a_row = 0

    def restart(self) -> None:
        """Images are awaited from now on."""
        self._began = self._clock()

    @property
    def seconds_without_image(self) -> float:
        """Seconds since the last image, or since images are awaited."""
        newest = self._arrivals[-1] if self._arrivals else self._began
        return self._clock() - max(newest, self._began)

    @property
    def rate(self) -> str:
        """Images in a second."""
        return reports.rate(self._arrivals, self._clock())

    def values(self, counts: Counter[str], refused: ThrottledLog) -> dict[str, object]:
        """Keys and values; `counts` by what became of an image."""
        return {
            "images received": counts["received"],
            "image rate [Hz]": self.rate,
            "stamp age [s]": f"{self._stamp_age:.3f}" if self._arrivals else "no image yet",
            "images used": counts["used"],
            "dropped": counts["dropped"],
            "dropped lately": f"{self._dropped.share:.0%}",
            "left in the middleware": counts["left"],
            "skipped by max_rate_hz": counts["skipped"],
            "waiting for a program": counts["waiting for a program"],
            "images refused": counts["images refused"],
            "discarded by a reset": counts["discarded"],
            "refused": refused.counts.total(),
        }

    def problems(self, no_image: str, refused: str, inference_rate: str) -> list[Problem]:
        """What is wrong; `no_image`: why none arrives, `refused`: the newest refusal, if recent."""
        level, count = WARN, self.refused_in_a_row
        if refused and count >= ALL_REFUSED:
            level, refused = ERROR, f"nothing is used, {count} in a row are refused: {refused}"
        return [
            Problem("input", "no image", ERROR, no_image),
            Problem("input", "refused", level, refused),
            Problem("input", "clock", WARN, self._clock_offset()),
            Problem("input", "dropped", WARN, self._too_many_dropped(inference_rate)),
        ]

    def _too_many_dropped(self, inference_rate: str) -> str:
        if not self._dropped.is_high:
            return ""
        return (
            f"{self._dropped.share:.0%} of the last {self._dropped.total} images are dropped:"
            f" {self.rate} Hz arrive, {inference_rate} Hz are inferred; set max_rate_hz if that is"
            " enough, else a smaller window_size or network_width, or a faster device"
        )

    def _clock_offset(self) -> str:
        if abs(self._stamp_age) <= MAX_STAMP_AGE:
            return ""
        side = "behind" if self._stamp_age > 0 else "ahead of"
        return (
            f"images are stamped {abs(self._stamp_age):.0f} s {side} the ROS clock: another"
            " machine's clock (synchronise it), a bag without use_sim_time (or that without"
            " /clock), or with it a driver that stamps by the system's time"
        )
