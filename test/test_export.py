# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Runs in the formats of other programs, read back by their libraries or by their conventions."""

import json
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evo.tools import file_interface
from PIL import Image
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from run_frames import wall_frame

from vggt_ros.errors import UserError
from vggt_ros.geometry import rotation_from_quaternion
from vggt_ros.imaging.fit import Fit
from vggt_ros.ros.interface import OUTPUTS
from vggt_ros.tools.cli import call
from vggt_ros.tools.colmap import colmap
from vggt_ros.tools.export import export
from vggt_ros.tools.exports.ros_messages import POINT
from vggt_ros.tools.runs.format import open_run, read_ply
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


def matrix(message) -> np.ndarray:
    """Parent from child, of a TransformStamped."""
    move, turn = message.transform.translation, message.transform.rotation
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quaternion(np.array([turn.x, turn.y, turn.z, turn.w]))
    pose[:3, 3] = move.x, move.y, move.z
    return pose


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
    scene: Any = trimesh.load(out)
    clouds = [g for g in scene.geometry.values() if isinstance(g, trimesh.PointCloud)]
    (cloud,) = clouds
    assert len(scene.geometry) == 1 + 3
    vertices = np.asarray(cloud.vertices)
    world = vertices @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).T  # back to z up
    assert len(vertices) <= 3000 and np.allclose(world[:, 0], 2.0, atol=1e-5)
    assert (np.asarray(cloud.colors)[:, :3] == 200).all()
    assert world[:, 2].max() > 1.2 and world[:, 2].min() < 0.8  # around the camera's height, one


def test_a_bag_has_the_node_s_topics_and_is_read_by_rosbags_and_by_the_player(made, tmp_path):
    out = export(made, tmp_path / "out", to="rosbag2", fuse=False)
    store, found = get_typestore(Stores.ROS2_JAZZY), defaultdict(list)
    with AnyReader([out], default_typestore=store) as reader:
        for connection, time, raw in reader.messages():
            found[connection.topic].append((time, store.deserialize_cdr(raw, connection.msgtype)))
    promised = {topic.name.replace("~", "/vggt"): topic.kind for topic in OUTPUTS}
    kinds = {topic: messages[0][1].__msgtype__ for topic, messages in found.items()}
    assert {topic: promised[topic] for topic in kinds if "/vggt" in topic}.items() <= kinds.items()
    assert set(kinds) >= {"/tf", "/tf_static", "/vggt/points", "/vggt/odometry", "/vggt/path"}
    run = open_run(made)
    frames = run.segment(0)
    assert len(found["/vggt/path"][0][1].poses) == len(found["/tf"]) == len(frames)
    for number, index in enumerate(frames):
        frame = run.frame(index)
        time, image = found["/vggt/depth/image"][number]
        stamp = image.header.stamp
        assert time == stamp.sec * 10**9 + stamp.nanosec == frame.stamp_ns
        depth = np.frombuffer(image.data, np.float32).reshape(image.height, image.width)
        np.testing.assert_array_equal(depth, frame.depth)
        info = found["/vggt/depth/camera_info"][number][1]
        np.testing.assert_array_equal(info.k.reshape(3, 3), frame.intrinsics)
        tree = {t.child_frame_id: t for t in found["/tf"][number][1].transforms}
        base, camera = (matrix(tree[name]) for name in ("base_link", "camera_optical_frame"))
        np.testing.assert_allclose(base @ camera, frame.world_from_camera, atol=1e-9)
        np.testing.assert_allclose(base[:3, 2], [0, 0, 1], atol=1e-12)  # level
        cloud = found["/vggt/points"][number][1]
        assert cloud.header.frame_id == "camera_optical_frame" and cloud.point_step == 20
        points = np.frombuffer(cloud.data, POINT).reshape(image.height, image.width)
        np.testing.assert_allclose(points["z"], frame.depth, rtol=1e-6)
        assert (points["rgb"][0] == 0xC8C8C8).all()
    (static,) = found["/tf_static"][0][1].transforms
    assert (static.header.frame_id, static.child_frame_id) == ("map", "odom")
    text = (out / "metadata.yaml").read_text()
    assert "transient_local" in text or "durability: 1" in text


@pytest.mark.ros
def test_the_demo_s_player_plays_an_exported_bag(made, tmp_path):
    from vggt_ros.ros.harness.player import read, scheduled, topics_of

    out, notes = export(made, tmp_path / "out", to="rosbag2"), []
    played = list(scheduled([read(out, notes)], 10**18))
    assert not notes and {m.topic for m in played} == set(topics_of(out))
    assert all(m.stamped for m in played if m.topic == "/vggt/points")


def test_a_bag_of_metres_has_a_scan_and_one_without_says_so(made, tmp_path, capsys):
    export(made, tmp_path / "out", to="rosbag2", fuse=False)
    assert "units are arbitrary" in capsys.readouterr().out
    summary = json.loads((made / "summary.json").read_text())
    summary |= {"scale": {"metric": True, "source": "height"}, "settings": {"camera_height": 1.0}}
    (made / "summary.json").write_text(json.dumps(summary))
    out = export(made, tmp_path / "out", to="rosbag2", fuse=False)
    assert "units are arbitrary" not in capsys.readouterr().out
    store = get_typestore(Stores.ROS2_JAZZY)
    with AnyReader([out], default_typestore=store) as reader:
        wanted = [c for c in reader.connections if c.topic == "/vggt/scan"]
        scans: list[Any] = [
            store.deserialize_cdr(raw, c.msgtype) for c, _, raw in reader.messages(wanted)
        ]
    assert len(scans) == 3 and scans[0].header.frame_id == "base_link"
    ahead = scans[0].ranges[len(scans[0].ranges) // 2]
    assert ahead == pytest.approx(2.0, abs=0.1)  # the wall


def test_what_was_masked_is_a_mask_file_where_programs_look_for_it(made, tmp_path, capsys):
    frames = made / "frames"
    for path in frames.iterdir():
        with np.load(path) as file:
            arrays = dict(file)
        arrays["confidence"][:10, :5] = 0.0  # grid pixels; two of the image each
        arrays["depth"][:10, :5] = np.nan
        np.savez(path, **arrays)
    out = export(made, tmp_path / "nerf", to="nerfstudio")
    rows = json.loads((out / "transforms.json").read_text())["frames"]
    for row in rows:
        with Image.open(out / row["mask_path"]) as mask:
            pixels = np.array(mask)
        assert pixels.shape == (60, 80) and set(np.unique(pixels)) == {0, 255}
        assert (pixels[:20, :10] == 0).all() and (pixels == 0).sum() <= 21 * 11
    with np.load(frames / "000001.npz") as file:
        arrays = dict(file) | {"confidence": np.full((30, 40), 5, np.float32)}
    np.savez(frames / "000001.npz", **arrays)  # nothing is ignored of this image
    out = export(made, tmp_path / "nerf", to="nerfstudio")
    rows = json.loads((out / "transforms.json").read_text())["frames"]
    assert all("mask_path" in row for row in rows)  # nerfstudio takes masks of all, or of none
    masks = [np.asarray(Image.open(out / row["mask_path"])) for row in rows]
    assert [bool((mask == 0).any()) for mask in masks] == [True, False, True]
    assert masks[1].shape == (60, 80)
    colmap(made, tmp_path / "colmap", depth=True, fuse=False)
    assert "masks of 3 images" in capsys.readouterr().out
    for name in ("right/0.png", "left/3.png"):
        with Image.open(tmp_path / "colmap" / "masks" / f"{name}.png") as mask:
            assert mask.size == (80, 60)
    params = json.loads((tmp_path / "colmap/sparse/0/depth_params.json").read_text())
    assert set(params) == {"right/0", "left/1", "right/2"}
    run = open_run(made)
    for index, (name, row) in enumerate(params.items()):
        with Image.open(tmp_path / "colmap" / "depths" / f"{name}.png") as file:
            steps = np.array(file).astype(float)
        depth = 1 / np.where(steps > 0, steps / 65536 * row["scale"] + row["offset"], np.nan)
        expected = run.frame(index).depth
        assert np.isnan(depth).any() and np.nanmedian(expected) == pytest.approx(
            np.nanmedian(depth), rel=1e-3
        )


@pytest.mark.skipif(not find_spec("open3d"), reason="a mesh needs the extra [mesh]")
def test_a_mesh_is_the_wall_and_is_read_by_open3d_and_trimesh(made, tmp_path):
    import open3d  # pyright: ignore[reportMissingImports]
    import trimesh

    for name in ("wall.ply", "wall.glb"):
        out = export(made, tmp_path / name, to="mesh", fuse=False)
        if name == "wall.ply":  # of its own GLB, which others read, it says that it is cut
            assert len(open3d.io.read_triangle_mesh(str(out)).triangles) > 1000
        mesh: Any = trimesh.load(out, force="mesh")
        assert len(mesh.faces) > 1000
        assert np.abs(np.asarray(mesh.vertices)[:, 0] - 2.0).max() < 0.02
        assert [path.name for path in tmp_path.glob("*wall*")].count(name) == 1


def test_a_mesh_without_its_library_is_refused_in_one_sentence(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(UserError, match=r"open3d is missing; install it .*mesh"):
        export(made, tmp_path / "wall.ply", to="mesh")
    with pytest.raises(UserError, match="no name of a mesh file"):
        export(made, tmp_path / "wall", to="mesh")
    assert not list(tmp_path.glob("*wall*"))


def test_a_segment_is_chosen_and_the_others_are_said(made, tmp_path, capsys):
    line = f"export {made} --to kitti --out {tmp_path / 'out'} --segment 1"
    assert call(line.split()) == 0
    assert "segment 1 of 2 that nothing ties together" in capsys.readouterr().out
    assert len((tmp_path / "out" / "poses.txt").read_text().splitlines()) == 1
    with pytest.raises(UserError, match="no segment 2"):
        export(made, tmp_path / "out", to="kitti", segment=2)


def test_frames_that_are_in_no_export_are_counted(made, tmp_path, capsys):
    summary = json.loads((made / "summary.json").read_text())
    parts = {"segments": [0], "segment_numbers": [0], "uncertain_frames": [1]}
    (made / "summary.json").write_text(json.dumps(summary | parts))
    export(made, tmp_path / "out", to="kitti")
    text = capsys.readouterr().out
    assert "1 of 4 frames of the run are uncertain, and left out" in text and "3 poses" in text


def test_places_that_do_not_fit_are_refused(made, tmp_path):
    with pytest.raises(UserError, match="NAME.glb"):
        export(made, tmp_path / "out", to="glb")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="not empty and no export"):
        export(made, tmp_path / "mine", to="kitti")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["file"]
    (tmp_path / "mine" / "sparse").mkdir()
    with pytest.raises(UserError, match="early version have no vggt.json: delete such a folder"):
        export(made, tmp_path / "mine", to="kitti")


@pytest.mark.parametrize("to", ["kitti", "colmap"])
def test_a_link_to_a_folder_is_followed_each_time(made, tmp_path, to):
    """The folder may be on a larger disk."""
    (tmp_path / "large").mkdir()
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "large", target_is_directory=True)
    for _ in range(2):
        colmap(made, link) if to == "colmap" else export(made, link, to="kitti")
        assert link.is_symlink() and (tmp_path / "large" / "vggt.json").is_file()
        assert {path.name for path in tmp_path.iterdir()} == {"in", "run", "large", "out"}


@pytest.mark.parametrize("place", [".", "..", "../there", "/"])
def test_a_folder_with_the_working_directory_in_it_is_not_replaced(
    made, tmp_path, place, monkeypatch
):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    for write in (lambda out: export(made, out, to="kitti"), lambda out: colmap(made, out)):
        with pytest.raises(UserError, match="working directory is in it; name a"):
            write(Path(place))
    assert not list(Path.cwd().iterdir())
    colmap(made, Path("../there/../beside"))
    assert {path.name for path in tmp_path.iterdir()} == {"in", "run", "there", "beside"}


@pytest.mark.parametrize("to", ["nerfstudio", "rosbag2", "glb", "mesh"])
def test_what_cannot_be_written_is_said_before_the_long_work(made, tmp_path, to, monkeypatch):
    def fused(*_):
        raise AssertionError("began")

    monkeypatch.setattr("vggt_ros.tools.export.fused", fused)
    monkeypatch.setitem(sys.modules, "open3d", None)
    (tmp_path / "file").touch()
    out = tmp_path / "wall.ply" if to == "mesh" else tmp_path / "file"
    with pytest.raises(UserError, match="is a file|no name of a GLB file|open3d is missing"):
        export(made, out, to=to)


def test_a_library_that_adjusting_lacks_is_said_before_the_network_is_opened(
    made, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(UserError, match="pycolmap is missing; install it"):
        colmap(made, tmp_path / "out", adjust=True)  # a run without a model could not open one
    assert not (tmp_path / "out").exists()
