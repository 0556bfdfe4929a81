# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tracks of a run's query pixels as they come, one row a frame."""

from collections.abc import Sequence

import numpy as np

from vggt_ros.frames import Tracks as FrameTracks
from vggt_ros.tools.runs.format import Tracks

Taken = tuple[str, int]  # optical frame of the camera, and stamp


class TrackRows:
    """The first answer about each frame: position, visibility and confidence."""

    def __init__(self, count: int):
        """`count`: of the points."""
        self._count = count
        self._rows: dict[Taken, tuple] = {}

    def add(self, found: FrameTracks) -> None:
        """Those of one window."""
        taken = zip(found.cameras, found.stamps_ns, strict=True)
        for key, *row in zip(taken, found.uv, found.visibility, found.confidence, strict=True):
            self._rows.setdefault(key, tuple(row))

    def of(self, frames: Sequence[Taken]) -> Tracks:
        """A row for each of these frames; NaN where the points were not tracked."""
        n = self._count
        lost = np.full((n, 2), np.nan, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
        rows = [self._rows.get(key, lost) for key in frames]
        uv, visibility, confidence = ([row[i] for row in rows] for i in range(3))
        return Tracks(
            np.array(uv, np.float32).reshape(-1, n, 2),
            np.array(visibility, np.float32).reshape(-1, n),
            np.array(confidence, np.float32).reshape(-1, n),
        )
