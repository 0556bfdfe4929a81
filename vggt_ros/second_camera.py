# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A second camera of the same rig: now and then it joins a look, and where it stands gives metres.

The companion is a guest: one more picture in one look, placed before the frames that get depth. It
never enters the window, the map, the path or the tracks, and the network forgets it at once. What
stays is one measurement, the distance of two cameras in the window's unit and in metres.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from vggt_ros.engine.interface import Engine, Look
from vggt_ros.errors import UserError
from vggt_ros.frames import Companion, Held
from vggt_ros.geometry import extrinsics_from_pose_encoding, inverse_rigid
from vggt_ros.imaging.grid import to_network
from vggt_ros.mapping.odometry import angle
from vggt_ros.mapping.scale import LEAST_BASELINE
from vggt_ros.settings import Settings

SAME_TIME_NS = 5_000_000  # between the two pictures: 5 mm of a robot that drives a metre a second
EVERY_NS = 5_000_000_000  # between two measurements, once more of them would tell little
VAIN = 10  # measurements in a row that came to nothing, before the next one waits as long
SAME_TURN = float(np.deg2rad(10))  # between the axes as seen and as mounted
SAME_WAY = float(np.deg2rad(60))  # between the directions: short baselines are seen vaguely


class Pair(NamedTuple):
    """`camera_from_companion` of the newest camera, twice."""

    seen: Float[np.ndarray, "4 4"]  # in the window's unit
    mounted: Float[np.ndarray, "4 4"]  # in metres


class Rig:
    """When to look at the companion too, and what the look says of it.  Used by one pipeline."""

    def __init__(self, engine: Engine, settings: Settings, say: Callable[[str], object]):
        self._engine, self._settings, self._say = engine, settings, say
        self.reset()

    def reset(self) -> None:
        """A new map: nothing was measured."""
        self._vain, self._last_ns = 0, -EVERY_NS

    def is_due(self, stamp_ns: int, wanting: bool) -> bool:
        """Whether a look is worth a guest; `wanting`: each one still sharpens the scale."""
        if self._settings.most_frames == self._settings.window_size:
            return False
        waited = not 0 <= stamp_ns - self._last_ns < EVERY_NS
        return waited or (wanting and self._vain < VAIN)

    def look(
        self,
        frame_ids: tuple[int, ...],
        held: list[Held],
        companion: Companion | None,
        *,
        queries: Float32[np.ndarray, "n 2"] | None,
        query_frame: int,
    ) -> tuple[Look, Pair | None]:
        """What the network says of the window, and of the newest frame's companion, if any."""
        newest = held[-1]
        images = [each.pixels for each in held]
        depth_frames = min(self._settings.depth_frames, len(frame_ids))
        guest = None
        if companion is not None:
            self._last_ns, self._vain = newest.frame.stamp_ns, self._vain + 1
            guest = self._admitted(companion, newest)
        if companion is None or guest is None:
            found = self._engine.look(
                frame_ids,
                images,
                depth_frames=depth_frames,
                queries=queries,
                query_frame=query_frame,
            )
            return found, None
        at = len(frame_ids) - depth_frames
        # A number that no frame has, nor any guest before: the network knows pictures by it.
        everyone = (*frame_ids[:at], ~frame_ids[-1], *frame_ids[at:])
        found = self._engine.look(
            everyone,
            [*images[:at], guest, *images[at:]],
            depth_frames=min(self._settings.depth_frames, len(everyone)),
            queries=queries,
            query_frame=query_frame + (query_frame >= at),
        )
        missing = len(everyone) - len(found.pose_encoding)  # the oldest: not compiled, no memory
        at -= missing
        pair = self._pair(found, at, companion) if at >= 0 else None
        self._vain = VAIN if missing else self._vain  # that cost more than one frame
        return (_without(found, at, depth_frames) if at >= 0 else found), pair

    def _admitted(self, companion: Companion, newest: Held) -> np.ndarray | None:
        """Its picture on the network's grid; None, and said, where it does not fit the newest."""
        apart = companion.stamp_ns - newest.frame.stamp_ns
        if abs(apart) > SAME_TIME_NS:
            self._say(
                f"baseline: the second picture was taken {apart * 1e-6:+.1f} ms from the image;"
                " trigger both cameras together"
            )
            return None
        height, width = companion.rgb.shape[:2]
        try:
            grid = self._settings.grid(width, height, newest.grid.width)
        except UserError as error:
            self._say(f"baseline: the second picture cannot be used: {error}")
            return None
        if (grid.height, grid.width) != newest.pixels.shape[:2]:
            self._say(
                f"baseline: the second picture is {width}x{height}, of another shape than the"
                " image; set both cameras to one resolution"
            )
            return None
        return to_network(companion.rgb, grid)

    def _pair(self, found: Look, at: int, companion: Companion) -> Pair | None:
        """Both cameras in the window, unless they stand otherwise there than they are mounted."""
        encoding = found.pose_encoding[[at, -1]].astype(np.float64)
        cameras = np.tile(np.eye(4), (2, 1, 1))
        cameras[:, :3] = extrinsics_from_pose_encoding(encoding)
        seen, mounted = cameras[1] @ inverse_rigid(cameras[0]), companion.camera_from_companion
        if not np.isfinite(seen).all():
            return None
        turned = angle(seen[:3, :3].T @ mounted[:3, :3])
        here, there = (float(np.linalg.norm(pose[:3, 3])) for pose in (seen, mounted))
        depth = found.depth[-1]
        reach = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
        if here < LEAST_BASELINE * reach:
            self._say(
                f"baseline: the cameras are too close together for this scene: {here / reach:.1%}"
                f" of its depth, {LEAST_BASELINE:.0%} are needed; nothing is measured"
            )
            return None
        way = float(np.arccos(np.clip(seen[:3, 3] @ mounted[:3, 3] / (here * there), -1, 1)))
        if turned > SAME_TURN or way > SAME_WAY:
            self._say(
                "baseline: the pictures and /tf disagree about the second camera, by"
                f" {np.rad2deg(turned):.0f} degrees in its axes and {np.rad2deg(way):.0f} in its"
                " direction; are left and right exchanged?"
            )
            return None
        self._vain = 0
        return Pair(seen, mounted)


def _without(found: Look, at: int, depth_frames: int) -> Look:
    """The same look without its frame `at`, which is none of the newest `depth_frames`."""

    def others(rows: np.ndarray | None) -> np.ndarray | None:
        return None if rows is None else np.delete(rows, at, axis=0)

    return found._replace(
        pose_encoding=np.delete(found.pose_encoding, at, axis=0),
        depth=found.depth[-depth_frames:],
        confidence=found.confidence[-depth_frames:],
        tracks=others(found.tracks),
        visibility=others(found.visibility),
        track_confidence=others(found.track_confidence),
    )
