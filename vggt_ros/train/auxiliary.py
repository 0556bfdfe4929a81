# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a patch should know besides its depth: where its surface was seen in the first frame.

Cameras are read from the motion of all patches, but no head asks a patch for its own, and "nothing
moved" is a plateau that small networks do not leave.  Two helpers, in training only, lead them off
it: one head of the tower's attention is told which patch of the first frame shows the same place
(the tower's own matching), and a linear map has to read the patch's motion from its token.
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
from vggt_ros.model.aggregator import Tower
from vggt_ros.model.config import Config
from vggt_ros.model.correlation import sample
from vggt_ros.model.layers import Block, Rotation
from vggt_ros.model.vggt import VGGT, Weights
from vggt_ros.train.data import Batch
from vggt_ros.train.losses import mean

READOUTS = "motion"  # the name of the linear maps among a run's weights; never exported
GAIN = 5.0  # of the linear maps: their weights must grow tall at a rate made for the others
PLACE = 0.3  # what a patch's own place counts against its motion
NEAREST = 0.05  # in front of the first camera, in units of the scene


class Motion(NamedTuple):
    """How far each patch moved since the first frame, in patches: `there` = here + `moved`."""

    moved: Float[Array, "b s h w 2"]
    there: Float[Array, "b s h w 2"]  # x, y; the first patch's centre is 0
    known: Bool[Array, "b s h w"]  # false in the first frame and where that did not look


def motion_of(batch: Batch, size: int) -> Motion:
    """The true motion of patches of `size` pixels; things that move by themselves count as still.

    Places up to a quarter of the picture outside of the first frame are known, too.
    """
    height, width = batch.depth.shape[2:]
    intrinsics = intrinsics_from_pose_encoding(batch.pose_encoding, height, width)
    extrinsics = extrinsics_from_pose_encoding(batch.pose_encoding)
    middles = slice(size // 2, None, size)
    points = batch.points[:, :, middles, middles]
    here = _seen(transform(extrinsics, points), intrinsics)
    there = _seen(points, intrinsics[:, :1])
    moved = (there - here) / size
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in moved.shape[2:4])
    there = jnp.stack(jnp.broadcast_arrays(columns, rows[:, None]), axis=-1) + moved
    extent = jnp.array([len(columns), len(rows)])
    near = ((there > -0.25 * extent) & (there < 1.25 * extent)).all(-1)
    known = batch.valid[:, :, middles, middles] & near & (points[..., 2] > NEAREST)
    return Motion(moved, there, known.at[:, 0].set(False))


def readouts(config: Config) -> Weights:
    """Fresh linear maps for the last three levels: a patch's motion, and its own place."""
    inputs = 2 * config.aggregator.embed_dim
    zero = {"kernel": np.zeros((inputs, 4), np.float32), "bias": np.zeros(4, np.float32)}
    return {level: {"predict": zero} for level in range(3)}


def helped(
    model: VGGT, maps: Weights | None, taps: Sequence[Float[Array, "b s p e"]], batch: Batch
) -> dict[str, Array]:
    """Both terms of a pass by name; without `maps` nothing is read and `motion` is 0.

    Attention is asked in the blocks that take the first three taps, motion read from what follows.
    """
    grid = model.grid(*batch.images.shape[2:4])
    truth, turn = motion_of(batch, model.encoder.patch_size), model.tower.turn(grid)
    half = taps[0].shape[-1] // 2
    asked = [
        attention_loss(block, tap[..., :half], turn, truth)
        for block, tap in zip(askable(model.tower), taps[:3], strict=True)
    ]
    parts = {"attention": sum(asked, jnp.float32(0.0)) / len(asked), "motion": jnp.float32(0.0)}
    if maps is not None:
        tokens = [tap[:, :, model.tower.special :] for tap in taps[1:4]]
        levels = [x.reshape(*x.shape[:2], *grid, x.shape[-1]) for x in tokens]
        parts["motion"] = reading_loss(maps, levels, truth)
    return parts


def reading_loss(
    maps: Weights, levels: Sequence[Float[Array, "b s h w e"]], motion: Motion
) -> Float[Array, ""]:
    """L1, in patches, of motion and own place as read from normalised tokens."""
    own = motion.there - motion.moved
    own -= own.mean((2, 3), keepdims=True)
    wrong_by_level = []
    for level, tokens in enumerate(levels):
        linear = maps[level]["predict"]
        said = GAIN * (
            jax.nn.standardize(tokens, epsilon=1e-10) @ linear["kernel"] + linear["bias"]
        )
        wrong = jnp.abs(said[..., :2] - motion.moved).sum(-1)
        place = jnp.abs(said[..., 2:] - own).sum(-1).mean()
        wrong_by_level.append(mean(wrong, motion.known) + PLACE * place)
    return sum(wrong_by_level, jnp.float32(0.0)) / len(wrong_by_level)


def attention_loss(
    block: Block, tokens: Float[Array, "b s p d"], turn: Rotation | None, motion: Motion
) -> Float[Array, ""]:
    """-log of the share of attention that a patch's place in the first frame gets from head 0.

    `tokens` enter `block`, which attends among all of a scene's; between patches the logits are
    interpolated.  Only places inside the first frame count.
    """
    b, s, p, dim = tokens.shape
    h, w = motion.moved.shape[2:4]
    x = tokens.reshape(b, s * p, dim)
    q, k, _ = (x[:, 0] for x in block.attn.projections(block.norm1(x), rotation=turn))
    q = q.reshape(b, s, p, -1)[:, 1:, p - h * w :]
    logits = jnp.einsum("bsqe,bke->bsqk", q, k) * q.shape[-1] ** -0.5
    first = logits[..., p - h * w : p].reshape(b, s - 1, h * w, h, w)
    place = motion.there[:, 1:].reshape(b, s - 1, h * w, 2)
    inside = ((place >= 0) & (place <= jnp.array([w - 1, h - 1]))).all(-1)
    asked = sample(first.reshape(-1, h, w, 1), place.reshape(-1, 1, 2)).reshape(inside.shape)
    surprise = jax.nn.logsumexp(logits, axis=-1) - asked
    return mean(surprise, inside & motion.known[:, 1:].reshape(inside.shape))


def askable(tower: Tower, taps: int = 3) -> list[Block]:
    """The blocks among all frames whose inputs are the frame halves of the first taps."""
    ends = np.cumsum([len(jax.tree.leaves(stage.scene)[0]) for stage in tower.stages]).tolist()
    scenes = [tower.stages[ends.index(tap + 1)].scene for tap in tower.taps[:taps]]
    return [jax.tree.map(lambda w: w[-1], scene) for scene in scenes]


def network(weights: Weights) -> Weights:
    """The weights of a run without its readouts: those of the network alone."""
    return {name: part for name, part in weights.items() if name != READOUTS}


def _seen(
    points: Float[Array, "b s h w 3"], intrinsics: Float[Array, "b _s 3 3"]
) -> Float[Array, "b s h w 2"]:
    """Pixels from the optical axis of points in camera frames; of use where those are ahead."""
    focal = jnp.diagonal(intrinsics, axis1=-2, axis2=-1)[..., None, None, :2]
    return focal * points[..., :2] / jnp.maximum(points[..., 2:], 1e-2)
