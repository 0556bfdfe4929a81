# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Points that the network follows through the frames of a run: what an adjustment can weigh.

Windows of frames overlap by a half; in each, points of the first, the middle and the last frame are
tracked in all others.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from vggt_ros.engine.interface import Engine
from vggt_ros.errors import UserError
from vggt_ros.geometry import inverse_rigid, transform, unproject
from vggt_ros.tools.runs.format import Run, RunFrame

WINDOW, HOP = 8, 4  # frames
CELL = 12  # network pixels: one point each, where the image changes most
RIM = 6  # network pixels that are left out at the edges
MAX_QUERIES = 256
CHANGE = 3.0  # of 255 from one pixel to the next; less is no point that can be followed
VISIBLE = 0.5  # visibility of a track from which it is an observation
FAR = 0.05  # of the image's width, from where the cameras of the run have the point; beyond: wrong
ENOUGH = 4  # observations of a point


class MeasuredTracks(NamedTuple):
    """World points, and where they were seen, one after the other."""

    positions: Float64[np.ndarray, "p 3"]  # by the depth of the frame that they were chosen in
    colours: UInt8[np.ndarray, "p 3"]
    lengths: Int64[np.ndarray, " p"]  # observations of each
    frames: Int64[np.ndarray, " o"]  # number of the frame of each observation, as given
    pixels: Float64[np.ndarray, "o 2"]  # where, on that frame's grid


def measure_tracks(
    engine: Engine, run: Run, frames: Sequence[int], progress: Callable[[int], object]
) -> MeasuredTracks:
    """Tracks through these frames; `progress` is told of each frame that is done.

    Raises `UserError` for a network without a track head, and where no point can be followed.
    """
    points: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for first in range(0, max(len(frames) - WINDOW + HOP, 1), HOP):
        numbers = np.arange(first, min(first + WINDOW, len(frames)))
        window = [run.frame(frames[number]) for number in numbers]
        for query in sorted({0, len(window) // 2, len(window) - 1}):
            points += _tracked(engine, frames, numbers, window, query)
        progress(min(HOP, len(frames) - first))
    if not points:
        raise UserError("no point could be followed through the frames, so nothing is adjusted")
    positions, colours, seen, pixels = zip(*points, strict=True)
    return MeasuredTracks(
        np.array(positions),
        np.array(colours, np.uint8),
        np.array([len(each) for each in seen]),
        np.concatenate(seen),
        np.concatenate(pixels),
    )


def _tracked(
    engine: Engine,
    frames: Sequence[int],
    numbers: Int64[np.ndarray, " s"],
    window: Sequence[RunFrame],
    query: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Position, colour, frames and pixels of each point of one frame of a window."""
    chosen = window[query]
    uv = pixels_to_follow(chosen)
    if not len(uv):
        return
    ids = tuple(int(frames[number]) for number in numbers)
    result = engine.infer(
        ids, [frame.image for frame in window], depth_frames=1, queries=uv, query_frame=query
    )
    if result.tracks is None or result.visibility is None or len(result.tracks) < len(ids):
        raise UserError(f"{engine.name} gives no tracks for {len(ids)} frames {result.notice}")
    columns, rows = uv.astype(int).T
    camera = unproject(chosen.depth.astype(np.float64), chosen.intrinsics)[rows, columns]
    world = transform(chosen.world_from_camera, camera)
    good = result.visibility >= VISIBLE
    good[query] = True
    for i, frame in enumerate(window):
        there = transform(inverse_rigid(frame.world_from_camera), world)
        there = there @ frame.intrinsics.T
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.linalg.norm(there[:, :2] / there[:, 2:] - result.tracks[i], axis=1)
        good[i] &= (there[:, 2] > 0) & (away < FAR * frame.depth.shape[1])
    for j in np.flatnonzero(good.sum(0) >= ENOUGH):
        seen = np.flatnonzero(good[:, j])
        pixels = result.tracks[seen, j].astype(np.float64)
        yield world[j], chosen.image[rows[j], columns[j]], numbers[seen], pixels


def pixels_to_follow(frame: RunFrame) -> Float32[np.ndarray, "n 2"]:
    """In each cell of the image the pixel where it changes most, if it does, and has depth."""
    down, across = np.gradient(frame.image.mean(-1))
    change = np.where(np.isfinite(frame.depth), np.hypot(across, down), -1.0)
    inner = np.full_like(change, -1.0)
    inner[RIM:-RIM, RIM:-RIM] = change[RIM:-RIM, RIM:-RIM]
    found = []
    for row in range(0, inner.shape[0], CELL):
        for column in range(0, inner.shape[1], CELL):
            cell = inner[row : row + CELL, column : column + CELL]
            y, x = np.unravel_index(cell.argmax(), cell.shape)
            if cell[y, x] > CHANGE:
                found.append((cell[y, x], column + x, row + y))
    best = sorted(found, reverse=True)[:MAX_QUERIES]
    return np.array([(x, y) for _, x, y in best], np.float32).reshape(-1, 2)
