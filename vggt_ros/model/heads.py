# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Heads for cameras and for dense maps (DPT: a pyramid of convolutions on tokens of four depths).

All of it is float32: the reference switches its own low precision off here.  Convolutions are
NHWC throughout, the layout that both XLA's CPU and GPU kernels prefer.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from vggt_ros.model.intermediates import sow
from vggt_ros.model.layers import (
    Block,
    Mlp,
    initialisers,
    layer_norm,
    linear,
    parameter,
    stacked,
)
from vggt_ros.model.positions import add_position_embedding
from vggt_ros.model.scan import iterate, map_in_chunks, scan_layers

FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}


# ---- camera -----------------------------------------------------------------------------------


class CameraHead(nnx.Module):
    """Camera tokens to pose encodings, refined iteratively.

    A pose encoding is (translation 3, quaternion xyzw 4, vertical and horizontal angle of view 2).
    """

    def __init__(
        self, dim: int, depth: int, heads: int, mlp_ratio: float, iterations: int, rngs: nnx.Rngs
    ):
        self.iterations = iterations
        self.token_norm = layer_norm(dim, rngs=rngs)
        self.empty_pose_tokens = parameter(nnx.initializers.zeros, (1, 1, 9), rngs)
        self.embed_pose = linear(9, dim, rngs=rngs)
        self.modulation = linear(dim, 3 * dim, rngs=rngs)
        self.adaln_norm = layer_norm(dim, 1e-6, affine=False, rngs=rngs)
        self.trunk = stacked(lambda r: Block(dim, heads, mlp_ratio, rngs=r, **FLOAT32), depth, rngs)
        self.trunk_norm = layer_norm(dim, rngs=rngs)
        self.pose_branch = Mlp(dim, dim // 2, 9, rngs=rngs, **FLOAT32)

    def __call__(self, tokens: Float[Array, "b s d"]) -> Float[Array, "i b s 9"]:
        """One encoding per iteration, the last one best.

        The raw sum is fed back; the angles of view are clipped at 0 in the output only.
        """
        tokens = self.token_norm(tokens)
        sow("camera.pose_tokens", tokens)
        first = jnp.broadcast_to(self.empty_pose_tokens[...], (*tokens.shape[:2], 9))

        def refine(carry):
            pose, raw = carry
            modulation = self.modulation(nnx.silu(self.embed_pose(pose)))
            sow("camera.modulation.#", modulation)
            shift, scale, gate = jnp.split(modulation, 3, axis=-1)
            x = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
            sow("camera.trunk_in.#", x)
            x = scan_layers(lambda x, block: block(x), x, self.trunk)
            sow("camera.trunk_out.#", x)
            delta = self.pose_branch(self.trunk_norm(x))
            sow("camera.delta.#", delta)
            raw = raw + delta
            encoding = activate_pose(raw)
            sow("camera.pose_enc.#", encoding)
            return (jax.lax.stop_gradient(raw), raw), encoding

        return iterate(refine, (first, jnp.zeros_like(first)), self.iterations)[1]


def activate_pose(raw: Float[Array, "*b 9"]) -> Float[Array, "*b 9"]:
    """A raw pose encoding with its two angles of view clipped at 0."""
    return jnp.concatenate([raw[..., :7], nnx.relu(raw[..., 7:])], axis=-1)


# ---- dense maps -------------------------------------------------------------------------------


class DPTHead(nnx.Module):
    """Patch tokens of four depths to values and a confidence (1 = no evidence) at every pixel."""

    def __init__(
        self,
        name: str,
        dim: int,
        features: int,
        channels: Sequence[int],
        outputs: int,
        activation: Callable[[Array], Array],
        *,
        hidden: int,
        position: float,
        patch_size: int,
        rngs: nnx.Rngs,
    ):
        self.name, self.activation, self.patch_size = name, activation, patch_size
        self.position = position
        self.pyramid = FeaturePyramid(name, dim, features, features // 2, channels, position, rngs)
        self.output_conv2 = conv3x3(features // 2, hidden, rngs=rngs)
        self.predict = linear(hidden, outputs + 1, rngs=rngs)

    def __call__(
        self, levels: Sequence[Float[Array, "n t d"]], grid: tuple[int, int], at_once: int = 8
    ) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w"]]:
        """Values and confidences; `grid` is the patches' (rows, columns).

        Frames are independent here, so `at_once` of them are processed at a time: this bounds
        memory and changes nothing else.
        """
        logits = map_in_chunks(lambda levels: self.logits(levels, grid), tuple(levels), at_once)
        return self.activation(logits[..., :-1]), expp1(logits[..., -1])

    def logits(
        self, levels: Sequence[Float[Array, "n t d"]], grid: tuple[int, int]
    ) -> Float[Array, "n h w e"]:
        """Outputs before their activation, the confidence last."""
        x = self.pyramid(levels, grid)
        x = resize(x, (grid[0] * self.patch_size, grid[1] * self.patch_size))
        x = add_position_embedding(x, grid, self.position)
        x = self.predict(nnx.relu(self.output_conv2(x)))
        sow(f"{self.name}.logits", x, nchw)
        return x


class FeaturePyramid(nnx.Module):
    """Four levels of tokens, fused from coarse to fine, at 8 cells a patch (half of 14, nearly)."""

    def __init__(
        self,
        name: str,
        dim: int,
        features: int,
        out: int,
        channels: Sequence[int],
        position: float,
        rngs: nnx.Rngs,
    ):
        self.name, self.position = name, position
        self.norm = layer_norm(dim, rngs=rngs)
        self.projects = nnx.List([linear(dim, c, rngs=rngs) for c in channels])
        self.resize_layers = nnx.List(
            [
                Upscale(channels[0], 4, rngs=rngs),
                Upscale(channels[1], 2, rngs=rngs),
                Identity(),
                conv3x3(channels[3], channels[3], stride=2, rngs=rngs),
            ]
        )
        self.reduce = nnx.List([conv3x3(c, features, use_bias=False, rngs=rngs) for c in channels])
        self.refinenets = nnx.List([FeatureFusion(features, i < 3, rngs) for i in range(4)])
        self.output_conv1 = conv3x3(features, out, rngs=rngs)

    def __call__(
        self, levels: Sequence[Float[Array, "n t d"]], grid: tuple[int, int]
    ) -> Float[Array, "n h w e"]:
        """Feature maps of 8 times `grid`, the patches' (rows, columns)."""
        rows, columns = grid
        maps = []
        for i, tokens in enumerate(levels):
            tokens = self.norm(tokens)
            sow(f"{self.name}.norm.#", tokens)
            x = self.projects[i](tokens).reshape(len(tokens), rows, columns, -1)
            sow(f"{self.name}.project.#", x, nchw)
            x = self.resize_layers[i](add_position_embedding(x, grid, self.position))
            sow(f"{self.name}.resize.#", x, nchw)
            maps.append(self.reduce[i](x))
            sow(f"{self.name}.layer{i + 1}_rn", maps[-1], nchw)
        x = None
        for i in (3, 2, 1, 0):
            size = maps[i - 1].shape[1:3] if i else (8 * rows, 8 * columns)
            x = self.refinenets[i](maps[i], x, size)
            sow(f"{self.name}.refinenet{i + 1}", x, nchw)
        x = self.output_conv1(x)
        sow(f"{self.name}.output_conv1", x, nchw)
        return x


class FeatureFusion(nnx.Module):
    """A level joined with the coarser ones (if any), resized to the next level's size."""

    def __init__(self, features: int, has_coarse: bool, rngs: nnx.Rngs):
        self.residual_unit1 = ResidualConvUnit(features, rngs) if has_coarse else None
        self.residual_unit2 = ResidualConvUnit(features, rngs)
        self.out_conv = linear(features, features, rngs=rngs)

    def __call__(
        self,
        level: Float[Array, "n h w d"],
        coarse: Float[Array, "n h w d"] | None,
        size: tuple[int, int],
    ) -> Float[Array, "n y x d"]:
        x = level
        if self.residual_unit1 is not None and coarse is not None:
            x = coarse + self.residual_unit1(level)
        # The reference resizes first.  A map of channels and a mean over pixels commute, and
        # before the resize it is four times cheaper.
        return resize(self.out_conv(self.residual_unit2(x)), size)


class ResidualConvUnit(nnx.Module):
    """Two convolutions around a skip that carries relu(x): the reference's ReLU is in place."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        self.conv1 = conv3x3(features, features, rngs=rngs)
        self.conv2 = conv3x3(features, features, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w d"]) -> Float[Array, "n h w d"]:
        x = nnx.relu(x)
        return x + self.conv2(nnx.relu(self.conv1(x)))


class Upscale(nnx.Module):
    """A transposed convolution whose stride is its kernel: one matrix product and a reshape."""

    def __init__(self, dim: int, factor: int, rngs: nnx.Rngs):
        normal = nnx.initializers.lecun_normal(0, -1)
        self.kernel = parameter(normal, (dim, factor, factor, dim), rngs)
        self.bias = parameter(nnx.initializers.zeros, (dim,), rngs)

    def __call__(self, x: Float[Array, "n h w d"]) -> Float[Array, "n y x d"]:
        n, h, w, d = x.shape
        x = jnp.einsum("nhwd,dije->nhiwje", x, self.kernel[...])
        factor = x.shape[2]
        return x.reshape(n, h * factor, w * factor, d) + self.bias


class Identity(nnx.Module):
    """The resize layer of the level that keeps its size."""

    def __call__(self, x: Float[Array, "n h w d"]) -> Float[Array, "n h w d"]:
        return x


def conv3x3(
    dim: int, out: int, *, stride: int = 1, use_bias: bool = True, rngs: nnx.Rngs
) -> nnx.Conv:
    kinds = {"use_bias": use_bias, "rngs": rngs, **initialisers(rngs)}
    return nnx.Conv(dim, out, (3, 3), stride, padding=1, **kinds)


def resize(x: Float[Array, "n h w d"], size: tuple[int, int]) -> Float[Array, "n y x d"]:
    """Bilinear resize with aligned corners, which `jax.image.resize` cannot do."""
    for axis, n_out in zip((1, 2), size, strict=True):
        n_in = x.shape[axis]
        if n_in == n_out:
            continue
        step = np.float32((n_in - 1) / (n_out - 1) if n_out > 1 else 0)
        at = step * np.arange(n_out, dtype=np.float32)  # float32 like the reference: its rounding
        low = np.minimum(at.astype(int), n_in - 1)
        high = np.minimum(low + 1, n_in - 1)
        part = np.expand_dims(at - low, tuple(range(1, x.ndim - axis)))
        x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
    return x


def inverse_log(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Signed expm1: near and far coordinates from one linear output."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def expp1(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """1 + exp(x): a confidence from 1 upwards."""
    return 1 + jnp.exp(x)


def nchw(x: Float[Array, "n h w d"]) -> Float[Array, "n d h w"]:
    """The reference's layout, for captured intermediates."""
    return x.transpose(0, 3, 1, 2)
