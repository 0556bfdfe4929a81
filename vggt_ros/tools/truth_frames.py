# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a ground truth has the poses of: the camera, or a robot's base or an IMU that carries it.

Motions from frame to frame are compared in the axes of what moves, so that x ahead and z ahead are
no match, and a camera beside the axis of a turn is not where the base is. Where a recording says
how the camera is mounted, the truth is moved to it; else its axes are turned to the camera's, if
rotations and displacements of both agree that they are others.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import UserError
from vggt_ros.geometry import inverse_rigid, nearest_rotation, rotation_angle
from vggt_ros.tools.runs.format import is_run, open_run
from vggt_ros.tools.sources.bag_reader import is_bag, reading
from vggt_ros.tools.sources.static_frames import static_frames
from vggt_ros.tools.trajectories import euroc_truth, pose_topic

if TYPE_CHECKING:
    from evo.core.trajectory import PoseTrajectory3D

Pose = Float[np.ndarray, "4 4"]
SAME, OTHER = 0.8, 0.5  # correlation of motions in the same axes, and in axes that are not
TURNS = np.radians(1.0)  # rotation between two compared poses from which it says something
PARTS = 12  # of a trajectory between which motions are compared
FEW = 8  # motions; fewer agree by chance
ROUNDS = 10  # of finding by turns the axes and the arm from base to camera


class Mount(NamedTuple):
    """Where the camera is on what the truth is of."""

    body_from_camera: Pose
    about: str


def move_to_camera(
    reference: "PoseTrajectory3D", truth: Path, topic: str | None, run: Path, notes: list[str]
) -> None:
    """Make the poses of a truth those of the run's camera, where its mount is known.

    `notes` get a line on it.
    """
    mount = _euroc_mount(truth, run)
    if mount is None and truth.exists() and is_bag(truth):
        mount = _bag_mount(truth, topic, run, notes)
    if mount is None or np.allclose(mount.body_from_camera, np.eye(4), atol=1e-9):
        return
    reference.transform(mount.body_from_camera, right_mul=True)
    distance = np.linalg.norm(mount.body_from_camera[:3, 3])
    turned = np.degrees(rotation_angle(mount.body_from_camera[:3, :3]))
    notes.append(
        f"{truth}: poses of {mount.about}, moved to the camera, which is {distance:.3f} m from it"
        f" and turned by {turned:.0f} degrees"
    )


def turned_to_camera(true: "PoseTrajectory3D", found: "PoseTrajectory3D") -> dict[str, float]:
    """Turn the axes of the truth to the camera's, where motions show that they are others.

    Both have the same number of poses. Returns the angle by name, in degrees: `truth_turned`, or
    `truth_other_axes` where only displacements say so, and nothing is turned; else nothing.
    """
    step = max(1, true.num_poses // PARTS)
    between, true_turns = _motions(true, step)
    found_between, turns = _motions(found, step)
    if len(between) < FEW:
        return {}
    rotating = float(np.sqrt((true_turns**2).sum(1).mean())) > TURNS
    moves, arm = found_between[:, :3, 3], np.zeros(3)
    for _ in range(ROUNDS if rotating else 1):
        # What the camera moves since it is an arm's length away from the base: (R - I) arm.
        swing = between[:, :3, :3] - np.eye(3)
        parts = [_unit(between[:, :3, 3] + swing @ arm, moves)]
        parts += [_unit(true_turns, turns)] if rotating else []
        turn = nearest_rotation(sum(a.T @ b for a, b in parts))
        equations = np.concatenate([-swing, (moves @ turn.T)[..., None]], axis=2).reshape(-1, 4)
        arm = np.linalg.lstsq(equations, between[:, :3, 3].ravel())[0][:3]
    agree = min(_correlation(a, b @ turn.T) for a, b in parts)
    as_it_is = max(_correlation(a, b) for a, b in parts)
    if agree < SAME or as_it_is > OTHER:
        return {}
    degrees = float(np.degrees(rotation_angle(turn)))
    if not rotating:
        return {"truth_other_axes": degrees}
    body_from_camera = np.eye(4)
    body_from_camera[:3, :3] = turn
    true.transform(body_from_camera, right_mul=True)
    return {"truth_turned": degrees}


def turn_line(scores: dict[str, float]) -> list[str]:
    """What `turned_to_camera` has found, for the user; no line where that is nothing."""
    if (degrees := scores.get("truth_turned")) is not None:
        return [
            f"the axes of the ground truth are turned by {degrees:.0f} degrees from the camera's,"
            " as those of a robot's base are: RPE is in the camera's axes, by a turn that was found"
            " from the motion of both; the distance between base and camera stays an error"
        ]
    if "truth_other_axes" in scores:
        return [
            "warning: the ground truth moves along other axes than the run, and hardly turns: if it"
            " is of a robot's base, RPE does not hold; give poses of the camera's optical frame"
        ]
    return []


def _motions(trajectory: "PoseTrajectory3D", step: int) -> tuple[np.ndarray, np.ndarray]:
    """Motions over so many poses, in the axes of what moves, and their rotation vectors."""
    from evo.core.lie_algebra import so3_log

    poses = np.array(trajectory.poses_se3)
    between = inverse_rigid(poses[:-step]) @ poses[step:]
    turns = [so3_log(np.array(nearest_rotation(each[:3, :3]))) for each in between]
    return between, np.array(turns).reshape(-1, 3)


def _unit(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both divided by their root mean square length."""
    lengths = (float(np.sqrt((each**2).sum(1).mean())) for each in (a, b))
    first, second = (max(length, 1e-12) for length in lengths)
    return a / first, b / second


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


# ---- mounts


def _euroc_mount(truth: Path, run: Path) -> Mount | None:
    """By the sensor.yaml of the run's camera, else of cam0, beside that of the truth."""
    if truth.is_dir() and not is_bag(truth) and not is_run(truth):
        truth = euroc_truth(truth)
    root = truth.parent.parent
    if truth.suffix != ".csv" or not root.is_dir():
        return None
    camera, assumed = _camera_below(root, run)
    body_from_camera = _sensor(root / camera / "sensor.yaml")
    if body_from_camera is None:
        return None
    body_from_truth = _sensor(truth.parent / "sensor.yaml")
    if body_from_truth is not None:
        body_from_camera = inverse_rigid(body_from_truth) @ body_from_camera
    return Mount(body_from_camera, f"the body by {camera}/sensor.yaml{assumed}")


def _camera_below(root: Path, run: Path) -> tuple[str, str]:
    """The folder of the run's camera in a EuRoC recording, and whether that was assumed."""
    if is_run(run):
        source = open_run(run).summary.get("source", {})
        place = source.get("cameras", {}).get(open_run(run).reference, "")
        path = Path(source.get("path", "")).resolve() / place
        if path.is_relative_to(root.resolve()) and path != root.resolve():
            return path.relative_to(root.resolve()).parts[0], ""
    return "cam0", " (the run's images are taken as cam0's)"


def _sensor(path: Path) -> Pose | None:
    """T_BS of a sensor.yaml, body_from_sensor; None where the file is missing or has none."""
    from ruamel.yaml import YAML, YAMLError

    try:
        data = YAML(typ="safe").load(path.read_text())["T_BS"]["data"]
        pose = np.array(data, np.float64).reshape(4, 4)
    except FileNotFoundError:
        return None
    except (YAMLError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has no T_BS that can be read ({error}); repair or remove it"
        ) from None
    pose[:3, :3] = nearest_rotation(pose[:3, :3])
    return pose


def _bag_mount(truth: Path, topic: str | None, run: Path, notes: list[str]) -> Mount | None:
    """By the bag's /tf_static, of the frame that the poses are of and that of the run's images."""
    camera = _optical_frame(run)
    with reading(truth, []) as bag:
        chosen = pose_topic(bag, topic)
        connections = [c for c in bag.connections if c.topic == chosen]
        _, _, raw = next(bag.messages(connections), (None, 0, b""))
        message = bag.deserialize(raw, connections[0]) if raw else None
        body = str(getattr(message, "child_frame_id", "")).lstrip("/")
        if not camera or not body or body == camera:
            return None
        pose = static_frames(bag, notes).lookup(body, camera)
    if pose is None:
        notes.append(
            f"{truth}: poses of '{body}', and /tf_static does not connect it with the images'"
            f" '{camera}': the distance between both stays an error"
        )
        return None
    return Mount(pose, f"'{body}' by /tf_static")


def _optical_frame(run: Path) -> str:
    """The frame_id of the images of a run; of a rig its reference's; empty: not known."""
    if not is_run(run):
        return ""
    opened = open_run(run)
    for camera in opened.summary.get("rig", {}).get("cameras", ()):
        if camera["name"] == opened.reference:
            return camera["optical_frame"]
    return opened.summary.get("source", {}).get("frame", "")
