# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval RUN TRUTH`: errors of a run against ground truth, with the scale free and fixed.

Trajectories are compared by the `evo` package: ATE is the root mean square distance of positions
after one alignment, RPE the error of the motion from frame to frame. Alignment by Sim(3) removes an
error of scale, alignment by SE(3) does not: only a run in metres can be accurate there. A truth of
a robot's base or an IMU is moved to the camera where that is known (`truth_frames`).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.depth_scores import DepthScores, run_scores
from vggt_ros.tools.kitti_truth import read_kitti
from vggt_ros.tools.option_sets import check_limits, refuse_unused
from vggt_ros.tools.rig_scores import scores_of_run
from vggt_ros.tools.runs.format import is_run
from vggt_ros.tools.sources.bag_reader import is_bag
from vggt_ros.tools.trajectories import read_trajectory
from vggt_ros.tools.trajectory_scores import scores_of_pieces
from vggt_ros.tools.truth_frames import move_to_camera, turn_line

if TYPE_CHECKING:
    from evo.core.trajectory import PoseTrajectory3D

MOST = 0.9  # share of frames with ground truth, below which that is said
ROOMS = "rooms"  # ground truth of synthetic rooms


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
    other: int = 0,
    width: int = 0,
    height: int = 0,
    out: Path | None = None,
) -> int:
    """Score a run directory (or a TUM file) against ground truth, or a network in synthetic rooms.

    Of a rig's run, a bag with /tf_static also tells how far each camera is from where it is
    mounted, by the images; its poses, where it has any, are those of the rig's first camera.

    `vggt eval small rooms` renders rooms that are not in the training data and compares depth,
    relative poses and tracks with their ground truth, next to a trivial baseline; `--other 4` adds
    clips of another renderer.

    Args:
        run: directory that `vggt run` wrote, or a trajectory in TUM format; for rooms, a network.
        truth: TUM or KITTI text, EuRoC csv or recording, rosbag2 or ROS 1 bag, another run, or
            `rooms`.
        topic: topic of the poses in a bag (PoseStamped, Odometry, ...), if there are several.
        max_difference: maximum time between a frame and its ground truth, in seconds.
        depth: true depth: a run directory, or 16-bit images named by their seconds (TUM RGB-D), or
            by whole ns, us or ms.
        depth_unit: steps of such an image per metre.
        windows: number of rooms of each length.
        lengths: frames of the window in a room.
        other: clips of each motion (robot, arc, orbit, handheld, stereo) of another renderer, which
            no training sees; made once, seconds a frame, by Mitsuba (extra `judge`).
        width: width of the images of rooms, in network pixels; 0 is the width of the network.
        height: height of the images of rooms; 0 is three quarters of the width.
        out: folder of errors.json and errors.png; by default the run.
    """
    any_size = (0, math.inf)
    check_limits(locals(), max_difference=any_size, other=any_size, width=any_size, height=any_size)
    refuse_unused(evaluate, locals(), _unused(run, truth, depth))
    if str(truth) == ROOMS:
        return _in_rooms(str(run), windows, lengths, (height, width), other, out)
    notes: list[str] = []
    folder = out or (run if run.is_dir() else run.parent)
    rig = scores_of_run(run, truth, notes)
    estimate = read_trajectory(run, None, notes)
    try:
        reference = read_kitti(truth, run)
        if reference is None:
            reference = read_trajectory(truth, topic, notes)
    except UserError as error:
        if not any(score.turned_degrees is not None for score in rig) or topic is not None:
            raise
        if depth is not None:
            raise UserError(
                f"--depth is scored beside a trajectory, and there is none ({error}): leave it out"
            ) from None
        print("\n".join([*notes, f"no trajectory is scored: {error}"]))
        _write(folder, {"rig": [score._asdict() for score in rig], "notes": notes})
        return 0
    move_to_camera(reference, truth, topic, run, notes)
    scores, pairs, pieces = scores_of_pieces(run, estimate, reference, max_difference)
    notes += [*turn_line(scores), *few_line(scores, max_difference)]
    if depth is None and is_run(truth):
        depth = truth
    depths = None
    if depth is not None and is_run(run):  # a truth that is a run has depth as well
        depths = run_scores(run, depth, depth_unit, max_difference)
    print("\n".join([*notes, *pieces_table(pieces, estimate.num_poses), table(scores, depths)]))
    report: dict[str, Any] = {**scores, "depth": depths._asdict() if depths else None}
    report |= {"segments": pieces, "notes": notes, "rig": [score._asdict() for score in rig]}
    _write(folder, report)
    plot(pairs, folder / "errors.png")
    print(f"written: {folder / 'errors.png'}")
    return 0


def _unused(run: Path, truth: Path, depth: Path | None) -> dict[str, str]:
    """Options without effect, and what to do instead."""
    if str(truth) == ROOMS:
        text = "is of runs, and rooms are of a network: leave it out"
        return dict.fromkeys(("topic", "max_difference", "depth", "depth_unit"), text)
    text = "is of rooms (vggt eval MODEL rooms), and this is a run: leave it out"
    unused: dict[str, str] = {}
    unused |= dict.fromkeys(("windows", "lengths", "other", "width", "height"), text)
    if truth.exists() and not is_bag(truth):
        unused["topic"] = f"is of bags, and {truth} is none: leave it out"
    if not is_run(run):
        unused["depth"] = f"is of run directories, and {run} is a trajectory: give the run itself"
    if depth is None or is_run(depth):
        unused["depth_unit"] = "is of 16-bit images: name their folder with --depth"
    return unused


def _write(folder: Path, report: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "errors.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {folder / 'errors.json'}")


def _in_rooms(
    model: str, windows: int, lengths: tuple[int, ...], size: tuple[int, int], other: int,
    out: Path | None,
) -> int:  # fmt: skip
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
    found = score(model, windows, lengths, size, other)
    print(lines(found))
    if not other:
        print("--other 4 adds clips of another renderer, which training never sees (extra judge)")
    if out is not None:
        _write(out, {name: [row._asdict() for row in rows] for name, rows in found.items()})
    return 0


# ---- output -------------------------------------------------------------------------------------


def pieces_table(pieces: Sequence[dict[str, Any]], frames: int) -> list[str]:
    """Lines on the segments of a run; none where there is one."""
    if not pieces:
        return []
    first = next(piece["segment"] for piece in pieces if piece["frames"])
    lines = [
        f"warning: {len(pieces)} segments that nothing ties together, of {frames} frames: each is"
        f" aligned by itself; the figures below are of segment {first} alone",
        f"{'segment':<9}{'frames':>7}{'path [m]':>10}{'ATE Sim(3)':>12}{'of path':>10}{'scale':>9}",
    ]
    for piece in pieces:
        head = f"{piece['segment']:<9}{piece['run_frames']:>7}"
        lines.append(
            f"{head}{piece['path']:>10.2f}{piece['ate_sim3']:>12.4f}"
            f"{piece['ate_sim3_percent']:>9.2f}%{piece['scale']:>9.4f}"
            if piece["frames"]
            else f"{head}   too few frames have ground truth"
        )
    return lines


def few_line(scores: dict[str, float], max_difference: float) -> list[str]:
    """What the user should know where figures are of a part of the frames."""
    count, total = scores["frames"], scores["run_frames"]
    if count >= MOST * total:
        return []
    return [
        f"warning: {count:.0f} of {total:.0f} frames have ground truth within {max_difference:g} s,"
        " and the figures are of these alone: do both use one clock (stamps of images that were"
        " assumed: vggt run --rate)? --max-difference allows more"
    ]


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
            f"{'depth':<14}{'AbsRel':>8}{'< 1.25':>9}   of {depths.frames} frames",
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
