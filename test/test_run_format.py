# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of a run: read back as written, rescaled, and refused by name when damaged."""

import signal

import numpy as np
import pytest
from fakes.planar_engine import EPOCH, frames, planar_engine_of_a_run

from vggt_ros.errors import UserError
from vggt_ros.geometry import transform, unproject
from vggt_ros.settings import Settings
from vggt_ros.tools.runs.format import POINTS, TRAJECTORY, Run, open_run, read_trajectory
from vggt_ros.tools.runs.job import Job
from vggt_ros.tools.runs.writer import RunWriter, defer_interrupt, tum_line
from vggt_ros.tools.sources.source import Source


@pytest.fixture
def done(tmp_path) -> Run:
    """A run of two frames of an exact network."""
    with RunWriter(tmp_path / "run", {}) as writer:
        job = Job(planar_engine_of_a_run(), Settings(), Source(tmp_path, "list", "", ()), writer)
        job.run(frames(2), overview=False, quiet=True)
    return open_run(tmp_path / "run")


def test_stamps_are_exact_in_a_text_file(tmp_path):
    random = np.random.default_rng(0)
    stamps = [1, 10**9 - 1, 10**9, EPOCH, *random.integers(1, 2**62, 50).tolist()]
    path = tmp_path / "t.tum"
    path.write_text("# a comment\n" + "".join(tum_line(stamp, np.eye(4)) for stamp in stamps))
    assert read_trajectory(path).stamps_ns.tolist() == stamps


def test_a_damaged_file_is_named(done, tmp_path):
    done.files[1].write_bytes(done.files[1].read_bytes()[:100])
    (done.path / POINTS).write_bytes(b"ply\n")
    (done.path / TRAJECTORY).write_text("1.0 0 0\n")
    for read, message in (
        (lambda: done.frame(1), "000001.npz is damaged"),
        (done.cloud, "PLY"),
        (done.trajectory, "trajectory.tum:1"),
        (lambda: open_run(tmp_path), "is not a run"),
    ):
        with pytest.raises(UserError, match=message):
            read()


def test_the_cloud_holds_the_points_of_all_frames(done):
    expected = []
    for frame in done.frames():
        camera_points = unproject(frame.depth.astype(float), frame.intrinsics)
        points = transform(frame.world_from_camera, camera_points)
        expected.append(points[np.isfinite(frame.depth)])
    np.testing.assert_allclose(
        np.sort(done.cloud().points, axis=0),
        np.sort(np.concatenate(expected), axis=0),
        rtol=1e-5,
        atol=1e-6,
    )


def test_rescaling_multiplies_the_lengths_of_each_frame(done, tmp_path):
    before = list(done.frames())
    with RunWriter(tmp_path / "new", {}) as writer:
        for frame in before:
            writer.add(frame)
        writer.rescale([2.0, 0.5])
    new = open_run(tmp_path / "new")
    poses = new.trajectory().world_from_camera
    for old, frame, pose, factor in zip(before, new.frames(), poses, (2, 0.5), strict=True):
        np.testing.assert_allclose(frame.depth, factor * old.depth)
        there = factor * old.world_from_camera[:3, 3]
        np.testing.assert_allclose(frame.world_from_camera[:3, 3], there, atol=1e-8)
        np.testing.assert_allclose(frame.world_from_camera, pose, atol=1e-8)
        np.testing.assert_array_equal(frame.confidence, old.confidence)


def test_ctrl_c_is_deferred_while_a_frame_is_written():
    done = []
    with pytest.raises(KeyboardInterrupt), defer_interrupt():
        signal.raise_signal(signal.SIGINT)
        done.append("written")
    assert done == ["written"]
    with pytest.raises(KeyboardInterrupt):  # outside the block it is immediate
        signal.raise_signal(signal.SIGINT)
