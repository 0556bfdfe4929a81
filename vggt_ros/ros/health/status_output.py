# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the map is doing: as a message, and as rows and a warning of /diagnostics."""

from collections.abc import Callable

from vggt_ros.frames import Update
from vggt_ros.mapping.status import LOST, RELOCALISING, STATES, UNCERTAIN
from vggt_ros.msg import MapStatus
from vggt_ros.ros import messages
from vggt_ros.ros.health.alarms import WARN, Problem, RecentShare
from vggt_ros.ros.health.reports import scale_of

PATIENCE = 3.0  # seconds in a state that should pass, from which it is a warning
MAX_REFUSED = 5  # windows in a row that do not fit the map, from which it is a warning,
MAX_REFUSED_SHARE = 0.2  # and this share of the last 30
SLOWLY = (
    "move more slowly, towards static surfaces with texture,"
    " then call ~/reset if it does not recover"
)
ADVICE = {
    UNCERTAIN: "move more slowly, towards static surfaces with texture",
    RELOCALISING: "bring the camera back to where it has been; this part of the map is kept, and"
    " joined to the rest when they meet",
    LOST: SLOWLY,
}


def status_message(update: Update, world_frame: str) -> MapStatus:
    """State of the map after an update."""
    status = update.status
    return MapStatus(
        header=messages.header(update.views[-1].stamp_ns, world_frame),
        state=STATES.index(status.state),
        segment=status.segment,
        segments=status.segments,
        keyframes=status.keyframes,
        loops_closed=status.loops_closed,
        loops_tried=status.loops_tried,
        residual=status.residual,
        noise=status.noise,
        scale_source=update.scale_source,
        metric=update.metric,
        scale_sigma=update.scale.sigma,
        reason=status.reason,
    )


def initial_status(world_frame: str) -> MapStatus:
    """That no window is registered yet; there is no image to have the stamp of."""
    return MapStatus(
        header=messages.header(0, world_frame),
        state=MapStatus.INITIALISING,
        scale_source="none",
        scale_sigma=float("inf"),
    )


def status_text(update: Update) -> str:
    """The same in three lines, to be shown beside the map; the reason is a fourth one."""
    status = update.status
    loops = f"{status.loops_closed} loop{'s' * (status.loops_closed != 1)} closed"
    keyframes = f"{status.keyframes} keyframe{'s' * (status.keyframes != 1)}"
    lines = [status.state, f"{keyframes}, {loops}", scale_of(update)]
    return "\n".join([*lines, status.reason] if status.reason else lines)


class MapHealth:
    """What /diagnostics says of the map.  `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._update: Update | None = None
        self._since = clock()  # in this state
        self._refused_in_a_row = 0  # windows that did not fit the map
        share = MAX_REFUSED_SHARE
        self._refused = RecentShare(30, least=20, begins=share, ends=0.5 * share)
        self._reason = ""  # why the last of them did not
        self.windows_refused = self.windows_doubtful = 0

    def add(self, update: Update) -> None:
        """One more update."""
        if self._update is None or update.status.state != self._update.status.state:
            self._since = self._clock()
        refused = not update.registration.accepted
        self._refused_in_a_row = self._refused_in_a_row + 1 if refused else 0
        self._refused.add(refused)
        self._reason = update.registration.reason if refused else self._reason
        self.windows_refused += refused
        self.windows_doubtful += update.registration.doubtful
        self._update = update

    @property
    def state(self) -> str:
        """Of `mapping.status.STATES`."""
        return "no inference yet" if self._update is None else self._update.status.state

    def values(self) -> dict[str, object]:
        """Keys and values of the newest update."""
        if self._update is None:
            return {"map state": self.state}
        found, status = self._update.registration, self._update.status
        return {
            "map state": status.state,
            "segment": found.segment,
            "segments": status.segments,
            "keyframes": status.keyframes,
            "loops closed": status.loops_closed,
            "loops tried": status.loops_tried,
            "loop closure": status.graph or "on",
            "registration residual": f"{found.residual:.4f}",
            "registration noise": f"{status.noise:.4f}",
            "registration inlier share": f"{found.inlier_share:.2f}",
            "registration": found.reason or "accepted",
            "map reason": status.reason or "none",
            "windows refused": self.windows_refused,
            "windows refused lately": f"{self._refused.share:.0%}",
            "windows doubtful": self.windows_doubtful,
        }

    def problems(self, *, is_noise: bool) -> list[Problem]:
        """What is wrong and what to do; `is_noise`: the network has random weights."""
        if self._update is None:
            return []
        text = self._refusals() or self._lasting_state()
        if text:
            expected = "expected, since the weights are random and their geometry is noise"
            advice = expected if is_noise else ADVICE.get(self.state, SLOWLY)
            text = f"{text}; {advice}"
        return [
            Problem("map", "windows", WARN, text),
            Problem("map", "loops", WARN, self._update.status.graph),
        ]

    def _refusals(self) -> str:
        if self._refused_in_a_row >= MAX_REFUSED:
            return f"{self._refused_in_a_row} windows in a row do not fit the map: {self._reason}"
        if self._refused.is_high:
            share = f"{self._refused.share:.0%} of the last {self._refused.total} windows"
            return f"{share} do not fit the map: {self._reason}"
        return ""

    def _lasting_state(self) -> str:
        assert self._update is not None
        status, reason = self._update.status, self._update.registration.reason
        seconds = self._clock() - self._since
        if status.state not in ADVICE or seconds <= PATIENCE:
            return ""
        reason = status.reason or reason
        return f"{status.state} for {seconds:.0f} s" + (f": {reason}" if reason else "")
