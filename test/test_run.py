# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `vggt run` writes is the truth, on a network that knows it; and stays, whatever ends it."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rail import EPOCH, HEIGHT, STEP, WALL, WIDTH, Rail, frames

from vggt_ros.errors import UserError
from vggt_ros.settings import Settings
from vggt_ros.tools.cli import call
from vggt_ros.tools.run import run
from vggt_ros.tools.runs.format import Run, open_run
from vggt_ros.tools.runs.job import Job
from vggt_ros.tools.runs.writer import Recorder
from vggt_ros.tools.sources.source import Source


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve pictures, named by their nanoseconds."""
    path = tmp_path / "pictures"
    path.mkdir()
    for frame in frames(12):
        Image.fromarray(frame.rgb).save(path / f"{frame.stamp_ns}.png")
    return path


@pytest.fixture
def rail(monkeypatch) -> Rail:
    """The network that every `run` of this test opens."""
    engine = Rail()
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", lambda *_, **__: engine)
    return engine


def go(source: Path, out: Path, **options: Any) -> Run:
    """`run` without what only people look at."""
    return run(source, out, **{"picture": False, "quiet": True, **options})


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---- what is written


def test_the_trajectory_is_the_truth_to_the_nanosecond(folder, rail, tmp_path):
    go(folder, tmp_path / "out")
    lines = (tmp_path / "out" / "trajectory.tum").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [
        f"1700000000.{123_456_789 + i * 33_333_333:09d}" for i in range(12)
    ]
    numbers = np.array([line.split()[1:] for line in lines], float)
    unit = np.linalg.norm(numbers[1, :3]) / STEP
    along_y = np.arange(12)[:, None] * [0, -STEP * unit, 0]  # right of the camera is -y
    np.testing.assert_allclose(numbers[:, :3], along_y, atol=1e-5)
    np.testing.assert_allclose(numbers[:, 3:], [[-0.5, 0.5, -0.5, 0.5]] * 12, atol=1e-6)


def test_a_frame_holds_what_was_promised(folder, rail, tmp_path):
    out = tmp_path / "out"
    trajectory = go(folder, out).trajectory()
    assert [p.name for p in sorted((out / "frames").iterdir())] == [
        f"{i:06d}.npz" for i in range(12)
    ]
    unit = np.linalg.norm(trajectory.world_from_camera[1, :3, 3]) / STEP
    for i in range(12):
        with np.load(out / "frames" / f"{i:06d}.npz") as shot:
            assert set(shot.files) == set(
                "depth confidence intrinsics world_from_camera stamp_ns image".split()
            )
            assert shot["depth"].dtype == shot["confidence"].dtype == np.float32
            assert shot["image"].dtype == np.uint8 and shot["stamp_ns"].dtype == np.int64
            assert shot["image"].shape == (HEIGHT, WIDTH, 3) and shot["image"][0, 0, 0] == i
            assert np.isnan(shot["depth"][:7]).all() and (shot["confidence"][:7] == 1).all()
            np.testing.assert_allclose(shot["depth"][7:], WALL * unit, rtol=1e-5)
            k = [[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1]]
            np.testing.assert_allclose(shot["intrinsics"], k, rtol=1e-6)
            np.testing.assert_allclose(
                shot["world_from_camera"], trajectory.world_from_camera[i], atol=1e-7
            )
            assert shot["stamp_ns"] == trajectory.stamps_ns[i] == EPOCH + i * 33_333_333


def test_the_cloud_is_the_wall_in_its_colours(folder, rail, tmp_path):
    done = go(folder, tmp_path / "out")
    unit = np.linalg.norm(done.trajectory().world_from_camera[1, :3, 3]) / STEP
    cloud = done.cloud()
    assert len(cloud.points) == done.summary["points"] == 12 * WIDTH * (HEIGHT - 7)
    np.testing.assert_allclose(cloud.points[:, 0], WALL * unit, rtol=1e-5)
    assert set(cloud.colours[:, 1].tolist()) >= {50, 90}
    assert (cloud.confidence == 4).all()


def test_the_cloud_is_no_larger_than_asked_for(folder, rail, tmp_path):
    done = go(folder, tmp_path / "out", max_points=1000)
    assert 980 < len(done.cloud().points) <= 1000


def test_the_summary_says_what_was_run(folder, rail, tmp_path):
    summary = go(folder, tmp_path / "out", window_size=3, every=2, picture=True).summary
    assert summary["frames"] == 6 and summary["looks"] == 6 and summary["refused"] == 0
    assert summary["scale"] == {"metric": False, "source": "none"}
    assert summary["model"] == "rail" and summary["random_weights"] is False
    assert summary["source"]["stamps"] == "file names (ns)"
    assert summary["times"]["first_stamp_ns"] == EPOCH
    assert summary["interrupted"] is False and summary["segments"] == [0]
    assert (tmp_path / "out" / "picture.png").stat().st_size > 1000


def test_frames_written_before_the_scale_was_known_follow_it(folder, rail, tmp_path):
    plain = go(folder, tmp_path / "plain")
    rail.looks = 0
    scaled = go(folder, tmp_path / "out", scale_source="fixed", fixed_scale=3.0)
    assert scaled.summary["scale"]["metric"] is True
    assert scaled.summary["scale"]["source"] == "fixed"
    before, after = plain.trajectory(), scaled.trajectory()
    assert after.stamps_ns.tolist() == before.stamps_ns.tolist()
    np.testing.assert_allclose(
        after.world_from_camera[:, :3, 3], 3 * before.world_from_camera[:, :3, 3], atol=1e-5
    )
    for a, b, pose in zip(scaled.frames(), plain.frames(), after.world_from_camera, strict=True):
        np.testing.assert_allclose(a.depth, 3 * b.depth, rtol=1e-5)
        np.testing.assert_allclose(a.world_from_camera, pose, atol=1e-6)


def test_queries_are_followed_through_every_frame(folder, rail, tmp_path):
    start = [[100.0, 20.0], [60.5, 41.25], [0.0, 0.0]]
    queries = write(tmp_path / "q.json", start)
    tracks = go(folder, tmp_path / "out", queries=queries).tracks()
    assert tracks is not None and tracks.tracks.shape == (12, 3, 2)
    moved = np.arange(12)[:, None, None] * [-2 * WIDTH * STEP / WALL, 0]  # the camera's pixels
    np.testing.assert_allclose(tracks.tracks, np.array(start) + moved, atol=1e-3)
    assert (tracks.visibility == 0.75).all() and (tracks.confidence == 0.5).all()


def test_without_queries_there_are_no_tracks(folder, rail, tmp_path):
    assert go(folder, tmp_path / "out", max_frames=2).tracks() is None


def test_frames_that_no_look_reached_are_counted(folder, rail, tmp_path):
    summary = go(folder, tmp_path / "out", window_size=4, stride=3).summary
    assert summary["frames"] + summary["unseen"] == 12


def test_a_refused_frame_is_counted_and_the_run_goes_on(tmp_path):
    twice = sorted(frames(6) + frames(3), key=lambda frame: frame.stamp_ns)
    with Recorder(tmp_path / "out", {}) as recorder:
        Job(Rail(), Settings(), Source(tmp_path, "list", "", ()), recorder).drive(
            twice, picture=False, quiet=True
        )
    summary = open_run(tmp_path / "out").summary
    assert (summary["frames"], summary["refused"]) == (6, 3)
    assert "repeats" in summary["faults"][0]


def test_pictures_of_another_size_begin_a_new_piece_of_map(tmp_path):
    wide = [f._replace(rgb=np.repeat(f.rgb, 2, 1)) for f in frames(8)[4:]]
    with Recorder(tmp_path / "out", {}) as recorder:
        job = Job(Rail(), Settings(), Source(tmp_path, "list", "", ()), recorder)
        job.drive(frames(4), picture=False, quiet=True)
        job.pipeline.engine.look = job.engine.look  # the fake is as tall for any picture
        heard = [line for frame in wide[:1] for line in job.step(frame)]
    assert job.segments == [0, 4]
    assert "size changed" in heard[0]


# ---- what ends a run


def endless(count: int, error: BaseException):
    yield from frames(count)
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("device lost")])
def test_what_was_done_by_then_stays(tmp_path, error):
    queries = np.array([[30.0, 30.0]], np.float32)
    with Recorder(tmp_path / "out", {}) as recorder:
        job = Job(Rail(), Settings(), Source(tmp_path, "list", "", ()), recorder, queries)
        with pytest.raises(type(error)):
            job.drive(endless(5, error), quiet=True)
    done = open_run(tmp_path / "out")
    assert done.summary["interrupted"] is True and done.summary["frames"] == 5
    assert len(list(done.frames())) == len(done.trajectory().stamps_ns) == 5
    tracks = done.tracks()
    assert tracks is not None and tracks.tracks.shape == (5, 1, 2)
    assert len(done.cloud().points) > 0


def test_a_full_disk_is_one_line_and_keeps_what_fitted(tmp_path, folder, rail, monkeypatch):
    savez = np.savez

    def full(file, **arrays):
        if arrays["stamp_ns"] > EPOCH + 6 * 33_333_333:
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"000007.npz.*No space left") as caught:
        go(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    done = open_run(tmp_path / "out")
    assert done.summary["interrupted"] is True and len(done.files) == 7
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_run_that_was_killed_is_still_a_run(tmp_path):
    recorder = Recorder(tmp_path / "out", {"interrupted": True})
    job = Job(Rail(), Settings(), Source(tmp_path, "list", "", ()), recorder)
    for frame in frames(3):
        job.step(frame)
    names = [tmp_path / "out" / "frames" / f"{i:06d}.npz" for i in (2, 3)]
    names[1].write_bytes(names[0].read_bytes())  # killed before its line was written
    done = open_run(tmp_path / "out")  # nothing was closed or finished
    assert done.summary["interrupted"] is True
    assert len(done.files) == len(done.trajectory().stamps_ns) == 3
    recorder.__exit__()


# ---- what is refused


def test_another_persons_directory_is_left_alone(folder, rail, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    letter = write(out / "letter.txt", "dear")
    with pytest.raises(UserError, match="--overwrite"):
        go(folder, out)
    go(folder, out, overwrite=True)
    assert letter.read_text() == "dear"


def test_a_run_may_be_replaced_and_leaves_nothing_of_the_old_one(folder, rail, tmp_path):
    out, queries = tmp_path / "out", write(tmp_path / "q.json", [[5, 5]])
    go(folder, out, queries=queries)
    again = go(folder, out, max_frames=3)
    assert len(again.files) == 3 and again.tracks() is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[[1, 2", "JSON"),
        ([1, 2], "JSON list"),
        ([[1, 2, 3]], "JSON list"),
        ([], "JSON list"),
        ([[1, "a"]], "JSON list"),
        ([[1, None]], "JSON list"),
        ([[5, 84]], "outside the first image of 112x84"),
        ([[-1, 5]], "outside the first image"),
    ],
)
def test_queries_that_cannot_be_are_refused(folder, rail, tmp_path, content, said):
    queries = write(tmp_path / "q.json", content)
    with pytest.raises(UserError, match=said):
        go(folder, tmp_path / "out", queries=queries)


def test_what_cannot_be_is_refused_before_the_network_is_opened(folder, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", never)
    locked = write(tmp_path / "file", "")
    for options, said in (
        ({"out": folder}, "source itself"),
        ({"out": locked}, "is a file"),
        ({"out": locked / "below"}, "cannot write"),
        ({"out": tmp_path / "out", "stride": 9}, "stride"),
        ({"out": tmp_path / "out", "scale_source": "odometry"}, "needs a robot"),
        ({"out": tmp_path / "out", "queries": tmp_path / "none.json"}, "cannot read"),
    ):
        with pytest.raises(UserError, match=said):
            go(folder, **options)


def test_random_weights_are_called_noise(folder, rail, tmp_path, capsys):
    rail.random_weights = True
    go(folder, tmp_path / "out", quiet=False)
    assert capsys.readouterr().err.count("rail has random weights: its geometry is noise") == 1


# ---- with the real network


def test_the_command_runs_the_real_network(folder, tmp_path, capsys):
    out = tmp_path / "out"
    line = f"run {folder} --out {out} --window-size 1 --network-width 28 --max-frames 2 --quiet"
    line += " --model tiny --no-picture --cache-dir None"
    assert call(line.split()) == 0, capsys.readouterr().err
    done = open_run(out)
    assert done.summary["model"] == "tiny" and done.summary["random_weights"] is True
    for shot in done.frames():
        assert shot.depth.shape == shot.confidence.shape == (28, 28)
        assert not (shot.depth <= 0).any()  # untrained depth is anything, else it is NaN
        np.testing.assert_allclose(np.linalg.det(shot.world_from_camera), 1, atol=1e-5)
