# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval` on runs with known errors, and ground truth in every format."""

import json
from pathlib import Path

import numpy as np
import pytest
from fakes.room import BASE_FROM_CAMERA, drive, turn
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.geometry import quaternion_from_rotation
from vggt_ros.tools.cli import call
from vggt_ros.tools.depth_scores import depth_scores
from vggt_ros.tools.evaluate import evaluate
from vggt_ros.tools.runs.format import RunFrame
from vggt_ros.tools.runs.writer import RunWriter
from vggt_ros.tools.trajectories import POSES

START, PERIOD = 1_700_000_000_000_000_000, 100_000_000
TRUE = (drive("room") @ BASE_FROM_CAMERA)[::5]


def moved(unit: float, noise: float = 0.0) -> np.ndarray:
    """The true poses in another unit, from another origin, with noise in metres on every axis."""
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


def test_sim3_removes_an_error_of_scale_and_se3_does_not(tmp_path, capsys):
    run = tum(tmp_path / "run.txt", moved(0.5))
    evaluate(run, tum(tmp_path / "truth.txt", TRUE), out=tmp_path)
    found = scores(tmp_path)
    assert found["ate_sim3"] < 1e-5 and found["scale"] == pytest.approx(2.0, rel=1e-5)
    spread = TRUE[:, :3, 3] - TRUE[:, :3, 3].mean(0)
    expected = 0.5 * np.sqrt(np.mean(np.sum(spread**2, axis=1)))
    assert found["ate_se3"] == pytest.approx(expected, rel=1e-3)
    assert (tmp_path / "errors.png").stat().st_size > 10_000
    assert "Sim(3)" in capsys.readouterr().out


def test_ate_equals_the_added_noise(tmp_path):
    run = tum(tmp_path / "run.txt", moved(1.0, noise=0.05))
    evaluate(run, tum(tmp_path / "truth.txt", TRUE), out=tmp_path)
    assert scores(tmp_path)["ate_se3"] == pytest.approx(0.05 * np.sqrt(3), rel=0.15)


@pytest.mark.parametrize(
    "place, given",
    [
        ("data.csv", "data.csv"),
        ("state_groundtruth_estimate0/data.csv", "state_groundtruth_estimate0"),
        ("mav0/state_groundtruth_estimate0/data.csv", "."),
    ],
)
def test_euroc_truth(tmp_path, place, given):
    """Seventeen columns as EuRoC has them: velocity and biases come after the pose."""
    rows = []
    for i, pose in enumerate(TRUE):
        x, y, z, w = quaternion_from_rotation(pose[:3, :3])
        rows.append([START + i * PERIOD, *pose[:3, 3], w, x, y, z, *np.zeros(9)])
    lines = ["#timestamp [ns], p_x [m], p_y [m], p_z [m], q_w [], q_x [], q_y [], q_z [], v, b"]
    lines += [",".join([str(row[0]), *(f"{value:.9f}" for value in row[1:])]) for row in rows]
    truth = tmp_path / "truth" / place
    truth.parent.mkdir(parents=True)
    truth.write_text("\n".join(lines) + "\n")
    evaluate(tum(tmp_path / "run.txt", moved(1.0)), tmp_path / "truth" / given, out=tmp_path)
    assert scores(tmp_path)["ate_se3"] < 1e-5 and scores(tmp_path)["frames"] == len(TRUE)


def bag(path: Path, poses: np.ndarray, kind: str, child: str = "camera", static=()) -> Path:
    """A rosbag2 of poses on /truth as messages of that type, recorded later than stamped.

    `child`: what they are of; `static`: parent, child and parent_from_child of each link.
    """
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)

    def make(name: str, *fields):
        return store.types[name](*fields)

    with Writer(path, version=9) as writer:
        connection = writer.add_connection("/truth", kind, typestore=store)
        for i, pose in enumerate(poses):
            ns = START + i * PERIOD
            stamp = make("builtin_interfaces/msg/Time", ns // 10**9, ns % 10**9)
            head = make("std_msgs/msg/Header", stamp, "world")
            position = tuple(map(float, pose[:3, 3]))
            orientation = make(
                "geometry_msgs/msg/Quaternion", *map(float, quaternion_from_rotation(pose[:3, :3]))
            )
            pose_msg = make(
                "geometry_msgs/msg/Pose", make("geometry_msgs/msg/Point", *position), orientation
            )
            with_covariance = make("geometry_msgs/msg/PoseWithCovariance", pose_msg, np.zeros(36))
            vector = make("geometry_msgs/msg/Vector3", *position)
            twist = make("geometry_msgs/msg/Twist", vector, vector)
            fields = {
                "geometry_msgs/msg/PoseStamped": (head, pose_msg),
                "geometry_msgs/msg/PoseWithCovarianceStamped": (head, with_covariance),
                "geometry_msgs/msg/TransformStamped": (
                    head,
                    child,
                    make("geometry_msgs/msg/Transform", vector, orientation),
                ),
                "nav_msgs/msg/Odometry": (
                    head,
                    child,
                    with_covariance,
                    make("geometry_msgs/msg/TwistWithCovariance", twist, np.zeros(36)),
                ),
            }
            message = make(kind, *fields[kind])
            writer.write(connection, ns + 10**9, store.serialize_cdr(message, kind))
        if static:
            kind = "tf2_msgs/msg/TFMessage"
            links = []
            for parent, end, pose in static:
                vector = make("geometry_msgs/msg/Vector3", *map(float, pose[:3, 3]))
                quaternion = map(float, quaternion_from_rotation(pose[:3, :3]))
                turned = make("geometry_msgs/msg/Quaternion", *quaternion)
                head = make(
                    "std_msgs/msg/Header", make("builtin_interfaces/msg/Time", 0, 0), parent
                )
                transform = make("geometry_msgs/msg/Transform", vector, turned)
                links.append(make("geometry_msgs/msg/TransformStamped", head, end, transform))
            connection = writer.add_connection("/tf_static", kind, typestore=store)
            message = make(kind, links)
            writer.write(connection, START, store.serialize_cdr(message, kind))
    return path


@pytest.mark.parametrize("kind", POSES)
def test_bag_truth(tmp_path, kind):
    truth = bag(tmp_path / "bag", TRUE, kind)
    run = tum(tmp_path / "run.txt", moved(1.0))
    evaluate(run, truth, out=tmp_path)
    assert scores(tmp_path)["ate_se3"] < 1e-5 and scores(tmp_path)["frames"] == len(TRUE)
    with pytest.raises(UserError, match="choose --topic from: /truth"):
        evaluate(run, truth, topic="/odom", out=tmp_path)


def test_from_the_command_line(tmp_path, capsys):
    """Table, figures and plot; a missing ground truth is an error of one line and status 1."""
    run, truth = tum(tmp_path / "run.txt", moved(0.5)), tum(tmp_path / "truth.txt", TRUE)
    assert call(["eval", str(run), str(truth), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "Sim(3)" in text and "SE(3)" in text and "2.0000" in text
    assert (tmp_path / "out" / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert scores(tmp_path / "out")["scale"] == pytest.approx(2.0, rel=1e-5)
    assert call(["eval", str(run), str(tmp_path / "nothing.txt")]) == 1
    assert "does not exist" in capsys.readouterr().err


def write_run(path: Path, depth: np.ndarray, frames: int = 6) -> Path:
    """A run whose frames all have this depth."""
    with RunWriter(path, {}) as writer:
        for i, pose in enumerate(TRUE[:frames]):
            frame = RunFrame(
                depth=depth,
                confidence=np.full_like(depth, 2.0),
                intrinsics=np.eye(3),
                world_from_camera=pose,
                stamp_ns=START + i * PERIOD,
                image=np.zeros((*depth.shape, 3), np.uint8),
            )
            writer.add(frame)
        writer.summarise({})
    return path


def test_depth_images_in_the_format_of_tum(tmp_path, capsys):
    """16 bits, 5000 steps per metre, named by their seconds; 0 is invalid."""
    ours = np.full((20, 30), 2.2, np.float32)
    run, images = write_run(tmp_path / "run", ours), tmp_path / "depth"
    images.mkdir()
    for i in range(6):
        theirs = np.full((40, 60), 2.0 * 5000, np.uint16)
        theirs[:20] = 0
        seconds = (START + i * PERIOD) * 1e-9 + 0.004  # another camera, slightly later
        Image.fromarray(theirs).save(images / f"{seconds:.6f}.png")
    evaluate(run, tum(tmp_path / "truth.txt", TRUE), depth=images)
    depth = scores(run)["depth"]
    assert depth["abs_rel"] == pytest.approx(0.1, abs=1e-5) and depth["pixels"] == 6 * 10 * 30
    assert depth["scaled_abs_rel"] == pytest.approx(0.0, abs=1e-5)
    assert "AbsRel" in capsys.readouterr().out
    evaluate(run, tmp_path / "truth.txt", depth=images, depth_unit=1000.0)
    assert scores(run)["depth"]["delta"] == 0.0  # of another unit


@pytest.mark.parametrize(
    "name, message",
    [("1000.0.png", "no frame of .* has a true depth"), ("first.png", "named by their seconds")],
)
def test_depth_images_of_other_times_or_names_are_refused(tmp_path, name, message):
    run, images = write_run(tmp_path / "run", np.ones((20, 30), np.float32)), tmp_path / "depth"
    images.mkdir()
    Image.fromarray(np.ones((20, 30), np.uint16)).save(images / name)
    with pytest.raises(UserError, match=message):
        evaluate(run, tum(tmp_path / "truth.txt", TRUE), depth=images)


def test_depth_images_may_be_named_by_whole_nanoseconds_and_must_be_depth(tmp_path, capsys):
    run, images = (
        write_run(tmp_path / "run", np.full((20, 30), 2.2, np.float32)),
        tmp_path / "depth",
    )
    truth = tum(tmp_path / "truth.txt", TRUE)
    images.mkdir()
    for i in range(4):
        image = Image.fromarray(np.full((20, 30), 10000, np.uint16))
        image.save(images / f"{START + i * PERIOD}.png")
    evaluate(run, truth, depth=images)
    found = scores(run)["depth"]
    assert found["abs_rel"] == pytest.approx(0.1, abs=1e-5) and found["frames"] == 4
    assert "of 4 frames" in capsys.readouterr().out
    for mode in ("L", "RGB"):
        Image.new(mode, (30, 20), "white").save(images / f"{START}.png")
        with pytest.raises(UserError, match=f"has the mode {mode}, and true depth has 16 bits"):
            evaluate(run, truth, depth=images)


def test_an_empty_folder_of_depth_is_refused(tmp_path):
    run = write_run(tmp_path / "run", np.ones((20, 30), np.float32))
    (tmp_path / "depth").mkdir()
    with pytest.raises(UserError, match="holds no true depth"):
        evaluate(run, tum(tmp_path / "truth.txt", TRUE), depth=tmp_path / "depth")


def test_depth_of_two_runs_is_compared(tmp_path):
    for name, factor in (("truth", 1.0), ("run", 1.1)):
        write_run(tmp_path / name, np.full((20, 30), 2.0 * factor, np.float32))
    evaluate(tmp_path / "run", tmp_path / "truth")
    depth = scores(tmp_path / "run")["depth"]
    assert depth["abs_rel"] == pytest.approx(0.1, abs=1e-5) and depth["delta"] == 1.0
    assert depth["scaled_abs_rel"] == pytest.approx(0.0, abs=1e-6)


def test_true_depth_is_taken_at_the_middle_of_our_pixels():
    """Five true pixels in each of ours: its middle one has the depth that ours has."""
    true = np.tile(1.0 + np.arange(20.0), (20, 1)) * np.ones((20, 1))
    ours = np.tile([3.0, 8.0, 13.0, 18.0], (4, 1)).astype(np.float32)
    assert depth_scores([ours], [true]).abs_rel == 0.0


def test_depth_scores_of_a_small_example():
    true = [np.array([[1.0, 2.0], [4.0, np.nan]])]
    found = [np.array([[2.0, 4.0], [8.0, 1.0]], np.float32)]
    result = depth_scores(found, true)
    assert result.abs_rel == pytest.approx(1.0) and result.delta == 0.0
    assert result.scaled_abs_rel == pytest.approx(0.0) and result.scaled_delta == 1.0
    assert result.pixels == 3


@pytest.mark.parametrize(
    "truth, message",
    [
        ("missing.txt", "does not exist"),
        ("text.txt", "holds no trajectory"),
        ("late.txt", "within 0.02 s"),
        (".", "nor a bag, nor a EuRoC recording"),
    ],
)
def test_an_unusable_truth_is_refused(tmp_path, truth, message):
    run = tum(tmp_path / "run.txt", moved(1.0))
    (tmp_path / "text.txt").write_text("this is no trajectory\n")
    rows = np.loadtxt(run)
    rows[:, 0] += 1000.0
    np.savetxt(tmp_path / "late.txt", rows, fmt="%.9f")
    with pytest.raises(UserError, match=message):
        evaluate(run, tmp_path / truth, out=tmp_path)
