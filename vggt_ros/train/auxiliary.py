# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Auxiliary losses on the aggregator: correspondence of each patch with the first frame.

The camera head infers poses from the motion of all patches, but no loss of the public training
acts on the motion of a single one, and small networks stay on the plateau "no motion".  Two losses,
used in training only, lead off it: one attention head of the aggregator is trained to attend to
the patch of the first frame that shows the same point, and a linear probe predicts the displacement
of a patch from its token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vggt_ros.geometry import (
    extrinsics_from_pose_encoding,
    intrinsics_from_pose_encoding,
    transform,
)
from vggt_ros.model.aggregator import Aggregator
from vggt_ros.model.config import Config
from vggt_ros.model.correlation import sample
from vggt_ros.model.layers import Block
from vggt_ros.model.rope import RotaryAngles
from vggt_ros.model.vggt import VGGT, Weights
from vggt_ros.train.data import Batch
from vggt_ros.train.distillation import TEACHER
from vggt_ros.train.losses import masked_mean

LINEAR_PROBES = "motion"  # key of the linear probes in the weights of a run; never exported
GAIN = 5.0  # on the probes' output: they need large weights at the learning rate of the others
POSITION_WEIGHT = 0.3  # of a patch's own position, relative to its displacement
MIN_DEPTH = 0.05  # in front of the first camera, scene units


class PatchMotion(NamedTuple):
    """Correspondence of each patch with the first frame, in patches (x, y)."""

    displacement: Float[Array, "b s h w 2"]  # position in the first frame minus position here
    position: Float[Array, "b s h w 2"]  # in the first frame; 0 is the centre of its first patch
    valid: Bool[Array, "b s h w"]  # false in the first frame and for points outside of its view


def patch_motion(batch: Batch, size: int) -> PatchMotion:
    """The true motion of patches of `size` pixels; moving objects count as static.

    Positions up to a quarter of the image outside of the first frame are valid, too.
    """
    height, width = batch.depth.shape[2:]
    intrinsics = intrinsics_from_pose_encoding(batch.pose_encoding, height, width)
    extrinsics = extrinsics_from_pose_encoding(batch.pose_encoding)
    centres = slice(size // 2, None, size)
    points = batch.points[:, :, centres, centres]
    here = _project(transform(extrinsics, points), intrinsics)
    displacement = (_project(points, intrinsics[:, :1]) - here) / size
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in displacement.shape[2:4])
    position = jnp.stack(jnp.broadcast_arrays(columns, rows[:, None]), axis=-1) + displacement
    extent = jnp.array([len(columns), len(rows)])
    near = ((position > -0.25 * extent) & (position < 1.25 * extent)).all(-1)
    valid = batch.valid[:, :, centres, centres] & near & (points[..., 2] > MIN_DEPTH)
    return PatchMotion(displacement, position, valid.at[:, 0].set(False))


def linear_probes(config: Config) -> Weights:
    """Initial linear probes of three taps: displacement and own position of a patch."""
    inputs = 2 * config.aggregator.embed_dim
    zero = {"kernel": np.zeros((inputs, 4), np.float32), "bias": np.zeros(4, np.float32)}
    return {level: {"predict": zero} for level in range(3)}


def auxiliary_losses(
    model: VGGT, probes: Weights | None, taps: Sequence[Float[Array, "b s p e"]], batch: Batch
) -> dict[str, Array]:
    """Both losses of a forward pass, `attention` and `motion`; without `probes` `motion` is 0.

    Attention is supervised in the blocks after the first three taps, probes read taps 2 to 4.
    """
    grid = model.grid(*batch.images.shape[2:4])
    truth, rope = patch_motion(batch, model.encoder.patch_size), model.aggregator.rope(grid)
    half = taps[0].shape[-1] // 2
    attention = [
        attention_loss(block, tap[..., :half], rope, truth)
        for block, tap in zip(supervised_blocks(model.aggregator), taps[:3], strict=True)
    ]
    parts = {"attention": _mean(attention), "motion": jnp.float32(0.0)}
    if probes is not None:
        tokens = [tap[:, :, model.aggregator.num_special_tokens :] for tap in taps[1:4]]
        levels = [x.reshape(*x.shape[:2], *grid, x.shape[-1]) for x in tokens]
        parts["motion"] = probe_loss(probes, levels, truth)
    return parts


def probe_loss(
    probes: Weights, levels: Sequence[Float[Array, "b s h w e"]], motion: PatchMotion
) -> Float[Array, ""]:
    """L1, in patches, of displacement and own position as predicted from normalised tokens."""
    own = motion.position - motion.displacement
    own -= own.mean((2, 3), keepdims=True)
    losses = []
    for level, tokens in enumerate(levels):
        linear = probes[level]["predict"]
        predicted = GAIN * (
            jax.nn.standardize(tokens, epsilon=1e-10) @ linear["kernel"] + linear["bias"]
        )
        error = jnp.abs(predicted[..., :2] - motion.displacement).sum(-1)
        position = jnp.abs(predicted[..., 2:] - own).sum(-1).mean()
        losses.append(masked_mean(error, motion.valid) + POSITION_WEIGHT * position)
    return _mean(losses)


def attention_loss(
    block: Block, tokens: Float[Array, "b s p d"], rope: RotaryAngles | None, motion: PatchMotion
) -> Float[Array, ""]:
    """-log of the attention weight of head 0 on a patch's position in the first frame.

    `tokens` are the input of `block`, a global one; between patches the logits are interpolated.
    Only positions inside the first frame count.
    """
    b, s, p, dim = tokens.shape
    h, w = motion.displacement.shape[2:4]
    x = tokens.reshape(b, s * p, dim)
    q, k, _ = (x[:, 0] for x in block.attn.projections(block.norm1(x), rope=rope))
    q = q.reshape(b, s, p, -1)[:, 1:, p - h * w :]
    logits = jnp.einsum("bsqe,bke->bsqk", q, k) * q.shape[-1] ** -0.5
    first = logits[..., p - h * w : p].reshape(b, s - 1, h * w, h, w)
    position = motion.position[:, 1:].reshape(b, s - 1, h * w, 2)
    inside = ((position >= 0) & (position <= jnp.array([w - 1, h - 1]))).all(-1)
    target = sample(first.reshape(-1, h, w, 1), position.reshape(-1, 1, 2)).reshape(inside.shape)
    negative_log_likelihood = jax.nn.logsumexp(logits, axis=-1) - target
    valid = inside & motion.valid[:, 1:].reshape(inside.shape)
    return masked_mean(negative_log_likelihood, valid)


def supervised_blocks(aggregator: Aggregator, taps: int = 3) -> list[Block]:
    """The global blocks whose inputs are the frame halves of the first taps."""
    stacks = [stage.global_blocks for stage in aggregator.stages]
    ends = np.cumsum([len(jax.tree.leaves(stack)[0]) for stack in stacks]).tolist()
    stacks = [stacks[ends.index(tap + 1)] for tap in aggregator.taps[:taps]]
    return [jax.tree.map(lambda w: w[-1], stack) for stack in stacks]


def network_weights(weights: Weights) -> Weights:
    """The weights of a run without its linear probes and teacher: those of the network alone."""
    return {name: part for name, part in weights.items() if name not in (LINEAR_PROBES, TEACHER)}


def _mean(losses: Sequence[Float[Array, ""]]) -> Float[Array, ""]:
    return sum(losses, jnp.float32(0.0)) / len(losses)


def _project(
    points: Float[Array, "b s h w 3"], intrinsics: Float[Array, "b _s 3 3"]
) -> Float[Array, "b s h w 2"]:
    """Pixels from the principal point, of points in camera frames; meaningful in front of them."""
    focal = jnp.diagonal(intrinsics, axis1=-2, axis2=-1)[..., None, None, :2]
    return focal * points[..., :2] / jnp.maximum(points[..., 2:], 1e-2)
