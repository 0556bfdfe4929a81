# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation metrics of depth, relative poses and tracks, and a baseline without a network."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from vggt_ros.geometry import rotation_from_quaternion
from vggt_ros.model.vggt import Prediction
from vggt_ros.train.data import HELD_OUT, Batch, sample_window

ANGLE_LIMITS = (5, 15, 30)  # degrees
PIXEL_LIMITS = (1, 2, 4, 8, 16)  # of an image 256 wide, as in the TAP benchmarks
MIN_BASELINE = 0.01  # scene units; direction and length of a shorter translation do not count


class Metrics(NamedTuple):
    """Means over windows; shares and areas in percent."""

    frames: int
    abs_rel: float
    delta: float  # share of pixels within a factor of 1.25
    auc: tuple[float, float, float]  # of relative poses, at 5, 15, 30 degrees
    tracks: float  # delta_avg
    scale: float = np.nan  # percent by which depth and motion of a window disagree in scale
    calibration: float = np.nan  # rank correlation of confidence with small errors of depth

    def row(self, name: str) -> str:
        """One line of a table under `HEADER`."""
        auc = "".join(f"{value:>9.1f}" for value in self.auc)
        depth = f"{self.abs_rel:>10.3f}{self.delta:>10.1f}"
        more = f"{self.tracks:>9.1f}{self.scale:>9.1f}{self.calibration:>8.2f}"
        return f"{name:<10}{self.frames:>3}{depth}{auc}{more}"


HEADER = (
    f"{'':<10}{'S':>3}{'AbsRel':>10}{'d1.25 %':>10}"
    + "".join(f"{f'AUC@{limit}':>9}" for limit in ANGLE_LIMITS)
    + f"{'tracks':>9}{'scale %':>9}{'conf':>8}"
)
Predict = Callable[[Batch], Prediction]  # a batch of one window


def held_out(
    frames: int, height: int, width: int, count: int, queries: int = 32, rays: int = 2,
    views: int = 1,
) -> Iterator[Batch]:  # fmt: skip
    """Windows from seeds reserved for validation, each a batch of one, without augmentation.

    With several `views` the frames are those of a rig.
    """
    sizes = {
        "frames": frames, "height": height, "width": width, "queries": queries, "rays": rays,
        "views": views,
    }  # fmt: skip
    sample = jax.jit(partial(sample_window, **sizes, clean=True))
    for i in range(count):
        window = sample(jax.random.fold_in(jax.random.key(HELD_OUT), 1000 * frames + i))
        yield jax.tree.map(lambda x: x[None], window)


def measure(predict: Predict, windows: Iterator[Batch] | list[Batch]) -> Metrics:
    """Metrics over `windows`, which all have the same number of frames."""
    rows, frames = [], 0
    for batch in windows:
        out = jax.tree.map(np.asarray, predict(batch))
        truth = jax.tree.map(lambda x: np.asarray(x)[0], batch)
        frames = len(truth.depth)
        abs_rel, delta = depth_errors(out.depth[0], truth.depth, truth.valid)
        errors = pose_errors(out.pose_encoding[0], truth.pose_encoding)
        auc = [auc_at(errors, limit) for limit in ANGLE_LIMITS]
        tracks = np.nan
        if out.tracks is not None:
            pixels = 256 / truth.images.shape[2]
            tracks = track_share(out.tracks[0] * pixels, truth.tracks * pixels, truth.visible)
        scale = scale_error(
            out.pose_encoding[0], truth.pose_encoding, out.depth[0], truth.depth, truth.valid
        )
        calibration = np.nan
        if out.depth_confidence is not None:
            calibration = confidence_correlation(
                out.depth_confidence[0], out.depth[0], truth.depth, truth.valid
            )
        rows.append([abs_rel, 100 * delta, *auc, 100 * tracks, 100 * scale, calibration])
    # A window may have no moving pair or no visible track: its NaN is left out of the mean.
    means = [
        float(np.nanmean(column)) if np.isfinite(column).any() else np.nan
        for column in np.array(rows).T
    ]
    return Metrics(frames, *means[:2], (means[2], means[3], means[4]), *means[5:])


def constant_baseline(batch: Batch) -> Prediction:
    """The baseline: constant depth, identity poses, tracks that stay at their queries."""
    shape = batch.depth.shape
    identity = jnp.zeros((*shape[:2], 9)).at[..., 6].set(1.0).at[..., 7:].set(1.0)
    tracks = jnp.broadcast_to(batch.queries[:, None], batch.tracks.shape)
    return Prediction(pose_encoding=identity, depth=jnp.ones(shape), tracks=tracks)


def depth_errors(
    depth: Float[np.ndarray, "s h w"],
    truth: Float[np.ndarray, "s h w"],
    valid: Bool[np.ndarray, "s h w"],
) -> tuple[float, float]:
    """AbsRel and the share within 1.25, after scaling the window by the median ratio."""
    depth, truth = depth[valid], truth[valid]
    depth = depth * np.median(truth / depth)
    ratio = np.maximum(depth / truth, truth / depth)
    return float(np.mean(np.abs(depth - truth) / truth)), float(np.mean(ratio < 1.25))


def scale_error(
    encoding: Float[np.ndarray, "s 9"], true_encoding: Float[np.ndarray, "s 9"],
    depth: Float[np.ndarray, "s h w"], truth: Float[np.ndarray, "s h w"],
    valid: Bool[np.ndarray, "s h w"],
) -> float:  # fmt: skip
    """How far the scale of motion is from that of depth, as a log ratio without sign.

    NaN where no pair of frames has moved.
    """
    found, true = (
        np.linalg.norm(_relative_poses(e)[1], axis=-1) for e in (encoding, true_encoding)
    )
    moved = (true > MIN_BASELINE) & (found > 0)
    if not moved.any():
        return np.nan
    by_motion = np.median(np.log(true[moved] / found[moved]))
    return float(abs(by_motion - np.median(np.log(truth[valid] / depth[valid]))))


def confidence_correlation(
    confidence: Float[np.ndarray, "s h w"], depth: Float[np.ndarray, "s h w"],
    truth: Float[np.ndarray, "s h w"], valid: Bool[np.ndarray, "s h w"],
) -> float:  # fmt: skip
    """Spearman's rank correlation of confidence with how small the error of depth is.

    1: the surer the better; below 0: the surer pixels are the worse ones.
    """
    ratio = np.log(depth[valid] / truth[valid])
    error = np.abs(ratio - np.median(ratio))
    ranks = [np.argsort(np.argsort(values[::4])) for values in (confidence[valid], -error)]
    return float(np.corrcoef(ranks)[0, 1])


def pose_errors(
    encoding: Float[np.ndarray, "s 9"], truth: Float[np.ndarray, "s 9"]
) -> Float[np.ndarray, "p"]:
    """Degrees for each pair of frames: the larger error of rotation and translation direction.

    The direction counts with its sign (the official script ignores it); for a pair with a baseline
    below `MIN_BASELINE` only the rotation counts.
    """
    (turn, move), (true_turn, true_move) = _relative_poses(encoding), _relative_poses(truth)
    cosine = (np.einsum("pij,pij->p", turn, true_turn) - 1) / 2
    rotation = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    lengths = np.linalg.norm(move, axis=-1) * np.linalg.norm(true_move, axis=-1)
    cosine = (move * true_move).sum(-1) / np.maximum(lengths, 1e-12)
    direction = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    moved = np.linalg.norm(true_move, axis=-1) > MIN_BASELINE
    return np.where(moved, np.maximum(rotation, direction), rotation)


def auc_at(errors: Float[np.ndarray, "p"], limit: int) -> float:
    """Area (percent) under the curve of the share of pairs below x degrees, x from 0 to `limit`."""
    return float(100 * np.mean(np.clip(1 - errors / limit, 0, 1)))


def track_share(
    tracks: Float[np.ndarray, "s n 2"],
    truth: Float[np.ndarray, "s n 2"],
    visible: Bool[np.ndarray, "s n"],
) -> float:
    """delta_avg: share of visible points after frame 0 within 1, 2, 4, 8, 16 px; their mean."""
    error = np.linalg.norm(tracks - truth, axis=-1)[1:][visible[1:]]
    return (
        float(np.mean([np.mean(error < limit) for limit in PIXEL_LIMITS])) if error.size else np.nan
    )


def _relative_poses(encoding: Float[np.ndarray, "s 9"]) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and translations of b_from_a for all pairs of frames a < b."""
    encoding = np.asarray(encoding, np.float64)
    rotation, shift = rotation_from_quaternion(encoding[:, 3:7]), encoding[:, :3]
    a, b = np.triu_indices(len(encoding), k=1)
    turn = rotation[b] @ np.swapaxes(rotation[a], 1, 2)
    return turn, shift[b] - np.einsum("pij,pj->pi", turn, shift[a])
