# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt run` with an exact network: files of a run, interruption, refusals."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.planar_engine import (
    DEPTH,
    EPOCH,
    HEIGHT,
    STEP,
    WIDTH,
    PlanarEngine,
    planar_engine_of_a_run,
    write_frames,
)
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights, save
from vggt_ros.tools.cli import call
from vggt_ros.tools.run import run
from vggt_ros.tools.runs.format import Run, open_run


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images, named by their nanoseconds."""
    return write_frames(tmp_path / "images", 12)


@pytest.fixture
def planar_engine(monkeypatch) -> PlanarEngine:
    """The network that every `run` of the test opens."""
    engine = planar_engine_of_a_run()
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", lambda *_, **__: engine)
    return engine


def run_quietly(source: Path, out: Path, **options: Any) -> Run:
    """`run` without overview image and messages."""
    return run(source, out, **{"picture": False, "quiet": True, **options})


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---- files


def test_the_trajectory_equals_the_true_motion_and_stamps(folder, planar_engine, tmp_path):
    run_quietly(folder, tmp_path / "out")
    lines = (tmp_path / "out" / "trajectory.tum").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [
        f"1700000000.{123_456_789 + i * 33_333_333:09d}" for i in range(12)
    ]
    numbers = np.array([line.split()[1:] for line in lines], float)
    unit = np.linalg.norm(numbers[1, :3]) / STEP
    along_y = np.arange(12)[:, None] * [0, -STEP * unit, 0]  # the camera moves to its right, -y
    np.testing.assert_allclose(numbers[:, :3], along_y, atol=1e-5)
    np.testing.assert_allclose(numbers[:, 3:], [[-0.5, 0.5, -0.5, 0.5]] * 12, atol=1e-6)


def test_a_frame_file_has_the_documented_arrays(folder, planar_engine, tmp_path):
    out = tmp_path / "out"
    trajectory = run_quietly(folder, out).trajectory()
    assert [p.name for p in sorted((out / "frames").iterdir())] == [
        f"{i:06d}.npz" for i in range(12)
    ]
    unit = np.linalg.norm(trajectory.world_from_camera[1, :3, 3]) / STEP
    for i in range(12):
        with np.load(out / "frames" / f"{i:06d}.npz") as frame:
            assert set(frame.files) == set(
                "depth confidence intrinsics world_from_camera stamp_ns image".split()
                + "name input_size input_from_grid rectified camera".split()
            )
            assert frame["camera"] == ""
            assert frame["depth"].dtype == frame["confidence"].dtype == np.float32
            assert frame["image"].dtype == np.uint8 and frame["stamp_ns"].dtype == np.int64
            assert frame["image"].shape == (HEIGHT, WIDTH, 3) and frame["image"][0, 0, 0] == i
            assert np.isnan(frame["depth"][:7]).all() and (frame["confidence"][:7] == 1).all()
            np.testing.assert_allclose(frame["depth"][7:], DEPTH * unit, rtol=1e-5)
            k = [[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1]]
            np.testing.assert_allclose(frame["intrinsics"], k, rtol=1e-6)
            np.testing.assert_allclose(
                frame["world_from_camera"], trajectory.world_from_camera[i], atol=1e-7
            )
            assert frame["stamp_ns"] == trajectory.stamps_ns[i] == EPOCH + i * 33_333_333


def test_the_cloud_is_the_coloured_wall(folder, planar_engine, tmp_path):
    done = run_quietly(folder, tmp_path / "out")
    unit = np.linalg.norm(done.trajectory().world_from_camera[1, :3, 3]) / STEP
    cloud = done.cloud()
    assert len(cloud.points) == done.summary["points"] == 12 * WIDTH * (HEIGHT - 7)
    np.testing.assert_allclose(cloud.points[:, 0], DEPTH * unit, rtol=1e-5)
    assert set(cloud.colours[:, 1].tolist()) >= {50, 90}
    assert (cloud.confidence == 4).all()


def test_the_cloud_has_at_most_max_points(folder, planar_engine, tmp_path):
    done = run_quietly(folder, tmp_path / "out", max_points=1000)
    assert 980 < len(done.cloud().points) <= 1000


def test_the_summary_describes_the_run(folder, planar_engine, tmp_path):
    summary = run_quietly(folder, tmp_path / "out", window_size=3, every=2, picture=True).summary
    assert summary["frames"] == 6 and summary["looks"] == 6 and summary["refused"] == 0
    assert summary["scale"] == {"metric": False, "source": "none"}
    assert summary["model"] == "planar" and summary["random_weights"] is False
    assert summary["source"]["stamps"] == "file names (ns)"
    assert summary["times"]["first_stamp_ns"] == EPOCH
    assert summary["interrupted"] is False and summary["segments"] == [0]
    assert (tmp_path / "out" / "picture.png").stat().st_size > 1000


def test_the_bits_of_a_16_bit_camera_are_an_option(folder, planar_engine, tmp_path):
    for file in folder.iterdir():
        with Image.open(file) as image:
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 16).save(file)
    assert call(["run", str(folder), "--out", str(tmp_path / "out"), "--mono16-bits", "12",
                 "--no-picture", "--quiet"]) == 0  # fmt: skip
    done = open_run(tmp_path / "out")
    assert done.summary["settings"]["mono16_bits"] == 12
    with np.load(done.files[0]) as frame:
        assert frame["image"].max() > 64, "a sixteenth of that without the option"


def test_settings_that_are_not_used_as_given_are_a_line_and_in_the_summary(
    folder, planar_engine, tmp_path, capsys
):
    done = run(folder, tmp_path / "out", picture=False, window_size=4, depth_frames=1)
    line = "depth_frames is 1, but 2 of window_size 4 are used"
    assert [note.startswith(line) for note in done.summary["notes"]] == [True]
    printed = capsys.readouterr()
    assert printed.err.count(line) == 1 and not printed.out
    options = {"window_size": 4, "depth_frames": 1, "quiet": True}
    again = run(folder, tmp_path / "out", picture=False, **options)
    assert again.summary["notes"] == done.summary["notes"]
    assert capsys.readouterr() == ("", "")


def test_frames_written_before_the_scale_was_known_are_rescaled(folder, planar_engine, tmp_path):
    plain = run_quietly(folder, tmp_path / "plain")
    planar_engine.inferences.clear()
    scaled = run_quietly(folder, tmp_path / "out", scale_source="fixed", fixed_scale=3.0)
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


def test_query_pixels_are_tracked_in_all_frames(folder, planar_engine, tmp_path):
    start = [[100.0, 20.0], [60.5, 41.25], [0.0, 0.0]]
    queries = write(tmp_path / "q.json", start)
    tracks = run_quietly(folder, tmp_path / "out", queries=queries).tracks()
    assert tracks is not None and tracks.tracks.shape == (12, 3, 2)
    moved = np.arange(12)[:, None, None] * [-2 * WIDTH * STEP / DEPTH, 0]  # input pixels
    np.testing.assert_allclose(tracks.tracks, np.array(start) + moved, atol=1e-3)
    assert (tracks.visibility == 0.75).all() and (tracks.confidence == 0.5).all()


def test_without_queries_there_are_no_tracks(folder, planar_engine, tmp_path):
    assert run_quietly(folder, tmp_path / "out", max_frames=2).tracks() is None


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("frames", [1, 3, 6, 9, 12])
def test_the_last_frames_are_inferred_whatever_the_stride(
    folder, planar_engine, tmp_path, stride, frames
):
    done = run_quietly(folder, tmp_path / "out", window_size=4, stride=stride, max_frames=frames)
    assert done.summary["frames"] == frames and done.summary["unseen"] == 0
    along = done.trajectory().world_from_camera[:, 1, 3]
    steps = np.arange(frames) * (along[-1] / max(frames - 1, 1))
    np.testing.assert_allclose(along, steps, atol=1e-5)


def test_how_many_images_were_left_out_is_said_at_the_end(folder, planar_engine, tmp_path, capsys):
    files = sorted(folder.iterdir())
    for file in files[::2]:
        file.write_bytes(b"no image")
    run(folder, tmp_path / "out", picture=False)
    text = capsys.readouterr().err
    assert (
        f"warning: 6 of 12 images are left out (6 unreadable), as {files[0].name}: not an" in text
    )
    for file in files[::2]:
        file.unlink()
    run(folder, tmp_path / "out", picture=False)
    assert "left out" not in capsys.readouterr().err


# ---- interruption


def test_a_full_disk_is_an_error_of_one_line_and_keeps_earlier_frames(
    tmp_path, folder, planar_engine, monkeypatch
):
    savez = np.savez

    def full(file, **arrays):
        if arrays.get("stamp_ns", 0) > EPOCH + 6 * 33_333_333:
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"000007.npz.*No space left") as caught:
        run_quietly(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    done = open_run(tmp_path / "out")
    assert done.summary["interrupted"] is True and len(done.files) == 7
    assert not list((tmp_path / "out").rglob("*.part"))


# ---- refusals


def test_a_directory_with_other_files_is_refused(folder, planar_engine, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    note = write(out / "note.txt", "text")
    with pytest.raises(UserError, match="--overwrite"):
        run_quietly(folder, out)
    run_quietly(folder, out, overwrite=True)
    assert note.read_text() == "text"


def test_a_run_replaces_all_files_of_an_earlier_run(folder, planar_engine, tmp_path):
    out, queries = tmp_path / "out", write(tmp_path / "q.json", [[5, 5]])
    run_quietly(folder, out, queries=queries)
    again = run_quietly(folder, out, max_frames=3)
    assert len(again.files) == 3 and again.tracks() is None


@pytest.mark.parametrize(
    ("content", "message"),
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
def test_invalid_queries_are_refused(folder, planar_engine, tmp_path, content, message):
    queries = write(tmp_path / "q.json", content)
    with pytest.raises(UserError, match=message):
        run_quietly(folder, tmp_path / "out", queries=queries)


def test_invalid_arguments_are_refused_before_the_network_is_loaded(folder, tmp_path, monkeypatch):
    def open_engine(*_, **__):
        raise AssertionError("the network was loaded")

    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", open_engine)
    locked = write(tmp_path / "file", "")
    for options, message in (
        ({"out": folder}, "source itself"),
        ({"out": locked}, "is a file"),
        ({"out": locked / "below"}, "cannot write"),
        ({"out": tmp_path / "out", "stride": 9}, "stride"),
        ({"out": tmp_path / "out", "scale_source": "odometry"}, "needs a robot"),
        ({"out": tmp_path / "out", "queries": tmp_path / "none.json"}, "cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            run_quietly(folder, **options)


def test_random_weights_are_reported_as_noise(folder, planar_engine, tmp_path, capsys):
    planar_engine.random_weights = True
    run_quietly(folder, tmp_path / "out", quiet=False)
    assert capsys.readouterr().err.count("planar has random weights: its geometry is noise") == 1


# ---- with the real network


@pytest.mark.slow
def test_weights_without_a_track_head_matter_when_points_are_to_be_tracked(
    folder, tmp_path, capsys
):
    source = tmp_path / "weights.safetensors"
    config, weights, _ = open_weights("small", heads=("camera", "depth"))
    save(source, config, weights)
    arguments = [str(folder), "--out", str(tmp_path / "out"), "--model", str(source)]
    arguments += ["--network-width", "56", "--max-frames", "2", "--cache-dir", "None"]
    queries = ["--queries", str(write(tmp_path / "q.json", [[1, 2]]))]
    assert call(["run", *arguments, *queries]) == 1
    assert "there is no track_head" in capsys.readouterr().err
    assert call(["run", *arguments]) == 0
    assert len(open_run(tmp_path / "out").files) == 2


def test_the_command_runs_the_real_network(folder, tmp_path, capsys):
    out = tmp_path / "out"
    line = f"run {folder} --out {out} --window-size 1 --network-width 28 --max-frames 2 --quiet"
    line += " --model tiny --no-picture --cache-dir None"
    assert call(line.split()) == 0, capsys.readouterr().err
    done = open_run(out)
    assert done.summary["model"] == "tiny" and done.summary["random_weights"] is True
    for frame in done.frames():
        assert frame.depth.shape == frame.confidence.shape == (28, 28)
        assert not (frame.depth <= 0).any()  # untrained depth has any value; where masked it is NaN
        np.testing.assert_allclose(np.linalg.det(frame.world_from_camera), 1, atol=1e-5)
