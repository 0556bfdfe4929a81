# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The path: the registered frames, each at its own stamp, in the segment that is shown.

A pose belongs to a keyframe and moves with it. Poses are kept as they are published: one array of
serialised records, in which corrections are made in place; so a message costs a copy of it. Frames
of refused windows are left out, since their poses are predicted; those that a later window still
has are filled in once it is registered. Other segments of the map are kept and hidden, as their
voxels are, until they are tied to this one.
"""

from collections.abc import Mapping

import numpy as np
from geometry_msgs.msg import PoseStamped
from jaxtyping import Float, Int, Shaped
from nav_msgs.msg import Path
from rclpy.serialization import deserialize_message

from vggt_ros.frames import Update
from vggt_ros.geometry import (
    Similarity,
    one_quaternion,
    quaternion_from_rotation,
    rotation_from_quaternion,
)
from vggt_ros.ros.publishing.following import Change
from vggt_ros.ros.publishing.serialised import PathBytes

SPARE = 256  # entries for which there is room at least
ENTRY = np.dtype([("stamp_ns", "i8"), ("keyframe", "i8"), ("segment", "i8")])


class PathOutput:
    """Poses in `frame_id`, oldest first.  Used by the sender's thread alone."""

    def __init__(self, frame_id: str):
        self._bytes = PathBytes(frame_id)
        self.clear()

    def clear(self) -> None:
        """Discard all poses."""
        self._entries = np.zeros(SPARE, ENTRY)  # by rising stamp, from `_start` to `_end`
        self._records = self._bytes.records(SPARE)  # the same poses as they are published
        self._start = self._end = 0
        self._segment = 0  # shown
        self.has_changed = False  # since the last message

    @property
    def poses(self) -> tuple[PoseStamped, ...]:
        """The poses that are shown."""
        return tuple(deserialize_message(self._bytes.message(self._shown()), Path).poses)

    @property
    def is_empty(self) -> bool:
        """Whether no pose is shown."""
        return len(self._shown()) == 0

    def update(self, update: Update, change: Change, max_length: int) -> None:
        """Follow the map, then add the frames of a registered window that are not there yet.

        The oldest beyond `max_length` are discarded.
        """
        if change.is_other_map:
            self.clear()
        self.follow(change)
        full = self._end - self._start >= max_length
        oldest = self._known["stamp_ns"][0] if full else 0
        for view in update.views if update.registration.accepted else ():
            if view.stamp_ns > oldest:
                segment = change.segment_of(view, update.keyframes)
                self._add((view.stamp_ns, view.keyframe, segment), view.world_from_camera)
        if change.segment != self._segment:
            self._segment, self.has_changed = change.segment, True
        self._start = max(self._start, self._end - max_length)

    def message(self) -> bytes:
        """All poses that are shown, as a serialised `Path`; the header is that of the newest."""
        self.has_changed = False
        return self._bytes.message(self._shown())

    @property
    def _known(self) -> Shaped[np.ndarray, "n"]:
        return self._entries[self._start : self._end]

    def _shown(self) -> Shaped[np.ndarray, "n"]:
        records = self._records[self._start : self._end]
        shown = self._known["segment"] == self._segment
        return records if shown.all() else records[shown]

    def _add(
        self, entry: tuple[int, int, int], world_from_camera: Float[np.ndarray, "4 4"]
    ) -> None:
        """One more pose, with its stamp, keyframe and segment; not if that stamp is there."""
        at = self._start + int(np.searchsorted(self._known["stamp_ns"], entry[0]))
        if at < self._end and self._entries["stamp_ns"][at] == entry[0]:
            return
        if self._end == len(self._entries):
            at -= self._make_room()
        if at < self._end:  # a frame of a window that was refused
            for rows in (self._entries, self._records):
                rows[at + 1 : self._end + 1] = rows[at : self._end].copy()
        self._entries[at] = entry
        record = self._records[at]
        record["seconds"], record["nanoseconds"] = divmod(entry[0], 10**9)
        record["position"] = world_from_camera[:3, 3]
        record["quaternion"] = one_quaternion(world_from_camera[:3, :3])
        self._end += 1
        self.has_changed = True

    def _make_room(self) -> int:
        """Move the entries to the front of arrays of twice their number; returns by how much."""
        moved, count = self._start, self._end - self._start
        entries, records = self._entries, self._records
        self._entries = np.zeros(2 * count + SPARE, ENTRY)
        self._records = self._bytes.records(len(self._entries))
        self._entries[:count] = entries[self._start : self._end]
        self._records[:count] = records[self._start : self._end]
        self._start, self._end = 0, count
        return moved

    def follow(self, change: Change) -> None:
        """Move the poses with their keyframes."""
        if change.correction.moved:
            self._move(change.correction.moved)
        keyframes = self._known["keyframe"]
        for key, heir in change.correction.heirs.items():
            keyframes[keyframes == key] = heir
        if change.segments:
            rows, places = self._rows_of(change.segments)
            segments = np.array(list(change.segments.values()))[places]
            other = self._known["segment"][rows] != segments
            self._known["segment"][rows[other]] = segments[other]
            self.has_changed |= bool(other.any())

    def _move(self, moved: Mapping[int, Similarity]) -> None:
        rows, places = self._rows_of(moved)
        if not len(rows):
            return
        motions = list(moved.values())
        used = {place: motions[place] for place in np.unique(places).tolist()}
        compact = np.searchsorted(list(used), places)
        scale = np.array([[motion.scale] for motion in used.values()])[compact]
        rotation = np.stack([motion.rotation for motion in used.values()])[compact]
        shift = np.stack([motion.translation for motion in used.values()])[compact]
        records = self._records[self._start : self._end]
        there, axes = records["position"][rows], records["quaternion"][rows]
        records["position"][rows] = scale * (rotation @ there[..., None])[..., 0] + shift
        turned = rotation @ rotation_from_quaternion(axes)
        records["quaternion"][rows] = quaternion_from_rotation(turned)
        self.has_changed = True

    def _rows_of(
        self, keys: Mapping[int, object]
    ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Rows of the poses of these keyframes, and of each the place of its key in `keys`."""
        ids = np.fromiter(keys, np.int64, len(keys))
        order = np.argsort(ids)
        keyframes = self._known["keyframe"]
        places = np.minimum(np.searchsorted(ids, keyframes, sorter=order), len(ids) - 1)
        places = order[places]
        rows = np.flatnonzero(ids[places] == keyframes)
        return rows, places[rows]
