# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt colmap RUN --out DIR`: a run as COLMAP files, for splatting, meshing, bundle adjustment.

    DIR/images/000000.png                        the images, on the pixel grid of the depth
    DIR/sparse/0/{cameras,images,points3D}.txt   the model, and the same as .bin
    DIR/sparse/1/...                             a model of each further segment of the map

As in COLMAP, images that could not be registered are in no model, and what is not tied together is
in models of its own; here the largest comes first.

COLMAP's conventions (https://colmap.github.io/format.html): poses are camera-from-world, a
quaternion begins with w, and the centre of the first pixel is (0.5, 0.5).
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.geometry import inverse_rigid, quaternion_from_rotation, transform, unproject
from vggt_ros.tools.runs.format import Run, RunFrame, open_run
from vggt_ros.tools.runs.writer import writing

PINHOLE = 1  # COLMAP's id of the camera model; its parameters are fx fy cx cy
PIXEL_CENTRE = 0.5  # COLMAP's coordinate of the first pixel's centre; here it is 0


class Camera(NamedTuple):
    """Image size in pixels, and fx fy cx cy."""

    width: int
    height: int
    parameters: tuple[float, ...]


class View(NamedTuple):
    """One image, and the points that were sampled from its pixels."""

    name: str
    camera: int
    quaternion_wxyz: Float64[np.ndarray, "4"]  # camera from world
    translation: Float64[np.ndarray, "3"]
    pixels: Float64[np.ndarray, "n 2"]
    first_point: int  # id of the point of the first pixel; the others follow


class Points(NamedTuple):
    """World points, each observed in one pixel of one view."""

    positions: Float64[np.ndarray, "p 3"]  # world
    colours: UInt8[np.ndarray, "p 3"]
    view: Int64[np.ndarray, " p"]  # id of the view
    pixel: Int64[np.ndarray, " p"]  # index of the pixel within the view


class Model(NamedTuple):
    """A sparse model; ids count from 1, as in COLMAP: `cameras[0]` is camera 1."""

    cameras: list[Camera]
    views: list[View]
    points: Points


def colmap(run: Path, out: Path, *, max_points: int = 200_000) -> Path:
    """Write the run as a COLMAP workspace; returns the folder of the largest sparse model.

    Args:
        run: directory that `vggt run` wrote.
        out: output folder, for images/ and sparse/0/.
        max_points: maximum number of points in all models together.
    """
    opened = open_run(run)
    segments, sparse = opened.segments(), out / "sparse"
    if not segments:
        raise UserError(f"{run} holds no frames; make some with: vggt run SOURCE --out {run}")
    if (sparse / str(len(segments))).exists():
        raise UserError(f"{sparse} holds more models than {run} has; choose another --out")
    with writing(out):
        (out / "images").mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(opened.frames()):
            Image.fromarray(frame.image).save(out / "images" / _image_name(index))
        quota = max_points // sum(map(len, segments))
        for number, frames in enumerate(segments):
            folder = sparse / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            model = build_model(opened, frames, quota)
            write_text(folder, model)
            write_binary(folder, model)
    return sparse / "0"


def _image_name(index: int) -> str:
    return f"{index:06d}.png"


def build_model(run: Run, frames: Sequence[int], quota: int) -> Model:
    """The model of these frames, each with at most `quota` points, which no other frame shares.

    Frames of equal intrinsics share a camera.
    """
    cameras: dict[Camera, int] = {}
    views: list[View] = []
    parts: list[Points] = []
    count = 1
    for number, index in enumerate(frames, 1):
        frame = run.frame(index)
        camera = cameras.setdefault(_camera(frame), len(cameras) + 1)
        camera_from_world = inverse_rigid(frame.world_from_camera)
        rows, columns = _sample_pixels(frame, quota, seed=index + 1)
        views.append(
            View(
                _image_name(index),
                camera,
                np.roll(quaternion_from_rotation(camera_from_world[:3, :3]), 1),
                camera_from_world[:3, 3],
                np.stack([columns, rows], -1) + PIXEL_CENTRE,
                count,
            )
        )
        in_camera = unproject(frame.depth.astype(np.float64), frame.intrinsics)[rows, columns]
        parts.append(
            Points(
                transform(frame.world_from_camera, in_camera),
                frame.image[rows, columns],
                np.full(len(rows), number),
                np.arange(len(rows)),
            )
        )
        count += len(rows)
    points = Points(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    return Model(list(cameras), views, points)


def _camera(frame: RunFrame) -> Camera:
    height, width = frame.depth.shape
    k = frame.intrinsics
    numbers = (k[0, 0], k[1, 1], k[0, 2] + PIXEL_CENTRE, k[1, 2] + PIXEL_CENTRE)
    return Camera(width, height, tuple(float(number) for number in numbers))


def _sample_pixels(
    frame: RunFrame, quota: int, seed: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Rows and columns of at most `quota` valid pixels, chosen by a fixed seed."""
    valid = np.flatnonzero(np.isfinite(frame.depth))
    chosen = np.random.default_rng(seed).permutation(valid)[:quota]
    rows, columns = np.unravel_index(np.sort(chosen), frame.depth.shape)
    return rows, columns


# ---- text


def write_text(folder: Path, model: Model) -> None:
    """cameras.txt, images.txt and points3D.txt."""
    (folder / "cameras.txt").write_text("".join(_camera_lines(model)))
    (folder / "images.txt").write_text("".join(_view_lines(model)))
    (folder / "points3D.txt").write_text("".join(_point_lines(model)))


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
        pixels = (f"{u} {v} {i}" for i, (u, v) in enumerate(view.pixels.tolist(), view.first_point))
        yield " ".join(pixels) + "\n"


def _point_lines(model: Model) -> Iterator[str]:
    yield "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n"
    rows = zip(*(field.tolist() for field in model.points), strict=True)
    for number, ((x, y, z), (r, g, b), view, pixel) in enumerate(rows, 1):
        yield f"{number} {x!r} {y!r} {z!r} {r} {g} {b} 0 {view} {pixel}\n"


# ---- binary


def write_binary(folder: Path, model: Model) -> None:
    """cameras.bin, images.bin and points3D.bin, little-endian."""
    (folder / "cameras.bin").write_bytes(_camera_bytes(model))
    (folder / "images.bin").write_bytes(_view_bytes(model))
    (folder / "points3D.bin").write_bytes(_point_bytes(model))


def _camera_bytes(model: Model) -> bytes:
    rows = [
        struct.pack("<iiQQ4d", number, PINHOLE, camera.width, camera.height, *camera.parameters)
        for number, camera in enumerate(model.cameras, 1)
    ]
    return struct.pack("<Q", len(rows)) + b"".join(rows)


def _view_bytes(model: Model) -> bytes:
    parts = [struct.pack("<Q", len(model.views))]
    for number, view in enumerate(model.views, 1):
        pose = (*view.quaternion_wxyz, *view.translation)
        pixels = np.empty(len(view.pixels), [("uv", "<f8", 2), ("point", "<i8")])
        pixels["uv"] = view.pixels
        pixels["point"] = np.arange(view.first_point, view.first_point + len(pixels))
        parts.append(struct.pack("<i7di", number, *pose, view.camera))
        parts.append(view.name.encode() + b"\0" + struct.pack("<Q", len(pixels)) + pixels.tobytes())
    return b"".join(parts)


_POINT = np.dtype(
    [
        ("number", "<u8"),
        ("position", "<f8", 3),
        ("colour", "u1", 3),
        ("error", "<f8"),
        ("track_length", "<u8"),
        ("view", "<i4"),
        ("pixel", "<i4"),
    ]
)


def _point_bytes(model: Model) -> bytes:
    rows = np.zeros(len(model.points.positions), _POINT)
    rows["number"] = np.arange(1, len(rows) + 1)
    rows["position"], rows["colour"] = model.points.positions, model.points.colours
    rows["track_length"] = 1
    rows["view"], rows["pixel"] = model.points.view, model.points.pixel
    return struct.pack("<Q", len(rows)) + rows.tobytes()
