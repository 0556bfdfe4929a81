# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What an update changes in all that was published before it: path and cloud follow the map."""

from collections.abc import Mapping
from typing import NamedTuple

from vggt_ros.frames import Update, View
from vggt_ros.mapping.corrections import Correction, KeyframeFollower, KeyframePoses, shared_rows


class Change(NamedTuple):
    """Between the last update and this one."""

    correction: Correction
    segments: Mapping[int, int]  # of keyframes whose segment is another one now, and of heirs
    # That is shown: of the newest window that was registered, and all tied to it. Of a loaded map
    # instead, until the camera is found in it.
    segment: int
    is_other_map: bool  # nothing ties this update to those before

    def segment_of(self, view: View, keyframes: KeyframePoses) -> int:
        """The segment that a view is in now."""
        return keyframes.segment(view.keyframe) if view.keyframe in keyframes else view.segment


class MapFollower:
    """Compares each update with the one before.  Used by the sender's thread alone."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The next update is of another map."""
        self._follower = KeyframeFollower()
        self._segment, self._keyframe = 0, -1  # of the newest window that was registered

    def follow(self, update: Update) -> Change:
        """Every update must be shown, in order."""
        found, newest = update.registration, update.views[-1]
        other = _is_other_map(update, self._follower.poses, update.keyframes)
        registered = (found.segment, newest.keyframe) if found.accepted else None
        change = self._change(update.keyframes, registered)
        sought_in = update.status.sought_in
        shown = change.segment if sought_in is None else sought_in
        return change._replace(segment=shown, is_other_map=other)

    def settle(self, now: KeyframePoses) -> Change:
        """Keyframes moved after the last update."""
        return self._change(now, None)

    def _change(self, now: KeyframePoses, registered: tuple[int, int] | None) -> Change:
        """`registered`: segment and keyframe of a window that was."""
        then = self._follower.poses
        correction = self._follower.follow(now)
        segments = {} if now is then else _renumbered(then, now)
        for heir in correction.heirs.values():
            if heir in now:
                segments[heir] = now.segment(heir)
        self._keyframe = correction.heirs.get(self._keyframe, self._keyframe)
        if registered is not None:
            self._segment, self._keyframe = registered
        if self._keyframe in now:
            self._segment = now.segment(self._keyframe)
        return Change(correction, segments, self._segment, False)


def _is_other_map(update: Update, then: KeyframePoses, now: KeyframePoses) -> bool:
    if not len(then.ids) and not len(now.ids):  # a map without keyframes
        return update.fresh == len(update.views)
    if not len(then.ids):
        return False
    inherited = any(key in then for key in now.heirs)
    return not inherited and not len(shared_rows(then, now)[0])


def _renumbered(then: KeyframePoses, now: KeyframePoses) -> dict[int, int]:
    """Keyframes of both snapshots whose segment has another number now."""
    before, after = shared_rows(then, now)
    after = after[then.segments[before] != now.segments[after]]
    return dict(zip(now.ids[after].tolist(), now.segments[after].tolist(), strict=True))
