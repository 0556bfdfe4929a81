# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Transformer layers: norms, MLP, multi-head attention, blocks, and stacks of equal layers.

Layers take numbers, not a configuration.  `dtype` is the arithmetic of matrix products,
`param_dtype` the storage of their weights.  Norms, softmax, rotary angles, layer scales and the
residual stream are always float32: they are cheap, and the reference's low-precision mode keeps
them in float32 too.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from vggt_ros.model.attention import attend
from vggt_ros.model.rope import RotaryAngles, apply_rope

Layer = TypeVar("Layer", bound=nnx.Module)


class ShapesOnly(nnx.Rngs):
    """In place of random streams: parameters are shapes and dtypes, without values.

    Tracing initialisers for their shapes (`nnx.eval_shape`) takes a second for a whole network.
    """

    def __init__(self):
        pass

    def params(self) -> None:
        """No key: nothing is drawn."""


def parameter(
    initialise: nnx.Initializer, shape: tuple[int, ...], rngs: nnx.Rngs
) -> nnx.Param[Array]:
    """A parameter in float32."""
    initialise = _shape_of if isinstance(rngs, ShapesOnly) else initialise
    return nnx.Param(initialise(rngs.params(), shape, jnp.float32))


def initialisers(rngs: nnx.Rngs, weight: str = "kernel") -> dict[str, nnx.Initializer]:
    """Arguments of a layer of Flax: none, for its own initialisers, or those of shapes only."""
    if not isinstance(rngs, ShapesOnly):
        return {}
    return {f"{weight}_init": _shape_of, "bias_init": _shape_of}


def _shape_of(key: None, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def linear(
    inputs: int, outputs: int, *, dtype=None, param_dtype=jnp.float32, rngs: nnx.Rngs
) -> nnx.Linear:
    """A linear map with a bias."""
    kinds = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    return nnx.Linear(inputs, outputs, **kinds, **initialisers(rngs))


def layer_norm(
    dim: int, eps: float = 1e-5, *, affine: bool = True, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """LayerNorm in float32 with the two-pass variance, whatever the input's dtype."""
    return nnx.LayerNorm(
        dim,
        epsilon=eps,
        use_fast_variance=False,
        use_bias=affine,
        use_scale=affine,
        dtype=jnp.float32,
        rngs=rngs,
        **initialisers(rngs, "scale"),
    )


def stacked(make: Callable[[nnx.Rngs], Layer], depth: int, rngs: nnx.Rngs) -> Layer:
    """`depth` equal layers as one module: every weight gains a first axis, the layer."""
    if isinstance(rngs, ShapesOnly):
        return jax.tree.map(lambda w: jax.ShapeDtypeStruct((depth, *w.shape), w.dtype), make(rngs))
    return nnx.vmap(make)(rngs.split(depth))


class Mlp(nnx.Module):
    """Two linear maps around the exact (erf) GELU; the tanh form differs by 2e-4."""

    def __init__(self, dim: int, hidden: int, out: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        self.fc1 = linear(dim, hidden, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.fc2 = linear(hidden, out, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        return self.fc2(gelu(self.fc1(x)))


def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """GELU with the erf in float32: more exact, and faster, than in bfloat16."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection; cross-attention with a context."""

    def __init__(
        self, dim: int, heads: int, *, qk_norm: bool = False, dtype, param_dtype, rngs: nnx.Rngs
    ):
        self.heads = heads
        self.qkv = linear(dim, 3 * dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.q_norm = layer_norm(dim // heads, rngs=rngs) if qk_norm else None
        self.k_norm = layer_norm(dim // heads, rngs=rngs) if qk_norm else None
        self.proj = linear(dim, dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b q d"],
        context: Float[Array, "b k d"] | None = None,
        *,
        rope: RotaryAngles | None = None,
        context_rope: RotaryAngles | None = None,
        mask: Bool[Array, "#b 1 #q k"] | None = None,
        key_bias: Float[Array, "b k"] | None = None,
    ) -> Float[Array, "b q d"]:
        """Queries from `x`, keys and values from `context`, or from `x` where there is none.

        `key_bias` is the logarithm of each key's weight.
        """
        q, k, v = self.projections(x, context, rope, context_rope)
        out = attend(q.astype(v.dtype), k.astype(v.dtype), v, mask, key_bias)
        return self.proj(out.swapaxes(1, 2).reshape(x.shape))

    def projections(
        self,
        x: Float[Array, "b q d"],
        context: Float[Array, "b k d"] | None = None,
        rope: RotaryAngles | None = None,
        context_rope: RotaryAngles | None = None,
    ) -> tuple[Float[Array, "b n q e"], Float[Array, "b n k e"], Float[Array, "b n k e"]]:
        """Queries, keys and values of each head, normalised and rotated: ready for `attend`."""
        if context is None:
            q, k, v = self._split(self.qkv(x))
        else:
            (q,), (k, v) = self._split(self._part(x, 0, 1)), self._split(self._part(context, 1, 3))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, context_rope or rope)
        return q, k, v

    def _split(self, qkv: Float[Array, "b t e"]) -> Float[Array, "i b n t d"]:
        """One transpose for all parts; heads lead, for the matrix products."""
        b, t, _ = qkv.shape
        dim = self.proj.in_features // self.heads
        return qkv.reshape(b, t, -1, self.heads, dim).transpose(2, 0, 3, 1, 4)

    def _part(self, x: Array, start: int, stop: int) -> Array:
        """Thirds of the fused projection: 0 queries, 1 keys, 2 values."""
        cut = slice(start * self.proj.in_features, stop * self.proj.in_features)
        assert self.qkv.bias is not None
        dtype = self.qkv.dtype
        kernel, bias = self.qkv.kernel[:, cut].astype(dtype), self.qkv.bias[cut].astype(dtype)
        return x.astype(dtype) @ kernel + bias


class LayerScale(nnx.Module):
    """A learned gain for each channel, applied in float32."""

    def __init__(self, dim: int, initial: float, rngs: nnx.Rngs):
        self.gamma = parameter(nnx.initializers.constant(initial), (dim,), rngs)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return x * self.gamma


class Block(nnx.Module):
    """Pre-norm transformer block: x + scale * attention, then x + scale * mlp."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float,
        *,
        eps: float = 1e-5,
        scale: float | None = 0.01,
        qk_norm: bool = False,
        dtype,
        param_dtype,
        rngs: nnx.Rngs,
    ):
        kinds = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.norm1 = layer_norm(dim, eps, rngs=rngs)
        self.attn = Attention(dim, heads, qk_norm=qk_norm, **kinds)
        self.ls1 = None if scale is None else LayerScale(dim, scale, rngs)
        self.norm2 = layer_norm(dim, eps, rngs=rngs)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim, **kinds)
        self.ls2 = None if scale is None else LayerScale(dim, scale, rngs)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        rope: RotaryAngles | None = None,
        context: Float[Array, "b k d"] | None = None,
        context_rope: RotaryAngles | None = None,
        key_bias: Float[Array, "b k"] | None = None,
    ) -> Float[Array, "b t d"]:
        """`x` after the block.  With a `context` (`x` among it) the keys are its tokens.

        `key_bias` is the logarithm of each key's weight.
        """
        keys = None if context is None else self.norm1(context)
        y = self.attn(self.norm1(x), keys, rope=rope, context_rope=context_rope, key_bias=key_bias)
        return self.add(x, y)

    def add(self, x: Float[Array, "b t d"], y: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """`x` after the block, given what its attention made of it."""
        x = x + (y if self.ls1 is None else self.ls1(y))
        y = self.mlp(self.norm2(x))
        return x + (y if self.ls2 is None else self.ls2(y))
