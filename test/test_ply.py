# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Clouds as PLY files: readable by others, and with the keyframes that their points move with."""

import numpy as np
import pytest

from vggt_ros.files import read_ply, write_ply
from vggt_ros.geometry import Similarity
from vggt_ros.mapping.cloud.voxels import VoxelMap
from vggt_ros.mapping.corrections import Correction


@pytest.mark.parametrize("confidence", (None, np.array([1.5, 2.5], np.float32)))
def test_ply_reads_back(tmp_path, confidence):
    points = np.array([[1, 2, 3], [-1, 0, 0.5]], np.float32)
    colours = np.array([[255, 0, 1], [2, 3, 4]], np.uint8)
    write_ply(tmp_path / "map.ply", points, colours, confidence)
    head, body = (tmp_path / "map.ply").read_bytes().split(b"end_header\n")
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 2\n")
    fields = [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in ("r", "g", "b")]
    fields += [("confidence", "<f4")] if confidence is not None else []
    rows = np.frombuffer(body, fields)
    np.testing.assert_array_equal(np.stack([rows[n] for n in "xyz"], 1), points)
    np.testing.assert_array_equal(np.stack([rows[n] for n in "rgb"], 1), colours)
    assert [path.name for path in tmp_path.iterdir()] == ["map.ply"]


def test_a_cloud_with_its_owners_is_written_read_and_goes_on_moving(tmp_path):
    points = np.array([[1.5, 0.5, 0.5], [2.5, 0.5, 0.5], [9.5, 0.5, 0.5]], np.float32)
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    confidence = np.array([2.0, 3.0, 4.0], np.float32)
    cloud = VoxelMap(1.0)
    cloud.add(points, colours, confidence, keyframe=np.array([7, -1, 3]), segment=2)
    assert (cloud.count(2), cloud.count(0)) == (3, 0)
    write_ply(tmp_path / "cloud.ply", *cloud.owned_cloud(2))
    columns = read_ply((tmp_path / "cloud.ply").read_bytes())
    owner_at = dict(zip(columns["x"].tolist(), columns["keyframe"].tolist(), strict=True))
    assert owner_at == {1.5: 7, 2.5: -1, 9.5: 3}
    red_at = dict(zip(columns["x"].tolist(), columns["red"].tolist(), strict=True))
    assert red_at == {1.5: 10, 2.5: 40, 9.5: 70}
    up = Similarity(1.0, np.eye(3), np.array([0.0, 0.0, 5.0]))
    cloud.follow(Correction({7: up}, {}))
    heights = {p[0]: p[2] for p in cloud.cloud(2).points.tolist()}
    assert heights == {1.5: 5.5, 2.5: 0.5, 9.5: 0.5}


@pytest.mark.parametrize(
    "content", [b"", b"ply", b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", b"\xff" * 9]
)
def test_only_our_own_ply_is_read(content: bytes):
    with pytest.raises(ValueError):
        read_ply(content)
