# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Global attention to some tokens of other images instead of all: landmarks, or a memory.

An image's tokens attend to all tokens of that image, to the special tokens of every image, and

- landmark: to a fixed number of patches of each other image, spread evenly, each of which has the
  weight of the patches that it stands for;
- memory_bank: to memory tokens, which attend to all tokens of all images in the same block.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from vggt_ros.model.aggregator import Aggregator, Stage
from vggt_ros.model.attention import attend
from vggt_ros.model.intermediates import sow
from vggt_ros.model.layers import Block
from vggt_ros.model.rope import RotaryAngles
from vggt_ros.model.scan import scan_layers


class SparseGlobal(Aggregator):
    """An aggregator whose global blocks see `landmarks` patches of each other image, or `memory`.

    With as many landmarks as patches, or more, it is the official network. Blocks are the official
    ones; memory tokens go through the global blocks only, without a position.
    """

    def __init__(
        self, dim: int, *sizes: Any, landmarks: int, memory: int, rngs: nnx.Rngs, **options: Any
    ):
        super().__init__(dim, *sizes, rngs=rngs, **options)
        self.landmarks, self.memory = landmarks, memory
        if memory:
            draw = nnx.initializers.normal(0.02)
            self.memory_tokens = nnx.Param(draw(rngs.params(), (1, memory, dim)))

    def __call__(
        self,
        patches: Float[Array, "b s t d"],
        grid: tuple[int, int],
        views: int | None = None,
        memory_mask: Bool[Array, "m"] | None = None,
    ) -> tuple[Float[Array, "b s p e"], ...]:
        """The outputs at `taps`; `grid` is the patches' (rows, columns), e = 2 d.

        Memory tokens that are False in `memory_mask` are seen by nothing.
        """
        assert views is None, "images are not attended by views here"
        x = self.embed(patches)
        b, s, p, dim = x.shape
        sow("agg.tokens_in", x, lambda x: x.reshape(b * s, p, dim))
        memory = jnp.zeros((b, 0, dim), x.dtype)
        if self.memory:
            memory = jnp.broadcast_to(self.memory_tokens[...], (b, self.memory, dim))
        taps, start = {}, 0
        state = (x, memory)
        for stage in self.stages:
            state, record = self._stage(stage, state, self.rope(grid), memory_mask)
            start += len(jax.tree.leaves(stage.frame_blocks)[0])
            taps[start - 1] = jnp.concatenate(record, axis=-1)
        return tuple(taps[tap] for tap in self.taps)

    def _stage(
        self,
        stage: Stage,
        state: tuple[Float[Array, "b s p d"], Float[Array, "b m d"]],
        rope: RotaryAngles | None,
        memory_mask: Bool[Array, "m"] | None,
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Tokens and memory after a stage, and the record of its last round."""

        def alternate(carry, layers):
            x, memory = carry[0]
            frame = self.block("frame", layers[0], x, rope)
            x, memory = self.sparse_block(layers[1], frame, memory, rope, memory_mask)
            sow("agg.global.#", x)
            return (x, memory), (frame, x)

        record = (state[0], state[0])
        blocks = stage.frame_blocks, stage.global_blocks
        return scan_layers(alternate, (state, record), blocks)

    def sparse_block(
        self,
        block: Block,
        x: Float[Array, "b s p d"],
        memory: Float[Array, "b m d"],
        rope: RotaryAngles | None,
        memory_mask: Bool[Array, "m"] | None = None,
    ) -> tuple[Float[Array, "b s p d"], Float[Array, "b m d"]]:
        """One global block: tokens and memory after it."""
        b, s, p, dim = x.shape
        tokens = x.reshape(b, s * p, dim)
        q, k, v = block.attn.projections(block.norm1(tokens), rope=rope)
        seen, stands_for = self.seen(s, p)
        keys, values = (_by_image(z, seen) for z in (k, v))
        bias = None
        if (stands_for != 1).any():
            weights = np.log(stands_for).astype(np.float32)
            bias = jnp.broadcast_to(weights, (b, *weights.shape)).reshape(b * s, -1)
        after = memory
        if self.memory:
            mq, mk, mv = block.attn.projections(block.norm1(memory))
            keys, values = (
                jnp.concatenate([z, jnp.repeat(m, s, axis=0)], axis=2)
                for z, m in ((keys, mk), (values, mv))
            )
            everything = (jnp.concatenate(pair, axis=2) for pair in ((k, mk), (v, mv)))
            hidden = None
            if memory_mask is not None:
                below = jnp.where(memory_mask, 0.0, jnp.finfo(jnp.float32).min)
                bias, hidden = (
                    jnp.broadcast_to(jnp.pad(below, (count, 0)), (rows, count + self.memory))
                    for rows, count in ((b * s, seen.shape[1]), (b, s * p))
                )
            after = block.add(memory, _attended(block, mq, *everything, hidden))
        queries = q.reshape(*q.shape[:2], s, p, -1).swapaxes(1, 2).reshape(b * s, q.shape[1], p, -1)
        y = _attended(block, queries, keys, values, bias)
        return block.add(tokens, y.reshape(b, s * p, dim)).reshape(x.shape), after

    def seen(self, s: int, p: int) -> tuple[Int[np.ndarray, "s k"], Float[np.ndarray, "s k"]]:
        """Which tokens of the scene each image attends to, in order, and for how many each stands.

        Tokens are counted over the images: `p` of the first, then those of the second, ...
        """
        special = self.num_special_tokens
        count = min(self.landmarks, p - special)
        chosen = np.round(np.linspace(0, p - special - 1, count)).astype(int)
        few = np.concatenate([np.arange(special), special + chosen])
        weights = np.ones(len(few))
        weights[special:] = (p - special) / max(count, 1)
        whole, own = np.arange(p), np.ones(p)
        index, stands_for = [], []
        for image in range(s):
            parts = [(whole, own) if other == image else (few, weights) for other in range(s)]
            index.append(np.concatenate([j * p + part[0] for j, part in enumerate(parts)]))
            stands_for.append(np.concatenate([part[1] for part in parts]))
        return np.stack(index), np.stack(stands_for)


def _by_image(x: Float[Array, "b n t e"], index: Int[np.ndarray, "s k"]) -> Float[Array, "c n k e"]:
    """Of a scene's tokens those that each image attends to; scenes and images on one axis."""
    b, heads, _, dim = x.shape
    return x[:, :, index].swapaxes(1, 2).reshape(b * len(index), heads, -1, dim)


def _attended(
    block: Block,
    q: Float[Array, "b n q e"],
    k: Float[Array, "b n k e"],
    v: Float[Array, "b n k e"],
    bias: Float[Array, "b k"] | None = None,
) -> Float[Array, "b q d"]:
    """The attention of a block for queries, keys and values of its projections."""
    out = attend(q.astype(v.dtype), k.astype(v.dtype), v, None, bias).swapaxes(1, 2)
    return block.attn.proj(out.reshape(*out.shape[:2], -1))
