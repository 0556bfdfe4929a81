# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval` on ground truth of a robot's base, an IMU, a camera that is not the run's."""

import json

import numpy as np
import pytest
from test_evaluate import PERIOD, START, TRUE, bag, moved, scores, tum, write_run

from vggt_ros.geometry import inverse_rigid, quaternion_from_rotation
from vggt_ros.tools.evaluate import evaluate

BASE_FROM_CAMERA = np.array([[0.0, 0, 1, 0.4], [-1, 0, 0, 0.1], [0, -1, 0, 0.3], [0, 0, 0, 1]])
BASE = TRUE @ inverse_rigid(BASE_FROM_CAMERA)


def run_of(path, poses: np.ndarray, source: dict):
    """A run of these poses."""
    run = write_run(path, np.ones((2, 3), np.float32), len(poses))
    lines = []
    for i, pose in enumerate(poses):
        numbers = [*pose[:3, 3], *quaternion_from_rotation(pose[:3, :3])]
        ns = START + i * PERIOD
        stamp = f"{ns // 10**9}.{ns % 10**9:09d}"
        lines.append(" ".join([stamp, *(f"{number:.9f}" for number in numbers)]))
    (run / "trajectory.tum").write_text("\n".join(lines) + "\n")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"source": source}))
    return run


def exact(found: dict) -> bool:
    return max(found[key] for key in ("ate_se3", "rpe_se3")) < 1e-4 and found["rpe_degrees"] < 0.01


def test_a_truth_of_the_base_is_turned_to_the_camera_s_axes_and_it_is_said(tmp_path, capsys):
    """Without a mount its turn is found, and the distance between both stays an error."""
    evaluate(tum(tmp_path / "run.txt", moved(1.0)), tum(tmp_path / "truth.txt", BASE), out=tmp_path)
    found = scores(tmp_path)
    assert found["truth_turned"] == pytest.approx(120, abs=0.1)
    assert found["rpe_degrees"] < 0.01 and 0.01 < found["ate_se3"] < 0.5
    assert any("turned by" in note for note in found["notes"])
    assert "as those of a robot's base are" in capsys.readouterr().out


def test_a_truth_of_the_camera_is_left_as_it_is_however_wrong_the_run(tmp_path):
    truth = tum(tmp_path / "truth.txt", TRUE)
    wrong = moved(1.0)
    wrong[:, :3, :3] = wrong[::-1, :3, :3]
    random = np.random.default_rng(0)
    lost = moved(1.0)
    lost[:, :3, 3] = random.standard_normal((len(lost), 3))
    for poses in (moved(1.0, 0.02), wrong, lost):
        evaluate(tum(tmp_path / "run.txt", poses), truth, out=tmp_path)
        assert not {"truth_turned", "truth_other_axes"} & scores(tmp_path).keys()


def test_a_straight_drive_of_a_base_is_a_warning_and_nothing_is_turned(tmp_path):
    camera = np.tile(TRUE[0], (30, 1, 1))
    camera[:, :3, 3] += np.arange(30)[:, None] * 0.1 * TRUE[0, :3, 2]
    camera[:, :3, 3] += 1e-3 * np.random.default_rng(0).standard_normal((30, 3))
    base = camera @ inverse_rigid(BASE_FROM_CAMERA)
    evaluate(tum(tmp_path / "run.txt", camera), tum(tmp_path / "truth.txt", base), out=tmp_path)
    found = scores(tmp_path)
    assert "truth_turned" not in found and "RPE does not hold" in found["notes"][0]


def test_odometry_of_a_bag_is_moved_to_the_camera_by_tf_static(tmp_path):
    """TF: base_link from camera_link, and from that the optical frame of the run's images."""
    links = [("base_link", "camera_link", BASE_FROM_CAMERA @ inverse_rigid(OPTICAL)),
             ("camera_link", "camera_optical", OPTICAL)]  # fmt: skip
    truth = bag(tmp_path / "bag", BASE, "nav_msgs/msg/Odometry", child="base_link", static=links)
    run = run_of(
        tmp_path / "run", moved(1.0), {"path": "x", "kind": "bag", "frame": "camera_optical"}
    )
    evaluate(run, truth)
    found = scores(run)
    assert exact(found) and "truth_turned" not in found
    (note,) = found["notes"]
    assert "'base_link' by /tf_static" in note and "0.510 m" in note and "120 degrees" in note
    other = run_of(tmp_path / "other", moved(1.0), {"path": "x", "kind": "bag", "frame": "left"})
    evaluate(other, truth)
    assert "does not connect it with the images' 'left'" in scores(other)["notes"][0]


OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("camera", ["cam1", "cam0", ""])
def test_a_euroc_recording_is_moved_to_the_camera_of_the_run(tmp_path, camera):
    root = tmp_path / "mav0"
    mounts = {"cam0": BASE_FROM_CAMERA, "cam1": BASE_FROM_CAMERA.copy()}
    mounts["cam1"][1, 3] -= 0.11
    for name, mount in mounts.items():
        (root / name / "data").mkdir(parents=True)
        rows = ", ".join(f"{number:.9f}" for number in mount.ravel())
        (root / name / "sensor.yaml").write_text(
            f"# Default\nsensor_type: camera\nT_BS:\n  cols: 4\n  rows: 4\n  data: [{rows}]\n"
        )
    place = root / "state_groundtruth_estimate0"
    place.mkdir()
    body = TRUE @ inverse_rigid(mounts[camera or "cam0"])
    rows = []
    for i, pose in enumerate(body):
        x, y, z, w = quaternion_from_rotation(pose[:3, :3])
        numbers = ",".join(f"{value:.9f}" for value in (*pose[:3, 3], w, x, y, z))
        rows.append(f"{START + i * PERIOD},{numbers}")
    (place / "data.csv").write_text("#timestamp\n" + "\n".join(rows) + "\n")
    source = {"path": str(root / camera / "data" if camera else tmp_path), "kind": "images"}
    run = run_of(tmp_path / "run", moved(1.0), source)
    for truth in (tmp_path, root, place, place / "data.csv"):
        evaluate(run, truth)
        found = scores(run)
        assert exact(found), truth
        assert f"{camera or 'cam0'}/sensor.yaml" in found["notes"][0]
        assert ("taken as cam0's" in found["notes"][0]) == (not camera)
