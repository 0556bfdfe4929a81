# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A transform that changes only with corrections: post-dated and re-sent, as AMCL's map -> odom.

Consumers ask where the robot is now, and an image is a few inferences old when its transform is
known. The robot's own odometry tells how it moved since; what is above that is still valid.
"""

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
from geometry_msgs.msg import TransformStamped
from jaxtyping import Float

from vggt_ros.ros.messages import header, transform_message

MAX_OFFSET_NS = 10_000_000_000  # beyond, image and node have different clocks
RESENT_NS = 3_000_000_000  # after the last update, unless it is kept while the camera is lost

Pose = Float[np.ndarray, "4 4"]


class SlowTransform:
    """Stamps of such a transform: they rise, and lie `tolerance` seconds ahead.

    `now` is the node's clock in nanoseconds; `resends`: `resend` is called now and then;
    `keeps`: for as long as nothing newer is known. Without tolerance and without `resends`
    stamps are those of the images.
    """

    def __init__(
        self,
        now: Callable[[], int],
        publish: Callable[[list[TransformStamped]], object],
        *,
        tolerance: float,
        resends: bool,
        keeps: bool,
    ):
        self._now, self._publish, self._keeps = now, publish, keeps
        self._tolerance_ns, self._resends = round(tolerance * 1e9), resends
        self._newest: tuple[str, str, Pose] | None = None  # parent, child
        self._newest_ns = self._last_ns = -1  # by the node's clock when set; the last stamp sent
        self._lock = Lock()
        self.problem = ""  # why it is not re-sent

    @property
    def is_on(self) -> bool:
        """Whether stamps differ from those of the images."""
        return self._tolerance_ns > 0 or self._resends

    def messages(
        self, parent: str, child: str, poses: Sequence[tuple[int, Pose]]
    ) -> list[TransformStamped]:
        """To be sent for poses (`parent_from_child`) at the stamps of images, oldest first."""
        with self._lock:
            stamps: list[tuple[int, Pose]] = []
            for ns, pose in poses:
                if not self.is_on or ns > self._last_ns:  # else what was sent covers it
                    stamps.append((ns, pose))
                    self._last_ns = max(ns, self._last_ns)
            if poses and self.is_on:
                ns, pose = poses[-1]
                self._newest = parent, child, pose
                ahead = self._ahead(ns)
                if ahead > self._last_ns:
                    stamps.append((ahead, pose))
                    self._last_ns = ahead
        return [transform_message(header(ns, parent), child, pose) for ns, pose in stamps]

    def stop(self) -> None:
        """What was sent is not known to be valid any more."""
        with self._lock:
            self._newest = None

    def reset(self) -> None:
        """Another timeline, whose stamps may be older."""
        with self._lock:
            self._newest, self._last_ns = None, -1

    def resend(self) -> None:
        """The newest one once more, stamped by the node's clock."""
        with self._lock:
            now = self._now()
            is_old = not 0 <= now - self._newest_ns <= RESENT_NS
            if self._newest is None or (is_old and not self._keeps):
                return
            stamp = now + self._tolerance_ns
            if stamp <= self._last_ns:  # a paused simulation, or a clock that went back
                return
            self._last_ns = stamp
            parent, child, pose = self._newest
            self._publish([transform_message(header(stamp, parent), child, pose)])

    def _ahead(self, ns: int) -> int:
        """The stamp to send at, of an image at `ns`."""
        self._newest_ns, self.problem = self._now(), ""
        if not self._resends:
            return ns + self._tolerance_ns
        if abs(offset := self._newest_ns - ns) <= MAX_OFFSET_NS:
            return max(ns, self._newest_ns) + self._tolerance_ns
        self._newest = None
        side = "behind" if offset > 0 else "ahead of"
        self.problem = (
            f"transform_rate_hz is not used: images are stamped {abs(offset) * 1e-9:.0f} s {side}"
            " the ROS clock; synchronise both, or set use_sim_time"
        )
        return ns + self._tolerance_ns
