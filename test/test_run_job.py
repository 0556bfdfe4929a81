# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A run in progress: refused frames, segments of the map, interruption at any time."""

import numpy as np
import pytest
from fakes.planar_engine import frames, planar_engine_of_a_run

from vggt_ros.settings import Settings
from vggt_ros.timeline import PATIENCE
from vggt_ros.tools.runs.format import open_run
from vggt_ros.tools.runs.job import Job
from vggt_ros.tools.runs.writer import RunWriter
from vggt_ros.tools.sources.source import Source


def test_a_refused_frame_is_counted_and_skipped(tmp_path):
    twice = sorted(frames(6) + frames(3), key=lambda frame: frame.stamp_ns)
    with RunWriter(tmp_path / "out", {}) as writer:
        Job(planar_engine_of_a_run(), Settings(), Source(tmp_path, "list", "", ()), writer).run(
            twice, overview=False, quiet=True
        )
    summary = open_run(tmp_path / "out").summary
    assert (summary["frames"], summary["refused"]) == (6, 3)
    assert "repeats" in summary["faults"][0]


def test_images_of_another_size_start_a_new_segment(tmp_path):
    wide = [f._replace(rgb=np.repeat(f.rgb, 2, 1)) for f in frames(5 + PATIENCE)[4:]]
    with RunWriter(tmp_path / "out", {}) as writer:
        job = Job(planar_engine_of_a_run(), Settings(), Source(tmp_path, "list", "", ()), writer)
        job.run(frames(4), overview=False, quiet=True)
        messages = [line for frame in wide for line in job.step(frame)]
        summary = job.summary(interrupted=True)
    assert (summary["segments"], summary["segment_numbers"]) == ([0, 4], [0, 1])
    assert summary["refused"] == PATIENCE and "size changed" in messages[-1]


def frames_then(count: int, error: BaseException):
    yield from frames(count)
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("device lost")])
def test_results_before_an_interruption_are_kept(tmp_path, error):
    queries = np.array([[30.0, 30.0]], np.float32)
    with RunWriter(tmp_path / "out", {}) as writer:
        job = Job(
            planar_engine_of_a_run(), Settings(), Source(tmp_path, "list", "", ()), writer, queries
        )
        with pytest.raises(type(error)):
            job.run(frames_then(5, error), quiet=True)
    done = open_run(tmp_path / "out")
    assert done.summary["interrupted"] is True and done.summary["frames"] == 5
    assert len(list(done.frames())) == len(done.trajectory().stamps_ns) == 5
    tracks = done.tracks()
    assert tracks is not None and tracks.tracks.shape == (5, 1, 2)
    assert len(done.cloud().points) > 0


def test_a_run_that_was_killed_can_be_opened(tmp_path):
    writer = RunWriter(tmp_path / "out", {"interrupted": True})
    job = Job(planar_engine_of_a_run(), Settings(), Source(tmp_path, "list", "", ()), writer)
    for frame in frames(3):
        job.step(frame)
    names = [tmp_path / "out" / "frames" / f"{i:06d}.npz" for i in (2, 3)]
    names[1].write_bytes(names[0].read_bytes())  # killed before its line was written
    done = open_run(tmp_path / "out")  # neither closed nor finished
    assert done.summary["interrupted"] is True
    assert len(done.files) == len(done.trajectory().stamps_ns) == 3
    writer.__exit__()
