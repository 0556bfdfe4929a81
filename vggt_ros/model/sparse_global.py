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
from vggt_ros.model.layers import Block, parameter
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
            normal = nnx.initializers.normal(0.02)
            self.memory_tokens = parameter(normal, (1, memory, dim), rngs)

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
        mq, mk, mv = (z[:, :, :0] for z in (q, k, v))
        if self.memory:
            mq, mk, mv = block.attn.projections(block.norm1(memory))
        seen, stands_for = self.seen(s, p)
        hidden = jnp.zeros(self.memory)
        if memory_mask is not None:
            hidden = jnp.where(memory_mask, 0.0, jnp.finfo(jnp.float32).min)
        weighted = memory_mask is not None or (stands_for != 1).any()

        def of_image(inputs: tuple[Array, Array, Array]) -> Array:
            q, index, bias = inputs
            keys = jnp.concatenate([k[:, :, index], mk], axis=2)
            values = jnp.concatenate([v[:, :, index], mv], axis=2)
            bias = jnp.broadcast_to(jnp.concatenate([bias, hidden]), (b, keys.shape[2]))
            return _attend(q, keys, values, bias if weighted else None)

        queries = jnp.moveaxis(q.reshape(*q.shape[:2], s, p, -1), 2, 0)
        bias = jnp.asarray(np.log(stands_for), jnp.float32)
        # One image after another: the keys of all of them together would be larger than the tokens.
        y = jax.lax.map(of_image, (queries, jnp.asarray(seen), bias)).swapaxes(0, 1)
        x = block.add(tokens, block.attn.proj(y.reshape(b, s * p, dim))).reshape(x.shape)
        if not self.memory:
            return x, memory
        bias = None
        if memory_mask is not None:
            bias = jnp.broadcast_to(jnp.pad(hidden, (s * p, 0)), (b, s * p + self.memory))
        everything = (jnp.concatenate(pair, axis=2) for pair in ((k, mk), (v, mv)))
        return x, block.add(memory, block.attn.proj(_attend(mq, *everything, bias)))

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


def _attend(
    q: Float[Array, "b n q e"],
    k: Float[Array, "b n k e"],
    v: Float[Array, "b n k e"],
    bias: Float[Array, "b k"] | None,
) -> Float[Array, "b q d"]:
    """Attention of a block's projections, its heads side by side."""
    out = attend(q.astype(v.dtype), k.astype(v.dtype), v, None, bias).swapaxes(1, 2)
    return out.reshape(*out.shape[:2], -1)
