# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How well a network sees rooms it was never shown: depth, poses, tracks, against doing nothing."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from vggt_ros.geometry import rotation_from_quaternion
from vggt_ros.model.vggt import Prediction
from vggt_ros.train.data import HELD_OUT, Batch, draw_window

LIMITS = (5, 15, 30)  # degrees
REACHES = (1, 2, 4, 8, 16)  # pixels of a picture 256 wide, as the TAP benchmarks count
STILL = 0.01  # a pair that moved less than this (scene units) has no direction to be wrong about


class Figures(NamedTuple):
    """Means over windows; shares and areas in percent."""

    frames: int
    abs_rel: float
    delta: float  # pixels within a factor of 1.25
    auc: tuple[float, float, float]  # of relative poses, up to 5, 15, 30 degrees
    tracks: float  # delta_avg

    def row(self, name: str) -> str:
        auc = "".join(f"{value:>9.1f}" for value in self.auc)
        depth = f"{self.abs_rel:>10.3f}{self.delta:>10.1f}"
        return f"{name:<10}{self.frames:>3}{depth}{auc}{self.tracks:>9.1f}"


HEADER = (
    f"{'':<10}{'S':>3}{'AbsRel':>10}{'d1.25 %':>10}"
    + "".join(f"{f'AUC@{limit}':>9}" for limit in LIMITS)
    + f"{'tracks':>9}"
)
Predict = Callable[[Batch], Prediction]  # a batch of one window


def held_out(
    frames: int, height: int, width: int, count: int, queries: int = 32, rays: int = 2
) -> Iterator[Batch]:
    """Windows from seeds that training never uses, each as a batch of one, by a clean camera."""
    draw = jax.jit(
        partial(draw_window, frames=frames, height=height, width=width, queries=queries, rays=rays,
                clean=True)
    )  # fmt: skip
    for i in range(count):
        window = draw(jax.random.fold_in(jax.random.key(HELD_OUT), 1000 * frames + i))
        yield jax.tree.map(lambda x: x[None], window)


def measure(predict: Predict, windows: Iterator[Batch] | list[Batch]) -> Figures:
    """Figures of one kind of window; all of `windows` have the same number of frames."""
    rows, frames = [], 0
    for batch in windows:
        out = jax.tree.map(np.asarray, predict(batch))
        truth = jax.tree.map(lambda x: np.asarray(x)[0], batch)
        frames = len(truth.depth)
        abs_rel, delta = depth_errors(out.depth[0], truth.depth, truth.valid)
        wrong = pose_errors(out.pose_encoding[0], truth.pose_encoding)
        auc = [area(wrong, limit) for limit in LIMITS]
        near = np.nan
        if out.tracks is not None:
            pixels = 256 / truth.images.shape[2]
            near = track_share(out.tracks[0] * pixels, truth.tracks * pixels, truth.visible)
        rows.append([abs_rel, 100 * delta, *auc, 100 * near])
    # A window may have no pair that moved or no track in sight: such figures do not count.
    means = [
        float(np.nanmean(column)) if np.isfinite(column).any() else np.nan
        for column in np.array(rows).T
    ]
    return Figures(frames, means[0], means[1], (means[2], means[3], means[4]), means[5])


def do_nothing(batch: Batch) -> Prediction:
    """The baseline: everything is equally far away, nobody moved, tracks stay where they began."""
    shape = batch.depth.shape
    still = jnp.zeros((*shape[:2], 9)).at[..., 6].set(1.0).at[..., 7:].set(1.0)
    tracks = jnp.broadcast_to(batch.queries[:, None], batch.tracks.shape)
    return Prediction(pose_encoding=still, depth=jnp.ones(shape), tracks=tracks)


def depth_errors(
    depth: Float[np.ndarray, "s h w"],
    truth: Float[np.ndarray, "s h w"],
    valid: Bool[np.ndarray, "s h w"],
) -> tuple[float, float]:
    """AbsRel and the share within 1.25, after one scale (median ratio) for the whole window."""
    depth, truth = depth[valid], truth[valid]
    depth = depth * np.median(truth / depth)
    ratio = np.maximum(depth / truth, truth / depth)
    return float(np.mean(np.abs(depth - truth) / truth)), float(np.mean(ratio < 1.25))


def pose_errors(
    encoding: Float[np.ndarray, "s 9"], truth: Float[np.ndarray, "s 9"]
) -> Float[np.ndarray, "p"]:
    """Degrees for each pair of frames: the worse of rotation and direction of translation.

    The direction counts with its sign (the official script forgives a half turn); a pair whose
    cameras share a place is judged by rotation alone.
    """
    (turn, move), (true_turn, true_move) = _relative(encoding), _relative(truth)
    cosine = (np.einsum("pij,pij->p", turn, true_turn) - 1) / 2
    rotation = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    lengths = np.linalg.norm(move, axis=-1) * np.linalg.norm(true_move, axis=-1)
    cosine = (move * true_move).sum(-1) / np.maximum(lengths, 1e-12)
    direction = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    moved = np.linalg.norm(true_move, axis=-1) > STILL
    return np.where(moved, np.maximum(rotation, direction), rotation)


def area(errors: Float[np.ndarray, "p"], limit: int) -> float:
    """Percent under the curve of "share of pairs below x degrees", x from 0 to `limit`."""
    return float(100 * np.mean(np.clip(1 - errors / limit, 0, 1)))


def track_share(
    tracks: Float[np.ndarray, "s n 2"],
    truth: Float[np.ndarray, "s n 2"],
    visible: Bool[np.ndarray, "s n"],
) -> float:
    """delta_avg: share of points in sight, after frame 0, within 1, 2, 4, 8, 16 px; their mean."""
    wrong = np.linalg.norm(tracks - truth, axis=-1)[1:][visible[1:]]
    return float(np.mean([np.mean(wrong < reach) for reach in REACHES])) if wrong.size else np.nan


def _relative(encoding: Float[np.ndarray, "s 9"]) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation of b_from_a for all frames a < b."""
    encoding = np.asarray(encoding, np.float64)
    rotation, shift = rotation_from_quaternion(encoding[:, 3:7]), encoding[:, :3]
    a, b = np.triu_indices(len(encoding), k=1)
    turn = rotation[b] @ np.swapaxes(rotation[a], 1, 2)
    return turn, shift[b] - np.einsum("pij,pj->pi", turn, shift[a])
