# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a run stand in the map, and how the map moved them after they were written.

A frame belongs to a keyframe, and through it to a segment. Each snapshot of the keyframes moves the
frames (a loop was closed, segments were tied, the scale became known); files follow once, at the
end.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.corrections import KeyframeFollower, KeyframePoses
from vggt_ros.mapping.status import NO_STATUS, MapStatus


class _Map(NamedTuple):
    """The last that was heard of a map; the pipeline starts another where the stream changes."""

    keyframes: KeyframePoses = KeyframePoses.empty()
    status: MapStatus = NO_STATUS


class PlacedFrames:
    """The place of every frame on disk, oldest first."""

    def __init__(self) -> None:
        self.uncertain: list[int] = []  # frames whose window was refused or doubtful
        self._maps = [_Map()]
        self._follower = KeyframeFollower()
        self._moved: list[Similarity] = []  # now_from_then of the world near each frame
        self._segments: list[tuple[int, int]] = []  # of each frame: map, segment in that map
        self._begun: set[tuple[int, int]] = set()
        self._because: dict[int, str] = {}  # why a segment began, by its first frame
        self._index: dict[int, int] = {}  # on disk, by the frame's id in the pipeline
        self._members: dict[int, list[int]] = {}  # keyframe of this map: its frames
        self._newest = -1  # keyframe of the newest frame

    def follow(self, keyframes: KeyframePoses, status: MapStatus | None = None) -> None:
        """Move the frames with their keyframes; to be called before those of the update are added.

        Without a status that of the last update holds.
        """
        if _is_another_map(self._maps[-1].keyframes, keyframes):
            self._update_segments()
            self._maps.append(_Map())
            self._follower, self._members, self._newest = KeyframeFollower(), {}, -1
        self._maps[-1] = _Map(keyframes, status or self._maps[-1].status)
        moved, heirs = self._follower.follow(keyframes)
        for key, now_from_then in moved.items():
            for index in self._members.get(key, ()):
                self._moved[index] = now_from_then @ self._moved[index]
        for key, heir in heirs.items():
            self._members.setdefault(heir, []).extend(self._members.pop(key, ()))
        self._newest = heirs.get(self._newest, self._newest)

    def add(
        self, frame_id: int, keyframe: int, segment: int, *, uncertain: bool, because: str = ""
    ) -> None:
        """One more frame was written. One without a keyframe (-1) moves with the frame before.

        `because`: why a segment that it begins, began.
        """
        self._newest = keyframe if keyframe >= 0 else self._newest
        self._index[frame_id] = index = len(self._moved)
        self._members.setdefault(self._newest, []).append(index)
        self._moved.append(Similarity.identity())
        self._segments.append((len(self._maps) - 1, segment))
        if self._segments[-1] not in self._begun:
            self._begun.add(self._segments[-1])
            self._because[index] = because
        if uncertain:
            self.uncertain.append(index)

    def take_motions(self) -> list[Similarity]:
        """How each frame has moved (`now_from_then`, world) since it was written or last taken."""
        moved, self._moved = self._moved, [Similarity.identity() for _ in self._moved]
        return moved

    def stretches(self) -> tuple[list[int], list[int]]:
        """First frame of each stretch of frames of one segment, and the number of that segment.

        Segments are numbered as they appear; one that the camera came back to appears again.
        """
        self._update_segments()
        number = {segment: i for i, segment in enumerate(dict.fromkeys(self._segments))}
        numbers = [number[segment] for segment in self._segments]
        firsts = [i for i, (a, b) in enumerate(pairwise([-1, *numbers])) if a != b]
        return firsts, [numbers[first] for first in firsts]

    def reasons(self) -> list[str]:
        """Why each segment began, in the order of their numbers; empty for the first."""
        firsts, numbers = self.stretches()
        first_of: dict[int, int] = {}
        for first, number in zip(firsts, numbers, strict=True):
            first_of.setdefault(number, first)
        return [self._because.get(first, "") if first else "" for first in first_of.values()]

    def keyframes(self) -> list[int]:
        """The frames that the maps keep as keyframes."""
        ids = (key for m in self._maps for key in m.keyframes.ids.tolist())
        return sorted(self._index[key] for key in ids if key in self._index)

    def loops(self) -> list[list[int]]:
        """Pairs of keyframes that a closed loop joins, as frames."""
        pairs = (pair for m in self._maps for pair in m.keyframes.loops.tolist())
        return [
            [self._index[key] for key in pair] for pair in pairs if self._index.keys() >= {*pair}
        ]

    def figures(self) -> dict[str, Any]:
        """Of the map, for the summary: all maps of the run together."""
        newest = self._maps[-1].status
        return {
            "keyframes": sum(len(m.keyframes.ids) for m in self._maps),
            "loops_closed": sum(m.status.loops_closed for m in self._maps),
            "loops_tried": sum(m.status.loops_tried for m in self._maps),
            "segments": len(set(self.stretches()[1])),
            "noise": round(float(newest.noise), 6),
            "graph": newest.graph,
        }

    def _update_segments(self) -> None:
        """Frames of this map take the segment that their keyframe is tied to now."""
        now = self._maps[-1].keyframes
        segments = dict(zip(now.ids.tolist(), now.segments.tolist(), strict=True))
        for key in self._members.keys() & segments.keys():
            for index in self._members[key]:
                self._segments[index] = (len(self._maps) - 1, segments[key])


def _is_another_map(then: KeyframePoses, now: KeyframePoses) -> bool:
    """Whether nothing is left of a map: frame ids never repeat, and a keyframe leaves an heir."""
    left = np.isin(then.ids, now.ids).any() or any(key in then for key in now.heirs)
    return len(then.ids) > 0 and not left
