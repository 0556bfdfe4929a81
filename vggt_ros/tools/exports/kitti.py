# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Poses as the KITTI odometry benchmark has them: each camera in the frame of the first one.

A line is the upper three rows of the matrix (x right, y down, z ahead), row by row; times.txt has
the seconds since the first frame (https://www.cvlibs.net/datasets/kitti/eval_odometry.php).
"""

from collections.abc import Sequence
from pathlib import Path

from vggt_ros.geometry import inverse_rigid
from vggt_ros.tools.runs.format import Run


def write_kitti(folder: Path, run: Run, frames: Sequence[int]) -> None:
    """poses.txt and times.txt of these frames."""
    stamps, poses = run.trajectory()
    first_from_world = inverse_rigid(poses[frames[0]])
    lines, times = [], []
    for index in frames:
        numbers = (first_from_world @ poses[index])[:3].ravel()
        lines.append(" ".join(f"{number:.12g}" for number in numbers))
        since = int(stamps[index] - stamps[frames[0]])
        times.append(f"{since // 10**9}.{since % 10**9:09d}")
    (folder / "poses.txt").write_text("\n".join(lines) + "\n")
    (folder / "times.txt").write_text("\n".join(times) + "\n")
