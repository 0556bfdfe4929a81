# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ground truth and estimates as trajectories of evo: TUM text, EuRoC csv, bags, runs.

A row that is not a pose (NaN, as motion capture writes where it lost the camera) is left out, and
said; columns may be separated by any white space or by commas.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.runs.format import TRAJECTORY, is_run, open_run, trajectory_of
from vggt_ros.tools.sources.bag_reader import BagReader, is_bag, reading

if TYPE_CHECKING:
    from evo.core.trajectory import PoseTrajectory3D

POSES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/TransformStamped",
    "nav_msgs/msg/Odometry",
)
LISTED = 3  # rows that are named of those left out


class Rows(NamedTuple):
    """Poses as they were read, in the order of their stamps."""

    poses: Float64[np.ndarray, "n 8"]  # seconds x y z qw qx qy qz
    left_out: list[str]  # where, and why


def read_trajectory(path: Path, topic: str | None, notes: list[str]) -> "PoseTrajectory3D":
    """Poses of a run directory (of a rig: its reference's), a bag, an EuRoC csv or a TUM text.

    `notes` get a line on rows that were left out.  Raises `UserError` where no pose is left.
    """
    try:
        from evo.core.trajectory import PoseTrajectory3D
    except ModuleNotFoundError:
        raise UserError(f"evo is missing; install it {install_extra('tools')}") from None
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if (path / TRAJECTORY).is_file():
        reference = open_run(path).reference if is_run(path) else ""
        rows = text_rows(path / (trajectory_of(reference) if reference else TRAJECTORY))
    elif is_bag(path):
        with reading(path, notes) as reader:
            rows = _bag_rows(reader, pose_topic(reader, topic))
    else:
        rows = text_rows(euroc_truth(path) if path.is_dir() else path)
    if not len(rows.poses):
        why = rows.left_out[0] if rows.left_out else "it is empty"
        raise UserError(f"{path} holds no trajectory: {why}")
    if rows.left_out:
        count, listed = len(rows.left_out), "; ".join(rows.left_out[:LISTED])
        more = f" and {count - LISTED} more" if count > LISTED else ""
        notes.append(
            f"{path}: {count} row{'' if count == 1 else 's'} left out, {len(rows.poses)} used:"
            f" {listed}{more}"
        )
    seconds, positions, quaternions = np.split(rows.poses, (1, 4), axis=1)
    return PoseTrajectory3D(positions, quaternions, seconds[:, 0])


def text_rows(path: Path) -> Rows:
    """Of a TUM text (seconds x y z qx qy qz qw) or an EuRoC csv (nanoseconds x y z qw qx qy qz)."""
    euroc, found, left_out = path.suffix == ".csv", [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            row = [float(word) for word in (words[:8] if euroc else words)]
            if len(row) != 8:
                raise ValueError
        except ValueError:
            if found or left_out or words[0][0].isdigit():  # else a head line
                left_out.append(f"line {number} is not 8 numbers")
            continue
        if euroc:
            row[0] = int(words[0]) * 1e-9
        else:
            row[4:] = row[7], *row[4:7]
        found.append((f"line {number}", row))
    return _sorted(found, left_out)


def _sorted(named: list[tuple[str, list[float]]], left_out: list[str]) -> Rows:
    """Without what is no pose, and without what repeats a stamp."""
    kept: dict[float, list[float]] = {}
    for name, row in named:
        if not np.isfinite(row).all():
            left_out.append(f"{name} is not finite")
        elif not any(row[4:]):
            left_out.append(f"{name} has no rotation (a quaternion of zeros)")
        elif row[0] in kept:
            left_out.append(f"{name} repeats the stamp {row[0]:.9g}")
        else:
            kept[row[0]] = row
    rows = [kept[stamp] for stamp in sorted(kept)]
    return Rows(np.array(rows, np.float64).reshape(-1, 8), left_out)


def euroc_truth(folder: Path) -> Path:
    """The csv of a EuRoC recording, from its own folder or the folder of the recording."""
    truth = "state_groundtruth_estimate0/data.csv"
    for place in ("data.csv", truth, f"mav0/{truth}"):
        if (folder / place).is_file():
            return folder / place
    raise UserError(f"{folder} is neither a run directory, nor a bag, nor a EuRoC recording")


def _bag_rows(reader: BagReader, topic: str) -> Rows:
    """Poses of a topic at the stamps of the messages."""
    named, left_out = [], []
    connections = [connection for connection in reader.connections if connection.topic == topic]
    for number, (connection, _, raw) in enumerate(reader.messages(connections)):
        try:
            msg = reader.deserialize(raw, connection)
        except Exception as error:  # a damaged message may raise anything
            left_out.append(f"message {number} cannot be read ({error})")
            continue
        pose = getattr(msg, "pose", None) or msg.transform
        pose = getattr(pose, "pose", pose)  # with a covariance it is one level deeper
        p = pose.position if hasattr(pose, "position") else pose.translation
        q = pose.orientation if hasattr(pose, "orientation") else pose.rotation
        seconds = msg.header.stamp.sec + msg.header.stamp.nanosec * 1e-9
        named.append((f"message {number}", [seconds, p.x, p.y, p.z, q.w, q.x, q.y, q.z]))
    return _sorted(named, left_out)


def pose_topic(reader: BagReader, topic: str | None) -> str:
    known = sorted({c.topic for c in reader.connections if c.msgtype in POSES})
    if topic is not None and "/" + topic.strip("/") in known:
        return "/" + topic.strip("/")
    if topic is None and len(known) == 1:
        return known[0]
    if not known:
        kinds = ", ".join(kind.rpartition("/")[2] for kind in POSES)
        raise UserError(
            f"the bag has no poses ({kinds}); give one that has, a file in TUM or KITTI"
            " format, or another run"
        )
    raise UserError(f"choose --topic from: {', '.join(known)}")
