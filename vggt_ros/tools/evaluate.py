# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval RUN TRUTH`: errors of a run against ground truth, with the scale free and fixed.

Trajectories are compared by the `evo` package: ATE is the root mean square distance of positions
after one alignment, RPE the error of the motion from frame to frame. Alignment by Sim(3) removes an
error of scale, alignment by SE(3) does not: only a run in metres can be accurate there.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.depth_scores import DepthScores, run_scores
from vggt_ros.tools.runs.format import TRAJECTORY, is_run
from vggt_ros.tools.sources.bags import is_bag, reading

if TYPE_CHECKING:
    from evo.core.trajectory import PoseTrajectory3D
    from rosbags.highlevel import AnyReader

ROOMS = "rooms"  # ground truth of synthetic rooms
ALIGNMENTS = {"sim3": True, "se3": False}  # whether scale is free
POSES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/TransformStamped",
    "nav_msgs/msg/Odometry",
)


def evaluate(
    run: Path,
    truth: Path,
    *,
    topic: str | None = None,
    max_difference: float = 0.02,
    depth: Path | None = None,
    depth_unit: float = 5000.0,
    windows: int = 64,
    lengths: tuple[int, ...] = (2, 4, 8),
    width: int = 0,
    height: int = 0,
    out: Path | None = None,
) -> int:
    """Score a run directory (or a TUM file) against ground truth, or a network in synthetic rooms.

    `vggt eval small rooms` renders rooms that are not in the training data and compares depth,
    relative poses and tracks with their ground truth, next to a trivial baseline.

    Args:
        run: directory that `vggt run` wrote, or a trajectory in TUM format; for rooms, a network.
        truth: TUM text, EuRoC csv or recording, rosbag2 or ROS 1 bag, another run, or `rooms`.
        topic: topic of the poses in a bag (PoseStamped, Odometry, ...), if there are several.
        max_difference: maximum time between a frame and its ground truth, in seconds.
        depth: true depth: a run directory, or 16-bit images named by their seconds (TUM RGB-D).
        depth_unit: steps of such an image per metre.
        windows: number of rooms of each length.
        lengths: frames of the window in a room.
        width: width of the images of rooms, in network pixels; 0 is the width of the network.
        height: height of the images of rooms; 0 is three quarters of the width.
        out: folder of errors.json and errors.png; by default the run.
    """
    if str(truth) == ROOMS:
        return _in_rooms(str(run), windows, lengths, (height, width), out)
    estimate, reference = _trajectory(run, None), _trajectory(truth, topic)
    scores, pairs = trajectory_scores(estimate, reference, max_difference)
    if depth is None and is_run(truth):
        depth = truth
    depths = None
    if depth is not None and is_run(run):
        depths = run_scores(run, depth, depth_unit, max_difference)
    print(table(scores, depths))
    folder = out or (run if run.is_dir() else run.parent)
    folder.mkdir(parents=True, exist_ok=True)
    report = {**scores, "depth": depths._asdict() if depths else None}
    (folder / "errors.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(pairs, folder / "errors.png")
    print(f"written: {folder / 'errors.json'}, {folder / 'errors.png'}")
    return 0


def _in_rooms(
    model: str, windows: int, lengths: tuple[int, ...], size: tuple[int, int], out: Path | None
) -> int:
    if windows < 1:
        raise UserError(f"--windows {windows}: at least one is needed")
    if min(lengths, default=0) < 2:
        raise UserError(f"--lengths {lengths}: a window in a room has at least 2 frames")
    try:
        from vggt_ros.train.score import score
        from vggt_ros.train.score import table as lines
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is missing; install it {install_extra('tools', 'train')}"
        ) from None
    found = score(model, windows, lengths, size)
    print(lines(found))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        rows = {name: [row._asdict() for row in rows] for name, rows in found.items()}
        (out / "errors.json").write_text(json.dumps(rows, indent=1) + "\n")
        print(f"written: {out / 'errors.json'}")
    return 0


# ---- trajectories -------------------------------------------------------------------------------


def trajectory_scores(
    estimate: "PoseTrajectory3D", reference: "PoseTrajectory3D", max_difference: float
) -> tuple[dict[str, float], dict[str, "PoseTrajectory3D"]]:
    """Figures by name, and the trajectories they compare: truth, sim3, se3."""
    from copy import deepcopy

    from evo.core import metrics, sync

    try:
        true, found = sync.associate_trajectories(reference, estimate, max_diff=max_difference)
    except sync.SyncException as error:
        raise UserError(
            f"no frame has ground truth within {max_difference} s ({error}); do both use one clock?"
        ) from error
    if true.num_poses < 3:
        raise UserError(f"only {true.num_poses} frames have ground truth; three are needed")
    length = float(true.path_length)
    scores = {"frames": float(true.num_poses), "path": length}
    pairs = {"truth": true}
    for name, scale_is_free in ALIGNMENTS.items():
        moved = deepcopy(found)
        scale = _align(moved, true, scale_is_free)
        pairs[name] = moved
        scores[f"ate_{name}"] = _rmse(metrics.APE(), true, moved)
        scores[f"ate_{name}_percent"] = 100.0 * scores[f"ate_{name}"] / max(length, 1e-9)
        scores[f"rpe_{name}"] = _rmse(metrics.RPE(), true, moved)
        if scale_is_free:
            scores["scale"] = float(scale)
    turn = metrics.PoseRelation.rotation_angle_deg
    scores["rpe_degrees"] = _rmse(metrics.RPE(turn), true, pairs["se3"])
    return scores, pairs


def _align(found: "PoseTrajectory3D", true: "PoseTrajectory3D", scale_is_free: bool) -> float:
    """Align `found` with `true` in place; returns the scale used.

    A straight path does not determine the roll: then the first poses are aligned instead.
    """
    from evo.core.geometry import GeometryException

    try:
        return float(found.align(true, correct_scale=scale_is_free)[2])
    except GeometryException:
        scale = true.path_length / found.path_length if scale_is_free and found.path_length else 1.0
        found.scale(scale)
        found.align_origin(true)
        return float(scale)


def _rmse(metric, true: "PoseTrajectory3D", found: "PoseTrajectory3D") -> float:
    from evo.core.metrics import StatisticsType

    metric.process_data((true, found))
    return float(metric.get_statistic(StatisticsType.rmse))


def _trajectory(path: Path, topic: str | None) -> "PoseTrajectory3D":
    """Poses of a run directory, a bag, an EuRoC csv or a TUM text."""
    try:
        from evo.tools import file_interface
    except ModuleNotFoundError:
        raise UserError(f"evo is missing; install it {install_extra('tools')}") from None
    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        if (path / TRAJECTORY).is_file():
            return file_interface.read_tum_trajectory_file(str(path / TRAJECTORY))
        if is_bag(path):
            with reading(path, []) as reader:
                return _bag_trajectory(reader, _pose_topic(reader, topic))
        if path.is_dir():
            path = _euroc_truth(path)
        if path.suffix == ".csv":
            return file_interface.read_euroc_csv_trajectory(str(path))
        return file_interface.read_tum_trajectory_file(str(path))
    except file_interface.FileInterfaceException as error:
        raise UserError(f"{path} holds no trajectory: {error}") from error


def _euroc_truth(folder: Path) -> Path:
    """The csv of a EuRoC recording, from its own folder or the folder of the recording."""
    truth = "state_groundtruth_estimate0/data.csv"
    for place in ("data.csv", truth, f"mav0/{truth}"):
        if (folder / place).is_file():
            return folder / place
    raise UserError(f"{folder} is neither a run directory, nor a bag, nor a EuRoC recording")


def _bag_trajectory(reader: "AnyReader", topic: str) -> "PoseTrajectory3D":
    """Poses of a topic at the stamps of the messages."""
    from evo.core.trajectory import PoseTrajectory3D

    seconds, positions, quaternions = [], [], []
    connections = [connection for connection in reader.connections if connection.topic == topic]
    for connection, _, raw in reader.messages(connections=connections):
        msg: Any = reader.deserialize(raw, connection.msgtype)
        pose = getattr(msg, "pose", None) or msg.transform
        pose = getattr(pose, "pose", pose)  # with a covariance it is one level deeper
        p = pose.position if hasattr(pose, "position") else pose.translation
        q = pose.orientation if hasattr(pose, "orientation") else pose.rotation
        seconds.append(msg.header.stamp.sec + msg.header.stamp.nanosec * 1e-9)
        positions.append([p.x, p.y, p.z])
        quaternions.append([q.w, q.x, q.y, q.z])
    return PoseTrajectory3D(np.array(positions), np.array(quaternions), np.array(seconds))


def _pose_topic(reader: "AnyReader", topic: str | None) -> str:
    known = sorted({c.topic for c in reader.connections if c.msgtype in POSES})
    if topic is not None and "/" + topic.strip("/") in known:
        return "/" + topic.strip("/")
    if topic is None and len(known) == 1:
        return known[0]
    raise UserError(f"choose --topic from: {', '.join(known) or 'none: the bag has no poses'}")


# ---- output -------------------------------------------------------------------------------------


def table(scores: dict[str, float], depths: DepthScores | None) -> str:
    """Errors of the trajectory and of depth as text."""
    lines = [
        f"{scores['frames']:.0f} frames over {scores['path']:.2f} m;"
        f" scale of the truth in the run's units: {scores['scale']:.4f}",
        f"{'after':<8}{'ATE [m]':>10}{'of path':>10}{'RPE [m]':>10}",
    ]
    for name, title in (("sim3", "Sim(3)"), ("se3", "SE(3)")):
        lines.append(
            f"{title:<8}{scores[f'ate_{name}']:>10.4f}{scores[f'ate_{name}_percent']:>9.2f}%"
            f"{scores[f'rpe_{name}']:>10.4f}"
        )
    lines.append(f"RPE of rotation: {scores['rpe_degrees']:.3f} degrees a frame")
    if depths is not None:
        lines += [
            f"{'depth':<14}{'AbsRel':>8}{'< 1.25':>9}",
            f"{'as it is':<14}{depths.abs_rel:>8.4f}{depths.delta:>9.2%}",
            f"{'one scale each':<14}{depths.scaled_abs_rel:>8.4f}{depths.scaled_delta:>9.2%}",
        ]
    return "\n".join(lines)


def plot(pairs: dict[str, "PoseTrajectory3D"], path: Path) -> None:
    """Draw the paths from above, and their distance from the ground truth over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    above, errors = figure.subplots(1, 2)
    true = pairs["truth"]
    spread = np.ptp(true.positions_xyz, axis=0)
    across = sorted(np.argsort(spread)[-2:])  # the two axes of the largest extent
    above.plot(*true.positions_xyz[:, across].T, "k--", label="truth")
    for name, colour in (("sim3", "tab:blue"), ("se3", "tab:orange")):
        found = pairs[name]
        above.plot(*found.positions_xyz[:, across].T, color=colour, label=f"after {name}")
        away = np.linalg.norm(found.positions_xyz - true.positions_xyz, axis=1)
        errors.plot(true.timestamps - true.timestamps[0], away, color=colour, label=f"after {name}")
    above.set_aspect("equal", "datalim")
    above.set(xlabel="xyz"[across[0]] + " [m]", ylabel="xyz"[across[1]] + " [m]")
    errors.set(xlabel="seconds", ylabel="distance from the truth [m]", ylim=(0, None))
    for axes in (above, errors):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
