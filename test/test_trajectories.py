# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval` on ground truth with bad rows, on runs in segments, on padded and cropped frames."""

import json

import numpy as np
import pytest
from PIL import Image
from test_evaluate import PERIOD, START, TRUE, bag, moved, scores, tum, write_run

from vggt_ros.errors import UserError
from vggt_ros.geometry import quaternion_from_rotation
from vggt_ros.imaging.fit import Fit
from vggt_ros.tools.evaluate import evaluate
from vggt_ros.tools.trajectories import POSES


@pytest.mark.parametrize(
    "separator", [" ", "  ", "\t", ", ", " \t "], ids=["one", "two", "tab", "comma", "both"]
)
def test_columns_may_be_separated_by_any_space_and_bad_rows_are_named(tmp_path, capsys, separator):
    run, truth = tum(tmp_path / "run.txt", moved(1.0)), tum(tmp_path / "truth.txt", TRUE)
    lines = [line.replace(" ", separator) + "  " for line in truth.read_text().splitlines()]
    lines[4] = separator.join([*lines[4].split()[:1], *["nan"] * 7]).replace(",,", ",")
    lines[7] = "motion capture lost the camera"
    lines[9] = lines[8]
    text = ["# timestamp tx ty tz qx qy qz qw", "", *lines, ""]
    truth.write_text("\r\n".join(text), newline="")
    evaluate(run, truth, out=tmp_path)
    found = scores(tmp_path)
    assert found["ate_se3"] < 1e-5 and found["frames"] == len(TRUE) - 3
    (note,) = found["notes"]
    assert f"3 rows left out, {len(TRUE) - 3} used" in note and note in capsys.readouterr().out
    for part in ("line 7 is not finite", "line 10 is not 8 numbers", "line 12 repeats the stamp"):
        assert part in note


def test_a_file_without_poses_is_refused_in_one_sentence(tmp_path):
    run, truth = tum(tmp_path / "run.txt", moved(1.0)), tmp_path / "truth.txt"
    for text, message in (
        ("", "it is empty"),
        ("1.0 2.0 3.0\n", "line 1 is not 8 numbers"),
        ("1.0" + " nan" * 7 + "\n", "line 1 is not finite"),
        ("1.0 1 2 3 0 0 0 0\n", "line 1 has no rotation"),
    ):
        truth.write_text(text)
        with pytest.raises(UserError, match=f"holds no trajectory: {message}"):
            evaluate(run, truth, out=tmp_path)


def test_poses_of_a_bag_that_are_not_finite_are_left_out(tmp_path):
    poses = TRUE.copy()
    poses[3, :3, 3] = np.nan
    truth = bag(tmp_path / "bag", poses, POSES[0])
    evaluate(tum(tmp_path / "run.txt", moved(1.0)), truth, out=tmp_path)
    found = scores(tmp_path)
    assert found["frames"] == len(TRUE) - 1 and "message 3 is not finite" in found["notes"][0]


def test_segments_of_a_run_are_aligned_each_by_itself(tmp_path, capsys):
    """Two segments of two scales, exact each; a third is too short; one frame is uncertain."""
    run = write_run(tmp_path / "run", np.ones((2, 3), np.float32), 14)
    done = (run / "trajectory.tum").read_text().splitlines()
    poses = TRUE[:14].copy()
    poses[8:, :3, 3] = 3.0 * poses[8:, :3, 3] + [5, 6, 7]
    poses[3, :3, 3] += 9.0
    for i, pose in enumerate(poses):
        numbers = [*pose[:3, 3], *quaternion_from_rotation(pose[:3, :3])]
        ns = i * PERIOD + 300 + 67 * i  # no number of microseconds
        stamp = f"{START // 10**9 + ns // 10**9}.{ns % 10**9:09d}"
        done[i] = " ".join([stamp, *(f"{number:.9f}" for number in numbers)])
    (run / "trajectory.tum").write_text("\n".join(done) + "\n")
    summary = json.loads((run / "summary.json").read_text())
    parts = {"segments": [0, 8, 12], "segment_numbers": [0, 1, 2], "uncertain_frames": [3]}
    (run / "summary.json").write_text(json.dumps(summary | parts))
    evaluate(run, tum(tmp_path / "truth.txt", TRUE), out=tmp_path)
    found = scores(tmp_path)
    assert found["ate_sim3"] < 1e-5 and found["frames"] == 7
    assert [piece["run_frames"] for piece in found["segments"]] == [7, 4, 2]
    assert found["segments"][1]["ate_sim3"] < 1e-5
    assert found["segments"][1]["scale"] == pytest.approx(1 / 3, rel=1e-4)
    assert found["segments"][2]["frames"] == 0
    text = capsys.readouterr().out
    assert "warning: 3 segments that nothing ties together, of 14 frames" in text
    assert "too few frames have ground truth" in text


@pytest.mark.parametrize("kind", ["pad", "crop"])
def test_true_depth_meets_the_pixels_of_a_frame_that_was_padded_or_cropped(tmp_path, kind):
    """Depth grows from left to right over a photo that is taken upright."""
    run, images = tmp_path / "run", tmp_path / "depth"
    true = np.broadcast_to(np.linspace(2.0, 3.0, 60), (80, 60))
    grid = Fit(kind, 56, 42).grid(60, 80)
    columns = grid.input_pixels(
        np.stack(np.meshgrid(np.arange(56.0), np.arange(42.0)), -1).reshape(-1, 2)
    )
    ours = (2.0 + columns[:, 0].reshape(42, 56) / 59).astype(np.float32)
    write_run(run, ours)
    for file in sorted((run / "frames").iterdir()):
        with np.load(file) as stored:
            arrays = dict(stored)
        arrays |= {"input_size": np.array([60, 80]), "input_from_grid": grid.input_from_network}
        np.savez(file, **arrays)
    images.mkdir()
    for i in range(6):
        picture = Image.fromarray(np.round(true * 5000).astype(np.uint16))
        picture.save(images / f"{(START + i * PERIOD) * 1e-9:.6f}.png")
    evaluate(run, tum(tmp_path / "truth.txt", TRUE), depth=images)
    assert scores(run)["depth"]["abs_rel"] < 0.01


def test_frames_without_ground_truth_are_a_warning_with_figures(tmp_path, capsys):
    """Stamps that were assumed at 10 Hz meet those of a camera of 9 Hz now and then."""
    run = tum(tmp_path / "run.txt", moved(1.0))
    rows = [line.split() for line in tum(tmp_path / "truth.txt", TRUE).read_text().splitlines()]
    first = float(rows[0][0])
    for row in rows:
        row[0] = f"{first + (float(row[0]) - first) * 10 / 9:.9f}"
    (tmp_path / "truth.txt").write_text("\n".join(map(" ".join, rows)) + "\n")
    evaluate(run, tmp_path / "truth.txt", out=tmp_path)
    found = scores(tmp_path)
    assert found["frames"] < 0.5 * found["run_frames"] == 0.5 * len(TRUE)
    assert found["notes"][-1].startswith(
        f"warning: {found['frames']:.0f} of {len(TRUE)} frames have ground truth within 0.02 s"
    )
    assert found["notes"][-1] in capsys.readouterr().out


def kitti(path, poses: np.ndarray):
    """As the benchmark: in the frame of the first camera."""
    np.savetxt(path, (np.linalg.inv(poses[0]) @ poses)[:, :3].reshape(-1, 12), fmt="%.9e")
    return path


@pytest.mark.parametrize("every, name", [(1, "{:06d}.png"), (3, "{:06d}.png"), (1, "image {}9")])
def test_rows_of_kitti_are_those_of_the_images_with_their_numbers(tmp_path, every, name):
    """By their numbers; without such numbers, as many rows as frames are those of the frames."""
    run = write_run(tmp_path / "run", np.ones((2, 3), np.float32), 12)
    lines, poses = [], moved(1.0)[::every][:12]
    for i, (pose, file) in enumerate(zip(poses, sorted((run / "frames").iterdir()), strict=True)):
        with np.load(file) as stored:
            arrays = dict(stored) | {"name": name.format(i * every)}
        np.savez(file, **arrays)
        numbers = [*pose[:3, 3], *quaternion_from_rotation(pose[:3, :3])]
        lines.append(" ".join([f"{i * 0.1 + 1e-9:.9f}", *(f"{n:.9f}" for n in numbers)]))
    (run / "trajectory.tum").write_text("\n".join(lines) + "\n")
    truth = kitti(tmp_path / "00.txt", TRUE[: 11 * every + 1])
    evaluate(run, truth)
    found = scores(run)
    assert found["frames"] == 12 and found["ate_se3"] < 1e-5 and found["rpe_se3"] < 1e-5


def test_kitti_without_numbers_goes_by_times_and_says_what_it_needs(tmp_path):
    run, truth = tum(tmp_path / "run.txt", moved(1.0)), kitti(tmp_path / "poses.txt", TRUE)
    with pytest.raises(UserError, match="put times.txt with the seconds of each row beside it"):
        evaluate(run, truth, out=tmp_path)
    seconds = [line.split()[0] for line in run.read_text().splitlines()]
    (tmp_path / "times.txt").write_text("\n".join(seconds) + "\n")
    evaluate(run, truth, out=tmp_path)
    assert scores(tmp_path)["ate_se3"] < 1e-5 and scores(tmp_path)["frames"] == len(TRUE)
