# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pixels to tokens: the encoder sees one frame at a time, the tower lets frames see each other."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from vggt_ros.model.layers import Block, Rotation, norm, positions, rotation, stack
from vggt_ros.model.scan import climb, note

IMAGE_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGE_STD = np.array([0.229, 0.224, 0.225], np.float32)


class Encoder(nnx.Module):
    """DINOv2 with registers: one frame's picture in, its patch tokens out."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        *,
        patch_size: int,
        grid: int,
        registers: int,
        eps: float = 1e-6,
        scale: float | None = 1.0,
        antialias: bool = True,
        offset: float = 0.0,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.patch_size, self.grid = patch_size, grid
        self.antialias, self.offset = antialias, offset
        kinds = {"dtype": dtype, "param_dtype": param_dtype}
        normal = nnx.initializers.normal(0.02)
        self.patch = nnx.Linear(3 * patch_size**2, dim, rngs=rngs, **kinds)
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, dim)))
        self.pos_embed = nnx.Param(normal(rngs.params(), (1, 1 + grid**2, dim)))
        self.register_tokens = (
            nnx.Param(normal(rngs.params(), (1, registers, dim))) if registers else None
        )
        self.mask_token = nnx.Param(jnp.zeros((1, dim)))  # pre-training only; checkpoints carry it
        self.blocks = stack(
            lambda rngs: Block(dim, heads, mlp_ratio, eps=eps, scale=scale, rngs=rngs, **kinds),
            depth,
            rngs,
        )
        self.norm = norm(dim, eps, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n t d"]:
        """RGB in [0, 1], height and width multiples of the patch size; tokens come row by row."""
        n, height, width, _ = images.shape
        size = self.patch_size
        h, w = height // size, width // size
        x = (images - IMAGE_MEAN) / IMAGE_STD
        x = x.reshape(n, h, size, w, size, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * w, -1)
        x = self.patch(x)
        note("dino.patch_proj", x)
        positions = self.positions(h, w)
        note("dino.pos_embed", positions)
        first = jnp.broadcast_to(self.cls_token + positions[:, :1], (n, 1, x.shape[-1]))
        tokens = [first, x + positions[:, 1:]]
        if self.register_tokens is not None:  # they have no place in the picture
            registers = jnp.broadcast_to(
                self.register_tokens[...], (n, *self.register_tokens.shape[1:])
            )
            tokens.insert(1, registers)
        x = jnp.concatenate(tokens, axis=1)
        note("dino.tokens_in", x)
        x = climb(_encoder_step, x, self.blocks)
        x = self.norm(x)
        note("dino.norm", x)
        return x[:, -h * w :]

    def positions(self, height: int, width: int) -> Float[Array, "1 t d"]:
        """The learned position embedding, resized to a grid of patches; the class row stays."""
        embed = self.pos_embed[...]
        if height == width == self.grid:
            return embed
        first, grid = embed[:, :1], embed[0, 1:].reshape(self.grid, self.grid, -1)
        rows, columns = (
            cubic(self.grid, n, antialias=self.antialias, offset=self.offset)
            for n in (height, width)
        )
        # once per shape and 1e-6 matters: never in a reduced precision
        grid = jnp.einsum("hi,wj,ijd->hwd", rows, columns, grid, precision="highest")
        return jnp.concatenate([first, grid.reshape(1, height * width, -1)], axis=1)


def _encoder_step(x: Array, block: Block) -> Array:
    x = block(x)
    note("dino.block.#", x)
    return x


def cubic(
    n_in: int, n_out: int, *, antialias: bool = True, offset: float = 0.0
) -> Float[np.ndarray, "o i"]:
    """Bicubic resampling as a matrix, half-pixel centres, as PyTorch has it.

    PyTorch's two kernels differ: the antialiased one has a = -0.5, widens when shrinking and
    renormalises at borders; the plain one has a = -0.75 and repeats the border.
    """
    a = -0.5 if antialias else -0.75
    scale = n_in / (n_out + offset)
    support = max(scale, 1.0) if antialias else 1.0
    centre = (np.arange(n_out) + 0.5) * scale - 0.5
    reach = int(np.ceil(2 * support)) + 1
    source = np.floor(centre).astype(int)[:, None] + np.arange(-reach, reach + 1)
    t = np.abs(source - centre[:, None]) / support
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    weight = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    if antialias:
        weight *= (source >= 0) & (source < n_in)
    matrix = np.zeros((n_out, n_in))
    np.add.at(matrix, (np.arange(n_out)[:, None], np.clip(source, 0, n_in - 1)), weight)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


class Stage(nnx.Module):
    """A run of alternating blocks up to the next cut: stacked, as many in frames as across."""

    def __init__(self, make: Callable[[nnx.Rngs], Block], depth: int, rngs: nnx.Rngs):
        self.frame = stack(make, depth, rngs)
        self.scene = stack(make, depth, rngs)


class Tower(nnx.Module):
    """Alternating attention: inside each frame, then among all tokens of the scene, and again.

    Only the first frame has its own camera and register tokens; nothing else tells frames apart.
    `taps` are the rounds whose outputs (frame and scene, side by side) come out, in order; blocks
    between two taps are one `Stage`. The first and the last round stand alone: a streaming step
    treats them differently (see `stream.py`).
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
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.special = 1 + registers
        self.head_dim, self.rope_base = dim // heads, rope_base
        self.order, self.group, self.taps = tuple(order), group, tuple(taps)
        normal = nnx.initializers.normal(0.02)
        self.camera_token = nnx.Param(normal(rngs.params(), (1, 2, 1, dim)))
        self.register_token = nnx.Param(normal(rngs.params(), (1, 2, registers, dim)))
        kinds = {"eps": eps, "qk_norm": qk_norm, "dtype": dtype, "param_dtype": param_dtype}

        def block(rngs: nnx.Rngs) -> Block:
            return Block(dim, heads, mlp_ratio, rngs=rngs, **kinds)

        cuts = stage_ends(depth, taps, group)
        lengths = np.diff([0, *cuts])
        self.stages = nnx.List([Stage(block, int(length), rngs) for length in lengths])

    def embed(self, patches: Float[Array, "b s t d"]) -> Float[Array, "b s p d"]:
        """Patch tokens with the camera and register tokens in front."""
        b, s, _, dim = patches.shape
        special = jnp.concatenate([self.camera_token[...], self.register_token[...]], axis=2)
        special = special[:, np.minimum(np.arange(s), 1)]  # the first frame's, then the others'
        special = jnp.broadcast_to(special, (b, s, self.special, dim))
        return jnp.concatenate([special, patches], axis=2)

    def __call__(
        self, patches: Float[Array, "b s t d"], grid: tuple[int, int]
    ) -> tuple[Float[Array, "b s p e"], ...]:
        """`grid` is the patches' (rows, columns); e = 2 d."""
        x = self.embed(patches)
        b, s, p, dim = x.shape
        note("agg.tokens_in", x, lambda x: x.reshape(b * s, p, dim))
        note(
            "agg.pos",
            jnp.asarray(positions(*grid, self.special)),
            lambda x: jnp.broadcast_to(x, (b * s, *x.shape)),
        )
        turn, taps, start = self.turn(grid), {}, 0
        for stage in self.stages:
            x, kept, count = self.rounds(stage, x, turn)
            start += count
            for i in range(self.group):
                taps[start - self.group + i] = kept["frame"][i], kept["global"][i]
        return tuple(jnp.concatenate(taps[tap], axis=-1) for tap in self.taps)

    def turn(self, grid: tuple[int, int]) -> Rotation | None:
        """Rotary angles of one frame's tokens."""
        if self.rope_base <= 0:
            return None
        return rotation(positions(*grid, self.special), self.head_dim, self.rope_base)

    def rounds(self, stage: Stage, x: Float[Array, "b s p d"], turn: Rotation | None):
        """A stage: its output, the outputs of its last group of blocks by kind, and its length."""

        def round(carry, layers):
            x, kept = carry[0], {}
            for kind in self.order:
                kept[kind] = []
                for block in layers[kind]:
                    x = self.block(kind, block, x, turn)
                    kept[kind].append(x)
            return x, kept

        layers = {"frame": self._grouped(stage.frame), "global": self._grouped(stage.scene)}
        blank = {kind: [x] * self.group for kind in self.order}
        x, kept = climb(round, (x, blank), layers)
        return x, kept, len(jax.tree.leaves(layers)[0]) * self.group

    def _grouped(self, blocks: Block) -> list[Block]:
        """The blocks of a stage as a round takes them: its first ones stacked, its second ones.

        A group of one is the stack itself: XLA copies what is cut or reshaped before a loop.
        """
        if self.group == 1:
            return [blocks]
        return [jax.tree.map(lambda w, i=i: w[i :: self.group], blocks) for i in range(self.group)]

    def block(
        self, kind: str, block: Block, x: Float[Array, "b s p d"], turn: Rotation | None
    ) -> Float[Array, "b s p d"]:
        """One block inside frames ("frame") or among all tokens of the scene ("global")."""
        b, s, p, dim = x.shape
        x = x.reshape((b * s, p, dim) if kind == "frame" else (b, s * p, dim))
        note(f"agg.{kind}.#.attn_out", x, lambda x: block.attn(block.norm1(x), rotation=turn))
        x = block(x, turn).reshape(b, s, p, dim)
        note(f"agg.{kind}.#", x)
        return x


def stage_ends(depth: int, taps: Sequence[int], group: int) -> list[int]:
    """Where stages end: after each group that holds a tap, the first, and the last but one."""
    ends = {(tap // group + 1) * group for tap in taps} | {group, depth - group}
    return sorted(ends - {0})
