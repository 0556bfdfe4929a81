# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Solutions of the graph: when one is due, and how the map takes it up.

A solution that is computed in a thread of its own is of a world that went on meanwhile: keyframes
that came since move with the last one that it covers, and one of a world that was rescaled or
joined is dropped and computed again.
"""

from typing import NamedTuple

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.pose_graph import graph
from vggt_ros.mapping.pose_graph.keyframe_map import KeyframeMap
from vggt_ros.mapping.pose_graph.loop_search import LoopSearch
from vggt_ros.mapping.segment import Segment

SETTLED = 0.5  # sigmas by which a loop must differ from the map before the graph is solved
STEPS_PER_SOLUTION = 100  # keyframes for each inference that lies between two solutions


class _Pending(NamedTuple):
    """A solution that is being computed."""

    poses: dict[int, Similarity]
    held: frozenset[int]  # keyframes that stay
    last: int  # the newest keyframe that edges tie to the others
    version: int


class GraphUpdates:
    """Solves the graph of the present segment when loops were found."""

    def __init__(self, keyframes: KeyframeMap, loops: LoopSearch, *, background: bool):
        """With `background` it is solved while the map goes on; else at once."""
        self._keyframes, self._store, self._loops = keyframes, keyframes.store, loops
        self._background = background
        self._worker = graph.GraphWorker() if background else None
        self._pending: _Pending | None = None
        self._since_solution = 0

    def close(self, timeout: float) -> None:
        """End the thread that solves graphs."""
        if self._worker is not None:
            self._worker.stop(timeout)

    def correct(self, segment: Segment, *, wait: bool = False) -> Similarity | None:
        """Solve the graph where that is due; how the window's map must move, once it is solved."""
        self._since_solution += 1
        moved = self._take_solution(segment, wait=wait)
        spare = self._since_solution * STEPS_PER_SOLUTION >= len(self._store)
        if self._pending is None and self._loops.unsolved > SETTLED and (spare or wait):
            self._start(segment)
            if not self._background or wait:
                later = self._take_solution(segment, wait=True)
                moved = later if moved is None or later is None else later @ moved
        return moved

    def _start(self, segment: Segment) -> None:
        stored = self._keyframes.stored(segment)
        if not stored:
            return
        for frame in stored:
            self._keyframes.place(frame)
        snapshot = self._store.snapshot()
        keys = snapshot.ids[snapshot.segments == segment.number].tolist()
        poses = {key: snapshot.world_from_keyframe(key) for key in keys}
        held = self._keyframes.fixed & poses.keys() or frozenset(keys[:1])
        self._pending = _Pending(poses, held, stored[0].frame_id, self._keyframes.version)
        self._loops.unsolved, self._since_solution = 0.0, 0
        if self._worker is not None:
            self._worker.submit(poses, self._store.edges, held)

    def _take_solution(self, segment: Segment, *, wait: bool) -> Similarity | None:
        """Move the keyframes to where the graph has them, and say by what the newest moved."""
        pending = self._pending
        if pending is None:
            return None
        solved = self._solved(pending, wait=wait)
        if solved is None:
            return None
        self._pending = None
        if pending.version != self._keyframes.version or pending.last not in self._store:
            self._loops.unsolved = 1.0 + SETTLED  # the world moved meanwhile: solve it again
            return None
        moved = solved[pending.last] @ pending.poses[pending.last].inverse()
        snapshot = self._store.snapshot()
        poses = {}
        for key in snapshot.ids[snapshot.segments == segment.number].tolist():
            new = key > pending.last or key not in solved
            now = moved @ snapshot.world_from_keyframe(key) if new else solved[key]
            poses[key] = now
        self._store.move(poses)
        return moved

    def _solved(self, pending: _Pending, *, wait: bool) -> dict[int, Similarity] | None:
        if self._worker is None:
            return graph.optimise(pending.poses, self._store.edges, pending.held)
        solved = self._worker.poll()
        if solved is None and wait:
            return graph.optimise(pending.poses, self._store.edges, pending.held)
        return solved
