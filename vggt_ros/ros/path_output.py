# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The path: the registered frames, each at its own stamp, in the segment that is shown.

A pose belongs to a keyframe and moves with it, so a correction costs as much as there are poses
that move. Frames of refused windows are left out, since their poses are predicted; those that a
later window still has are filled in once it is registered. Other segments of the map are kept and
hidden, as their voxels are, until they are tied to this one.
"""

from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import PoseStamped
from jaxtyping import Float
from nav_msgs.msg import Path

from vggt_ros.frames import Update, View
from vggt_ros.geometry import Similarity
from vggt_ros.ros import messages
from vggt_ros.ros.following import Change


@dataclass(slots=True)
class _Entry:
    stamp_ns: int
    keyframe: int
    segment: int
    world_from_camera: Float[np.ndarray, "4 4"]
    message: PoseStamped


class PathOutput:
    """Poses in `frame_id`, oldest first.  Used by the sender's thread alone."""

    def __init__(self, frame_id: str):
        self._frame_id = frame_id
        self.clear()

    def clear(self) -> None:
        """Discard all poses."""
        self._entries: dict[int, _Entry] = {}  # by stamp, in order
        self._of_keyframe: dict[int, dict[int, _Entry]] = {}
        self._stale: dict[int, _Entry] = {}  # whose message is not where the pose is
        self._segment = 0  # shown
        self._shown: list[PoseStamped] | None = []  # None: to be collected
        self.has_changed = False  # since the last message

    @property
    def poses(self) -> tuple[PoseStamped, ...]:
        """The poses that are shown."""
        return tuple(self._collected())

    def update(self, update: Update, change: Change, max_length: int) -> None:
        """Follow the map, then add the frames of a registered window that are not there yet.

        The oldest beyond `max_length` are discarded.
        """
        if change.is_other_map:
            self.clear()
        self.follow(change)
        full = len(self._entries) >= max_length
        oldest = next(iter(self._entries)) if full else 0
        for view in update.views if update.registration.accepted else ():
            if view.stamp_ns not in self._entries and view.stamp_ns > oldest:
                self._add(view, change.segment_of(view, update.keyframes))
        if change.segment != self._segment:
            self._segment, self._shown, self.has_changed = change.segment, None, True
        while len(self._entries) > max_length:
            self._discard(next(iter(self._entries.values())))

    def message(self) -> Path:
        """All poses that are shown; the header is that of the newest."""
        poses = self._collected()
        head = poses[-1].header if poses else messages.header(0, self._frame_id)
        self.has_changed = False
        return messages.path_message(head, poses)

    def _collected(self) -> list[PoseStamped]:
        if self._stale:
            stale = self._stale.values()
            poses = np.stack([entry.world_from_camera for entry in stale])
            messages.set_poses([entry.message.pose for entry in stale], poses)
            self._stale = {}
        if self._shown is None:
            entries = self._entries.values()
            self._shown = [entry.message for entry in entries if entry.segment == self._segment]
        return self._shown

    def _add(self, view: View, segment: int) -> None:
        message = messages.pose_message(
            messages.header(view.stamp_ns, self._frame_id), view.world_from_camera
        )
        entry = _Entry(view.stamp_ns, view.keyframe, segment, view.world_from_camera, message)
        is_newest = not self._entries or view.stamp_ns > next(reversed(self._entries))
        self._entries[view.stamp_ns] = entry
        self._of_keyframe.setdefault(view.keyframe, {})[view.stamp_ns] = entry
        self.has_changed = True
        if not is_newest:  # a frame of a window that was refused
            self._entries = dict(sorted(self._entries.items()))
            self._shown = None
        elif self._shown is not None and segment == self._segment:
            self._shown.append(message)

    def _discard(self, entry: _Entry) -> None:
        del self._entries[entry.stamp_ns]
        self._stale.pop(entry.stamp_ns, None)
        siblings = self._of_keyframe[entry.keyframe]
        del siblings[entry.stamp_ns]
        if not siblings:
            del self._of_keyframe[entry.keyframe]
        if self._shown and self._shown[0] is entry.message:
            del self._shown[0]

    def _move(self, moved: list[tuple[_Entry, Similarity]]) -> None:
        """Move poses, all at once; their messages follow when they are sent."""
        before = np.stack([entry.world_from_camera for entry, _ in moved])
        scale = np.array([[motion.scale] for _, motion in moved])
        rotation = np.stack([motion.rotation for _, motion in moved])
        shift = np.stack([motion.translation for _, motion in moved])
        after = before.copy()
        after[:, :3, :3] = rotation @ before[:, :3, :3]
        after[:, :3, 3] = scale * (rotation @ before[:, :3, 3:])[..., 0] + shift
        for (entry, _), pose in zip(moved, after, strict=True):
            entry.world_from_camera = pose
            self._stale[entry.stamp_ns] = entry
        self.has_changed = True

    def follow(self, change: Change) -> None:
        """Move the poses with their keyframes."""
        moved = [
            (entry, now_from_then)
            for key, now_from_then in change.correction.moved.items()
            for entry in self._of_keyframe.get(key, {}).values()
        ]
        if moved:
            self._move(moved)
        for key, heir in change.correction.heirs.items():
            inherited = self._of_keyframe.pop(key, {})
            for entry in inherited.values():
                entry.keyframe = heir
            if inherited:
                self._of_keyframe.setdefault(heir, {}).update(inherited)
        for key, segment in change.segments.items():
            for entry in self._of_keyframe.get(key, {}).values():
                if entry.segment != segment:
                    entry.segment, self._shown, self.has_changed = segment, None, True
