# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a robot on wheels asks for: ~/scan of a view, and ~/occupancy of the map.

Both need metres, and heights above the robot's base. Where one of these is not known nothing is
sent, which is a warning as long as there is a subscriber.
"""

from array import array
from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import Point, Pose
from jaxtyping import Float, Float32
from nav_msgs.msg import MapMetaData, OccupancyGrid
from sensor_msgs.msg import LaserScan

from vggt_ros.frames import Update, View
from vggt_ros.mapping.cloud.flat import Band, scan
from vggt_ros.mapping.cloud.occupancy import MAX_CELLS, READ_AT_ONCE, Grid, GridBuilder
from vggt_ros.mapping.cloud.voxel_sweep import CloudSweep
from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.ros import messages
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.following import Change
from vggt_ros.ros.publishing.map_output import MapOutput

NEAREST = 0.05  # metres; a scan says of what is nearer only that it is

FindMount = Callable[[str, int], Float[np.ndarray, "4 4"] | None]


def band_of(parameters: Parameters, floor: float = 0.0) -> Band:
    """The band of heights of the parameters, above a floor."""
    low, high = parameters.scan_min_height, parameters.scan_max_height
    return Band(floor + low, floor + high, parameters.scan_max_range)


class ScanOutput:
    """`~/scan`: obstacles of a view in `base_frame`, by bearing."""

    def __init__(self, find_mount: FindMount):
        self._find_mount = find_mount
        self.warning = ""  # as long as nothing can be sent

    def message(
        self, view: View, depth: Float32[np.ndarray, "h w"], parameters: Parameters, *, metric: bool
    ) -> LaserScan | None:
        """The scan of a view; None where its mount or the scale is not known."""
        mount = self._find_mount(view.camera, view.stamp_ns)
        self.warning = why_not("~/scan", parameters, view.camera, metric=metric, mount=mount)
        if mount is None or not metric:
            return None
        band = band_of(parameters)
        found = scan(depth, view.intrinsics, mount, band, NEAREST)
        ranges = array("f")
        ranges.frombytes(found.ranges.tobytes())
        return LaserScan(
            header=messages.header(view.stamp_ns, parameters.base_frame),
            angle_min=-np.pi,
            angle_max=-np.pi + (len(ranges) - 1) * found.step,
            angle_increment=found.step,
            range_min=NEAREST,
            range_max=band.reach,
            ranges=ranges,
        )


class OccupancyOutput:
    """`~/occupancy`: the cloud of the map from above, at most every `map_period` seconds.

    A grid is made over several calls, each of which takes the same time however large the map is.
    """

    def __init__(self, find_mount: FindMount, cloud: MapOutput):
        self._find_mount, self._map = find_mount, cloud
        self.state = "not asked for"  # for /diagnostics
        self.warning = ""
        self._is_shown = False  # whether a grid was ever made: its topic is latched
        self.reset()

    def reset(self) -> None:
        """An empty map."""
        self._newest: Update | None = None
        self._begun_ns = 0  # stamp of the newest image when the last grid was begun
        self._sweep: CloudSweep | None = None  # of the grid in progress
        self._is_read = False
        self._floor = 0.0
        self._coarse = ""  # that the last grid has larger cells than the cloud

    def update(self, update: Update, change: Change) -> None:
        """The newest update, of which heights and the places of keyframes are taken."""
        if change.is_other_map:
            self.reset()
        self._newest = update

    def abandon(self) -> None:
        """Drop the grid in progress: no subscriber is left."""
        self._sweep, self.warning = None, ""

    @property
    def is_making(self) -> bool:
        """Whether a grid is in progress."""
        return self._sweep is not None

    def is_due(self, parameters: Parameters) -> bool:
        """Whether it is time for another grid, by the images' stamps."""
        if self._newest is None:
            return False
        past = self._newest.views[-1].stamp_ns - self._begun_ns
        return not 0 <= past < 1e9 * parameters.map_period

    def begin(self, parameters: Parameters) -> None:
        """Begin a grid, unless there is no cloud, or no height is known: that is a warning then."""
        update = self._newest
        if self._map.voxel == 0:
            self.warning = "~/occupancy has a subscriber, but map_voxel is 0: no map is kept"
            return
        if update is None:
            return
        newest = update.views[-1]
        mount = self._find_mount(newest.camera, newest.stamp_ns)
        floor = 0.0 if mount is not None else -parameters.camera_height or None
        self.warning = why_not(
            "~/occupancy", parameters, newest.camera, metric=update.metric, mount=floor
        ) or self._coarse  # fmt: skip
        if floor is None or not update.metric:
            return
        self._floor, self._is_read, self._begun_ns = floor, False, newest.stamp_ns
        band = band_of(parameters, floor)
        self._builder = GridBuilder(self._keyframes, band, self._map.voxel)
        self._sweep = self._map.sweep(self._builder)

    def next_message(self, parameters: Parameters) -> OccupancyGrid | None:
        """Go on with the grid; the message once it is complete, unless it is empty."""
        if self._sweep is None or self._newest is None:
            return None
        if self._sweep.segment != self._map.segment:
            self._sweep, self._is_read = self._map.sweep(self._builder), False
        if not self._is_read and self._sweep is not None:
            self._is_read = self._sweep.advance(READ_AT_ONCE / max(self._map.size, READ_AT_ONCE))
            return None
        if not self._builder.draw():
            return None
        self._sweep = None
        if self._builder.grid is None:
            self._begun_ns = 0
            return None
        self._is_shown, stamp_ns = True, self._newest.views[-1].stamp_ns
        self._describe(1e-9 * (stamp_ns - self._begun_ns), parameters.map_period)
        self.warning = self._coarse = self._why_coarse(self._builder.grid)
        return self._message(self._builder.grid, stamp_ns, parameters.world_frame)

    def unknown_message(self, parameters: Parameters) -> OccupancyGrid | None:
        """One cell that is not known, which takes the place of a map that is gone; None: of none.

        A navigation stack would plan in that map, whose origin is another one's; and a grid without
        cells is none to it.
        """
        if not self._is_shown:
            return None
        nothing = Grid(self._map.voxel, (0.0, 0.0), np.full((1, 1), -1, np.int8))
        return self._message(nothing, 0, parameters.world_frame)

    def _describe(self, taken: float, period: float) -> None:
        """Say how often there is a grid, of which the last was made over some seconds."""
        self.state = f"every {max(taken, period):.1f} s at most"
        if taken > period:
            self.state += (
                f", and not every {period:g} s (map_period), since each image brings it only a part"
                f" further: {self._map.size} points of the map take {taken:.1f} s"
            )

    def _why_coarse(self, grid: Grid) -> str:
        """That its cells are larger than the cloud's voxels, with figures; empty: they are not."""
        if grid.cell <= self._map.voxel:
            return ""
        return (
            f"~/occupancy has cells of {grid.cell:g}, not of {self._map.voxel:g} as the map's"
            f" voxels: it is too large for these, which would be more than {MAX_CELLS} cells; start"
            " with a map_voxel that is enough, or call ~/reset for another map"
        )

    def _keyframes(self) -> KeyframePoses:
        return KeyframePoses.empty() if self._newest is None else self._newest.keyframes

    def _message(self, found: Grid, stamp_ns: int, frame_id: str) -> OccupancyGrid:
        rows, columns = found.values.shape
        data = array("b")
        data.frombytes(found.values.data)
        head = messages.header(stamp_ns, frame_id)
        x, y = found.origin
        info = MapMetaData(
            map_load_time=head.stamp, resolution=found.cell, width=columns, height=rows,
            origin=Pose(position=Point(x=x, y=y, z=self._floor)),
        )  # fmt: skip
        return OccupancyGrid(header=head, info=info, data=data)


def why_not(topic: str, parameters: Parameters, camera: str, *, metric: bool, mount: object) -> str:
    """Why heights are not known, and what to do; empty: they are."""
    if mount is None:
        return (
            f"{topic} has a subscriber, but heights are not known: /tf does not connect base_frame"
            f" '{parameters.base_frame}' with '{camera}'; publish the robot's description"
        )
    if not metric:
        return (
            f"{topic} has a subscriber, but units are arbitrary, and scan_min_height"
            f" {parameters.scan_min_height:g} is metres: set scale_source, or wait until it is sure"
        )
    return ""
