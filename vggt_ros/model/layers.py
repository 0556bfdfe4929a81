# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention and what surrounds it.  Layers take numbers; only the assembly has seen a config.

`dtype` is the arithmetic of matrix products, `param_dtype` the storage of their weights.  Norms,
softmax, rotary angles, layer scales and the residual stream are float32 in every case: they are
cheap, and they are where the reference's own low-precision mode stays in float32 too.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

Layer = TypeVar("Layer", bound=nnx.Module)

QUERIES_AT_ONCE = 1400  # one frame at 518x392 in one go: smaller products keep few cores busy
LOGITS_AT_ONCE = {
    "cpu": 1 << 20
}  # numbers, 4 MB: they stay in the cache while exp passes over them
LOGITS_ELSEWHERE = 1 << 26  # numbers: an accelerator has memory enough and wants large kernels


# ---- attention --------------------------------------------------------------------------------


def attend(
    q: Float[Array, "b n q d"],
    k: Float[Array, "b n k d"],
    v: Float[Array, "b n k d"],
    mask: Bool[Array, "#b 1 #q k"] | None = None,
) -> Float[Array, "b n q d"]:
    """Softmax attention with leading heads, softmax in float32; True in `mask` lets a key be seen.

    Half precision without a mask goes to cuDNN's flash kernel wherever that runs.  Elsewhere heads
    and queries go a few at a time, as many as keep the logits in the cache: on a CPU that is two to
    three times faster than all of them at once, and the logits of a window never exist together.
    """
    if mask is None and flash_runs(q.dtype, q.shape[-1]):
        return _flash(q, k, v)
    b, heads, queries, _ = q.shape
    chunks = -(-queries // QUERIES_AT_ONCE)
    rows = -(-queries // chunks)
    most = LOGITS_AT_ONCE.get(jax.default_backend(), LOGITS_ELSEWHERE)
    at_once = _divisor(b * heads, most // (rows * k.shape[2]))
    if mask is not None or (chunks == 1 and at_once == b * heads):
        return _attend_whole(q, k, v, mask)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, chunks * rows - queries), (0, 0)))
    q = q.reshape(-1, at_once, chunks, rows, q.shape[-1]).swapaxes(1, 2)
    k, v = (x.reshape(-1, at_once, *x.shape[2:]) for x in (k, v))

    def group(qkv: tuple[Array, Array, Array]) -> Array:
        q, k, v = qkv
        return jax.lax.map(lambda q: _attend_whole(q[None], k[None], v[None], None)[0], q)

    out = jax.lax.map(group, (q, k, v)).swapaxes(1, 2)
    return out.reshape(b, heads, chunks * rows, -1)[:, :, :queries]


def _divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is no more than `most`, at least 1."""
    return next(d for d in range(max(1, min(n, most)), 0, -1) if n % d == 0)


def _attend_whole(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """exp(logits) @ v, divided afterwards: one pass less over the largest array."""
    logits = jnp.einsum("bnqd,bnkd->bnqk", q, k, preferred_element_type=jnp.float32)
    logits *= q.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.exp(logits - top)
    out = jnp.einsum(
        "bnqk,bnkd->bnqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (out / weights.sum(-1, keepdims=True)).astype(v.dtype)


def _cudnn(q: Array, k: Array, v: Array, **lengths: Int[Array, "b"]) -> Array:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # cuDNN wants tokens before heads
    out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **lengths)
    return out.swapaxes(1, 2)


_flash = jax.custom_vjp(_cudnn)


def _flash_forward(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
    """For a gradient lengths must be even: a token is added that is not looked at."""
    tokens = q.shape[2], k.shape[2]
    if tokens[0] % 2 == tokens[1] % 2 == 0:
        return jax.vjp(_cudnn, q, k, v)

    def even(q: Array, k: Array, v: Array) -> Array:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, 0))) for x in (q, k, v))
        seen = [jnp.full(len(q), length, jnp.int32) for length in tokens]
        out = _cudnn(q, k, v, query_seq_lengths=seen[0], key_value_seq_lengths=seen[1])
        return out[:, :, : tokens[0]]

    return jax.vjp(even, q, k, v)


_flash.defvjp(_flash_forward, lambda back, slope: back(slope))


@cache
def flash_runs(dtype: jnp.dtype, head_dim: int) -> bool:
    """Whether cuDNN's flash kernel really runs here: one tiny call, as a listed GPU may refuse."""
    if jax.default_backend() != "gpu" or dtype not in (jnp.bfloat16, jnp.float16):
        return False
    try:
        with jax.ensure_compile_time_eval():
            probe = jnp.ones((1, 1, 8, head_dim), dtype)
            return bool(jnp.isfinite(_flash(probe, probe, probe)).all())
    except Exception:  # whatever it is, the other path works everywhere
        return False


# ---- rotary angles ----------------------------------------------------------------------------


class Rotation(NamedTuple):
    """Cosines and sines for one frame's tokens; axis 1 is (row, column)."""

    cos: Float[Array, "t 2 f"]
    sin: Float[Array, "t 2 f"]


def positions(height: int, width: int, special: int) -> Int[np.ndarray, "t 2"]:
    """(row, column) of every token: `special` tokens at (0, 0), patches from (1, 1)."""
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1) + 1
    return np.concatenate([np.zeros((special, 2), int), grid.reshape(-1, 2)]).astype(np.int32)


def rotation(positions: Int[np.ndarray, "t 2"], head_dim: int, base: float) -> Rotation:
    """Half of a head turns with the row, half with the column, at head_dim / 4 rates each."""
    rates = 1 / np.float32(base) ** (
        np.arange(0, head_dim // 2, 2, dtype=np.float32) * 2 / head_dim
    )
    angles = positions[..., None].astype(np.float32) * rates
    return Rotation(jnp.asarray(np.cos(angles)), jnp.asarray(np.sin(angles)))


def rotate(x: Float[Array, "b n t d"], by: Rotation) -> Float[Array, "b n t d"]:
    """Turn queries or keys; with several frames in `x` each is turned alike."""
    pairs = x.reshape(*x.shape[:2], -1, len(by.cos), 2, 2, by.cos.shape[-1])
    a, b = pairs[..., 0, :], pairs[..., 1, :]
    turned = jnp.stack([a * by.cos - b * by.sin, b * by.cos + a * by.sin], axis=-2)
    return turned.reshape(x.shape)


# ---- modules ----------------------------------------------------------------------------------


def norm(dim: int, eps: float = 1e-5, *, affine: bool = True, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm in float32 with the two-pass variance, whatever it is given."""
    return nnx.LayerNorm(
        dim,
        epsilon=eps,
        use_fast_variance=False,
        use_bias=affine,
        use_scale=affine,
        dtype=jnp.float32,
        rngs=rngs,
    )


class OneKey(nnx.Rngs):
    """The same key at every call, for whoever wants shapes and no numbers: no state to trace."""

    def __init__(self):
        pass

    def params(self) -> Array:
        return jax.random.key(0)


def stack(make: Callable[[nnx.Rngs], Layer], depth: int, rngs: nnx.Rngs) -> Layer:
    """`depth` equal layers as one: every weight gains a first axis, the layer."""
    if isinstance(rngs, OneKey):
        return jax.tree.map(lambda w: jnp.broadcast_to(w, (depth, *w.shape)), make(rngs))
    return nnx.vmap(make)(rngs.split(depth))


class Mlp(nnx.Module):
    """Two linear maps around the exact (erf) GELU; the tanh form is off by 2e-4."""

    def __init__(self, dim: int, hidden: int, out: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(dim, hidden, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, out, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        return self.fc2(gelu(self.fc1(x)))


def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The erf in float32: more exact, and faster, than in bfloat16."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head attention with one fused projection; queries may come from elsewhere than keys."""

    def __init__(
        self, dim: int, heads: int, *, qk_norm: bool = False, dtype, param_dtype, rngs: nnx.Rngs
    ):
        self.heads = heads
        self.qkv = nnx.Linear(dim, 3 * dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.q_norm = norm(dim // heads, rngs=rngs) if qk_norm else None
        self.k_norm = norm(dim // heads, rngs=rngs) if qk_norm else None
        self.proj = nnx.Linear(dim, dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b q d"],
        context: Float[Array, "b k d"] | None = None,
        *,
        rotation: Rotation | None = None,
        context_rotation: Rotation | None = None,
        mask: Bool[Array, "#b 1 #q k"] | None = None,
    ) -> Float[Array, "b q d"]:
        q, k, v = self.projections(x, context, rotation, context_rotation)
        out = attend(q.astype(v.dtype), k.astype(v.dtype), v, mask)
        return self.proj(out.swapaxes(1, 2).reshape(x.shape))

    def projections(
        self,
        x: Float[Array, "b q d"],
        context: Float[Array, "b k d"] | None = None,
        rotation: Rotation | None = None,
        context_rotation: Rotation | None = None,
    ) -> tuple[Float[Array, "b n q e"], Float[Array, "b n k e"], Float[Array, "b n k e"]]:
        """Queries, keys and values of each head, as they meet."""
        if context is None:
            q, k, v = self._split(self.qkv(x))
        else:
            (q,), (k, v) = self._split(self._part(x, 0, 1)), self._split(self._part(context, 1, 3))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, context_rotation or rotation)
        return q, k, v

    def _split(self, qkv: Float[Array, "b t e"]) -> Float[Array, "i b n t d"]:
        """One transpose for all parts; heads lead, as the matrix products want them."""
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

    def __init__(self, dim: int, initial: float):
        self.gamma = nnx.Param(jnp.full(dim, initial))

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
        self.norm1 = norm(dim, eps, rngs=rngs)
        self.attn = Attention(dim, heads, qk_norm=qk_norm, **kinds)
        self.ls1 = None if scale is None else LayerScale(dim, scale)
        self.norm2 = norm(dim, eps, rngs=rngs)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim, **kinds)
        self.ls2 = None if scale is None else LayerScale(dim, scale)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        rotation: Rotation | None = None,
        context: Float[Array, "b k d"] | None = None,
        context_rotation: Rotation | None = None,
    ) -> Float[Array, "b t d"]:
        """With a `context` (`x` among it) keys are its tokens, and only `x` goes on."""
        seen = None if context is None else self.norm1(context)
        y = self.attn(self.norm1(x), seen, rotation=rotation, context_rotation=context_rotation)
        x = x + (y if self.ls1 is None else self.ls1(y))
        y = self.mlp(self.norm2(x))
        return x + (y if self.ls2 is None else self.ls2(y))
