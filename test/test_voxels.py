# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The map cloud: one point per voxel, averaged, bounded, and readable by others."""

import numpy as np
import pytest
from fakes.oracle import BASE_FROM_CAMERA, FURNITURE, INTRINSICS, ROOM, drive, true_depth

from vggt_ros.files import write_ply
from vggt_ros.mapping.voxels import VoxelMap


def entered(cloud: VoxelMap, points, shade=100, confidence=2.0) -> int:
    points = np.asarray(points, np.float32)
    colours = np.full(points.shape, shade, np.uint8)
    return cloud.add(points, colours, np.full(len(points), confidence, np.float32))


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


def test_what_is_not_a_number_or_out_of_reach_stays_out():
    cloud = VoxelMap(0.05)
    assert entered(cloud, [[np.nan, 0, 0], [np.inf, 0, 0], [1e7, 0, 0], [0, 0, 0]]) == 1


def test_a_rescaled_map_is_where_the_world_is():
    cloud = VoxelMap(0.1)
    points = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    entered(cloud, points)
    before = cloud.cloud().points
    about = np.array([1.0, 2.0, -3.0])
    cloud.rescale(3.0, about)
    expected, after = about + 3.0 * (before - about), cloud.cloud().points
    order = [np.lexsort(np.round(p.T, 3)) for p in (expected, after)]
    np.testing.assert_allclose(after[order[1]], expected[order[0]], atol=1e-4)


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


@pytest.mark.parametrize("confidence", (None, np.array([1.5, 2.5], np.float32)))
def test_ply_reads_back(tmp_path, confidence):
    points = np.array([[1, 2, 3], [-1, 0, 0.5]], np.float32)
    colours = np.array([[255, 0, 1], [2, 3, 4]], np.uint8)
    write_ply(tmp_path / "map.ply", points, colours, confidence)
    head, body = (tmp_path / "map.ply").read_bytes().split(b"end_header\n")
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 2\n")
    fields = [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in ("r", "g", "b")]
    fields += [("confidence", "<f4")] if confidence is not None else []
    rows = np.frombuffer(body, fields)
    np.testing.assert_array_equal(np.stack([rows[n] for n in "xyz"], 1), points)
    np.testing.assert_array_equal(np.stack([rows[n] for n in "rgb"], 1), colours)
    assert [path.name for path in tmp_path.iterdir()] == ["map.ply"]
