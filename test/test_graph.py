# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loops correct drift of place and scale, false ones do not bend the map, and nobody waits."""

import math
import sys
import threading
import time

import numpy as np
import pytest

from vggt_ros.geometry import Similarity, nearest_rotation, rotation_angle
from vggt_ros.mapping.pose_graph.edges import BRIDGE, LOOP, SEQUENCE, Edge, relative_sigma
from vggt_ros.mapping.pose_graph.graph import GraphWorker, optimise, unavailable

SIGMA = (0.004, 0.01, 0.01)
POINTS = np.random.default_rng(9).normal(size=(20, 3))
needs_gtsam = pytest.mark.skipif(bool(unavailable()), reason="gtsam is not installed")

Poses = dict[int, Similarity]


def turned(vector) -> np.ndarray:
    """Rotation by a vector of small or large angle."""
    angle = float(np.linalg.norm(vector))
    x, y, z = np.asarray(vector, float) / max(angle, 1e-300)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def noise(rng, sigma=SIGMA) -> Similarity:
    turn, shift, grow = sigma
    return Similarity(
        float(np.exp(grow * rng.normal())), turned(turn * rng.normal(size=3)),
        shift * rng.normal(size=3),
    )  # fmt: skip


def circles(count: int, laps: int, radius: float = 3.0) -> Poses:
    """A drive of so many laps."""
    angles = 2 * np.pi * laps * np.arange(count) / count
    return {
        i: Similarity(
            1.0, turned([0, 0, a]), radius * np.array([np.cos(a), np.sin(a), 0.1 * np.sin(3 * a)])
        )
        for i, a in enumerate(angles)
    }


def measured(
    rng, true: Poses, first: int, second: int, kind: str, off: Similarity, sigma=SIGMA
) -> Edge:
    relative = true[first].inverse() @ true[second] @ off @ noise(rng, sigma)
    return Edge(first, second, relative, SIGMA, kind)


def drifted(rng, true: Poses, off: Similarity, sigma=SIGMA) -> tuple[Poses, list[Edge]]:
    """The chain of all keyframes, each measured from the last one, and where it puts them."""
    edges = [measured(rng, true, i - 1, i, SEQUENCE, off, sigma) for i in range(1, len(true))]
    poses = {0: true[0]}
    for edge in edges:
        poses[edge.second] = poses[edge.first] @ edge.first_from_second
    return poses, edges


def loops(rng, true: Poses, count: int, lap: int) -> list[Edge]:
    """Between keyframes some whole laps apart."""
    found = []
    for second in rng.integers(lap, len(true), count).tolist():
        first = second - lap * int(rng.integers(1, second // lap + 1))
        found.append(measured(rng, true, first, second, LOOP, Similarity.identity()))
    return found


def error(poses: Poses, true: Poses) -> float:
    """ATE, after the first keyframe was laid on the truth (it is fixed)."""
    away = [poses[key].translation - true[key].translation for key in true]
    return float(np.sqrt(np.mean(np.sum(np.square(away), axis=1))))


def spread(poses: Poses) -> float:
    scales = np.log([float(pose.scale) for pose in poses.values()])
    return float(scales.max() - scales.min())


def assert_same(a: Similarity, b: Similarity, within: float) -> None:
    assert np.allclose(a.apply(POINTS), b.apply(POINTS), rtol=0, atol=within)


DRIFT = Similarity(1.001, turned([0, 0, 0.003]), np.array([0.0, 0.0, 0.004]))


# ---- solving ----------------------------------------------------------------------------------


@needs_gtsam
@pytest.mark.parametrize("backwards", [False, True])
def test_an_edge_puts_a_keyframe_where_it_says(backwards):
    first = Similarity(1.7, turned([0.3, -0.5, 1.1]), np.array([1.0, 2.0, -3.0]))
    relative = Similarity(0.4, turned([-1.0, 0.2, 0.3]), np.array([0.5, -0.7, 0.2]))
    edge = Edge(4, 7, relative, SIGMA)
    start = {4: first, 7: first @ relative @ noise(np.random.default_rng(0), (0.3, 0.3, 0.3))}
    solved = optimise(start, [edge.reversed() if backwards else edge], 4)
    assert solved[4] is first
    assert_same(solved[7], first @ relative, 1e-6)


@needs_gtsam
@pytest.mark.parametrize("part", range(3))
def test_each_sigma_weighs_its_own_part(part):
    """Two edges that differ in one part meet where their squared sigmas say, in one unit."""
    step = 0.02
    off = [
        Similarity(1.0, turned([0, step, 0]), np.zeros(3)),
        Similarity(1.0, np.eye(3), np.array([0, step, 0])),
        Similarity(math.exp(step), np.eye(3), np.zeros(3)),
    ][part]
    base = Similarity(4.0, turned([0.2, 0.1, 0.5]), np.array([1.0, 2.0, 3.0]))
    weak, strong = [0.1, 0.1, 0.1], [0.1, 0.1, 0.1]
    weak[part], strong[part] = 0.2, 0.1
    edges = [Edge(0, 1, base @ off, (*weak,)), Edge(0, 1, base, (*strong,))]
    left = base.inverse() @ optimise({0: Similarity.identity(), 1: base}, edges, 0)[1]
    found = [rotation_angle(left.rotation), left.translation[1], math.log(float(left.scale))]
    wanted = [0.0, 0.0, 0.0]
    wanted[part] = step / 5
    assert np.allclose(found, wanted, atol=1e-5)


@needs_gtsam
def test_translation_sigmas_are_in_the_first_ones_unit():
    """The same edge from either side weighs the same, though the units differ by four."""
    base = Similarity(4.0, np.eye(3), np.zeros(3))
    shift = Similarity(1.0, np.eye(3), np.array([0.1, 0.0, 0.0]))
    edges = [
        Edge(0, 1, base @ shift, (1e-3, 0.04, 1e-3)),
        Edge(1, 0, base.inverse(), (1e-3, 0.01, 1e-3)),
    ]
    solved = optimise({0: Similarity.identity(), 1: base}, edges, 0)
    assert np.allclose(solved[1].translation, [0.2, 0, 0], atol=1e-3)


@needs_gtsam
def test_a_consistent_graph_stays():
    true = circles(60, 2)
    edges = [
        Edge(i, j, true[i].inverse() @ true[j], SIGMA, LOOP if j - i > 2 else SEQUENCE)
        for i in range(60)
        for j in (i + 1, i + 2, i + 30)
        if j < 60
    ]
    solved = optimise(true, edges, 0)
    for key, pose in true.items():
        assert_same(solved[key], pose, 1e-9)


@needs_gtsam
def test_one_loop_takes_drift_out_of_a_chain():
    """Of place and of scale: the lap ends where it began, as large as it began."""
    rng = np.random.default_rng(1)
    true = circles(120, 1)
    true |= {120: true[0]}
    poses, edges = drifted(rng, true, DRIFT, (4e-4, 1e-3, 1e-3))
    loop = measured(rng, true, 0, 120, LOOP, Similarity.identity())
    solved = optimise(poses, [*edges, loop], 0)
    assert math.log(float(poses[120].scale)) > 0.1
    assert abs(math.log(float(solved[120].scale))) < 0.03
    assert error(solved, true) < error(poses, true) / 5


@needs_gtsam
def test_scale_drift_is_distributed_by_loops():
    rng = np.random.default_rng(2)
    true = circles(200, 4)
    poses, edges = drifted(rng, true, DRIFT)
    solved = optimise(poses, edges + loops(rng, true, 20, 50), 0)
    assert spread(solved) < spread(poses) / 2
    assert error(solved, true) < error(poses, true) / 5


@needs_gtsam
@pytest.mark.parametrize("seed", range(5))
def test_one_false_loop_of_twenty_does_not_bend_the_map(seed):
    rng = np.random.default_rng(seed)
    true = circles(200, 4)
    poses, edges = drifted(rng, true, DRIFT)
    edges += loops(rng, true, 19, 50)
    without = optimise(poses, edges, 0)
    first = int(rng.integers(0, 60))
    false = Edge(first, first + 110, Similarity.identity(), SIGMA, LOOP)  # two walls look alike
    solved = optimise(poses, [*edges, false], 0)
    assert np.linalg.norm(true[first].translation - true[first + 110].translation) > 1.0
    moved = max(np.linalg.norm(solved[k].translation - without[k].translation) for k in true)
    assert moved < 0.15  # of 6 m across
    assert error(solved, true) < error(poses, true) / 5
    bent = optimise(poses, [*edges, false._replace(kind=SEQUENCE)], 0)  # taken at its word
    assert error(bent, true) > 3 * error(solved, true)


@needs_gtsam
def test_what_is_fixed_or_not_tied_stays():
    rng = np.random.default_rng(3)
    true = circles(40, 1)
    poses, edges = drifted(rng, true, DRIFT)
    edges = [edge for edge in edges if edge.second != 30]  # 30 to 39 are apart
    edges += [Edge(2, 99, true[0], SIGMA), Edge(15, 20, poses[12], SIGMA)]
    solved = optimise(poses, edges, range(20))
    assert {key for key in poses if solved[key] is not poses[key]} == set(range(20, 30))
    apart = optimise(poses, edges, 39)
    assert all(apart[key] is poses[key] for key in [*range(30), 39])
    untied = optimise(poses, [], 0)
    assert all(untied[key] is poses[key] for key in poses)


@needs_gtsam
def test_solving_ends_between_steps_when_told():
    rng = np.random.default_rng(6)
    true = circles(60, 2)
    poses, edges = drifted(rng, true, DRIFT)
    edges += loops(rng, true, 5, 30)
    asked: list[Poses] = []
    for steps in (0, 1, 40):
        answers = iter([False] * steps)
        asked.append(optimise(poses, edges, 0, stopped=lambda: next(answers, True)))  # noqa: B023
    for key, pose in poses.items():
        assert_same(asked[0][key], pose, 1e-9)
    assert error(asked[2], true) < error(asked[1], true) < error(poses, true)


@needs_gtsam
def test_thousands_of_keyframes_are_solved(capsys):
    rng = np.random.default_rng(4)
    true = circles(2000, 10)
    poses, edges = drifted(rng, true, DRIFT)
    edges += loops(rng, true, 50, 200)
    start = time.perf_counter()
    solved = optimise(poses, edges, 0)
    with capsys.disabled():
        print(f" [{time.perf_counter() - start:.2f} s for 2000 keyframes with 50 loops] ", end="")
    assert error(solved, true) < error(poses, true) / 5


# ---- the worker -------------------------------------------------------------------------------


def waited_for(worker: GraphWorker) -> Poses:
    while (solved := worker.poll()) is None:
        time.sleep(0.005)
    return solved


@pytest.fixture
def worker():
    worker = GraphWorker()
    yield worker
    worker.stop()


@needs_gtsam
def test_the_worker_solves_what_it_was_given(worker):
    rng = np.random.default_rng(5)
    true = circles(80, 2)
    poses, edges = drifted(rng, true, DRIFT)
    edges += loops(rng, true, 5, 40)
    wanted = optimise(poses, edges, 0)
    assert worker.poll() is None
    for _ in range(2):
        mine = dict(poses)
        assert worker.submit(mine, edges, 0)
        mine.clear()  # it has its own copy
        solved = waited_for(worker)
        assert solved.keys() == wanted.keys()
        for key, pose in wanted.items():
            assert_same(solved[key], pose, 1e-9)
        assert worker.poll() is None


def test_the_worker_never_lets_the_caller_wait(worker, monkeypatch):
    started, finish = threading.Event(), threading.Event()

    def slow(poses, *_, **__):
        started.set()
        assert finish.wait(60)
        return poses

    monkeypatch.setattr("vggt_ros.mapping.pose_graph.graph.optimise", slow)
    pose = {1: Similarity.identity()}
    assert worker.submit(pose, [], 1)
    assert started.wait(60)
    assert worker.poll() is None
    assert not worker.submit({}, [], 1)
    finish.set()
    assert waited_for(worker) == pose
    assert worker.submit(pose, [], 1)


def test_the_worker_tells_what_went_wrong(worker, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("indeterminate")

    monkeypatch.setattr("vggt_ros.mapping.pose_graph.graph.optimise", broken)
    assert worker.submit({}, [], 0)
    with pytest.raises(RuntimeError, match="indeterminate"):
        waited_for(worker)
    assert worker.submit({}, [], 0)


@needs_gtsam
def test_a_stopped_worker_ends_within_a_step():
    rng = np.random.default_rng(6)
    true = circles(400, 4)
    poses, edges = drifted(rng, true, DRIFT)
    worker = GraphWorker()
    worker.submit(poses, edges + loops(rng, true, 10, 100), 0)
    worker.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "graph"]
    assert not worker.submit(poses, edges, 0)


# ---- uncertainty ------------------------------------------------------------------------------


def line(count: int, spacing: float, sigma) -> tuple[Poses, list[Edge]]:
    poses = {i: Similarity(1.0, np.eye(3), np.array([spacing * i, 0, 0])) for i in range(count)}
    step = Similarity(1.0, np.eye(3), np.array([spacing, 0, 0]))
    return poses, [Edge(i, i + 1, step, sigma) for i in range(count - 1)]


def test_uncertainty_grows_along_a_chain():
    poses, edges = line(26, 0.0, SIGMA)
    found = relative_sigma(edges, 0, 25, poses)
    assert np.allclose(found, 5 * np.array(SIGMA))
    assert relative_sigma(edges, 3, 3, poses) == (0.0, 0.0, 0.0)


def test_turning_and_scaling_act_by_their_arms():
    poses, edges = line(5, 2.0, (0.01, 0.0, 0.02))
    arms = np.array([6.0, 4.0, 2.0, 0.0])  # from the end of each edge to the target
    wanted = math.sqrt(float(np.sum(arms**2)) * (0.01**2 + 0.02**2))
    assert relative_sigma(edges, 0, 4, poses)[1] == pytest.approx(wanted)
    assert relative_sigma([e.reversed() for e in edges], 0, 4, poses)[1] >= wanted


def test_translation_is_in_the_own_unit_of_the_first():
    poses = {0: Similarity(2.0, np.eye(3), np.zeros(3)), 1: Similarity.identity()}
    edge = Edge(0, 1, poses[0].inverse() @ poses[1], (0.0, 0.3, 0.0))
    assert relative_sigma([edge], 0, 1, poses)[1] == pytest.approx(0.3)
    assert relative_sigma([edge], 1, 0, poses)[1] == pytest.approx(0.6)


def test_a_loop_is_a_shorter_way():
    poses, edges = line(101, 0.0, SIGMA)
    loop = Edge(2, 98, Similarity.identity(), SIGMA, LOOP)
    assert np.allclose(
        relative_sigma([*edges, loop], 0, 100, poses), math.sqrt(5) * np.array(SIGMA)
    )


def test_what_is_not_tied_is_anywhere():
    poses, edges = line(6, 1.0, SIGMA)
    nowhere = (math.inf, math.inf, math.inf)
    assert relative_sigma(edges[:2] + edges[3:], 0, 5, poses) == nowhere
    assert relative_sigma(edges, 0, 77, poses) == nowhere
    assert relative_sigma([], 0, 1, poses) == nowhere


def test_the_uncertainty_bounds_what_chains_do():
    """Ends of many noisy chains lie as far apart as is said, or nearer."""
    rng = np.random.default_rng(7)
    true = circles(30, 1)
    exact = [Edge(i, i + 1, true[i].inverse() @ true[i + 1], SIGMA) for i in range(29)]
    ends = []
    for _ in range(400):
        pose = Similarity.identity()
        for edge in exact:
            pose = pose @ edge.first_from_second @ noise(rng)
        ends.append(true[29].inverse() @ true[0] @ pose)
    turn, shift, grow = relative_sigma(exact, 0, 29, true)
    scales = np.log([float(e.scale) for e in ends])
    assert np.std(scales) == pytest.approx(grow, rel=0.15)
    places = np.array([e.translation for e in ends])
    assert np.sqrt(np.mean(places**2, axis=0)).max() <= 1.15 * shift
    assert np.sqrt(np.mean(places**2, axis=0)).max() >= 0.4 * shift
    turns = np.sqrt(np.mean([rotation_angle(nearest_rotation(e.rotation)) ** 2 for e in ends]) / 3)
    assert turns == pytest.approx(turn, rel=0.15)


# ---- edges ------------------------------------------------------------------------------------


def test_edges_compose_and_turn_round():
    rng = np.random.default_rng(8)
    a, b = (Similarity(s, turned(rng.normal(size=3)), rng.normal(size=3)) for s in (2.0, 0.3))
    first, second = Edge(1, 2, a, SIGMA), Edge(2, 3, b, SIGMA, BRIDGE)
    whole = first.then(second)
    assert (whole.first, whole.second, whole.kind) == (1, 3, BRIDGE)
    assert_same(whole.first_from_second, a @ b, 1e-12)
    back = whole.reversed()
    assert (back.first, back.second) == (3, 1)
    assert_same(back.first_from_second @ whole.first_from_second, Similarity.identity(), 1e-12)
    still = Edge(1, 2, Similarity(2.0, np.eye(3), np.zeros(3)), (0.1, 0.2, 0.3))
    assert still.reversed().sigma == pytest.approx((0.1, 0.1, 0.3))
    assert still.then(still).sigma == pytest.approx(
        (0.1 * math.sqrt(2), 0.2 * math.sqrt(5), 0.3 * math.sqrt(2))
    )


# ---- without the solver -----------------------------------------------------------------------


def test_without_the_solver_the_reason_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gtsam", None)
    assert "gtsam" in unavailable() and "pip install '.[graph]'" in unavailable()
    poses, edges = line(3, 1.0, SIGMA)
    with pytest.raises(ImportError):
        optimise(poses, edges, 0)
    assert relative_sigma(edges, 0, 2, poses)[1] > 0


@needs_gtsam
def test_the_solver_is_there():
    assert unavailable() == ""
