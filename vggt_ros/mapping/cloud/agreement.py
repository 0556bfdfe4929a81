# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which pixels of a depth image are surface: seen at that place by other views, not at an edge.

All is computed some rows at a time, so that what is needed in between stays in the cache.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8, UInt32

from vggt_ros.geometry import inverse_rigid

EDGE = 0.08  # relative step of depth to a neighbour beyond which a pixel mixes two surfaces
ROWS = 28  # of an image at a time; of a narrow one more, up to
AT_ONCE = 14_504  # pixels
MANY = 0.3  # share of pixels that are still open, from which all are faster than a list of them


class DepthView(NamedTuple):
    """One view's depth, and where it was seen from."""

    rimmed: Float32[np.ndarray, "h+2 w+2"]  # along z, with a rim of NaN, as where it is not known
    intrinsics: Float[np.ndarray, "3 3"]
    world_from_camera: Float[np.ndarray, "4 4"]

    @classmethod
    def of(
        cls,
        depth: Float32[np.ndarray, "h w"],
        intrinsics: Float[np.ndarray, "3 3"],
        world_from_camera: Float[np.ndarray, "4 4"],
    ) -> "DepthView":
        """`depth`: above 0, or NaN."""
        rimmed = np.full((depth.shape[0] + 2, depth.shape[1] + 2), np.nan, np.float32)
        rimmed[1:-1, 1:-1] = depth
        return cls(rimmed, intrinsics, world_from_camera)

    @property
    def depth(self) -> Float32[np.ndarray, "h w"]:
        return self.rimmed[1:-1, 1:-1]


def is_smooth(depth: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Whether a pixel's depth is nearly that of its right and of its lower neighbour.

    False where one of the three is not known, and in the last row and column.
    """
    smooth = np.zeros(depth.shape, bool)
    for row in range(0, len(depth) - 1, ROWS):
        part = depth[row : row + ROWS + 1]
        here = part[:-1, :-1]
        limit = np.float32(EDGE) * here
        right, down = np.abs(part[:-1, 1:] - here), np.abs(part[1:, :-1] - here)
        smooth[row : row + len(here), :-1] = np.maximum(right, down, out=right) < limit
    return smooth


def agreed(
    view: DepthView, others: Sequence[DepthView], needed: int, tolerance: float
) -> Bool[np.ndarray, "h w"]:
    """Pixels whose point is seen at its depth by `needed` of the other views, away from edges.

    A view sees a point at its depth where its own depth at the point's pixel is the same within
    `tolerance` (relative). Views are asked in their order, the most similar one first, each for
    the pixels that are still open. An edge is a step between two pixels that agree.
    """
    depth = view.depth
    votes = np.zeros(depth.shape, np.uint8)
    known = np.isfinite(depth)
    some: _Pixels | None = None  # that are still open; None: all
    for i, other in enumerate(others):
        projection = Projection(view, other, tolerance)
        possible = len(others) - i - 1  # votes that may still come
        if some is not None:
            some = some.after(projection.seen_at(some), needed, possible, votes)
        else:
            votes += projection.seen()
            is_open = (votes < needed) & (votes + possible >= needed) & known
            if np.count_nonzero(is_open) <= MANY * votes.size:
                some = _Pixels.of(is_open, view, votes)
        if some is not None and not len(some.pixel):
            break
    seen = votes >= needed
    _remove_edges(seen, depth)
    return seen


class _Pixels(NamedTuple):
    """Some pixels of a view."""

    pixel: Int[np.ndarray, "n"]
    u: Float32[np.ndarray, "n"]
    v: Float32[np.ndarray, "n"]
    depth: Float32[np.ndarray, "n"]
    votes: UInt8[np.ndarray, "n"]

    @classmethod
    def of(
        cls, chosen: Bool[np.ndarray, "h w"], view: DepthView, votes: UInt8[np.ndarray, "h w"]
    ) -> "_Pixels":
        pixel = np.flatnonzero(chosen)
        width = np.int32(chosen.shape[1])
        v = pixel.astype(np.int32) // width
        u = pixel.astype(np.int32) - width * v
        rimmed = pixel + 2 * v + (width + 3)  # the same one with a rim on each side
        return cls(
            pixel,
            u.astype(np.float32),
            v.astype(np.float32),
            view.rimmed.ravel().take(rimmed),
            votes.ravel().take(pixel),
        )

    def after(
        self,
        seen: Bool[np.ndarray, "n"],
        needed: int,
        possible: int,
        votes: UInt8[np.ndarray, "h w"],
    ) -> "_Pixels":
        """Those that are open after another view has voted; those with enough are written down."""
        here = self.votes + seen
        enough = here >= needed
        votes.ravel()[self.pixel[enough]] = needed
        kept = np.flatnonzero(~enough & (here + possible >= needed))
        columns = (*self[:-1], here)
        return _Pixels(*(column.take(kept) for column in columns))


def _remove_edges(seen: Bool[np.ndarray, "h w"], depth: Float32[np.ndarray, "h w"]) -> None:
    """Leave out a pixel with a step to its right or lower neighbour, if that one was seen too."""
    width = depth.shape[1]
    for row in range(0, len(depth), ROWS):
        # As one row, since that takes half the time.
        some = seen[row : row + ROWS + 1].reshape(-1)
        part = depth[row : row + ROWS + 1].ravel()
        limit = np.float32(EDGE) * part
        right, down = part[1:] - part[:-1], part[width:] - part[:-width]
        right = np.abs(right, out=right) >= limit[:-1]
        down = np.abs(down, out=down) >= limit[:-width]
        right &= some[1:]
        right[width - 1 :: width] = False  # the last pixel of a row has none
        down &= some[width:]
        for steps in (right[: ROWS * width], down):
            kept = some[: len(steps)]
            np.greater(kept, steps, out=kept)  # seen, and no step


class Projection:
    """Points of a view in the image of another one, whose depth there is compared with theirs."""

    def __init__(self, view: DepthView, other: DepthView, tolerance: float = 0.0):
        self._depth, self._tolerance = view.depth, np.float32(tolerance)
        self._known = other.rimmed  # the rim takes all that falls outside
        there_from_here = inverse_rigid(other.world_from_camera) @ view.world_from_camera
        # For the rim one pixel on, and half a one, so that cutting the fraction off rounds.
        k = np.array([[1, 0, 1.5], [0, 1, 1.5], [0, 0, 1]]) @ other.intrinsics
        turn = k @ there_from_here[:3, :3] @ np.linalg.inv(view.intrinsics)
        # (u, v, 1) times depth by `turn`, plus `shift`, is pixel times depth there.
        self._turn = turn.astype(np.float32)
        self._shift = (k @ there_from_here[:3, 3]).astype(np.float32)

    def ratios(self, depth: Float32[np.ndarray, "h w"] | None = None) -> Float32[np.ndarray, "h w"]:
        """The other depth at each point's pixel over that of the point; NaN: there is none.

        `depth`: of the points by now; None: that of the view.
        """
        depth = self._depth if depth is None else depth
        height, width = depth.shape
        some = max(ROWS, AT_ONCE // width)
        u = np.arange(width, dtype=np.float32)
        found = np.empty((height, width), np.float32)
        for row in range(0, height, some):
            rows = slice(row, min(row + some, height))
            v = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
            found[rows] = self._ratio(u, v, depth[rows])
        return found

    def seen(self) -> Bool[np.ndarray, "h w"]:
        """Whether the other depth at each point's pixel is that of the point."""
        height, width = self._depth.shape
        u = np.arange(width, dtype=np.float32)
        seen = np.empty((height, width), bool)
        for row in range(0, height, ROWS):
            rows = slice(row, min(row + ROWS, height))
            v = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
            self._compare(u, v, self._depth[rows], seen[rows])
        return seen

    def seen_at(self, some: _Pixels) -> Bool[np.ndarray, "n"]:
        """The same for the points of some pixels."""
        seen = np.empty(len(some.pixel), bool)
        self._compare(some.u, some.v, some.depth, seen)
        return seen

    def _compare(
        self,
        u: Float32[np.ndarray, "*u"],
        v: Float32[np.ndarray, "*v"],
        depth: Float32[np.ndarray, "*p"],
        seen: Bool[np.ndarray, "*p"],
    ) -> None:
        """Write the answer into `seen`: False where anything is NaN, or the point is behind."""
        ratio = self._ratio(u, v, depth)
        ratio -= np.float32(1.0)
        np.abs(ratio, out=ratio)
        np.less_equal(ratio, self._tolerance, out=seen)

    def _ratio(
        self,
        u: Float32[np.ndarray, "*u"],
        v: Float32[np.ndarray, "*v"],
        depth: Float32[np.ndarray, "*p"],
    ) -> Float32[np.ndarray, "*p"]:
        """The other depth at the points' pixels over theirs; NaN or below 0 where there is none."""
        depth = np.ascontiguousarray(depth)  # arithmetic on a part of an image takes twice as long
        x, y, z = (row[0] * u + (row[1] * v + row[2]) for row in self._turn)
        for axis, shift in zip((x, y, z), self._shift, strict=True):
            axis *= depth
            axis += shift
        height, width = self._known.shape
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = np.divide(np.float32(1.0), z, out=z)
            x *= inverse
            y *= inverse
            column, row = _on_rim(x, width - 1), _on_rim(y, height - 1)
        row *= np.uint32(width)
        row += column
        # Without a check of each index, since all of them are in the image.
        ratio = self._known.ravel().take(row.view(np.int32), mode="clip")
        ratio *= inverse
        return ratio


def _on_rim(places: Float32[np.ndarray, "*p"], last: int) -> UInt32[np.ndarray, "*p"]:
    """Whole numbers from 0 to `last`, which also takes what is negative, larger, or NaN."""
    whole = places.astype(np.int32).view(np.uint32)  # what is negative is large as this
    return np.minimum(whole, np.uint32(last), out=whole)
