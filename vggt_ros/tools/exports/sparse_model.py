# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A sparse model of a run's frames: cameras, and points that carry all images that see them.

A point is sampled from one frame's depth.  Another frame sees it where its own depth, at the pixel
that the point projects to, is that of the point.  The observation there is the projection itself:
it says which images overlap, and is no measurement of its own that an adjustment could weigh.

Points that one image alone sees are left out, since adjustments refuse them; a model without any
other has them, as a start for splatting.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from vggt_ros.geometry import inverse_rigid, quaternion_from_rotation, transform, unproject
from vggt_ros.tools.exports.images import ExportedImage
from vggt_ros.tools.runs.format import Run, RunFrame

PIXEL_CENTRE = 0.5  # COLMAP's coordinate of the first pixel's centre; here it is 0
SAME_DEPTH = 0.05  # relative difference up to which two frames see the same surface


class Camera(NamedTuple):
    """Image size in pixels, and fx fy cx cy."""

    width: int
    height: int
    parameters: tuple[float, ...]


class View(NamedTuple):
    """One image, and the points that it sees."""

    name: str
    camera: int
    quaternion_wxyz: Float64[np.ndarray, "4"]  # camera from world
    translation: Float64[np.ndarray, "3"]
    pixels: Float64[np.ndarray, "n 2"]
    points: Int64[np.ndarray, " n"]  # id of the point at each pixel


class Points(NamedTuple):
    """World points, and their tracks one after the other."""

    positions: Float64[np.ndarray, "p 3"]  # world
    colours: UInt8[np.ndarray, "p 3"]
    lengths: Int64[np.ndarray, " p"]  # images that see each point
    views: Int64[np.ndarray, " o"]  # id of the view of each observation
    pixels: Int64[np.ndarray, " o"]  # index of its pixel within the view


class Model(NamedTuple):
    """A sparse model; ids count from 1, as in COLMAP: `cameras[0]` is camera 1."""

    cameras: list[Camera]
    views: list[View]
    points: Points


class _Samples(NamedTuple):
    """Points taken from the pixels of the frames."""

    positions: Float64[np.ndarray, "p 3"]  # world
    colours: UInt8[np.ndarray, "p 3"]
    source: Int64[np.ndarray, " p"]  # number of the frame that each was taken from
    pixels: Float64[np.ndarray, "p 2"]  # where, on the frame's grid


def build_model(
    run: Run,
    frames: Sequence[int],
    images: Sequence[ExportedImage],
    quota: int,
    advance: Callable[[], object] = lambda: None,
) -> Model:
    """The model of these frames, with at most `quota` points of each.

    `images`: the exported image of each frame of the run.  Frames of equal size and intrinsics
    share a camera.  `advance()` is called for each frame.
    """
    samples = _samples(run, frames, quota)
    cameras: dict[Camera, int] = {}
    views: list[View] = []
    observed = []
    for number, index in enumerate(frames):
        observed.append(_observed(run.frame(index), samples, number))
        advance()
    lengths = np.bincount(
        np.concatenate([seen for seen, _ in observed]), minlength=len(samples.positions)
    )
    kept = lengths > (1 if lengths.max(initial=0) > 1 else 0)
    samples = _Samples(*(field[kept] for field in samples))
    new_index = np.cumsum(kept) - 1
    for index, (seen, pixels) in zip(frames, observed, strict=True):
        frame, image = run.frame(index), images[index]
        camera = cameras.setdefault(_camera(frame, image), len(cameras) + 1)
        camera_from_world = inverse_rigid(frame.world_from_camera)
        seen, pixels = new_index[seen[kept[seen]]], pixels[kept[seen]]
        affine = image.image_from_grid
        views.append(
            View(
                image.name,
                camera,
                np.roll(quaternion_from_rotation(camera_from_world[:3, :3]), 1),
                camera_from_world[:3, 3],
                pixels @ affine[:2, :2].T + affine[:2, 2] + PIXEL_CENTRE,
                seen + 1,
            )
        )
    return Model(list(cameras), views, _with_tracks(samples, views))


def _camera(frame: RunFrame, image: ExportedImage) -> Camera:
    k = image.image_from_grid @ frame.intrinsics
    numbers = (k[0, 0], k[1, 1], k[0, 2] + PIXEL_CENTRE, k[1, 2] + PIXEL_CENTRE)
    return Camera(image.width, image.height, tuple(round(float(number), 9) for number in numbers))


def _samples(run: Run, frames: Sequence[int], quota: int) -> _Samples:
    """Valid pixels of each frame, chosen by a fixed seed, as world points."""
    none = np.zeros((0, 3))
    parts = [_Samples(none, none.astype(np.uint8), np.zeros(0, np.int64), none[:, :2])]
    for number, index in enumerate(frames):
        frame = run.frame(index)
        valid = np.flatnonzero(np.isfinite(frame.depth))
        chosen = np.random.default_rng(index + 1).permutation(valid)[:quota]
        rows, columns = np.unravel_index(np.sort(chosen), frame.depth.shape)
        in_camera = unproject(frame.depth.astype(np.float64), frame.intrinsics)[rows, columns]
        parts.append(
            _Samples(
                transform(frame.world_from_camera, in_camera),
                frame.image[rows, columns],
                np.full(len(rows), number),
                np.stack([columns, rows], -1).astype(np.float64),
            )
        )
    return _Samples(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _observed(
    frame: RunFrame, samples: _Samples, number: int
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, "n 2"]]:
    """Indices of the points that a frame sees, and where on its grid; `number` is the frame's."""
    height, width = frame.depth.shape
    there = transform(inverse_rigid(frame.world_from_camera), samples.positions)
    z = there[:, 2]
    ahead = np.flatnonzero(z > 0)
    homogeneous = there[ahead] @ frame.intrinsics.T
    uv = homogeneous[:, :2] / homogeneous[:, 2:]
    inside = ((uv > -0.5) & (uv < np.array([width, height]) - 0.5)).all(1)
    ahead, uv = ahead[inside], uv[inside]
    columns, rows = np.rint(uv).astype(int).T
    same = np.abs(frame.depth[rows, columns] / z[ahead] - 1) <= SAME_DEPTH  # False for NaN
    seen, uv = ahead[same], uv[same]
    other = samples.source[seen] != number
    own = np.flatnonzero(samples.source == number)  # exactly at their pixels
    points = np.concatenate([own, seen[other]])
    return points, np.concatenate([samples.pixels[own], uv[other]])


def _with_tracks(samples: _Samples, views: Sequence[View]) -> Points:
    point = np.concatenate([view.points for view in views]) - 1
    view = np.repeat(np.arange(1, len(views) + 1), [len(view.points) for view in views])
    pixel = np.concatenate([np.arange(len(view.points)) for view in views])
    order = np.lexsort((view, point))
    lengths = np.bincount(point, minlength=len(samples.positions))
    return Points(samples.positions, samples.colours, lengths, view[order], pixel[order])
