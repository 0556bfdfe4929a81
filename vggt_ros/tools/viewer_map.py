# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Keyframes and closed loops of a run's map, as lines in the viewer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

from vggt_ros.tools.runs.format import Run

KEYFRAME, LOOP = (255, 214, 10), (235, 60, 160)  # RGB
# A camera of unit size: apex, and the four corners of its image in the optical frame.
PYRAMID = np.array(
    [[0.0, 0, 0], [-1, -0.75, 1.5], [1, -0.75, 1.5], [1, 0.75, 1.5], [-1, 0.75, 1.5]]
)
EDGES = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)])


class MapGraph(NamedTuple):
    """Keyframes of one segment, oldest first, and the pairs of them that loops join."""

    stamps_ns: Int64[np.ndarray, " k"]
    world_from_camera: Float[np.ndarray, "k 4 4"]
    loops: Int64[np.ndarray, "m 2"]  # rows of the keyframes

    @classmethod
    def empty(cls) -> "MapGraph":
        """No keyframe."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 4, 4)), np.zeros((0, 2), np.int64))


def map_graph(run: Run, frames: Sequence[int]) -> MapGraph:
    """Those keyframes and loops of a run that are among `frames`; none of an earlier version's."""
    rows = {key: row for row, key in enumerate(sorted({*run.keyframes()} & {*frames}))}
    trajectory, keys = run.trajectory(), list(rows)
    loops = [[rows[key] for key in pair] for pair in run.loops() if rows.keys() >= {*pair}]
    return MapGraph(
        trajectory.stamps_ns[keys],
        trajectory.world_from_camera[keys],
        np.array(loops, np.int64).reshape(-1, 2),
    )


class MapLines:
    """Two nodes of the scene: small cameras where keyframes are, a line for each loop."""

    def __init__(self, scene: Any, graph: MapGraph, size: float):
        """Add them, hidden, to a viser `SceneApi`; `size` is half a camera's width, world units."""
        self.graph = graph
        lines = {"keyframes": (cameras(graph.world_from_camera, size), KEYFRAME),
                 "loops": (graph.world_from_camera[graph.loops, :3, 3], LOOP)}  # fmt: skip
        self._lines = [points.astype(np.float32) for points, _ in lines.values()]
        self.nodes = [
            scene.add_line_segments(
                f"/map/{name}", points.astype(np.float32), colour,
                thickness=3.0, thickness_units="screen", visible=False,
            )
            for name, (points, colour) in lines.items()
            if len(points)
        ]  # fmt: skip

    def show(self, until_ns: int, *, visible: bool) -> None:
        """Show what was there at a time: keyframes until then, and the loops between them."""
        known = self.graph.stamps_ns <= until_ns
        chosen = np.repeat(known, len(EDGES)), known[self.graph.loops].all(1)
        filled = [(points, mine) for points, mine in zip(self._lines, chosen, strict=True)
                  if len(points)]  # fmt: skip
        for node, (points, mine) in zip(self.nodes, filled, strict=True):
            node.visible = visible and bool(mine.any())
            if node.visible and len(node.points) != mine.sum():
                node.points = points[mine]

    def remove(self) -> None:
        """Take them out of the scene."""
        for node in self.nodes:
            node.remove()


def cameras(
    world_from_camera: Float[np.ndarray, "k 4 4"], size: float
) -> Float32[np.ndarray, "e 2 3"]:
    """Edges of a small pyramid for each camera, eight in a row."""
    rotation, position = world_from_camera[:, :3, :3], world_from_camera[:, None, :3, 3]
    corners = size * PYRAMID @ rotation.transpose(0, 2, 1) + position
    return corners[:, EDGES].reshape(-1, 2, 3).astype(np.float32)
