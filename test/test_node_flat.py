# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""~/scan and ~/occupancy on live topics, of a robot in a furnished room."""

import re

import numpy as np
import pytest
from fakes.oracle import NONE
from fakes.room import BASE_FROM_CAMERA, ROOM
from made_updates import keyframes, update
from nav_msgs.msg import OccupancyGrid
from node_rig import PERIOD, Rig
from robot_rig import START, SimulatedRobot
from sensor_msgs.msg import LaserScan

from vggt_ros.errors import UserError
from vggt_ros.frames import Update
from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.flat_outputs import OccupancyOutput
from vggt_ros.ros.publishing.following import MapFollower
from vggt_ros.ros.publishing.map_output import MapOutput

pytestmark = pytest.mark.ros

METRES = {"scale_source": "fixed", "fixed_scale": 1.0, "tf_mode": "none"}


def distance_to_wall(base: np.ndarray, bearing: float) -> float:
    """From the base to the walls of the room."""
    yaw = np.arctan2(base[1, 0], base[0, 0]) + bearing
    direction = np.array([np.cos(yaw), np.sin(yaw)])
    steps = [((ROOM[int(direction[i] > 0), i] - base[i, 3]) / direction[i]) for i in range(2)]
    return float(min(steps))


def test_a_scan_of_each_view_in_the_frame_of_the_base(rig: Rig):
    robot = SimulatedRobot(rig, "room", 30, NONE)
    robot.start(scan_max_range=20.0, scan_min_height=2.3, scan_max_height=2.8, **METRES)
    scans = rig.subscribe_matched("/vggt/scan", LaserScan)
    robot.infer(*range(4))
    rig.wait_until(lambda: len(scans) == 4, "all scans")
    for i, scan in enumerate(scans):
        assert scan.header.frame_id == "base_link"
        assert stamp_ns(scan.header.stamp) == START + i * PERIOD
        ranges = np.array(scan.ranges)
        assert scan.angle_max == pytest.approx(
            scan.angle_min + (len(ranges) - 1) * scan.angle_increment, abs=1e-4
        )
        assert (scan.range_min, scan.range_max) == (pytest.approx(0.05), 20.0)
        known = np.flatnonzero(np.isfinite(ranges))
        assert len(known) > 15
        for beam in known:  # above all furniture there are the walls alone
            bearing = scan.angle_min + beam * scan.angle_increment
            half = scan.angle_increment / 2
            expected = [
                distance_to_wall(robot.base[i], bearing + part * half) for part in (-1, 0, 1)
            ]
            assert min(expected) - 0.2 < ranges[beam] < max(expected) + 0.2


@pytest.mark.parametrize(
    "described, scale, words",
    [
        (False, METRES, "/tf does not connect base_frame 'base_link' with 'camera_optical'"),
        (True, {"tf_mode": "none"}, "units are arbitrary, and scan_min_height 0.1 is metres"),
    ],
)
def test_without_heights_in_metres_nothing_is_sent_and_listeners_are_told(
    rig: Rig, described: bool, scale: dict, words: str
):
    robot = SimulatedRobot(rig, "room", 30, NONE)
    robot.start(described=described, **scale)
    robot.infer(0, 1)
    rig.wait_for_diagnostics("ready")
    assert words not in str(rig.diagnostics()), "nobody listens"
    scans = rig.subscribe_matched("/vggt/scan", LaserScan)
    grids = rig.subscribe_matched("/vggt/occupancy", OccupancyGrid, latched=True)
    robot.infer(2, 3)
    rig.wait_for_diagnostics("~/scan has a subscriber", "~/occupancy has a subscriber", words)
    assert not scans and not grids


def test_the_map_from_above_for_late_subscribers_too(rig: Rig):
    robot = SimulatedRobot(rig, "room", 60, NONE)
    robot.start(map_period=0.1, map_voxel=0.1, **METRES)
    grids = rig.subscribe_matched("/vggt/occupancy", OccupancyGrid)
    robot.infer(*range(12))
    rig.wait_until(lambda: grids, "a grid")
    late = rig.subscribe_matched("/vggt/occupancy", OccupancyGrid, latched=True)
    rig.wait_until(lambda: late, "the newest grid")
    grid = late[-1]
    assert grid.header.frame_id == "vggt_world"
    assert grid.info.resolution == pytest.approx(0.1)
    values = np.array(grid.data).reshape(grid.info.height, grid.info.width)
    assert set(np.unique(values)) == {-1, 0, 100}

    def at(x: float, y: float) -> int:
        origin = grid.info.origin.position
        return int(values[int((y - origin.y) // 0.1), int((x - origin.x) // 0.1)])

    # The world begins at the robot's first base, which looks along x, 8 m from the wall ahead.
    for base in robot.base[2:10]:
        eye = (base @ BASE_FROM_CAMERA)[:3, 3] - robot.base[0][:3, 3]
        assert at(eye[0], eye[1]) == 0
    assert at(5.0 - robot.base[0][0, 3] - 0.05, -1.2) in (100, -1)


def test_once_the_map_is_gone_its_grid_is_replaced_by_a_cell_that_is_not_known(rig: Rig):
    """A navigation stack would plan in it; nor is it given to one that listens later."""
    robot = SimulatedRobot(rig, "room", 60, NONE)
    robot.start(map_period=0.1, map_voxel=0.1, **METRES)
    robot.infer(0)
    assert rig.call("reset").success
    grids = rig.subscribe_matched("/vggt/occupancy", OccupancyGrid)
    robot.infer(*range(1, 12))
    rig.wait_until(lambda: grids, "a grid")
    assert len(grids[0].data) > 1, "nothing is said of a grid that there never was"
    assert rig.call("reset").success
    late = rig.subscribe("/vggt/occupancy", OccupancyGrid, latched=True)
    for found in (grids, late):
        rig.wait_until(lambda f=found: f and f[-1].data.tolist() == [-1], "one cell, not known")
        assert (found[-1].info.width, found[-1].info.height) == (1, 1)
        assert found[-1].info.resolution == pytest.approx(0.1)
        assert found[-1].header.frame_id == "vggt_world"
    robot.infer(*range(12, 24))
    rig.wait_until(lambda: len(grids[-1].data) > 1, "a grid of the new map")


class Unchanging(LiveParameters):
    """Parameters without a node."""

    def __init__(self, now: Parameters):
        self.now = now


def follow(
    i: int, follower: MapFollower, known: MapOutput, output: OccupancyOutput, now: Parameters
) -> Update:
    """An update whose newest image is `i`, up to the begin of a grid that is due."""
    found = update([i - 1, i] if i else [i], keyframes(range(i + 1)), metric=True)
    change = follower.follow(found)
    known.update(found, change)
    output.update(found, change)
    if not output.is_making and output.is_due(now):
        output.begin(now)
    return found


def test_a_large_grid_takes_some_images_and_that_is_said(monkeypatch: pytest.MonkeyPatch):
    now = Parameters(map_voxel=0.05, map_period=0.5, base_frame="robot", scan_max_range=4.0)
    known, grids, follower = MapOutput(Unchanging(now)), {}, MapFollower()
    output = OccupancyOutput(lambda *_: np.eye(4), known)
    for i in range(40):
        if i == 20:
            monkeypatch.setattr(
                "vggt_ros.ros.publishing.flat_outputs.READ_AT_ONCE", known.size // 8
            )
        found = follow(i, follower, known, output, now)
        assert output.warning == ""
        if (grid := output.next_message(now)) is not None:
            grids[i] = grid
            assert stamp_ns(grid.header.stamp) == found.views[-1].stamp_ns
            if i < 20:
                assert output.state == "every 0.5 s at most"
    gaps = np.diff(sorted(grids))
    assert 5 in gaps and gaps[-1] > 8, "eight parts to read"
    assert "not every 0.5 s (map_period)" in output.state
    assert set(np.unique(list(grids.values())[-1].data)) == {-1, 0, 100}
    output.abandon()
    assert not output.is_making


def test_a_grid_that_is_too_large_for_its_cells_is_a_warning_that_lasts(monkeypatch):
    """After hours of a robot that goes on and on."""
    now = Parameters(map_voxel=0.05, map_period=0.1, base_frame="robot", scan_max_range=4.0)
    known, follower = MapOutput(Unchanging(now)), MapFollower()
    output, cells = OccupancyOutput(lambda *_: np.eye(4), known), []
    for i in range(20):
        if i == 10:
            assert cells and set(cells) == {0.05}
            monkeypatch.setattr("vggt_ros.mapping.cloud.occupancy.MAX_CELLS", 100)
        follow(i, follower, known, output, now)
        assert i > 9 or not output.warning
        if (grid := output.next_message(now)) is not None:
            cells.append(round(grid.info.resolution, 6))
    assert output.warning.startswith(f"~/occupancy has cells of {cells[-1]:g}, not of 0.05 as")
    output.begin(now)
    assert output.warning, "also while the next one is made"


def test_a_band_needs_its_two_heights_in_order():
    with pytest.raises(UserError, match="the second must be the larger one"):
        Parameters(scan_min_height=2.0, scan_max_height=1.0)


def test_voxels_that_are_coarser_than_asked_for_are_a_warning(rig: Rig):
    robot = SimulatedRobot(rig, "room", 30, NONE)
    robot.start(map_voxel=0.01, map_points_max=1000, **METRES)
    robot.infer(*range(4))
    words = "with finer voxels the map has more than map_points_max (1000) points; raise that, or"
    status = rig.wait_for_status("outputs", lambda s: words in s.message)
    found = re.search(r"map_voxel is 0.01, but ([0-9.]+) is used", status.message)
    assert found and float(found[1]) >= 0.02
    (row,) = [pair.value for pair in status.values if pair.key == "map points"]
    assert re.fullmatch(rf"\d+; at most 1000, in voxels of {found[1]}", row), row
