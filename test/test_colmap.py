# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""COLMAP files of a run, in the conventions of COLMAP's documentation."""

import struct

import numpy as np
import pytest
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.geometry import WORLD_FROM_OPTICAL, rotation_from_quaternion
from vggt_ros.tools.colmap import colmap
from vggt_ros.tools.runs.format import RunFrame
from vggt_ros.tools.runs.writer import RunWriter

HEIGHT, WIDTH = 28, 42


@pytest.fixture(scope="module")
def frames() -> list[RunFrame]:
    """Frames of a few random cameras; the last two share their intrinsics."""
    random = np.random.default_rng(0)
    frames = []
    for i in range(4):
        pose = np.eye(4)
        turn = rotation_from_quaternion(random.normal(size=4) * 0.2 + [0, 0, 0, 1])
        pose[:3, :3] = WORLD_FROM_OPTICAL @ turn
        pose[:3, 3] = random.normal(size=3)
        focal = 40.0 + min(i, 2)
        k = np.array([[focal, 0, WIDTH / 2 - 0.5], [0, focal, HEIGHT / 2 - 0.5], [0, 0, 1]])
        depth = random.uniform(1, 5, (HEIGHT, WIDTH)).astype(np.float32)
        depth[:5] = np.nan
        image = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        frames.append(RunFrame(depth, np.full_like(depth, 2), k, pose, 1 + i, image))
    return frames


@pytest.fixture(scope="module")
def folder(frames, tmp_path_factory):
    """The COLMAP workspace of these frames."""
    path = tmp_path_factory.mktemp("colmap")
    with RunWriter(path / "run", {}) as writer:
        for frame in frames:
            writer.add(frame)
    assert colmap(path / "run", path / "out", max_points=400) == path / "out" / "sparse" / "0"
    return path / "out"


def rows(path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]


def read_views(sparse):
    """name -> camera from world, parameters, pixels and their points, in COLMAP's conventions."""
    cameras = {row[0]: [float(x) for x in row[4:]] for row in rows(sparse / "cameras.txt")}
    lines = rows(sparse / "images.txt")
    views = {}
    for head, pixels in zip(lines[::2], lines[1::2], strict=True):
        w, x, y, z, *t = map(float, head[1:8])
        rotation = rotation_from_quaternion(np.array([x, y, z, w]))
        views[head[9]] = (
            rotation,
            np.array(t),
            cameras[head[8]],
            np.array(pixels, float).reshape(-1, 3),
        )
    return views


def test_every_point_projects_to_the_centre_of_its_pixel(folder, frames):
    points = {row[0]: row for row in rows(folder / "sparse" / "0" / "points3D.txt")}
    views = read_views(folder / "sparse" / "0")
    assert list(views) == [f"{i:06d}.png" for i in range(4)]
    for frame, (rotation, translation, (fx, fy, cx, cy), pixels) in zip(
        frames, views.values(), strict=True
    ):
        assert len(pixels) == 100
        for u, v, number in pixels:
            row = points[str(int(number))]
            x, y, z = rotation @ np.array(row[1:4], float) + translation
            np.testing.assert_allclose([fx * x / z + cx, fy * y / z + cy], [u, v], atol=1e-6)
            i, j = int(v - 0.5), int(u - 0.5)
            assert (v - 0.5, u - 0.5) == (i, j)  # a pixel's centre is at the half
            np.testing.assert_allclose(z, frame.depth[i, j], rtol=1e-6)
            assert [int(c) for c in row[4:7]] == frame.image[i, j].tolist()


def test_the_track_of_a_point_refers_to_its_pixel(folder):
    views = read_views(folder / "sparse" / "0")
    for row in rows(folder / "sparse" / "0" / "points3D.txt"):
        view, pixel = int(row[8]), int(row[9])
        assert views[f"{view - 1:06d}.png"][3][pixel, 2] == int(row[0])


def test_frames_of_equal_intrinsics_share_a_camera_with_the_half_pixel_offset(folder):
    cameras = rows(folder / "sparse" / "0" / "cameras.txt")
    assert [row[4] for row in cameras] == ["40.0", "41.0", "42.0"]
    assert all(
        row[1:4] == ["PINHOLE", "42", "28"] and row[6:] == ["21.0", "14.0"] for row in cameras
    )


def test_images_are_written_beside_the_model(folder, frames):
    for i, frame in enumerate(frames):
        with Image.open(folder / "images" / f"{i:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), frame.image)


def test_the_binary_files_equal_the_text_files(folder):
    sparse = folder / "sparse" / "0"
    data = (sparse / "cameras.bin").read_bytes()
    (count,) = struct.unpack_from("<Q", data)
    records = struct.iter_unpack("<iiQQ4d", data[8:])
    text = [[1, *map(float, row[2:])] for row in rows(sparse / "cameras.txt")]
    assert count == 3 and [list(record[1:]) for record in records] == text

    data, at = (sparse / "images.bin").read_bytes(), 8
    for head, pixels in zip(*[iter(rows(sparse / "images.txt"))] * 2, strict=True):
        number, *pose, camera = struct.unpack_from("<i7di", data, at)
        end = data.index(b"\0", at + 64)
        name = data[at + 64 : end].decode()
        (n,) = struct.unpack_from("<Q", data, end + 1)
        assert [number, *pose, camera, name] == [
            int(head[0]),
            *map(float, head[1:8]),
            int(head[8]),
            head[9],
        ]
        for k in range(n):
            assert list(struct.unpack_from("<2dq", data, end + 9 + 24 * k)) == [
                *map(float, pixels[3 * k : 3 * k + 2]), int(pixels[3 * k + 2]),
            ]  # fmt: skip
        at = end + 9 + 24 * n
    assert at == len(data)

    data = (sparse / "points3D.bin").read_bytes()
    for row, record in zip(
        rows(sparse / "points3D.txt"), struct.iter_unpack("<Q3d3BdQii", data[8:]), strict=True
    ):
        *before, length, view, pixel = record
        assert [*before, view, pixel] == [float(word) for word in row] and length == 1


def test_each_segment_is_a_model_and_uncertain_images_are_in_none(frames, tmp_path):
    """The camera came back to the first segment; the first image could not be registered."""
    numbers = {"segments": [0, 1, 2], "segment_numbers": [0, 1, 0], "uncertain_frames": [0]}
    with RunWriter(tmp_path / "run", {}) as writer:
        for frame in frames:
            writer.add(frame)
        writer.summarise(numbers)
    sparse = colmap(tmp_path / "run", tmp_path / "out", max_points=300).parent
    for model, expected in (("0", [2, 3]), ("1", [1])):
        views = read_views(sparse / model)
        assert list(views) == [f"{index:06d}.png" for index in expected]
        for index, (rotation, translation, _, pixels) in zip(expected, views.values(), strict=True):
            centre = -rotation.T @ translation
            np.testing.assert_allclose(centre, frames[index].world_from_camera[:3, 3], atol=1e-9)
            assert len(pixels) == 100
        points = rows(sparse / model / "points3D.txt")
        assert [int(row[0]) for row in points] == list(range(1, 100 * len(expected) + 1))
        assert {int(row[8]) for row in points} == set(range(1, len(expected) + 1))
        assert (sparse / model / "images.bin").exists()
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4
    assert sorted(folder.name for folder in sparse.iterdir()) == ["0", "1"]


def test_models_of_another_export_are_not_left_among_these(frames, tmp_path):
    with RunWriter(tmp_path / "run", {}) as writer:
        writer.add(frames[0])
    (tmp_path / "out" / "sparse" / "1").mkdir(parents=True)
    with pytest.raises(UserError, match="more models than"):
        colmap(tmp_path / "run", tmp_path / "out")


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        colmap(tmp_path, tmp_path / "out")
