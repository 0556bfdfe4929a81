# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Voxels that later views see through leave the map; the room stays, and the cost is bounded."""

import numpy as np
import pytest
from fakes.room import BASE_FROM_CAMERA, INTRINSICS, drive, true_depth

from vggt_ros.geometry import unproject
from vggt_ros.mapping.cloud.voxel_table import VoxelTable
from vggt_ros.mapping.cloud.voxels import EXAMINED, TURNS, VoxelMap

RGB = np.zeros((56, 84, 3), np.uint8)


def look(cloud: VoxelMap, depth: float | np.ndarray, **options) -> None:
    """Add a view from the origin along z."""
    image = np.full((56, 84), depth, np.float32) if isinstance(depth, float) else depth
    cloud.add_view(image, RGB, np.full_like(image, 2.0), INTRINSICS, np.eye(4), **options)


def in_the_middle(cloud: VoxelMap, segment: int | None = None) -> np.ndarray:
    """Which points lie nearer than 3 m, and not at the rim of the view, which clears nothing."""
    x, y, z = cloud.owned_cloud(segment).points.T
    return (z < 3.0) & (np.abs(x) < 1.0) & (np.abs(y) < 0.5)


def with_a_person(depth: np.ndarray, pose: np.ndarray, x: float, y: float) -> np.ndarray:
    """The view of the room with a person, half a metre wide and 1.7 m tall, at a place in it."""
    rays = unproject(np.ones(depth.shape), INTRINSICS) @ pose[:3, :3].T
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    near = (np.array([x - 0.25, y - 0.25, 0.0]) - pose[:3, 3]) / rays
    far = (np.array([x + 0.25, y + 0.25, 1.7]) - pose[:3, 3]) / rays
    enter = np.minimum(near, far).max(-1)
    leave = np.maximum(near, far).min(-1)
    return np.where((enter > 0) & (enter < leave), np.minimum(depth, enter), depth)


def ride_past_a_person(**options) -> VoxelMap:
    """A robot that stands; a person walks across its view, and is gone in the last 40 of 80."""
    cloud = VoxelMap(0.1)
    pose = drive("stand")[0] @ BASE_FROM_CAMERA
    rgb = np.zeros((56, 84, 3), np.uint8)
    random = np.random.default_rng(0)
    for i in range(80):
        depth = true_depth(pose)
        if i < 40:
            depth = with_a_person(depth, pose, -0.5, -3.6 + 0.05 * i)
        depth = (depth * np.exp(0.01 * random.standard_normal(depth.shape))).astype(np.float32)
        cloud.add_view(depth, rgb, np.full_like(depth, 2.0), INTRINSICS, pose, **options)
    return cloud


def on_the_way(cloud: VoxelMap) -> int:
    """Voxels where the person walked, above the floor."""
    x, y, z = cloud.cloud().points.T
    return int(((np.abs(x + 0.5) < 0.4) & (y > -3.9) & (y < -1.2) & (z > 0.2) & (z < 1.8)).sum())


def test_a_person_who_walked_past_leaves_the_map_and_the_room_stays():
    cleared, kept = ride_past_a_person(), ride_past_a_person(clearing=False)
    assert on_the_way(kept) > 100
    assert on_the_way(cleared) <= on_the_way(kept) / 20
    room = len(kept) - on_the_way(kept)
    assert len(cleared) - on_the_way(cleared) > 0.98 * room
    assert len(cleared) == len(cleared.cloud().points)


def test_a_cleared_voxel_can_be_filled_again_and_belongs_to_who_fills_it():
    cloud = VoxelMap(0.5)
    for i, distance in enumerate((2.2, 6.0, 2.2)):
        for _ in range(TURNS if distance == 6.0 else 1):
            look(cloud, distance, keyframe=i)
        near = in_the_middle(cloud)
        assert near.any() == (distance < 3.0)
        assert len(cloud) == len(near)
        owners = cloud.owned_cloud().keyframes
        assert set(owners[near].tolist()) == ({i} if distance < 3.0 else set())


def test_another_segment_clears_nothing():
    cloud = VoxelMap(0.5)
    look(cloud, 2.2, segment=0)
    before = cloud.count(0)
    for _ in range(TURNS):
        look(cloud, 6.0, segment=1)
    assert cloud.count(0) == before
    for _ in range(TURNS):
        look(cloud, 6.0, segment=0)
    assert not in_the_middle(cloud, 0).any()


def test_what_is_less_than_a_pixel_wide_or_beside_a_thin_thing_stays():
    """Twelve metres away a voxel of 0.1 m is half a pixel; and a pole of one pixel stands."""
    cloud = VoxelMap(0.1)
    look(cloud, 12.0)
    before = len(cloud)
    for _ in range(TURNS):
        look(cloud, 20.0)
    assert (cloud.cloud().points[:, 2] < 13.0).sum() == before
    cloud, pole = VoxelMap(0.1), np.full((56, 84), 8.0, np.float32)
    pole[:, 40:43] = 3.0
    look(cloud, pole)
    stands = (cloud.cloud().points[:, 2] < 4.0).sum()
    pole[:, 40:42] = 8.0  # thinner by two pixels now
    for _ in range(TURNS):
        look(cloud, pole)
    assert (cloud.cloud().points[:, 2] < 4.0).sum() > 0.6 * stands


def test_slots_of_cleared_voxels_are_given_back():
    """Things come and go for ever in a map of few voxels: it neither fills up nor grows coarse."""
    cloud, rgb = VoxelMap(0.1, capacity=2000), np.zeros((56, 84, 3), np.uint8)
    for i in range(60):
        pose = np.eye(4)
        pose[:3, 3] = [0.0, 0.35 * (i // 2), 0.0]
        depth = np.full((56, 84), 1.5 if i % 2 == 0 else 30.0, np.float32)
        confidence = np.where(depth < 20.0, 2.0, 0.5) if i % 2 == 0 else np.full_like(depth, 2.0)
        cloud.add_view(depth, rgb, confidence.astype(np.float32), INTRINSICS, pose)
    assert len(cloud) <= 2000
    assert len(cloud) == len(cloud.cloud().points)


def test_the_cost_of_clearing_does_not_grow_with_the_map(monkeypatch: pytest.MonkeyPatch):
    """Each view is compared with so many voxels, in turn: all of them have been after some."""
    random, cloud = np.random.default_rng(0), VoxelMap(0.05, capacity=500_000)
    points = random.uniform(-20, 20, (300_000, 3)).astype(np.float32)
    cloud.add(points, np.zeros((300_000, 3), np.uint8), np.full(300_000, 2.0, np.float32))
    asked: list[int] = []
    read = VoxelTable.read_at

    def counted(table: VoxelTable, slots: np.ndarray):
        asked.append(len(slots))
        return read(table, slots)

    monkeypatch.setattr(VoxelTable, "read_at", counted)
    for _ in range(31):
        look(cloud, 2.0)
    assert max(asked) < 1.2 * EXAMINED
    assert sum(asked) > 299_000
