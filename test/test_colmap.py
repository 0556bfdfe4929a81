# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""COLMAP files of a run, in the conventions of COLMAP's documentation."""

import struct

import numpy as np
import pytest
from PIL import Image
from run_frames import wall_frame

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
    sparse = colmap(path / "run", path / "out", max_points=400, fuse=False)
    assert sparse == path / "out" / "sparse" / "0"
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


def test_every_point_projects_to_the_pixels_of_all_images_of_its_track(folder, frames):
    points = {row[0]: row for row in rows(folder / "sparse" / "0" / "points3D.txt")}
    views = read_views(folder / "sparse" / "0")
    assert list(views) == [f"{i:06d}.png" for i in range(4)]
    own = np.zeros(4, int)
    for number, (frame, (rotation, translation, (fx, fy, cx, cy), pixels)) in enumerate(
        zip(frames, views.values(), strict=True)
    ):
        for u, v, point in pixels:
            row = points[str(int(point))]
            x, y, z = rotation @ np.array(row[1:4], float) + translation
            np.testing.assert_allclose([fx * x / z + cx, fy * y / z + cy], [u, v], atol=1e-6)
            i, j = round(v - 0.5), round(u - 0.5)
            np.testing.assert_allclose(frame.depth[i, j], z, rtol=0.05)
            if (v - 0.5, u - 0.5) == (i, j):  # a pixel's centre is at the half
                own[number] += 1
                assert [int(c) for c in row[4:7]] == frame.image[i, j].tolist()
    assert own.sum() == len(points) and own.max() <= 100


def test_the_track_of_a_point_refers_to_its_pixels(folder):
    views = list(read_views(folder / "sparse" / "0").values())
    refers = 0
    for row in rows(folder / "sparse" / "0" / "points3D.txt"):
        track = np.array(row[8:], int).reshape(-1, 2)
        assert len(track) > 1 and len(set(track[:, 0])) == len(track)
        for view, pixel in track:
            assert views[view - 1][3][pixel, 2] == int(row[0])
        refers += len(track)
    assert refers == sum(len(view[3]) for view in views)


@pytest.fixture
def walls(tmp_path):
    """Three cameras before a wall, each half an image beside the last."""
    with RunWriter(tmp_path / "run", {}) as writer:
        for step in range(3):
            frame = wall_frame()
            frame.world_from_camera[1, 3] -= step  # to its right; the wall is two wide
            writer.add(frame._replace(stamp_ns=1 + step))
    return tmp_path / "run"


def test_a_point_carries_every_image_that_sees_it_at_its_depth(walls, tmp_path):
    sparse = colmap(walls, tmp_path / "out", max_points=3 * 1200)
    points = rows(sparse / "points3D.txt")
    seen = [sorted(int(view) for view in row[8::2]) for row in points]
    assert {tuple(each) for each in seen} == {(1, 2), (2, 3)}
    assert len(points) == 4 * 600  # the outer halves are seen once, and left out


def test_a_wall_in_front_hides_what_is_behind(walls, tmp_path):
    with RunWriter(tmp_path / "hidden", {}) as writer:
        for step, depth in enumerate((2.0, 1.0)):
            frame = wall_frame(depth=depth)
            writer.add(frame._replace(stamp_ns=1 + step))
    sparse = colmap(tmp_path / "hidden", tmp_path / "out", fuse=False)
    assert {len(row) for row in rows(sparse / "points3D.txt")} == {10}  # one image each


def test_points_lie_on_one_surface(tmp_path, capsys):
    """Frames of one place, of which each errs by a few percent of the depth."""
    with RunWriter(tmp_path / "run", {}) as writer:
        for step, depth in enumerate((1.9, 2.0, 2.1, 1.95, 2.05)):
            writer.add(wall_frame(depth=depth)._replace(stamp_ns=1 + step))
    spread = []
    for fuse in (True, False):
        sparse = colmap(tmp_path / "run", tmp_path / "out", fuse=fuse)
        spread.append(np.ptp([float(row[1]) for row in rows(sparse / "points3D.txt")]))
    assert spread[0] < 0.2 * spread[1]
    with RunWriter(tmp_path / "run", {}) as writer:
        for step, depth in enumerate((2.0, 1.0)):
            writer.add(wall_frame(depth=depth)._replace(stamp_ns=1 + step))
    colmap(tmp_path / "run", tmp_path / "out")
    assert "no points, since its frames contradict each other" in capsys.readouterr().out


def test_pycolmap_reads_and_adjusts_the_model(walls, tmp_path):
    import pycolmap

    sparse = colmap(walls, tmp_path / "out")
    for form in ("bin", "txt"):
        for file in sparse.glob(f"*.{'txt' if form == 'bin' else 'bin'}"):
            file.rename(file.with_suffix(file.suffix + ".aside"))
        model = pycolmap.Reconstruction(str(sparse))
        assert model.num_reg_images() == 3 and model.compute_mean_reprojection_error() < 1e-6
        before = {image.name: image.projection_center() for image in model.images.values()}
        pycolmap.bundle_adjustment(model, pycolmap.BundleAdjustmentOptions(print_summary=False))
        for image in model.images.values():
            np.testing.assert_allclose(image.projection_center(), before[image.name], atol=1e-4)
        for file in sparse.glob("*.aside"):
            file.rename(file.with_suffix(""))


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

    data, at = (sparse / "points3D.bin").read_bytes(), 8
    for row in rows(sparse / "points3D.txt"):
        *before, length = struct.unpack_from("<Q3d3BdQ", data, at)
        track = struct.unpack_from(f"<{2 * length}i", data, at + 51)
        assert [*before, *track] == [float(word) for word in row]
        at += 51 + 8 * length
    assert at == len(data)


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
            assert len(pixels) > 0
        points = rows(sparse / model / "points3D.txt")
        assert [int(row[0]) for row in points] == list(range(1, len(points) + 1))
        assert {int(view) for row in points for view in row[8::2]} == {*range(1, len(expected) + 1)}
        assert (sparse / model / "images.bin").exists()
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4
    assert sorted(folder.name for folder in sparse.iterdir()) == ["0", "1"]


@pytest.mark.parametrize("content", ["sparse/0/cameras.bin", "notes.txt"])
def test_a_folder_that_is_not_an_export_of_ours_is_refused_and_left_alone(walls, tmp_path, content):
    file = tmp_path / "out" / content
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UserError, match="not empty and no export"):
        colmap(walls, tmp_path / "out")
    assert file.read_text() == "mine" and [*(tmp_path / "out").rglob("*.*")] == [file]


def test_an_export_of_ours_is_replaced_whole(frames, walls, tmp_path):
    numbers = {"segments": [0, 1], "segment_numbers": [0, 1]}
    with RunWriter(tmp_path / "larger", {}) as writer:
        for frame in frames:
            writer.add(frame)
        writer.summarise(numbers)
    colmap(tmp_path / "larger", tmp_path / "out")
    assert (tmp_path / "out" / "sparse" / "1").exists()
    colmap(walls, tmp_path / "out")
    colmap(walls, tmp_path / "fresh")
    files = [sorted(p.relative_to(at) for p in at.rglob("*")) for at in
             (tmp_path / "out", tmp_path / "fresh")]  # fmt: skip
    assert files[0] == files[1] and not list(tmp_path.glob(".*"))


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        colmap(tmp_path, tmp_path / "out")
