# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cloud and overview image of a run: of its largest segment, fused to one surface or not."""

from collections.abc import Sequence

from vggt_ros.files import write_ply
from vggt_ros.tools.runs.format import OVERVIEW, POINTS, Run
from vggt_ros.tools.runs.fused import FusedRun, sample_cloud
from vggt_ros.tools.runs.writer import writing

OVERVIEW_FRAMES = 48  # frames at most in the overview image


class Surface:
    """Frames of a run that belong together, with the depth that cloud and overview show."""

    def __init__(self, run: Run, shown: Sequence[int], *, fuse: bool):
        """`shown`: these frames; with `fuse` their depth is moved to one surface."""
        self._path, self._shown = run.path, shown
        self._run = FusedRun.of(run, shown) if fuse else run

    def write_cloud(self, valid: Sequence[int], max_points: int) -> int:
        """points.ply; `valid`: pixels with depth of each frame of the run.

        Returns how many points there are.
        """
        with writing(self._path / POINTS):
            share = max_points / max(sum(valid[index] for index in self._shown), 1)
            cloud = sample_cloud(self._run, self._shown, share)
            write_ply(self._path / POINTS, *cloud)
        return len(cloud.points)

    def write_overview(self, caption: str, unit: str) -> None:
        """picture.png."""
        from vggt_ros.tools.runs.overview import save_overview

        every = -(-len(self._shown) // OVERVIEW_FRAMES) or 1
        frames = [self._run.frame(index) for index in self._shown[::every]]
        with writing(self._path / OVERVIEW):
            save_overview(self._path / OVERVIEW, frames, caption=caption, unit=unit)
