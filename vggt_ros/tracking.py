# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which pixels are tracked, and in which frame of the sliding window they are pinned.

The network tracks points that are given in one frame of its window.  When that frame leaves the
window, the points are pinned again where they were last tracked.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt32

from vggt_ros.errors import UserError
from vggt_ros.imaging.grid import Grid


class TrackAnchor(NamedTuple):
    """Query points and the frame that pins them; `uv` is in network pixels once `on_grid`."""

    ids: UInt32[np.ndarray, "n"]
    uv: Float32[np.ndarray, "n 2"]
    frame_id: int | None  # None: the next frame that arrives
    known: dict[int, Float32[np.ndarray, "n 2"]]  # last tracks by frame, network pixels

    @classmethod
    def at(
        cls, ids: UInt32[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"], frame_id: int | None
    ) -> "TrackAnchor":
        """Query points in pixels of the input image.  Raises `UserError` for NaN or infinity."""
        bad = ~np.isfinite(uv).all(axis=1)
        if bad.any():
            raise UserError(f"query {ids[bad][0]} is not finite; send finite pixel coordinates")
        return cls(np.asarray(ids, np.uint32), np.asarray(uv, np.float32), frame_id, {})

    def on_grid(self, grid: Grid) -> "TrackAnchor":
        """The same points on the network's grid.  Raises `UserError` for one outside."""
        size = np.array([grid.input_width, grid.input_height])
        outside = ((self.uv < -0.5) | (self.uv > size - 0.5)).any(axis=1)
        if outside.any():
            u, v = self.uv[outside][0]
            raise UserError(
                f"query {self.ids[outside][0]} is outside the {grid.input_width}x"
                f"{grid.input_height} image: ({u:g}, {v:g}); send pixels of the input image"
            )
        uv = grid.network_pixels(self.uv)
        if grid.rectification is not None:
            self._check_rectified(uv, grid)
        return self._replace(uv=uv)

    def _check_rectified(self, uv: Float32[np.ndarray, "n 2"], grid: Grid) -> None:
        inside = (uv >= -0.5) & (uv <= np.array([grid.width, grid.height]) - 0.5)
        lost = ~inside.all(axis=1)  # NaN is not inside
        if lost.any():
            u, v = self.uv[lost][0]
            raise UserError(
                f"query {self.ids[lost][0]} is not in the rectified image: ({u:g}, {v:g}) is cut"
                " off with the lens; query nearer to the middle, or calibrate P for a wider view"
            )

    def within(self, frame_ids: tuple[int, ...]) -> "TrackAnchor | None":
        """Pinned in a frame of this window: the old one, else the oldest with known tracks."""
        if self.frame_id in frame_ids:
            return self
        for key in frame_ids:
            if key in self.known:
                return self._replace(uv=self.known[key], frame_id=key)
        return None

    def with_tracks(
        self, frame_ids: tuple[int, ...], tracks: Float32[np.ndarray, "s n 2"]
    ) -> "TrackAnchor":
        """The same anchor with the points' places in each frame of this window."""
        return self._replace(known=dict(zip(frame_ids, tracks, strict=True)))

    def lost_reason(self) -> str:
        """Why these points are tracked no longer, once no frame of the window has them."""
        if self.known:
            return "every frame with known tracks left the window: tracks end"
        return (
            "the queried frame left the window before it was tracked in: query a newer one (the"
            " first query of its size waits for a program to be compiled)"
        )


class Tracker:
    """The pixels that are tracked, as the window slides.  `notify` is told why tracks end."""

    def __init__(self, notify: Callable[[str], object]):
        self._notify = notify
        self.anchor: TrackAnchor | None = None  # None: nothing is tracked

    def arrived(self, frame_id: int, grid: Grid) -> None:
        """A frame entered the window: points that wait for one are pinned in it."""
        if self.anchor is not None and self.anchor.frame_id is None:
            try:
                self.anchor = self.anchor._replace(frame_id=frame_id).on_grid(grid)
            except UserError as error:
                self.anchor = None
                self._notify(str(error))

    def are_known_in(self, frame_ids: tuple[int, ...]) -> bool:
        """Whether nothing is lost where only these frames stay in the window."""
        return self.anchor is None or self.anchor.within(frame_ids) is not None

    def find(self, frame_ids: tuple[int, ...], missing: int) -> TrackAnchor | None:
        """Where the points are pinned in this window, whose oldest `missing` may be left out."""
        if self.anchor is not None:
            anchor = self.anchor.within(frame_ids[missing:]) or self.anchor.within(frame_ids)
            if anchor is None:
                self._notify(self.anchor.lost_reason())
            self.anchor = anchor
        return self.anchor
