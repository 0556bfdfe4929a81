# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Relations between keyframes: relative poses with their uncertainty, and how these add up.

The error of an edge is that of its second keyframe, seen from its first: it turns, shifts and
scales about the second one's centre.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vggt_ros.geometry import Similarity

SEQUENCE, LOOP, BRIDGE = "sequence", "loop", "bridge"

Sigma = tuple[float, float, float]  # rotation (rad), translation (a unit), log scale
UNKNOWN: Sigma = (math.inf, math.inf, math.inf)


class Edge(NamedTuple):
    """What was measured, or predicted, of one keyframe relative to another."""

    first: int  # frame ids
    second: int
    first_from_second: Similarity  # the second keyframe in the first one's own unit
    sigma: Sigma  # rotation (rad), translation (the first one's own unit), log scale
    kind: str = SEQUENCE  # SEQUENCE; LOOP: may be false; BRIDGE: predicted across a loss

    def reversed(self) -> "Edge":
        """The first keyframe seen from the second: errors of turning then move it."""
        turn, shift, grow = self.sigma
        scale = float(self.first_from_second.scale)
        arm = float(np.linalg.norm(self.first_from_second.translation))
        shift = math.hypot(shift, turn * arm, grow * arm) / scale
        back = self.first_from_second.inverse()
        return Edge(self.second, self.first, back, (turn, shift, grow), self.kind)

    def then(self, other: "Edge") -> "Edge":
        """From our first keyframe to the second one of `other`, which starts where we end.

        It is a loop if either is, else a bridge if either is.
        """
        turn, shift, grow = self.sigma
        more_turn, more_shift, more_grow = other.sigma
        scale = float(self.first_from_second.scale)
        arm = scale * float(np.linalg.norm(other.first_from_second.translation))
        shift = math.hypot(shift, turn * arm, grow * arm, scale * more_shift)
        kinds = (self.kind, other.kind)
        return Edge(
            self.first,
            other.second,
            self.first_from_second @ other.first_from_second,
            (math.hypot(turn, more_turn), shift, math.hypot(grow, more_grow)),
            next((kind for kind in (LOOP, BRIDGE) if kind in kinds), SEQUENCE),
        )


class EdgeTable:
    """Edges, found by either keyframe."""

    def __init__(self) -> None:
        self._edges: dict[int, Edge] = {}
        self._touching: dict[int, dict[int, Edge]] = {}
        self._next = 0
        self._all: tuple[Edge, ...] | None = ()

    def all(self) -> tuple[Edge, ...]:
        """The same object until an edge changes."""
        if self._all is None:
            self._all = tuple(self._edges.values())
        return self._all

    def put(self, edge: Edge) -> None:
        """Add one."""
        self._edges[self._next] = edge
        for key in edge[:2]:
            self._touching.setdefault(key, {})[self._next] = edge
        self._next += 1
        self._all = None

    def touching(self, key: int) -> Iterable[Edge]:
        """Edges with this keyframe at either end, in the order in which they were put."""
        return self._touching.get(key, {}).values()

    def hand_over(self, key: int, heir: int, heir_from_key: Similarity) -> None:
        """Take a keyframe out: its edges then start or end at its heir.

        Edges other than loops are composed with the one between both; of several between one pair
        that come of it the most certain stays, since their errors are not independent. Loops keep
        what they say of the world now: they go through the present relative pose.
        """
        edges = list(self.touching(key))
        between = [_starting(edge, heir) for edge in edges if heir in edge[:2]]
        between.sort(key=lambda edge: (edge.kind == LOOP, edge.sigma[1]))
        nothing = Edge(heir, key, heir_from_key, (0.0, 0.0, 0.0))
        measured = between[0] if between else nothing
        present = measured._replace(first_from_second=heir_from_key)
        self.take_out(key)
        for edge in edges:
            if heir not in edge[:2]:
                way = present if edge.kind == LOOP else measured
                by_way = way.then(edge) if edge.first == key else edge.then(way.reversed())
                self._put_most_certain(by_way)

    def take_out(self, key: int) -> None:
        """Remove all edges of a keyframe."""
        for number, edge in self._touching.pop(key, {}).items():
            del self._edges[number]
            del self._touching[edge.second if edge.first == key else edge.first][number]
        self._all = None

    def replace(self, edge: Edge) -> None:
        """Add one in place of those of its kind between the same two keyframes."""
        pair = {edge.first, edge.second}
        for number, other in list(self._touching.get(edge.first, {}).items()):
            if pair == {other.first, other.second} and other.kind == edge.kind:
                del self._edges[number]
                for key in pair:
                    del self._touching[key][number]
        self.put(edge)

    def _put_most_certain(self, edge: Edge) -> None:
        """In place of all others between the same pair that are loops, or are not, as it is."""
        pair = {edge.first, edge.second}
        for number, other in list(self._touching.get(edge.first, {}).items()):
            if pair != {other.first, other.second} or (other.kind == LOOP) != (edge.kind == LOOP):
                continue
            if _starting(other, edge.first).sigma[1] <= edge.sigma[1]:
                return
            del self._edges[number]
            for key in pair:
                del self._touching[key][number]
        self.put(edge)


def _starting(edge: Edge, key: int) -> Edge:
    """The edge, seen from this one of its two keyframes."""
    return edge if edge.first == key else edge.reversed()


# ---- uncertainty ------------------------------------------------------------------------------


def relative_sigma(
    edges: Sequence[Edge], first: int, second: int, poses: Mapping[int, Similarity]
) -> Sigma:
    """One sigma of `second` seen from `first`, along the most certain path of edges.

    Rotation (rad), translation in the own unit of `first`, log scale; infinite where no edges
    join the two. An upper bound: what other paths say besides is left out.
    """
    table = EdgeTable()
    for edge in edges:
        if edge.first in poses and edge.second in poses:
            table.put(edge)
    if first not in poses or second not in poses:
        return UNKNOWN
    centres = np.array([pose.translation for pose in poses.values()])
    away = np.sum((centres - poses[second].translation) ** 2, axis=1)
    squares = dict(zip(poses, away.tolist(), strict=True))
    units = {key: float(pose.scale) for key, pose in poses.items()}
    return search(table, second, squares, units, first).get(first, UNKNOWN)


def search(
    edges: EdgeTable,
    target: int,
    squares: Mapping[int, float],
    units: Mapping[int, float],
    until: int | None = None,
) -> dict[int, Sigma]:
    """The same from every keyframe that edges join to the target, or to `until` and no further.

    `squares` are squared distances of the keyframes to the target, in the world; `units` are their
    scales. Dijkstra's search from the target outwards, by the variance of translation: variances
    add along a path, and an error of rotation or scale at an edge moves the target by its distance
    from there at most.
    """
    found: dict[int, Sigma] = {}
    queue = [(0.0, target, 0.0, 0.0)]
    while queue:
        shift, key, turn, grow = heapq.heappop(queue)
        if key in found:
            continue
        found[key] = (math.sqrt(turn), math.sqrt(shift) / units[key], math.sqrt(grow))
        if key == until:
            break
        for edge in edges.touching(key):
            other = edge.second if edge.first == key else edge.first
            if other not in found:
                a, b, c = edge.sigma
                moved = (b * units[edge.first]) ** 2 + (a * a + c * c) * squares[edge.second]
                heapq.heappush(queue, (shift + moved, other, turn + a * a, grow + c * c))
    return found
