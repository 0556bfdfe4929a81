# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The aggregator: alternating attention within each frame and among all frames of a window."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from vggt_ros.model.intermediates import sow
from vggt_ros.model.layers import Block, parameter, stacked
from vggt_ros.model.rope import RotaryAngles, rotary_angles, token_positions
from vggt_ros.model.scan import scan_layers


class Stage(nnx.Module):
    """Consecutive alternating blocks: `depth` frame blocks and as many global ones, stacked."""

    def __init__(self, make: Callable[[nnx.Rngs], Block], depth: int, rngs: nnx.Rngs):
        self.frame_blocks = stacked(make, depth, rngs)
        self.global_blocks = stacked(make, depth, rngs)

    @property
    def time_blocks(self) -> Block:
        """The frame blocks, under their name in layout view_time."""
        return self.frame_blocks

    @property
    def view_blocks(self) -> Block:
        """The global blocks, under their name in layout view_time."""
        return self.global_blocks


WEIGHTS = {"frame": "frame", "global": "global", "time": "frame", "view": "global"}  # of attention


class StageOutput(NamedTuple):
    """Tokens after a stage, and what a tap at its end takes."""

    tokens: Float[Array, "b s p d"]
    last_group: dict[str, list[Float[Array, "b s p d"]]]  # outputs of "frame", "global" blocks
    depth: int  # blocks of each kind


class Aggregator(nnx.Module):
    """Alternating attention: frame blocks attend within a frame, global blocks across all frames.

    Only the first frame has camera and register tokens of its own; nothing else distinguishes the
    frames.  `taps` are the depths whose outputs (frame and global block, concatenated) are
    returned, in order: the four that the dense heads read, and the last.  Blocks between two taps
    form one `Stage`.  The first and the last depth are stages by themselves: a streaming step
    treats them differently (see `stream.py`).  `group` blocks of one kind follow each other before
    the other kind (`aa_block_size`).

    With a number of `views`, the s frames of a window are the images of so many cameras, instant
    by instant, and are attended in layout view_time: global blocks attend among the views of one
    instant ("view"), frame blocks among the instants of one view ("time"), in `view_order`.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        *,
        taps: Sequence[int],
        registers: int,
        rope_base: float = 100.0,
        qk_norm: bool = True,
        eps: float = 1e-5,
        order: Sequence[str] = ("frame", "global"),
        group: int = 1,
        view_order: Sequence[str] = ("view", "time"),
        stage: Callable[..., Any] = Stage,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.num_special_tokens = 1 + registers  # the camera token, then registers
        self.head_dim, self.rope_base = dim // heads, rope_base
        self.order, self.group, self.taps = tuple(order), group, tuple(taps)
        self.view_order = tuple(view_order)
        normal = nnx.initializers.normal(0.02)
        self.camera_token = parameter(normal, (1, 2, 1, dim), rngs)
        self.register_token = parameter(normal, (1, 2, registers, dim), rngs)
        kinds = {"eps": eps, "qk_norm": qk_norm, "dtype": dtype, "param_dtype": param_dtype}

        def block(rngs: nnx.Rngs) -> Block:
            return Block(dim, heads, mlp_ratio, rngs=rngs, **kinds)

        ends = stage_ends(depth, taps, group)
        lengths = np.diff([0, *ends])
        self.stages = nnx.List([stage(block, int(length), rngs) for length in lengths])

    def embed(self, patches: Float[Array, "b s t d"]) -> Float[Array, "b s p d"]:
        """Patch tokens with the camera and register tokens in front."""
        b, s, _, dim = patches.shape
        special = jnp.concatenate([self.camera_token[...], self.register_token[...]], axis=2)
        special = special[:, np.minimum(np.arange(s), 1)]  # the first frame's, then the others'
        special = jnp.broadcast_to(special, (b, s, self.num_special_tokens, dim))
        return jnp.concatenate([special, patches], axis=2)

    def __call__(
        self, patches: Float[Array, "b s t d"], grid: tuple[int, int], views: int | None = None
    ) -> tuple[Float[Array, "b s p e"], ...]:
        """The outputs at `taps`; `grid` is the patches' (rows, columns), e = 2 d."""
        x = self.embed(patches)
        b, s, p, dim = x.shape
        lead = (b * s,) if views is None else (b, s // views, views)
        sow("agg.tokens_in", x, lambda x: x.reshape(*lead, p, dim))
        sow(
            "agg.pos",
            jnp.asarray(token_positions(*grid, self.num_special_tokens)),
            lambda x: jnp.broadcast_to(x, (b * s, *x.shape)),
        )
        rope, taps, start = self.rope(grid), {}, 0
        for stage in self.stages:
            x, last_group, depth = self.run_stage(stage, x, rope, views)
            start += depth
            for i in range(self.group):
                taps[start - self.group + i] = last_group["frame"][i], last_group["global"][i]
        return tuple(jnp.concatenate(taps[tap], axis=-1) for tap in self.taps)

    def rope(self, grid: tuple[int, int]) -> RotaryAngles | None:
        """Rotary angles of one frame's tokens; None where the configuration has none."""
        if self.rope_base <= 0:
            return None
        positions = token_positions(*grid, self.num_special_tokens)
        return rotary_angles(positions, self.head_dim, self.rope_base)

    def run_stage(
        self,
        stage: Stage,
        x: Float[Array, "b s p d"],
        rope: RotaryAngles | None,
        views: int | None = None,
    ) -> StageOutput:
        """All blocks of a stage, in groups of the kinds that `order` or `view_order` names."""
        order = self.order if views is None else self.view_order

        def alternate(carry, layers):
            x, outputs = carry[0], {}
            for kind in order:
                outputs[WEIGHTS[kind]] = []
                for block in layers[WEIGHTS[kind]]:
                    x = self.block(kind, block, x, rope, views)
                    outputs[WEIGHTS[kind]].append(x)
            return x, outputs

        layers = {
            "frame": self._grouped(stage.frame_blocks),
            "global": self._grouped(stage.global_blocks),
        }
        initial = {kind: [x] * self.group for kind in layers}
        x, last_group = scan_layers(alternate, (x, initial), layers)
        return StageOutput(x, last_group, len(jax.tree.leaves(layers)[0]) * self.group)

    def _grouped(self, blocks: Block) -> list[Block]:
        """Stacked blocks by their place in a group: the first ones stacked, the second ones, ...

        A group of one is the stack itself: XLA copies what is cut or reshaped before a loop.
        """
        if self.group == 1:
            return [blocks]
        return [jax.tree.map(lambda w, i=i: w[i :: self.group], blocks) for i in range(self.group)]

    def block(
        self,
        kind: str,
        block: Block,
        x: Float[Array, "b s p d"],
        rope: RotaryAngles | None,
        views: int | None = None,
        stream: str = "",
    ) -> Float[Array, "b s p d"]:
        """One block within each frame ("frame") or among all tokens of a window ("global").

        Of several `views`: among the views of an instant ("view"), or the instants of a view
        ("time"). Rotary angles are each image's own, repeated over the sequence. Intermediates
        have `stream` in front of the kind in their names.
        """
        sequences, by_image = _sequences(kind, x, views)
        sow(
            f"agg.{stream}{kind}.#.attn_out",
            sequences,
            lambda x: block.attn(block.norm1(x), rope=rope),
        )
        out = by_image(block(sequences, rope))
        sow(f"agg.{stream}{kind}.#", out)
        return out.reshape(x.shape)


def _sequences(
    kind: str, x: Float[Array, "b s p d"], views: int | None
) -> tuple[Float[Array, "n t d"], Callable[[Array], Array]]:
    """What attends to each other as one sequence, and how it becomes tokens by image again.

    With `views` those have the axes (instants, views) in place of s.
    """
    b, s, p, dim = x.shape
    if views is None:
        return x.reshape((b * s, p, dim) if kind == "frame" else (b, s * p, dim)), (
            lambda y: y.reshape(b, s, p, dim)
        )
    instants = s // views
    if kind == "view":
        return x.reshape(b * instants, views * p, dim), (
            lambda y: y.reshape(b, instants, views, p, dim)
        )
    by_view = x.reshape(b, instants, views, p, dim).swapaxes(1, 2)
    return by_view.reshape(b * views, instants * p, dim), (
        lambda y: y.reshape(b, views, instants, p, dim).swapaxes(1, 2)
    )


def stage_ends(depth: int, taps: Sequence[int], group: int) -> list[int]:
    """Depths at which stages end: after each group with a tap, the first, and the last but one."""
    ends = {(tap // group + 1) * group for tap in taps} | {group, depth - group}
    return sorted(ends - {0})
