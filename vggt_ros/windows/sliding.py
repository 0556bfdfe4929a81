# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which frames stay in the window when the next one comes."""

from collections.abc import Callable, Sequence

from vggt_ros.mapping.map import Map
from vggt_ros.settings import Settings
from vggt_ros.timeline import Window
from vggt_ros.tracking import Tracker


def without_newest(
    window: Window,
    settings: Settings,
    known: Map,
    tracker: Tracker,
    frames: Callable[[Sequence[int]], tuple[int, ...]],
) -> Window:
    """The window that the next frame enters: a newest frame that showed nothing new leaves it.

    A robot at rest, or a fast camera, so keeps the views that made the window worth inferring.
    Of a rig frames are instants; `frames` are those of some of these.
    """
    ids = window.frame_ids
    if known.refused and settings.has_map:
        # What was refused leaves the window; its frames before are the way back to the map.
        back = () if known.lost else [key for key in ids if key in known.frame_ids]
        return window._replace(frame_ids=tuple(back))
    spare = len(ids) == settings.window_size > 1 and settings.stride == 1
    if not (settings.keyframes and spare) or known.is_keyframe():
        return window
    if not tracker.are_known_in(frames(ids[:-1])):
        return window  # the queried points are known in that frame alone
    return window._replace(frame_ids=ids[:-1])
