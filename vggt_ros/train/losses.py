# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses of cameras, depth, points and tracks, as pure functions of arrays.

The terms are those of the public VGGT training; lengths are in units of the scene's mean distance
to the first camera, tracks in pixels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vggt_ros.geometry import extrinsics_from_pose_encoding
from vggt_ros.model.vggt import Prediction
from vggt_ros.train.config import Loss
from vggt_ros.train.data import Batch
from vggt_ros.train.metrics import MIN_BASELINE

MAX_ERROR = 100.0  # larger errors are clipped, so that one broken window does not dominate a batch
EPSILON = 1e-6
SOFT = 1e-3  # scene units, added to lengths: a translation near zero has no steep gradient


def total(
    prediction: Prediction,
    batch: Batch,
    weights: Loss,
    matches: Float[Array, "b s n"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The weighted sum over the enabled heads, and its parts by name.

    `matches` is the result of `infonce.negative_log_likelihood`, for recipes that weight it.
    """
    parts: dict[str, Array] = {}
    loss = jnp.float32(0.0)
    if prediction.pose_encodings is not None:
        shares = weights.translation, weights.rotation, weights.view
        parts["camera"], parts["translation"], parts["rotation"], parts["view"] = camera_loss(
            prediction.pose_encodings, batch.pose_encoding, weights.decay, shares
        )
        loss += weights.camera * parts["camera"]
        if weights.pairs:
            parts["pairs"] = pairs_loss(prediction.pose_encodings[-1], batch.pose_encoding)
            loss += weights.pairs * parts["pairs"]
    dense = {
        "depth": (prediction.depth, prediction.depth_confidence, batch.depth, weights.depth),
        "points": (prediction.points, prediction.points_confidence, batch.points, weights.points),
    }
    for name, (values, confidence, truth, weight) in dense.items():
        if values is None or confidence is None:
            continue
        error = values - truth if values.ndim == 5 else (values - truth)[..., None]
        weighted = confidence_loss(error, confidence, batch.valid, weights.alpha)
        edges = gradient_loss(error, batch.valid)
        parts |= {name: weighted, f"{name}_edges": edges}
        loss += weight * (weighted + weights.gradient * edges)
    tracks, visibility = prediction.track_iterations, prediction.visibility
    confidence = prediction.track_confidence
    if tracks is not None and visibility is not None and confidence is not None:
        near = batch.images.shape[3] / 64
        position, visible, confident = track_losses(
            tracks, visibility, confidence, batch.tracks, batch.visible, near, weights.decay
        )
        parts |= {"tracks": position, "visibility": visible, "track_confidence": confident}
        loss += weights.tracks * (position + 2 * visible + confident)
    if matches is not None:
        parts["matches"] = match_loss(matches, batch.visible)
        loss += weights.matches * parts["matches"]
    return loss, parts


def camera_loss(
    encodings: Float[Array, "i b s 9"],
    truth: Float[Array, "b s 9"],
    decay: float,
    shares: tuple[float, float, float] = (1.0, 1.0, 0.5),
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """L1 of translation, quaternion and fields of view: the sum weighted by `shares`, then each."""
    error = jnp.minimum(jnp.abs(encodings - truth), MAX_ERROR)
    translation, rotation, view = (
        over_iterations(part.mean((1, 2, 3)), decay)
        for part in (error[..., :3], error[..., 3:7], error[..., 7:])
    )
    camera = shares[0] * translation + shares[1] * rotation + shares[2] * view
    return camera, translation, rotation, view


def pairs_loss(encoding: Float[Array, "b s 9"], truth: Float[Array, "b s 9"]) -> Float[Array, ""]:
    """Errors of rotation and of the direction of translation between any two frames.

    Both as chords, about radians while they are small.  This is what AUC scores: to the L1 of the
    camera term a short translation in a wrong direction is a small error.
    """
    (turn, move), (true_turn, true_move) = relative_poses(encoding), relative_poses(truth)
    # |R - R'| (Frobenius) is 2 sqrt(2) sin(angle / 2).
    rotation = jnp.sqrt(((turn - true_turn) ** 2).sum((-1, -2)) / 2 + 1e-12).mean()
    length, true_length = (jnp.sqrt((x**2).sum(-1) + SOFT**2) for x in (move, true_move))
    apart = move / length[..., None] - true_move / true_length[..., None]
    direction = jnp.sqrt((apart**2).sum(-1) + 1e-12)
    return rotation + masked_mean(direction, true_length > MIN_BASELINE)


def relative_poses(encoding: Float[Array, "b s 9"]) -> tuple[Array, Array]:
    """Rotations [b p 3 3] and translations [b p 3] of later_from_earlier, for all pairs."""
    camera = extrinsics_from_pose_encoding(encoding)
    rotation, shift = camera[..., :3], camera[..., 3]
    a, b = jnp.triu_indices(encoding.shape[1], k=1)
    turn = rotation[:, b] @ jnp.swapaxes(rotation[:, a], -1, -2)
    return turn, shift[:, b] - (turn @ shift[:, a, :, None])[..., 0]


def over_iterations(losses: Float[Array, "i"], decay: float) -> Float[Array, ""]:
    """Sum over iterations k of n, weighted by decay^(n - 1 - k) / n: most for the last one."""
    count = losses.shape[0]
    return (losses * decay ** jnp.arange(count - 1, -1, -1)).sum() / count


def confidence_loss(
    error: Float[Array, "b s h w c"],
    confidence: Float[Array, "b s h w"],
    valid: Bool[Array, "b s h w"],
    alpha: float,
) -> Float[Array, ""]:
    """confidence * |error| - alpha * log(confidence): confidence pays where errors are small."""
    length = jnp.minimum(_norm(error), MAX_ERROR)
    return masked_mean(confidence * length - alpha * jnp.log(confidence), valid)


def gradient_loss(
    error: Float[Array, "b s h w c"],
    valid: Bool[Array, "b s h w"],
    scales: Sequence[int] = (1, 2, 4, 8),
) -> Float[Array, ""]:
    """Differences of the error between neighbours at several strides: edges and flat faces.

    Mean over the scales of the mean absolute difference along rows plus that along columns.
    """
    terms = []
    for stride in scales:
        e, ok = error[:, :, ::stride, ::stride], valid[:, :, ::stride, ::stride]
        across = jnp.abs(e[:, :, :, 1:] - e[:, :, :, :-1]).sum(-1)
        down = jnp.abs(e[:, :, 1:] - e[:, :, :-1]).sum(-1)
        terms += [
            masked_mean(jnp.minimum(across, MAX_ERROR), ok[:, :, :, 1:] & ok[:, :, :, :-1]),
            masked_mean(jnp.minimum(down, MAX_ERROR), ok[:, :, 1:] & ok[:, :, :-1]),
        ]
    return sum(terms, jnp.float32(0.0)) / len(scales)


def track_losses(
    tracks: Float[Array, "i b s n 2"],
    visibility: Float[Array, "b s n"],
    confidence: Float[Array, "b s n"],
    truth: Float[Array, "b s n 2"],
    visible: Bool[Array, "b s n"],
    near: float,
    decay: float,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """L1 (pixels) of visible points; cross entropies of visibility and of an error below `near`.

    Iterations are weighted as in `over_iterations`: positions pass no gradient from one iteration
    to the one before it, so each has a loss of its own.
    """
    error = jnp.minimum(jnp.abs(tracks - truth).sum(-1), 10 * MAX_ERROR)
    position = over_iterations(jax.vmap(masked_mean, (0, None))(error, visible), decay)
    close = jnp.linalg.norm(jax.lax.stop_gradient(tracks[-1]) - truth, axis=-1) < near
    everywhere = jnp.ones_like(visible)
    seen = masked_mean(_cross_entropy(visibility, visible), everywhere)
    return position, seen, masked_mean(_cross_entropy(confidence, close & visible), everywhere)


def match_loss(nll: Float[Array, "b s n"], visible: Bool[Array, "b s n"]) -> Float[Array, ""]:
    """Mean negative log likelihood of visible points, in the frames after the query frame."""
    return masked_mean(nll[:, 1:], visible[:, 1:])


def _cross_entropy(share: Float[Array, "*b"], truth: Bool[Array, "*b"]) -> Float[Array, "*b"]:
    share = jnp.clip(share, EPSILON, 1 - EPSILON)
    return -jnp.where(truth, jnp.log(share), jnp.log(1 - share))


def _norm(error: Float[Array, "*b c"]) -> Float[Array, "*b"]:
    """Euclidean norm with a finite gradient at zero; the absolute value for one component."""
    if error.shape[-1] == 1:
        return jnp.abs(error[..., 0])
    return jnp.sqrt((error**2).sum(-1) + EPSILON**2)


def masked_mean(values: Float[Array, "*b"], where: Bool[Array, "*b"]) -> Float[Array, ""]:
    """Mean over the entries where `where` is true; 0 if there are none."""
    return jnp.where(where, values, 0.0).sum() / jnp.maximum(where.sum(), 1)
