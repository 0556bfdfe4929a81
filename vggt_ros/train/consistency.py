# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses on how depth, motion and confidence of one window agree.

The losses of `losses.py` judge depth and cameras apart, so both may be wrong in ways that do not
fit: triangulation then fails although each is plausible.  Here points of one frame, placed by the
predicted depth and motion, are compared with the next frame; a common scale of both is free.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vggt_ros.geometry import extrinsics_from_pose_encoding, inverse_rigid, transform
from vggt_ros.model.vggt import Prediction
from vggt_ros.train.data import Batch
from vggt_ros.train.losses import masked_mean, relative_poses
from vggt_ros.train.metrics import MIN_BASELINE

STRIDE = 7  # pixels between the points that are compared
SAME_SURFACE = 0.05  # relative difference of depth up to which a point is seen in the other frame
MIN_DEPTH = 0.05  # in front of a camera, scene units
MAX_ERROR = 2.0  # of a logarithm or a slope, so that a broken window does not dominate a batch
SUREST = 5.0  # largest logarithm of confidence that is asked for


class Correspondence(NamedTuple):
    """Points of each frame in the next one; the next of the last frame is the first."""

    rays: Float[Array, "b s n 3"]  # in the own camera, one unit of depth long
    points: Float[Array, "b s n 3"]  # true, in the next camera
    pixels: Int[Array, "b s n"]  # of the next frame, row by row
    valid: Bool[Array, "b s n"]  # seen in both


def correspondence(batch: Batch) -> Correspondence:
    """The true correspondence of every `STRIDE`-th pixel; moving objects count as hidden."""
    height, width = batch.depth.shape[2:]
    camera = extrinsics_from_pose_encoding(batch.pose_encoding)
    here = transform(camera, batch.points)
    rays = here / jnp.maximum(here[..., 2:], 1e-6)
    # Slopes of rays are linear in pixels, wherever the principal point is.
    corner, far = rays[:, :, 0, 0, :2], rays[:, :, -1, -1, :2]
    per_pixel = (far - corner) / jnp.array([width - 1, height - 1])
    points = transform(_next(camera), _sampled(batch.points))
    slopes = points[..., :2] / jnp.maximum(points[..., 2:], MIN_DEPTH)
    place = (slopes - _next(corner)[:, :, None]) / _next(per_pixel)[:, :, None]
    column, row = jnp.moveaxis(jnp.rint(place).astype(jnp.int32), -1, 0)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixels = jnp.where(inside, row * width + column, 0)
    there = _at(_next(batch.depth), pixels)
    seen = inside & _at(_next(batch.valid), pixels) & (points[..., 2] > MIN_DEPTH)
    seen &= jnp.abs(points[..., 2] - there) < SAME_SURFACE * there
    return Correspondence(_sampled(rays), points, pixels, seen & _sampled(batch.valid))


def agreement_losses(prediction: Prediction, batch: Batch) -> dict[str, Array]:
    """`surface`, `reprojection`, `scale` and `calibration` of a prediction with all three heads.

    Each is a mean over what both frames see; the first three do not change where depth and
    translation are multiplied by one factor.
    """
    encoding, depth = prediction.pose_encoding, prediction.depth
    confidence = prediction.depth_confidence
    assert encoding is not None and depth is not None and confidence is not None
    truth = correspondence(batch)
    camera = extrinsics_from_pose_encoding(encoding)
    motion = _next_from_own(camera)
    points = transform(motion, _sampled(depth)[..., None] * truth.rays)
    return {
        "surface": surface_loss(points, depth, batch.depth, truth),
        "reprojection": reprojection_loss(points, truth),
        "scale": scale_loss(encoding, batch, depth),
        "calibration": calibration_loss(confidence, depth, batch.depth, batch.valid),
    }


def surface_loss(
    points: Float[Array, "b s n 3"], depth: Float[Array, "b s h w"],
    true_depth: Float[Array, "b s h w"], truth: Correspondence,
) -> Float[Array, ""]:  # fmt: skip
    """Log ratio of the depth that points have in the next frame, and the depth predicted there.

    Of the same ratio in the truth, which is not quite 1: pixels are whole numbers.
    """
    placed = jnp.log(jnp.maximum(points[..., 2], MIN_DEPTH) / truth.points[..., 2].clip(MIN_DEPTH))
    there = jnp.log(_at(_next(depth), truth.pixels) / _at(_next(true_depth), truth.pixels))
    return masked_mean(jnp.minimum(jnp.abs(placed - there), MAX_ERROR), truth.valid)


def reprojection_loss(points: Float[Array, "b s n 3"], truth: Correspondence) -> Float[Array, ""]:
    """L1 of the slopes x/z and y/z under which points appear in the next frame."""
    found, true = (p[..., :2] / jnp.maximum(p[..., 2:], MIN_DEPTH) for p in (points, truth.points))
    error = jnp.minimum(jnp.abs(found - true), MAX_ERROR).sum(-1)
    return masked_mean(error, truth.valid)


def scale_loss(
    encoding: Float[Array, "b s 9"], batch: Batch, depth: Float[Array, "b s h w"]
) -> Float[Array, ""]:
    """Log ratio of the scales of motion and depth of a window, over all pairs of frames.

    That of depth is the mean over valid pixels; windows without motion do not count.
    """
    lengths, true_lengths = _baselines(encoding), _baselines(batch.pose_encoding)
    moved = true_lengths > MIN_BASELINE
    by_motion = jnp.log((lengths + MIN_BASELINE) / (true_lengths + MIN_BASELINE))
    by_depth = _window_mean(jnp.log(depth / batch.depth), batch.valid)
    error = jnp.abs(by_motion - by_depth[:, None])
    return masked_mean(jnp.minimum(error, MAX_ERROR), moved)


def calibration_loss(
    confidence: Float[Array, "b s h w"], depth: Float[Array, "b s h w"],
    true_depth: Float[Array, "b s h w"], valid: Bool[Array, "b s h w"],
) -> Float[Array, ""]:  # fmt: skip
    """L1 between log confidence and -log of the relative error of depth, at least 0.

    The window's scale is free.  Depth gets no gradient: confidence follows errors.
    """
    ratio = jax.lax.stop_gradient(jnp.log(depth / true_depth))
    error = jnp.abs(ratio - _window_mean(ratio, valid)[:, None, None, None])
    asked = jnp.clip(-jnp.log(jnp.maximum(error, 1e-6)), 0.0, SUREST)
    return masked_mean(jnp.abs(jnp.log(confidence) - asked), valid)


def _next(x: Array) -> Array:
    """Of the next frame, for every frame."""
    return jnp.roll(x, -1, axis=1)


def _next_from_own(camera: Float[Array, "b s 3 4"]) -> Float[Array, "b s 3 4"]:
    back, then = inverse_rigid(camera), _next(camera)
    turn = then[..., :3] @ back[..., :3]
    shift = then[..., :3] @ back[..., 3:] + then[..., 3:]
    return jnp.concatenate([turn, shift], axis=-1)


def _sampled(x: Array) -> Array:
    """Every `STRIDE`-th pixel of [b s h w ...], row by row."""
    grid = x[:, :, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    return grid.reshape(*grid.shape[:2], -1, *grid.shape[4:])


def _at(image: Float[Array, "b s h w"] | Bool[Array, "b s h w"], pixels: Array) -> Array:
    return jnp.take_along_axis(image.reshape(*image.shape[:2], -1), pixels, axis=-1)


def _baselines(encoding: Float[Array, "b s 9"]) -> Float[Array, "b p"]:
    """Distances between the cameras of all pairs of frames."""
    return jnp.sqrt((relative_poses(encoding)[1] ** 2).sum(-1) + 1e-12)


def _window_mean(
    values: Float[Array, "b s h w"], valid: Bool[Array, "b s h w"]
) -> Float[Array, "b"]:
    total = jnp.where(valid, values, 0.0).sum((1, 2, 3))
    return total / jnp.maximum(valid.sum((1, 2, 3)), 1)
