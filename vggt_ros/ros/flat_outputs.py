# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a robot on wheels asks for: ~/scan of a view, and ~/occupancy of the map.

Both need metres, and heights above the robot's base. Where one of these is not known nothing is
sent, which is a warning as long as there is a subscriber.
"""

import time
from array import array
from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import Point, Pose
from jaxtyping import Float, Float32
from nav_msgs.msg import MapMetaData, OccupancyGrid
from sensor_msgs.msg import LaserScan

from vggt_ros.frames import Update, View
from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.flat import Band, occupancy, scan
from vggt_ros.mapping.voxels import OwnedCloud
from vggt_ros.ros import messages
from vggt_ros.ros.parameters import Parameters

NEAREST = 0.05  # metres; a scan says of what is nearer only that it is
SHARE = 0.05  # of the time that a grid may take: a large map has one less often

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
    """`~/occupancy`: the cloud of the map from above, at most every `map_period` seconds."""

    def __init__(self, find_mount: FindMount):
        self._find_mount = find_mount
        self._newest: Update | None = None
        self._sent_ns = 0  # stamp of the newest image then
        self._seconds = 0.0  # that the last grid took
        self.state = "not asked for"  # for /diagnostics
        self.warning = ""

    def reset(self) -> None:
        """An empty map."""
        self._newest, self._sent_ns = None, 0

    def update(self, update: Update) -> None:
        """The newest update, of which heights and the places of keyframes are taken."""
        self._newest = update

    def is_due(self, parameters: Parameters) -> bool:
        """Whether it is time to publish again, by the images' stamps."""
        if self._newest is None:
            return False
        past = self._newest.views[-1].stamp_ns - self._sent_ns
        return not 0 <= past < 1e9 * self._period(parameters)

    def _period(self, parameters: Parameters) -> float:
        """Seconds from one grid to the next, at least."""
        return max(parameters.map_period, self._seconds / SHARE)

    def message(
        self, read: Callable[[], OwnedCloud | None], cell: float, parameters: Parameters
    ) -> OccupancyGrid | None:
        """The grid of the cloud that `read` gives; None: there is none, or no height is known."""
        update, began = self._newest, time.perf_counter()
        cloud = read()
        if cloud is None:
            self.warning = "~/occupancy has a subscriber, but map_voxel is 0: no map is kept"
        if update is None or cloud is None:
            return None
        newest = update.views[-1]
        mount = self._find_mount(newest.camera, newest.stamp_ns)
        floor = 0.0 if mount is not None else -parameters.camera_height or None
        self.warning = why_not(
            "~/occupancy", parameters, newest.camera, metric=update.metric, mount=floor
        )
        if floor is None or not update.metric:
            return None
        found = occupancy(
            cloud.points, cloud.keyframes, eyes_of(update.keyframes),
            band_of(parameters, floor), cell,
        )  # fmt: skip
        self._seconds = time.perf_counter() - began
        self.state = f"every {self._period(parameters):.1f} s at most"
        if self._period(parameters) > parameters.map_period:
            self.state += (
                f", and not every {parameters.map_period:g} s (map_period), since a grid takes"
                f" {self._seconds:.2f} s, and {SHARE:.0%} of the time are for it"
            )
        if found is None:
            return None
        self._sent_ns = newest.stamp_ns
        rows, columns = found.values.shape
        data = array("b")
        data.frombytes(found.values.tobytes())
        head = messages.header(newest.stamp_ns, parameters.world_frame)
        x, y = found.origin
        info = MapMetaData(
            map_load_time=head.stamp, resolution=found.cell, width=columns, height=rows,
            origin=Pose(position=Point(x=x, y=y, z=floor)),
        )  # fmt: skip
        return OccupancyGrid(header=head, info=info, data=data)


def eyes_of(keyframes: KeyframePoses) -> dict[int, Float[np.ndarray, "3"]]:
    """Where every keyframe's camera stands."""
    return dict(zip(keyframes.ids.tolist(), keyframes.translation, strict=True))


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
