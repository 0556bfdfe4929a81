# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How far depth is from the true one: as it is, and after one scale per frame."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import UserError
from vggt_ros.tools.runs.format import Run, is_run, open_run


class DepthScores(NamedTuple):
    """Errors of depth over every pixel that both know."""

    abs_rel: float  # mean |z - truth| / truth
    delta: float  # share within a factor of 1.25
    scaled_abs_rel: float  # both again after one scale (median ratio) per frame
    scaled_delta: float
    pixels: int


def depth_scores(
    found: list[Float[np.ndarray, "_h _w"]], true: list[Float[np.ndarray, "_h _w"]]
) -> DepthScores:
    """Errors over all frames; each truth is sampled at the pixels of the depth it belongs to."""
    raw, scaled = [], []
    for ours, theirs in zip(found, true, strict=True):
        rows, columns = (
            np.arange(n) * m // n for n, m in zip(ours.shape, theirs.shape, strict=True)
        )
        theirs = theirs[np.ix_(rows, columns)]
        both = np.isfinite(ours) & (ours > 0) & np.isfinite(theirs) & (theirs > 0)
        if both.any():
            ratio = ours[both].astype(np.float64) / theirs[both]
            raw.append(ratio)
            scaled.append(ratio / np.median(ratio))
    if not raw:
        raise UserError("no pixel has both a depth and a true one")
    figures = []
    for ratios in (np.concatenate(raw), np.concatenate(scaled)):
        figures.append(float(np.mean(np.abs(ratios - 1.0))))
        figures.append(float(np.mean(np.maximum(ratios, 1.0 / ratios) < 1.25)))
    return DepthScores(*figures, pixels=sum(len(each) for each in raw))


def run_scores(run: Path, depth: Path, unit: float, max_difference: float) -> DepthScores:
    """Scores of a run directory against true depth, paired by stamps.

    `depth` is another run directory, or a folder of 16-bit pictures, `unit` steps to the metre.
    Raises `UserError` where there is nothing to pair.
    """
    truth = _true_depths(depth, unit)
    stamps = np.array(sorted(truth))
    found, true = [], []
    for shot in open_run(run).frames():
        nearest = int(stamps[np.argmin(np.abs(stamps - shot.stamp_ns))])
        if abs(nearest - shot.stamp_ns) <= max_difference * 1e9:
            found.append(shot.depth)
            true.append(truth[nearest]())
    if not found:
        raise UserError(f"no frame of {run} has a true depth within {max_difference} s in {depth}")
    return depth_scores(found, true)


def _true_depths(depth: Path, unit: float) -> dict[int, Callable[[], np.ndarray]]:
    """Stamp in nanoseconds -> a function that loads that frame."""
    if is_run(depth):
        other = open_run(depth)
        stamps = other.trajectory().stamps_ns
        return {int(ns): partial(_shot_depth, other, i) for i, ns in enumerate(stamps)}
    pictures = sorted(depth.glob("*.png"))
    try:
        stamps = [round(float(picture.stem) * 1e9) for picture in pictures]
    except ValueError as error:
        raise UserError(f"pictures in {depth} must be named by their seconds: {error}") from error
    if not pictures:
        raise UserError(f"{depth} holds no true depth: a run directory or 16-bit png files")
    return {ns: partial(_picture, path, unit) for ns, path in zip(stamps, pictures, strict=True)}


def _shot_depth(run: Run, index: int) -> np.ndarray:
    return run.frame(index).depth


def _picture(path: Path, unit: float) -> Float[np.ndarray, "h w"]:
    from PIL import Image

    return np.asarray(Image.open(path)).astype(np.float64) / unit
