# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth and cloud seen from above: ranges by REP 117, and what is free, occupied or unknown."""

import numpy as np
import pytest
from fakes.room import BASE_FROM_CAMERA, FURNITURE, INTRINSICS, ROOM, drive, true_depth

from vggt_ros.geometry import transform, unproject
from vggt_ros.mapping.cloud import occupancy
from vggt_ros.mapping.cloud.flat import Band, scan
from vggt_ros.mapping.cloud.occupancy import FREE, MAX_CELLS, OCCUPIED, UNKNOWN, Grid, GridBuilder
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.mapping.corrections import KeyframePoses

BAND = Band(0.1, 1.6, 5.0)


def at(found, degrees: float) -> float:
    """The range of a scan at a bearing."""
    beam = round((np.deg2rad(degrees) + np.pi) / found.step) % len(found.ranges)
    return float(found.ranges[beam])


def wall(distance: float, height: float = 3.0, floor: bool = True) -> np.ndarray:
    """z-depth of a wall across the view of the level camera, and of the floor before it."""
    rays = unproject(np.ones((56, 84)), INTRINSICS)
    down = np.maximum(rays[..., 1], 1e-9)
    top = 0.6 - distance * rays[..., 1]  # where a ray meets the plane of the wall, above the floor
    depth = np.where(top > height, 40.0, distance)  # over it one sees far
    return np.where((top < 0) & floor, 0.6 / down, depth).astype(np.float32)


def seen(depth: np.ndarray, band: Band = BAND, nearest: float = 0.05):
    return scan(depth, INTRINSICS, BASE_FROM_CAMERA, band, nearest)


def test_a_wall_is_at_its_range_at_every_bearing_of_the_view():
    found = seen(wall(3.0))
    for degrees in (-25, -10, 0, 10, 25):
        expected = 3.25 / np.cos(np.deg2rad(degrees))  # the camera is 0.25 m ahead of the base
        assert at(found, degrees) == pytest.approx(expected, abs=0.06)
    assert np.isnan(at(found, 90)) and np.isnan(at(found, 180)), "the camera does not look there"


def test_what_is_far_is_free_what_is_near_is_too_near_and_a_floor_says_nothing():
    assert at(seen(wall(9.0)), 0) == np.inf
    assert at(seen(wall(0.3)), 0) == pytest.approx(0.55, abs=0.06)
    assert at(seen(wall(0.3), nearest=0.7), 0) == -np.inf
    floor = wall(9.0)
    floor[:40] = np.nan  # what shows more than the floor nearby is not known
    assert np.isnan(at(seen(floor), 0))
    assert np.isnan(seen(np.full((56, 84), np.nan, np.float32)).ranges).all()


def test_obstacles_count_within_the_band_of_heights():
    low_wall = wall(2.0, height=0.4)
    assert at(seen(low_wall), 0) == pytest.approx(2.25, abs=0.06)
    assert at(seen(low_wall, Band(0.5, 1.6, 5.0)), 0) == np.inf, "one looks over it"
    assert at(seen(wall(2.0), Band(2.0, 2.5, 5.0)), 0) != pytest.approx(2.25, abs=0.06)


def test_a_lone_point_is_no_obstacle():
    depth = wall(9.0)
    depth[20, 42] = 1.0
    assert at(seen(depth), 0) == np.inf
    depth[18:23, 42] = 1.0
    assert at(seen(depth), 0) == pytest.approx(1.25, abs=0.06)


def test_ranges_in_the_furnished_room_are_those_to_walls_and_furniture():
    """Against a plain search through all points of the view, at every pose of a ride."""
    for base in drive("room")[::40]:
        depth = true_depth(base @ BASE_FROM_CAMERA).astype(np.float32)
        found = seen(depth)
        points = transform(BASE_FROM_CAMERA, unproject(depth, INTRINSICS)).reshape(-1, 3)
        points = points[(points[:, 2] > 0.1) & (points[:, 2] < 1.6)]
        distance = np.hypot(points[:, 0], points[:, 1])
        bearing = np.arctan2(points[:, 1], points[:, 0])
        beams = np.flatnonzero(np.isfinite(found.ranges))
        assert len(beams) > 5
        for beam in beams:
            off = bearing + np.pi - beam * found.step
            here = np.abs((off + np.pi) % (2 * np.pi) - np.pi) < found.step / 2
            nearest = np.sort(distance[here])[:3]
            assert found.ranges[beam] == pytest.approx(nearest.mean(), abs=0.1)


# ---- the map ------------------------------------------------------------------------------------


def cloud_of_a_ride(kind: str = "room", every: int = 10):
    """True points of some views, the view that each belongs to, and where those stand."""
    points, owners, eyes = [], [], {}
    for i, base in enumerate(drive(kind)[::every]):
        pose = base @ BASE_FROM_CAMERA
        seen_there = transform(pose, unproject(true_depth(pose), INTRINSICS)).reshape(-1, 3)
        points.append(seen_there.astype(np.float32))
        owners.append(np.full(len(seen_there), i))
        eyes[i] = pose[:3, 3]
    return np.concatenate(points), np.concatenate(owners), eyes


def keyframes_at(eyes: dict) -> KeyframePoses:
    """Keyframes of these ids that stand there."""
    n = len(eyes)
    ids, places = np.array(list(eyes), np.int64), np.reshape(list(eyes.values()), (n, 3))
    turns = np.broadcast_to(np.eye(3), (n, 3, 3))
    return KeyframePoses(ids, ids, 0 * ids, np.ones(n), turns, places.astype(float))


def grid_of(
    points: np.ndarray, owners: np.ndarray, eyes: dict, cell: float, parts: int = 1
) -> Grid | None:
    builder = GridBuilder(lambda: keyframes_at(eyes), BAND, cell)
    for some in np.array_split(np.arange(len(points)), parts):
        colours, ones = np.zeros((len(some), 3), np.uint8), np.ones(len(some), np.float32)
        builder.append(OwnedCloud(points[some], colours, ones, owners[some].astype(np.int64)))
    while not builder.draw():
        assert builder.grid is None, "it is not complete"
    return builder.grid


def value_at(grid, x: float, y: float) -> int:
    column = int((x - grid.origin[0]) // grid.cell)
    row = int((y - grid.origin[1]) // grid.cell)
    return int(grid.values[row, column])


def test_the_room_from_above():
    """Walls and furniture are occupied, the way is free, and behind the walls nothing is known."""
    points, owners, eyes = cloud_of_a_ride()
    grid = grid_of(points, owners, eyes, 0.1)
    assert grid is not None
    for x, y, _ in eyes.values():
        assert value_at(grid, x, y) == FREE
    rows, columns = np.nonzero(grid.values == OCCUPIED)
    x = grid.origin[0] + (columns + 0.5) * grid.cell
    y = grid.origin[1] + (rows + 0.5) * grid.cell
    sides = np.concatenate([ROOM[None, :, :2], FURNITURE[FURNITURE[:, 0, 2] < 1.6][:, :, :2]])
    inside = (x[:, None] > sides[:, 0, 0] - 0.1) & (x[:, None] < sides[:, 1, 0] + 0.1)
    inside &= (y[:, None] > sides[:, 0, 1] - 0.1) & (y[:, None] < sides[:, 1, 1] + 0.1)
    gap = np.minimum(
        np.abs(x[:, None, None] - sides[:, :, 0]), np.abs(y[:, None, None] - sides[:, :, 1])
    ).min(-1)
    off = np.where(inside, gap, np.inf).min(-1)
    assert len(x) > 200 and (off < 0.11).mean() > 0.99
    rows, columns = np.nonzero(grid.values == FREE)
    x = grid.origin[0] + (columns + 0.5) * grid.cell
    y = grid.origin[1] + (rows + 0.5) * grid.cell
    within = (np.abs(x) < ROOM[1, 0] + 0.1) & (np.abs(y) < ROOM[1, 1] + 0.1)
    assert within.mean() > 0.99 and len(x) > 2000
    assert (grid.values == UNKNOWN).any()


@pytest.mark.parametrize("at_once", [1, 10_000])
def test_a_grid_in_parts_is_the_grid(at_once: int, monkeypatch: pytest.MonkeyPatch):
    points, owners, eyes = cloud_of_a_ride()
    whole = grid_of(points, owners, eyes, 0.1)
    monkeypatch.setattr(occupancy, "DRAWN_AT_ONCE", at_once)
    parts = grid_of(points, owners, eyes, 0.1, parts=7)
    assert whole is not None and parts is not None
    assert whole[:2] == parts[:2]
    np.testing.assert_array_equal(whole.values, parts.values)


def test_a_grid_that_begins_again_has_no_points_of_before():
    builder = GridBuilder(lambda: keyframes_at({}), BAND, 0.1)
    point, colour = np.ones((1, 3), np.float32), np.zeros((1, 3), np.uint8)
    builder.append(OwnedCloud(point, colour, point[:, 0], np.full(1, -1)))
    builder.clear()
    while not builder.draw():
        pass
    assert builder.grid is None


def test_a_cloud_without_obstacles_or_rays_makes_no_grid():
    none = np.zeros((0, 3), np.float32)
    assert grid_of(none, np.zeros(0, int), {}, 0.1) is None
    ceiling = np.array([[1, 0, 3], [2, 0, 3]], np.float32)
    assert grid_of(ceiling, np.full(2, -1), {}, 0.1) is None


def test_a_large_map_has_coarser_cells():
    points = np.array([[0.3, 0.3, 1], [3000.3, 3000.3, 1]], np.float32)
    grid = grid_of(points, np.full(2, -1), {}, 0.05)
    assert grid is not None and grid.values.size <= MAX_CELLS and grid.cell == 1.6
    assert value_at(grid, 0.3, 0.3) == value_at(grid, 3000.3, 3000.3) == OCCUPIED
