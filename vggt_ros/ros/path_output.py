# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The path: every published pose at its own stamp, moved where its segment is rescaled."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import PoseStamped
from jaxtyping import Float
from nav_msgs.msg import Path

from vggt_ros.frames import View
from vggt_ros.geometry import scale_points
from vggt_ros.ros import messages


class PathOutput:
    """Poses in `frame_id`, oldest first.  Used by the sender's thread alone."""

    def __init__(self, frame_id: str):
        self._frame_id = frame_id
        self._poses: deque[PoseStamped] = deque()
        self._segments: deque[int] = deque()  # of the map, for each pose

    @property
    def poses(self) -> tuple[PoseStamped, ...]:
        """The poses that are kept."""
        return tuple(self._poses)

    def add(self, views: Sequence[View], segment: int, max_length: int) -> None:
        """Append the poses of these views; the oldest beyond `max_length` are discarded."""
        for view in views:
            head = messages.header(view.stamp_ns, self._frame_id)
            self._poses.append(messages.pose_message(head, view.world_from_camera))
            self._segments.append(segment)
        while len(self._poses) > max_length:
            self._poses.popleft()
            self._segments.popleft()

    def rescale(self, segment: int, factor: float, about: Float[np.ndarray, "3"]) -> None:
        """Rescale the poses of a segment about a point; all poses, if it is the first segment."""
        for pose, own_segment in zip(self._poses, self._segments, strict=True):
            if segment in (0, own_segment):
                position = pose.pose.position
                xyz = np.array([position.x, position.y, position.z])
                position.x, position.y, position.z = scale_points(xyz, factor, about).tolist()

    def clear(self) -> None:
        """Discard all poses."""
        self._poses.clear()
        self._segments.clear()

    def message(self) -> Path:
        """All poses; the header is that of the newest."""
        head = self._poses[-1].header if self._poses else messages.header(0, self._frame_id)
        return messages.path_message(head, list(self._poses))
