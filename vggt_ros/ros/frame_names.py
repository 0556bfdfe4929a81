# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of frames as tf2 has them: without the leading slash that some drivers still send."""

from collections.abc import Callable, Mapping
from itertools import combinations

from vggt_ros.errors import UserError

# Parameters that name frames, and those of them that the transforms of a mode connect.
FRAMES = "world_frame", "base_frame", "odom_frame", "visual_odom_frame", "camera_frame"
CONNECTED = {
    "camera": ("world_frame", "camera_frame", "visual_odom_frame"),
    "auto": ("world_frame", "camera_frame", "visual_odom_frame"),
    "odom_to_base": ("odom_frame", "base_frame", "world_frame"),
    "map_to_odom": ("world_frame", "odom_frame", "base_frame", "visual_odom_frame"),
}


def frame_name(name: str) -> str:
    """The name without leading slashes; tf2 refuses to look up one that has any."""
    return name.lstrip("/")


class FrameNames:
    """Strips the names that one part of the node receives, with one notice for each source."""

    def __init__(self, notify: Callable[[str], object]):
        self._notify = notify
        self._said: set[str] = set()  # sources

    def of(self, source: str, name: str) -> str:
        """The name without a leading slash; `source` says where it was found."""
        if not name.startswith("/"):
            return name
        found = frame_name(name)
        if source not in self._said:
            self._said.add(source)
            self._notify(
                f"{source} has frame '{name}' with a leading slash, which tf2 refuses: '{found}' is"
                " used and sent instead; remove the slash at its source"
            )
        return found


def check_frames(mode: str, frames: Mapping[str, str]) -> None:
    """Raises `UserError` for a frame without a name, and for two that `tf_mode` connects as one.

    Empty, `camera_frame` is the image's own.
    """
    for name in FRAMES:
        if name != "camera_frame" and not frame_name(frames[name]):
            raise UserError(
                f"{name} is '{frames[name]}': tf2 has no frame without a name; give it one"
            )
    for one, other in combinations(CONNECTED.get(mode, ()), 2):
        if frame_name(frames[one]) == frame_name(frames[other]):
            raise UserError(
                f"{one} and {other} are both '{frames[one]}', and tf_mode {mode}"
                " sends transforms that connect them; give them different names"
            )
