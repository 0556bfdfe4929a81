# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Keyframes move together, the redundant ones go, and what belonged to them stays in its place."""

import numpy as np
import pytest

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.corrections import KeyframeFollower
from vggt_ros.mapping.pose_graph.edges import BRIDGE, LOOP, SEQUENCE, Edge, relative_sigma
from vggt_ros.mapping.pose_graph.keyframe import Keyframe
from vggt_ros.mapping.pose_graph.keyframes import NEWEST, KeyframeStore

SIGMA = (0.01, 0.02, 0.03)
POINTS = np.random.default_rng(0).normal(size=(30, 3))
FACTOR = Similarity(1.3, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, -2.0, 0.5]))


def heading(angle: float) -> np.ndarray:
    """A rotation about the y axis: the view turns aside."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def keyframe(key: int, x: float = 0.0, *, angle: float = 0.0, segment: int = 0, **fields):
    pose = Similarity(1.0, heading(angle), np.array([x, 0.0, 0.0]))
    made = Keyframe(key, 1000 * key, "camera", segment, pose, np.eye(3), None, None)
    return made._replace(**fields)


def store_of(places, *, limit: int = 2000, joined: bool = True, segment: int = 0) -> KeyframeStore:
    """Keyframes 0, 1, 2, ... at these places, each joined to the next."""
    store = KeyframeStore(limit)
    for key, x in enumerate(places):
        store.add(keyframe(key, x, segment=segment))
        if key and joined:
            store.add_edge(edge(store, key - 1, key))
    return store


def edge(store: KeyframeStore, first: int, second: int, kind: str = SEQUENCE, sigma=SIGMA) -> Edge:
    return Edge(first, second, relative(store, first, second), sigma, kind)


def relative(store: KeyframeStore, first: int, second: int) -> Similarity:
    a, b = (store.get(key).world_from_keyframe for key in (first, second))
    return a.inverse() @ b


def assert_same(a: Similarity, b: Similarity, within: float = 1e-9) -> None:
    assert np.allclose(a.apply(POINTS), b.apply(POINTS), rtol=0, atol=within)


def ids(store: KeyframeStore) -> list[int]:
    return store.ids.tolist()


# ---- keeping ----------------------------------------------------------------------------------


def test_a_keyframe_comes_back_as_it_was_put():
    depth = np.linspace(1, 3, 12).reshape(3, 4)
    depth[0, 0] = np.nan
    put = keyframe(
        7, 2.0, angle=0.3, segment=2, depth=depth, descriptor=np.arange(4, dtype=np.float32),
        image=b"jpeg", camera="left", intrinsics=2 * np.eye(3),
    )  # fmt: skip
    store = KeyframeStore()
    store.add(put)
    got = store.get(7)
    assert (got.frame_id, got.stamp_ns, got.camera, got.segment) == (7, 7000, "left", 2)
    assert got.image == b"jpeg" and np.array_equal(got.intrinsics, put.intrinsics)
    assert_same(got.world_from_keyframe, put.world_from_keyframe, 1e-15)
    assert got.depth.dtype == np.float32 and np.allclose(got.depth, depth, equal_nan=True)
    assert np.array_equal(got.descriptor, put.descriptor)
    assert 7 in store and 8 not in store and len(store) == 1


def test_half_precision_stays_and_large_arrays_are_let_go():
    large = np.ones((60, 80), np.float16)
    store = KeyframeStore()
    store.add(keyframe(1, depth=large[::4, ::4]))
    kept = store.get(1).depth
    assert kept.dtype == np.float16 and kept.base is None
    large[:] = 0
    assert (store.get(1).depth == 1).all()


def test_ids_rise_whatever_the_order():
    store = KeyframeStore()
    for key in (5, 1, 9, 3):
        store.add(keyframe(key, float(key)))
    assert ids(store) == [1, 3, 5, 9]
    views = store.centres()
    assert views.centres[:, 0].tolist() == [1, 3, 5, 9] == views.ids.tolist()
    assert store.snapshot().stamps_ns.tolist() == [1000, 3000, 5000, 9000]


def test_what_cannot_be_kept_is_refused():
    store = store_of([0.0, 1.0])
    with pytest.raises(ValueError, match="keyframe 1"):
        store.add(keyframe(1))
    with pytest.raises(KeyError):
        store.get(5)
    with pytest.raises(KeyError):
        store.add_edge(Edge(0, 5, Similarity.identity(), SIGMA))
    with pytest.raises(KeyError):
        store.replace(5, image=b"x")
    store.replace(0, descriptor=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="5 numbers"):
        store.add(keyframe(2, descriptor=np.zeros(5, np.float32)))
    assert ids(store) == [0, 1]


def test_fields_are_replaced():
    store = store_of([0.0, 1.0])
    new = Similarity(2.0, heading(1.0), np.array([5.0, 6.0, 7.0]))
    store.replace(1, world_from_keyframe=new, segment=4, image=b"x", depth=np.ones((2, 2)))
    got = store.get(1)
    assert_same(got.world_from_keyframe, new)
    assert got.segment == 4 and got.image == b"x" and got.depth.shape == (2, 2)
    assert store.snapshot().segment(1) == 4 and store.get(0).segment == 0


def test_descriptors_are_one_matrix():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 6)).astype(np.float32)
    store = KeyframeStore(limit=180)
    for key, vector in enumerate(vectors):
        store.add(keyframe(key, 10.0 * key, descriptor=None if key % 3 == 1 else vector))
    store.thin()
    store.replace(192, descriptor=None)
    store.replace(196, descriptor=vectors[196])
    rows, matrix = store.descriptors()
    wanted = {key for key in ids(store) if key % 3 != 1} - {192} | {196}
    assert set(rows.tolist()) == wanted and len(rows) == len(wanted)
    assert np.array_equal(matrix, vectors[rows])
    assert store.get(199).descriptor is None


# ---- moving -----------------------------------------------------------------------------------


def test_moved_are_those_that_are_named_and_still_there():
    store = store_of([0.0, 1.0, 2.0])
    store.move({1: FACTOR, 77: FACTOR})
    assert_same(store.get(1).world_from_keyframe, FACTOR)
    assert_same(store.get(2).world_from_keyframe, keyframe(2, 2.0).world_from_keyframe)


def test_a_segment_is_rescaled_and_no_other():
    store = store_of([1.0, 2.0])
    store.add(keyframe(2, 5.0, segment=1))
    about = np.array([1.0, 2.0, 3.0])
    before = [store.get(key).world_from_keyframe for key in range(3)]
    store.rescale(0, 1.5, about)
    for key in (0, 1):
        scaled = Similarity.scaling(1.5, about) @ before[key]
        assert_same(store.get(key).world_from_keyframe, scaled)
    assert float(store.get(0).world_from_keyframe.scale) == 1.5
    assert_same(store.get(2).world_from_keyframe, before[2])


def test_edges_hold_whatever_happens_to_the_unit():
    """They are in the first keyframe's own unit, which no change of the world's touches."""
    store = store_of([1.0, 2.0, 4.0])
    store.rescale(0, 1.7, np.array([3.0, 0.0, 1.0]))
    store.merge(0, 1, FACTOR)
    for found in store.edges:
        assert_same(relative(store, found.first, found.second), found.first_from_second)


def test_a_merged_segment_moves_and_takes_the_other_number():
    store = store_of([0.0, 1.0])
    store.add(keyframe(2, 5.0, segment=1))
    store.merge(1, 0, FACTOR)
    assert store.snapshot().segments.tolist() == [0, 0, 0]
    assert_same(
        store.get(2).world_from_keyframe, FACTOR @ keyframe(2, 5.0, segment=1).world_from_keyframe
    )
    assert_same(store.get(1).world_from_keyframe, keyframe(1, 1.0).world_from_keyframe)


def test_a_snapshot_is_the_same_until_something_changes():
    store = store_of([0.0, 1.0, 2.0], joined=False)
    changes = [
        lambda: store.add(keyframe(3, 3.0)),
        lambda: store.move({1: FACTOR}),
        lambda: store.rescale(0, 1.1, np.zeros(3)),
        lambda: store.add_edge(edge(store, 0, 3, LOOP)),
        lambda: store.merge(0, 2, FACTOR),
    ]
    for change in changes:
        before = store.snapshot()
        assert store.snapshot() is before
        kept = [np.copy(array) for array in before[:7]]
        change()
        assert store.snapshot() is not before
        assert all(np.array_equal(a, b) for a, b in zip(kept, before, strict=False))
    assert store.snapshot().loops.tolist() == [[0, 3]] == [list(pair) for pair in store.loops]


def test_views_are_where_cameras_look():
    store = KeyframeStore()
    store.add(keyframe(0, 3.0, angle=0.5, segment=6))
    views = store.centres()
    assert np.allclose(views.centres, [[3, 0, 0]]) and views.segments.tolist() == [6]
    ahead = store.get(0).world_from_keyframe.apply(np.array([0.0, 0.0, 1.0]))
    assert np.allclose(views.directions, [ahead - views.centres[0]])


# ---- thinning ---------------------------------------------------------------------------------


def test_nothing_goes_below_the_limit():
    store = store_of(np.zeros(30), limit=30)
    store.thin()
    assert len(store) == 30


def test_the_older_of_the_closest_pair_goes_first():
    places = [0.0, 1.0, 2.0, 2.1, 3.0, 4.0, *range(10, 10 + NEWEST)]
    store = store_of(places, limit=len(places) - 1)
    store.thin()
    assert 2 not in store and len(store) == len(places) - 1


def test_who_looks_elsewhere_is_not_redundant():
    store = store_of([0.0, 10.0, 20.0, 30.5], limit=3 + NEWEST)
    store.add(keyframe(4, 0.0, angle=2.0))
    store.add(keyframe(5, 31.0))
    for key in range(6, 4 + NEWEST):
        store.add(keyframe(key, 50.0 * key))
    while len(store) <= store.limit:
        store.add(keyframe(len(store), 50.0 * len(store)))
    store.thin()
    assert 0 in store and 4 in store and len(store) == store.limit
    assert 3 not in store or 5 not in store


def test_near_is_what_is_near_beside_the_depth_of_the_scene():
    """A metre between two views of a far wall is less than a tenth of that at a table."""
    store = KeyframeStore(limit=3 + NEWEST)
    for key, (x, depth) in enumerate([(0.0, 0.5), (0.3, 0.5), (10.0, 50.0), (13.0, 50.0)]):
        store.add(keyframe(key, x, depth=np.full((4, 4), depth)))
    for key in range(4, 4 + NEWEST):
        store.add(keyframe(key, 500.0 * key))
    store.thin()
    assert ids(store)[:3] == [0, 1, 3]


def test_another_segment_makes_no_keyframe_redundant():
    store = KeyframeStore(limit=2 + NEWEST)
    store.add(keyframe(0, 0.0, segment=1))
    store.add(keyframe(1, 0.0, segment=0))
    store.add(keyframe(2, 8.0, segment=0))
    for key in range(3, 3 + NEWEST):
        store.add(keyframe(key, 100.0 * key))
    store.thin()
    assert 0 in store and len(store) == store.limit


def test_what_many_losses_leave_behind_takes_no_room_from_the_map():
    """Hours of a camera that is lost now and then, and never found where it was."""
    store = KeyframeStore(limit=40)
    for key in range(400):
        is_lost = key % 10 < 2  # for two keyframes, of a segment of their own
        store.add(keyframe(key, 10.0 * key, segment=1 + key // 10 if is_lost else 0))
        store.thin()
        assert len(store) <= store.limit
    segments = store.centres().segments
    assert np.sum(segments == 0) >= 20
    assert segments.max() > 30, "the newest losses are known"


def test_what_is_needed_stays_even_beyond_the_limit():
    store = store_of(np.zeros(20), limit=5)
    store.thin(keep=range(10))
    assert ids(store) == list(range(20))
    store.thin(keep={0, 3})
    assert set(ids(store)) == {0, 3, *range(20 - NEWEST, 20)}


def test_a_long_stay_leaves_the_rest_of_the_drive():
    """What is far from all others survives thousands of keyframes of one place."""
    store = KeyframeStore(limit=40)
    for key in range(400):
        store.add(keyframe(key, 10.0 * key if key < 20 else 200.0 + 1e-3 * key))
        if key:
            store.add_edge(edge(store, key - 1, key))
        store.thin()
    assert len(store) == 40 and set(range(19)) <= set(ids(store))
    assert len(store.edges) == 39


# ---- who goes leaves edges and an heir ---------------------------------------------------------


def thinned(store: KeyframeStore, gone: int) -> None:
    """Make this keyframe the one that goes: only it is not kept."""
    store.limit = len(store) - 1
    for key in range(1000, 1000 + NEWEST):
        store.add(keyframe(key, 1e6 + 1e4 * key, segment=store.get(gone).segment))
        store.limit += 1
    store.thin(keep=set(ids(store)) - {gone})
    assert gone not in store


def test_neighbours_are_joined_across_the_gap():
    store = store_of([0.0, 1.0, 1.4])
    first, second = store.edges
    whole = first.then(second)
    thinned(store, 1)
    (bridge,) = store.edges
    if bridge.first == 2:
        bridge = bridge.reversed()
    assert (bridge.first, bridge.second, bridge.kind) == (0, 2, SEQUENCE)
    assert_same(bridge.first_from_second, whole.first_from_second)
    assert np.all(np.array(bridge.sigma) >= np.array(whole.sigma) - 1e-12)
    assert np.all(np.array(bridge.sigma) <= 1.5 * np.array(whole.sigma))


def test_what_was_measured_is_composed_and_not_where_it_is_now():
    """Poses that do not fit the edges leave edges as they are measured."""
    store = store_of([0.0, 1.0, 2.0])
    store.move({1: FACTOR})
    thinned(store, 1)
    (bridge,) = store.edges
    measured = keyframe(0, 0.0).world_from_keyframe.inverse() @ keyframe(2, 2.0).world_from_keyframe
    found = bridge if bridge.first == 0 else bridge.reversed()
    assert_same(found.first_from_second, measured)


def test_a_predicted_step_makes_the_whole_predicted():
    store = store_of([0.0, 1.0], joined=True)
    store.add(keyframe(2, 2.5))
    store.add_edge(edge(store, 1, 2, BRIDGE, (0.5, 0.5, 0.5)))
    thinned(store, 1)
    (bridge,) = store.edges
    assert bridge.kind == BRIDGE and min(bridge.sigma) >= 0.5


def test_a_loop_goes_on_from_the_heir():
    store = store_of([0.0, 5.0, 9.0, 30.0, 60.0])
    loop = Edge(4, 1, relative(store, 4, 1) @ Similarity.scaling(1.01, np.ones(3)), SIGMA, LOOP)
    store.add_edge(loop)
    store.move({1: Similarity(1.1, heading(0.1), np.array([5.5, 0.2, 0.0]))})
    says = store.get(4).world_from_keyframe @ loop.first_from_second  # of keyframe 1
    off = store.get(1).world_from_keyframe.inverse() @ says
    thinned(store, 1)
    assert store.snapshot().heirs == {1: 2}  # the nearer of its neighbours
    (moved,) = (found for found in store.edges if found.kind == LOOP)
    assert (moved.first, moved.second) == (4, 2)
    says = store.get(4).world_from_keyframe @ moved.first_from_second  # of keyframe 2 now
    still = store.get(2).world_from_keyframe.inverse() @ says
    assert float(still.scale) == pytest.approx(float(off.scale))
    assert np.allclose(np.trace(still.rotation), np.trace(off.rotation))
    assert store.snapshot().loops.tolist() == [[4, 2]]


def test_a_loop_of_two_neighbours_vanishes_with_one():
    store = store_of([0.0, 1.0, 2.0])
    store.add_edge(edge(store, 1, 2, LOOP))
    thinned(store, 1)
    assert all(set(found[:2]) == {0, 2} for found in store.edges)


def test_of_parallel_edges_the_most_certain_stays():
    store = store_of([0.0, 1.0, 2.0])
    sure = edge(store, 0, 2, SEQUENCE, (1e-4, 1e-4, 1e-4))
    store.add_edge(sure)
    thinned(store, 1)
    assert store.edges == (sure,)


def test_the_graph_stays_whole_and_small():
    """Windows join each keyframe with four others; whatever goes, all that is left is joined."""
    rng = np.random.default_rng(2)
    store = KeyframeStore(limit=60)
    for key in range(400):
        store.add(keyframe(key, float(rng.uniform(0, 30)), angle=float(rng.uniform(0, 6))))
        for back in range(1, 5):
            if key - back in store:
                store.add_edge(edge(store, key - back, key))
        if key % 40 == 39:
            store.add_edge(edge(store, ids(store)[0], key, LOOP))
        store.thin()
    newest, poses = ids(store)[-1], {key: store.get(key).world_from_keyframe for key in ids(store)}
    for key in ids(store):
        assert np.isfinite(relative_sigma(store.edges, key, newest, poses)).all()
    assert len(store.edges) < 8 * len(store)
    for found in store.edges:
        assert_same(relative(store, found.first, found.second), found.first_from_second, 1e-6)


def test_uncertainty_is_that_of_the_edges():
    store = store_of([0.0, 1.0, 4.0, 9.0])
    store.add(keyframe(9, 2.0))
    store.rescale(0, 2.0, np.zeros(3))
    poses = {key: store.get(key).world_from_keyframe for key in ids(store)}
    found = store.relative_sigmas(3)
    assert set(found) == {0, 1, 2, 3}
    for key, sigma in found.items():
        assert sigma == pytest.approx(relative_sigma(store.edges, key, 3, poses))


# ---- what belongs to keyframes -----------------------------------------------------------------


class Owner:
    """Points in the world, each of a keyframe: what the cloud, the path and a run do."""

    def __init__(self, store: KeyframeStore):
        self._follower = KeyframeFollower()
        self.points: dict[int, tuple[int, np.ndarray]] = {}
        self.follow(store)

    def follow(self, store: KeyframeStore) -> None:
        correction = self._follower.follow(store.snapshot())
        for name, (key, point) in self.points.items():
            if key in correction.moved:
                point = correction.moved[key].apply(point)
            self.points[name] = (correction.heirs.get(key, key), point)


def test_a_point_of_a_removed_keyframe_stays_and_follows_its_heir():
    store = store_of([0.0, 1.0, 1.2])
    owner = Owner(store)
    point = np.array([0.7, 0.2, 3.0])
    owner.points[0] = (1, point)
    thinned(store, 1)
    owner.follow(store)
    key, there = owner.points[0]
    assert key == 2 and np.allclose(there, point)
    before = store.get(2).world_from_keyframe
    store.move({2: FACTOR @ before})
    owner.follow(store)
    assert np.allclose(owner.points[0][1], FACTOR.apply(point))


def test_points_follow_through_generations_of_heirs():
    """Owner that looks seldom, and one that looks always: both find every keyframe's heir."""
    store = KeyframeStore(limit=25)
    for key in range(25):
        store.add(keyframe(key, float(key % 7)))
        if key:
            store.add_edge(edge(store, key - 1, key))
    owner, seldom = Owner(store), Owner(store)
    for who in (owner, seldom):
        who.points = {key: (key, np.array([key, 1.0, 2.0])) for key in range(25)}
    for key in range(25, 35):
        store.add(keyframe(key, 100.0 * key))
        store.add_edge(edge(store, key - 1, key))
        store.thin()
        owner.follow(store)
    seldom.follow(store)
    for who in (owner, seldom):
        for name, (key, point) in who.points.items():
            assert key in store
            assert np.allclose(point, [name, 1.0, 2.0])
    store.rescale(0, 2.0, np.ones(3))
    store.merge(0, 1, FACTOR)
    for who in (owner, seldom):
        who.follow(store)
        for name, (_, point) in who.points.items():
            moved = FACTOR.apply(1.0 + 2.0 * (np.array([name, 1.0, 2.0]) - 1.0))
            assert np.allclose(point, moved)


def test_heirs_are_bounded_and_always_there():
    store = KeyframeStore(limit=20)
    for key in range(200):
        store.add(keyframe(key, float(key)))
        store.thin()
    heirs = store.snapshot().heirs
    assert len(heirs) == 20 and set(heirs.values()) <= set(ids(store))
