# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How wrong a prediction is: cameras, depth, points and tracks, as pure functions of arrays.

The terms are those of the public VGGT training; lengths are in units of the scene's mean distance
to the first camera, tracks in pixels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vggt_ros.model.vggt import Prediction
from vggt_ros.train.config import Loss
from vggt_ros.train.data import Batch

FARTHEST = 100.0  # lengths beyond this are cut, so that one broken window cannot rule a batch
SURE = 1e-6


def total(
    prediction: Prediction,
    batch: Batch,
    weights: Loss,
    matches: Float[Array, "b s n"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The weighted sum over the heads that are on, and its parts by name.

    `matches` are the surprises of `matching.surprise`, for recipes that weigh them.
    """
    parts: dict[str, Array] = {}
    loss = jnp.float32(0.0)
    if prediction.pose_encodings is not None:
        shares = weights.translation, weights.rotation, weights.view
        parts["camera"], parts["translation"], parts["rotation"], parts["view"] = camera_loss(
            prediction.pose_encodings, batch.pose_encoding, weights.decay, shares
        )
        loss += weights.camera * parts["camera"]
    dense = {
        "depth": (prediction.depth, prediction.depth_confidence, batch.depth, weights.depth),
        "points": (prediction.points, prediction.points_confidence, batch.points, weights.points),
    }
    for name, (values, confidence, truth, weight) in dense.items():
        if values is None or confidence is None:
            continue
        error = values - truth if values.ndim == 5 else (values - truth)[..., None]
        sure = confidence_loss(error, confidence, batch.valid, weights.alpha)
        edges = gradient_loss(error, batch.valid)
        parts |= {name: sure, f"{name}_edges": edges}
        loss += weight * (sure + weights.gradient * edges)
    tracks, sight = prediction.track_iterations, prediction.visibility
    trust = prediction.track_confidence
    if tracks is not None and sight is not None and trust is not None:
        near = batch.images.shape[3] / 64
        position, seen, trust = track_losses(
            tracks, sight, trust, batch.tracks, batch.visible, near, weights.decay
        )
        parts |= {"tracks": position, "visibility": seen, "track_confidence": trust}
        loss += weights.tracks * (position + 2 * seen + trust)
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
    """L1 of translation, quaternion and angles of view by their shares, and then each alone."""
    error = jnp.minimum(jnp.abs(encodings - truth), FARTHEST)
    translation, rotation, view = (
        over_iterations(part.mean((1, 2, 3)), decay)
        for part in (error[..., :3], error[..., 3:7], error[..., 7:])
    )
    whole = shares[0] * translation + shares[1] * rotation + shares[2] * view
    return whole, translation, rotation, view


def over_iterations(losses: Float[Array, "i"], decay: float) -> Float[Array, ""]:
    """Iteration k of n counts decay^(n - 1 - k) / n: the last one matters most."""
    count = losses.shape[0]
    return (losses * decay ** jnp.arange(count - 1, -1, -1)).sum() / count


def confidence_loss(
    error: Float[Array, "b s h w c"],
    confidence: Float[Array, "b s h w"],
    valid: Bool[Array, "b s h w"],
    alpha: float,
) -> Float[Array, ""]:
    """confidence * |error| - alpha * log(confidence): being sure pays only where one is right."""
    length = jnp.minimum(_length(error), FARTHEST)
    return mean(confidence * length - alpha * jnp.log(confidence), valid)


def gradient_loss(
    error: Float[Array, "b s h w c"],
    valid: Bool[Array, "b s h w"],
    scales: Sequence[int] = (1, 2, 4, 8),
) -> Float[Array, ""]:
    """How much the error changes between neighbours, at several strides: edges and flat faces.

    Mean over the scales of the mean absolute difference along rows plus that along columns.
    """
    terms = []
    for stride in scales:
        e, ok = error[:, :, ::stride, ::stride], valid[:, :, ::stride, ::stride]
        across = jnp.abs(e[:, :, :, 1:] - e[:, :, :, :-1]).sum(-1)
        down = jnp.abs(e[:, :, 1:] - e[:, :, :-1]).sum(-1)
        terms += [
            mean(jnp.minimum(across, FARTHEST), ok[:, :, :, 1:] & ok[:, :, :, :-1]),
            mean(jnp.minimum(down, FARTHEST), ok[:, :, 1:] & ok[:, :, :-1]),
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
    """L1 distance (pixels) of points in sight; cross entropies of sight and of being `near`.

    Iterations count as in `over_iterations`: none passes gradients of places to the one before
    it, so each must hear of its own error.
    """
    wrong = jnp.minimum(jnp.abs(tracks - truth).sum(-1), 10 * FARTHEST)
    position = over_iterations(jax.vmap(mean, (0, None))(wrong, visible), decay)
    close = jnp.linalg.norm(jax.lax.stop_gradient(tracks[-1]) - truth, axis=-1) < near
    everywhere = jnp.ones_like(visible)
    seen = mean(_cross_entropy(visibility, visible), everywhere)
    return position, seen, mean(_cross_entropy(confidence, close & visible), everywhere)


def match_loss(surprise: Float[Array, "b s n"], visible: Bool[Array, "b s n"]) -> Float[Array, ""]:
    """Mean surprise of the true places of points in sight, after the frame they were asked in."""
    return mean(surprise[:, 1:], visible[:, 1:])


def _cross_entropy(share: Float[Array, "*b"], truth: Bool[Array, "*b"]) -> Float[Array, "*b"]:
    share = jnp.clip(share, SURE, 1 - SURE)
    return -jnp.where(truth, jnp.log(share), jnp.log(1 - share))


def _length(error: Float[Array, "*b c"]) -> Float[Array, "*b"]:
    """Euclidean, with a gradient at zero; one component is just its size."""
    if error.shape[-1] == 1:
        return jnp.abs(error[..., 0])
    return jnp.sqrt((error**2).sum(-1) + SURE**2)


def mean(values: Float[Array, "*b"], where: Bool[Array, "*b"]) -> Float[Array, ""]:
    """Mean over what counts; 0 where nothing does."""
    return jnp.where(where, values, 0.0).sum() / jnp.maximum(where.sum(), 1)
