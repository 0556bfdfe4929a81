# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The image encoder (DINOv2 with registers), and bicubic resampling of its position embedding."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from vggt_ros.model.intermediates import sow
from vggt_ros.model.layers import Block, layer_norm, linear, parameter, stacked
from vggt_ros.model.scan import scan_layers

IMAGE_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # RGB of ImageNet, as DINOv2 was trained
IMAGE_STD = np.array([0.229, 0.224, 0.225], np.float32)


class Encoder(nnx.Module):
    """DINOv2 with registers: the image of one frame to its patch tokens.

    The reference calls it `aggregator.patch_embed`.  `grid` is the side, in patches, of the learned
    position embedding; `antialias` and `offset` set how it is resampled.
    """

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
        self.patch_embed = linear(3 * patch_size**2, dim, rngs=rngs, **kinds)
        self.cls_token = parameter(normal, (1, 1, dim), rngs)
        self.pos_embed = parameter(normal, (1, 1 + grid**2, dim), rngs)
        self.register_tokens = parameter(normal, (1, registers, dim), rngs) if registers else None
        # Of pre-training only; checkpoints hold it.
        self.mask_token = parameter(nnx.initializers.zeros, (1, dim), rngs)
        self.blocks = stacked(
            lambda rngs: Block(dim, heads, mlp_ratio, eps=eps, scale=scale, rngs=rngs, **kinds),
            depth,
            rngs,
        )
        self.norm = layer_norm(dim, eps, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n t d"]:
        """Patch tokens, row by row; RGB in [0, 1], sides are multiples of the patch size."""
        n, height, width, _ = images.shape
        size = self.patch_size
        h, w = height // size, width // size
        x = (images - IMAGE_MEAN) / IMAGE_STD
        x = x.reshape(n, h, size, w, size, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * w, -1)
        x = self.patch_embed(x)
        sow("dino.patch_proj", x)
        positions = self.position_embedding(h, w)
        sow("dino.pos_embed", positions)
        first = jnp.broadcast_to(self.cls_token + positions[:, :1], (n, 1, x.shape[-1]))
        tokens = [first, x + positions[:, 1:]]
        if self.register_tokens is not None:  # they have no position in the image
            registers = jnp.broadcast_to(
                self.register_tokens[...], (n, *self.register_tokens.shape[1:])
            )
            tokens.insert(1, registers)
        x = jnp.concatenate(tokens, axis=1)
        sow("dino.tokens_in", x)
        x = scan_layers(_encoder_step, x, self.blocks)
        x = self.norm(x)
        sow("dino.norm", x)
        return x[:, -h * w :]

    def position_embedding(self, rows: int, columns: int) -> Float[Array, "1 t d"]:
        """The learned position embedding, resampled to a grid of patches; the class row stays."""
        embed = self.pos_embed[...]
        if rows == columns == self.grid:
            return embed
        first, grid = embed[:, :1], embed[0, 1:].reshape(self.grid, self.grid, -1)
        vertical, horizontal = (
            bicubic_matrix(self.grid, n, antialias=self.antialias, offset=self.offset)
            for n in (rows, columns)
        )
        # once per shape and 1e-6 matters: never in a reduced precision
        grid = jnp.einsum("hi,wj,ijd->hwd", vertical, horizontal, grid, precision="highest")
        return jnp.concatenate([first, grid.reshape(1, rows * columns, -1)], axis=1)


def _encoder_step(x: Array, block: Block) -> Array:
    x = block(x)
    sow("dino.block.#", x)
    return x


def bicubic_matrix(
    n_in: int, n_out: int, *, antialias: bool = True, offset: float = 0.0
) -> Float[np.ndarray, "o i"]:
    """Bicubic resampling along one axis as a matrix, half-pixel centres, as PyTorch computes it.

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
