# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The map cloud: one point per voxel, averaged and bounded."""

import numpy as np
import pytest
from fakes.room import BASE_FROM_CAMERA, FURNITURE, INTRINSICS, ROOM, drive, true_depth

from vggt_ros.geometry import Similarity, rotation_from_quaternion
from vggt_ros.mapping.cloud import voxels
from vggt_ros.mapping.cloud.voxel_table import VoxelTable
from vggt_ros.mapping.cloud.voxels import VoxelMap
from vggt_ros.mapping.corrections import Correction


def entered(cloud: VoxelMap, points, shade=100, confidence=2.0, **owner) -> int:
    points = np.asarray(points, np.float32)
    colours = np.full(points.shape, shade, np.uint8)
    return cloud.add(points, colours, np.full(len(points), confidence, np.float32), **owner)


@pytest.mark.parametrize("seed", range(3))
def test_every_voxel_that_was_hit_holds_one_point(seed):
    points = np.random.default_rng(seed).uniform(-3, 3, (5000, 3))
    cloud = VoxelMap(0.5)
    new = entered(cloud, points)
    cells = {tuple(cell) for cell in np.floor(points.astype(np.float32) / np.float32(0.5))}
    assert new == len(cloud) == len(cells)
    found = {tuple(cell) for cell in np.floor(cloud.cloud().points / 0.5)}
    assert found == cells
    assert entered(cloud, points) == 0


def test_views_are_averaged_by_confidence():
    cloud = VoxelMap(1.0)
    entered(cloud, [[0.2, 0.5, 0.5]], shade=100, confidence=2.0)
    entered(cloud, [[0.6, 0.5, 0.5]], shade=200, confidence=4.0)
    found = cloud.cloud()
    np.testing.assert_allclose(found.points, [[0.5, 0.5, 0.5]], atol=1e-6)
    assert found.colours.tolist() == [[175, 175, 175]]
    assert found.confidence == pytest.approx([3.0])


def test_memory_is_bounded_by_coarser_voxels():
    cloud = VoxelMap(0.05, capacity=2000)
    random = np.random.default_rng(0)
    for _ in range(20):
        entered(cloud, random.uniform(-2, 2, (1000, 3)))
    assert len(cloud) <= 2000 and cloud.voxel > 0.05
    assert np.abs(cloud.cloud().points).max() <= 2.0 + cloud.voxel


def grown(capacity: int, settles: bool) -> tuple[VoxelMap, list[int]]:
    """A map with more points than it may hold, and how many voxels moved in each call."""
    cloud, random, moved = VoxelMap(0.05, capacity), np.random.default_rng(0), []
    move = VoxelTable.move_into

    def counted(table: VoxelTable, other: VoxelTable, slots: slice) -> None:
        moved[-1] += len(table.voxels(slots))
        move(table, other, slots)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VoxelTable, "move_into", counted)
        for i in range(120):
            moved.append(0)
            entered(cloud, random.uniform(-1, 1, (60, 3)), keyframe=i)
            moved.append(0)
            cloud.follow(Correction({}, {}))
            while settles and cloud.is_moving:
                cloud.follow(Correction({}, {}))
    return cloud, moved


def test_a_full_map_becomes_coarser_a_part_at_a_time(monkeypatch):
    """No call moves all voxels, and in the end they are those of a map that stops for it."""
    monkeypatch.setattr(voxels, "MOVED_AT_ONCE", 300)
    cloud, moved = grown(3000, settles=False)
    settle(cloud)
    assert max(moved) < 450 and sum(moved) > 3000, "of some 3000 voxels"
    assert cloud.voxel > 0.05 and len(cloud) <= 3000
    monkeypatch.setattr(voxels, "MOVED_AT_ONCE", 10**9)
    at_once, moved = grown(3000, settles=True)
    assert max(moved) >= 3000 and at_once.voxel == cloud.voxel
    one, other = (each.cloud() for each in (cloud, at_once))
    np.testing.assert_allclose(in_order(one.points), in_order(other.points), atol=1e-5)
    assert one.colours.min() == one.colours.max() == 100
    for column in (one.confidence, other.confidence):
        column.sort()
    np.testing.assert_allclose(one.confidence, other.confidence, rtol=1e-5)


def test_a_map_that_nobody_lets_follow_has_room_all_the_same(monkeypatch):
    monkeypatch.setattr(voxels, "MOVED_AT_ONCE", 10)
    cloud, random = VoxelMap(0.01, capacity=2000), np.random.default_rng(0)
    for _ in range(60):
        entered(cloud, random.uniform(-2, 2, (1000, 3)))
    assert len(cloud) < 4096, "slots that its tables have"
    assert settle(cloud) and len(cloud) == len(cloud.cloud().points)


def test_what_is_not_a_number_or_out_of_reach_stays_out():
    cloud = VoxelMap(0.05)
    assert entered(cloud, [[np.nan, 0, 0], [np.inf, 0, 0], [1e7, 0, 0], [0, 0, 0]]) == 1


# ---- voxels follow the keyframes that own them --------------------------------------------------

MOTION = Similarity(1.5, rotation_from_quaternion(np.array([0.1, 0.3, -0.2, 0.9])), np.ones(3))


def in_order(points):
    """Rows sorted, so that clouds of the same points are equal."""
    return points[np.lexsort(np.round(points.T, 3))]


def settle(cloud: VoxelMap) -> int:
    """Let all voxels go to their new cells; returns in how many updates."""
    for updates in range(1000):
        if not cloud.is_moving:
            return updates
        cloud.follow(Correction({}, {}))
    raise AssertionError("the voxels never arrive")


def test_voxels_move_with_the_keyframe_that_first_filled_them():
    cloud = VoxelMap(0.1)
    here, there = np.array([[0.51, 0.5, 0.5], [0.95, 0.5, 0.5]]), np.array([[9.05, 0.5, 0.5]])
    entered(cloud, here, keyframe=1)
    entered(cloud, here + [0.02, 0, 0], keyframe=2)  # into voxels of keyframe 1
    entered(cloud, there, keyframe=2)
    mean = here + [0.01, 0, 0]
    for motions in ({2: MOTION}, {1: MOTION, 2: MOTION.inverse()}):
        cloud.follow(Correction(motions, {}))
        settle(cloud)
        there = motions[2].apply(there)
        mean = motions[1].apply(mean) if 1 in motions else mean
        expected = in_order(np.concatenate([mean, there]))
        np.testing.assert_allclose(in_order(cloud.cloud().points), expected, atol=1e-5)


def test_the_cloud_is_true_at_once_and_the_work_of_an_update_is_bounded(monkeypatch):
    monkeypatch.setattr(voxels, "MOVED_AT_ONCE", 200)
    cloud = VoxelMap(0.1, capacity=5000)
    entered(cloud, np.random.default_rng(0).uniform(-2, 2, (3000, 3)), keyframe=1)
    before = cloud.cloud()
    cloud.follow(Correction({1: MOTION}, {}))
    assert cloud.is_moving
    expected = in_order(MOTION.apply(before.points))
    for _ in range(3):  # while some are in the new cells and some are not
        found = cloud.cloud().points
        assert len(found) == len(cloud) >= 0.99 * len(expected)
        gaps = np.linalg.norm(found[::50, None] - expected[None], axis=2).min(axis=1)
        assert np.quantile(gaps, 0.9) < 1e-4 and gaps.max() < 0.1, "some cells now hold two"
        cloud.follow(Correction({}, {}))
    assert 5 <= settle(cloud) <= 20
    after = cloud.cloud()
    assert {tuple(c) for c in np.floor(after.points / 0.1)}.__len__() == len(after.points)
    weight = (before.confidence - 1.0).sum()
    assert (after.confidence - 1.0).sum() == pytest.approx(weight, rel=0.05)


def test_points_that_arrive_meanwhile_do_not_mix_with_voxels_that_have_left(monkeypatch):
    monkeypatch.setattr(voxels, "MOVED_AT_ONCE", 10)
    away = Similarity(1.0, np.eye(3), np.array([0.0, 0, 5.0]))
    grid = np.stack(np.meshgrid(*[np.arange(10) * 0.1 + 0.05] * 2, [0.05]), -1).reshape(-1, 3)
    cloud = VoxelMap(0.1)
    entered(cloud, grid, shade=0, keyframe=1)
    cloud.follow(Correction({1: away}, {}))
    entered(cloud, grid, shade=200, keyframe=2)
    for _ in range(2):
        found = cloud.cloud()
        high = found.points[:, 2] > 2.0
        assert high.sum() == (~high).sum() == len(grid)
        assert (found.colours[high] == 0).all() and (found.colours[~high] == 200).all()
        assert settle(cloud) >= 0


def test_small_corrections_add_up_and_nothing_is_rehashed_for_one():
    cloud = VoxelMap(0.1)
    entered(cloud, np.random.default_rng(0).uniform(-1, 1, (300, 3)), keyframe=1)
    before = cloud.cloud().points
    step, moving = Similarity(1.0, np.eye(3), np.array([0.004, 0, 0])), []
    for i in range(1, 30):
        cloud.follow(Correction({1: step}, {}))
        moving.append(cloud.is_moving or cloud.voxel != 0.1)
        middle = cloud.cloud().points.mean(axis=0)
        np.testing.assert_allclose(middle, before.mean(axis=0) + [0.004 * i, 0, 0], atol=0.02)
    assert not any(moving[:10])
    settle(cloud)


def test_the_heir_of_a_removed_keyframe_moves_its_voxels():
    cloud = VoxelMap(0.1)
    entered(cloud, [[1.0, 1.0, 1.0]], keyframe=7)
    cloud.follow(Correction({}, {7: 9}))
    cloud.follow(Correction({7: MOTION}, {}))  # no voxel is of keyframe 7 any more
    np.testing.assert_allclose(cloud.cloud().points, [[1.0, 1.0, 1.0]], atol=1e-6)
    cloud.follow(Correction({9: MOTION}, {9: 11}))
    settle(cloud)
    np.testing.assert_allclose(cloud.cloud().points, [MOTION.apply(np.ones(3))], atol=1e-5)


def test_segments_share_no_voxel_until_they_are_merged():
    cloud, point = VoxelMap(1.0), [[0.5, 0.5, 0.5]]
    entered(cloud, point, shade=0, keyframe=1, segment=0)
    entered(cloud, point, shade=200, keyframe=2, segment=3)
    assert (cloud.count(0), cloud.count(3), len(cloud)) == (1, 1, 2)
    assert cloud.cloud(3).colours.tolist() == [[200, 200, 200]]
    away = Similarity(1.0, np.eye(3), np.array([10.0, 0, 0]))
    cloud.follow(Correction({2: away}, {}), {2: 0})
    settle(cloud)
    assert (cloud.count(0), cloud.count(3)) == (2, 0)
    np.testing.assert_allclose(in_order(cloud.cloud(0).points), [*point, [10.5, 0.5, 0.5]])
    cloud.follow(Correction({2: away.inverse()}, {}))
    settle(cloud)
    assert cloud.cloud().colours.tolist() == [[100, 100, 100]], "merged, they share one"


def test_voxels_that_doubled_halve_again_where_the_map_shrinks():
    cloud = VoxelMap(0.05, capacity=2000)
    random = np.random.default_rng(0)
    for _ in range(10):
        entered(cloud, random.uniform(-20, 20, (1000, 3)), keyframe=1)
    doubled = cloud.voxel
    assert doubled > 0.5
    cloud.follow(Correction({1: Similarity.scaling(0.1, np.zeros(3))}, {}))
    settle(cloud)
    assert cloud.voxel == pytest.approx(doubled / 8.0) and len(cloud) <= 2000
    assert np.abs(cloud.cloud().points).max() < 2.1
    cloud.follow(Correction({1: Similarity.scaling(1e-3, np.zeros(3))}, {}))
    settle(cloud)
    assert cloud.voxel == 0.05, "never finer than asked for"


def test_rows_of_removed_keyframes_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(voxels, "MAX_ROWS", 10)
    cloud, moving = VoxelMap(0.1), []
    for i in range(30):
        entered(cloud, [[0.05 + 0.1 * i, 0.0, 0.0]], keyframe=i)
        cloud.follow(Correction({}, {i: 1000} if i else {}))
        moving.append(cloud.is_moving)
    assert len(cloud) == 30
    cloud.follow(Correction({1000: Similarity(1.0, np.eye(3), np.array([0, 0, 9.0]))}, {}))
    settle(cloud)
    assert (cloud.cloud().points[:, 2] > 8.0).sum() == 29


def test_a_drive_through_the_room_maps_its_surfaces():
    cloud = VoxelMap(0.05)
    for pose in (drive("room") @ BASE_FROM_CAMERA)[::10]:
        depth = true_depth(pose).astype(np.float32)
        rgb = np.full((*depth.shape, 3), 90, np.uint8)
        cloud.add_view(depth, rgb, np.full_like(depth, 2.0), INTRINSICS, pose)
    points = cloud.cloud().points
    boxes = np.concatenate([ROOM[None], FURNITURE])
    inside = np.all(
        (points[:, None] > boxes[:, 0] - 0.03) & (points[:, None] < boxes[:, 1] + 0.03), -1
    )
    gap = np.minimum(np.abs(points[:, None] - boxes[:, 0]), np.abs(points[:, None] - boxes[:, 1]))
    off_surface = np.where(inside, gap.min(-1), np.inf).min(-1)
    assert len(points) > 5000
    assert np.mean(off_surface < 0.03) > 0.995  # mixed pixels at edges stay home
