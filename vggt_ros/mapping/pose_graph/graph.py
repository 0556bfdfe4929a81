# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The poses of keyframes that fit the edges between them best.

Solved by gtsam, which is optional and imported late: only loops need it.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vggt_ros.errors import install_extra
from vggt_ros.geometry import Similarity
from vggt_ros.mapping.pose_graph.edges import LOOP, Edge

# Sigmas from which a loop's pull weakens (Cauchy). At 3, a lone loop that is right did not move a
# map that had drifted by more than its edges admit; at 50, false ones bent it. test_graph.py.
ROBUST = 10.0
LEAST_SIGMA = 1e-6  # of an edge: keeps what claims to be exact solvable
HELD = 1e-6  # sigma that ties a fixed keyframe
MAX_STEPS = 40
CONVERGED = 1e-6  # relative fall of the error at which steps end
SETTLED = 1e-12  # error, in squared sigmas, that is nothing


def unavailable() -> str:
    """Empty, or why loops cannot be closed here."""
    try:
        import gtsam  # noqa: F401, PLC0415 (takes 0.3 s)
    except ImportError as error:
        return f"gtsam cannot be imported ({error}); {install_extra('graph')}"
    return ""


def optimise(
    poses: Mapping[int, Similarity],
    edges: Sequence[Edge],
    fixed: int | Collection[int],
    stopped: Callable[[], bool] = lambda: False,
) -> dict[int, Similarity]:
    """The `world_from_keyframe` of each of `poses` that fit the edges best.

    Those of `fixed`, and those that no edges tie to these, stay. Edges to keyframes that are not
    in `poses` are left out. `stopped` is asked between steps and ends them early.
    Raises ImportError without gtsam, RuntimeError where it cannot solve the graph.
    """
    held = set(fixed) if isinstance(fixed, Collection) else {fixed}
    edges, free = _tied(poses, edges, held & poses.keys())
    if not free:
        return dict(poses)
    anchors = {key for edge in edges for key in edge[:2]} - free
    solved = _solve({key: poses[key] for key in free | anchors}, edges, anchors, stopped)
    return {key: solved[key] if key in free else pose for key, pose in poses.items()}


def _tied(
    poses: Mapping[int, Similarity], edges: Sequence[Edge], held: set[int]
) -> tuple[list[Edge], set[int]]:
    """The keyframes that move, each by a path of edges that ends at a held one; their edges."""
    edges = [edge for edge in edges if edge.first in poses and edge.second in poses]
    neighbours: dict[int, list[int]] = {}
    for edge in edges:
        neighbours.setdefault(edge.first, []).append(edge.second)
        neighbours.setdefault(edge.second, []).append(edge.first)
    seen, pending = set(held), list(held)
    while pending:
        new = [key for key in neighbours.get(pending.pop(), ()) if key not in seen]
        seen.update(new)
        pending.extend(new)
    free = seen - held
    return [edge for edge in edges if edge.first in free or edge.second in free], free


def _solve(
    poses: Mapping[int, Similarity],
    edges: Sequence[Edge],
    anchors: Collection[int],
    stopped: Callable[[], bool],
) -> dict[int, Similarity]:
    import gtsam  # noqa: PLC0415 (see unavailable)

    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    for key, pose in poses.items():
        values.insert(key, _to_gtsam(gtsam, pose))
    hold = gtsam.noiseModel.Isotropic.Sigma(7, HELD)
    for key in anchors:
        graph.add(gtsam.PriorFactorSimilarity3(key, _to_gtsam(gtsam, poses[key]), hold))
    cauchy = gtsam.noiseModel.mEstimator.Cauchy.Create(ROBUST)
    for edge in edges:
        noise = gtsam.noiseModel.Diagonal.Sigmas(_tangent_sigmas(edge))
        if edge.kind == LOOP:
            noise = gtsam.noiseModel.Robust.Create(cauchy, noise)
        relative = _to_gtsam(gtsam, edge.first_from_second)
        graph.add(gtsam.BetweenFactorSimilarity3(edge.first, edge.second, relative, noise))
    settings = gtsam.LevenbergMarquardtParams()
    settings.setLinearSolverType("SEQUENTIAL_CHOLESKY")  # a quarter faster than multifrontal here
    optimizer = gtsam.LevenbergMarquardtOptimizer(graph, values, settings)
    # Step by step: gtsam holds Python's lock through each call, and other threads run in between.
    error = optimizer.error()
    for _ in range(MAX_STEPS):
        if error < SETTLED or stopped():
            break
        optimizer.iterate()
        before, error = error, optimizer.error()
        if before - error <= CONVERGED * before:
            break
    values = optimizer.values()
    return {key: _from_gtsam(values.atSimilarity3(key)) for key in poses}


def _tangent_sigmas(edge: Edge) -> np.ndarray:
    """Of rotation, translation, log scale: gtsam's order, in the second keyframe's own unit."""
    turn, shift, grow = edge.sigma
    shift = shift / float(edge.first_from_second.scale)
    return np.maximum(np.repeat([turn, shift, grow], [3, 3, 1]), LEAST_SIGMA)


def _to_gtsam(gtsam: Any, pose: Similarity) -> Any:
    """Its similarities are scale * (rotation @ x + translation), ours add the translation last."""
    scale = float(pose.scale)
    return gtsam.Similarity3(gtsam.Rot3(pose.rotation), pose.translation / scale, scale)


def _from_gtsam(pose: Any) -> Similarity:
    scale = float(pose.scale())
    return Similarity(scale, pose.rotation().matrix(), scale * pose.translation())


class GraphWorker:
    """Solves graphs in a thread of its own, one at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job: tuple[dict[int, Similarity], list[Edge], int | set[int]] | None = None
        self._solved: dict[int, Similarity] | Exception | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    def submit(
        self, poses: Mapping[int, Similarity], edges: Sequence[Edge], fixed: int | Collection[int]
    ) -> bool:
        """Start `optimise`; False, and nothing else, while it works on another or is stopped."""
        with self._changed:
            if self._job is not None or self._stopping:
                return False
            held = set(fixed) if isinstance(fixed, Collection) else fixed
            self._job, self._solved = (dict(poses), list(edges), held), None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="graph", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def poll(self) -> dict[int, Similarity] | None:
        """The solved poses, once; None before.  Raises what `optimise` raised."""
        with self._changed:
            solved, self._solved = self._solved, None
        if isinstance(solved, Exception):
            raise solved
        return solved

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread after its present step; waits for it up to `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._job is not None)
                if self._stopping or self._job is None:
                    return
                job = self._job
            solved: dict[int, Similarity] | Exception
            try:
                solved = optimise(*job, stopped=lambda: self._stopping)
            except Exception as error:  # noqa: BLE001 (raised where it is asked for)
                solved = error
            with self._changed:
                self._job, self._solved = None, solved
