# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The exact streaming step: inference on a sliding window that reuses what is already computed.

When one frame is new, three parts of the full forward pass can be left out, and the results stay
the same (up to the rounding of other batch sizes):

- the encoder's tokens of the old frames, and the aggregator's first frame block, depend on one
  frame alone. Both are cached, the second only for frames that are not the first of their window,
  since the first has special tokens of its own;
- heads whose output is not used, and depth of frames whose depth was not requested;
- in the last global block, the queries that no head reads: camera tokens of every frame and all
  tokens of the newest are enough.

Everything after the first global block depends on the newest frame, and is computed. In layouts
with other blocks, and where the images of a rig are attended by views, all of the aggregator is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from vggt_ros.model.aggregator import Aggregator
from vggt_ros.model.config import cache_shapes, reuses_first_block
from vggt_ros.model.layers import Block
from vggt_ros.model.rope import RotaryAngles
from vggt_ros.model.vggt import VGGT


class CachedTokens(NamedTuple):
    """What is kept of each frame, in slots of any order; `config.cache_shapes` has the shapes."""

    patch_tokens: Float[Array, "c t d"]  # the encoder's
    # After the first frame block, as any frame but the first; p = 0 where the layout has another.
    first_block: Float[Array, "c p d"]


class StreamOutput(NamedTuple):
    """Cameras of all frames, depth of the newest k, tracks where queries were given."""

    pose_encoding: Float[Array, "s 9"]
    depth: Float[Array, "k h w"]
    depth_confidence: Float[Array, "k h w"]
    tracks: Float[Array, "s n 2"] | None
    visibility: Float[Array, "s n"] | None
    track_confidence: Float[Array, "s n"] | None


def empty_cache(model: VGGT, slots: int, size: tuple[int, int]) -> CachedTokens:
    """A cache for `slots` frames of `size` (height, width) network pixels."""
    shapes = cache_shapes(model.config, slots, size)
    return CachedTokens(*(jnp.zeros(shape, jnp.float32) for shape in shapes))


def encode_frame(
    model: VGGT, cache: CachedTokens, image: UInt8[Array, "h w 3"], slot: Int[Array, ""]
) -> CachedTokens:
    """The cache with a frame encoded into its slot, in place of what was there."""
    patches, tokens = _encoded(model, image[None])
    return CachedTokens(
        cache.patch_tokens.at[slot].set(patches[0]), cache.first_block.at[slot].set(tokens[0])
    )


def encode_frames(
    model: VGGT, cache: CachedTokens, images: UInt8[Array, "n h w 3"], slots: Int[Array, "n"]
) -> CachedTokens:
    """The cache with the frames of an instant encoded at once, each into its slot.

    What is cached of a frame depends on that frame alone, so that the law is that of single ones.
    """
    patches, tokens = _encoded(model, images)
    return CachedTokens(
        cache.patch_tokens.at[slots].set(patches), cache.first_block.at[slots].set(tokens)
    )


def _encoded(
    model: VGGT, images: UInt8[Array, "n h w 3"]
) -> tuple[Float[Array, "n t d"], Float[Array, "n p d"]]:
    """What `CachedTokens` keeps of each frame."""
    grid = model.grid(*images.shape[1:3])
    patches = model.encode(images[None].astype(jnp.float32) / 255)
    if not reuses_first_block(model.config):
        return patches[0], jnp.zeros((len(images), 0, patches.shape[-1]), patches.dtype)
    tokens = model.aggregator.embed(jnp.concatenate([patches[:, :1], patches], axis=1))[:, 1:]
    tokens = _first_frame_block(model.aggregator, tokens, model.aggregator.rope(grid))
    return patches[0], tokens[0]


def infer_window(
    model: VGGT,
    cache: CachedTokens,
    slots: Int[Array, "s"],
    size: tuple[int, int],
    depth_frames: int,
    queries: Float[Array, "n 2"] | None = None,
    query_mask: Bool[Array, "n"] | None = None,
    query_frame: int | Int[Array, ""] = 0,
    views: int | None = None,
) -> StreamOutput:
    """Inference on the window whose frames lie in `slots`, oldest first; `size` is (height, width).

    Depth is computed for the newest `depth_frames`; for `queries` see `TrackHead`. With `views` the
    frames are those of so many cameras, instant by instant, and are attended in layout view_time.
    """
    assert model.camera_head is not None and model.depth_head is not None, "both are needed"
    grid, s = model.grid(*size), len(slots)
    dense_frames = s if queries is not None else depth_frames
    if views is None and reuses_first_block(model.config):
        taps, cameras = _aggregate(model.aggregator, cache, slots, grid, dense_frames)
    else:
        every = model.aggregator(cache.patch_tokens[slots][None], grid, views)
        taps, cameras = [tap[:, s - dense_frames :] for tap in every[:4]], every[-1][:, :, 0]
    levels = [model.patches(tap) for tap in taps]
    newest = [level[dense_frames - depth_frames :] for level in levels]
    depth, confidence = model.depth_head(newest, grid)
    pose_encoding = model.camera_head(cameras)[-1, 0]
    out = StreamOutput(pose_encoding, depth[..., 0], confidence, None, None, None)
    if queries is None:
        return out
    assert model.track_head is not None, "queries need the track head"
    maps = model.track_head.features(levels, grid)
    mask = None if query_mask is None else query_mask[None]
    tracks = model.track_head(maps[None], queries[None], query_mask=mask, query_frame=query_frame)
    return out._replace(
        tracks=tracks.iterations[-1, 0],
        visibility=tracks.visibility[0],
        track_confidence=tracks.confidence[0],
    )


def _aggregate(
    aggregator: Aggregator,
    cache: CachedTokens,
    slots: Int[Array, "s"],
    grid: tuple[int, int],
    dense_frames: int,
) -> tuple[list[Float[Array, "1 k p e"]], Float[Array, "1 s e"]]:
    """Taps of the newest `dense_frames` for the dense heads, and the last tap's camera tokens."""
    rope = aggregator.rope(grid)
    first = aggregator.embed(cache.patch_tokens[slots[:1]][None])
    first = _first_frame_block(aggregator, first, rope)
    x = jnp.concatenate([first, cache.first_block[slots[1:]][None]], axis=1)
    cut = len(slots) - dense_frames
    taps, last, start = {}, len(aggregator.stages) - 1, 0
    cameras = x[:, :, 0]
    for i, stage in enumerate(aggregator.stages):
        if 0 < i < last:
            x, last_group, depth = aggregator.run_stage(stage, x, rope)
            after_frame, after_global = last_group["frame"][0][:, cut:], x[:, cut:]
        else:
            depth = 1
            if i > 0:
                x = aggregator.block("frame", _single_layer(stage.frame_blocks), x, rope)
            after_frame = x[:, cut:]
            block = _single_layer(stage.global_blocks)
            if i < last:
                x = aggregator.block("global", block, x, rope)
                after_global = x[:, cut:]
            else:
                camera, after_global = _last_global_block(block, x, cut, rope)
                cameras = jnp.concatenate([x[:, :, 0], camera], axis=-1)
        start += depth
        taps[start - 1] = after_frame, after_global
    return [jnp.concatenate(taps[tap], axis=-1) for tap in aggregator.taps[:4]], cameras


def _first_frame_block(
    aggregator: Aggregator, x: Float[Array, "1 s p d"], rope: RotaryAngles | None
) -> Array:
    return aggregator.block("frame", _single_layer(aggregator.stages[0].frame_blocks), x, rope)


def _single_layer(stack: Any) -> Block:
    """The one layer of a stack of one."""
    return jax.tree.map(lambda weight: weight[0], stack)


def _last_global_block(
    block: Block, x: Float[Array, "1 s p d"], cut: int, rope: RotaryAngles | None
) -> tuple[Float[Array, "1 s d"], Float[Array, "1 k p d"]]:
    """A global block for what heads read: every camera's token, all tokens from frame `cut` on."""
    _, s, p, d = x.shape
    queries = jnp.concatenate([x[:, :cut, 0], x[:, cut:].reshape(1, -1, d)], axis=1)
    queries_rope = rope and RotaryAngles(
        *(jnp.concatenate([table[:1]] * cut + [table] * (s - cut)) for table in rope)
    )
    out = block(queries, queries_rope, x.reshape(1, s * p, d), rope)
    newest = out[:, cut:].reshape(1, s - cut, p, d)
    return jnp.concatenate([out[:, :cut], newest[:, :, 0]], axis=1), newest
