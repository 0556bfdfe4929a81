# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the cameras of a rig stand to each other, by the images of an instant and over many windows.

The network gives every camera of a window in one frame, so that each instant with two cameras is a
measurement of the motion from one to the other. Single ones may be anything (a broken window, views
that share no scenery), so that robust means over many windows count.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import inverse_rigid, nearest_rotation
from vggt_ros.mapping.medians import median, medians
from vggt_ros.mapping.window import WindowGeometry

LEAST_SPREAD = 1e-9  # world units
Pose = Float[np.ndarray, "4 4"]
Pair = tuple[str, str]  # names of two cameras; a motion between them is first_from_second


def rows_by_instant(window: WindowGeometry) -> list[list[int]]:
    """Which frames of a window were taken together."""
    rows: dict[int, list[int]] = {}
    for row, instant in enumerate(window.instants):
        rows.setdefault(instant, []).append(row)
    return list(rows.values())


def relative_poses(window: WindowGeometry) -> list[dict[Pair, Pose]]:
    """For each instant, first_from_second of every two of its cameras, in the window's unit."""
    poses, names = window.window_from_camera, window.cameras
    return [
        {(names[i], names[j]): inverse_rigid(poses[i]) @ poses[j] for i, j in combinations(rows, 2)}
        for rows in rows_by_instant(window)
    ]


def mean_pose(poses: Sequence[Pose]) -> Pose:
    """Robust mean of rigid motions that are alike: half of them may be anything.

    Of rotations by Cauchy weights, from the one on that is nearest to all; of translations by
    Tukey's, axis by axis.
    """
    stack = np.stack(poses)
    rotations, mean = stack[:, :3, :3], np.eye(4)
    cosines = np.einsum("nij,mij->nm", rotations, rotations)  # of angles: trace of R_n^T R_m
    turned = np.arccos(np.clip((cosines - 1.0) / 2.0, -1.0, 1.0))
    rotation = rotations[int(np.argmin(medians(turned)))]
    for _ in range(4):
        cosines = (np.einsum("ij,nij->n", rotation, rotations) - 1.0) / 2.0
        angles = np.arccos(np.clip(cosines, -1.0, 1.0))
        trust = 1.0 / (1.0 + (angles / (2.0 * median(angles) + 1e-9)) ** 2)
        rotation = nearest_rotation(np.einsum("n,nij->ij", trust, rotations))
    mean[:3, :3] = rotation
    mean[:3, 3] = _robust_centre(stack[:, :3, 3])
    return mean


def _robust_centre(places: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3"]:
    """`robust_mean` of each axis, all at once."""
    axes = np.ascontiguousarray(places.T)
    mean = medians(axes)
    spread = 4.685 * np.maximum(1.4826 * medians(np.abs(axes - mean[:, None])), LEAST_SPREAD)
    for _ in range(5):
        away = (axes - mean[:, None]) / spread[:, None]
        pull = np.maximum(1.0 - away**2, 0.0) ** 2
        mean = np.array([p @ v for p, v in zip(pull, places.T, strict=True)]) / pull.sum(axis=1)
    return mean


def spread_of(poses: Sequence[Pose], mean: Pose) -> float:
    """By how many radians single measurements are turned from their mean: 1.4826 median angles.

    0 for fewer than three, of which any two may agree by chance.
    """
    if len(poses) < 3:
        return 0.0
    cosines = (np.einsum("ij,nij->n", mean[:3, :3], np.stack(poses)[:, :3, :3]) - 1.0) / 2.0
    return 1.4826 * median(np.arccos(np.clip(cosines, -1.0, 1.0)))


def scaled(pose: Pose, factor: float) -> Pose:
    """The same motion with lengths multiplied."""
    found = pose.copy()
    found[:3, 3] *= factor
    return found


def between(mounts: Mapping[str, Pose], first: str, second: str) -> Pose:
    """first_from_second of two cameras whose poses are known in one frame."""
    return inverse_rigid(mounts[first]) @ mounts[second]
