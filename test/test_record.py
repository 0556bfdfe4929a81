# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A run on disk is read back as it was written, and what is damaged is named."""

import signal

import numpy as np
import pytest
from rail import EPOCH, Rail, frames

from vggt_ros.errors import UserError
from vggt_ros.geometry import transform, unproject
from vggt_ros.settings import Settings
from vggt_ros.tools.runs.format import POINTS, TRAJECTORY, Run, open_run, read_trajectory
from vggt_ros.tools.runs.job import Job
from vggt_ros.tools.runs.writer import Recorder, tum_line, unbroken
from vggt_ros.tools.sources.source import Source


@pytest.fixture
def done(tmp_path) -> Run:
    """Two frames of a true network."""
    with Recorder(tmp_path / "run", {}) as recorder:
        job = Job(Rail(), Settings(), Source(tmp_path, "list", "", ()), recorder)
        job.drive(frames(2), picture=False, quiet=True)
    return open_run(tmp_path / "run")


def test_a_stamp_survives_text(tmp_path):
    random = np.random.default_rng(0)
    stamps = [1, 10**9 - 1, 10**9, EPOCH, *random.integers(1, 2**62, 50).tolist()]
    path = tmp_path / "t.tum"
    path.write_text("# a comment\n" + "".join(tum_line(stamp, np.eye(4)) for stamp in stamps))
    assert read_trajectory(path).stamps_ns.tolist() == stamps


def test_a_file_that_is_damaged_is_named(done, tmp_path):
    done.files[1].write_bytes(done.files[1].read_bytes()[:100])
    (done.path / POINTS).write_bytes(b"ply\n")
    (done.path / TRAJECTORY).write_text("1.0 0 0\n")
    for read, said in (
        (lambda: done.frame(1), "000001.npz is damaged"),
        (done.cloud, "PLY"),
        (done.trajectory, "trajectory.tum:1"),
        (lambda: open_run(tmp_path), "is not a run"),
    ):
        with pytest.raises(UserError, match=said):
            read()


def test_the_cloud_is_the_frames(done):
    expected = []
    for shot in done.frames():
        camera_points = unproject(shot.depth.astype(float), shot.intrinsics)
        points = transform(shot.world_from_camera, camera_points)
        expected.append(points[np.isfinite(shot.depth)])
    np.testing.assert_allclose(
        np.sort(done.cloud().points, axis=0),
        np.sort(np.concatenate(expected), axis=0),
        rtol=1e-5,
        atol=1e-6,
    )


def test_lengths_on_disk_are_multiplied_frame_by_frame(done, tmp_path):
    before = list(done.frames())
    with Recorder(tmp_path / "new", {}) as recorder:
        for shot in before:
            recorder.add(shot)
        recorder.rescale([2.0, 0.5])
    new = open_run(tmp_path / "new")
    poses = new.trajectory().world_from_camera
    for old, shot, pose, factor in zip(before, new.frames(), poses, (2, 0.5), strict=True):
        np.testing.assert_allclose(shot.depth, factor * old.depth)
        there = factor * old.world_from_camera[:3, 3]
        np.testing.assert_allclose(shot.world_from_camera[:3, 3], there, atol=1e-8)
        np.testing.assert_allclose(shot.world_from_camera, pose, atol=1e-8)
        np.testing.assert_array_equal(shot.confidence, old.confidence)


def test_ctrl_c_waits_for_the_frame_that_is_being_written():
    done = []
    with pytest.raises(KeyboardInterrupt), unbroken():
        signal.raise_signal(signal.SIGINT)
        done.append("written")
    assert done == ["written"]
    with pytest.raises(KeyboardInterrupt):  # outside it does not wait
        signal.raise_signal(signal.SIGINT)
