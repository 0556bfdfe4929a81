# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Runs in the formats of other programs, read back by their libraries or by their conventions."""

import json
from pathlib import Path

import numpy as np
import pytest
from evo.tools import file_interface
from PIL import Image
from run_frames import wall_frame

from vggt_ros.errors import UserError
from vggt_ros.imaging.fit import Fit
from vggt_ros.tools.cli import call
from vggt_ros.tools.export import export
from vggt_ros.tools.runs.format import read_ply
from vggt_ros.tools.runs.whole_images import depth_on_image
from vggt_ros.tools.runs.writer import RunWriter


@pytest.fixture
def made(tmp_path) -> Path:
    """Three cameras before a wall two units ahead of the first; a fourth is a segment of its own.

    Their photos have twice the pixels of the grid, and are in two sub-folders.
    """
    source = tmp_path / "in"
    with RunWriter(tmp_path / "run", {}) as writer:
        for i in range(4):
            name = f"{'left' if i % 2 else 'right'}/{i}.png"
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 60), (i, 0, 0)).save(source / name)
            frame = wall_frame(0.3 * i, depth=2.0 - 0.3 * i)._replace(
                stamp_ns=1_700_000_000_000_000_001 + i * 500_000_000,
                name=name,
                input_size=np.array([80, 60]),
                input_from_grid=np.array([[2.0, 0, 0.5], [0, 2.0, 0.5], [0, 0, 1]]),
            )
            frame.depth[:3] = np.nan
            writer.add(frame)
        parts = {"segments": [0, 3], "segment_numbers": [0, 1]}
        writer.summarise(parts | {"source": {"path": str(source), "kind": "images"}})
    return tmp_path / "run"


def test_nerfstudio_s_cameras_see_the_points_where_the_images_and_depths_have_them(made, tmp_path):
    out = export(made, tmp_path / "out", to="nerfstudio")
    document = json.loads((out / "transforms.json").read_text())
    assert [row["file_path"] for row in document["frames"]] == [
        "images/right/0.png", "images/left/1.png", "images/right/2.png"
    ]  # fmt: skip
    points = read_ply(out / document["ply_file_path"]).points.astype(float)
    assert len(points) > 1000 and np.ptp(points[:, 0]) < 1e-5  # the wall
    for row in document["frames"]:
        with Image.open(out / row["file_path"]) as image:
            assert image.size == (row["w"], row["h"]) == (80, 60)
        opengl_from_world = np.linalg.inv(np.array(row["transform_matrix"]))
        x, y, z = (points @ opengl_from_world[:3, :3].T + opengl_from_world[:3, 3]).T
        u, v = row["fl_x"] * x / -z + row["cx"], row["fl_y"] * -y / -z + row["cy"]
        seen = (z < 0) & (u > 0) & (u < 80) & (v > 0) & (v < 60)
        assert seen.mean() > 0.5
        depth = np.load(out / row["depth_file_path"])
        rows, columns = ((v / 60 * len(depth)).astype(int), (u / 80 * depth.shape[1]).astype(int))
        found = depth[rows[seen], columns[seen]]
        known = found > 0
        assert known.mean() > 0.9
        np.testing.assert_allclose(found[known], -1000 * z[seen][known], rtol=1e-4)


def test_depth_has_the_shape_of_the_image_whether_the_grid_pads_or_cuts_it():
    for kind in ("pad", "crop"):
        for size in ((60, 80), (160, 60)):
            grid = Fit(kind, 56, 42).grid(*size)
            frame = wall_frame()
            depth = np.arange(56 * 42, dtype=np.float32).reshape(42, 56)
            depth[~grid.valid if grid.valid is not None else np.zeros((42, 56), bool)] = np.nan
            found = depth_on_image(
                frame._replace(depth=depth),
                grid.input_from_network,
                size,
            )
            assert abs(found.shape[1] / found.shape[0] / (size[0] / size[1]) - 1) < 0.05
            assert np.isfinite(found).all() == (kind == "pad")
            assert np.isfinite(found).sum() == np.isfinite(depth).sum()


def test_kitti_poses_are_read_by_evo(made, tmp_path):
    out = export(made, tmp_path / "out", to="kitti")
    poses = np.array(file_interface.read_kitti_poses_file(str(out / "poses.txt")).poses_se3)
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(poses[:, :3, 3], [[0, 0, 0.3 * i] for i in range(3)], atol=1e-9)
    assert (out / "times.txt").read_text().split() == ["0.000000000", "0.500000000", "1.000000000"]


def test_a_glb_is_read_by_trimesh_y_up_with_its_cameras(made, tmp_path):
    import trimesh

    out = export(made, tmp_path / "deep" / "out.glb", to="glb", max_points=3000)
    scene = trimesh.load(out)
    clouds = [g for g in scene.geometry.values() if isinstance(g, trimesh.PointCloud)]
    (cloud,) = clouds
    assert len(scene.geometry) == 1 + 3
    vertices = np.asarray(cloud.vertices)
    world = vertices @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).T  # back to z up
    assert len(vertices) <= 3000 and np.allclose(world[:, 0], 2.0, atol=1e-5)
    assert (np.asarray(cloud.colors)[:, :3] == 200).all()
    assert world[:, 2].max() > 1.2 and world[:, 2].min() < 0.8  # around the camera's height, one


def test_a_segment_is_chosen_and_the_others_are_said(made, tmp_path, capsys):
    line = f"export {made} --to kitti --out {tmp_path / 'out'} --segment 1"
    assert call(line.split()) == 0
    assert "segment 1 of 2 that nothing ties together" in capsys.readouterr().out
    assert len((tmp_path / "out" / "poses.txt").read_text().splitlines()) == 1
    with pytest.raises(UserError, match="no segment 2"):
        export(made, tmp_path / "out", to="kitti", segment=2)


def test_places_that_do_not_fit_are_refused(made, tmp_path):
    with pytest.raises(UserError, match="NAME.glb"):
        export(made, tmp_path / "out", to="glb")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="not empty and no export"):
        export(made, tmp_path / "mine", to="kitti")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["file"]
