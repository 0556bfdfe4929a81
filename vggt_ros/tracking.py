# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which pixels are tracked, and in which frame they are pinned while the window slides.

The network tracks points that are given in one frame of its window.  When that frame leaves the
window, the points are pinned again where they were last tracked.  Where no frame of the window has
them, as before the network has tracked them at all, the image of the last frame that has is kept,
to be shown to the network beside the window.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt32

from vggt_ros.errors import UserError
from vggt_ros.imaging.grid import Grid

RECENT = 30  # newest frames of a camera that a query may name; an image each, 0.1 to 0.6 MB


class SeenFrame(NamedTuple):
    """A frame that a query may name."""

    frame_id: int
    stamp_ns: int
    grid: Grid
    pixels: UInt8[np.ndarray, "h w 3"]  # on that grid
    camera: str = ""  # its optical frame id


class Pin(NamedTuple):
    """Points in one frame, in network pixels, and its image on the network's grid."""

    frame_id: int
    uv: Float32[np.ndarray, "n 2"]
    pixels: UInt8[np.ndarray, "h w 3"]


class TrackAnchor(NamedTuple):
    """Query points and the frame that pins them."""

    ids: UInt32[np.ndarray, "n"]
    uv: Float32[np.ndarray, "n 2"]  # network pixels
    frame_id: int
    kept: (
        Pin  # the same, or where they were last tracked: shown where no frame of a window has them
    )
    # Last tracks by frame of the camera that they are pinned in, network pixels.
    known: dict[int, Float32[np.ndarray, "n 2"]]
    camera: str = ""  # optical frame id of that camera

    def within(self, frame_ids: tuple[int, ...]) -> "TrackAnchor | None":
        """Pinned in a frame of this window: the old one, else the oldest with known tracks."""
        if self.frame_id in frame_ids:
            return self
        for key in frame_ids:
            if key in self.known:
                return self._replace(uv=self.known[key], frame_id=key)
        return None

    def beside(self) -> "TrackAnchor":
        """Pinned in the frame that is kept, which no window has any more."""
        return self._replace(uv=self.kept.uv, frame_id=self.kept.frame_id)

    def with_tracks(
        self,
        frame_ids: tuple[int, ...],
        tracks: Float32[np.ndarray, "s n 2"],
        newest: UInt8[np.ndarray, "h w 3"] | None,
    ) -> "TrackAnchor":
        """The same anchor with the points' places in each frame of its camera in this window."""
        known = dict(zip(frame_ids, tracks, strict=True))
        if newest is None:
            return self._replace(known=known)
        return self._replace(known=known, kept=Pin(frame_ids[-1], tracks[-1], newest))


class Tracker:
    """The pixels that are tracked, as the window slides.  `notify` is told of what is refused."""

    def __init__(self, notify: Callable[[str], object], cameras: int = 1):
        self._notify = notify
        self._recent: deque[SeenFrame] = deque(maxlen=RECENT * cameras)
        # A query before the first frame, and its camera.
        self._early: tuple[np.ndarray, np.ndarray, str] | None = None
        self._anchor: TrackAnchor | None = None  # None: nothing is tracked
        self._without = 0  # inferences in a row without tracks,
        self._reason = ""  # and why

    @property
    def is_on(self) -> bool:
        """Whether points are tracked, or will be."""
        return self._anchor is not None or self._early is not None

    @property
    def count(self) -> int:
        """How many points are tracked, or will be."""
        ids = self._anchor.ids if self._anchor else self._early[0] if self._early else ()
        return len(ids)

    @property
    def waiting(self) -> str:
        """Why points that were asked for are not tracked, with figures; empty: they are."""
        if self._anchor is None or self._without == 0:
            return ""
        n = len(self._anchor.ids)
        return (
            f"{n} point{'s' * (n > 1)} to track: no tracks in the last {self._without}"
            f" inference{'s' * (self._without > 1)}, {self._reason}; the frame of the query is kept"
        )

    def query(
        self, ids: UInt32[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"], stamp_ns: int,
        camera: str = "",
    ) -> None:  # fmt: skip
        """Track these pixels of the input image of that stamp (0: the newest); none: clear.

        `camera`: its optical frame id, where there are several; empty: whichever comes first.
        Raises `UserError` for pixels that are not finite or lie outside the image, and for a frame
        that is not known; what is tracked then goes on.
        """
        if len(ids) == 0:
            self._set(None)
            return
        bad = ~np.isfinite(uv).all(axis=1)
        if bad.any():
            raise UserError(f"query {ids[bad][0]} is not finite; send finite pixel coordinates")
        ids, uv = np.asarray(ids, np.uint32), np.asarray(uv, np.float32)
        frame = self._frame_at(stamp_ns, camera)
        self._set(None if frame is None else pinned(ids, uv, frame))
        self._early = (ids, uv, camera) if frame is None else None

    def _set(self, anchor: TrackAnchor | None) -> None:
        self._anchor, self._early, self._without = anchor, None, 0

    def _frame_at(self, stamp_ns: int, camera: str) -> SeenFrame | None:
        frames = [frame for frame in self._recent if camera in ("", frame.camera)]
        if self._recent and not frames:
            known = ", ".join(sorted({f"'{frame.camera}'" for frame in self._recent}))
            raise UserError(
                f"the query's frame_id '{camera}' is none of the cameras, which are {known}; take"
                " the header of the image that the points were chosen in"
            )
        if stamp_ns == 0:
            return frames[-1] if frames else None
        for frame in reversed(frames):
            if frame.stamp_ns == stamp_ns:
                return frame
        raise UserError(
            f"the query's stamp {stamp_ns} is not one of the last {len(frames)} frames that"
            " were used; take the stamp of an output, or 0 for the newest frame"
        )

    def arrived(self, frame: SeenFrame) -> None:
        """A frame entered the window: points that wait for one are pinned in it."""
        self._recent.append(frame)
        if self._early is not None and self._early[2] in ("", frame.camera):
            (ids, uv, _), self._early = self._early, None
            try:
                self._set(pinned(ids, uv, frame))
            except UserError as error:
                self._notify(str(error))

    def are_known_in(self, frame_ids: tuple[int, ...]) -> bool:
        """Whether it costs nothing if only these frames stay in the window.

        Points that wait for a program do so in the image that is kept.
        """
        anchor = self._anchor
        return anchor is None or self._without > 0 or anchor.within(frame_ids) is not None

    def find(self, frame_ids: tuple[int, ...], missing: int) -> TrackAnchor | None:
        """Where the points are pinned: in this window, whose oldest `missing` may be left out.

        Or in a frame that it does not have, which is to be shown beside it.
        """
        if self._anchor is not None:
            tail = frame_ids[missing:]
            self._anchor = (
                self._anchor.within(tail) or self._anchor.within(frame_ids) or self._anchor.beside()
            )
        return self._anchor

    def tracked(
        self,
        frame_ids: tuple[int, ...],
        tracks: Float32[np.ndarray, "s n 2"],
        newest: UInt8[np.ndarray, "h w 3"] | None,
    ) -> None:
        """An inference gave the points' places in the frames of the camera they were chosen in.

        `newest` is the image of the newest of these; None: the window has none.
        """
        if self._anchor is not None:
            self._anchor, self._without = self._anchor.with_tracks(frame_ids, tracks, newest), 0

    def not_tracked(self, reason: str) -> None:
        """An inference gave no tracks, although points were asked for."""
        self._without, self._reason = self._without + 1, reason


def pinned(
    ids: UInt32[np.ndarray, "n"], uv: Float32[np.ndarray, "n 2"], frame: SeenFrame
) -> TrackAnchor:
    """Pixels of the input image, in a frame.  Raises `UserError` for one outside."""
    grid = frame.grid
    size = np.array([grid.input_width, grid.input_height])
    outside = ((uv < -0.5) | (uv > size - 0.5)).any(axis=1)
    if outside.any():
        u, v = uv[outside][0]
        raise UserError(
            f"query {ids[outside][0]} is outside the {grid.input_width}x{grid.input_height} image:"
            f" ({u:g}, {v:g}); send pixels of the input image"
        )
    given, uv = uv, grid.network_pixels(uv)
    if grid.rectification is not None:
        _check_rectified(ids, given, uv, grid)
    pin = Pin(frame.frame_id, uv, frame.pixels)
    return TrackAnchor(ids, uv, frame.frame_id, pin, {}, frame.camera)


def _check_rectified(
    ids: UInt32[np.ndarray, "n"],
    given: Float32[np.ndarray, "n 2"],
    uv: Float32[np.ndarray, "n 2"],
    grid: Grid,
) -> None:
    inside = (uv >= -0.5) & (uv <= np.array([grid.width, grid.height]) - 0.5)
    lost = ~inside.all(axis=1)  # NaN is not inside
    if lost.any():
        u, v = given[lost][0]
        raise UserError(
            f"query {ids[lost][0]} is not in the rectified image: ({u:g}, {v:g}) is cut"
            " off with the lens; query nearer to the middle, or calibrate P for a wider view"
        )
