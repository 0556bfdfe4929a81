# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The exact streaming step: a sliding window looked at again, without computing what is known.

When one frame is new, three things of the full forward pass need not be computed, and the numbers
stay the same (up to the rounding of other batch sizes):

- the encoder's tokens of the old frames, and the tower's first frame block, depend on one frame
  alone. Both are kept, the second only for frames that are not the first of their window, since
  the first has tokens of its own;
- heads that nobody reads, and depth of frames whose depth was not asked for;
- in the last global block, the queries that no head reads: camera tokens of every frame and all
  tokens of the newest are enough.

Everything after the first global block depends on the newest frame, and is computed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from vggt_ros.model.aggregator import Tower
from vggt_ros.model.layers import Block, Rotation
from vggt_ros.model.vggt import VGGT


class Memory(NamedTuple):
    """What is kept of each frame, in slots whose order means nothing."""

    patches: Float[Array, "c t d"]  # the encoder's tokens
    opened: Float[Array, "c p d"]  # after the first frame block, as any frame but the first


class Sight(NamedTuple):
    """One look: cameras of all frames, depth of the newest k, tracks where points were given."""

    pose_encoding: Float[Array, "s 9"]
    depth: Float[Array, "k h w"]
    depth_confidence: Float[Array, "k h w"]
    tracks: Float[Array, "s n 2"] | None
    visibility: Float[Array, "s n"] | None
    track_confidence: Float[Array, "s n"] | None


def blank(model: VGGT, slots: int, size: tuple[int, int]) -> Memory:
    """Memory for `slots` frames of `size` (height, width) pixels."""
    rows, columns = model.grid(*size)
    dim = model.config.aggregator.embed_dim
    tokens = rows * columns
    return Memory(
        jnp.zeros((slots, tokens, dim), jnp.float32),
        jnp.zeros((slots, model.tower.special + tokens, dim), jnp.float32),
    )


def remember(
    model: VGGT, memory: Memory, image: UInt8[Array, "h w 3"], slot: Int[Array, ""]
) -> Memory:
    """Encode a frame into its slot; what was there is forgotten."""
    grid = model.grid(*image.shape[:2])
    patches = model.encode(image[None, None].astype(jnp.float32) / 255)
    other = model.tower.embed(jnp.concatenate([patches, patches], axis=1))[:, 1:]
    opened = _open(model.tower, other, model.tower.turn(grid))
    return Memory(
        memory.patches.at[slot].set(patches[0, 0]), memory.opened.at[slot].set(opened[0, 0])
    )


def look(
    model: VGGT,
    memory: Memory,
    slots: Int[Array, "s"],
    size: tuple[int, int],
    depth_frames: int,
    queries: Float[Array, "n 2"] | None = None,
    query_mask: Bool[Array, "n"] | None = None,
    query_frame: int | Int[Array, ""] = 0,
) -> Sight:
    """The window whose frames lie in `slots`, oldest first."""
    assert model.camera is not None and model.depth is not None, "a look needs both heads"
    grid, s = model.grid(*size), len(slots)
    whole = s if queries is not None else depth_frames
    taps, cameras = _climb(model.tower, memory, slots, grid, whole)
    levels = [model.patches(tap) for tap in taps]
    newest = [level[whole - depth_frames :] for level in levels]
    depth, confidence = model.depth(newest, grid)
    sight = Sight(model.camera(cameras)[-1, 0], depth[..., 0], confidence, None, None, None)
    if queries is None:
        return sight
    assert model.tracks is not None, "queries need the track head"
    tracks, *sureness = model.tracks(
        model.tracks.features(levels, grid)[None],
        queries[None],
        query_mask=None if query_mask is None else query_mask[None],
        query_frame=query_frame,
    )
    return Sight(*sight[:3], *(x[0] for x in (tracks[-1], *sureness)))


def _climb(
    tower: Tower, memory: Memory, slots: Int[Array, "s"], grid: tuple[int, int], whole: int
) -> tuple[list[Float[Array, "1 k p e"]], Float[Array, "1 s e"]]:
    """Taps of the newest `whole` frames for the dense heads, and the last tap's camera tokens."""
    turn = tower.turn(grid)
    first = _open(tower, tower.embed(memory.patches[slots[:1]][None]), turn)
    x = jnp.concatenate([first, memory.opened[slots[1:]][None]], axis=1)
    cut = len(slots) - whole
    taps, last, start = {}, len(tower.stages) - 1, 0
    cameras = x[:, :, 0]
    for i, stage in enumerate(tower.stages):
        if 0 < i < last:
            x, kept, count = tower.rounds(stage, x, turn)
            frame, scene = kept["frame"][0][:, cut:], x[:, cut:]
        else:
            count = 1
            x = x if i == 0 else tower.block("frame", _only(stage.frame), x, turn)
            frame = x[:, cut:]
            if i < last:
                x = tower.block("global", _only(stage.scene), x, turn)
                scene = x[:, cut:]
            else:
                camera, scene = _asked(_only(stage.scene), x, cut, turn)
                cameras = jnp.concatenate([x[:, :, 0], camera], axis=-1)
        start += count
        taps[start - 1] = frame, scene
    return [jnp.concatenate(taps[tap], axis=-1) for tap in tower.taps[:4]], cameras


def _open(tower: Tower, x: Float[Array, "1 s p d"], turn: Rotation | None) -> Array:
    return tower.block("frame", _only(tower.stages[0].frame), x, turn)


def _only(stacked: Any) -> Block:
    """The one layer of a stack of one."""
    return jax.tree.map(lambda weight: weight[0], stacked)


def _asked(
    block: Block, x: Float[Array, "1 s p d"], cut: int, turn: Rotation | None
) -> tuple[Float[Array, "1 s d"], Float[Array, "1 k p d"]]:
    """A global block for what heads read: every camera's token, all tokens from frame `cut` on."""
    _, s, p, d = x.shape
    asked = jnp.concatenate([x[:, :cut, 0], x[:, cut:].reshape(1, -1, d)], axis=1)
    asked_turn = turn and Rotation(
        *(jnp.concatenate([table[:1]] * cut + [table] * (s - cut)) for table in turn)
    )
    out = block(asked, asked_turn, x.reshape(1, s * p, d), turn)
    newest = out[:, cut:].reshape(1, s - cut, p, d)
    return jnp.concatenate([out[:, :cut], newest[:, :, 0]], axis=1), newest
