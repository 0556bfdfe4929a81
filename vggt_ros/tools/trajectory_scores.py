# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors of a trajectory against ground truth, of a whole run and of each segment of its map."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from vggt_ros.errors import UserError
from vggt_ros.tools.runs.format import is_run, open_run
from vggt_ros.tools.truth_frames import turned_to_camera

if TYPE_CHECKING:
    from evo.core.trajectory import PoseTrajectory3D

SAME_STAMP = 1e-5  # seconds; as floats, stamps of today are exact to a quarter of a microsecond
PIECE_ONLY: dict[str, Any] = {"frames": 0.0}  # of a segment with too few frames to be scored
ALIGNMENTS = {"sim3": True, "se3": False}  # whether scale is free


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
    scores = {"frames": float(true.num_poses), "run_frames": float(estimate.num_poses)}
    scores["path"] = length
    scores |= turned_to_camera(true, found)
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


def scores_of_pieces(
    run: Path, estimate: "PoseTrajectory3D", reference: "PoseTrajectory3D", max_difference: float
) -> tuple[dict[str, float], dict[str, "PoseTrajectory3D"], list[dict[str, Any]]]:
    """Figures and trajectories as `trajectory_scores`, and the figures of each segment.

    Segments of a run are not tied to each other, so each is aligned by itself, without uncertain
    frames; the first result is that of the largest that can be.  One segment alone is scored with
    all frames of the run, and listed nowhere.
    """
    segments = open_run(run).segments() if is_run(run) else ()
    if len(segments) < 2:
        return *trajectory_scores(estimate, reference, max_difference), []
    best, pieces, reasons = None, [], []
    for number, frames in enumerate(segments):
        piece = PIECE_ONLY | {"segment": number, "run_frames": len(frames)}
        try:
            part = _part(estimate, open_run(run).trajectory().stamps_ns[frames])
            found = trajectory_scores(part, reference, max_difference)
            best = best or found
            piece |= found[0] | {"run_frames": len(frames)}
        except UserError as error:
            reasons.append(str(error))
        pieces.append(piece)
    if best is None:
        raise UserError(f"none of {len(segments)} segments can be scored: {reasons[0]}")
    return *best, pieces


def _part(estimate: "PoseTrajectory3D", stamps_ns: Int64[np.ndarray, "n"]) -> "PoseTrajectory3D":
    from copy import deepcopy

    part = deepcopy(estimate)
    seconds, wanted = np.asarray(part.timestamps), stamps_ns * 1e-9
    nearest = wanted[np.searchsorted((wanted[1:] + wanted[:-1]) / 2, seconds)]
    part.reduce_to_ids(np.flatnonzero(np.abs(seconds - nearest) < SAME_STAMP))
    return part


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
