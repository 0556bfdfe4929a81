# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One inference as the map takes it, and how a first camera stands in the world."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import (
    WORLD_FROM_OPTICAL,
    extrinsics_from_pose_encoding,
    homogeneous,
    inverse_rigid,
)
from vggt_ros.mapping.map_frames import MapFrame
from vggt_ros.mapping.medians import quantile

MAX_PIXELS = 3000  # of one frame that take part; more change nothing but the time


class WindowGeometry(NamedTuple):
    """One inference: cameras of a window in its own frame and unit, depth of its newest k."""

    frame_ids: tuple[int, ...]
    window_from_camera: Float[np.ndarray, "s 4 4"]
    intrinsics: Float[np.ndarray, "s 3 3"]
    depth: Float[np.ndarray, "k h w"]  # NaN or <= 0 where invalid
    confidence: Float[np.ndarray, "k h w"]  # from 1, "no evidence", upwards
    # Of a rig: the first frame of each frame's instant, and the name of its camera.
    instants: tuple[int, ...] = ()
    cameras: tuple[str, ...] = ()

    def part(self, *, leading: bool) -> "WindowGeometry":
        """The frames of a rig that lead their instants, or the others; a single camera's all lead.

        Depth is that of the newest of them.
        """
        if not self.instants:
            return self if leading else self._replace(frame_ids=())
        pairs = zip(self.frame_ids, self.instants, strict=True)
        rows = [i for i, (key, first) in enumerate(pairs) if (key == first) == leading]
        without = len(self.frame_ids) - len(self.depth)
        dense = [i - without for i in rows if i >= without]
        return WindowGeometry(
            tuple(self.frame_ids[i] for i in rows),
            self.window_from_camera[rows],
            self.intrinsics[rows],
            taken(self.depth, dense),
            taken(self.confidence, dense),
            tuple(self.instants[i] for i in rows),
            tuple(self.cameras[i] for i in rows),
        )


def taken(images: Float[np.ndarray, "k h w"], rows: list[int]) -> Float[np.ndarray, "n h w"]:
    """Some of the images, in rising order; a view where their distances are equal."""
    steps = {after - before for before, after in itertools.pairwise(rows)}
    if not rows or len(steps) > 1:
        return images[rows]
    return images[rows[0] : rows[-1] + 1 : steps.pop() if steps else 1]


def camera_from_encoding(encoding: Float[np.ndarray, "9"]) -> Float[np.ndarray, "4 4"]:
    """window_from_camera of one pose encoding."""
    from_window = homogeneous(extrinsics_from_pose_encoding(encoding[None].astype(np.float64)))
    return inverse_rigid(from_window)[0]


def level_camera() -> Float[np.ndarray, "4 4"]:
    """world_from_camera of a camera at the origin, held level, facing along x (REP 103)."""
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = WORLD_FROM_OPTICAL
    return world_from_camera


def upright_camera(up_in_camera: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """world_from_camera at the origin for a known up direction: z is up, the view ahead is x.

    At rest an accelerometer measures exactly this direction. A camera that faces straight up or
    down has no view ahead; then the top of its image points along x.
    """
    up = up_in_camera / np.linalg.norm(up_in_camera)
    ahead = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.99 else np.array([0.0, -1.0, 0.0])
    ahead = ahead - (ahead @ up) * up
    ahead /= np.linalg.norm(ahead)
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = np.stack([ahead, np.cross(up, ahead), up])
    return world_from_camera


def coarse(window: WindowGeometry) -> WindowGeometry:
    """The window with every so manieth row and column, a view of it; a coarse one as it is."""
    step = max(1, round((window.depth[0].size / MAX_PIXELS) ** 0.5)) if len(window.depth) else 1
    return window._replace(
        intrinsics=np.diag([1.0 / step, 1.0 / step, 1.0]) @ window.intrinsics,
        depth=window.depth[:, ::step, ::step],
        confidence=window.confidence[:, ::step, ::step],
    )


def subsampled(window: WindowGeometry) -> tuple[MapFrame, ...]:
    """The window's frames on a coarse grid, without the least trusted pixels; its own gauge."""
    window = coarse(window)
    without = len(window.frame_ids) - len(window.depth)
    frames = []
    for i, (key, pose) in enumerate(zip(window.frame_ids, window.window_from_camera, strict=True)):
        depth = None
        if i >= without:
            depth = window.depth[i - without].astype(np.float64)
            trust = window.confidence[i - without]
            sound = np.isfinite(depth) & (depth > 0) & np.isfinite(trust)
            if sound.any():
                sound &= trust >= quantile(trust[sound], 0.2)
            depth = np.where(sound, depth, np.nan)
        frames.append(MapFrame(key, pose, window.intrinsics[i], depth))
    return tuple(frames)
