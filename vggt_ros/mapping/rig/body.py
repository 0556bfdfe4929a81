# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cameras of an instant are one rigid body, whose pose all of them estimate.

With cameras mounted at (M_c, m_c) on the body, the network's orientations Q_c and centres c_c of an
instant give the body's pose (R, t) that minimises

    sum_c w_c |Q_c - R M_c|_F^2  +  sum_c v_c |c_c - R m_c - t|^2

first over R by the orientations alone, which are the surer (a camera's centre is off by more than
the arm from the body to it), then over t. Then each camera stands where the body has it. A camera
whose views share too little with the others', so that the network places it anywhere, has little
weight.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import nearest_rotation
from vggt_ros.mapping.medians import median
from vggt_ros.mapping.registration import CENTRE_FLOOR
from vggt_ros.mapping.rig.relative import Pose, rows_by_instant
from vggt_ros.mapping.window import WindowGeometry


def held_together(
    window: WindowGeometry,
    mounts: Mapping[str, Pose],
    trust: Mapping[str, float],
    scene_depth: float,
) -> WindowGeometry:
    """The window with the cameras of each instant moved to one rigid body.

    `mounts`: body_from_camera by name, in the window's unit, as is `scene_depth`; `trust`: weights.
    A camera without a mount, or alone in its instant, stays where it is.
    """
    poses = window.window_from_camera.copy()
    away = np.linalg.norm(poses[:, :3, 3] - poses[0, :3, 3], axis=1) / scene_depth
    for rows in rows_by_instant(window):
        known = [row for row in rows if window.cameras[row] in mounts]
        if len(known) > 1:
            mounted = np.stack([mounts[window.cameras[row]] for row in known])
            # As everywhere, a centre is the less certain the further it is from the reference.
            certain = 1.0 / (away[known] + CENTRE_FLOOR) ** 2
            weights = np.array([trust[window.cameras[row]] for row in known])
            poses[known] = body(poses[known], mounted, weights, certain, scene_depth) @ mounted
    return window._replace(window_from_camera=poses)


def body(
    cameras: Float[np.ndarray, "n 4 4"],
    mounted: Float[np.ndarray, "n 4 4"],
    weights: Float[np.ndarray, "n"],
    certain: Float[np.ndarray, "n"],
    scene_depth: float,
) -> Pose:
    """The pose of a body by its cameras and where they are mounted on it.

    `weights` of the cameras, and `certain` besides of their centres. Of three cameras and more one
    that is off counts little.
    """
    rotations = cameras[:, :3, :3] @ mounted[:, :3, :3].swapaxes(1, 2)
    trust, pose = weights, np.eye(4)
    for _ in range(4 if len(cameras) > 2 else 1):
        pose[:3, :3] = nearest_rotation(np.einsum("n,nij->ij", trust, rotations))
        centres = cameras[:, :3, 3] - mounted[:, :3, 3] @ pose[:3, :3].T
        sure = trust * certain
        pose[:3, 3] = sure @ centres / sure.sum()
        turned = 0.5 * np.sum((rotations - pose[:3, :3]) ** 2, axis=(1, 2))
        moved = np.sum((centres - pose[:3, 3]) ** 2, axis=1) / scene_depth**2
        size = np.sqrt(turned + moved)
        trust = weights / (1.0 + (size / (2.0 * median(size) + 1e-9)) ** 2)
    return pose
