# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rendering of coloured points (surfels) by virtual cameras, in NumPy.

The world is z up; camera frames are optical (x right, y down, z ahead).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from vggt_ros.geometry import transform, unproject
from vggt_ros.tools.runs.format import RunFrame

SUPERSAMPLING = 2  # images are drawn this much larger, then reduced: smooth edges
MAX_POINTS = 900_000  # of a run; more are thinned
MAX_DEPTH = 1e9  # world units; an untrained network may give any depth


class Surfels(NamedTuple):
    """Coloured world points, each with the width of the surface element that it represents."""

    points: Float32[np.ndarray, "p 3"]
    colours: UInt8[np.ndarray, "p 3"]
    widths: Float32[np.ndarray, " p"]  # world units


class VirtualCamera(NamedTuple):
    """A camera that renders the scene; `focal` in pixels, or pixels per unit if `parallel`."""

    camera_from_world: Float[np.ndarray, "4 4"]
    focal: float
    width: int
    height: int
    centre: tuple[float, float]  # principal point, pixels
    parallel: bool = False

    def project(self, points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "p 3"]:
        """Pixel coordinates and depth: u, v, z."""
        seen = transform(self.camera_from_world, points)
        z = seen[:, 2:]
        scale = self.focal / (np.ones_like(z) if self.parallel else np.maximum(z, 1e-6))
        return np.concatenate([seen[:, :2] * scale + self.centre, z], 1)


# ---- scene


def surfels_from(frames: Sequence[RunFrame]) -> Surfels:
    """Every finite pixel of every frame as a surfel, evenly thinned to `MAX_POINTS`."""
    thin = max(1, -(-sum(frame.depth.size for frame in frames) // MAX_POINTS))
    parts = [_surfels(frame, thin) for frame in frames]
    none = np.zeros((0, 3), np.float32)
    empty = Surfels(none, none.astype(np.uint8), none[:, 0])
    return Surfels(*(np.concatenate(field) for field in zip(empty, *parts, strict=True)))


def _surfels(frame: RunFrame, thin: int) -> Surfels:
    valid = np.flatnonzero(frame.depth < MAX_DEPTH)[::thin]  # neither NaN nor beyond
    points = unproject(frame.depth, frame.intrinsics).reshape(-1, 3)[valid]
    widths = frame.depth.reshape(-1)[valid] / frame.intrinsics[0, 0] * np.sqrt(thin)
    world = transform(frame.world_from_camera, points)
    colours = frame.image.reshape(-1, 3)[valid]
    return Surfels(world.astype(np.float32), colours, widths.astype(np.float32))


def bounds(
    points: Float[np.ndarray, "p 3"], poses: Float[np.ndarray, "s 4 4"]
) -> Float[np.ndarray, "2 3"]:
    """Lowest and highest corner of cameras and points, outliers of the points left out."""
    corners = [poses[:, :3, 3]] if len(poses) else [np.zeros((1, 3))]
    if len(points):
        corners.append(np.percentile(points, [1.5, 98.5], axis=0))
    corners = np.concatenate(corners)
    return np.stack([corners.min(0), corners.max(0)])


def diagonal(box: Float[np.ndarray, "2 3"]) -> float:
    """Length of the box's diagonal, positive."""
    return float(max(np.linalg.norm(box[1] - box[0]), 1e-6))


def cut_height(poses: Float[np.ndarray, "s 4 4"], box: Float[np.ndarray, "2 3"]) -> float:
    """Height slightly above the highest camera: a ceiling over it would hide the room."""
    return float(poses[:, 2, 3].max(initial=box[0, 2]) + 0.1 * diagonal(box))


# ---- cameras


def perspective_camera(
    points: Float[np.ndarray, "p 3"],
    poses: Float[np.ndarray, "s 4 4"],
    box: Float[np.ndarray, "2 3"],
    width: int,
    height: int,
) -> VirtualCamera:
    """View from behind and above the cameras, along their mean direction, as near as all fits."""
    ahead = poses[:, :3, 2].sum(0) if len(poses) else np.zeros(3)
    ahead[2] = 0
    if np.linalg.norm(ahead) < 0.3 * max(len(poses), 1):  # no common direction
        ahead = np.array([0.8, 0.6, 0.0])
    ahead = ahead / np.linalg.norm(ahead)
    view = 0.85 * ahead + np.array([0, 0, -0.53])
    target, focal = (box[0] + box[1]) / 2, 1.1 * height
    some = points[:: max(1, len(points) // 5000)]
    some = some[((some >= box[0]) & (some <= box[1])).all(1)]
    some = np.concatenate([some, poses[:, :3, 3]]) if len(poses) else box

    def camera_at(distance: float) -> VirtualCamera:
        pose = _look_at(target - distance * view, view)
        return VirtualCamera(pose, focal, width, height, (0.0, 0.0))

    def fits(distance: float) -> bool:
        seen = camera_at(distance).project(some)
        span = np.ptp(seen[:, :2], axis=0) / [width, height]
        return bool((seen[:, 2] > 0.1 * distance).all() and span[0] < 0.88 and span[1] < 0.8)

    distances = diagonal(box) * np.geomspace(0.3, 4, 60)
    camera = camera_at(next(filter(fits, distances), distances[-1]))
    seen = camera.project(some)[:, :2]
    u, v = np.array([width, height]) / 2 - (seen.min(0) + seen.max(0)) / 2
    return camera._replace(centre=(float(u), float(v)))


def top_camera(box: Float[np.ndarray, "2 3"], width: int, height: int) -> VirtualCamera:
    """Parallel view from above, x to the right or upwards, whichever fills the image better."""
    size = np.maximum(box[1] - box[0], 1e-6)
    upright = (size[0] > size[1]) == (height > width)
    right, up = ([0, -1, 0], [1, 0, 0]) if upright else ([1, 0, 0], [0, 1, 0])
    rotation = np.array([right, np.negative(up), [0, 0, -1]], float)
    spans = size[[1, 0]] if upright else size[:2]
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = rotation
    middle = (box[0] + box[1]) / 2
    middle[2] = box[1, 2] + diagonal(box)
    camera_from_world[:3, 3] = -rotation @ middle
    focal = 0.86 * min(width / spans[0], height / spans[1])
    centre = (width / 2, height / 2)
    return VirtualCamera(camera_from_world, float(focal), width, height, centre, parallel=True)


def _look_at(
    position: Float[np.ndarray, "3"], view: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "4 4"]:
    """camera_from_world of an optical frame (x right, y down, z ahead) with a level horizon."""
    ahead = view / np.linalg.norm(view)
    right = np.cross(ahead, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = right, np.cross(ahead, right), ahead
    camera_from_world[:3, 3] = -camera_from_world[:3, :3] @ position
    return camera_from_world


# ---- rendering


def splat(
    camera: VirtualCamera, surfels: Surfels
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Colours, and which pixels are covered: squares of each surfel's width, nearest in front."""
    u, v, z = camera.project(surfels.points).T
    order = np.argsort(-z, kind="stable")  # the last write to a pixel wins: the nearest
    order = order[(z > 1e-3)[order]]
    u, v, z = np.floor(u[order]).astype(int), np.floor(v[order]).astype(int), z[order]
    scale = camera.focal if camera.parallel else camera.focal / z
    radius = np.clip(surfels.widths[order] * scale * 0.6, 0.5, 4 * SUPERSAMPLING)
    colour = surfels.colours[order]

    depth = np.full((camera.height, camera.width), np.inf, np.float32)
    colours = np.zeros((camera.height, camera.width, 3), np.uint8)
    for ring in range(4 * SUPERSAMPLING + 1):
        wide = np.flatnonzero(radius >= ring)
        for dx, dy in _ring(ring) if len(wide) else ():
            x, y = u[wide] + dx, v[wide] + dy
            inside = (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
            x, y, surfel = x[inside], y[inside], wide[inside]
            front = z[surfel] < depth[y, x]
            x, y, surfel = x[front], y[front], surfel[front]
            depth[y, x], colours[y, x] = z[surfel], colour[surfel]
    return _shaded(colours, depth), np.isfinite(depth)


def _ring(size: int) -> list[tuple[int, int]]:
    """Offsets of the pixels at Chebyshev distance `size`."""
    steps = range(-size, size + 1)
    return [(x, y) for x in steps for y in steps if max(abs(x), abs(y)) == size]


def _shaded(
    colours: UInt8[np.ndarray, "h w 3"], depth: Float32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Eye-dome lighting: a pixel darkens by how far it lies behind its neighbours."""
    seen = np.isfinite(depth)
    log = np.log2(np.where(seen, depth, 1), dtype=np.float32)
    behind = np.zeros_like(log)
    for step in (SUPERSAMPLING, 2 * SUPERSAMPLING):
        for shift in ((0, step), (0, -step), (step, 0), (-step, 0)):
            near = np.roll(log, shift, (0, 1))
            behind += np.where(np.roll(seen, shift, (0, 1)), np.clip(log - near, 0, 0.25), 0)
    return (colours * np.exp(-2.2 * behind)[..., None]).astype(np.uint8)
