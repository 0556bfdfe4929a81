# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of a run: read back as written, moved, and refused by name when damaged."""

import signal

import numpy as np
import pytest
from fakes.planar_engine import EPOCH, frames, planar_engine_of_a_run

from vggt_ros.errors import UserError
from vggt_ros.geometry import Similarity, rotation_from_quaternion, transform, unproject
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


def test_each_frame_is_moved_by_its_own_motion(done, tmp_path):
    before = list(done.frames())
    turn = rotation_from_quaternion(np.array([0.1, -0.2, 0.3, 0.9]))
    motions = [Similarity(2.0, turn, np.array([1.0, 2.0, -3.0])), Similarity.identity()]
    with RunWriter(tmp_path / "new", {}) as writer:
        for frame in before:
            writer.add(frame)
        written = [file.stat().st_mtime_ns for file in open_run(tmp_path / "new").files]
        writer.correct(motions)
        writer.add(before[1])
    new = open_run(tmp_path / "new")
    assert new.files[1].stat().st_mtime_ns == written[1]  # what stays is not written again
    frames, poses = list(new.frames()), new.trajectory().world_from_camera
    assert len(frames) == 3 and new.trajectory().stamps_ns.tolist() == [
        frame.stamp_ns for frame in frames
    ]
    for frame, pose in zip(frames, poses, strict=True):
        np.testing.assert_allclose(frame.world_from_camera, pose, atol=1e-8)
    for old, frame, motion in zip(before, frames[:2], motions, strict=True):
        valid = np.isfinite(old.depth)
        np.testing.assert_array_equal(np.isfinite(frame.depth), valid)
        was, now = (
            transform(f.world_from_camera, unproject(f.depth.astype(float), f.intrinsics))[valid]
            for f in (old, frame)
        )
        np.testing.assert_allclose(now, motion.apply(was), atol=1e-5)
        np.testing.assert_array_equal(frame.confidence, old.confidence)


def test_ctrl_c_is_deferred_while_a_frame_is_written():
    done = []
    with pytest.raises(KeyboardInterrupt), defer_interrupt():
        signal.raise_signal(signal.SIGINT)
        done.append("written")
    assert done == ["written"]
    with pytest.raises(KeyboardInterrupt):  # outside the block it is immediate
        signal.raise_signal(signal.SIGINT)
