# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ground truth as the KITTI odometry benchmark has it: rows of 12 numbers, one an image, no stamps.

Row n is the pose of the image with the number n, so that a run of some of the images, or one whose
stamps were assumed, is compared with the right ones. Where images have no such numbers, as many
rows as frames are those of the frames; other trajectories go by times.txt.
"""

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from vggt_ros.errors import UserError
from vggt_ros.tools.runs.format import is_run, open_run

if TYPE_CHECKING:
    from evo.core.trajectory import PoseTrajectory3D

TIMES = "times.txt"  # seconds of each row, beside it


def read_kitti(path: Path, run: Path) -> "PoseTrajectory3D | None":
    """Poses of the camera at the stamps of the run's frames; None for a file of another format.

    Raises `UserError` where neither names of images nor times.txt say which row is which.
    """
    from evo.core.trajectory import PoseTrajectory3D

    rows = _rows(path)
    if rows is None:
        return None
    stamps_ns, numbers = _numbers(run, len(rows))
    if not len(numbers):
        seconds = _times(path.with_name(TIMES), len(rows))
        if seconds is None:
            raise UserError(
                f"{path} has {len(rows)} poses of KITTI, without stamps, and the images of {run}"
                " are neither as many nor named by smaller numbers: put"
                f" {TIMES} with the seconds of each row beside it"
            )
        numbers = np.arange(len(rows))
    else:
        seconds = stamps_ns * 1e-9
    poses = np.tile(np.eye(4), (len(numbers), 1, 1))
    poses[:, :3] = rows[numbers]
    return PoseTrajectory3D(poses_se3=list(poses), timestamps=seconds)


def _rows(path: Path) -> Float64[np.ndarray, "n 3 4"] | None:
    if not path.is_file() or path.suffix.lower() not in (".txt", ".kitti", ""):
        return None
    rows = _numbers_in(path)
    is_kitti = rows is not None and rows.ndim == 2 and rows.shape[1] == 12
    return rows.reshape(-1, 3, 4) if is_kitti and np.isfinite(rows).all() else None


def _numbers(run: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Stamps and numbers of the run's images; none where they have no such numbers."""
    none = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if not is_run(run):
        return none
    opened = open_run(run)
    frames = opened.body_frames()
    stems = [PurePosixPath(opened.frame(index).name).stem for index in frames]
    found = [re.search(r"(\d+)$", stem) for stem in stems]
    numbers = [int(each[1]) for each in found if each]
    stamps_ns = opened.trajectory().stamps_ns[frames]
    if len(numbers) == len(frames) and max(numbers, default=count) < count:
        return stamps_ns, np.array(numbers)
    return (stamps_ns, np.arange(count)) if len(frames) == count else none


def _times(path: Path, count: int) -> Float64[np.ndarray, " n"] | None:
    seconds = _numbers_in(path)
    return None if seconds is None or seconds.shape != (count, 1) else seconds[:, 0]


def _numbers_in(path: Path) -> np.ndarray | None:
    """Rows of numbers; None where there are none, or rows of several lengths."""
    try:
        return np.array(
            [[float(word) for word in line.split()] for line in path.read_text().splitlines()]
        )
    except (ValueError, OSError):
        return None
