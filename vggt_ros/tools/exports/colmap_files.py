# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A sparse model as COLMAP's files, in both of its formats.

COLMAP's conventions (https://colmap.github.io/format.html): poses are camera-from-world, a
quaternion begins with w, and the centre of the first pixel is (0.5, 0.5).
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vggt_ros.tools.exports.sparse_model import Model

NAMES = "surrogateescape"  # names of images are the bytes that they are on disk
PINHOLE = 1  # COLMAP's id of the camera model; its parameters are fx fy cx cy


def write_model(folder: Path, model: Model) -> None:
    """cameras, images and points3D, as .txt and as .bin."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("cameras", _camera_lines),
        ("images", _view_lines),
        ("points3D", _point_lines),
    ):
        place = folder / f"{name}.txt"  # gigabytes of a thousand images
        with place.open("w", encoding="utf-8", errors=NAMES) as file:
            file.writelines(lines(model))
    for name, parts in (
        ("cameras", _camera_bytes),
        ("images", _view_bytes),
        ("points3D", _point_bytes),
    ):
        with (folder / f"{name}.bin").open("wb") as file:
            file.writelines(parts(model))


# ---- text


def _numbers(values) -> str:
    return " ".join(repr(float(value)) for value in values)


def _camera_lines(model: Model) -> Iterator[str]:
    yield "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
    for number, camera in enumerate(model.cameras, 1):
        yield f"{number} PINHOLE {camera.width} {camera.height} {_numbers(camera.parameters)}\n"


def _view_lines(model: Model) -> Iterator[str]:
    yield "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
    yield "# POINTS2D[] as (X, Y, POINT3D_ID)\n"
    for number, view in enumerate(model.views, 1):
        pose = _numbers((*view.quaternion_wxyz, *view.translation))
        yield f"{number} {pose} {view.camera} {view.name}\n"
        rows = zip(view.pixels.tolist(), view.points.tolist(), strict=True)
        yield " ".join(f"{u} {v} {point}" for (u, v), point in rows) + "\n"


def _point_lines(model: Model) -> Iterator[str]:
    yield "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n"
    points = model.points
    ends = np.cumsum(points.lengths).tolist()
    first = 0
    for number, (position, colour, end) in enumerate(
        zip(points.positions.tolist(), points.colours.tolist(), ends, strict=True), 1
    ):
        (x, y, z), (r, g, b) = position, colour
        track = np.stack([points.views[first:end], points.pixels[first:end]], -1)
        track = " ".join(map(str, track.ravel().tolist()))
        yield f"{number} {x!r} {y!r} {z!r} {r} {g} {b} 0 {track}\n"
        first = end


# ---- binary, little-endian


def _camera_bytes(model: Model) -> Iterator[bytes]:
    yield struct.pack("<Q", len(model.cameras))
    for number, camera in enumerate(model.cameras, 1):
        yield struct.pack(
            "<iiQQ4d", number, PINHOLE, camera.width, camera.height, *camera.parameters
        )


def _view_bytes(model: Model) -> Iterator[bytes]:
    yield struct.pack("<Q", len(model.views))
    for number, view in enumerate(model.views, 1):
        pose = (*view.quaternion_wxyz, *view.translation)
        pixels = np.empty(len(view.pixels), [("uv", "<f8", 2), ("point", "<i8")])
        pixels["uv"], pixels["point"] = view.pixels, view.points
        yield struct.pack("<i7di", number, *pose, view.camera)
        yield (
            view.name.encode("utf-8", NAMES)
            + b"\0"
            + struct.pack("<Q", len(pixels))
            + pixels.tobytes()
        )


def _point_bytes(model: Model) -> Iterator[bytes]:
    points = model.points
    ends, first = np.cumsum(points.lengths), 0
    yield struct.pack("<Q", len(points.positions))
    for number, (position, colour, end) in enumerate(
        zip(points.positions.tolist(), points.colours.tolist(), ends.tolist(), strict=True), 1
    ):
        track = np.stack([points.views[first:end], points.pixels[first:end]], -1).astype("<i4")
        yield struct.pack("<Q3d3BdQ", number, *position, *colour, 0.0, end - first)
        yield track.tobytes()
        first = end
