# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cloud of a map seen from above: a grid of what is free and occupied, a part at a time.

Occupied is where points are, of a band of heights. Free is what was seen through: what the rays
from a keyframe to its points have crossed within that band.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int8

from vggt_ros.mapping.cloud.flat import Band, cut, length
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.mapping.corrections import KeyframePoses

UNKNOWN, FREE, OCCUPIED = -1, 0, 100  # nav_msgs/OccupancyGrid
BEARINGS = 180  # of the rays of one keyframe
MAX_CELLS = 4_000_000  # of a grid; beyond, its cells double their side
READ_AT_ONCE = 10_000  # points of the cloud that an update reads, about
DRAWN_AT_ONCE = 150_000  # cells or points that one call of `draw` writes, about
A_KEYFRAME = 5_000  # cells that take as long as what else a keyframe needs


class Grid(NamedTuple):
    """Cells seen from above, row by row along x; the first one begins at `origin`."""

    cell: float  # its side
    origin: tuple[float, float]
    values: Int8[np.ndarray, "rows columns"]


class GridBuilder:
    """Takes the cloud of a map a part at a time (`Parts` of a sweep), then draws the grid likewise.

    No call takes longer in a large map. Rays lead from where the keyframes stood when it began.
    """

    def __init__(self, find_keyframes: Callable[[], KeyframePoses], band: Band, cell: float):
        """`find_keyframes` gives those of now; `cell`: side of a cell, at least."""
        self._find, self._band, self._cell = find_keyframes, band, cell
        self.clear()

    def clear(self) -> None:
        """Begin again, without points."""
        keyframes = self._find()
        self._eyes = keyframes.translation.astype(np.float32)
        self._first, last = keyframes.ids[[0, -1]] if len(keyframes.ids) else (0, -1)
        self._row = np.full(last - self._first + 1, -1, np.int32)  # of each frame id from the first
        self._row[keyframes.ids - self._first] = np.arange(len(keyframes.ids))
        size = len(self._eyes) * BEARINGS
        self._crossed = np.zeros(size, np.float32)  # by keyframe and bearing: the farthest end
        self._met = np.full(size, np.inf, np.float32)  # the nearest obstacle
        self._hits: list[Float32[np.ndarray, "2 _"]] = []
        self._steps = self._draw()
        self.grid: Grid | None = None  # once it is drawn

    def append(self, part: OwnedCloud, /) -> None:
        """More points of the cloud."""
        x, y, z = np.ascontiguousarray(part.points.T)
        hit = np.flatnonzero((z >= self._band.low) & (z <= self._band.high))
        if len(hit):
            self._hits.append(np.stack([x.take(hit), y.take(hit)]))
        if not len(self._row) or not len(x):
            return
        place = part.keyframes - self._first
        row = self._row.take(place, mode="clip")
        row[(place < 0) | (place >= len(self._row))] = -1
        known = row >= 0
        eyes = self._eyes.take(row, axis=0, mode="clip")
        rays = cut(x, y, z, eyes, self._band)
        dx, dy = rays.x - eyes[:, 0], rays.y - eyes[:, 1]
        index, distance = row * BEARINGS + _bearing(dx, dy), length(dx, dy)
        crosses, met = np.flatnonzero(rays.crosses & known), np.flatnonzero(rays.is_hit & known)
        np.maximum.at(self._crossed, index.take(crosses), distance.take(crosses))
        np.minimum.at(self._met, index.take(met), distance.take(met))

    def draw(self) -> bool:
        """Draw more of the grid; True: it is complete.

        `grid` stays None if there is no point in the band, nor a ray that crosses it.
        """
        return next(self._steps, True)

    def _draw(self) -> Iterator[bool]:
        """False after each part."""
        reach = np.minimum(np.minimum(self._crossed, self._met), self._band.reach)
        reach = reach.reshape(-1, BEARINGS)
        seeing = np.flatnonzero(reach.any(axis=1))
        eyes, reach = self._eyes[seeing, :2], reach[seeing]
        far = reach.max(axis=1, initial=0.0)[:, None]
        corners = [part for part in (*self._hits, (eyes - far).T, (eyes + far).T) if part.size]
        if not corners:
            return
        low = np.min([part.min(1) for part in corners], axis=0)
        high = np.max([part.max(1) for part in corners], axis=0)
        cell = self._cell
        while np.prod((high - low) / cell + 3.0) > MAX_CELLS:
            cell *= 2.0
        first = np.floor(low / cell).astype(int) - 1
        columns, rows = (np.floor(high / cell).astype(int) - first + 2).tolist()
        values = np.full((rows, columns), UNKNOWN, np.int8)
        yield False
        drawn, disc = 0, _disc(cell, float(far.max(initial=0.0)), self._band.reach)
        cells = disc.cells(columns)
        yield False
        for eye, line in zip(eyes, reach, strict=True):
            column, row = np.floor(eye / cell).astype(int) - first
            free = cells[disc.within(line)]
            free += row * columns + column
            values.ravel()[free] = FREE
            drawn += len(free) + A_KEYFRAME
            if drawn >= DRAWN_AT_ONCE:
                yield False
                drawn = 0
        for hits in self._hits:
            column, row = np.floor(hits / cell).astype(int) - first[:, None]
            values[row, column] = OCCUPIED
            drawn += 2 * hits.shape[1]
            if drawn >= DRAWN_AT_ONCE:
                yield False
                drawn = 0
        self.grid = Grid(cell, (float(first[0] * cell), float(first[1] * cell)), values)


class _Disc:
    """The cells around one, by bearing, with their distance."""

    def __init__(self, cell: float, far: float, reach: float):
        """Up to the distance `far`, and to `reach`."""
        n = int(min(far, reach) / cell) + 1
        y, x = np.mgrid[-n : n + 1, -n : n + 1].astype(float)
        distance, bearing = np.hypot(x, y) * cell, _bearing(x, y)
        order = np.argsort(bearing, axis=None, kind="stable")
        within = (distance <= reach) & (distance.astype(np.float32) <= np.float32(far))
        order = order[within.ravel()[order]]
        self._distance = distance.ravel()[order].astype(np.float32)
        self._bearing = bearing.ravel()[order]
        self._x, self._y = (axis.ravel()[order].astype(np.int32) for axis in (x, y))
        self._first = np.searchsorted(self._bearing, np.arange(BEARINGS + 1))

    def cells(self, columns: int) -> Int[np.ndarray, "n"]:
        """All of them in a grid of so many columns, counted from the middle."""
        return self._y * columns + self._x

    def within(self, reach: Float32[np.ndarray, "b"]) -> Int[np.ndarray, "n"]:
        """Which of them are no further than that by their bearing; of reach 0 none is."""
        looked = np.flatnonzero(reach)
        first, end = self._first[looked[0]], self._first[looked[-1] + 1]
        line = np.where(reach > 0, reach, np.float32(-1.0))
        near = self._distance[first:end] <= line[self._bearing[first:end]]
        return np.flatnonzero(near) + first


@lru_cache(maxsize=1)
def _disc(cell: float, far: float, reach: float) -> _Disc:
    return _Disc(cell, far, reach)


def _bearing(x: Float[np.ndarray, "*p"], y: Float[np.ndarray, "*p"]) -> Int[np.ndarray, "*p"]:
    turn = (np.arctan2(y, x) + np.float32(np.pi)) * np.float32(BEARINGS / (2 * np.pi))
    bearing = turn.astype(np.int32)
    bearing *= bearing != BEARINGS  # a full turn is none
    return bearing
