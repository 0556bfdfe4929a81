# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The keyframes of all segments, the edges between them, and which of them are kept.

Poses are held as the arrays of one `KeyframePoses`, replaced at each change: a snapshot costs
nothing, and moving, rescaling or searching thousands of keyframes is a few array operations.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.pose_graph.descriptors import DescriptorTable
from vggt_ros.mapping.pose_graph.edges import LOOP, Edge, EdgeTable, Sigma, search
from vggt_ros.mapping.pose_graph.keyframe import Keyframe, Views, packed, scene_depth

NEWEST = 10  # keyframes that are never thinned: windows still share frames with them
CANDIDATES = 32  # keyframes, spread over all, compared with all others for each that is removed
ALONE = 0.25  # share of the limit that keyframes may be which are all that is left of a segment
ALIKE = 1.05  # redundancies within this factor are the same: the older keyframe goes


class KeyframeStore:
    """Keyframes and edges.  Not thread-safe; its snapshots are immutable."""

    def __init__(self, limit: int = 2000):
        self.limit = limit
        self._frames: dict[int, Keyframe] = {}  # whose pose and segment are those of _poses
        self._poses = KeyframePoses.empty()
        self._scene = np.zeros(0)  # median depth of each, own unit
        self._edges = EdgeTable()
        self._descriptors = DescriptorTable()
        self._heirs: dict[int, int] = {}
        self._removed = 0
        self._snapshot: KeyframePoses | None = None

    def __contains__(self, frame_id: object) -> bool:
        return frame_id in self._frames

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def ids(self) -> Int[np.ndarray, "n"]:
        """Frame ids, rising."""
        return self._poses.ids

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Of all kinds."""
        return self._edges.all()

    @property
    def loops(self) -> tuple[tuple[int, int], ...]:
        """The two frame ids of every edge that is a loop."""
        return tuple((edge.first, edge.second) for edge in self.edges if edge.kind == LOOP)

    def get(self, frame_id: int) -> Keyframe:
        """Raises KeyError for one that is not there."""
        return self._frames[frame_id]._replace(
            world_from_keyframe=self._poses.world_from_keyframe(frame_id),
            segment=self._poses.segment(frame_id),
            descriptor=self._descriptors.get(frame_id),
        )

    def add(self, keyframe: Keyframe) -> None:
        """Raises ValueError for an id that is there already, or a descriptor of another length."""
        key, pose = keyframe.frame_id, keyframe.world_from_keyframe
        if key in self._frames:
            raise ValueError(f"keyframe {key} is in the store already")
        if keyframe.descriptor is not None:
            self._descriptors.put(key, keyframe.descriptor)
        keyframe = keyframe._replace(depth=packed(keyframe.depth), descriptor=None)
        self._frames[key] = keyframe
        old, row = self._poses, int(np.searchsorted(self._poses.ids, key))
        self._scene = np.insert(self._scene, row, scene_depth(keyframe.depth))
        self._change(
            ids=np.insert(old.ids, row, key),
            stamps_ns=np.insert(old.stamps_ns, row, keyframe.stamp_ns),
            segments=np.insert(old.segments, row, keyframe.segment),
            scale=np.insert(old.scale, row, pose.scale),
            rotation=np.insert(old.rotation, row, pose.rotation, axis=0),
            translation=np.insert(old.translation, row, pose.translation, axis=0),
        )

    def replace(self, frame_id: int, **fields: Any) -> None:
        """New values of fields of one keyframe.  Raises KeyError for one that is not there."""
        keyframe = self.get(frame_id)._replace(**fields)
        if keyframe.descriptor is None:
            self._descriptors.remove(frame_id)
        elif "descriptor" in fields:
            self._descriptors.put(frame_id, keyframe.descriptor)
        if "depth" in fields:
            keyframe = keyframe._replace(depth=packed(keyframe.depth))
        self._frames[frame_id] = keyframe._replace(descriptor=None)
        row = int(np.searchsorted(self.ids, frame_id))
        self._scene = _with(self._scene, row, scene_depth(keyframe.depth))
        if fields.keys() & {"segment", "stamp_ns"}:
            segments = _with(self._poses.segments, row, keyframe.segment)
            stamps = _with(self._poses.stamps_ns, row, keyframe.stamp_ns)
            self._change(segments=segments, stamps_ns=stamps)
        if "world_from_keyframe" in fields:
            self.move({frame_id: keyframe.world_from_keyframe})

    def add_edge(self, edge: Edge) -> None:
        """Raises KeyError where either keyframe is not there."""
        for key in edge[:2]:
            if key not in self._frames:
                raise KeyError(key)
        self._edges.put(edge)
        if edge.kind == LOOP:
            self._snapshot = None

    def replace_edge(self, edge: Edge) -> None:
        """In place of those of its kind between its two keyframes, which are both there."""
        self._edges.replace(edge)

    def relative_sigmas(self, frame_id: int, until: int | None = None) -> dict[int, Sigma]:
        """How uncertain this keyframe is seen from others that edges join to it: all, or up to one.

        One sigma of rotation (rad), translation (the other one's own unit) and log scale, as
        `edges.relative_sigma` says it. Raises KeyError for one that is not there.
        """
        place = self._poses.world_from_keyframe(frame_id).translation
        squares = np.sum((self._poses.translation - place) ** 2, axis=1)
        ids = self.ids.tolist()
        return search(
            self._edges,
            frame_id,
            dict(zip(ids, squares.tolist(), strict=True)),
            dict(zip(ids, self._poses.scale.tolist(), strict=True)),
            until,
        )

    # ---- where they are -----------------------------------------------------------------------

    def snapshot(self) -> KeyframePoses:
        """The same object until something of it changed; heirs are those of the last removals."""
        if self._snapshot is None:
            loops = np.array(self.loops, np.int64).reshape(-1, 2)
            self._snapshot = self._poses._replace(loops=loops, heirs=dict(self._heirs))
        return self._snapshot

    def centres(self) -> Views:
        """For a search among all at once; shares memory with the snapshots."""
        poses = self._poses
        return Views(poses.ids, poses.segments, poses.translation, poses.rotation[:, :, 2])

    def descriptors(self) -> tuple[Int[np.ndarray, "n"], Float32[np.ndarray, "n d"]]:
        """Ids, in any order, and descriptors of the keyframes with one; valid until a change."""
        return self._descriptors.all()

    def move(self, poses: Mapping[int, Similarity]) -> None:
        """New `world_from_keyframe` of some; those of keyframes removed meanwhile are left out."""
        keys = np.array([key for key in poses if key in self._frames], np.int64)
        if not len(keys):
            return
        new = [poses[key] for key in keys.tolist()]
        rows = np.searchsorted(self.ids, keys)
        self._change(
            scale=_with(self._poses.scale, rows, [float(pose.scale) for pose in new]),
            rotation=_with(self._poses.rotation, rows, np.stack([p.rotation for p in new])),
            translation=_with(
                self._poses.translation, rows, np.stack([p.translation for p in new])
            ),
        )

    def rescale(
        self, segment: int, factor: float, about: Float[np.ndarray, "3"], since: int = 0
    ) -> None:
        """Every distance of a segment multiplied; the point `about` stays.

        Of the keyframes `since` alone, where their unit is another.
        """
        rows = (self._poses.segments == segment) & (self.ids >= since)
        self._move_rows(rows, Similarity.scaling(factor, about))

    def merge(self, segment: int, into: int, into_from_segment: Similarity) -> None:
        """The keyframes of `segment` move, and are of segment `into` from now on."""
        rows = self._poses.segments == segment
        self._move_rows(rows, into_from_segment)
        self._change(segments=_with(self._poses.segments, rows, into))

    def _move_rows(self, rows: Any, now_from_then: Similarity) -> None:
        poses = self._poses
        self._change(
            scale=_with(poses.scale, rows, now_from_then.scale * poses.scale[rows]),
            rotation=_with(poses.rotation, rows, now_from_then.rotation @ poses.rotation[rows]),
            translation=_with(
                poses.translation, rows, now_from_then.apply(poses.translation[rows])
            ),
        )

    def _change(self, **arrays: Any) -> None:
        self._poses = self._poses._replace(**arrays)
        self._snapshot = None

    # ---- which of them stay -------------------------------------------------------------------

    def thin(self, keep: Collection[int] = ()) -> None:
        """While there are more than `limit`, remove the old keyframe that is missed least.

        That is one with another of its segment close by that faces the same way; never one of
        `keep` or of the newest few. Each loss may leave a segment, and the last keyframe of one is
        close to no other: the oldest of these goes where they are many, or nothing else is left.
        """
        kept = set(keep)
        while len(self) > self.limit:
            alone = self._alone(kept)
            key = None if len(alone) > ALONE * self.limit else self._most_redundant(kept)
            if key is not None:
                self._remove(key)
            elif alone:
                self.drop(self._poses.segment(alone[0]))
            else:
                return

    def _alone(self, keep: set[int]) -> list[int]:
        """Old keyframes that are all that is left of their segments, the oldest first."""
        _, which, counts = np.unique(self._poses.segments, return_inverse=True, return_counts=True)
        ids = self.ids[:-NEWEST][counts[which[:-NEWEST]] == 1]
        return [key for key in ids.tolist() if key not in keep]

    def _most_redundant(self, keep: set[int]) -> int | None:
        poses = self._poses
        old = np.flatnonzero(np.isin(self.ids[:-NEWEST], list(keep), invert=True))
        every = max(-(-len(old) // CANDIDATES), 1)
        rows = old[self._removed % every :: every]
        if not len(rows):
            return None
        depth = poses.scale * self._scene
        unlike = _squared_distances(poses.translation, rows) / (depth[rows, None] * depth)
        unlike += _squared_distances(poses.rotation[:, :, 2], rows)  # angle, squared, if small
        unlike[poses.segments[rows, None] != poses.segments] = np.inf
        unlike[np.arange(len(rows)), rows] = np.inf
        nearest = np.maximum(unlike.min(axis=1), 1e-12)
        if not np.isfinite(nearest.min()):
            return None
        return int(self.ids[rows[np.flatnonzero(nearest <= ALIKE * nearest.min())[0]]])

    def _remove(self, key: int) -> None:
        heir = self._heir(key)
        heir_from_world = self._poses.world_from_keyframe(heir).inverse()
        self._edges.hand_over(key, heir, heir_from_world @ self._poses.world_from_keyframe(key))
        heirs = {gone: heir if to == key else to for gone, to in self._heirs.items()}
        heirs[key] = heir
        self._heirs = dict(list(heirs.items())[-self.limit :])
        self._forget(key)
        self._removed += 1

    def drop(self, segment: int, since: int = 0) -> None:
        """Remove a segment, or what is `since`, that came to nothing; nothing takes its place."""
        rows = (self._poses.segments == segment) & (self.ids >= since)
        for key in self.ids[rows].tolist():
            self._edges.take_out(key)
            self._forget(key)

    def _forget(self, key: int) -> None:
        self._descriptors.remove(key)
        del self._frames[key]
        stays = self.ids != key
        self._scene = self._scene[stays]
        names = ("ids", "stamps_ns", "segments", "scale", "rotation", "translation")
        self._change(**{name: getattr(self._poses, name)[stays] for name in names})

    def _heir(self, key: int) -> int:
        """Of its segment: the nearest that an edge joins to it, a loop if need be, else any."""
        segment, place = self._poses.segment(key), self._poses.world_from_keyframe(key).translation
        joined = {True: set[int](), False: set[int]()}
        for edge in self._edges.touching(key):
            joined[edge.kind == LOOP].add(edge.second if edge.first == key else edge.first)
        same = self._poses.segments == segment
        for keys in (joined[False], joined[True], set(self.ids[same].tolist())):
            rows = np.flatnonzero(same & np.isin(self.ids, list(keys - {key})))
            if len(rows):
                away = np.sum((self._poses.translation[rows] - place) ** 2, axis=1)
                return int(self.ids[rows[np.argmin(away)]])
        raise ValueError(f"keyframe {key} is the only one of segment {segment}")


def _squared_distances(
    points: Float[np.ndarray, "n 3"], rows: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "m n"]:
    """Of some to all.  No BLAS: its threads wait for each other where the network has all cores."""
    found = np.zeros((len(rows), len(points)))
    for column in np.ascontiguousarray(points.T):
        away = column[rows, None] - column
        found += np.square(away, out=away)
    return found


def _with(array: np.ndarray, rows: Any, values: Any) -> np.ndarray:
    """A copy in which some rows have other values."""
    copy = array.copy()
    copy[rows] = values
    return copy
