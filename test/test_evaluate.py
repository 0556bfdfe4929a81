# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval` on runs whose errors are known: a unit, a motion, noise; truths in every format."""

import json
from pathlib import Path

import numpy as np
import pytest
from oracle import BASE_FROM_CAMERA, drive, turn

from vggt_ros.errors import UserError
from vggt_ros.geometry import quaternion_from_rotation
from vggt_ros.tools.evaluate import depth_scores, evaluate
from vggt_ros.tools.record import Shot
from vggt_ros.tools.recorder import Recorder

START, PERIOD = 1_700_000_000_000_000_000, 100_000_000
TRUE = (drive("room") @ BASE_FROM_CAMERA)[::5]


def moved(unit: float, noise: float = 0.0) -> np.ndarray:
    """The truth in another unit, from another origin, with noise in metres on every axis."""
    random = np.random.default_rng(0)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = turn(np.array([0.1, 0.2, 0.9])), [3, 1, 2]
    poses = motion @ TRUE
    poses[:, :3, 3] += noise * random.standard_normal((len(poses), 3))
    poses[:, :3, 3] *= unit
    return poses


def tum(path: Path, poses: np.ndarray) -> Path:
    rows = [
        [START * 1e-9 + i * 0.1, *pose[:3, 3], *quaternion_from_rotation(pose[:3, :3])]
        for i, pose in enumerate(poses)
    ]
    np.savetxt(path, rows, fmt="%.9f")
    return path


def scores(path: Path) -> dict:
    return json.loads((path / "errors.json").read_text())


def test_a_free_scale_forgives_a_wrong_unit_and_se3_does_not(tmp_path, capsys):
    run = tum(tmp_path / "run.txt", moved(0.5))
    evaluate(run, tum(tmp_path / "truth.txt", TRUE), out=tmp_path)
    found = scores(tmp_path)
    assert found["ate_sim3"] < 1e-5 and found["scale"] == pytest.approx(2.0, rel=1e-5)
    spread = TRUE[:, :3, 3] - TRUE[:, :3, 3].mean(0)
    expected = 0.5 * np.sqrt(np.mean(np.sum(spread**2, axis=1)))
    assert found["ate_se3"] == pytest.approx(expected, rel=1e-3)
    assert (tmp_path / "errors.png").stat().st_size > 10_000
    assert "Sim(3)" in capsys.readouterr().out


def test_ate_is_the_noise_that_was_added(tmp_path):
    run = tum(tmp_path / "run.txt", moved(1.0, noise=0.05))
    evaluate(run, tum(tmp_path / "truth.txt", TRUE), out=tmp_path)
    assert scores(tmp_path)["ate_se3"] == pytest.approx(0.05 * np.sqrt(3), rel=0.15)


def test_euroc_truth(tmp_path):
    rows = []
    for i, pose in enumerate(TRUE):
        x, y, z, w = quaternion_from_rotation(pose[:3, :3])
        rows.append([START + i * PERIOD, *pose[:3, 3], w, x, y, z])
    lines = ["#timestamp, p_x, p_y, p_z, q_w, q_x, q_y, q_z"]
    lines += [",".join([str(row[0]), *(f"{value:.9f}" for value in row[1:])]) for row in rows]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    evaluate(tum(tmp_path / "run.txt", moved(1.0)), tmp_path / "data.csv", out=tmp_path)
    assert scores(tmp_path)["ate_se3"] < 1e-5


def test_bag_truth(tmp_path):
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    pose_type, kind = types["geometry_msgs/msg/Pose"], "geometry_msgs/msg/PoseStamped"
    with Writer(tmp_path / "bag", version=9) as writer:
        connection = writer.add_connection("/truth", kind, typestore=store)
        for i, pose in enumerate(TRUE):
            ns = START + i * PERIOD
            stamp = types["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9)
            x, y, z = map(float, pose[:3, 3])
            quaternion = map(float, quaternion_from_rotation(pose[:3, :3]))
            msg = types[kind](
                types["std_msgs/msg/Header"](stamp, "world"),
                pose_type(
                    types["geometry_msgs/msg/Point"](x, y, z),
                    types["geometry_msgs/msg/Quaternion"](*quaternion),
                ),
            )
            writer.write(connection, ns, store.serialize_cdr(msg, kind))
    evaluate(tum(tmp_path / "run.txt", moved(1.0)), tmp_path / "bag", out=tmp_path)
    assert scores(tmp_path)["ate_se3"] < 1e-5
    with pytest.raises(UserError, match="choose --topic from: /truth"):
        evaluate(tmp_path / "run.txt", tmp_path / "bag", topic="/odom", out=tmp_path)


def test_runs_are_compared_with_their_depth(tmp_path):
    random = np.random.default_rng(0)
    for name, factor in (("truth", 1.0), ("run", 1.1)):
        with Recorder(tmp_path / name, {}) as recorder:
            for i, pose in enumerate(TRUE[:6]):
                depth = random.uniform(1, 4, (20, 30)).astype(np.float32)
                shot = Shot(
                    depth=np.full_like(depth, 2.0 * factor),
                    confidence=np.full_like(depth, 2.0),
                    intrinsics=np.eye(3),
                    world_from_camera=pose,
                    stamp_ns=START + i * PERIOD,
                    image=np.zeros((20, 30, 3), np.uint8),
                )
                recorder.add(shot)
            recorder.summarise({})
    evaluate(tmp_path / "run", tmp_path / "truth")
    depth = scores(tmp_path / "run")["depth"]
    assert depth["abs_rel"] == pytest.approx(0.1, abs=1e-5) and depth["delta"] == 1.0
    assert depth["scaled_abs_rel"] == pytest.approx(0.0, abs=1e-6)


def test_depth_scores_of_a_hand_made_case():
    true = [np.array([[1.0, 2.0], [4.0, np.nan]])]
    found = [np.array([[2.0, 4.0], [8.0, 1.0]], np.float32)]
    result = depth_scores(found, true)
    assert result.abs_rel == pytest.approx(1.0) and result.delta == 0.0
    assert result.scaled_abs_rel == pytest.approx(0.0) and result.scaled_delta == 1.0
    assert result.pixels == 3


@pytest.mark.parametrize(
    "truth, words",
    [
        ("missing.txt", "does not exist"),
        ("words.txt", "holds no trajectory"),
        ("late.txt", "within 0.02 s"),
    ],
)
def test_a_wrong_truth_is_one_clear_error(tmp_path, truth, words):
    run = tum(tmp_path / "run.txt", moved(1.0))
    (tmp_path / "words.txt").write_text("this is no trajectory\n")
    rows = np.loadtxt(run)
    rows[:, 0] += 1000.0
    np.savetxt(tmp_path / "late.txt", rows, fmt="%.9f")
    with pytest.raises(UserError, match=words):
        evaluate(run, tmp_path / truth, out=tmp_path)
