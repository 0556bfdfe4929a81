# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Coloured points of the world to pixels, in NumPy: where to look from, and what is seen there.

World is z up; an eye looks along its z, x right and y down, like any camera here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from vggt_ros.geometry import transform, unproject
from vggt_ros.tools.runs.format import Shot

SHARP = 2  # pictures are drawn this much larger, then reduced: smooth edges
MOST_POINTS = 900_000
FARTHEST = 1e9  # depths of an untrained network may be anything


class Dots(NamedTuple):
    """Coloured points of the world, each with the width of the surface that it stands for."""

    points: Float32[np.ndarray, "p 3"]
    colours: UInt8[np.ndarray, "p 3"]
    widths: Float32[np.ndarray, " p"]


class Eye(NamedTuple):
    """Where the scene is looked at from; `focal` in pixels, or pixels per unit if `parallel`."""

    eye_from_world: Float[np.ndarray, "4 4"]
    focal: float
    width: int
    height: int
    centre: tuple[float, float]  # the pixel that is looked at
    parallel: bool = False

    def project(self, points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "p 3"]:
        """Pixels and distance along the view: u, v, z."""
        seen = transform(self.eye_from_world, points)
        z = seen[:, 2:]
        scale = self.focal / (np.ones_like(z) if self.parallel else np.maximum(z, 1e-6))
        return np.concatenate([seen[:, :2] * scale + self.centre, z], 1)


# ---- what there is to see


def dots_from(shots: Sequence[Shot]) -> Dots:
    """Every finite pixel of every shot as a world point, thinned evenly if there are too many."""
    thin = max(1, -(-sum(shot.depth.size for shot in shots) // MOST_POINTS))
    parts = [_dots(shot, thin) for shot in shots]
    empty = Dots(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
    return Dots(*(np.concatenate(field) for field in zip(empty, *parts, strict=True)))


def _dots(shot: Shot, thin: int) -> Dots:
    valid = np.flatnonzero(shot.depth < FARTHEST)[::thin]  # neither NaN nor beyond
    points = unproject(shot.depth, shot.intrinsics).reshape(-1, 3)[valid]
    widths = shot.depth.reshape(-1)[valid] / shot.intrinsics[0, 0] * np.sqrt(thin)
    world = transform(shot.world_from_camera, points)
    colours = shot.image.reshape(-1, 3)[valid]
    return Dots(world.astype(np.float32), colours, widths.astype(np.float32))


def bounds(
    points: Float[np.ndarray, "p 3"], poses: Float[np.ndarray, "s 4 4"]
) -> Float[np.ndarray, "2 3"]:
    """Lowest and highest corner of cameras and points, the wildest points set aside."""
    corners = [poses[:, :3, 3]] if len(poses) else [np.zeros((1, 3))]
    if len(points):
        corners.append(np.percentile(points, [1.5, 98.5], axis=0))
    corners = np.concatenate(corners)
    return np.stack([corners.min(0), corners.max(0)])


def reach(box: Float[np.ndarray, "2 3"]) -> float:
    """Length of the diagonal."""
    return float(max(np.linalg.norm(box[1] - box[0]), 1e-6))


def cut_height(poses: Float[np.ndarray, "s 4 4"], box: Float[np.ndarray, "2 3"]) -> float:
    """Just over the highest camera: a ceiling above it would hide the room."""
    return float(poses[:, 2, 3].max(initial=box[0, 2]) + 0.1 * reach(box))


# ---- where to look from


def perspective_eye(
    points: Float[np.ndarray, "p 3"],
    poses: Float[np.ndarray, "s 4 4"],
    box: Float[np.ndarray, "2 3"],
    width: int,
    height: int,
) -> Eye:
    """From behind and above the cameras, along their common view, as near as all still fits."""
    ahead = poses[:, :3, 2].sum(0) if len(poses) else np.zeros(3)
    ahead[2] = 0
    if np.linalg.norm(ahead) < 0.3 * max(len(poses), 1):  # they look all around
        ahead = np.array([0.8, 0.6, 0.0])
    ahead = ahead / np.linalg.norm(ahead)
    view = 0.85 * ahead + np.array([0, 0, -0.53])
    target, focal = (box[0] + box[1]) / 2, 1.1 * height
    some = points[:: max(1, len(points) // 5000)]
    some = some[((some >= box[0]) & (some <= box[1])).all(1)]
    some = np.concatenate([some, poses[:, :3, 3]]) if len(poses) else box

    def eye_at(distance: float) -> Eye:
        return Eye(_looking(target - distance * view, view), focal, width, height, (0.0, 0.0))

    def fits(distance: float) -> bool:
        seen = eye_at(distance).project(some)
        span = np.ptp(seen[:, :2], axis=0) / [width, height]
        return bool((seen[:, 2] > 0.1 * distance).all() and span[0] < 0.88 and span[1] < 0.8)

    distances = reach(box) * np.geomspace(0.3, 4, 60)
    eye = eye_at(next(filter(fits, distances), distances[-1]))
    seen = eye.project(some)[:, :2]
    u, v = np.array([width, height]) / 2 - (seen.min(0) + seen.max(0)) / 2
    return eye._replace(centre=(float(u), float(v)))


def top_eye(box: Float[np.ndarray, "2 3"], width: int, height: int) -> Eye:
    """Straight down, x to the right or upwards, whichever fills the frame better."""
    size = np.maximum(box[1] - box[0], 1e-6)
    upright = (size[0] > size[1]) == (height > width)
    right, up = ([0, -1, 0], [1, 0, 0]) if upright else ([1, 0, 0], [0, 1, 0])
    rotation = np.array([right, np.negative(up), [0, 0, -1]], float)
    spans = size[[1, 0]] if upright else size[:2]
    eye_from_world = np.eye(4)
    eye_from_world[:3, :3] = rotation
    middle = (box[0] + box[1]) / 2
    middle[2] = box[1, 2] + reach(box)
    eye_from_world[:3, 3] = -rotation @ middle
    focal = 0.86 * min(width / spans[0], height / spans[1])
    return Eye(eye_from_world, float(focal), width, height, (width / 2, height / 2), parallel=True)


def _looking(
    position: Float[np.ndarray, "3"], view: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "4 4"]:
    """eye_from_world of an optical frame (x right, y down, z ahead) with a level horizon."""
    ahead = view / np.linalg.norm(view)
    right = np.cross(ahead, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    eye_from_world = np.eye(4)
    eye_from_world[:3, :3] = right, np.cross(ahead, right), ahead
    eye_from_world[:3, 3] = -eye_from_world[:3, :3] @ position
    return eye_from_world


# ---- seeing it


def splat(eye: Eye, dots: Dots) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Points as squares of their own width, nearest in front, shaded where depth steps back."""
    u, v, z = eye.project(dots.points).T
    order = np.argsort(-z, kind="stable")  # the last write to a pixel wins: the nearest
    order = order[(z > 1e-3)[order]]
    u, v, z = np.floor(u[order]).astype(int), np.floor(v[order]).astype(int), z[order]
    scale = eye.focal if eye.parallel else eye.focal / z
    radius = np.clip(dots.widths[order] * scale * 0.6, 0.5, 4 * SHARP)
    colour = dots.colours[order]

    depth = np.full((eye.height, eye.width), np.inf, np.float32)
    colours = np.zeros((eye.height, eye.width, 3), np.uint8)
    for ring in range(4 * SHARP + 1):
        wide = np.flatnonzero(radius >= ring)
        for dx, dy in _ring(ring) if len(wide) else ():
            x, y = u[wide] + dx, v[wide] + dy
            inside = (x >= 0) & (y >= 0) & (x < eye.width) & (y < eye.height)
            x, y, dots_here = x[inside], y[inside], wide[inside]
            front = z[dots_here] < depth[y, x]
            x, y, dots_here = x[front], y[front], dots_here[front]
            depth[y, x], colours[y, x] = z[dots_here], colour[dots_here]
    return _shaded(colours, depth), np.isfinite(depth)


def _ring(size: int) -> list[tuple[int, int]]:
    """Steps to the pixels that lie `size` away, as a king walks."""
    steps = range(-size, size + 1)
    return [(x, y) for x in steps for y in steps if max(abs(x), abs(y)) == size]


def _shaded(
    colours: UInt8[np.ndarray, "h w 3"], depth: Float32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Eye-dome lighting: a pixel darkens by how far it lies behind its neighbours."""
    seen = np.isfinite(depth)
    log = np.log2(np.where(seen, depth, 1), dtype=np.float32)
    behind = np.zeros_like(log)
    for step in (SHARP, 2 * SHARP):
        for shift in ((0, step), (0, -step), (step, 0), (-step, 0)):
            near = np.roll(log, shift, (0, 1))
            behind += np.where(np.roll(seen, shift, (0, 1)), np.clip(log - near, 0, 0.25), 0)
    return (colours * np.exp(-2.2 * behind)[..., None]).astype(np.uint8)
