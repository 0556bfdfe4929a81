# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors of depth against ground truth, unscaled and after one scale per frame."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import UserError
from vggt_ros.tools.runs.format import Run, is_run, open_run
from vggt_ros.tools.runs.whole_images import whole_depth
from vggt_ros.tools.sources.images import natural, stamps_from_names


class DepthScores(NamedTuple):
    """Errors of depth over all pixels that are valid in both."""

    abs_rel: float  # mean |z - truth| / truth
    delta: float  # share within a factor of 1.25
    scaled_abs_rel: float  # both after one scale per frame (median ratio)
    scaled_delta: float
    pixels: int
    frames: int  # that have a true depth


def depth_scores(
    found: list[Float[np.ndarray, "_h _w"]], true: list[Float[np.ndarray, "_h _w"]]
) -> DepthScores:
    """Errors over all frames; true depth is sampled at the pixels of the depth of the run."""
    raw, scaled = [], []
    for depth, true_depth in zip(found, true, strict=True):
        rows, columns = (
            (2 * np.arange(n) + 1) * m // (2 * n)  # at the middle of our pixels
            for n, m in zip(depth.shape, true_depth.shape, strict=True)
        )
        true_depth = true_depth[np.ix_(rows, columns)]
        valid = np.isfinite(depth) & (depth > 0) & np.isfinite(true_depth) & (true_depth > 0)
        if valid.any():
            ratio = depth[valid].astype(np.float64) / true_depth[valid]
            raw.append(ratio)
            scaled.append(ratio / np.median(ratio))
    if not raw:
        raise UserError("no pixel has both a depth and a true one")
    figures = []
    for ratios in (np.concatenate(raw), np.concatenate(scaled)):
        figures.append(float(np.mean(np.abs(ratios - 1.0))))
        figures.append(float(np.mean(np.maximum(ratios, 1.0 / ratios) < 1.25)))
    return DepthScores(*figures, pixels=sum(len(each) for each in raw), frames=len(raw))


def run_scores(run: Path, depth: Path, unit: float, max_difference: float) -> DepthScores:
    """Scores of a run directory against true depth, matched by stamps.

    `depth` is another run directory, or a folder of 16-bit images with `unit` steps to the metre,
    named by their seconds, or by whole ns, us or ms.  Raises `UserError` if no frame has a match
    within `max_difference` seconds, and for images that are no depth.
    """
    truth = _true_depths(depth, unit)
    stamps = np.array(sorted(truth))
    found, true = [], []
    opened = open_run(run)
    for frame in map(opened.frame, opened.body_frames()):  # of a rig its reference alone
        nearest = int(stamps[np.argmin(np.abs(stamps - frame.stamp_ns))])
        if abs(nearest - frame.stamp_ns) <= max_difference * 1e9:
            found.append(frame.depth if is_run(depth) else whole_depth(frame))
            true.append(truth[nearest]())
    if not found:
        raise UserError(f"no frame of {run} has a true depth within {max_difference} s in {depth}")
    return depth_scores(found, true)


def _true_depths(depth: Path, unit: float) -> dict[int, Callable[[], np.ndarray]]:
    """Stamp in nanoseconds -> a function that loads that frame."""
    if is_run(depth):
        other = open_run(depth)
        stamps = other.trajectory().stamps_ns
        return {int(stamps[i]): partial(_run_depth, other, i) for i in other.body_frames()}
    images = sorted(depth.glob("*.png"), key=lambda path: natural(path.name))
    named = stamps_from_names([image.stem for image in images]) if images else None
    try:
        stamps = named.stamps_ns if named else [round(float(i.stem) * 1e9) for i in images]
    except ValueError as error:
        raise UserError(f"images in {depth} must be named by their seconds: {error}") from error
    if not images:
        raise UserError(f"{depth} holds no true depth: a run directory or 16-bit png files")
    return {ns: partial(_depth_image, path, unit) for ns, path in zip(stamps, images, strict=True)}


def _run_depth(run: Run, index: int) -> np.ndarray:
    return run.frame(index).depth


def _depth_image(path: Path, unit: float) -> Float[np.ndarray, "h w"]:
    from PIL import Image

    with Image.open(path) as image:
        if not image.mode.startswith("I"):
            raise UserError(
                f"{path} has the mode {image.mode}, and true depth has 16 bits of one channel: give"
                " the depth itself, not an image of it in 8 bits or colours"
            )
        return np.asarray(image).astype(np.float64) / unit
