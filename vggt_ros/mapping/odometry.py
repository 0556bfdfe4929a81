# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Odometry as a witness of scale: where the base was at a stamp, and how far the camera travelled.

Odometry lies in known ways: it jumps, stops, runs backwards in time, speaks of another frame. Each
is noticed here, said once, and never reaches the map.
"""

from bisect import bisect_left
from threading import Lock
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping.scale import CENTRE_NOISE, Evidence

FARTHEST = 1e7  # metres from odometry's origin: a quarter of the way around the earth
FASTEST = 10.0  # metres a second; beyond it odometry has jumped
FASTEST_TURN = 10.0  # radians a second
GAP_NS = 500_000_000  # without a message for longer, nothing is interpolated
KEPT_NS = 20_000_000_000  # of memory
MIN_TRAVEL = 0.1  # of the camera between two measurements, as a share of scene depth
MIN_METRES = 0.1  # the same, in metres
DISTANCE_NOISE = 0.02  # of wheels, relative
SAME_DIRECTION = float(np.deg2rad(25))  # between what wheels and pictures call ahead
MUCH_TURN = float(np.deg2rad(30))  # with hardly any travel: the measurement begins again
SAME_TURN = float(np.deg2rad(6))


class _Mark(NamedTuple):
    """Where the camera was when the measurement under way began."""

    stamp_ns: int
    odom_from_camera: Float[np.ndarray, "4 4"]
    world_from_camera: Float[np.ndarray, "4 4"]


class Odometry:
    """The last seconds of one robot's odometry.  Any thread may add; one asks."""

    def __init__(self) -> None:
        self.base_from_camera: Float[np.ndarray, "4 4"] | None = None  # None: not known
        self.notices: list[str] = []  # what was wrong with it; the caller empties it
        self._lock = Lock()
        self._frames: tuple[str, str] | None = None
        self._stamps: list[int] = []
        self._poses: list[Float[np.ndarray, "4 4"]] = []
        self._mark: _Mark | None = None

    def add(
        self,
        stamp_ns: int,
        odom_from_base: Float[np.ndarray, "4 4"],
        frame: str = "odom",
        child: str = "base_link",
    ) -> bool:
        """Take one message; False if it had to be refused."""
        with self._lock:
            return self._add(stamp_ns, odom_from_base, frame, child)

    def _add(
        self, stamp_ns: int, odom_from_base: Float[np.ndarray, "4 4"], frame: str, child: str
    ) -> bool:
        if not np.isfinite(odom_from_base).all():
            return self._refuse("a pose is not finite")
        if np.abs(odom_from_base[:3, 3]).max() > FARTHEST:
            return self._refuse(f"a position is beyond {FARTHEST:.0e} m; check its source")
        self._frames = self._frames or (frame, child)
        if (frame, child) != self._frames:
            was, now = (" -> ".join(pair) for pair in (self._frames, (frame, child)))
            return self._refuse(f"it is of '{now}', not of '{was}' as before")
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
            return self._at(stamp_ns)

    def _at(self, stamp_ns: int) -> Float[np.ndarray, "4 4"] | None:
        i = bisect_left(self._stamps, stamp_ns)
        if i < len(self._stamps) and self._stamps[i] == stamp_ns:
            return self._poses[i]
        if i == 0 or i == len(self._stamps) or self._stamps[i] - self._stamps[i - 1] > GAP_NS:
            return None
        before, after = self._poses[i - 1], self._poses[i]
        share = (stamp_ns - self._stamps[i - 1]) / (self._stamps[i] - self._stamps[i - 1])
        return between(before, after, share)

    def measure(
        self, stamp_ns: int, world_from_camera: Float[np.ndarray, "4 4"], scene_depth: float
    ) -> Evidence | None:
        """Compare travel since the last measurement, once it is long enough to tell.

        Displacements are compared, so that turning and lever arms cancel; wheels and pictures
        must also agree on how far the camera turned and on what is ahead.
        """
        odom_from_base = self.at(stamp_ns)
        if odom_from_base is None:
            return None
        mount = np.eye(4) if self.base_from_camera is None else self.base_from_camera
        here = _Mark(stamp_ns, odom_from_base @ mount, world_from_camera)
        mark, self._mark = self._mark, self._mark or here
        if mark is None:
            return None
        wheels = inverse_rigid(mark.odom_from_camera) @ here.odom_from_camera
        eyes = inverse_rigid(mark.world_from_camera) @ here.world_from_camera
        metres, units = (float(np.linalg.norm(motion[:3, 3])) for motion in (wheels, eyes))
        turned = angle(wheels[:3, :3])
        if metres < MIN_METRES or units < MIN_TRAVEL * scene_depth:
            if turned > MUCH_TURN:
                self._mark = here
            return None
        self._mark = here
        if abs(turned - angle(eyes[:3, :3])) > SAME_TURN:
            return None
        if self.base_from_camera is None and turned > np.deg2rad(10):
            return None  # an unknown lever arm swings
        ahead = np.clip(wheels[:3, 3] @ eyes[:3, 3] / (metres * units), -1, 1)
        if self.base_from_camera is not None and np.arccos(ahead) > SAME_DIRECTION:
            return None
        sigma = float(np.hypot(DISTANCE_NOISE, CENTRE_NOISE * scene_depth / units))
        return Evidence("odometry", float(np.log(metres / units)), sigma, stamp_ns)

    def rescaled(self, factor: float, about: Float[np.ndarray, "3"]) -> None:
        """The world was rescaled: the measurement under way follows."""
        if self._mark is not None:
            pose = self._mark.world_from_camera.copy()
            pose[:3, 3] = about + factor * (pose[:3, 3] - about)
            self._mark = self._mark._replace(world_from_camera=pose)

    def lost(self) -> None:
        """The camera was placed anew: what was under way compares nothing."""
        self._mark = None

    def _jumped(self, stamp_ns: int, pose: Float[np.ndarray, "4 4"]) -> bool:
        seconds = max((stamp_ns - self._stamps[-1]) * 1e-9, 1e-3)
        step = inverse_rigid(self._poses[-1]) @ pose
        fast = np.linalg.norm(step[:3, 3]) > FASTEST * seconds + 0.05
        return bool(fast or angle(step[:3, :3]) > FASTEST_TURN * seconds + 0.05)

    def _refuse(self, why: str) -> bool:
        self.notices.append(f"odometry is refused: {why}")
        return False

    def _restart(self, why: str) -> None:
        self.notices.append(f"odometry begins anew: {why}")
        self._stamps, self._poses, self._mark = [], [], None


def between(
    before: Float[np.ndarray, "4 4"], after: Float[np.ndarray, "4 4"], share: float
) -> Float[np.ndarray, "4 4"]:
    """The rigid motion this share of the way from one to the other (a chord, for small turns)."""
    pose = before + share * (after - before)
    u, _, vt = np.linalg.svd(pose[:3, :3])
    pose[:3, :3] = u @ vt
    return pose


def angle(rotation: Float[np.ndarray, "3 3"]) -> float:
    """By how many radians it turns."""
    return float(np.arccos(np.clip((np.trace(rotation) - 1.0) / 2.0, -1.0, 1.0)))
