# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Another sensor's depth of the last frames, whose messages may come late."""

import numpy as np
from jaxtyping import Float

from vggt_ros.frames import NO_PIXELS, DepthSource, WindowFrame
from vggt_ros.mapping.metric.comparisons import MAX_KEPT


class Depths:
    """Another sensor's depth of the last frames, on the network's grid; each is given once."""

    def __init__(self) -> None:
        self._frames: dict[int, WindowFrame] = {}  # without their pixels
        self._source: DepthSource | None = None

    def add(self, frame_id: int, frame: WindowFrame, source: DepthSource | None) -> None:
        """One more frame; its depth comes with it, or from the source at any time."""
        # What came with a frame and was not asked for is of a window that was refused.
        self._frames = {k: f for k, f in self._frames.items() if f.sensor_depth is None}
        bare = WindowFrame(
            frame.frame._replace(rgb=NO_PIXELS), frame.grid, NO_PIXELS, frame.sensor_depth
        )
        self._frames[frame_id], self._source = bare, source
        while len(self._frames) > MAX_KEPT:
            del self._frames[next(iter(self._frames))]

    def at(self, frame_id: int) -> Float[np.ndarray, "h w"] | None:
        """Metres on the network's grid; None: nothing came so far."""
        held = self._frames.get(frame_id)
        if held is None:
            return None
        if held.sensor_depth is None and self._source is not None:
            held = held._replace(sensor_depth=self._source.depth_at(held.frame, held.grid))
        if held.sensor_depth is not None:
            del self._frames[frame_id]
        return held.depth_on_grid()
