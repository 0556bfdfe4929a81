# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames of a run whose geometry is known: a wall in front of the camera."""

import numpy as np

from vggt_ros.tools.runs.format import RunFrame

WORLD_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def wall_frame(x: float = 0.0, depth: float = 2.0, turned: float = 0.0) -> RunFrame:
    """A wall straight ahead of a camera one unit above the floor, `turned` about the vertical."""
    c, s = np.cos(turned), np.sin(turned)
    pose = np.array([[c, -s, 0, x], [s, c, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]) @ WORLD_FROM_OPTICAL
    return RunFrame(
        depth=np.full((30, 40), depth, np.float32),
        confidence=np.full((30, 40), 5, np.float32),
        intrinsics=np.array([[40.0, 0, 19.5], [0, 40, 14.5], [0, 0, 1]]),
        world_from_camera=pose,
        stamp_ns=1,
        image=np.full((30, 40, 3), 200, np.uint8),
    )
