# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the map is doing, in the words of `vggt_ros/MapStatus`."""

from typing import NamedTuple

INITIALISING = "initialising"  # no window is registered yet
TRACKING = "tracking"  # the newest window is registered
UNCERTAIN = "uncertain"  # it is doubtful, or was refused a moment ago: the pose is predicted
RELOCALISING = "relocalising"  # the camera is compared with older keyframes, to find it again
LOST = "lost"  # windows do not even fit each other: no map can be made of them
ESTABLISHED = 4  # keyframes from which a new segment is a map that the camera is located in
STATES = (INITIALISING, TRACKING, UNCERTAIN, RELOCALISING, LOST)


class MapStatus(NamedTuple):
    """State of the map after an inference."""

    state: str = INITIALISING
    segment: int = 0  # that the newest window belongs to
    segments: int = 0  # that are not tied to each other
    keyframes: int = 0  # of all segments
    loops_closed: int = 0
    loops_tried: int = 0  # inferences that had an old keyframe as an extra view
    residual: float = 0.0  # rms disagreement of the newest window's cameras with the map's
    noise: float = 0.0  # what the network's residual usually is; both as shares of scene depth
    reason: str = ""  # why the newest window is doubtful or refused, or the last loop was not
    graph: str = ""  # "" or why loops are not sought or not closed
    sought_in: int | None = None  # segment of a loaded map that the camera is still to be found in


NO_STATUS = MapStatus()


def tracking_state(
    *,
    begun: bool,
    accepted: bool,
    doubtful: bool,
    lost: bool,
    searching: bool,
    keyframes: int,
    sought: bool = False,
) -> str:
    """One of `STATES`, by how the newest window was registered.

    `searching`: there is an older segment that the present one, which has that many `keyframes`,
    may be a part of. `sought`: the same, and only the older one counts as a map.
    """
    if not begun:
        return INITIALISING
    if not accepted:
        return LOST if lost or keyframes < 2 else UNCERTAIN
    if sought or (searching and keyframes < ESTABLISHED):
        return RELOCALISING
    return UNCERTAIN if doubtful else TRACKING
