# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the images have a rig's cameras, against the /tf_static of a recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vggt_ros.geometry import rotation_angle
from vggt_ros.tools.runs.format import Run, is_run, open_run
from vggt_ros.tools.sources.bag_reader import is_bag, reading
from vggt_ros.tools.sources.static_frames import static_frames

NO_DIRECTION = 0.01  # metres between two cameras, below which there is none


class CameraScore(NamedTuple):
    """One camera, as seen from the reference; None: not known."""

    camera: str
    windows: int  # that the estimate rests on
    turned_degrees: float | None = None  # between its axes by the images and by /tf_static
    aside_degrees: float | None = None  # between the directions to it
    distance: float | None = None  # metres by /tf_static
    found: float | None = None  # by the images, in the run's unit
    metric: bool = False  # that unit is the metre
    reason: str = ""  # why it is not scored


def scores_of_run(run: Path, truth: Path, notes: list[str]) -> list[CameraScore]:
    """Of a run of a rig and a bag, with a table in `notes`; none of anything else."""
    if not is_run(run) or not truth.exists() or not is_bag(truth):
        return []
    opened = open_run(run)
    scores = rig_scores(opened, truth, notes) if opened.reference else []
    if scores:
        notes.append(rig_table(scores, opened.reference))
    return scores


def rig_scores(run: Run, bag: Path, notes: list[str]) -> list[CameraScore]:
    """Of every camera but the reference; `notes` get what is wrong with the transforms."""
    with reading(bag, []) as opened:
        frames = static_frames(opened, notes)
    cameras = run.summary["rig"]["cameras"]
    (reference,) = (each for each in cameras if each["name"] == run.reference)
    scores = []
    for each in cameras:
        score = CameraScore(each["name"], each["windows"], metric=each["metric"])
        known = frames.lookup(reference["optical_frame"], each["optical_frame"])
        if each is reference:
            continue
        if each["by_images"] is None:
            scores.append(score._replace(reason="no window has measured it"))
            continue
        if known is None or not each["optical_frame"]:
            frame = f"'{each['optical_frame']}' with '{reference['optical_frame']}'"
            scores.append(score._replace(reason=f"/tf_static does not connect {frame}"))
            continue
        seen = np.array(each["by_images"])
        turned = np.degrees(rotation_angle(seen[:3, :3].T @ known[:3, :3]))
        distance, found = (float(np.linalg.norm(pose[:3, 3])) for pose in (known, seen))
        aside = None
        if distance > NO_DIRECTION and found > 0:
            cosine = np.clip(seen[:3, 3] @ known[:3, 3] / (distance * found), -1.0, 1.0)
            aside = round(float(np.degrees(np.arccos(cosine))), 3)
        scores.append(
            score._replace(
                turned_degrees=round(float(turned), 3),
                aside_degrees=aside,
                distance=round(distance, 4),
                found=round(found, 4),
            )  # fmt: skip
        )
    return scores


def rig_table(scores: Sequence[CameraScore], reference: str) -> str:
    """The scores as text."""
    lines = [
        f"cameras by the images against /tf_static, as seen from {reference}:",
        f"{'camera':<12}{'turned':>9}{'aside':>9}{'distance':>10}{'found':>9}{'windows':>9}",
    ]
    for score in scores:
        if score.reason:
            lines.append(f"{score.camera:<12}  {score.reason}")
            continue
        aside = "-" if score.aside_degrees is None else f"{score.aside_degrees:.1f} deg"
        found = f"{score.found:.3f}" + (" m" if score.metric else "  ")
        lines.append(
            f"{score.camera:<12}{score.turned_degrees:>5.1f} deg{aside:>9}"
            f"{score.distance:>8.3f} m{found:>9}{score.windows:>9}"
        )
    if not all(score.metric or score.reason for score in scores):
        lines.append("the run is not in metres: distances found are in its own unit")
    return "\n".join(lines)
