# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training windows from folders in the Co3D layout: cameras, tracks, broken files."""

import gzip
import json

import numpy as np
import pytest
from training_rig import write_co3d

from vggt_ros.errors import UserError
from vggt_ros.train import co3d


@pytest.fixture
def dataset(tmp_path):
    return write_co3d(tmp_path / "co3d")


def test_views_have_opencv_cameras_and_tracks(dataset):
    sequences = co3d.Sequences(dataset, 0.05)
    rows = sequences.frames[0]
    views = [co3d.read_view(dataset, rows[i], 42, 56) for i in (0, 2)]
    np.testing.assert_allclose(views[1].camera_from_world[:, 3], [-0.2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(views[0].intrinsics[0, 0], 80 * 56 / 64, rtol=1e-5)
    batch = co3d.window_of(views, np.random.default_rng(0), 50)
    shift = batch.tracks[1] - batch.tracks[0]
    np.testing.assert_allclose(shift, np.tile([-8.0 * 56 / 64, 0.0], (50, 1)), atol=1e-3)
    assert batch.visible[0].all() and 0.5 < batch.visible[1].mean() < 1.0
    # unit: the mean distance of points to the first camera
    assert np.linalg.norm(batch.points, axis=-1).mean() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(batch.depth.std(), 0, atol=1e-5)


def test_broken_files_are_reported_counted_and_limited(dataset, capsys):
    (dataset / "wall/seq/3.png").unlink()
    (dataset / "wall/seq/4.depth.png").write_bytes(b"not an image")
    sequences = co3d.Sequences(dataset, 0.5)
    random = np.random.default_rng(0)
    batch = [sequences.window(random, 2, 28, 28, 4) for _ in range(8)][-1]
    assert batch.images.shape == (2, 28, 28, 3) and sequences.bad > 0
    assert "3.png" in capsys.readouterr().out
    for i in range(6):
        (dataset / f"wall/seq/{i}.png").unlink(missing_ok=True)
    with pytest.raises(UserError, match="windows could not be read"):
        sequences.window(random, 2, 28, 28, 4)


def test_a_folder_of_another_layout_is_an_error(tmp_path):
    with pytest.raises(UserError, match="frame_annotations"):
        co3d.Sequences(tmp_path, 0.05)


def test_frames_of_a_sequence_are_in_their_order_however_the_list_has_them(dataset):
    path = dataset / "wall/frame_annotations.jgz"
    rows = json.loads(gzip.decompress(path.read_bytes()))
    for row in rows:
        row["frame_number"] = int(row["image"]["path"].split("/")[-1].split(".")[0])
    path.write_bytes(gzip.compress(json.dumps(rows[::2] + rows[1::2]).encode()))
    (found,) = co3d.Sequences(dataset, 0.05).frames
    assert [row["frame_number"] for row in found] == list(range(len(rows)))


def test_rows_without_what_is_needed_are_named(dataset, capsys):
    path = dataset / "wall/frame_annotations.jgz"
    rows = json.loads(gzip.decompress(path.read_bytes()))
    for row in rows[:-2]:
        del row["depth"]
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    co3d.Sequences(dataset, 0.9).window(np.random.default_rng(0), 2, 28, 28, 4)
    assert "an annotation has no 'depth'" in capsys.readouterr().out
    del rows[0]["sequence_name"]
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    with pytest.raises(UserError, match="a row has no sequence_name"):
        co3d.Sequences(dataset, 0.05)
