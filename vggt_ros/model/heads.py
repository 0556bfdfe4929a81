# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tokens to geometry: one camera a frame, and dense maps by a pyramid of convolutions.

All of it is float32: the reference switches its own low precision off here.  Convolutions are
NHWC from end to end, the layout that both XLA's CPU and GPU kernels prefer.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from vggt_ros.model.layers import Block, Mlp, norm, stack
from vggt_ros.model.scan import climb, note, repeat

FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}


# ---- camera -----------------------------------------------------------------------------------


class CameraHead(nnx.Module):
    """Camera tokens to pose encodings (t 3, quaternion xyzw 4, vertical and horizontal view 2)."""

    def __init__(
        self, dim: int, depth: int, heads: int, mlp_ratio: float, iterations: int, rngs: nnx.Rngs
    ):
        self.iterations = iterations
        self.token_norm = norm(dim, rngs=rngs)
        self.empty_pose_tokens = nnx.Param(jnp.zeros((1, 1, 9)))
        self.embed_pose = nnx.Linear(9, dim, rngs=rngs)
        self.modulation = nnx.Linear(dim, 3 * dim, rngs=rngs)
        self.plain_norm = norm(dim, 1e-6, affine=False, rngs=rngs)
        self.trunk = stack(lambda r: Block(dim, heads, mlp_ratio, rngs=r, **FLOAT32), depth, rngs)
        self.trunk_norm = norm(dim, rngs=rngs)
        self.pose_branch = Mlp(dim, dim // 2, 9, rngs=rngs, **FLOAT32)

    def __call__(self, tokens: Float[Array, "b s d"]) -> Float[Array, "i b s 9"]:
        """One encoding an iteration, the last one best.

        What is fed back is the raw sum; the view angles are cut at 0 only on the way out.
        """
        tokens = self.token_norm(tokens)
        note("camera.pose_tokens", tokens)
        first = jnp.broadcast_to(self.empty_pose_tokens[...], (*tokens.shape[:2], 9))

        def iterate(carry):
            pose, raw = carry
            modulation = self.modulation(nnx.silu(self.embed_pose(pose)))
            note("camera.modulation.#", modulation)
            shift, scale, gate = jnp.split(modulation, 3, axis=-1)
            x = gate * (self.plain_norm(tokens) * (1 + scale) + shift) + tokens
            note("camera.trunk_in.#", x)
            x = climb(lambda x, block: block(x), x, self.trunk)
            note("camera.trunk_out.#", x)
            delta = self.pose_branch(self.trunk_norm(x))
            note("camera.delta.#", delta)
            raw = raw + delta
            encoding = activate_pose(raw)
            note("camera.pose_enc.#", encoding)
            return (jax.lax.stop_gradient(raw), raw), encoding

        return repeat(iterate, (first, jnp.zeros_like(first)), self.iterations)[1]


def activate_pose(raw: Float[Array, "*b 9"]) -> Float[Array, "*b 9"]:
    """Only the two angles of view are bounded, from below."""
    return jnp.concatenate([raw[..., :7], nnx.relu(raw[..., 7:])], axis=-1)


# ---- dense maps -------------------------------------------------------------------------------


class DenseHead(nnx.Module):
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
        self.pyramid = Pyramid(name, dim, features, features // 2, channels, position, rngs)
        self.refine = conv(features // 2, hidden, rngs=rngs)
        self.predict = nnx.Linear(hidden, outputs + 1, rngs=rngs)

    def __call__(
        self, levels: Sequence[Float[Array, "n t d"]], grid: tuple[int, int], at_once: int = 8
    ) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w"]]:
        """`grid` is the patches' (rows, columns).

        Frames are independent here, so they pass `at_once` at a time; this bounds memory only.
        """
        logits = in_turn(lambda levels: self.logits(levels, grid), tuple(levels), at_once)
        return self.activation(logits[..., :-1]), expp1(logits[..., -1])

    def logits(
        self, levels: Sequence[Float[Array, "n t d"]], grid: tuple[int, int]
    ) -> Float[Array, "n h w e"]:
        x = self.pyramid(levels, grid)
        x = resize(x, (grid[0] * self.patch_size, grid[1] * self.patch_size))
        x = add_position(x, grid, self.position)
        x = self.predict(nnx.relu(self.refine(x)))
        note(f"{self.name}.logits", x, nchw)
        return x


class Pyramid(nnx.Module):
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
        self.norm = norm(dim, rngs=rngs)
        self.project = nnx.List([nnx.Linear(dim, c, rngs=rngs) for c in channels])
        self.quadruple = Upscale(channels[0], 4, rngs=rngs)
        self.double = Upscale(channels[1], 2, rngs=rngs)
        self.halve = conv(channels[3], channels[3], stride=2, rngs=rngs)
        self.reduce = nnx.List([conv(c, features, use_bias=False, rngs=rngs) for c in channels])
        self.fuse = nnx.List([Fusion(features, skip=i < 3, rngs=rngs) for i in range(4)])
        self.out = conv(features, out, rngs=rngs)

    def __call__(
        self, levels: Sequence[Float[Array, "n t d"]], grid: tuple[int, int]
    ) -> Float[Array, "n h w e"]:
        rows, columns = grid
        scales = (self.quadruple, self.double, lambda x: x, self.halve)
        maps = []
        for i, (tokens, rescale) in enumerate(zip(levels, scales, strict=True)):
            tokens = self.norm(tokens)
            note(f"{self.name}.norm.#", tokens)
            x = self.project[i](tokens).reshape(len(tokens), rows, columns, -1)
            note(f"{self.name}.project.#", x, nchw)
            x = rescale(add_position(x, grid, self.position))
            note(f"{self.name}.resize.#", x, nchw)
            maps.append(self.reduce[i](x))
            note(f"{self.name}.layer{i + 1}_rn", maps[-1], nchw)
        x = None
        for i in (3, 2, 1, 0):
            size = maps[i - 1].shape[1:3] if i else (8 * rows, 8 * columns)
            x = self.fuse[i](maps[i], x, size)
            note(f"{self.name}.refinenet{i + 1}", x, nchw)
        x = self.out(x)
        note(f"{self.name}.output_conv1", x, nchw)
        return x


class Fusion(nnx.Module):
    """Join a level to the coarser ones below it and grow to the size of the next."""

    def __init__(self, features: int, skip: bool, rngs: nnx.Rngs):
        self.skip = ResidualConv(features, rngs) if skip else None
        self.unit = ResidualConv(features, rngs)
        self.out = nnx.Linear(features, features, rngs=rngs)

    def __call__(
        self,
        level: Float[Array, "n h w d"],
        coarse: Float[Array, "n h w d"] | None,
        size: tuple[int, int],
    ) -> Float[Array, "n y x d"]:
        x = level
        if self.skip is not None and coarse is not None:
            x = coarse + self.skip(level)
        # The reference resizes first.  A map of channels and a mean over pixels commute, and
        # before the resize it is four times cheaper.
        return resize(self.out(self.unit(x)), size)


class ResidualConv(nnx.Module):
    """Two convolutions around a skip that carries relu(x): the reference's ReLU is in place."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        self.conv1 = conv(features, features, rngs=rngs)
        self.conv2 = conv(features, features, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w d"]) -> Float[Array, "n h w d"]:
        x = nnx.relu(x)
        return x + self.conv2(nnx.relu(self.conv1(x)))


class Upscale(nnx.Module):
    """A transposed convolution whose stride is its kernel: one matrix product and a reshape."""

    def __init__(self, dim: int, factor: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(
            nnx.initializers.lecun_normal(0, -1)(rngs.params(), (dim, factor, factor, dim))
        )
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Float[Array, "n h w d"]) -> Float[Array, "n y x d"]:
        n, h, w, d = x.shape
        x = jnp.einsum("nhwd,dije->nhiwje", x, self.kernel[...])
        factor = x.shape[2]
        return x.reshape(n, h * factor, w * factor, d) + self.bias


def conv(dim: int, out: int, *, stride: int = 1, use_bias: bool = True, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(dim, out, (3, 3), stride, padding=1, use_bias=use_bias, rngs=rngs)


def in_turn(function: Callable, frames: tuple[Array, ...], at_once: int):
    """`function` of all frames, a few at a time, the remainder last."""
    n = len(frames[0])
    if n <= at_once:
        return function(frames)
    whole = n // at_once * at_once
    parts = jax.tree.map(lambda x: x[:whole].reshape(-1, at_once, *x.shape[1:]), frames)
    out = jax.lax.map(function, parts)
    out = out.reshape(whole, *out.shape[2:])
    if whole < n:
        out = jnp.concatenate([out, function(jax.tree.map(lambda x: x[whole:], frames))])
    return out


def resize(x: Float[Array, "n h w d"], size: tuple[int, int]) -> Float[Array, "n y x d"]:
    """Bilinear with aligned corners, which `jax.image.resize` cannot do."""
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


def add_position(x: Float[Array, "n h w d"], aspect: tuple[int, int], gain: float) -> Array:
    """Tell each cell where it is on a picture of this (height, width): sines of x, then of y.

    Two small tables, zero where the other one speaks, so that the sum is never built at full size.
    """
    if not gain:
        return x
    _, h, w, d = x.shape
    span_x, span_y = spans(aspect)
    columns, rows = sines(axis(span_x, w), d // 2), sines(axis(span_y, h), d // 2)
    columns = np.pad(gain * columns, ((0, 0), (0, d // 2)))
    rows = np.pad(gain * rows, ((0, 0), (d // 2, 0)))
    return x + columns + rows[:, None]


def spans(aspect: tuple[int, int]) -> tuple[float, float]:
    """Half extents (x, y) of a picture whose half diagonal is 1."""
    height, width = aspect
    diagonal = np.hypot(height, width)
    return width / diagonal, height / diagonal


def axis(span: float, n: int) -> Float[np.ndarray, "n"]:
    """Centres of `n` cells over [-span, span]."""
    return np.linspace(-span * (n - 1) / n, span * (n - 1) / n, n)


def sines(
    positions: Float[np.ndarray, "n"], dim: int, base: float = 100.0
) -> Float[np.ndarray, "n d"]:
    """[sin, cos] of positions at `dim / 2` falling rates; in float64, then rounded once."""
    angles = positions[:, None] / base ** (np.arange(dim // 2) / (dim / 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def inverse_log(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Signed expm1: coordinates near and far from one linear output."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def expp1(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    return 1 + jnp.exp(x)


def nchw(x: Float[Array, "n h w d"]) -> Float[Array, "n d h w"]:
    """The reference's layout, for recordings."""
    return x.transpose(0, 3, 1, 2)
