# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The search for old keyframes that the camera sees again: loops, and the way back after a loss.

In a segment that tracks, an old keyframe near the camera is compared now and then, and what holds
is an edge of the graph. Where the camera is lost, every inference compares one of another segment,
and inferences that agree make the present segment a part of that one.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.map_frames import median_depth
from vggt_ros.mapping.noise import NoiseEstimate
from vggt_ros.mapping.pose_graph import graph, loops
from vggt_ros.mapping.pose_graph.edges import LOOP, Edge, Sigma
from vggt_ros.mapping.pose_graph.keyframe import Keyframe, scene_depth
from vggt_ros.mapping.pose_graph.keyframe_map import KeyframeMap
from vggt_ros.mapping.pose_graph.loops import Difference, LoopView, Relation
from vggt_ros.mapping.pose_graph.obstacles import Obstacles
from vggt_ros.mapping.segment import Segment

RECENT = 12  # newest keyframes of the segment that no loop is sought with
REACH = 1.0  # scene depths within which an old keyframe is compared,
DRIFT = 0.05  # and this share of the map's extent: the map may have drifted by it
FACING = float(np.deg2rad(40))  # between its axis and the camera's
PAUSE = 50  # inferences without an attempt after one that had no room
CONFIRMED = 3  # inferences in a row that must agree before a lost camera is found again,
DIFFERENT = 2  # by so many different keyframes: one view in a row may look the same by chance,
CONVINCING = 0.93  # each with this share of depths alike: rooms that look alike have 0.6 to 0.9


class Found(NamedTuple):
    """A lost camera found again: its segment is a part of an older one."""

    segment: int
    segment_from_world: Similarity
    relation: Relation


class LoopSearch:
    """Which old keyframe is compared next, and which comparisons are believed."""

    def __init__(self, keyframes: KeyframeMap, period: int):
        """`period`: inferences from one attempt to the next, while tracking; 0: none."""
        self.tried = self.closed = 0
        self.reason = ""  # why the last one was not believed
        self.obstacles = Obstacles()
        self.unsolved = 0.0  # sigmas by which loops since the last solution differ from the map
        self._keyframes, self._store, self._period = keyframes, keyframes.store, period
        self._can_solve: bool | None = None
        self._since_attempt = 0
        self._tried: deque[int] = deque(maxlen=8)
        self._candidates: list[Found] = []
        self._prior: Float[np.ndarray, "4 4"] | None = None

    @property
    def is_on(self) -> bool:
        """Whether the user asked for loops."""
        return self._period > 0

    def pause(self, window: int) -> None:
        """The engine had no room for an extra view beside so many: it is not asked again soon."""
        self._since_attempt = -PAUSE
        self.obstacles.set(
            "room",
            f"no loop is sought for {PAUSE} inferences: the engine has no program for {window + 1}"
            " frames, which a window and a keyframe are (it is not compiled yet, or memory is"
            " short: a smaller window_size has room for it)",
        )

    def expect_at(self, world_from_camera: Float[np.ndarray, "4 4"]) -> None:
        """Where a lost camera is, by a user's estimate: keyframes near it are compared first."""
        self._prior = world_from_camera
        self._tried.clear()

    def is_solvable(self) -> bool:
        """Whether the graph can be solved here; the first time imports the solver: 0.3 s and more.

        While it is not there, and loops are on, `obstacles` says so.
        """
        if self._can_solve is None:
            unavailable = graph.unavailable()
            self.obstacles.set("graph", unavailable)
            self._can_solve = not unavailable
        return self._can_solve

    def propose(
        self,
        segment: Segment,
        newest: int,
        describe: Callable[[int], Float32[np.ndarray, "d"] | None],
        *,
        lost: bool,
    ) -> int | None:
        """The old keyframe that the next inference should show beside its window, if any.

        `newest`: the frame whose image was taken last, also if it was refused; of a rig the others
        of that instant are compared as well, if they were not. `describe` gives their descriptors.
        """
        self._since_attempt += 1
        due = self._since_attempt >= 0 and (lost or self._since_attempt >= self._period)
        ids, others = self._store.descriptors()
        if due and self.is_on:
            self._note_missing(len(ids))
        if self._period <= 0 or not due or len(ids) < (2 if lost else RECENT + 1):
            return None
        first, *beside = segment.newest
        seen = [first._replace(frame_id=newest)] + beside * (newest == first.frame_id)
        described = [(view, d) for view in seen if (d := describe(view.frame_id)) is not None]
        if not described:
            return None
        order = np.argsort(ids)
        alike = np.stack([loops.similarities(d, others)[order] for _, d in described])
        ids, likeness = ids[order], alike.max(axis=0)
        views = self._store.centres()
        rows = np.searchsorted(views.ids, ids)
        same = views.segments[rows] == segment.number
        # Now and then also among what was mapped while the camera was lost.
        if lost or (self.tried % 2 and not same.all()):
            key = self._best_elsewhere(ids[~same], likeness[~same])
        elif not self.is_solvable():
            return None
        else:
            depth = median_depth(segment.frames)
            extent = float(np.linalg.norm(np.ptp(views.centres[rows][same], axis=0)))
            reach = REACH * depth + DRIFT * extent
            away = np.stack([
                loops.apart(
                    views.centres[rows], views.directions[rows], view.world_from_camera,
                    distance=reach, angle=FACING,
                )
                for view, _ in described
            ])  # fmt: skip
            usable = same & (away < 1.0).any(axis=0)
            usable[np.flatnonzero(same)[-RECENT:]] = False
            if self._keyframes.fixed:
                usable &= np.isin(ids, list(self._keyframes.fixed))
            score = np.where(away < 1.0, alike - 2.0 * away, -np.inf).max(axis=0)
            key = loops.best(ids[usable], score[usable], list(self._tried)[-2:])
        if key is not None:
            self._tried.append(key)
            self._since_attempt = 0
        return key

    def _note_missing(self, described: int) -> None:
        """Keyframes that no descriptor ranks are never proposed."""
        known = len(self._store)
        lacking = f"{known - described} of {known} keyframes have no descriptor by the network"
        self.obstacles.set(
            "descriptors",
            f"{lacking}, so that no loop is sought with them" if described < known else "",
        )

    def _best_elsewhere(
        self, ids: Int[np.ndarray, "n"], likeness: Float[np.ndarray, "n"]
    ) -> int | None:
        """Of another segment: by a user's estimate of the place, else by appearance alone."""
        # Never all of them: a camera that comes back later is still to be found.
        tried = list(self._tried)[max(len(self._tried) - len(ids) // 2, 0) :]
        if self._prior is not None and len(ids):
            views = self._store.centres()
            rows = np.searchsorted(views.ids, ids)
            nearest = np.argmin(np.linalg.norm(views.centres[rows] - self._prior[:3, 3], axis=1))
            there = self._store.get(int(ids[nearest]))
            depth = scene_depth(there.depth) * float(there.world_from_keyframe.scale)
            away = loops.apart(
                views.centres[rows], views.directions[rows], self._prior,
                distance=REACH * depth, angle=FACING,
            )  # fmt: skip
            near = away < 1.0
            key = loops.best(ids[near], likeness[near] - 2.0 * away[near], tried)
            if key is not None:
                return key
        return loops.best(ids, likeness, tried)

    def judge(
        self, seen: LoopView, segment: Segment, world_from_window: Similarity, noise: NoiseEstimate
    ) -> Found | None:
        """Believe what an inference says of an old keyframe, or not (`reason`)."""
        self.tried += 1
        self.obstacles.compared()
        if seen.keyframe not in self._store:
            return None
        old = self._store.get(seen.keyframe)
        depth = median_depth(segment.frames)
        known = world_from_window, noise, depth
        relation = loops.measure(seen, old, segment.frames, *known)
        for view in segment.newest[1:]:
            if isinstance(relation, str):  # the camera that leads does not see it, as far as known
                relation = loops.measure(seen, old, (*segment.frames, view), *known)
        if isinstance(relation, str):
            self.reason = relation
            return None
        elsewhere = old.segment != segment.number
        if relation.agreement < (CONVINCING if elsewhere else loops.MIN_AGREEMENT):
            self.reason = f"only {relation.agreement:.0%} of the depths agree"
            if elsewhere:
                self._candidates = []  # one that contradicts weighs as much as those that confirm
            return None
        if elsewhere:
            return self._confirm(old, relation, segment, depth, noise)
        self._close(old, relation, segment)
        return None

    def _close(self, old: Keyframe, relation: Relation, segment: Segment) -> None:
        """Add a loop to the graph, if the map's own uncertainty admits it."""
        stored = self._keyframes.stored(segment)
        if not stored:
            return
        near = stored[0]
        near_pose = self._keyframes.place(near)
        sigmas = self._store.relative_sigmas(old.frame_id, near.frame_id).get(near.frame_id)
        if sigmas is None:
            self.reason = "no edges join it to the old keyframe"
            return
        measured = near_pose.inverse() @ relation.world_from_keyframe
        expected = near_pose.inverse() @ old.world_from_keyframe
        turn, shift, grow = relation.sigma
        own: Sigma = (turn, shift / float(near_pose.scale), grow)
        chain = tuple(loops.INFLATED * each for each in sigmas)
        off = Difference.between(expected, measured)
        if off.in_sigmas(own, chain) > loops.PLAUSIBLE:
            self.reason = (
                f"it would move the map by {off.translation:.2f} units and"
                f" {np.rad2deg(off.rotation):.0f} degrees, more than it can be off"
            )
            return
        self._store.add_edge(Edge(near.frame_id, old.frame_id, measured, own, LOOP))
        self.closed += 1
        self.reason = ""
        self.unsolved = max(self.unsolved, off.in_sigmas(own))

    def _confirm(
        self,
        old: Keyframe,
        relation: Relation,
        segment: Segment,
        depth: float,
        noise: NoiseEstimate,
    ) -> Found | None:
        """A relation to another segment is believed once several inferences agree on it."""
        moved = old.world_from_keyframe @ relation.world_from_keyframe.inverse()
        found = Found(old.segment, moved, relation)
        camera = segment.frames[-1].world_from_camera
        here = Similarity(1.0, camera[:3, :3], camera[:3, 3])
        turn = 4.0 * np.sqrt(6.0) * noise.turn + 0.03
        alike = []
        for other in self._candidates:
            off = Difference.between(moved @ here, other.segment_from_world @ here)
            limit = 0.2 * depth * float(moved.scale)
            near = off.rotation < turn and off.translation < limit and off.log_scale < 0.25
            if other.segment == old.segment and near:
                alike.append(other)
        self._candidates = [*self._candidates[-8:], found]
        keyframes = {each.relation.keyframe for each in (*alike, found)}
        there = int(np.sum(self._store.centres().segments == old.segment))
        if len(alike) + 1 < CONFIRMED or len(keyframes) < min(DIFFERENT, there):
            self.reason = "a place was recognised, and waits for more inferences"
            return None
        self._candidates = []
        self.reason = ""
        return found

    def join(self, segment: Segment, found: Found) -> Similarity | None:
        """Make the later of two segments a part of the older one.

        How the present one moved; None: it is the older one, and stays.
        """
        self._keyframes.version += 1
        stored, moved = self._keyframes.stored(segment), found.segment_from_world
        for frame in stored:
            self._keyframes.place(frame)
        stays = segment.number < found.segment
        if stays:
            self._store.merge(found.segment, segment.number, moved.inverse())
            moved = Similarity.identity()
        else:
            self._store.merge(segment.number, found.segment, moved)
        self.closed += 1
        old = found.relation.keyframe
        if stored:
            near = self._store.get(stored[0].frame_id).world_from_keyframe
            measured = near.inverse() @ self._store.get(old).world_from_keyframe
            turn, shift, grow = found.relation.sigma
            sigma = (turn, shift * float(moved.scale / near.scale), grow)
            self._store.add_edge(Edge(stored[0].frame_id, old, measured, sigma, LOOP))
        self._prior = None
        return None if stays else moved

    def forget_candidates(self) -> None:
        """Another segment begins: what was recognised before does not speak of it."""
        self._candidates = []
