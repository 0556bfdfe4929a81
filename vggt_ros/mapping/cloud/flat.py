# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth seen from above: a scan of one view; and rays within a band of heights.

What is free is what a ray has crossed within that band: from the camera to the point that it met,
or to where it leaves the band.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

BEAMS = (720, 360, 180, 90)  # of a full circle
PIXELS = 1.5  # columns of the image in one beam, at least
ROWS = 130  # of an image that take part, about
MIN_POINTS = 3  # of one beam, in one range cell or nearer: fewer are noise
CELLS = 100  # of range up to the longest


class Band(NamedTuple):
    """Heights that count, and how far rays reach, metres."""

    low: float
    high: float
    reach: float


class Scan(NamedTuple):
    """Range by bearing: beam i is at -pi + i * step, counted from x to y."""

    step: float  # radians
    ranges: Float32[np.ndarray, "n"]  # REP 117: +inf free, -inf too near, NaN not known


class Rays(NamedTuple):
    """Where rays leave the band or end, seen from above."""

    x: Float32[np.ndarray, "p"]
    y: Float32[np.ndarray, "p"]
    is_hit: Bool[np.ndarray, "p"]  # they end in the band
    crosses: Bool[np.ndarray, "p"]  # any part of them lies in the band


def scan(
    depth: Float32[np.ndarray, "h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    base_from_camera: Float[np.ndarray, "4 4"],
    band: Band,
    nearest: float,
) -> Scan:
    """The nearest obstacle at each bearing from the origin of the base, whose z is up.

    A beam is free (+inf) where some rays cross the band as far as it reaches and none meets an
    obstacle, and not known (NaN) where they end before, as on the floor. `nearest`: the shortest
    range that is measured.
    """
    step = max(1, round(len(depth) / ROWS))
    beams = next((n for n in BEAMS if 2 * np.pi / n > PIXELS / intrinsics[0, 0]), BEAMS[-1])
    rays = cut(*_points(depth, intrinsics, base_from_camera, step), base_from_camera[:3, 3], band)
    distance = length(rays.x, rays.y)
    is_near = distance < band.reach
    far = np.flatnonzero(rays.crosses & (distance >= band.reach))
    free = np.bincount(_beam(rays, far, beams), minlength=beams)
    ranges = np.where(free >= MIN_POINTS, np.inf, np.nan)
    hits = np.flatnonzero(rays.is_hit & is_near)
    beam, distance = _beam(rays, hits, beams), distance.take(hits)
    some = np.flatnonzero(np.bincount(beam, minlength=beams))  # beams with an obstacle
    row = np.zeros(beams, np.int64)
    row[some] = CELLS * np.arange(len(some))
    index = (distance * np.float32(CELLS / band.reach)).astype(np.int64)
    np.minimum(index, CELLS - 1, out=index)
    index += row.take(beam)
    counts = np.bincount(index, minlength=CELLS * len(some)).reshape(-1, CELLS)
    met = np.cumsum(counts, axis=1) >= MIN_POINTS
    first, each = met.argmax(axis=1), np.arange(len(some))
    row[some] += first
    ends = np.flatnonzero(index == row.take(beam))
    sums = np.bincount(beam.take(ends), weights=distance.take(ends), minlength=beams)
    found = sums[some] / np.maximum(counts[each, first], 1)
    hit = met.any(axis=1)
    ranges[some[hit]] = np.where(found < nearest, -np.inf, found)[hit]
    return Scan(2 * np.pi / beams, ranges.astype(np.float32))


def length(x: Float32[np.ndarray, "n"], y: Float32[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    """What np.hypot gives, in half its time."""
    squares = np.square(x, dtype=np.float64)
    squares += np.square(y, dtype=np.float64)
    return np.sqrt(squares, out=squares).astype(np.float32)


def _beam(rays: Rays, some: Int[np.ndarray, "n"], beams: int) -> Int[np.ndarray, "n"]:
    """The beam, of this number on a full circle, in which the ends of some of the rays lie."""
    turn = np.arctan2(rays.y.take(some), rays.x.take(some))
    turn += np.float32(np.pi)
    turn *= np.float32(beams / (2 * np.pi))
    beam = np.rint(turn, out=turn).astype(np.int64)
    beam[beam == beams] = 0  # a full turn is none
    return beam


def _points(
    depth: Float32[np.ndarray, "h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    base_from_camera: Float[np.ndarray, "4 4"],
    step: int,
) -> list[Float32[np.ndarray, "p"]]:
    """x, y and z in the base of every `step`-th row's pixels; NaN without depth."""
    depth = depth[::step]
    turn = (base_from_camera[:3, :3] @ np.linalg.inv(intrinsics)).astype(np.float32)
    u = np.arange(depth.shape[1], dtype=np.float32)
    v = np.arange(0, step * len(depth), step, dtype=np.float32)[:, None]
    axes = [row[0] * u + (row[1] * v + row[2]) for row in turn]
    for axis, shift in zip(axes, base_from_camera[:3, 3], strict=True):
        axis *= depth
        axis += np.float32(shift)
    return [axis.ravel() for axis in axes]


def cut(
    x: Float32[np.ndarray, "p"],
    y: Float32[np.ndarray, "p"],
    z: Float32[np.ndarray, "p"],
    eye: Float[np.ndarray, "*p 3"],
    band: Band,
) -> Rays:
    """Rays from one eye, or from one each, to points, up to where they leave the band."""
    ex, ey, ez = (axis.astype(np.float32) for axis in eye.T)
    low, high = np.float32(band.low), np.float32(band.high)
    is_hit = (z >= low) & (z <= high)  # of NaN both are False
    crosses = (np.maximum(z, ez) >= low) & (np.minimum(z, ez) <= high)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (np.clip(z, low, high) - ez) / (z - ez)
        np.copyto(part, 1.0, where=is_hit)
        return Rays(ex + part * (x - ex), ey + part * (y - ey), is_hit, crosses)
