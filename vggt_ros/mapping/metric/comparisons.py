# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames of the last seconds against sensors whose messages come late: each is measured once.

Another sensor's depth, or the odometry of a stamp, may arrive after the image, after its inference,
or after its frame has left the window. What the map knew of the frame is kept until then, and
follows the map's corrections, so that a late message measures the scale as an early one does.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, interpolate_rigid
from vggt_ros.mapping.map_frames import Depth, MapFrame, median_depth
from vggt_ros.mapping.metric.odometry import GAP_NS, OdometryBuffer, TravelComparison
from vggt_ros.mapping.metric.scale_sources import Found, from_depth

KEPT_NS = 2_000_000_000  # of frames, by their stamps: how late a message may be
MAX_KEPT = 128  # frames


@runtime_checkable
class DepthLookup(Protocol):
    """Another sensor's depth of single frames."""

    def at(self, frame_id: int) -> Float[np.ndarray, "h w"] | None:
        """Metres on the network's grid, NaN where none; None: nothing came so far."""
        ...


class Known(NamedTuple):
    """A frame as the map knew it when it was the newest."""

    frame_id: int
    stamp_ns: int
    world_from_camera: Float[np.ndarray, "4 4"]
    depth: Depth | None  # world units
    scene_depth: float

    def moved(self, now_from_then: Similarity) -> "Known":
        """The same in a world that was moved, turned and rescaled."""
        factor = now_from_then.scale
        return self._replace(
            world_from_camera=now_from_then.apply_to_poses(self.world_from_camera[None])[0],
            depth=None if self.depth is None else factor * self.depth,
            scene_depth=factor * self.scene_depth,
        )


class Comparisons:
    """What the last frames still lack, and the measurement of travel in progress."""

    def __init__(self) -> None:
        self._travel = TravelComparison()
        self._without_depth: tuple[Known, ...] = ()
        self._without_odometry: tuple[Known, ...] = ()
        self._before: Known | None = None  # the last frame that odometry went past

    def by_depth(self, newest: MapFrame, stamp_ns: int, lookup: DepthLookup) -> list[Found]:
        """Measurements by the depths that came since the last frame, `newest` included."""
        found, waiting = [], []
        for known in _kept(self._without_depth, _known(newest, stamp_ns)):
            metres = lookup.at(known.frame_id)
            if metres is None:
                waiting.append(known)
            elif known.depth is not None:
                rows, columns = (
                    np.arange(n) * full // n
                    for n, full in zip(known.depth.shape, metres.shape, strict=True)
                )
                found.append(from_depth(known.depth, metres[np.ix_(rows, columns)], known.stamp_ns))
        self._without_depth = tuple(waiting)
        return found

    def by_odometry(
        self,
        newest: MapFrame,
        stamp_ns: int,
        odom_from_base: OdometryBuffer,
        base_from_camera: Float[np.ndarray, "4 4"] | None,
    ) -> list[Found]:
        """Measurements at the frames that odometry has gone past since, `newest` included."""
        found, waiting = [], []
        latest = odom_from_base.latest_ns
        frame = _known(newest, stamp_ns)._replace(depth=None)
        for known in _kept(self._without_odometry, frame):
            if latest is None or known.stamp_ns > latest:
                waiting.append(known)
                continue
            for ns, pose in _places(odom_from_base, self._before, known):
                found.append(
                    self._travel.measure(
                        odom_from_base, base_from_camera, ns, pose, known.scene_depth
                    )
                )
            self._before = known
        self._without_odometry = tuple(waiting)
        return found

    def move(self, now_from_then: Similarity) -> None:
        """The world was corrected: all that waits follows."""
        self._travel.move(now_from_then)
        self._without_depth = tuple(known.moved(now_from_then) for known in self._without_depth)
        self._without_odometry = tuple(
            known.moved(now_from_then) for known in self._without_odometry
        )
        self._before = self._before and self._before.moved(now_from_then)

    def interrupt(self) -> None:
        """The next camera's place is not tied to the last one's: travel is measured afresh."""
        self._travel.reset()
        self._without_odometry, self._before = (), None

    def reset(self) -> None:
        """Another segment begins, whose unit is not that of the frames before."""
        self.interrupt()
        self._without_depth = ()


def _known(frame: MapFrame, stamp_ns: int) -> Known:
    scene_depth = median_depth((frame,))
    return Known(frame.frame_id, stamp_ns, frame.world_from_camera, frame.depth, scene_depth)


def _kept(waiting: tuple[Known, ...], newest: Known) -> tuple[Known, ...]:
    """What waits that is not too old, and the newest frame."""
    late = [known for known in waiting if 0 <= newest.stamp_ns - known.stamp_ns <= KEPT_NS]
    return (*late[1 - MAX_KEPT :], newest)


def _places(
    odom_from_base: OdometryBuffer, before: Known | None, known: Known
) -> Iterator[tuple[int, Float[np.ndarray, "4 4"]]]:
    """Stamps that odometry has a pose of, and world_from_camera there.

    The frame's own; where odometry is too slow for that (`GAP_NS`), those of its messages between
    two frames, at which the camera is interpolated.
    """
    if odom_from_base.at(known.stamp_ns) is not None:
        yield known.stamp_ns, known.world_from_camera
    elif before is not None and 0 < known.stamp_ns - before.stamp_ns <= GAP_NS:
        for ns in odom_from_base.between(before.stamp_ns, known.stamp_ns):
            share = (ns - before.stamp_ns) / (known.stamp_ns - before.stamp_ns)
            poses = before.world_from_camera, known.world_from_camera
            yield ns, interpolate_rigid(*poses, share)
