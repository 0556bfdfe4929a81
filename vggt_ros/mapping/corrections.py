# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where every keyframe stands, and how whatever belongs to a keyframe follows a correction of it.

Poses, points and frames on disk each belong to a keyframe. The map hands out a snapshot of all its
keyframes; an owner of older poses compares it with the last one that it saw and moves its own.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vggt_ros.geometry import Similarity

SAME = 1e-9  # change of a pose's numbers below which it did not move

NO_PAIRS = np.zeros((0, 2), np.int64)
NO_PAIRS.flags.writeable = False  # it is shared


class KeyframePoses(NamedTuple):
    """An immutable snapshot of all keyframes of all segments, by rising frame id.

    `world_from_keyframe` of each is a similarity: its scale is by how much the lengths near that
    keyframe were multiplied since they were first placed.
    """

    ids: Int[np.ndarray, "n"]
    stamps_ns: Int[np.ndarray, "n"]
    segments: Int[np.ndarray, "n"]  # keyframes of one number are tied to each other
    scale: Float[np.ndarray, "n"]
    rotation: Float[np.ndarray, "n 3 3"]
    translation: Float[np.ndarray, "n 3"]
    loops: Int[np.ndarray, "m 2"] = NO_PAIRS  # ids of keyframes that a loop joins
    heirs: Mapping[int, int] = {}  # noqa: RUF012 (never written) removed keyframe: its heir

    @classmethod
    def empty(cls) -> "KeyframePoses":
        """No keyframe."""
        none = np.zeros(0, np.int64)
        return cls(none, none, none, np.zeros(0), np.zeros((0, 3, 3)), np.zeros((0, 3)))

    def __contains__(self, frame_id: object) -> bool:
        return self._row(frame_id) is not None

    def _row(self, frame_id: object) -> int | None:
        row = int(self.ids.searchsorted(frame_id))  # type: ignore[call-overload]
        return row if row < len(self.ids) and self.ids[row] == frame_id else None

    def world_from_keyframe(self, frame_id: int) -> Similarity:
        """Of one keyframe.  Raises `KeyError` for one that is not there."""
        row = self._row(frame_id)
        if row is None:
            raise KeyError(frame_id)
        return Similarity(float(self.scale[row]), self.rotation[row], self.translation[row])

    def segment(self, frame_id: int) -> int:
        """The segment it is tied to now.  Raises `KeyError` for one that is not there."""
        row = self._row(frame_id)
        if row is None:
            raise KeyError(frame_id)
        return int(self.segments[row])


def shared_rows(
    one: KeyframePoses, other: KeyframePoses
) -> tuple[Int[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """The rows of the keyframes that are in both snapshots, by rising frame id."""
    count = min(len(one.ids), len(other.ids))
    if np.array_equal(one.ids[:count], other.ids[:count]):  # none was removed, as most often
        rows = np.arange(count)
        return rows, rows
    _, *rows = np.intersect1d(one.ids, other.ids, assume_unique=True, return_indices=True)
    return rows[0], rows[1]


class Correction(NamedTuple):
    """What changed between two snapshots.

    Whatever belongs to keyframe k is to be moved by `moved[k]` (`now_from_then`, a similarity of
    the world), where k is a key of it, and then belongs to `heirs[k]`, where k is a key of that.
    """

    moved: Mapping[int, Similarity]
    heirs: Mapping[int, int]


class KeyframeFollower:
    """Compares each snapshot with the one before."""

    def __init__(self) -> None:
        self.poses = KeyframePoses.empty()

    def follow(self, now: KeyframePoses) -> Correction:
        """What moved since the last call; every snapshot must be shown, in order."""
        then, self.poses = self.poses, now
        if now is then:
            return Correction({}, {})
        heirs = {key: heir for key, heir in now.heirs.items() if key in then}
        before, after = shared_rows(then, now)
        other = np.zeros(len(before), bool)
        for one, two in (
            (then.scale, now.scale),
            (then.rotation, now.rotation),
            (then.translation, now.translation),
        ):
            change = np.abs(one[before] - two[after])
            numbers = change.size // max(len(before), 1)  # of each keyframe
            other[np.flatnonzero(change.ravel() > SAME) // max(numbers, 1)] = True
        moved = _motions(then, before[other], now, after[other])
        # What belonged to a keyframe that is gone moves as its heir does, which was there before.
        moved |= {key: moved[heir] for key, heir in heirs.items() if heir in moved}
        return Correction(moved, heirs)


def _motions(
    then: KeyframePoses,
    before: Int[np.ndarray, "k"],
    now: KeyframePoses,
    after: Int[np.ndarray, "k"],
) -> dict[int, Similarity]:
    """How each of many keyframes moved, by the rows of both snapshots in which it is."""
    scale = now.scale[after] / then.scale[before]
    rotation = now.rotation[after] @ then.rotation[before].transpose(0, 2, 1)
    turned = (rotation @ then.translation[before][..., None])[..., 0]
    shift = now.translation[after] - scale[:, None] * turned
    columns = zip(now.ids[after].tolist(), scale.tolist(), rotation, shift, strict=True)
    return {key: Similarity(*motion) for key, *motion in columns}
