# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Odometry as a source of scale: where the base was at a stamp, and how far the camera travelled.

Odometry fails in known ways: it jumps, stops, runs backwards in time, is of another frame. Each
is detected here, reported, and never reaches the map.
"""

from bisect import bisect_left
from collections import deque
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, interpolate_rigid, inverse_rigid, rotation_angle
from vggt_ros.mapping.metric.scale import Measurement
from vggt_ros.mapping.metric.scale_sources import CENTRE_NOISE, Found, Unusable

FARTHEST = 1e7  # metres from odometry's origin: a quarter of the way around the earth
FASTEST = 10.0  # metres a second; beyond it odometry has jumped, unless it goes on so,
FASTEST_OF_ALL = 100.0  # and is no faster than this
INSISTING = 5  # messages in a row that are refused, or taken for jumps; what the next one has is so
SAME_SPEED = 0.3  # relative difference of two speeds in a row that are no jumps
FASTEST_TURN = 10.0  # radians a second
GAP_NS = 500_000_000  # without a message for longer, nothing is interpolated
KEPT_NS = 20_000_000_000  # of poses
KEPT_NOTICES = 100  # until they are read; odometry may be refused for hours before an image comes
MIN_TRAVEL = 0.1  # of the camera between two measurements, as a share of scene depth
MIN_METRES = 0.1  # the same, in metres
DISTANCE_NOISE = 0.02  # of wheels, relative
SAME_DIRECTION = float(np.deg2rad(25))  # between the directions by odometry and by the camera
STILL = 0.01  # metres: odometry that moved no further while the camera did, and that by
MOVED = 0.5  # of scene depth
LARGE_TURN = float(np.deg2rad(30))  # with hardly any travel: the measurement restarts
SAME_TURN = float(np.deg2rad(6))
TURN_WITHOUT_MOUNT = float(np.deg2rad(10))  # allowed where the lever arm is not known


class OdometryBuffer:
    """The last seconds of one robot's odometry.  Any thread may add; one reads."""

    def __init__(self) -> None:
        # What was wrong with it, the newest last; the caller takes them out.
        self.notices: deque[str] = deque(maxlen=KEPT_NOTICES)
        self.refusal = ""  # why the last message was refused; empty: it was taken
        self.restarts = 0  # poses of before and after one do not compare
        self._lock = Lock()
        self._frames: tuple[str, str] | None = None
        self._other_frames = ("", ""), 0  # of refused messages, and how many in a row
        self._fastest = FASTEST
        self._speeds: list[float] = []  # of jumps in a row that agree
        self._stamps: list[int] = []
        self._poses: list[Float[np.ndarray, "4 4"]] = []

    def add(
        self,
        stamp_ns: int,
        odom_from_base: Float[np.ndarray, "4 4"],
        frame: str = "odom",
        child: str = "base_link",
    ) -> bool:
        """Take one message; False if it had to be refused."""
        with self._lock:
            taken = self._add(stamp_ns, odom_from_base, frame, child)
            self.refusal = "" if taken else self.refusal
            return taken

    def _add(
        self, stamp_ns: int, odom_from_base: Float[np.ndarray, "4 4"], frame: str, child: str
    ) -> bool:
        if not np.isfinite(odom_from_base).all():
            return self._refuse("a pose is not finite")
        if np.abs(odom_from_base[:3, 3]).max() > FARTHEST:
            return self._refuse(f"a position is beyond {FARTHEST:.0e} m; check its source")
        if not self._are_frames((frame, child)):
            return False
        if self._stamps and stamp_ns <= self._stamps[-1]:
            if self._stamps[-1] - stamp_ns < KEPT_NS:
                return self._refuse("a stamp goes back")
            self._restart("time went back by far")
        if self._stamps and self._jumped(stamp_ns, odom_from_base):
            self._restart("it jumped")
        self._stamps.append(stamp_ns)
        self._poses.append(odom_from_base)
        if stamp_ns - self._stamps[0] > 2 * KEPT_NS:
            first = bisect_left(self._stamps, stamp_ns - KEPT_NS)
            del self._stamps[:first], self._poses[:first]
        return True

    def at(self, stamp_ns: int) -> Float[np.ndarray, "4 4"] | None:
        """odom_from_base at a stamp between two messages; None where there is a gap or an end."""
        with self._lock:
            i = bisect_left(self._stamps, stamp_ns)
            if i < len(self._stamps) and self._stamps[i] == stamp_ns:
                return self._poses[i]
            if i == 0 or i == len(self._stamps) or self._stamps[i] - self._stamps[i - 1] > GAP_NS:
                return None
            before, after = self._poses[i - 1], self._poses[i]
            share = (stamp_ns - self._stamps[i - 1]) / (self._stamps[i] - self._stamps[i - 1])
        return interpolate_rigid(before, after, share)

    @property
    def earliest_ns(self) -> int | None:
        """Stamp of the first pose that is kept; None: there is none."""
        with self._lock:
            return self._stamps[0] if self._stamps else None

    @property
    def latest_ns(self) -> int | None:
        """Stamp of the last pose; None: there is none."""
        with self._lock:
            return self._stamps[-1] if self._stamps else None

    def between(self, begin_ns: int, end_ns: int) -> tuple[int, ...]:
        """Stamps of the poses from `begin_ns` on, and before `end_ns`."""
        with self._lock:
            first, last = bisect_left(self._stamps, begin_ns), bisect_left(self._stamps, end_ns)
            return tuple(self._stamps[first:last])

    def way(self, begin_ns: int, end_ns: int) -> tuple[float, float]:
        """How far the base travelled along its way (m), and turned (rad), between two stamps."""
        stamps = (begin_ns, *self.between(begin_ns + 1, end_ns), end_ns)
        poses = [pose for pose in map(self.at, stamps) if pose is not None]
        steps = [inverse_rigid(a) @ b for a, b in pairwise(poses)]
        return (
            sum(float(np.linalg.norm(step[:3, 3])) for step in steps),
            sum(rotation_angle(step[:3, :3]) for step in steps),
        )

    def forget_from(self, stamp_ns: int) -> None:
        """Time went back to this stamp: what was known from it on was of another time."""
        with self._lock:
            first = bisect_left(self._stamps, stamp_ns)
            self.restarts += first < len(self._stamps)
            del self._stamps[first:], self._poses[first:]

    def _are_frames(self, found: tuple[str, str]) -> bool:
        """Whether a message of these frames may follow; another source must insist."""
        known = self._frames = self._frames or found
        before, times = self._other_frames
        self._other_frames = found, times + 1 if found == before else 1
        if found == known:
            self._other_frames = ("", ""), 0
            return True
        was, now = (" -> ".join(pair) for pair in (known, found))
        if self._other_frames[1] <= INSISTING:
            return self._refuse(f"it is of '{now}', not of '{was}' as before")
        self._frames, self._other_frames = found, (("", ""), 0)
        self._restart(f"it is of '{now}' now, not of '{was}' as before")
        return True

    def _jumped(self, stamp_ns: int, pose: Float[np.ndarray, "4 4"]) -> bool:
        seconds = max((stamp_ns - self._stamps[-1]) * 1e-9, 1e-3)
        step = inverse_rigid(self._poses[-1]) @ pose
        metres = float(np.linalg.norm(step[:3, 3]))
        if rotation_angle(step[:3, :3]) > FASTEST_TURN * seconds + 0.05:
            return True
        if metres <= self._fastest * seconds + 0.05:
            self._speeds.clear()
            return False
        return not self._is_fast(metres / seconds)

    def _is_fast(self, speed: float) -> bool:
        """Whether the robot is that fast: it was so for some messages, one after the other."""
        if self._speeds and abs(speed / self._speeds[-1] - 1.0) > SAME_SPEED:
            self._speeds.clear()
        self._speeds.append(speed)
        if len(self._speeds) <= INSISTING or speed > FASTEST_OF_ALL:
            return False
        self._fastest = 2.0 * speed
        self._speeds.clear()
        self.notices.append(f"odometry moves fast: at {speed:.0f} m/s, which is no jump any more")
        return True

    def _refuse(self, reason: str) -> bool:
        self.refusal = reason
        self.notices.append(f"odometry is refused: {reason}")
        return False

    def _restart(self, reason: str) -> None:
        self.notices.append(f"odometry restarts: {reason}")
        self._stamps, self._poses = [], []
        self.restarts += 1


class _Start(NamedTuple):
    """Where the camera was when the measurement in progress began."""

    stamp_ns: int
    odom_from_camera: Float[np.ndarray, "4 4"]
    world_from_camera: Float[np.ndarray, "4 4"]
    restarts: int  # of the odometry by then


class TravelComparison:
    """How far the camera travelled, by odometry and by the map: a measurement of scale."""

    def __init__(self) -> None:
        self._start: _Start | None = None
        self._is_stuck = False  # odometry stood still while the camera moved

    def measure(
        self,
        odom_from_base: OdometryBuffer,
        base_from_camera: Float[np.ndarray, "4 4"] | None,
        stamp_ns: int,
        world_from_camera: Float[np.ndarray, "4 4"],
        scene_depth: float,
    ) -> Found:
        """Compare travel since the last measurement, once it is long enough.

        Displacements are compared, so that turning and lever arms cancel; odometry and camera
        must also agree on how far the camera turned and in which direction it went. Without
        `base_from_camera` the camera is taken to sit at the base, and turns are not compared.
        """
        restarts = odom_from_base.restarts
        pose = odom_from_base.at(stamp_ns)
        if pose is None:
            return None
        mount = np.eye(4) if base_from_camera is None else base_from_camera
        here = _Start(stamp_ns, pose @ mount, world_from_camera, restarts)
        start, self._start = self._start, self._start or here
        if start is None or start.restarts != restarts:
            self._start = here
            return None
        by_odometry = inverse_rigid(start.odom_from_camera) @ here.odom_from_camera
        by_map = inverse_rigid(start.world_from_camera) @ here.world_from_camera
        metres, units = (float(np.linalg.norm(step[:3, 3])) for step in (by_odometry, by_map))
        turned = rotation_angle(by_odometry[:3, :3])
        was_stuck, self._is_stuck = self._is_stuck, metres < STILL and units > MOVED * scene_depth
        if self._is_stuck:
            return _stuck(metres, units / scene_depth)
        if was_stuck:  # what was travelled meanwhile is not known
            self._start = here
            return None
        if metres < MIN_METRES or units < MIN_TRAVEL * scene_depth:
            if turned > LARGE_TURN:
                self._start = here
            return None
        self._start = here
        if fault := _disagreement(by_odometry, by_map, is_mounted=base_from_camera is not None):
            return Unusable("odometry", fault)
        sigma = float(np.hypot(DISTANCE_NOISE, CENTRE_NOISE * scene_depth / units))
        return Measurement("odometry", float(np.log(metres / units)), sigma, stamp_ns)

    def move(self, now_from_then: Similarity) -> None:
        """The world was corrected: the measurement in progress follows."""
        if self._start is not None:
            pose = now_from_then.apply_to_poses(self._start.world_from_camera[None])[0]
            self._start = self._start._replace(world_from_camera=pose)

    def reset(self) -> None:
        """The camera's place is not tied to the one before: the measurement restarts."""
        self._start, self._is_stuck = None, False


def _stuck(metres: float, share: float) -> Unusable:
    return Unusable(
        "odometry",
        f"it stands still ({metres:.3f} m) while the camera moved by {share:.0%} of the depth of"
        " what it sees; does its driver fill in the pose, and is it of this robot?",
    )


def _disagreement(
    by_odometry: Float[np.ndarray, "4 4"], by_map: Float[np.ndarray, "4 4"], *, is_mounted: bool
) -> str:
    """Why two motions of the camera cannot be the same one, whatever the scale; empty: they can.

    Where it is not mounted at a known place, the lever arm from the base is not known.
    """
    turned, turned_by_map = (rotation_angle(step[:3, :3]) for step in (by_odometry, by_map))
    metres, units = (float(np.linalg.norm(step[:3, 3])) for step in (by_odometry, by_map))
    if abs(turned - turned_by_map) > SAME_TURN:
        return (
            f"over {metres:.2f} m it turned by {np.rad2deg(turned):.0f} degrees, the camera by"
            f" {np.rad2deg(turned_by_map):.0f}; {np.rad2deg(SAME_TURN):.0f} apart are allowed"
        )
    if not is_mounted:
        if turned <= TURN_WITHOUT_MOUNT:
            return ""
        return (  # an unknown lever arm swings
            f"it turned by {np.rad2deg(turned):.0f} degrees, and where the camera is mounted is not"
            " known; publish base_frame -> camera on /tf"
        )
    ahead = np.clip(by_odometry[:3, 3] @ by_map[:3, 3] / (metres * units), -1, 1)
    if np.arccos(ahead) > SAME_DIRECTION:
        return (
            f"its direction of travel is {np.rad2deg(np.arccos(ahead)):.0f} degrees off the"
            f" camera's, {np.rad2deg(SAME_DIRECTION):.0f} are allowed; check base_frame ->"
            " camera on /tf"
        )
    return ""
