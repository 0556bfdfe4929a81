# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether layout view_time attends windows by views, as its weights were trained to."""

from collections import Counter, deque

from vggt_ros.frames import Update
from vggt_ros.ros.health.alarms import RecentShare
from vggt_ros.windows.results import BESIDE

RECENT = 30  # windows
MOST = 0.5  # share of them from which it is a warning


class AttentionHealth:
    """How many windows were attended as one sequence; nothing of layouts that never do other."""

    def __init__(self, layout: str = "", cameras: int = 0, given: str = "auto"):
        """`given`: what parameter `layout` says. `cameras` of the rig; 0: there is one camera."""
        self._is_of_rigs, self._cameras = layout == "view_time", cameras
        self._said_by = "the weights say" if given == "auto" else "layout says"
        self._share = RecentShare(RECENT, least=10, begins=MOST, ends=0.8 * MOST)
        self._reasons: deque[str] = deque(maxlen=RECENT)  # of the recent windows
        self._windows = self._sequences = 0

    def add(self, update: Update) -> None:
        """One more window."""
        self._windows += 1
        self._sequences += bool(update.as_sequence)
        self._share.add(bool(update.as_sequence))
        self._reasons.append(update.as_sequence)

    @property
    def rows(self) -> dict[str, str]:
        """Keys and values of the status `network`."""
        if not (self._is_of_rigs and self._windows):
            return {}
        return {
            "windows as one sequence": f"{self._sequences} of {self._windows}",
            "windows as one sequence lately": f"{self._share.share:.0%}",
            "as one sequence": self._reason or "none",
        }

    @property
    def warning(self) -> str:
        """That most windows are one sequence, with figures and what to do; empty: they are not."""
        if not self._is_of_rigs:
            return ""
        if not self._cameras:
            return (
                f"{self._said_by} view_time, which is of the cameras of a rig: images of one camera"
                " are one sequence, as in joint, with which weights that were trained by views are"
                " less accurate; name the rig's cameras in parameter cameras, or set layout to"
                " joint"
            )
        if not self._share.is_high:
            return ""
        return (
            f"{self._share.share:.0%} of the last {self._share.total} windows were attended as one"
            f" sequence, as in joint, though {self._said_by} view_time: {self._reason}; weights"
            f" that were trained by views are less accurate there: {self._advice}"
        )

    @property
    def _reason(self) -> str:
        """The most frequent one of the recent windows; empty: none."""
        kinds = Counter(filter(None, self._reasons)).most_common(1)
        return kinds[0][0] if kinds else ""

    @property
    def _advice(self) -> str:
        if self._reason == BESIDE:
            return "raise loop_period, or set loops to false"
        return (
            "see in status input why images are missing, or set min_cameras to"
            f" {self._cameras}, so that only whole instants are inferred"
        )
